"""Only the spatial index knows Qdrant, and only its adapters do."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ["tiling", "clnet_model", "simulation", "spatial_index", "workers", "serving", "cli"]
ADAPTERS = {"shard.py", "collection.py", "remote.py", "server.py"}


def test_only_the_adapters_import_a_qdrant_package():
    importers = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if any(name.split(".")[0] in {"qdrant_client", "qdrant_edge"} for name in _imports(path))
    }
    assert importers == {f"spatial_index/{name}" for name in ADAPTERS}


def _imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return plain + named
