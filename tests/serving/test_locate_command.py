"""What `clnet locate` makes of its options and of the image file's own header."""

from __future__ import annotations

import io

import pytest
from PIL import ExifTags, Image

from cli.locate import field_of_view, parse_position, position_prior, read_image
from clnet_model.errors import BadImage
from serving.errors import InvalidRequest
from serving.exif import gps_of, size_of
from spatial_index.priors import PriorMode
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
    assert position_prior(data, near=None, radius_m=300.0, soft=False, use_exif_gps=False) is None
    prior = position_prior(data, near=None, radius_m=300.0, soft=False, use_exif_gps=True)
    assert (prior.mode, prior.radius_m) == (PriorMode.SOFT, 300.0)
    assert prior.centre == pytest.approx(LngLat(lng=7.98, lat=46.3))


def test_asking_for_an_exif_position_that_is_not_there_says_so(jpeg):
    with pytest.raises(InvalidRequest, match="no EXIF position"):
        position_prior(jpeg(), near=None, radius_m=300.0, soft=False, use_exif_gps=True)


def test_near_is_a_hard_circle_unless_soft(jpeg):
    hard = position_prior(jpeg(), near="46.31,7.98", radius_m=300.0, soft=False, use_exif_gps=False)
    soft = position_prior(jpeg(), near="46.31,7.98", radius_m=300.0, soft=True, use_exif_gps=False)
    assert (hard.mode, soft.mode) == (PriorMode.HARD, PriorMode.SOFT)
    assert hard.centre == LngLat(lng=7.98, lat=46.31)


@pytest.mark.parametrize("text", ["here", "46.31", "46.31,7.98,3"])
def test_a_position_that_is_none_is_refused(text):
    with pytest.raises(InvalidRequest, match="--near"):
        parse_position(text)


def test_the_shape_tells_panoramas_from_photos(jpeg):
    assert field_of_view(jpeg(512, 256), None) is None
    assert field_of_view(jpeg(640, 480), 65.0) == 65.0
    with pytest.raises(InvalidRequest, match="--hfov"):
        field_of_view(jpeg(640, 480), None)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_image(tmp_path / "nothing.jpg")
