"""What a fleet's workers make, and what they refuse to make."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cli.fleet_localizer import FleetEmbedder
from workers.errors import ModelChanged


def test_a_checkpoint_that_was_replaced_after_planning_embeds_nothing():
    embedder = FleetEmbedder(SimpleNamespace(digest="new"), model_digest="old")
    with pytest.raises(ModelChanged, match=r"'new'.*planned for 'old'"):
        embedder.embed(["no image"])
    same = FleetEmbedder(SimpleNamespace(digest="old", dim=2), model_digest="old")
    assert same.embed(["no image"]).num_rows == 1
