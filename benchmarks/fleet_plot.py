"""Draws what `benchmarks/fleet.py` measured: errors of GPS, of each image by itself, and of the tracks.

python benchmarks/fleet_plot.py --results benchmarks/results/fleet.json --out docs/fleet.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = {"gps": "GPS", "raw": "image alone", "smoothed": "track"}


def draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Median and 95th percentile side by side for each kind of image; the scale is logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

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


def main() -> None:
    """Read the results, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/fleet.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/fleet.png"))
    args = parser.parse_args()
    draw(json.loads(args.results.read_text(encoding="utf-8"))["rows"], args.out)


if __name__ == "__main__":
    main()
