"""The ablation as tables and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation_variants import BASELINE, VARIANTS

from cli.tables import markdown_table
from clnet_model.intervals import seed_interval

Row = dict[str, Any]


def print_tables(rows: Sequence[Row]) -> None:
    """As Markdown, for docs/training.md: recalls in per cent with 95 % intervals over seeds, and costs."""
    for data in dict.fromkeys(run["data"] for run in runs_of(rows)):
        runs = runs_of(rows, data=data)
        asked = list(runs[0]["recall_at_1"])
        header = [data, *(f"R@1, {name}" for name in asked)]
        header += [f"against {baseline_of(runs)}, {name}" for name in asked[:2]]
        print(markdown_table(header, [recalls(runs, name, asked) for name in variants_of(runs)]))
    header = ["variant", "parameters", "MFLOP street, patch", "ms street, patch"]
    print(markdown_table(header, [costs_of(row) for row in rows if row["what"] == "cost"]))


def runs_of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    return [
        row
        for row in rows
        if row["what"] == "run" and all(row[key] == value for key, value in wanted.items())
    ]


def variants_of(runs: Sequence[Row]) -> list[str]:
    return [name for name in VARIANTS if any(run["variant"] == name for run in runs)]


def recalls(runs: Sequence[Row], variant: str, asked: Sequence[str]) -> list[str]:
    """Differences are paired by seed: both saw the same batches."""
    baseline = baseline_of(runs)
    own, base = (
        {run["seed"]: run["recall_at_1"] for run in runs if run["variant"] == name}
        for name in (variant, baseline)
    )
    cells = [variant, *(spread([recall[name] for recall in own.values()]) for name in asked)]
    for name in asked[:2]:
        gains = [own[seed][name] - base[seed][name] for seed in own.keys() & base.keys()]
        cells.append("" if variant == baseline else spread(gains, sign="+"))
    return cells


def baseline_of(runs: Sequence[Row]) -> str:
    return next(name for name in (BASELINE, "pooled") if name in variants_of(runs))


def costs_of(row: Row) -> list[str]:
    return [
        row["variant"],
        f"{row['parameters']:,}",
        f"{row['ground_mflop']:.0f}, {row['aerial_mflop']:.0f}",
        f"{row['ground_ms']:.3g}, {row['aerial_ms']:.3g}",
    ]


def spread(shares: Sequence[float], *, sign: str = "") -> str:
    """Mean ± half of the 95 % interval over seeds, in per cent."""
    mean, half = interval([100 * share for share in shares])
    return f"{mean:{sign}.1f}" + (f" ± {half:.1f}" if half is not None else "")


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    if len(values) < 2:
        return (values[0] if values else float("nan")), None
    found = seed_interval(values)
    return found.value, found.high - found.value


def draw(rows: Sequence[Row], out: Path) -> None:
    """R@1 of every variant under every condition: seeds as dots, their mean and interval."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(run["data"] for run in runs_of(rows)))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(5.5 * len(kinds), 4), layout="constrained", squeeze=False
    )
    legend: tuple[list[Any], list[str]] = ([], [])
    for axis, data in zip(axes[0], kinds, strict=True):
        runs = runs_of(rows, data=data)
        shown = variants_of(runs)
        for number, name in enumerate(runs[0]["recall_at_1"]):
            for place, variant in enumerate(shown):
                shares = [100 * run["recall_at_1"][name] for run in runs_of(runs, variant=variant)]
                mean, half = interval(shares)
                height = place + 0.25 * (number - 1)
                axis.plot(shares, [height] * len(shares), ".", color=f"C{number}", alpha=0.5)
                axis.errorbar(
                    mean,
                    height,
                    xerr=half,
                    fmt="o",
                    capsize=3,
                    color=f"C{number}",
                    label=None if place else name,
                )
        axis.set(yticks=range(len(shown)), yticklabels=shown, xlabel="R@1, %", title=f"{data} data")
        axis.set_xlim(0, None)
        axis.invert_yaxis()
        handles = axis.get_legend_handles_labels()
        legend = handles if len(handles[0]) > len(legend[0]) else legend
    figure.legend(*legend, loc="outside lower center", ncols=len(legend[0]))
    figure.savefig(out, dpi=110)
