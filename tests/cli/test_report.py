"""The report page, from made-up outcomes; and opened in a browser where there is one."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import mercantile
import numpy as np
import pytest
from mercantile import LngLat
from PIL import Image

from cli.error_plot import Curve, error_plot
from cli.metrics import Outcome, summarise
from cli.report import (
    Case,
    CityMap,
    PatchView,
    Report,
    SettingResult,
    compass_ticks,
    metres,
    pick_cases,
    render,
    results_json,
    scale_bar,
    to_map,
    view_cone,
)

KEYS = ("with_prior", "no_prior", "unknown_heading", "photo_90deg")
CENTRE = LngLat(lng=7.99, lat=46.31)


def jpeg(side_px: int = 16) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((side_px, side_px, 3), 120, dtype=np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def city_map() -> CityMap:
    x, y = mercantile.xy(*CENTRE)
    return CityMap(jpeg=jpeg(), bounds_mercator=(x - 1000, y - 1000, x + 1000, y + 1000))


def outcome(index: int, *, error_m: float, image_id: str = "") -> Outcome:
    answered = math.isfinite(error_m)
    return Outcome(
        image_id=image_id or f"panorama_{index:05d}",
        status="LOCALIZED" if answered else "OUT_OF_COVERAGE",
        true_position=CENTRE,
        found_position=LngLat(lng=CENTRE.lng, lat=CENTRE.lat + error_m / 111_320) if answered else None,
        error_m=error_m,
        true_patch_rank=1 if error_m < 20 else None,
        found_quadkey="1",
        probability=0.8,
        r68_m=10.0,
        r95_m=25.0,
        latency_ms=40.0,
    )


def case(result: Outcome, *, hfov_deg: float = 360.0) -> Case:
    view = PatchView(jpeg=jpeg(), x_share=0.4, y_share=0.6)
    return Case(
        setting="no prior",
        outcome=result,
        street_jpeg=jpeg(),
        heading_deg=10.0,
        hfov_deg=hfov_deg,
        true_patch=view,
        found_patch=view if result.found_position else None,
    )


@pytest.fixture
def report() -> Report:
    outcomes = tuple(outcome(i, error_m=error_m) for i, error_m in enumerate((2.0, 6.0, 80.0, math.inf)))
    settings = tuple(
        SettingResult(
            key=key, title=key, explanation="<script>", outcomes=outcomes, summary=summarise(outcomes)
        )
        for key in KEYS
    )
    return Report(
        title="Where was this photo taken?",
        lead="Four images.",
        settings=settings,
        gps_errors_m=(50.0, 120.0),
        city_map=city_map(),
        best=(case(outcomes[0]),),
        worst=(case(outcomes[3]), case(outcomes[2], hfov_deg=90.0)),
        facts=(("City", "simulated"),),
        provenance=(("Model", "0123456789abcdef"),),
    )


class Links(HTMLParser):
    """Collects everything that a browser would fetch, and every tag that stays open."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "image", "line", "circle", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "action", "srcset"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_outside_itself(report: Report) -> None:
    links = Links()
    links.feed(page := render(report))
    assert links.links
    assert all(link.startswith("data:") for link in links.links)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)


def test_tags_are_balanced(report: Report) -> None:
    links = Links()
    links.feed(render(report))
    assert links.open == []


def test_text_is_escaped(report: Report) -> None:
    page = render(report)
    assert '<p class="note">&lt;script&gt;</p>' in page


def test_every_image_of_every_setting_is_on_the_map(report: Report) -> None:
    assert render(report).count("<g data-label=") == sum(len(setting.outcomes) for setting in report.settings)


def test_images_have_alternative_texts(report: Report) -> None:
    images = re.findall(r"<img [^>]*>", render(report))
    assert images
    assert all('alt="' in image for image in images)


def test_an_image_without_an_answer_says_so(report: Report) -> None:
    assert "no position was given" in render(report)


def test_results_have_the_promised_keys(report: Report) -> None:
    figures = results_json(report.settings, patches=10, city_km2=2.36, wall_s=100.0, seed=1)
    promised = {
        *("queries", "recall_at_1", "recall_at_5", "recall_at_10", "recall_25m"),
        *("median_error_m", "latency_p50_ms", "latency_p95_ms"),
    }
    assert set(KEYS) | {"patches", "city_km2", "wall_s"} <= set(figures)
    assert all(promised <= set(figures[key]) for key in KEYS)


def test_results_are_strict_json(report: Report) -> None:
    figures = results_json(report.settings, wall_s=math.inf)
    assert json.loads(json.dumps(figures, allow_nan=False))["wall_s"] is None


def test_north_is_up_on_the_map() -> None:
    north = LngLat(lng=CENTRE.lng, lat=CENTRE.lat + 0.001)
    (x, y), (north_x, north_y) = to_map(CENTRE, city_map()), to_map(north, city_map())
    assert (x, y) == pytest.approx((500.0, 500.0))
    assert (north_x, north_y < y) == (pytest.approx(500.0), True)


def test_the_scale_bar_is_a_true_distance() -> None:
    bar = scale_bar(city_map())  # 2,000 Mercator metres are 1,382 m at 46.31°
    assert bar.label == "200 m"
    assert bar.length == pytest.approx(200 / 1381.6 * 1000, rel=1e-3)


def test_the_middle_of_a_panorama_shows_its_heading() -> None:
    assert dict(compass_ticks(90.0, 360.0))["E"] == pytest.approx(0.5)


def test_a_photo_shows_only_the_compass_points_in_view() -> None:
    assert [letter for letter, _ in compass_ticks(0.0, 100.0)] == ["N", "NE", "NW"]


def test_photo_ticks_are_linear_in_the_tangent() -> None:
    ticks = dict(compass_ticks(0.0, 100.0))
    assert ticks["NE"] == pytest.approx(0.5 + 0.5 * math.tan(math.radians(45)) / math.tan(math.radians(50)))


def test_only_photos_have_a_view_cone() -> None:
    assert view_cone(case(outcome(0, error_m=1.0))) is None
    assert view_cone(case(outcome(0, error_m=1.0), hfov_deg=90.0)) is not None


def test_cases_are_the_extremes_without_overlap() -> None:
    outcomes = [outcome(i, error_m=float(i)) for i in range(3)]
    best, worst = pick_cases(outcomes, best=2, worst=2)
    assert [[o.error_m for o in chosen] for chosen in (best, worst)] == [[0.0, 1.0], [2.0]]


def test_unanswered_images_keep_the_curve_below_the_top() -> None:
    plot = error_plot([Curve(key="a", title="a", errors_m=(5.0, math.inf))])
    heights = [float(v) for v in re.findall(r"V([\d.]+)", plot.lines[0].path)]
    assert min(heights) == pytest.approx((plot.top + plot.bottom) / 2, abs=0.1)


@pytest.mark.parametrize(
    ("distance_m", "text"), [(3.14, "3.1 m"), (42.4, "42 m"), (1500.0, "1.50 km"), (math.inf, "–")]
)
def test_distances_read_well(distance_m: float, text: str) -> None:
    assert metres(distance_m).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
@pytest.mark.parametrize("width_px", [1280, 500])
def test_a_browser_shows_the_page_without_sideways_scrolling(
    report: Report, tmp_path: Path, width_px: int
) -> None:
    probe = (
        "<script>const root = document.documentElement;"
        "document.title = 'overflow ' + (root.scrollWidth - root.clientWidth)</script>"
    )
    page = tmp_path / "report.html"
    page.write_text(render(report).replace("</body>", probe + "</body>"), encoding="utf-8")
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *(
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width_px},900",
            "--dump-dom",
            page.as_uri(),
        ),
    ]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert "<title>overflow 0</title>" in dom
    assert "--k:" in dom, "the map's script ran"
