"""Draws what the benchmarks measured, from their files of results.

python benchmarks/plots.py serve         benchmarks/results/serve.json -> docs/serve.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"gps": "GPS", "raw": "image alone", "smoothed": "track"}
SERVERS = {"haproxy": "HAProxy", "proxy": "Serve's proxy", "grpc.aio": "plain grpc.aio"}

Row = Mapping[str, Any]


def pyplot() -> Any:
    """matplotlib's, without a screen."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def draw_ingest(rows: Sequence[Row], out: Path) -> None:
    """Readers side by side, and memory and time over the size of the region."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    readers = [row for row in rows if "reader" in row]
    names = list(dict.fromkeys(row["reader"] for row in readers))
    for offset, zoom in enumerate(dict.fromkeys(row["zoom"] for row in readers)):
        rates = [row["patches_per_s"] for row in readers if row["zoom"] == zoom]
        bars = left.barh(np.arange(len(names)) + 0.4 * offset, rates, 0.38, label=f"zoom {zoom}")
        left.bar_label(bars, fmt="{:,.0f}", padding=3)
    left.set(yticks=np.arange(len(names)) + 0.2, yticklabels=names, xscale="log")
    left.set_title("read and cut, patches a second of one core")
    left.set_xlim(right=left.get_xlim()[1] * 3)
    left.legend()
    jobs = [row for row in rows if row["stage"] == "whole job"]
    sizes = [row["planned"] for row in jobs]
    for who, colour in (("driver", "C0"), ("largest_worker", "C1")):
        for kind, style in (("rss", "o-"), ("own", "o:")):
            what = "resident" if kind == "rss" else "without pages of files"
            label = f"{who.replace('_', ' ')}, {what}"
            right.plot(sizes, [row[f"{who}_{kind}_mb"] for row in jobs], style, color=colour, label=label)
    right.set(xscale="log", xlabel="patches planned", ylabel="peak memory, MB", ylim=(0, None))
    right.set_title("memory as the region grows ×1, ×4, ×16")
    right.legend()
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_fleet(rows: Sequence[Row], out: Path) -> None:
    """Median and 95th percentile side by side for each kind of image; the scale is logarithmic."""
    plt = pyplot()
    kinds = [row for row in rows if row["measured"] == "positions"]
    figure, axes = plt.subplots(1, len(kinds), figsize=(9, 3), layout="constrained", sharex=True)
    for axis, row in zip(axes, kinds, strict=True):
        places = np.arange(len(SOURCES))
        for offset, (field, label) in enumerate((("median_m", "median"), ("p95_m", "95th percentile"))):
            bars = axis.barh(
                places + 0.4 * offset, [row[f"{name}_{field}"] for name in SOURCES], 0.38, label=label
            )
            axis.bar_label(bars, fmt="{:.1f} m", padding=3)
        axis.set(yticks=places + 0.2, yticklabels=SOURCES.values(), xscale="log", xlim=(1, 1_000))
        axis.invert_yaxis()
        axis.set_title(f"{row['images']:,} {row['kind']}s: distance from the true position")
    axes[0].legend(loc="lower right")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_serve(rows: Sequence[Row], out: Path) -> None:
    """Latency and throughput over the number of clients, with the shipped encoder and with one that costs
    nothing."""
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex=True)
    bare = max(row["answers_per_s"] for row in rows if row["server"] == "bare encoder")
    for column, encoder in enumerate(("real", "stub")):
        latency, throughput = axes[:, column]
        for number, (server, label) in enumerate(SERVERS.items()):
            line = [
                row
                for row in rows
                if (row["server"], row["encoder"], row["loop"]) == (server, encoder, "closed")
            ]
            clients = [row["clients"] for row in line]
            for field, style in (("p50_ms", "o-"), ("p99_ms", "o:")):
                times = [row[field] for row in line]
                latency.plot(clients, times, style, color=f"C{number}", label=f"{label}, {field[:3]}")
            throughput.plot(clients, [row["answers_per_s"] for row in line], "o-", color=f"C{number}")
        latency.set(xscale="log", yscale="log", title=f"{encoder} encoder", ylabel="latency, ms")
        throughput.set(xscale="log", xlabel="clients", ylabel="answers a second", ylim=(0, None))
        throughput.set_xticks(clients, [str(count) for count in clients], minor=False)
    axes[1, 0].set_title(f"the bare encoder, in batches: {bare:,.0f} a second", fontsize="medium")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(out, dpi=110)
    plt.close(figure)


PLOTS: dict[str, Callable[[Sequence[Row], Path], None]] = {
    "fleet": draw_fleet,
    "ingest": draw_ingest,
    "serve": draw_serve,
}


def main() -> None:
    """Read the results, write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=PLOTS)
    for name in parser.parse_args().names:
        results = ROOT / "benchmarks/results" / f"{name}.json"
        PLOTS[name](json.loads(results.read_text(encoding="utf-8"))["rows"], ROOT / "docs" / f"{name}.png")


if __name__ == "__main__":
    main()
