"""Shadow searches: what is repeated, and what is made of it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.shadow import Shadow, recall_at_10
from spatial_index.errors import StoreUnavailable
from spatial_index.store import SearchRequest, SearchResult

REQUEST = SearchRequest(vectors=np.eye(2, dtype=np.float32)[:1], limit=10, model_digest="m")


def result_of(hits, plan="graph"):
    return SearchResult(hits=[list(hits)], candidates=99, plan=plan, plan_reason="")


@pytest.fixture
def exact_hits(make_hit):
    return [make_hit(i, 0, score=0.9 - 0.01 * i) for i in range(10)]


def shadowed(exact_hits, found, *, share=1.0, dice=0.5, plan="graph", times=1):
    """What is asked of the index, and what is observed."""
    asked, observed = [], []

    def search(request):
        asked.append(request)
        return result_of(exact_hits, plan="exact")

    async def run():
        shadow = Shadow(search, lambda *seen: observed.append(seen), share=share, dice=lambda: dice)
        for _ in range(times):
            shadow.consider(REQUEST, result_of(found, plan))
        await asyncio.sleep(0.05)

    asyncio.run(run())
    return asked, observed


def test_the_recall_of_a_graph_search_is_observed(exact_hits):
    asked, observed = shadowed(exact_hits, exact_hits[:7])
    assert [request.exact for request in asked] == [True]
    assert observed == [("graph", pytest.approx(0.7))]


def test_exact_searches_are_not_repeated(exact_hits):
    assert shadowed(exact_hits, exact_hits, plan="exact") == ([], [])


def test_only_a_sample_is_repeated(exact_hits):
    assert shadowed(exact_hits, exact_hits, share=0.4, dice=0.4) == ([], [])
    assert len(shadowed(exact_hits, exact_hits, share=0.4, dice=0.39)[1]) == 1


def test_one_runs_at_a_time(exact_hits):
    assert len(shadowed(exact_hits, exact_hits, times=20)[0]) == 1


def test_a_promotion_in_between_is_no_loss(exact_hits):
    older = [hit._replace(generation="before") for hit in exact_hits]
    assert shadowed(exact_hits, older)[1] == []


def test_a_failing_index_is_logged_and_harmless(exact_hits, caplog):
    def search(_):
        raise StoreUnavailable("there", "it is gone", "start it")

    async def run():
        shadow = Shadow(search, lambda *_: pytest.fail("nothing to observe"), share=1.0)
        shadow.consider(REQUEST, result_of(exact_hits))
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert "shadow search failed" in caplog.text


def test_recall_is_the_mean_over_the_vectors(exact_hits):
    exact = SearchResult(hits=[exact_hits, exact_hits], candidates=99, plan="exact", plan_reason="")
    found = SearchResult(hits=[exact_hits, exact_hits[:5]], candidates=99, plan="graph", plan_reason="")
    assert recall_at_10(found, exact) == pytest.approx(0.75)
