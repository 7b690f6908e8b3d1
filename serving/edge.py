"""Translates between the wire and our values: requests are checked here and nowhere else.

Knows protobuf and the values of the core; knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from serving.camera_messages import image_message, optics_from
from serving.errors import InvalidRequest
from serving.fuse import Hypothesis, RankedPatch, Status
from serving.locate import Answer, HeadingPrior, Query
from serving.pb import (
    answer_pb2,
    localization_service_pb2,
    prior_pb2,
)
from serving.prior_messages import lat_lng, message_of, prior_from

MAX_REGIONS = 100
MAX_NAME_LENGTH = 128

STATUSES = {
    Status.LOCALIZED: answer_pb2.LOCALIZATION_STATUS_LOCALIZED,
    Status.AMBIGUOUS: answer_pb2.LOCALIZATION_STATUS_AMBIGUOUS,
    Status.NO_CONFIDENT_MATCH: answer_pb2.LOCALIZATION_STATUS_NO_CONFIDENT_MATCH,
    Status.OUT_OF_COVERAGE: answer_pb2.LOCALIZATION_STATUS_OUT_OF_COVERAGE,
}


def query_from(request: localization_service_pb2.LocalizeRequest) -> Query:
    """What a request asks, checked.

    Raises:
        InvalidRequest: a field is missing or outside its limit.
        clnet_model.errors.BadLens: intrinsics that no camera has.
        spatial_index.errors.BadPrior: the position prior cannot mean a place.
    """
    optics = optics_from(request.image)
    check_lengths(request, "request_id", "model_digest")
    defaults = Query()
    return Query(
        hfov_deg=optics.hfov_deg,
        lens=optics.lens,
        pitch_deg=optics.pitch_deg,
        roll_deg=optics.roll_deg,
        heading=_heading_from(request.heading_prior) if request.HasField("heading_prior") else None,
        prior=prior_from(request.position_prior) if request.HasField("position_prior") else None,
        regions=region_names(request.regions),
        max_hypotheses=_given(request, "max_hypotheses", defaults.max_hypotheses),
        max_patches=_given(request, "max_candidate_patches", defaults.max_patches),
    )


def timeout_from(request: localization_service_pb2.LocalizeRequest, longest_s: float) -> float:
    """The time budget of a request, at most `longest_s` seconds.

    Raises:
        InvalidRequest: not a positive number.
    """
    if not request.HasField("timeout_s"):
        return longest_s
    if not request.timeout_s > 0.0:
        raise InvalidRequest("timeout_s", f"is {request.timeout_s}", "give seconds greater than 0")
    return min(request.timeout_s, longest_s)


def response_from(answer: Answer) -> localization_service_pb2.LocalizeResponse:
    """An answer as the client gets it."""
    return localization_service_pb2.LocalizeResponse(
        status=STATUSES[answer.status],
        hypotheses=[_hypothesis(hypothesis) for hypothesis in answer.hypotheses],
        candidate_patches=[_patch(patch) for patch in answer.patches],
        prior_conflict=answer.prior_conflict,
        model_digest=answer.model_digest,
        generations=[
            answer_pb2.Generation(region=region, generation=generation)
            for region, generation in answer.generations
        ],
        plan=answer.plan,
        plan_reason=answer.plan_reason,
        searched_patches=answer.searched_patches,
        timings=localization_service_pb2.StageTimings(
            **{f"{stage}_ms": spent_ms for stage, spent_ms in answer.timings_ms.items()}
        ),
    )


def request_from(data: bytes, query: Query) -> localization_service_pb2.LocalizeRequest:
    """The request that asks a query about an encoded image; `query_from` undoes it."""
    return localization_service_pb2.LocalizeRequest(
        image=image_message(data, query),
        heading_prior=_heading(query.heading) if query.heading else None,
        position_prior=message_of(query.prior) if query.prior else None,
        regions=query.regions,
        max_hypotheses=query.max_hypotheses,
        max_candidate_patches=query.max_patches,
    )


def check_lengths(request: Message, *fields: str) -> None:
    """Refuse names of a request that are longer than any name is.

    Raises:
        InvalidRequest: names the field.
    """
    for field in fields:
        length = len(getattr(request, field))
        if length > MAX_NAME_LENGTH:
            raise InvalidRequest(field, f"has {length} characters", f"give at most {MAX_NAME_LENGTH}")


def region_names(names: Sequence[str]) -> tuple[str, ...]:
    """The regions that a request names.

    Raises:
        InvalidRequest: too many.
    """
    if len(names) > MAX_REGIONS:
        raise InvalidRequest("regions", f"has {len(names)} names", f"give at most {MAX_REGIONS}")
    return tuple(names)


def _heading_from(prior: prior_pb2.HeadingPrior) -> HeadingPrior:
    if not prior.HasField("heading_deg"):
        raise InvalidRequest(
            "heading_prior.heading_deg", "is unset", "leave heading_prior out when the heading is unknown"
        )
    return HeadingPrior(heading_deg=prior.heading_deg, accuracy_deg=prior.accuracy_deg)


def _heading(heading: HeadingPrior) -> prior_pb2.HeadingPrior:
    return prior_pb2.HeadingPrior(heading_deg=heading.heading_deg, accuracy_deg=heading.accuracy_deg)


def _hypothesis(hypothesis: Hypothesis) -> answer_pb2.Hypothesis:
    return answer_pb2.Hypothesis(
        position=lat_lng(hypothesis.position),
        probability=hypothesis.probability,
        r68_m=hypothesis.r68_m,
        r95_m=hypothesis.r95_m,
        heading_deg=hypothesis.heading_deg,
        heading_r68_deg=hypothesis.heading_r68_deg,
        supporting_patches=[_patch(patch) for patch in hypothesis.patches],
    )


def _patch(patch: RankedPatch) -> answer_pb2.CandidatePatch:
    return answer_pb2.CandidatePatch(
        quadkey=patch.hit.quadkey,
        centre=lat_lng(patch.hit.location),
        side_m=patch.hit.side_m,
        region=patch.hit.region,
        generation=patch.hit.generation,
        similarity=patch.similarity,
        probability=patch.probability,
        heading_deg=patch.heading_deg,
    )


def _given(message: Message, field: str, default: int) -> int:
    return int(getattr(message, field)) if message.HasField(field) else default
