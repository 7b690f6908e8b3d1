"""Filtered nearest-neighbour search: this project's stores beside what one would otherwise take.

    make bench-search                                       # 100,000 patches
    python benchmarks/search.py --points 1000000 --asks 20  # more than an hour

Patches of four cities, 256 numbers each, in two versions: vectors that have nothing to do with places, and
vectors that neighbours share. Queries ask for the 10 nearest inside circles, polygons, corridors and circles
with a time range that pass 0.01 to 10 % of the patches, and among all. The truth is a comparison of all that
pass. Each contender answers in a process of its own, alone on the machine, one query at a time.

Rows are kept in benchmarks/results/search.json by number of points, version and contender, so that a part
may be measured again (`--only`); docs/search.png is drawn from them. Needs `pip install --group bench`;
contenders on a Qdrant server are left out, and said to be, without its binary
(`tests/spatial_index/qdrant_server.py`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from reporting import cpu, write_results
from search_contenders import OURS, RIVALS, contender_of, memory_mb, needs_server
from search_world import SHAPES, SHARES, VERSIONS, ZOOMS, Ask, World, build_asks, build_world, unpacked

ROOT = Path(__file__).resolve().parents[1]
SAME_SCORE = 1e-5
Row = dict[str, Any]


def main() -> None:
    """Build the worlds, let each contender answer, write and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, choices=sorted(ZOOMS), default=min(ZOOMS))
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--asks", type=int, default=40, help="for each share and shape")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *RIVALS), default=(*OURS, *RIVALS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/search.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/search.png")
    args = parser.parse_args()
    sys.path.append(str(ROOT))  # servers come from the tests
    for version in args.versions:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "world"
            prepare(data, args.points, version, args.asks)
            for name in args.only:
                rows = contend(name, data)
                keep(args.out, args.points, version, name, rows)
    rows = json.loads(args.out.read_text(encoding="utf-8"))["rows"]
    draw(rows, args.plot)
    print_tables(rows)


def prepare(path: Path, points: int, version: str, asks: int) -> None:
    """A world and its queries, in a file that each contender's process reads."""
    started_s = time.perf_counter()
    world = build_world(points, version)
    found = list(build_asks(world, asks))
    with path.open("wb") as file:
        pickle.dump((world, found), file, protocol=5)
    print(f"{points} {version} patches and {len(found)} queries in {time.perf_counter() - started_s:.0f} s")


def contend(name: str, data: Path) -> list[Row]:
    """Build and answer, each in a new process, in a folder of their own beside the data."""
    from tests.spatial_index.qdrant_server import qdrant_binary, qdrant_servers

    if needs_server(name) and qdrant_binary() is None:
        print(f"{name}: left out, no Qdrant server")
        return []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=data.parent)))
        server = None
        if needs_server(name):
            server = stack.enter_context(qdrant_servers())()
            server.start()
        url, pid = (server.url, server.pid) if server else (None, None)
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1))
        built = pool.apply(build, (name, url, data, folder))
        disk = folder if server is None else server.folder / "storage"
        built["disk_mb"] = sum(file.stat().st_size for file in disk.rglob("*") if file.is_file()) // 2**20
        memory, rows = pool.apply(answer, (name, url, pid, data, folder))
    rows = [{"measured": "build", **built, **memory}, *rows]
    for row in rows:
        print(name, row, flush=True)
    return rows


def build(name: str, url: str | None, data: Path, folder: Path) -> Row:
    """In a process of its own: points in, ready for queries."""
    world, _ = load(data)
    took = contender_of(name, url).build(world, folder)
    return {"points_per_s": round(len(world) / took["ingest_s"]), "build_s": round(took["build_s"], 1)}


def answer(name: str, url: str | None, pid: int | None, data: Path, folder: Path) -> tuple[Row, list[Row]]:
    """In a process of its own: memory of whoever searches, and a row for each share and shape."""
    world, asks = load(data)
    before = memory_mb(None)
    contender = contender_of(name, url)
    contender.open(world, folder)
    for ask in asks[:: max(1, len(asks) // 20)]:
        contender.ask(ask)
    memory = memory_mb(pid)
    if pid is None:  # without the world, which all keep at hand to be judged by
        memory = {key: memory[key] - before[key] for key in memory}
    return memory, [cell(contender, world, chosen) for chosen in cells(asks)]


def load(data: Path) -> tuple[World, list[Ask]]:
    with data.open("rb") as file:
        found: tuple[World, list[Ask]] = pickle.load(file)
        return found


def cells(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    """Asks that belong together."""
    for share, shape in [(1.0, "none"), *((share, shape) for share in SHARES for shape in SHAPES)]:
        yield [ask for ask in asks if (ask.share, ask.shape) == (share, shape)]


def cell(contender: Any, world: World, asks: Sequence[Ask]) -> Row:
    """Times and recall of some asks."""
    times, recalls, plans = [], [], []
    for ask in asks:
        started_s = time.perf_counter()
        found, plan = contender.ask(ask)
        times.append((time.perf_counter() - started_s) * 1e3)
        recalls.append(recall(world, ask, found))
        plans.append(plan)
    return {
        "measured": "search",
        "shape": asks[0].shape,
        "share_percent": 100 * asks[0].share,
        "p50_ms": round(float(np.quantile(times, 0.5)), 2),
        "p95_ms": round(float(np.quantile(times, 0.95)), 2),
        "recall_at_10": round(float(np.mean(recalls)), 4),
        "plan": max(set(plans), key=plans.count),
    }


def recall(world: World, ask: Ask, found: Sequence[int]) -> float:
    """Share of the true nearest that was found; equal scores may change places."""
    if not ask.hits:
        return float(not found)
    passes = unpacked(world, ask.passes)
    right = [passes[row] and world.vectors[row] @ ask.vector >= ask.tenth_score - SAME_SCORE for row in found]
    return min(sum(right), ask.hits) / ask.hits


def keep(out: Path, points: int, version: str, name: str, rows: Sequence[Row]) -> None:
    """Put rows in place of those of the same points, version and contender."""
    if not rows:
        return
    kept = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    key = {"points": points, "version": version, "contender": name}
    kept = [row for row in kept if any(row[field] != value for field, value in key.items())]
    write_results(out, [*kept, *({**key, **row, "machine": cpu()} for row in rows)])


def summary(rows: Sequence[Row], points: int) -> Iterator[Row]:
    """By contender and share: the median over shapes and versions of p50, the least recall."""
    chosen = [row for row in rows if row["points"] == points and row["measured"] == "search"]
    for name in (*OURS, *RIVALS):
        for share in sorted({row["share_percent"] for row in chosen}):
            same = [row for row in chosen if (row["contender"], row["share_percent"]) == (name, share)]
            if same:
                yield {
                    "contender": name,
                    "share_percent": share,
                    "p50_ms": float(np.median([row["p50_ms"] for row in same])),
                    "recall_at_10": min(row["recall_at_10"] for row in same),
                }


def draw(rows: Sequence[Row], out: Path) -> None:
    """Recall and time over the share of patches that pass, one column for each number of points."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted({row["points"] for row in rows})
    figure, axes = plt.subplots(
        2, len(sizes), figsize=(5.2 * len(sizes) + 2.2, 6.4), layout="constrained", squeeze=False, sharex=True
    )
    for column, points in enumerate(sizes):
        found = list(summary(rows, points))
        for number, name in enumerate((*OURS, *RIVALS)):
            line = [row for row in found if row["contender"] == name]
            style = "o-" if name in OURS else "s--"
            for axis, field in zip(axes[:, column], ("recall_at_10", "p50_ms"), strict=True):
                axis.plot([row["share_percent"] for row in line], [row[field] for row in line], style,
                          label=name, color=f"C{number}", alpha=0.85, markersize=4)  # fmt: skip
        axes[0, column].set(title=f"{points:,} patches", ylabel="least recall@10", ylim=(0, 1.04))
        axes[0, column].axhline(0.99, color="grey", linewidth=0.8)
        axes[1, column].set(
            xscale="log", yscale="log", xlabel="patches that pass, %", ylabel="median p50, ms"
        )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def print_tables(rows: Sequence[Row]) -> None:
    """As Markdown, for docs/search.md: time / least recall by contender and share, and what building took."""
    from cli.tables import markdown_table

    for points in sorted({row["points"] for row in rows}):
        found = {(row["contender"], row["share_percent"]): row for row in summary(rows, points)}
        shares = sorted({share for _, share in found})
        lines = []
        for name in (*OURS, *RIVALS):
            cells = [found.get((name, share)) for share in shares]
            if any(cells):
                built = [
                    row
                    for row in rows
                    if (row["points"], row["contender"], row["measured"]) == (points, name, "build")
                ]
                lines.append([
                    name,
                    *(f"{one['p50_ms']:.1f} ms, {one['recall_at_10']:.2f}" if one else "–" for one in cells),
                    *(f"{np.median([row[field] for row in built]):,.0f}"
                      for field in ("points_per_s", "build_s", "disk_mb", "rss_mb", "own_mb")),
                ])  # fmt: skip
        header = [f"{points:,}", *(f"{share:g} %" for share in shares), "points/s", "build s", "disk MB",
                  "RSS MB", "own MB"]  # fmt: skip
        print(markdown_table(header, lines))


if __name__ == "__main__":
    main()
