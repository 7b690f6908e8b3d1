"""The planner: exact unless another method was seen to hold at such a share of candidates, and to pay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spatial_index.planner import EXACT, RECALL, Method, Profile, Trial, choose_plan

GRAPH = Method(name="graph", ef=256)
ACORN = Method(name="acorn", ef=128)


def trial(method, share, *, ms=1.0, recall=1.0):
    return Trial(method=method, share=share, ms=ms, recall_at_10=recall)


LARGE = Profile(
    trials=(
        trial(EXACT, 1.0, ms=100.0), trial(EXACT, 0.1, ms=10.0), trial(EXACT, 0.01, ms=1.0),
        trial(GRAPH, 1.0, ms=3.0), trial(GRAPH, 0.1, ms=2.0, recall=0.6), trial(GRAPH, 0.01, recall=0.7),
        trial(ACORN, 1.0, ms=5.0), trial(ACORN, 0.1, ms=6.0), trial(ACORN, 0.01, ms=6.0),
    )
)  # fmt: skip


def chosen(candidates, patches=1_000_000, profile=LARGE):
    return choose_plan(candidates=candidates, patches=patches, profile=profile).method


def test_without_a_profile_every_candidate_is_compared():
    plan = choose_plan(candidates=7, patches=9)
    assert plan.method == EXACT
    assert "7 candidates of 9 patches" in plan.reason


def test_no_candidate_is_no_problem():
    assert chosen(0) == EXACT


def test_the_fastest_method_that_holds_is_taken():
    assert chosen(1_000_000) == GRAPH
    assert chosen(100_000) == ACORN


def test_between_two_shares_a_method_must_hold_at_both():
    assert chosen(500_000) == ACORN  # the graph fails at 0.1


def test_what_hardly_pays_is_left():
    assert chosen(20_000) == EXACT  # acorn would take 6 ms, the scan 2


def test_below_what_was_measured_only_the_exact_scan_holds():
    acorn_everywhere = Profile(trials=(trial(EXACT, 0.01, ms=50.0), trial(ACORN, 0.01)))
    assert chosen(10_000, profile=acorn_everywhere) == ACORN
    assert chosen(9_000, profile=acorn_everywhere) == EXACT


def test_the_reason_names_what_was_weighed():
    reason = choose_plan(candidates=1_000_000, patches=1_000_000, profile=LARGE).reason
    assert "graph ef 256" in reason
    assert "3.0 ms, exact 100.0 ms" in reason


def test_a_graph_search_keeps_room_for_what_is_asked():
    assert GRAPH.list_length(10) == 256
    assert GRAPH.list_length(200) == 800


def test_a_profile_survives_json():
    assert Profile.from_json(LARGE.to_json()) == LARGE


shares = st.sampled_from([0.001, 0.01, 0.1, 0.5, 1.0])
trials = st.lists(
    st.builds(
        Trial,
        method=st.sampled_from([EXACT, GRAPH, ACORN]),
        share=shares,
        ms=st.floats(0.01, 1e3),
        recall_at_10=st.floats(0.0, 1.0),
    ),
    max_size=15,
    unique_by=lambda each: (each.method, each.share),
)


@given(trials, st.integers(1, 1_000_000))
def test_no_method_is_used_where_it_was_seen_to_lose_hits(rows, candidates):
    method = chosen(candidates, profile=Profile(trials=tuple(rows)))
    if method == EXACT:
        return
    share = candidates / 1_000_000
    own = sorted((row for row in rows if row.method == method), key=lambda row: row.share)
    next_above = min(row.share for row in own if row.share >= share)
    next_below = max((row.share for row in own if row.share <= share), default=None)
    assert next_below is not None
    around = [row for row in own if row.share in {next_above, next_below}]
    assert all(row.recall_at_10 >= RECALL for row in around)
