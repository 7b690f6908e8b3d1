"""The benchmark half of `clnet evaluate`: embeds a split, ranks it, writes down the figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.tables import markdown_table, print_table
from clnet_model.benchmark_vectors import PHOTO_HFOV_DEG, embed_gallery, embed_queries
from clnet_model.benchmarks.base import QueryKind, Split
from clnet_model.checkpoint import git_commit
from clnet_model.encoder import Encoder
from clnet_model.errors import BadConfig
from clnet_model.intervals import Estimate
from clnet_model.retrieval import retrieve
from clnet_model.truth import Truth

LABELS = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "recall_at_1_percent": "R@1%",
    "average_precision": "AP",
    "hit_rate": "hit rate",
    "top1_covers": "first covers the query",
    "recall_25m": "≤ 25 m",
    "recall_50m": "≤ 50 m",
    "recall_100m": "≤ 100 m",
}
HEADER = ("figure", "%", "95 % interval")

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport:
    """What a reader needs to judge the figures or to get them again; shares are 0 to 1."""

    benchmark: str
    command: str
    commit: str | None
    model_digest: str
    queries: int
    gallery: int
    assumed: tuple[str, ...]
    metrics: Mapping[str, Estimate]
    through_index: Mapping[str, Estimate] | None

    def rows(self) -> list[tuple[str, str, str]]:
        """One row per figure, as HEADER says, in per cent."""
        exact = [_row(LABELS[name], each) for name, each in self.metrics.items()]
        indexed = self.through_index or {}
        return exact + [_row(f"{LABELS[name]} through the index", each) for name, each in indexed.items()]


def measure(
    encoder: Encoder,
    split: Split,
    *,
    command: str,
    hfov_deg: float | None = None,
    through_index: bool = False,
    progress: Progress,
) -> BenchmarkReport:
    """Embed both sides of a split and rank exactly; `through_index` adds what the store finds.

    Raises:
        BadPairs: images that cannot be read.
        BadConfig: `through_index` where the split has no gallery positions.
    """
    if through_index and split.gallery_lnglat is None:
        raise BadConfig(f"--through-index needs gallery positions, which {split.name} lacks; leave it out")
    gallery = embed_gallery(encoder, split, progress=progress)
    queries = embed_queries(encoder, split, hfov_deg=hfov_deg or PHOTO_HFOV_DEG, progress=progress)
    truth = Truth(
        positives=split.positives,
        semi_positives=split.semi_positives,
        query_lnglat=split.query_lnglat,
        gallery_lnglat=split.gallery_lnglat,
    )
    exact = retrieve(queries, gallery, truth, progress=progress)
    indexed = None
    if through_index:
        from cli.benchmark_index import recall_through_index

        indexed = recall_through_index(queries, gallery, truth, digest=encoder.digest, progress=progress)
    return BenchmarkReport(
        benchmark=split.name,
        command=command,
        commit=git_commit(),
        model_digest=encoder.digest,
        queries=len(split.queries),
        gallery=exact.gallery,
        assumed=assumed(split, hfov_deg=hfov_deg),
        metrics=exact.metrics(),
        through_index=indexed,
    )


def assumed(split: Split, *, hfov_deg: float | None) -> tuple[str, ...]:
    """What the split does not say about its queries and the encoder was told nevertheless."""
    if split.query_kind is QueryKind.AERIAL:
        return ("queries from above go through the aerial branch as they are, oblique views included",)
    found = []
    if split.centre_heading_deg is None and split.query_heading_deg is None:
        found.append("heading unknown: the centre of every query is taken to look north")
    if split.query_kind is QueryKind.PERSPECTIVE and hfov_deg is None:
        found.append(f"field of view unknown: taken to be {PHOTO_HFOV_DEG:g} degrees")
    return tuple(found)


def show(report: BenchmarkReport) -> None:
    """Print the figures."""
    print(f"{report.benchmark}: {report.queries:,} queries in {report.gallery:,} gallery images")
    for note in report.assumed:
        print(f"assumed: {note}")
    print_table(HEADER, report.rows())


def write_json(report: BenchmarkReport, path: Path) -> None:
    """Write everything; shares are 0 to 1."""
    path.write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_markdown(report: BenchmarkReport, path: Path) -> None:
    """Write the table and, below it, what is needed to get it again."""
    facts = (
        f"- {report.queries:,} queries, {report.gallery:,} gallery images; ties count against the model\n"
        f"- model `{report.model_digest}`, commit `{report.commit or 'unknown'}`\n"
        f"- `{report.command}`\n"
    )
    notes = "".join(f"- assumed: {note}\n" for note in report.assumed)
    table = markdown_table(HEADER, report.rows())
    path.write_text(f"# {report.benchmark}\n\n{table}\n{facts}{notes}", encoding="utf-8")


def _row(label: str, estimate: Estimate) -> tuple[str, str, str]:
    return label, f"{100 * estimate.value:.2f}", f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f}"
