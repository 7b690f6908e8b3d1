"""Promises of the project as a whole: names, layers, start-up, packaging."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("tiling", "clnet_model", "simulation", "spatial_index", "workers", "serving", "cli")
HEAVY = ("torch", "ray", "numba", "rasterio", "transformers", "qdrant_client", "qdrant_edge")
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
HELP_LIMIT_S = 3.0
"""On an idle machine it takes well under 1 s; the rest is room for a busy one."""


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("room", ROOMS)
def test_each_import_name_is_ours(room: str) -> None:
    spec = importlib.util.find_spec(room)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / room / "__init__.py"


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_typed_and_packaged(room: str, pyproject: dict[str, Any]) -> None:
    assert (ROOT / room / "py.typed").is_file()
    assert room in pyproject["tool"]["setuptools"]["packages"]


def test_every_package_folder_is_packaged(pyproject: dict[str, Any]) -> None:
    found = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert found == set(pyproject["tool"]["setuptools"]["packages"])


def test_the_import_name_proto_is_left_to_its_owner() -> None:
    assert not list((ROOT / "proto").rglob("__init__.py"))


def test_tests_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_dependency_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [line.strip() for line in block.group(1).splitlines() if line.strip()]
    silent = [line for line in lines if "#" not in line and not line.startswith('"grpcio-')]
    assert silent == []


def test_every_dependency_has_a_floor_and_a_pin(pyproject: dict[str, Any]) -> None:
    pins = (ROOT / "requirements.lock").read_text().lower()
    for requirement in pyproject["project"]["dependencies"]:
        name = re.split(r"[\[><=]", requirement)[0]
        assert ">=" in requirement, requirement
        assert re.search(rf"^{re.escape(name)}==", pins, re.MULTILINE), f"{name}: run `make lock`"


def test_help_answers_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from cli.main import main\n"
        "sys.argv = ['clnet', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)"
    )
    began_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    took_s = time.perf_counter() - began_s
    assert json.loads(done.stderr) == []
    assert "locate" in done.stdout
    assert took_s < HELP_LIMIT_S


def test_the_rooms_keep_their_layers() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_only_the_index_knows_qdrant() -> None:
    imports = re.compile(r"^\s*(?:from|import) qdrant_", re.MULTILINE)
    offenders = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        if room != "spatial_index"
        for path in (ROOT / room).rglob("*.py")
        if imports.search(path.read_text())
    ]
    assert offenders == []


def test_importing_a_room_starts_nothing() -> None:
    code = (
        "import threading, sys\n"
        "import tiling.grid, spatial_index.store, simulation.styles, clnet_model.preprocess, serving.fuse\n"
        "import torch; before = torch.get_num_threads()\n"
        "import clnet_model.model\n"
        "assert torch.get_num_threads() == before\n"
        "ray = sys.modules.get('ray'); assert ray is None or not ray.is_initialized()\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_licence_is_the_apache_licence(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_readme_names_every_command() -> None:
    registry = (ROOT / "cli" / "main.py").read_text()
    imports = re.findall(r"^from cli\.\w+ import (.+)$", registry, re.MULTILINE)
    commands = [name for line in imports for name in line.split(", ")]
    text = (ROOT / "README.md").read_text()
    assert len(commands) >= 8
    typed = [name.strip("_").replace("_", "-") for name in commands]  # import_ is a word of Python's
    assert [name for name in typed if f"clnet {name}" not in text] == []


def test_make_knows_the_intents_that_the_docs_name() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for page in PAGES
        for target in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE)
        for target in target
        if target
    }
    assert [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
