"""In bulk, images are localized as one by one."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from clnet_model.errors import BadImage
from serving.bulk import CANVASES, locate_seen, look, see
from serving.locate import HeadingPrior, Query, locate
from spatial_index.priors import CirclePrior, PriorMode


def encoded(pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def queries(camera):
    near = CirclePrior(centre=camera, radius_m=150.0, mode=PriorMode.SOFT)
    return [
        Query(heading=HeadingPrior(heading_deg=90.0)),
        Query(),
        Query(prior=near),
        Query(heading=HeadingPrior(heading_deg=80.0, accuracy_deg=20.0), prior=near),
    ]


def in_bulk(images, queries, encoder, index):
    views = [look(image, query, encoder) for image, query in zip(images, queries, strict=True)]
    return locate_seen(
        see(views, encoder),
        queries,
        search=lambda groups: [[index.search(request) for request in group] for group in groups],
        calibration=encoder.calibration,
        model_digest=encoder.digest,
    )


def test_answers_are_those_of_the_service(panorama, encoder, index, queries):
    found = in_bulk([encoded(panorama)] * len(queries), queries, encoder, index)
    for query, answer in zip(queries, found, strict=True):
        alone = locate(panorama, query, encoder=encoder, index=index)
        assert answer.hypotheses == alone.hypotheses
        assert (answer.status, answer.prior_conflict) == (alone.status, alone.prior_conflict)


def test_many_canvases_are_embedded_in_parts(panorama, encoder, index):
    batches = []
    embed = encoder.embed_ground
    encoder.embed_ground = lambda canvases: batches.append(len(canvases)) or embed(canvases)
    found = in_bulk([encoded(panorama)] * 5, [Query()] * 5, encoder, index)
    assert len(found) == 5
    assert sum(batches) == 5 * 24
    assert max(batches) == CANVASES


def test_an_image_that_is_none_is_refused(encoder):
    with pytest.raises(BadImage):
        look(b"no image", Query(), encoder)


def test_nothing_is_nothing(encoder):
    assert see([], encoder) == []
