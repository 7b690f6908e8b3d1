"""A Ray to run on: the one already connected, a cluster by address, or one of our own on this machine.

A Ray of our own keeps to itself: loopback, no dashboard, no usage reports, no log lines in the operator's
terminal.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

from workers.errors import ClusterUnavailable

OBJECT_STORE_BYTES = 256 * 1024**2  # only vectors pass: 256 patches × 256 d × 4 B = 256 KiB per block
FREE_WAIT_S = 20.0
SETTLE_S = 3.0
MAX_CPU_ACTORS = 8  # each holds a copy of the model and its framework, about 0.6 GB


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorPlan:
    """How many embedding actors to run and what each one gets."""

    actors: int
    cores: int
    gpus: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSize:
    """What one machine of the cluster has, free or not."""

    cores: int
    gpus: int = 0


@contextmanager
def ray_cluster(address: str | None = None, *, share_bytes: int = 0) -> Iterator[None]:
    """Have Ray connected; what we connect, we disconnect.

    Args:
        address: of a cluster (`ray://…`, `host:port`, `auto`); None starts a local Ray unless one is
        connected.
        share_bytes: what all workers will be given, for which a local Ray makes room.

    Raises:
        ClusterUnavailable: nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no FutureWarning on CPU machines
    import ray  # noqa: PLC0415  takes 1 s and reads the environment

    if ray.is_initialized():
        yield
        return
    _connect(address, share_bytes)
    try:
        yield
    finally:
        ray.shutdown()


def plan_actors(*, limit: int) -> ActorPlan:
    """One actor per GPU where there are GPUs, else one per core up to MAX_CPU_ACTORS; at most `limit`.

    Small networks waste less on one thread each: 8.7 ms of CPU time per patch on one thread, 18.6 on two.

    Raises:
        ClusterUnavailable: no core is free.
    """
    import ray  # noqa: PLC0415

    free = _free_resources()
    nodes = [
        NodeSize(cores=int(node["Resources"].get("CPU", 0)), gpus=int(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return actors_on(nodes, free_cores=int(free["CPU"]), free_gpus=int(free.get("GPU", 0)), limit=limit)


def actors_on(nodes: Sequence[NodeSize], *, free_cores: int, free_gpus: int, limit: int) -> ActorPlan:
    """`plan_actors` for a cluster of these nodes.

    An actor runs on one node: one that asks for more cores than any node has is waited for without end.
    """
    gpus = 1 if free_gpus else 0
    actors = min(free_gpus if gpus else min(free_cores, MAX_CPU_ACTORS), limit)
    hosts = [node for node in nodes if node.cores and node.gpus >= gpus]
    cores = max(1, min([free_cores // actors, *(node.cores for node in hosts)]))
    while cores > 1 and sum(_room(node, cores, gpus) for node in hosts) < actors:
        cores -= 1
    return ActorPlan(actors=actors, cores=cores, gpus=gpus)


def _room(node: NodeSize, cores: int, gpus: int) -> int:
    """Actors that fit on an empty node."""
    return min(node.cores // cores, node.gpus) if gpus else node.cores // cores


def free_cores(*, at_most: int) -> int:
    """Cores that are free now; waits a little for those of a job that just ended.

    Raises:
        ClusterUnavailable: no core is free.
    """
    import ray  # noqa: PLC0415

    wanted = min(at_most, int(ray.cluster_resources().get("CPU", 0)))  # type: ignore[no-untyped-call]
    deadline_s = monotonic() + SETTLE_S
    while (free := int(_free_resources()["CPU"])) < wanted and monotonic() < deadline_s:
        sleep(0.1)
    return min(free, wanted)


def _free_resources() -> dict[str, float]:
    """What is free now, or soon: actors of a job that just ended give their cores back with a delay.

    Those of a job that failed live as long as their last handle, which may lie in a cycle that the collector
    has not come to.
    """
    import ray  # noqa: PLC0415

    deadline_s = monotonic() + FREE_WAIT_S
    while True:
        gc.collect()
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        if free.get("CPU", 0.0) >= 1:
            return free
        if monotonic() > deadline_s:
            raise ClusterUnavailable(
                f"the Ray cluster has had no free core for {FREE_WAIT_S:.0f} s; stop other jobs or add a node"
            )
        sleep(0.2)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Drop what C++ code writes to file descriptor 2; failures still arrive as exceptions."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _connect(address: str | None, share_bytes: int) -> None:
    import ray  # noqa: PLC0415

    if address is None:
        _start_local(share_bytes)
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {address!r} ({exc}); start one with `ray start --head`, or unset "
            "CLNET_RAY_ADDRESS to run on this machine"
        ) from exc


def _start_local(share_bytes: int) -> None:
    import ray  # noqa: PLC0415

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # 30 is short on a busy machine
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else C++ lines cut through the progress bar
    try:
        with _stderr_closed():  # and the very setting announces itself
            ray.init(
                address="local",
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES + share_bytes,
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as exc:  # a start that times out raises a bare Exception
        summary = str(exc).strip().splitlines()[0]
        raise ClusterUnavailable(
            f"Ray does not start on this machine ({summary}); stop what keeps it busy and try again"
        ) from exc
