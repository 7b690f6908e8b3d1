"""Who calls, what they may do, and how often: API keys with scopes and quotas. Knows nothing of gRPC.

Keys are kept as SHA-256 digests. They are 256 random bits (`new_key`), so that a plain digest cannot be
guessed back; a key chosen by a person could be.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from serving.errors import BadKeys, QuotaExceeded, ScopeMissing, Unauthenticated

KEY_PREFIX = "clnet_"
DIGEST_RULE = re.compile(r"[0-9a-f]{64}")
BURST_S = 6.0  # a quota of 60 a minute lets 6 requests come at once
FIELDS = frozenset({"name", "sha256", "scopes", "requests_per_minute"})


class Scope(Enum):
    """What a key allows."""

    LOCATE = "locate"
    INGEST = "ingest"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key without the key itself."""

    name: str
    sha256: str = field(repr=False)
    """Hexadecimal digest of the key."""
    scopes: frozenset[Scope]
    requests_per_minute: float | None = None
    """None: no quota."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who a call comes from."""

    name: str
    scopes: frozenset[Scope]
    requests_per_minute: float | None = None


# Without keys everybody may look and nobody may change anything: what is open by default must not delete.
ANYBODY = Caller(name="anybody", scopes=frozenset({Scope.LOCATE}))


class KeyRing:
    """Recognises callers by their key."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    def caller(self, presented: str | None) -> Caller:
        """The caller who presents a key; without any keys on the ring, anybody.

        Every key is compared, each in constant time, so that the time taken tells nothing about them.

        Raises:
            Unauthenticated: no key, or an unknown one.
        """
        if not self._keys:
            return ANYBODY
        digest = digest_of(presented or "")
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if presented is None or not found:
            raise Unauthenticated
        key = found[0]
        return Caller(name=key.name, scopes=key.scopes, requests_per_minute=key.requests_per_minute)


class Quotas:
    """A token bucket for each caller, in the memory of one replica.

    Args:
        replicas: how many share the quota; each gives its part, so that together they never give more.
    """

    def __init__(self, *, replicas: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._replicas = replicas
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, when that was

    def take(self, caller: Caller) -> None:
        """Count one request.

        Raises:
            QuotaExceeded: the caller has none left; says when there will be one.
        """
        if caller.requests_per_minute is None:
            return
        per_s = caller.requests_per_minute / 60.0 / self._replicas
        most = max(1.0, per_s * BURST_S)
        now_s = self._clock()
        left, since_s = self._buckets.get(caller.name, (most, now_s))
        left = min(most, left + (now_s - since_s) * per_s)
        if left < 1.0:
            self._buckets[caller.name] = (left, now_s)
            raise QuotaExceeded((1.0 - left) / per_s, caller.name, caller.requests_per_minute)
        self._buckets[caller.name] = (left - 1.0, now_s)


def check_scope(caller: Caller, scope: Scope) -> None:
    """Refuse what a caller may not do.

    Raises:
        ScopeMissing: the caller's key lacks the scope.
        Unauthenticated: no keys are in use, and without one nobody has the scope.
    """
    if scope in caller.scopes:
        return
    if caller is ANYBODY:
        raise Unauthenticated
    raise ScopeMissing(f"key {caller.name!r}", scope.value)


def presented_key(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The key in a call's metadata: `authorization: Bearer KEY` (RFC 6750) or `x-api-key: KEY`."""
    values = {name.lower(): value for name, value in metadata if isinstance(value, str)}
    kind, _, token = values.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return values.get("x-api-key") or None


def new_key() -> str:
    """A fresh key of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def keys_in_file(path: Path) -> tuple[ApiKey, ...]:
    """Keys of a TOML file with a table `[[keys]]` for each.

    Raises:
        BadKeys: it cannot be read, or an entry is not complete.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadKeys(
            str(path), f"cannot be read ({error.strerror})", "name a file that this user can read"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadKeys(str(path), f"is no TOML ({error})", "write [[keys]] tables") from error
    return _keys_of(values.get("keys"), str(path))


def keys_in_text(text: str, place: str) -> tuple[ApiKey, ...]:
    """Keys of a JSON list with an object for each, as an environment variable holds it.

    Raises:
        BadKeys: it is none, or an entry is not complete.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadKeys(place, "is no JSON", "give a list of objects") from error
    return _keys_of(values, place)


def _keys_of(values: Any, place: str) -> tuple[ApiKey, ...]:
    if not isinstance(values, list) or not values:
        raise BadKeys(place, "holds no keys", "add at least one, or leave the setting out")
    keys = tuple(_key_of(value, f"{place}, key {number}") for number, value in enumerate(values, start=1))
    _check_distinct([key.name for key in keys], place, "name")
    _check_distinct([key.sha256 for key in keys], place, "sha256")
    return keys


def _key_of(value: Any, place: str) -> ApiKey:
    if not isinstance(value, Mapping):
        raise BadKeys(place, "is no table", "give name, sha256 and scopes")
    unknown = set(value) - FIELDS
    if unknown:
        raise BadKeys(place, f"has the unknown field {min(unknown)!r}", f"use {', '.join(sorted(FIELDS))}")
    name, digest = value.get("name"), value.get("sha256")
    if not isinstance(name, str) or not 1 <= len(name) <= 64:
        raise BadKeys(place, "has no name of 1 to 64 characters", "name who uses it")
    if not isinstance(digest, str) or not DIGEST_RULE.fullmatch(digest):
        raise BadKeys(place, "has no sha256 of 64 hexadecimal digits", "make one with `clnet new-key`")
    return ApiKey(
        name=name,
        sha256=digest,
        scopes=_scopes_of(value.get("scopes"), place),
        requests_per_minute=_quota_of(value.get("requests_per_minute"), place),
    )


def _scopes_of(values: Any, place: str) -> frozenset[Scope]:
    known = ", ".join(scope.value for scope in Scope)
    if not isinstance(values, list) or not values:
        raise BadKeys(place, "has no scopes", f"list some of {known}")
    try:
        return frozenset(Scope(value) for value in values)
    except ValueError as error:
        raise BadKeys(place, f"has an unknown scope ({error})", f"use {known}") from error


def _quota_of(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
        raise BadKeys(place, f"has requests_per_minute {value!r}", "give a number above 0, or leave it out")
    return float(value)


def _check_distinct(values: Sequence[str], place: str, what: str) -> None:
    if len(set(values)) != len(values):
        raise BadKeys(place, f"two keys have the same {what}", "give each its own")
