"""The container files, as far as they can be checked without a container engine."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.options import Settings
from cli.serve import serve
from serving.options import DEFAULT_PORT

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "Dockerfile"
COMPOSE = ROOT / "infra" / "compose.yaml"
OLDEST_QDRANT = (1, 16)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    compose: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(COMPOSE.read_text())
    return compose["services"]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def values(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [value for instruction, value in instructions if instruction == name]


def test_compose_has_the_three_parts(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"qdrant", "service", "ray-worker"}


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        tag = service["image"].partition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), service["image"]


def test_qdrant_is_the_official_image_and_new_enough(services: dict[str, dict[str, Any]]) -> None:
    name, _, tag = services["qdrant"]["image"].partition(":")
    assert name == "qdrant/qdrant"
    assert tuple(int(part) for part in tag.removeprefix("v").split(".")[:2]) >= OLDEST_QDRANT


def test_only_loopback_is_published(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_telemetry_is_off(services: dict[str, dict[str, Any]]) -> None:
    assert services["qdrant"]["environment"]["QDRANT__TELEMETRY_DISABLED"] == "true"
    for name in ("service", "ray-worker"):
        assert services[name]["environment"]["RAY_USAGE_STATS_ENABLED"] == "0"


def test_every_setting_in_compose_exists(services: dict[str, dict[str, Any]]) -> None:
    known = {f"CLNET_{name.upper()}" for name in Settings.model_fields}
    for name in ("service", "ray-worker"):
        used = {key for key in services[name]["environment"] if key.startswith("CLNET_")}
        assert used == known


def test_variables_of_compose_are_in_the_example() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    offered = set(re.findall(r"^(\w+)=", (ROOT / "infra" / ".env.example").read_text(), re.MULTILINE))
    assert wanted == offered


def test_dependencies_have_healthchecks(
    services: dict[str, dict[str, Any]], instructions: list[tuple[str, str]]
) -> None:
    awaited = {name for service in services.values() for name in service.get("depends_on", {})}
    assert awaited == {"qdrant", "service"}
    assert "healthcheck" in services["qdrant"]
    assert values(instructions, "HEALTHCHECK"), "the service inherits the image's check"


def test_data_of_qdrant_outlives_its_container(services: dict[str, dict[str, Any]]) -> None:
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    mounted = [mount.partition(":")[0] for mount in services["qdrant"]["volumes"]]
    assert mounted
    assert set(mounted) <= set(volumes)


def test_copied_files_exist(instructions: list[tuple[str, str]]) -> None:
    sources = [
        source
        for value in values(instructions, "COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_every_room_is_copied(instructions: list[tuple[str, str]]) -> None:
    copied = {value.split()[0] for value in values(instructions, "COPY")}
    assert {"tiling", "clnet_model", "simulation", "spatial_index", "workers", "serving", "cli"} <= copied


def test_the_image_runs_as_an_ordinary_user(instructions: list[tuple[str, str]]) -> None:
    assert values(instructions, "USER") == ["clnet"]


def test_base_images_name_their_python(instructions: list[tuple[str, str]]) -> None:
    assert all("python:${PYTHON_VERSION}-slim" in value for value in values(instructions, "FROM"))
    assert values(instructions, "ARG")[0] == "PYTHON_VERSION=3.11"


def test_everything_speaks_of_one_port(
    services: dict[str, dict[str, Any]], instructions: list[tuple[str, str]]
) -> None:
    port = str(DEFAULT_PORT)
    assert values(instructions, "EXPOSE") == [port]
    assert f'"--port", "{port}"' in values(instructions, "CMD")[-1]
    assert f"127.0.0.1:{port}" in values(instructions, "HEALTHCHECK")[0]
    assert services["service"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"--port {port}" in services["service"]["command"][0]


def test_the_commands_that_containers_run_exist(
    services: dict[str, dict[str, Any]], instructions: list[tuple[str, str]]
) -> None:
    used = values(instructions, "CMD")[-1] + services["service"]["command"][0].partition("clnet serve")[2]
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    assert set(re.findall(r"--[a-z-]+", used)) <= known


def test_healthcheck_says_no_when_nothing_listens() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "infra" / "healthcheck.py"), "127.0.0.1:1"], check=False, timeout=60
    )
    assert done.returncode == 1


def test_install_refuses_an_unknown_torch_build(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "infra/install.sh", str(tmp_path / "venv"), "rocm"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "'rocm' is neither cpu nor cuda" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_build_steps_give_a_working_command(
    tmp_path: Path, instructions: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the build stage's own RUN lines, with the paths of this machine."""
    monkeypatch.setenv("PIP_RETRIES", "0")
    venv = tmp_path / "venv"
    context = _build_context(tmp_path / "src", instructions)
    steps = [value for value in values(instructions, "RUN") if "/opt/venv" in value]
    assert len(steps) == 2
    for step in steps:
        command = step.replace("/opt/venv", str(venv)).replace("${TORCH}", "cpu")
        subprocess.run(["sh", "-ec", command], cwd=context, check=True)
    done = subprocess.run(
        [str(venv / "bin" / "clnet"), "--help"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "ingest" in done.stdout
    imports = "import serving.pb.localization_service_pb2, cli.demo_run, cli.report as r; r.render"
    subprocess.run([str(venv / "bin" / "python"), "-c", imports], cwd=tmp_path, check=True)


def _build_context(target: Path, instructions: list[tuple[str, str]]) -> Path:
    """Copy what the Dockerfile copies and nothing else."""
    for value in values(instructions, "COPY"):
        if value.startswith("--from") or "healthcheck" in value:
            continue
        *sources, destination = value.split()
        for source in sources:
            place = target / destination / (source if destination == "./" else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", str(ROOT / source), str(place)], check=True)
    return target
