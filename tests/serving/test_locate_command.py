"""What `clnet locate` makes of its options and of the image file's own header."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from cli.locate import field_of_view, read_image
from cli.locate_prior import PriorOptions, parse_position, position_prior
from clnet_model.errors import BadImage
from serving.errors import InvalidRequest
from serving.exif import gps_of, size_of
from spatial_index.geojson import from_bbox
from spatial_index.priors import AllOf, CorridorPrior, PolygonPrior, PriorMode, TimePrior
from tiling.grid import LngLat


def with_gps(latitude, latitude_ref, longitude, longitude_ref) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {
            ExifTags.GPS.GPSLatitudeRef: latitude_ref,
            ExifTags.GPS.GPSLatitude: latitude,
            ExifTags.GPS.GPSLongitudeRef: longitude_ref,
            ExifTags.GPS.GPSLongitude: longitude,
        }
    )
    data = io.BytesIO()
    Image.new("RGB", (32, 16)).save(data, "JPEG", exif=exif)
    return data.getvalue()


def test_exif_position_keeps_its_hemisphere():
    data = with_gps((33.0, 52.0, 10.0), "S", (151.0, 12.0, 30.0), "W")
    assert gps_of(data) == pytest.approx(LngLat(lng=-151.20833, lat=-33.86944), abs=1e-5)


def test_no_exif_position_is_none(jpeg):
    assert gps_of(jpeg()) is None


def test_a_header_of_nothing_is_no_image():
    with pytest.raises(BadImage):
        size_of(b"hello")


def test_exif_becomes_a_soft_prior_only_when_asked():
    data = with_gps((46.0, 18.0, 0.0), "N", (7.0, 58.0, 48.0), "E")
    assert position_prior(data, PriorOptions()) is None
    prior = position_prior(data, PriorOptions(use_exif_gps=True))
    assert (prior.mode, prior.radius_m) == (PriorMode.SOFT, 300.0)
    assert prior.centre == pytest.approx(LngLat(lng=7.98, lat=46.3))


def test_asking_for_an_exif_position_that_is_not_there_says_so(jpeg):
    with pytest.raises(InvalidRequest, match="no EXIF position"):
        position_prior(jpeg(), PriorOptions(use_exif_gps=True))


def test_near_is_a_hard_circle_unless_soft(jpeg):
    hard = position_prior(jpeg(), PriorOptions(near="46.31,7.98"))
    soft = position_prior(jpeg(), PriorOptions(near="46.31,7.98", soft=True))
    assert (hard.mode, soft.mode) == (PriorMode.HARD, PriorMode.SOFT)
    assert hard.centre == LngLat(lng=7.98, lat=46.31)


@pytest.mark.parametrize("text", ["here", "46.31", "46.31,7.98,3"])
def test_a_position_that_is_none_is_refused(text):
    with pytest.raises(InvalidRequest, match="--near"):
        parse_position(text)


def test_a_box_is_west_south_east_north(jpeg):
    prior = position_prior(jpeg(), PriorOptions(bbox="7.9,46.3,8.0,46.4", soft=True))
    assert prior == from_bbox(7.9, 46.3, 8.0, 46.4, mode=PriorMode.SOFT)


def test_areas_and_times_given_together_must_all_hold(jpeg, tmp_path):
    ring = [[7, 46], [9, 46], [9, 47], [7, 46]]
    area, road = tmp_path / "area.geojson", tmp_path / "road.geojson"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    road.write_text(json.dumps({"type": "LineString", "coordinates": [[8, 46.1], [8, 46.2]]}))
    options = PriorOptions(
        near="46.31,7.98", polygon=area, corridor=road, half_width_m=40.0, captured_from=datetime(2024, 1, 1)
    )
    found = position_prior(jpeg(), options)
    assert isinstance(found, AllOf)
    circle, polygon, corridor, captured = found.priors
    assert circle.centre == LngLat(lng=7.98, lat=46.31)
    assert isinstance(polygon, PolygonPrior)
    assert polygon.polygon.bounds == (7, 46, 9, 47)
    assert isinstance(corridor, CorridorPrior)
    assert corridor.half_width_m == 40.0
    assert captured == TimePrior(start=datetime(2024, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"bbox": "7.9,46.3,8.0"}, "--bbox"),
        ({"bbox": "a,b,c,d"}, "--bbox"),
        ({"polygon": Path("nowhere.geojson")}, "--polygon"),
        ({"corridor": Path("nowhere.geojson")}, "--corridor"),
    ],
)
def test_an_option_that_is_no_place_is_named(jpeg, options, name):
    with pytest.raises(InvalidRequest, match=name):
        position_prior(jpeg(), PriorOptions(**options))


def test_the_shape_tells_panoramas_from_photos(jpeg):
    assert field_of_view(jpeg(512, 256), None) is None
    assert field_of_view(jpeg(640, 480), 65.0) == 65.0
    with pytest.raises(InvalidRequest, match="--hfov"):
        field_of_view(jpeg(640, 480), None)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_image(tmp_path / "nothing.jpg")
