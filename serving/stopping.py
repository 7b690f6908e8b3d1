"""Ends a service on Ray Serve: what is in work is answered, what is new is refused by a typed error."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import ray
from ray import serve

logger = logging.getLogger(__name__)

DRAIN_REPLY_S = 5.0
ON_ITS_WAY_S = 0.2  # an answer that has left its replica is still to pass the proxy


def drain(application: str, longest_s: float) -> None:
    """Have every ingress replica take no more images and finish those in work.

    Serve's own draining does not do: `serve.shutdown` ends the proxy first, and `serve.delete` ends all
    deployments at once, the index before the images that are still being embedded come to it.
    """
    try:
        ingress = serve.get_app_handle(application)
        replies = ingress.broadcast("drain", longest_s)
        left = sum(replies.results(timeout_s=longest_s + DRAIN_REPLY_S))
    except Exception as error:  # what is down has nothing in work
        logger.warning("stopping without waiting for requests in work: %s", error)
        return
    if left:
        logger.warning("stopping with %d images in work after %g s", left, longest_s)
    time.sleep(ON_ITS_WAY_S)


def end(owns_ray: bool) -> None:
    """Stop Serve, and Ray where it is ours. The proxy goes first: callers are refused, not led astray."""
    with quiet_driver():
        try:
            serve.shutdown()  # type: ignore[no-untyped-call]
        finally:
            if owns_ray:
                ray.shutdown()


@contextlib.contextmanager
def quiet_driver() -> Iterator[None]:
    """Serve logs its own progress in the calling process too; keep it to errors."""
    log = logging.getLogger("ray.serve")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
