"""`clnet evaluate --benchmark`: from the published folder to figures, and what it refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.benchmark_index import LIMIT, rank_among, recall_through_index
from cli.evaluate_benchmark import measure
from cli.main import main
from clnet_model.benchmarks import QueryKind, Split
from clnet_model.benchmarks.base import own_pairs
from clnet_model.encoder import load_encoder
from clnet_model.errors import BadConfig
from clnet_model.retrieval import retrieve
from clnet_model.truth import Truth, Vectors
from spatial_index.records import PatchHit, point_id
from tiling.grid import LngLat

PAIRS = 6


def noise(path: Path, width_px: int, height_px: int, *, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def hits_of(*found: tuple[int, float]) -> list[PatchHit]:
    """Hits with their gallery rows and scores."""
    return [
        PatchHit(
            id=point_id("benchmark", "benchmark", str(row), 1.0),
            location=LngLat(lng=8.0, lat=46.0),
            quadkey=np.base_repr(row, 4).zfill(20),
            region="benchmark",
            generation="benchmark",
            side_m=1.0,
            captured_at=None,
            source="test",
            score=score,
        )
        for row, score in found
    ]


def unit(count: int, dim: int, *, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.fixture(scope="module")
def cvusa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CVUSA as published, with six pairs of noise."""
    root = tmp_path_factory.mktemp("cvusa")
    lines = []
    for number in range(PAIRS):
        aerial, street = f"bingmap/19/{number:07d}.jpg", f"streetview/panos/{number:07d}.jpg"
        noise(root / aerial, 75, 75, seed=number)
        noise(root / street, 123, 22, seed=100 + number)
        lines.append(f"{aerial},{street},annotations/{number:07d}.png")
    (root / "splits").mkdir()
    (root / "splits" / "val-19zl.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def located(tmp_path: Path) -> Split:
    """Three photos whose positions and those of the gallery are known."""
    queries = tuple(noise(tmp_path / f"q{number}.png", 64, 48, seed=number) for number in range(3))
    gallery = tuple(noise(tmp_path / f"g{number}.png", 80, 80, seed=50 + number) for number in range(3))
    lnglat = np.array([[8.0, 46.0], [8.001, 46.0], [8.002, 46.0]])
    return Split(
        name="three photos",
        queries=queries,
        gallery=gallery,
        positives=own_pairs(3),
        semi_positives=tuple(np.array([(number + 1) % 3]) for number in range(3)),
        query_kind=QueryKind.PERSPECTIVE,
        centre_heading_deg=None,
        query_lnglat=lnglat,
        gallery_lnglat=lnglat,
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["clnet", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, 1)


def test_published_folder_to_json_and_markdown(
    cvusa: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = tmp_path / "cvusa.json", tmp_path / "cvusa.md"
    arguments = ("--benchmark", "cvusa", "--root", cvusa, "--part", "val", "--checkpoint", checkpoint)
    run(monkeypatch, *arguments, "--json", out, "--markdown", table)
    found = json.loads(out.read_text())
    assert (found["queries"], found["gallery"], found["assumed"]) == (PAIRS, PAIRS, [])
    assert found["model_digest"] == load_encoder(checkpoint).digest
    assert found["command"].startswith("clnet evaluate --benchmark cvusa")
    figure = found["metrics"]["recall_at_10"]
    assert figure["low"] < figure["value"] == figure["high"] == 1
    text = table.read_text()
    assert "| R@10 | 100.00 | " in text
    assert found["model_digest"] in text


def test_through_the_index_beside_exact(located: Split, checkpoint: Path) -> None:
    report = measure(
        load_encoder(checkpoint), located, command="", through_index=True, progress=lambda *_: None
    )
    assert report.through_index is not None
    for name, estimate in report.through_index.items():
        assert estimate == report.metrics[name]
    assert {"hit_rate", "top1_covers", "recall_25m"} <= report.metrics.keys()
    assert [note.split(":")[0] for note in report.assumed] == ["heading unknown", "field of view unknown"]
    assert "R@1 through the index" in [label for label, *_ in report.rows()]


def test_index_finds_what_exact_search_finds() -> None:
    queries, gallery = unit(50, 16, seed=1), unit(200, 16, seed=2)
    truth = Truth(
        positives=[np.array([number, number + 60]) for number in range(50)],
        gallery_lnglat=np.column_stack([np.full(200, 8.0), np.full(200, 46.0)]),
    )
    indexed = recall_through_index(queries, gallery, truth, digest="d", progress=lambda *_: None)
    exact = retrieve(queries, gallery, truth).metrics()
    assert indexed == {name: exact[name] for name in indexed}
    assert exact["recall_at_10"].value > 0


def test_collapsed_model_finds_nothing_through_the_index() -> None:
    same = np.repeat(unit(1, 16, seed=3), 30, axis=0)
    truth = Truth(positives=own_pairs(30), gallery_lnglat=np.tile([8.0, 46.0], (30, 1)))
    found = recall_through_index(same, same, truth, digest="d", progress=lambda *_: None)
    assert [estimate.value for estimate in found.values()] == [0, 0, 0]


def test_rank_among_hits_counts_ties_against() -> None:
    assert rank_among(hits_of((4, 0.9), (7, 0.8), (1, 0.8)), {7}) == 3
    assert rank_among(hits_of((4, 0.9), (7, 0.8)), {4, 7}) == 1
    assert rank_among(hits_of((4, 0.9)), {5}) == LIMIT
    assert rank_among(hits_of(*((row, 0.5) for row in range(LIMIT))), {0}) == LIMIT


def test_index_needs_positions(checkpoint: Path, located: Split) -> None:
    nowhere = replace(located, gallery_lnglat=None)
    with pytest.raises(BadConfig, match="three photos lacks"):
        measure(load_encoder(checkpoint), nowhere, command="", through_index=True, progress=lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either folders"),
        (["city", "--benchmark", "cvusa", "--root", "."], "give either folders"),
        (["--benchmark", "cvusa"], "without --root"),
        (["city", "--through-index"], "--through-index is for benchmarks"),
        (["city", "--query-kind", "aerial"], "--query-kind is for benchmarks"),
        (["--benchmark", "cvusa", "--root", ".", "--calibrate"], "never fitted"),
        (["--benchmark", "cvusa", "--root", ".", "--json", "nowhere/at/all.json"], "is no folder"),
        (["--benchmark", "cvusa", "--root", ".", "--area", "same"], "no option 'area'"),
        (["--benchmark", "imagenet", "--root", "."], "no benchmark is called 'imagenet'"),
    ],
)
def test_refused_in_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, *arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_damaged_image_is_named(
    cvusa: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = cvusa / "bingmap" / "19" / "0000003.jpg"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    run(monkeypatch, "--benchmark", "cvusa", "--root", cvusa, "--checkpoint", checkpoint)
    damaged.write_bytes(whole)
    assert "0000003.jpg" in capsys.readouterr().err.strip().splitlines()[-1]
