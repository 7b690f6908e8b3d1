"""Translates regions, builds, changes and coverage between the wire and our values."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import Message
from google.type.latlng_pb2 import LatLng
from shapely.geometry.base import BaseGeometry

from clnet_model.calibration import Calibration
from serving.coverage import Coverage, Covered, area_of
from serving.edge import check_lengths
from serving.errors import InvalidRequest
from serving.pb import (
    coverage_pb2,
    geometry_pb2,
    localization_service_pb2,
    prior_pb2,
    region_service_pb2,
)
from serving.prior_messages import polygons_of, prior_from, timestamp
from serving.regions import Change, GenerationDeletion, Promotion, RegionDeletion, Rollback
from spatial_index.errors import BadPrior
from spatial_index.priors import CirclePrior, PolygonPrior
from spatial_index.records import GenerationInfo, RegionInfo, check_name

MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100

Item = TypeVar("Item")
Paged = region_service_pb2.ListRegionsRequest | region_service_pb2.ListGenerationsRequest
ChangeRequest = (
    region_service_pb2.PromoteGenerationRequest
    | region_service_pb2.RollBackRegionRequest
    | region_service_pb2.DeleteRegionRequest
    | region_service_pb2.DeleteGenerationRequest
)


def page_of(
    regions: Iterable[RegionInfo], request: region_service_pb2.ListRegionsRequest
) -> region_service_pb2.ListRegionsResponse:
    """The page of regions that a request asks for.

    Raises:
        InvalidRequest: a bad page size or a token that this service never gave.
    """
    page, token = _page(regions, request, lambda region: region.name)
    return region_service_pb2.ListRegionsResponse(
        regions=[region_message(region) for region in page], next_page_token=token
    )


def generation_page_of(
    generations: Iterable[GenerationInfo], request: region_service_pb2.ListGenerationsRequest
) -> region_service_pb2.ListGenerationsResponse:
    """The page of builds that a request asks for.

    Raises:
        InvalidRequest: a bad page size or a token that this service never gave.
    """
    page, token = _page(generations, request, lambda info: info.spec.generation)
    return region_service_pb2.ListGenerationsResponse(
        generations=[_generation_message(info) for info in page], next_page_token=token
    )


def change_from(request: ChangeRequest) -> Change:
    """The change that a request asks for.

    Raises:
        InvalidRequest: a name is missing or too long.
        BadRegionName: a name that nothing can have.
    """
    check_lengths(request, "request_id")
    region = named(request, "region")
    match request:
        case region_service_pb2.PromoteGenerationRequest():
            return Promotion(
                region=region, generation=named(request, "generation"), expected_live=_expected(request)
            )
        case region_service_pb2.RollBackRegionRequest():
            return Rollback(region=region, expected_live=_expected(request))
        case region_service_pb2.DeleteRegionRequest():
            return RegionDeletion(region=region, expected_live=_expected(request))
        case region_service_pb2.DeleteGenerationRequest():
            return GenerationDeletion(region=region, generation=named(request, "generation"))
        case _:
            raise TypeError(f"the contract knows more changes than this module: {type(request).__name__}")


def named(request: Message, field: str) -> str:
    """A name that a request must hold.

    Raises:
        InvalidRequest: it is empty.
        BadRegionName: it cannot be a name.
    """
    name = str(getattr(request, field))
    if not name:
        raise InvalidRequest(field, "is unset", "give the name")
    return check_name("generation" if field == "generation" else "region", name)


def area_from(request: localization_service_pb2.GetCoverageRequest) -> BaseGeometry | None:
    """The area that a request asks about; None: everything.

    Raises:
        InvalidRequest: a field is missing or outside its limit.
        BadPrior: it cannot be an area; its field is relative to the request.
    """
    match kind := request.WhichOneof("area"):
        case None:
            return None
        case "circle":
            message = prior_pb2.PositionPrior(circle=request.circle)
        case "polygon":
            message = prior_pb2.PositionPrior(polygon=request.polygon)
        case "bounding_box":
            message = prior_pb2.PositionPrior(bounding_box=request.bounding_box)
        case _:
            raise ValueError(f"the contract knows more areas than this module: {kind}")
    try:
        prior = prior_from(message, "")
        assert isinstance(prior, CirclePrior | PolygonPrior)  # what the three kinds above become
        return area_of(prior)
    except InvalidRequest as error:
        raise InvalidRequest(error.field.lstrip("."), error.problem, error.remedy) from error
    except BadPrior as error:
        remedy = f"must be {error.limit}; {error.remedy}"
        raise InvalidRequest(error.field, f"is {str(error.value)[:80]}", remedy) from error


def coverage_response(
    coverage: Coverage, *, calibration: Calibration, model_digest: str
) -> localization_service_pb2.GetCoverageResponse:
    """Coverage as clients get it."""
    return localization_service_pb2.GetCoverageResponse(
        model_digest=model_digest,
        regions=[_coverage_message(covered) for covered in coverage.regions],
        gaps=polygons_of(coverage.gaps),
        covered_fraction=coverage.covered_fraction,
        expected_accuracies=[
            coverage_pb2.ExpectedAccuracy(
                hfov_deg=view.hfov_deg,
                heading_known=view.heading_known,
                r68_m=view.position_r68_m if calibration.fitted else None,
            )
            for view in calibration.views
        ],
    )


def region_message(region: RegionInfo) -> region_service_pb2.Region:
    """A region as clients get it."""
    west, south, east, north = region.coverage.bounds
    return region_service_pb2.Region(
        name=region.name,
        generation=region.generation,
        model_digest=region.model_digest,
        vector_dimension=region.dim,
        zoom=region.zoom,
        side_m=region.side_m,
        patch_count=region.patches,
        bounds=geometry_pb2.BoundingBox(
            south_west=LatLng(latitude=south, longitude=west),
            north_east=LatLng(latitude=north, longitude=east),
        ),
        coverage=polygons_of(region.coverage),
        create_time=timestamp(region.created_at),
        imagery_start_time=timestamp(region.imagery_from),
        imagery_end_time=timestamp(region.imagery_to),
    )


def _generation_message(info: GenerationInfo) -> region_service_pb2.RegionGeneration:
    return region_service_pb2.RegionGeneration(
        region=info.spec.region,
        generation=info.spec.generation,
        state=_state_of(info),
        model_digest=info.spec.model_digest,
        patch_count=info.patches,
        create_time=timestamp(info.created_at),
        imagery_start_time=timestamp(info.imagery_from),
        imagery_end_time=timestamp(info.imagery_to),
    )


def _state_of(info: GenerationInfo) -> region_service_pb2.GenerationState.ValueType:
    if info.live:
        return region_service_pb2.GENERATION_STATE_LIVE
    if info.previous:
        return region_service_pb2.GENERATION_STATE_PREVIOUS
    if info.complete:
        return region_service_pb2.GENERATION_STATE_COMPLETE
    return region_service_pb2.GENERATION_STATE_UNFINISHED


def _coverage_message(covered: Covered) -> coverage_pb2.RegionCoverage:
    return coverage_pb2.RegionCoverage(
        region=covered.info.name,
        generation=covered.info.generation,
        model_digest=covered.info.model_digest,
        searchable=covered.searchable,
        coverage=polygons_of(covered.area),
        area_km2=covered.area_km2,
        imagery_start_time=timestamp(covered.info.imagery_from),
        imagery_end_time=timestamp(covered.info.imagery_to),
    )


def _page(items: Iterable[Item], request: Paged, name_of: Callable[[Item], str]) -> tuple[list[Item], str]:
    """A page by name, and the token of the next one: the name that it starts after."""
    size = request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"is {size}", f"give 1 to {MAX_PAGE_SIZE}")
    after = _name_in(request.page_token)
    rest = [item for item in sorted(items, key=name_of) if name_of(item) > after]
    return rest[:size], _token_for(name_of(rest[size - 1])) if len(rest) > size else ""


def _token_for(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_in(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidRequest("page_token", "is not one of ours", "start again without a token") from error


def _expected(
    request: region_service_pb2.PromoteGenerationRequest
    | region_service_pb2.RollBackRegionRequest
    | region_service_pb2.DeleteRegionRequest,
) -> str | None:
    return request.expected_live_generation if request.HasField("expected_live_generation") else None
