"""What `clnet locate` makes of its options and of the image file's own header."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from cli.errors import BadOption
from cli.locate import read_image
from cli.locate_camera import CameraOptions, field_of_view, optics_of, read_lens
from cli.locate_prior import PriorOptions, parse_position, position_prior
from clnet_model.errors import BadImage, BadLens
from clnet_model.lens import BrownConrady, KannalaBrandt, Lens
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


def test_a_place_and_an_exif_position_must_both_hold():
    data = with_gps((46.0, 18.0, 0.0), "N", (7.0, 58.0, 48.0), "E")
    both = position_prior(data, PriorOptions(near="46.31,7.98", use_exif_gps=True))
    assert [part.mode for part in both.priors] == [PriorMode.HARD, PriorMode.SOFT]


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


OPENCV = {
    "image_width": 1920, "image_height": 1080, "camera_matrix": [[1130, 0, 955], [0, 1120, 541], [0, 0, 1]],
    "distortion_coefficients": [-0.31, 0.12, 0.0002, -0.0004, -0.02],
}  # fmt: skip
COLMAP = {
    "model": "OPENCV_FISHEYE", "width": 1280, "height": 960,
    "params": [350, 351, 641.5, 478.0, -0.01, 0.002, -0.001, 0.0001],
}  # fmt: skip
ROS = {
    **OPENCV, "distortion_model": "equidistant",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [700, 0, 955, 0, 700, 541, 0, 0, 1]},
    "distortion_coefficients": {"rows": 1, "cols": 4, "data": [-0.01, 0.002, 0, 0]},
}  # fmt: skip


@pytest.fixture
def calibration(tmp_path):
    def write(document) -> Path:
        path = tmp_path / "camera.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def test_a_calibration_of_opencv_counts_from_the_centre_of_the_first_pixel(calibration):
    assert read_lens(calibration(OPENCV)) == Lens(
        width_px=1920, height_px=1080, fx_px=1130.0, fy_px=1120.0, cx_px=955.5, cy_px=541.5,
        distortion=BrownConrady(k1=-0.31, k2=0.12, p1=0.0002, p2=-0.0004, k3=-0.02),
    )  # fmt: skip


def test_a_camera_of_colmap_counts_from_the_edge(calibration):
    assert read_lens(calibration({**COLMAP, "max_angle_deg": 95})) == Lens(
        width_px=1280, height_px=960, fx_px=350.0, fy_px=351.0, cx_px=641.5, cy_px=478.0, max_angle_deg=95.0,
        distortion=KannalaBrandt(k1=-0.01, k2=0.002, k3=-0.001, k4=0.0001),
    )  # fmt: skip


def test_a_fisheye_of_ros_is_kannala_brandts(calibration):
    lens = read_lens(calibration(ROS))
    assert lens.distortion == KannalaBrandt(k1=-0.01, k2=0.002)
    assert lens.fx_px == lens.fy_px == 700.0


@pytest.mark.parametrize(
    ("model", "params", "distortion"),
    [
        ("SIMPLE_PINHOLE", [900, 640, 480], BrownConrady()),
        ("PINHOLE", [900, 900, 640, 480], BrownConrady()),
        ("SIMPLE_RADIAL", [900, 640, 480, -0.1], BrownConrady(k1=-0.1)),
        ("RADIAL", [900, 640, 480, -0.1, 0.01], BrownConrady(k1=-0.1, k2=0.01)),
        ("OPENCV", [900, 900, 640, 480, -0.1, 0.01, 1e-3, 2e-3],
         BrownConrady(k1=-0.1, k2=0.01, p1=1e-3, p2=2e-3)),
        ("SIMPLE_RADIAL_FISHEYE", [900, 640, 480, 0.02], KannalaBrandt(k1=0.02)),
        ("RADIAL_FISHEYE", [900, 640, 480, 0.02, 0.01], KannalaBrandt(k1=0.02, k2=0.01)),
    ],
)  # fmt: skip
def test_the_models_of_colmap(calibration, model, params, distortion):
    lens = read_lens(calibration({"model": model, "width": 1280, "height": 960, "params": params}))
    assert lens.distortion == distortion
    assert (lens.fx_px, lens.fy_px, lens.cx_px, lens.cy_px) == (900.0, 900.0, 640.0, 480.0)


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "[]",
        "3",
        "{}",
        {**OPENCV, "camera_matrix": [1, 2]},
        {**OPENCV, "camera_matrix": [[1130, 5, 955], [0, 1120, 541], [0, 0, 1]]},
        {**OPENCV, "camera_matrix": None},
        {**OPENCV, "image_width": "wide"},
        {**OPENCV, "distortion_model": "thin_prism"},
        {**OPENCV, "distortion_coefficients": [0, 0, 0, 0, 0, 0.1]},
        {**COLMAP, "model": "FULL_OPENCV"},
        {**COLMAP, "params": [1, 2]},
        {**COLMAP, "params": {"fx": 1}},
        {**COLMAP, "width": float("inf")},
    ],
)
def test_a_file_that_is_no_calibration_is_one_line(calibration, document):
    with pytest.raises(InvalidRequest, match="--intrinsics"):
        read_lens(calibration(document))


def test_a_calibration_that_no_camera_has_names_the_value(calibration):
    with pytest.raises(BadLens, match="cx_px"):
        read_lens(calibration({**COLMAP, "params": [350, 350, 6000, 478, 0, 0, 0, 0]}))


def test_intrinsics_say_all_about_the_camera(jpeg, calibration):
    path = calibration(OPENCV)
    optics = optics_of(jpeg(), CameraOptions(intrinsics=path, pitch_deg=3.0, roll_deg=-2.0))
    assert (optics.hfov_deg, optics.pitch_deg, optics.roll_deg) == (None, 3.0, -2.0)
    assert optics.lens == read_lens(path)
    for options in ({"hfov_deg": 60.0}, {"panorama": True}):
        with pytest.raises(BadOption, match="--intrinsics"):
            optics_of(jpeg(), CameraOptions(intrinsics=path, **options))
    with pytest.raises(BadOption, match="--roll"):
        optics_of(jpeg(), CameraOptions(roll_deg=2.0))


def test_options_of_another_kind_of_image_are_refused(jpeg):
    with pytest.raises(BadOption, match="--hfov"):
        optics_of(jpeg(), CameraOptions(panorama=True, hfov_deg=60.0))
    with pytest.raises(BadOption, match="--pitch"):
        optics_of(jpeg(), CameraOptions(panorama=True, pitch_deg=5.0))
