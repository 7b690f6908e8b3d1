"""The queue of long jobs, with work that does what the test wants: order, cancelling, failures, restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import shapely

from cli.job_orders import Check, order_from_json, order_to_json
from cli.operations import OperationQueue
from serving.errors import UnknownOperation
from serving.operations import FleetOrder, IngestOrder, Operation, Order, State
from workers.jobs import JobRecord, Jobs, JobState

KIND = "ingest"


@dataclass
class FakeWork:
    """Work that is done by calling `do`."""

    job_id: str
    jobs: Jobs
    do: Callable[[Check], None]

    def record(self) -> JobRecord:
        return self.jobs.create(self.job_id, KIND, {"region": self.job_id})

    def is_done(self, record: JobRecord) -> bool:
        return record.state is JobState.SUCCEEDED

    def carry_out(self, check: Check) -> None:
        with self.jobs.run(self.job_id) as job:
            self.do(check)
            job.succeed({})


@dataclass
class FakeShop:
    """Plans fake work: an order's region is the job's id."""

    jobs: Jobs
    do: Callable[[Check], None] = lambda check: check()
    done: list[str] = field(default_factory=list)
    id_of: Callable[[str], str] = lambda region: region

    def planned(self, order: Order) -> FakeWork:
        assert isinstance(order, IngestOrder)

        def work(check: Check) -> None:
            self.do(check)
            self.done.append(order.region)

        return FakeWork(self.id_of(order.region), self.jobs, work)


@pytest.fixture
def shop(tmp_path: Path) -> FakeShop:
    return FakeShop(Jobs(tmp_path / "jobs"))


@pytest.fixture
def queue(shop: FakeShop) -> OperationQueue:
    return OperationQueue(shop)


def order(region: str) -> IngestOrder:
    return IngestOrder(region=region, sheets=("a.tif",))


def state(queue: OperationQueue, name: str) -> State:
    return queue.get(name).state


def test_jobs_are_done_in_the_order_of_their_submission(shop, queue):
    for name in ("one", "two", "three"):
        assert queue.submit(order(name)).state is State.PENDING
    for _ in range(3):
        queue.work_once()
    assert shop.done == ["one", "two", "three"]
    assert {each.state for each in queue.list()} == {State.SUCCEEDED}
    assert [each.id for each in queue.list()] == ["three", "two", "one"]


def test_the_same_order_is_one_job(shop, queue):
    first = queue.submit(order("one"))
    assert queue.submit(order("one")) == first
    queue.work_once()
    assert queue.submit(order("one")).state is State.SUCCEEDED
    queue.submit(order("two"))
    queue.work_once()
    assert shop.done == ["one", "two"]


def test_what_was_done_by_hand_before_it_was_ordered_is_an_operation_that_has_succeeded(shop, queue):
    shop.planned(order("one")).record()
    with shop.jobs.run("one") as job:
        job.succeed({})
    with pytest.raises(UnknownOperation):
        queue.get("one")
    assert queue.submit(order("one")).state is State.SUCCEEDED
    assert [each.id for each in queue.list()] == ["one"]
    assert shop.done == []  # nothing is done again


def test_a_job_that_waits_is_cancelled_at_once(shop, queue):
    queue.submit(order("one"))
    queue.submit(order("two"))
    queue.cancel("one")
    assert state(queue, "one") is State.CANCELLED
    queue.work_once()
    assert shop.done == ["two"]
    assert queue.submit(order("one")).state is State.PENDING
    queue.work_once()
    assert shop.done == ["two", "one"]


def begun(shop, queue) -> Callable[[], None]:
    """Order a job and begin it; it waits in its first step until it may end, by what is returned."""
    entered, go = threading.Event(), threading.Event()

    def wait_then_look(check: Check) -> None:
        entered.set()
        go.wait(10.0)
        check()

    shop.do = wait_then_look
    queue.submit(order("one"))
    worker = threading.Thread(target=queue.work_once)
    worker.start()
    entered.wait(10.0)

    def end() -> None:
        go.set()
        worker.join()

    return end


def test_a_job_that_runs_is_cancelled_at_its_next_step(shop, queue):
    end = begun(shop, queue)
    assert state(queue, "one") is State.RUNNING
    queue.cancel("one")
    end()
    assert state(queue, "one") is State.CANCELLED
    assert shop.done == []


@pytest.mark.parametrize("thought_better", [False, True])
def test_what_is_ordered_again_while_it_is_being_stopped_is_done_afterwards(shop, queue, thought_better):
    end = begun(shop, queue)
    queue.cancel("one")
    assert queue.submit(order("one")).state is State.PENDING
    assert [each.state for each in queue.list()] == [State.PENDING]
    if thought_better:
        queue.cancel("one")
    end()
    assert state(queue, "one") is (State.CANCELLED if thought_better else State.PENDING)
    queue.submit(order("two"))
    queue.work_once()
    assert shop.done == ["two" if thought_better else "one"]


def test_cancelling_what_is_done_changes_nothing(queue):
    queue.submit(order("one"))
    queue.work_once()
    queue.cancel("one")
    assert state(queue, "one") is State.SUCCEEDED


def test_a_failure_is_told_and_stops_nothing_else(shop, queue):
    def fail(_: Check) -> None:
        raise ValueError("the reason")

    shop.do = fail
    queue.submit(order("one"))
    queue.work_once()
    found: Operation = queue.get("one")
    assert (found.state, found.reason, found.error) == (State.FAILED, "ValueError", "the reason")
    shop.do = lambda check: check()
    queue.submit(order("one"))
    queue.work_once()
    assert state(queue, "one") is State.SUCCEEDED


def test_what_was_ordered_and_not_done_is_done_after_a_restart(shop, queue):
    queue.submit(order("one"))
    queue.submit(order("two"))
    queue.submit(order("three"))
    queue.work_once()
    queue.cancel("three")
    after = OperationQueue(shop)
    after.go_on()
    after.work_once()
    assert shop.done == ["one", "two"]
    assert not after._waiting


@pytest.mark.parametrize("restarted", [False, True])
def test_inputs_that_changed_while_a_job_waited_fail_it(shop, queue, restarted):
    queue.submit(order("one"))
    shop.id_of = lambda _: "another"
    if restarted:
        queue = OperationQueue(shop)
        queue.go_on()
    queue.work_once()
    found = queue.get("one")
    assert found.state is State.FAILED
    assert "other inputs" in (found.error or "")
    assert [each.id for each in queue.list()] == ["one"]
    assert shop.done == []


def test_an_order_that_cannot_be_read_fails_its_job_alone(shop, queue):
    queue.submit(order("one"))
    queue.submit(order("two"))
    (shop.jobs.folder("one") / "order.json").write_text("{")
    after = OperationQueue(shop)
    after.go_on()
    after.work_once()
    after.work_once()
    assert state(after, "one") is State.FAILED
    assert shop.done == ["two"]


def test_jobs_that_nobody_ordered_here_are_none_of_ours(shop, queue):
    shop.jobs.create("by-hand", KIND, {})
    assert queue.list() == []
    with pytest.raises(UnknownOperation):
        queue.get("by-hand")
    with pytest.raises(UnknownOperation):
        queue.cancel("nothing")
    with pytest.raises(UnknownOperation):
        queue.images("..", 0, 1)


@pytest.mark.parametrize(
    "given",
    [
        order("one"),
        IngestOrder(
            region="r", sheets=("a", "b"), area=shapely.box(0.1, 0.2, 1 / 3, 0.4), zoom=20, side_m=60.5,
            storage="int8", skip_bad_sheets=True,
        ),
        FleetOrder(manifest="a.csv"),
        FleetOrder(manifest="a.csv", max_images=3, rerun=True),
    ],
)  # fmt: skip
def test_orders_survive_their_file(given):
    assert order_from_json(order_to_json(given)) == given
