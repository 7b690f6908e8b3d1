"""Translates long jobs between the wire and our values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from google.type.latlng_pb2 import LatLng
from shapely.geometry.base import BaseGeometry

from serving.errors import InvalidRequest, UnknownOperation
from serving.operations import FleetOrder, ImagePage, IngestOrder, Operation, State
from serving.pb import ingestion_service_pb2, job_pb2, prior_pb2, relocalization_service_pb2
from serving.prior_messages import prior_from, timestamp
from serving.refusals import ERROR_DOMAIN
from serving.region_messages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, named
from spatial_index.errors import BadPrior
from spatial_index.priors import PolygonPrior
from spatial_index.records import Storage

PREFIX = "operations/"
MAX_SHEETS = 10_000
MAX_PATH = 4_096
STORAGES: dict[int, Storage] = {
    ingestion_service_pb2.VECTOR_STORAGE_UNSPECIFIED: "float32",
    ingestion_service_pb2.VECTOR_STORAGE_FLOAT32: "float32",
    ingestion_service_pb2.VECTOR_STORAGE_FLOAT16: "float16",
    ingestion_service_pb2.VECTOR_STORAGE_INT8: "int8",
}
STATES = {
    State.PENDING: job_pb2.JOB_STATE_PENDING,
    State.RUNNING: job_pb2.JOB_STATE_RUNNING,
    State.SUCCEEDED: job_pb2.JOB_STATE_SUCCEEDED,
    State.FAILED: job_pb2.JOB_STATE_FAILED,
    State.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
}

# Columns of a result that are fields of the same name, or of another.
NUMBERS = (
    "r68_m", "r95_m", "probability", "heading_deg", "heading_r68_deg", "moved_m", "smoothed_r68_m",
    "smoothed_r95_m",
)  # fmt: skip
TEXTS = (
    "image_id", "sequence", "status", "reason", "smoothed_status", "region", "generation", "model_digest",
)  # fmt: skip
POSITIONS = {"given_position": "given_", "position": "", "smoothed_position": "smoothed_"}


def ingest_order_from(request: ingestion_service_pb2.IngestRegionRequest) -> IngestOrder:
    """The order that a request gives.

    Raises:
        InvalidRequest: a field is missing or outside its limit.
        BadRegionName: no region can have the name.
    """
    if not 1 <= len(request.sheets) <= MAX_SHEETS:
        raise InvalidRequest("sheets", f"has {len(request.sheets)} entries", f"give 1 to {MAX_SHEETS}")
    for row, sheet in enumerate(request.sheets):
        _check_path(sheet, f"sheets[{row}]")
    if request.storage not in STORAGES:
        raise InvalidRequest("storage", f"is {request.storage}", "give a value of VectorStorage")
    side_m = request.side_m if request.HasField("side_m") else None
    if side_m is not None and not (math.isfinite(side_m) and side_m > 0.0):
        raise InvalidRequest("side_m", f"is {side_m}", "give metres above 0, or leave it unset")
    return IngestOrder(
        region=named(request, "region"),
        sheets=tuple(request.sheets),
        area=_area_from(request),
        zoom=request.zoom if request.HasField("zoom") else None,
        side_m=side_m,
        storage=STORAGES[request.storage],
        skip_bad_sheets=request.skip_bad_sheets,
    )


def fleet_order_from(request: relocalization_service_pb2.RelocalizeFleetRequest) -> FleetOrder:
    """The order that a request gives.

    Raises:
        InvalidRequest: a field is missing or outside its limit.
    """
    _check_path(request.manifest, "manifest")
    most = request.max_images if request.HasField("max_images") else None
    if most is not None and most < 1:
        raise InvalidRequest("max_images", f"is {most}", "give 1 or more, or leave it unset")
    return FleetOrder(manifest=request.manifest, max_images=most, rerun=request.rerun)


def operation_id_from(name: str, field: str = "name") -> str:
    """The id in an operation's name.

    Raises:
        InvalidRequest: there is no name.
        UnknownOperation: no operation can have it.
    """
    if not name:
        raise InvalidRequest(field, "is unset", "give the operation's name")
    if not re.fullmatch(rf"{PREFIX}[a-z0-9-]{{1,128}}", name):
        raise UnknownOperation(name[:160])
    return name.removeprefix(PREFIX)


def operation_message(operation: Operation) -> operations_pb2.Operation:
    """An operation as clients get it."""
    message = operations_pb2.Operation(name=PREFIX + operation.id, done=operation.state.done)
    message.metadata.Pack(
        job_pb2.JobMetadata(
            state=STATES[operation.state],
            completed_count=operation.done,
            total_count=operation.total,
            unit=operation.unit,
            create_time=timestamp(operation.created_at),
            update_time=timestamp(operation.updated_at),
            region=operation.region,
        )
    )
    if operation.state is State.SUCCEEDED:
        message.response.Pack(_result_message(operation))
    elif operation.state.done:
        message.error.CopyFrom(_status_of(operation))
    return message


def operation_page_of(
    operations: Sequence[Operation], request: operations_pb2.ListOperationsRequest
) -> operations_pb2.ListOperationsResponse:
    """The page of operations that a request asks for.

    Raises:
        InvalidRequest: a filter, a bad page size or a token that this service never gave.
    """
    if request.name not in ("", "operations") or request.filter:
        field = "filter" if request.filter else "name"
        raise InvalidRequest(field, "is not supported", "leave it unset; all operations are listed")
    first, size = first_row_from(request.page_token), page_size_from(request.page_size or None)
    return operations_pb2.ListOperationsResponse(
        operations=[operation_message(each) for each in operations[first : first + size]],
        next_page_token=token_for(first + size, len(operations)),
    )


def page_size_from(size: int | None) -> int:
    """How many items a page shall have.

    Raises:
        InvalidRequest: too few or too many.
    """
    if size is None:
        return DEFAULT_PAGE_SIZE
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"is {size}", f"give 1 to {MAX_PAGE_SIZE}")
    return size


def first_row_from(token: str) -> int:
    """The row that a page begins with.

    Raises:
        InvalidRequest: the token is not one of ours.
    """
    if not token:
        return 0
    if not re.fullmatch(r"row-[0-9]{1,12}", token):
        raise InvalidRequest("page_token", "is not one of ours", "start again without a token")
    return int(token.removeprefix("row-"))


def token_for(row: int, total: int) -> str:
    """The token of the page that begins with a row; empty behind the last."""
    return f"row-{row}" if row < total else ""


def image_page_message(
    page: ImagePage, first: int
) -> relocalization_service_pb2.ListRelocalizedImagesResponse:
    """Rows of a result as clients get them."""
    return relocalization_service_pb2.ListRelocalizedImagesResponse(
        images=[image_message(row) for row in page.rows],
        next_page_token=token_for(first + len(page.rows), page.total),
    )


def image_message(row: Mapping[str, Any]) -> relocalization_service_pb2.RelocalizedImage:
    """One row; what is not known stays unset."""
    known: dict[str, Any] = {name: row[name] for name in (*TEXTS, *NUMBERS) if row[name] is not None}
    for field, prefix in POSITIONS.items():
        if row[f"{prefix}latitude"] is not None:
            known[field] = LatLng(latitude=row[f"{prefix}latitude"], longitude=row[f"{prefix}longitude"])
    captured_at: datetime | None = row["captured_at"]
    return relocalization_service_pb2.RelocalizedImage(
        **known,
        capture_time=timestamp(captured_at),
        prior_conflict=bool(row["prior_conflict"]),
        patch_quadkeys=row["patches"] or (),
    )


def _area_from(request: ingestion_service_pb2.IngestRegionRequest) -> BaseGeometry | None:
    if not request.area:
        return None
    message = prior_pb2.PositionPrior(polygon=prior_pb2.PolygonPrior(polygons=request.area))
    try:
        prior = prior_from(message, "area")
    except InvalidRequest as error:
        raise InvalidRequest("area", error.problem, error.remedy) from error
    except BadPrior as error:
        remedy = f"must be {error.limit}; {error.remedy}"
        raise InvalidRequest("area", f"is {str(error.value)[:80]}", remedy) from error
    assert isinstance(prior, PolygonPrior)
    return prior.polygon


def _check_path(path: str, field: str) -> None:
    if not path or len(path) > MAX_PATH or "\0" in path:
        raise InvalidRequest(field, "is no path", f"give 1 to {MAX_PATH} characters")


def _result_message(operation: Operation) -> Message:
    result = operation.result or {}
    match operation.kind:
        case "ingest":
            return ingestion_service_pb2.IngestRegionResponse(
                region=result["region"],
                generation=result["generation"],
                model_digest=result["model_digest"],
                planned_patch_count=result["planned"],
                indexed_patch_count=result["indexed"],
                embedded_patch_count=result["embedded"],
                skipped=[
                    ingestion_service_pb2.SkippedPatches(reason=reason, count=count)
                    for reason, count in result["skipped"].items()
                ],
                already_live=result["already_live"],
                area_km2=result["area_km2"],
            )
        case "relocalize":
            return relocalization_service_pb2.RelocalizeFleetResponse(
                image_count=result["images"],
                embedded_image_count=result["embedded"],
                status_counts=[
                    relocalization_service_pb2.StatusCount(status=status, count=count)
                    for status, count in result["counts"].items()
                ],
                smoothed_localized_count=result["smoothed_localized"],
                prior_conflict_count=result["prior_conflicts"],
                moved_p50_m=result["moved_p50_m"],
                moved_p95_m=result["moved_p95_m"],
                r68_p50_m=result["r68_p50_m"],
            )
        case _:
            raise TypeError(f"unknown kind of job: {operation.kind}")


def _status_of(operation: Operation) -> status_pb2.Status:
    """Why an operation ended without a result, as google.rpc.Status."""
    cancelled = operation.state is State.CANCELLED
    code = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.ABORTED
    message = "somebody asked it to stop; submit it again to go on" if cancelled else operation.error
    reason = "CANCELLED" if cancelled else re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", operation.reason or "")
    status = status_pb2.Status(code=code.value[0], message=message or "it failed")
    detail = status.details.add()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason.upper() or "FAILED", domain=ERROR_DOMAIN))
    return status
