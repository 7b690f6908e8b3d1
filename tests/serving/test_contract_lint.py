"""The contract's own style check, on protos that break it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("grpc_tools")

GOOD = """
// A file.
syntax = "proto3";
package clnet.geoloc.v1;
// A service.
service MapService {
  // A call.
  rpc Draw(DrawRequest) returns (DrawResponse);
}
// Ask.
message DrawRequest {
  // Seconds.
  optional double timeout_s = 1;
  // One of two.
  oneof kind {
    // One.
    string one = 2;
    // Two.
    Colour two = 3;
  }
}
// Get.
message DrawResponse {}
// Which.
enum Colour {
  // None.
  COLOUR_UNSPECIFIED = 0;
  // Red.
  COLOUR_RED = 1;
}
"""


@pytest.fixture(scope="module")
def protoc() -> ModuleType:
    path = Path(__file__).parents[2] / "infra" / "protoc.py"
    spec = importlib.util.spec_from_file_location("infra_protoc", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # as when it runs as a script
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lint(protoc, tmp_path, monkeypatch):
    folder = tmp_path / "clnet/geoloc/v1"
    folder.mkdir(parents=True)
    monkeypatch.setattr(protoc, "PROTO", tmp_path)

    def run(text: str) -> list[str]:
        (folder / "map_service.proto").write_text(text)
        return list(protoc.lint(protoc.describe(tmp_path / "set.bin")))

    return run


def test_a_clean_contract_passes(lint):
    assert lint(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("// Seconds.\n", "", "DrawRequest.timeout_s has no comment"),
        ("// One of two.\n", "", "DrawRequest.kind has no comment"),
        ("// Red.\n", "", "COLOUR_RED has no comment"),
        ("// A call.\n", "", "MapService.Draw has no comment"),
        ("timeout_s", "timeoutS", "field DrawRequest.timeoutS is not lower_snake_case"),
        ("COLOUR_UNSPECIFIED", "COLOUR_NONE", "enum Colour does not start with COLOUR_UNSPECIFIED = 0"),
        ("COLOUR_RED", "RED", "enum value RED lacks the prefix COLOUR_"),
        ("MapService", "Map", "service Map is not PascalCase with the suffix Service"),
        ("package clnet.geoloc.v1", "package clnet.other", "package clnet.other does not match the folder"),
        ("(DrawResponse)", "(DrawRequest)", "rpc Draw does not take DrawRequest and give DrawResponse"),
    ],
)
def test_each_breach_is_reported(lint, old, new, problem):
    assert lint(GOOD.replace(old, new)) == [f"proto/clnet/geoloc/v1/map_service.proto: {problem}"]


def test_the_stubs_are_fresh(protoc, tmp_path):
    assert list(protoc.stale(protoc.generate(tmp_path))) == []


@pytest.fixture
def broken(protoc, tmp_path, monkeypatch):
    """What a change of the good contract breaks."""
    folder = tmp_path / "clnet/geoloc/v1"
    folder.mkdir(parents=True)
    monkeypatch.setattr(protoc, "PROTO", tmp_path)

    def described(text: str) -> list:
        (folder / "map_service.proto").write_text(text)
        return protoc.describe(tmp_path / "set.bin")

    def run(text: str) -> list[str]:
        return list(protoc.breaches(described(GOOD), described(text)))

    return run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("// One.\n", "// Another comment.\n"),
        ("// Get.\nmessage DrawResponse {}", "// Get.\nmessage DrawResponse {\n// New.\nstring new = 1;\n}"),
        ("COLOUR_RED = 1;", "COLOUR_RED = 1;\n// Blue.\nCOLOUR_BLUE = 2;"),
        ("  optional double timeout_s = 1;", '  reserved 1;\n  reserved "timeout_s";'),
    ],
)
def test_what_adds_or_reserves_breaks_nothing(broken, old, new):
    assert old in GOOD
    assert broken(GOOD.replace(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("optional double timeout_s = 1;", "", "field DrawRequest.timeout_s is gone"),
        ("double timeout_s", "float timeout_s", "field DrawRequest.timeout_s (1) changed"),
        ("optional double timeout_s", "double timeout_s", "field DrawRequest.timeout_s (1) changed"),
        ("timeout_s = 1", "wait_s = 1", "field DrawRequest.timeout_s (1) changed"),
        ("timeout_s = 1", "timeout_s = 9", "field DrawRequest.timeout_s is gone"),
        ("COLOUR_RED = 1", "COLOUR_PINK = 1", "enum value COLOUR_RED (1) is gone or changed"),
        ("rpc Draw(DrawRequest)", "rpc Draw(stream DrawRequest)", "rpc MapService.Draw changed"),
        ("rpc Draw(", "rpc Paint(", "rpc MapService.Draw is gone"),
    ],
)
def test_what_breaks_clients_is_reported(broken, old, new, problem):
    (found,) = broken(GOOD.replace(old, new))
    assert problem in found


def test_the_contract_breaks_nothing_that_was_released(protoc, tmp_path):
    assert list(protoc.breaches(protoc.released(), protoc.describe(tmp_path / "set.bin"))) == []
