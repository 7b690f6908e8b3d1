"""The replica that embeds: it answers for the model that is asked for, and for no other."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.errors import ModelReplaced
from serving.replicas import EncoderReplica, Errand
from serving.tracing import TraceSettings


def test_another_model_than_the_one_asked_for_is_refused(encoder):
    canvases = np.zeros((2, encoder.canvas.height_px, encoder.canvas.width_px, 4), np.uint8)
    errand = Errand(budget_s=10.0, carrier={})

    async def run(model_digest: str) -> np.ndarray:
        replica = EncoderReplica(lambda: encoder, max_batch=2, traces=TraceSettings())
        return await replica.embed_ground(canvases, model_digest, errand)

    assert asyncio.run(run(encoder.digest)).shape == (2, encoder.dim)
    with pytest.raises(ModelReplaced, match="'fake-model' into a service of model 'before'"):
        asyncio.run(run("before"))
