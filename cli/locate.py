"""`clnet locate`: one street image, asked of a running service or of a store in this process."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import BadOption
from cli.locate_camera import CameraOptions, optics_of
from cli.locate_prior import HALF_WIDTH_M, RADIUS_M, PriorOptions, position_prior
from cli.options import CheckpointOption, Settings

if TYPE_CHECKING:
    from serving.locate import Query
    from serving.pb.localization_service_pb2 import LocalizeResponse

DEFAULT_SERVER = "127.0.0.1:50051"


def locate(
    image: Annotated[Path, typer.Argument(help="JPEG, PNG or WebP.", show_default=False)],
    server: Annotated[str, typer.Option(help="Service to ask, host:port.")] = DEFAULT_SERVER,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", help="Answer in this process from this store folder instead.", show_default=False
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    near: Annotated[
        str | None,
        typer.Option(metavar="LAT,LNG", help="Search around this position only.", show_default=False),
    ] = None,
    radius_m: Annotated[
        float, typer.Option(help="Radius of --near or of the EXIF position, metres.")
    ] = RADIUS_M,
    soft: Annotated[
        bool, typer.Option("--soft", help="Take the places given as likely, not as certain.")
    ] = False,
    use_exif_gps: Annotated[
        bool, typer.Option("--use-exif-gps", help="Take the position in the image's EXIF as a soft prior.")
    ] = False,
    bbox: Annotated[
        str | None,
        typer.Option(
            metavar="WEST,SOUTH,EAST,NORTH",
            help="Search in this box only; a west beyond its east crosses the antimeridian.",
            show_default=False,
        ),
    ] = None,
    polygon: Annotated[
        Path | None,
        typer.Option(help="Search in this GeoJSON Polygon or MultiPolygon only.", show_default=False),
    ] = None,
    corridor: Annotated[
        Path | None, typer.Option(help="Search along this GeoJSON LineString only.", show_default=False)
    ] = None,
    half_width_m: Annotated[
        float, typer.Option(help="How far to either side of --corridor, metres.")
    ] = HALF_WIDTH_M,
    captured_from: Annotated[
        datetime | None,
        typer.Option(help="Search imagery of this time (UTC) or later only.", show_default=False),
    ] = None,
    captured_before: Annotated[
        datetime | None,
        typer.Option(help="Search imagery from before this time (UTC) only.", show_default=False),
    ] = None,
    heading: Annotated[
        float | None,
        typer.Option(
            metavar="DEG",
            help="Where the image's centre looks, degrees from true north; unknown if unset.",
            show_default=False,
        ),
    ] = None,
    heading_accuracy: Annotated[
        float, typer.Option(metavar="DEG", help="The heading is right within this, to either side.")
    ] = 0.0,
    hfov: Annotated[
        float | None,
        typer.Option(
            metavar="DEG", help="Horizontal field of view of an ordinary photo.", show_default=False
        ),
    ] = None,
    intrinsics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="The camera's calibration, distortion included, as OpenCV, ROS or COLMAP write it.",
            show_default=False,
        ),
    ] = None,
    pitch: Annotated[float, typer.Option(metavar="DEG", help="How far a photo looks up.")] = 0.0,
    roll: Annotated[
        float, typer.Option(metavar="DEG", help="How far the right side is lowered; with --intrinsics.")
    ] = 0.0,
    panorama: Annotated[
        bool, typer.Option("--panorama", help="The image goes all the way round, whatever its shape.")
    ] = False,
    region: Annotated[
        list[str] | None, typer.Option(help="Search this region; may be repeated.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
    as_geojson: Annotated[
        bool, typer.Option("--geojson", help="Print the places as a GeoJSON FeatureCollection.")
    ] = False,
) -> None:
    """Tell where a street image was taken.

    Places and times given together must all hold.
    """
    from serving.errors import OutOfCoverage
    from serving.locate import HeadingPrior, Query
    from serving.pb import answer_pb2

    if as_json and as_geojson:
        raise BadOption("--geojson", "goes not with --json; choose one")
    if heading is None and heading_accuracy:
        raise BadOption("--heading-accuracy", "says how far --heading may be off; give that too")
    data = read_image(image)
    prior = PriorOptions(
        near=near,
        radius_m=radius_m,
        use_exif_gps=use_exif_gps,
        bbox=bbox,
        polygon=polygon,
        corridor=corridor,
        half_width_m=half_width_m,
        soft=soft,
        captured_from=captured_from,
        captured_before=captured_before,
    )
    camera = CameraOptions(
        hfov_deg=hfov, panorama=panorama, intrinsics=intrinsics, pitch_deg=pitch, roll_deg=roll
    )
    optics = optics_of(data, camera)
    query = Query(
        hfov_deg=optics.hfov_deg,
        lens=optics.lens,
        pitch_deg=optics.pitch_deg,
        roll_deg=optics.roll_deg,
        heading=None if heading is None else HeadingPrior(heading_deg=heading, accuracy_deg=heading_accuracy),
        prior=position_prior(data, prior),
        regions=tuple(region or ()),
    )
    answer = ask(data, query, server=server, store=store, checkpoint=checkpoint)
    if as_json:
        from google.protobuf.json_format import MessageToJson

        typer.echo(MessageToJson(answer, preserving_proto_field_name=True))
    if as_geojson:
        from cli.locate_geojson import feature_collection

        typer.echo(feature_collection(answer))
    if answer.status == answer_pb2.LOCALIZATION_STATUS_OUT_OF_COVERAGE:
        raise OutOfCoverage
    if not (as_json or as_geojson):
        show(answer)


def ask(
    data: bytes, query: Query, *, server: str, store: Path | None, checkpoint: Path | None
) -> LocalizeResponse:
    """The answer of the service, or of the store in this process."""
    from serving.client import Client

    if store is None:
        settings = Settings()
        key = settings.api_key.get_secret_value() if settings.api_key else None
        with Client(server, api_key=key) as client:
            return client.localize(data, query)
    from clnet_model.encoder import load_encoder
    from serving.edge import response_from
    from serving.locate import decoded
    from serving.locate import locate as locate_image
    from spatial_index.store import open_store

    settings = Settings()
    api_key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    with open_store(directory=store, url=settings.qdrant_url, api_key=api_key) as index:
        encoder = load_encoder(checkpoint)
        image = decoded(data, query, spec=encoder.canvas)
        return response_from(locate_image(image, query, encoder=encoder, index=index))


def read_image(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        serving.errors.InvalidRequest: it cannot be read.
    """
    from serving.errors import InvalidRequest

    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(str(path), f"cannot be read ({error.strerror})", "give an image file") from error


def show(answer: LocalizeResponse) -> None:
    """A table of the hypotheses."""
    from rich.console import Console
    from rich.table import Table

    from serving.pb import answer_pb2

    status = answer_pb2.LocalizationStatus.Name(answer.status).removeprefix("LOCALIZATION_STATUS_")
    table = Table(title=status.replace("_", " ").lower(), caption=_caption(answer))
    for name in ("#", "probability", "latitude", "longitude", "r68 m", "r95 m", "heading °", "region"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, hypothesis in enumerate(answer.hypotheses, start=1):
        table.add_row(*_row(place, hypothesis))
    console = Console()
    console.print(table)
    if answer.prior_conflict:
        console.print("the image contradicts the position given: the first place lies outside of it")


def _row(place: int, hypothesis: Any) -> list[str]:
    return [
        str(place),
        f"{hypothesis.probability:.3f}",
        f"{hypothesis.position.latitude:.6f}",
        f"{hypothesis.position.longitude:.6f}",
        f"{hypothesis.r68_m:.0f}",
        f"{hypothesis.r95_m:.0f}",
        f"{hypothesis.heading_deg:.0f}",
        hypothesis.supporting_patches[0].region,
    ]


def _caption(answer: LocalizeResponse) -> str:
    return (
        f"{answer.searched_patches:,} patches searched ({answer.plan}) in {answer.timings.total_ms:.0f} ms, "
        f"model {answer.model_digest}"
    )
