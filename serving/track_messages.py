"""Translates the frames of a sequence and what its track says between the wire and our values."""

from __future__ import annotations

from datetime import UTC

from clnet_model.calibration import Calibration
from serving.edge import STATUSES, response_from
from serving.errors import InvalidRequest
from serving.locate import Answer, Query, calibration_for
from serving.pb import localization_service_pb2, track_pb2
from serving.prior_messages import lat_lng
from serving.track import Odometry, Sighting, TrackPoint


def time_s_of(request: localization_service_pb2.LocalizeStreamRequest) -> float:
    """When a frame was taken, seconds since 1970.

    Raises:
        InvalidRequest: unset, or no time.
    """
    if not request.HasField("capture_time"):
        raise InvalidRequest("capture_time", "is unset", "say when the image was taken")
    try:
        return request.capture_time.ToDatetime(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("capture_time", "is no time", "give a time of the years 1 to 9999") from error


def odometry_from(request: localization_service_pb2.LocalizeStreamRequest) -> Odometry | None:
    """How the camera moved; None: unknown.

    Raises:
        InvalidRequest: a field is missing or outside its limit.
    """
    if not request.HasField("odometry"):
        return None
    message = request.odometry
    if not message.HasField("distance_m"):
        raise InvalidRequest("odometry.distance_m", "is unset", "leave odometry out when it is unknown")
    optional = {
        name: getattr(message, name)
        for name in ("distance_sigma_m", "course_deg", "course_sigma_deg")
        if message.HasField(name)
    }
    return Odometry(distance_m=message.distance_m, **optional)


def sighting_of(answer: Answer, query: Query, calibration: Calibration) -> Sighting:
    """What a frame's answer says to its track; the answer holds as many hypotheses as there may be."""
    return Sighting(
        status=answer.status,
        positions=[hypothesis.position for hypothesis in answer.hypotheses],
        probabilities=[hypothesis.probability for hypothesis in answer.hypotheses],
        sigma_m=calibration_for(query, calibration).position_sigma_m,
    )


def raw_response(answer: Answer, shown: int) -> localization_service_pb2.LocalizeResponse:
    """The frame's own answer, with the hypotheses that were asked for."""
    response = response_from(answer)
    del response.hypotheses[shown:]
    return response


def track_message(point: TrackPoint | None) -> track_pb2.TrackEstimate | None:
    """The track's estimate as clients get it."""
    if point is None:
        return None
    return track_pb2.TrackEstimate(
        status=STATUSES[point.status],
        position=lat_lng(point.position),
        probability=point.probability,
        r68_m=point.r68_m,
        r95_m=point.r95_m,
        course_deg=point.course_deg,
        used_frames=point.used_frames,
    )
