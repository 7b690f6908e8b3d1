"""What a user can get wrong, through the command: one line that says what to do, and exit status 1."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from mercantile import LngLat
from PIL import Image
from rasterio.transform import from_origin

from cli.main import main
from clnet_model.encoder import load_encoder
from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import open_store
from tiling.grid import GridSpec, patch_at

BRIG = LngLat(lng=7.988, lat=46.316)
SIZE_PX = 64

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A store with one patch in Brig."""
    folder = tmp_path_factory.mktemp("stores") / "store"
    encoder = load_encoder(checkpoint)
    patch = patch_at(BRIG, GridSpec(zoom=encoder.zoom, side_m=encoder.side_m))
    vector = np.zeros(encoder.dim, dtype=np.float32)
    vector[0] = 1.0
    record = PatchRecord(
        location=patch.centre,
        quadkey=patch.quadkey,
        region="brig",
        generation="one",
        side_m=patch.side_m,
        captured_at=datetime(2024, 1, 1, tzinfo=UTC),
        source="made-up",
        valid_fraction=1.0,
        vector=vector,
    )
    spec = GenerationSpec(
        region="brig",
        generation="one",
        model_digest=encoder.digest,
        dim=encoder.dim,
        zoom=encoder.zoom,
        side_m=encoder.side_m,
    )
    with open_store(directory=folder, create=True) as opened:
        opened.create_generation(spec)
        opened.write("brig", "one", [record])
        opened.promote("brig", "one", coverage=patch.tile_footprint)
    return folder


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    path = tmp_path / "panorama.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (SIZE_PX, 2 * SIZE_PX, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs `clnet ARGUMENTS`, which must fail with one line; returns it."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["clnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 1
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


@pytest.fixture
def locate(fails: Fails, store: Path, checkpoint: Path) -> Fails:
    """`clnet locate` in this process, which must fail."""
    return lambda *arguments: fails("locate", *arguments, "--store", store, "--checkpoint", checkpoint)


def wide_png(path: Path, width_px: int, height_px: int) -> Path:
    """A well-formed PNG whose header promises more pixels than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1024)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    return path


def test_not_an_image(locate: Fails, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not an image")
    assert "JPEG" in locate(tmp_path / "notes.jpg", "--panorama")


def test_no_such_file(locate: Fails, tmp_path: Path) -> None:
    assert "nowhere.jpg" in locate(tmp_path / "nowhere.jpg", "--panorama")


def test_an_image_50_000_pixels_wide(locate: Fails, tmp_path: Path) -> None:
    line = locate(wide_png(tmp_path / "wide.png", 50_000, 1_000)).replace(",", "")
    assert "50000" in line
    assert "16384" in line


def test_an_image_of_500_megapixels(locate: Fails, tmp_path: Path) -> None:
    assert "too large" in locate(wide_png(tmp_path / "bomb.png", 50_000, 10_000))


def test_a_prior_in_the_ocean(locate: Fails, panorama: Path) -> None:
    assert "clnet regions" in locate(panorama, "--near", "-40.0,-25.0")


def test_an_unknown_region(locate: Fails, panorama: Path) -> None:
    line = locate(panorama, "--region", "atlantis")
    assert "atlantis" in line
    assert "brig" in line


def test_a_store_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    assert "ingest a region" in fails("regions", "--store", tmp_path / "nothing")


def test_a_service_that_is_not_there(fails: Fails, panorama: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert "clnet serve" in fails("locate", panorama, "--server", f"127.0.0.1:{port}")


@pytest.fixture
def other_process(store: Path) -> Iterator[None]:
    """Somebody else who has the store open."""
    code = (
        "import sys, pathlib; from spatial_index.store import open_store\n"
        "opened = open_store(directory=pathlib.Path(sys.argv[1]))\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield
        assert process.stdin is not None
        process.stdin.close()


def test_a_store_in_use_by_another_process(fails: Fails, store: Path, other_process: None) -> None:
    line = fails("regions", "--store", store)
    assert str(store) in line
    assert "in use" in line


def test_a_port_in_use(fails: Fails, store: Path, checkpoint: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        line = fails("serve", "--store", store, "--checkpoint", checkpoint, "--port", port)
    assert str(port) in line
    assert "--port" in line


def test_a_folder_without_geotiffs(fails: Fails, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / "readme.txt").touch()
    line = fails(
        "ingest", "brig", tmp_path / "imagery", "--store", tmp_path / "store", "--checkpoint", checkpoint
    )
    assert "imagery" in line


def test_a_sheet_without_a_crs(fails: Fails, tmp_path: Path, checkpoint: Path) -> None:
    sheet = tmp_path / "sheet.tif"
    with rasterio.open(
        sheet,
        "w",
        driver="GTiff",
        width=SIZE_PX,
        height=SIZE_PX,
        count=3,
        dtype="uint8",
        transform=from_origin(640_000, 130_000, 0.2, 0.2),
    ) as file:
        file.write(np.full((3, SIZE_PX, SIZE_PX), 90, dtype=np.uint8))
    line = fails("ingest", "brig", sheet, "--store", tmp_path / "store", "--checkpoint", checkpoint)
    assert "sheet.tif" in line
    assert "coordinate reference system" in line


@pytest.mark.parametrize("name", ["", "Brig!", "a/b", ".."])
def test_a_region_name_that_is_none(fails: Fails, tmp_path: Path, checkpoint: Path, name: str) -> None:
    with rasterio.open(
        tmp_path / "sheet.tif",
        "w",
        driver="GTiff",
        width=SIZE_PX,
        height=SIZE_PX,
        count=3,
        dtype="uint8",
        crs="EPSG:2056",
        transform=from_origin(2_641_000, 1_129_000, 2.0, 2.0),
    ) as file:
        file.write(np.full((3, SIZE_PX, SIZE_PX), 90, dtype=np.uint8))
    fails("ingest", name, tmp_path / "sheet.tif", "--store", tmp_path / "store", "--checkpoint", checkpoint)
