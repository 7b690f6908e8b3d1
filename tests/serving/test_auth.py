"""Keys, scopes and quotas."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import build_app
from serving.auth import (
    ANYBODY,
    ApiKey,
    Caller,
    KeyRing,
    Quotas,
    Scope,
    check_scope,
    digest_of,
    keys_in_file,
    keys_in_text,
    new_key,
    presented_key,
)
from serving.errors import BadKeys, QuotaExceeded, ScopeMissing, Unauthenticated

ENTRY = {"name": "app", "sha256": digest_of("secret"), "scopes": ["locate"]}


def ring(*secrets: str) -> KeyRing:
    return KeyRing(
        ApiKey(name=secret, sha256=digest_of(secret), scopes=frozenset({Scope.LOCATE})) for secret in secrets
    )


def test_a_key_is_recognised_wherever_it_stands():
    found = [ring("a", "b", "c").caller(secret).name for secret in "abc"]
    assert found == ["a", "b", "c"]


@given(st.text())
def test_no_other_text_is_a_key(text):
    if text != "secret":
        with pytest.raises(Unauthenticated):
            ring("secret").caller(text)


def test_no_key_is_not_the_empty_key():
    with pytest.raises(Unauthenticated):
        ring("").caller(None)


def test_without_keys_anybody_may_locate_and_nobody_may_change():
    caller = KeyRing().caller(None)
    check_scope(caller, Scope.LOCATE)
    for scope in (Scope.ADMIN, Scope.INGEST):
        with pytest.raises(Unauthenticated):
            check_scope(caller, scope)


@pytest.mark.parametrize("held", Scope)
@pytest.mark.parametrize("asked", Scope)
def test_a_scope_allows_itself_alone(held, asked):
    caller = Caller(name="x", scopes=frozenset({held}))
    if held is asked:
        check_scope(caller, asked)
    else:
        with pytest.raises(ScopeMissing, match=asked.value):
            check_scope(caller, asked)


def test_a_quota_comes_back_with_time():
    now = [0.0]
    quotas = Quotas(clock=lambda: now[0])
    caller = Caller(name="x", scopes=frozenset(), requests_per_minute=60.0)
    for _ in range(6):
        quotas.take(caller)
    with pytest.raises(QuotaExceeded) as caught:
        quotas.take(caller)
    assert caught.value.retry_after_s == pytest.approx(1.0)
    now[0] += caught.value.retry_after_s
    quotas.take(caller)


@given(
    per_minute=st.floats(1.0, 6000.0),
    replicas=st.integers(1, 4),
    gaps_s=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200),
)
def test_a_quota_is_never_exceeded_in_the_long_run(per_minute, replicas, gaps_s):
    now = [0.0]
    quotas = Quotas(replicas=replicas, clock=lambda: now[0])
    caller = Caller(name="x", scopes=frozenset(), requests_per_minute=per_minute)
    taken = 0
    for gap_s in gaps_s:
        now[0] += gap_s
        try:
            quotas.take(caller)
            taken += 1
        except QuotaExceeded as error:
            assert error.retry_after_s > 0.0
    share = per_minute / replicas
    assert taken <= now[0] * share / 60.0 + max(1.0, share / 10.0) + 1e-6


def test_callers_have_quotas_of_their_own():
    quotas = Quotas(clock=lambda: 0.0)
    for name in "ab":
        quotas.take(Caller(name=name, scopes=frozenset(), requests_per_minute=1.0))


def test_anybody_has_no_quota():
    quotas = Quotas(clock=lambda: 0.0)
    for _ in range(1000):
        quotas.take(ANYBODY)


def test_a_file_of_keys_is_read(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(
        f'[[keys]]\nname = "app"\nsha256 = "{digest_of("secret")}"\nscopes = ["locate", "admin"]\n'
        "requests_per_minute = 600\n"
    )
    (key,) = keys_in_file(path)
    assert key.scopes == {Scope.LOCATE, Scope.ADMIN}
    assert key.requests_per_minute == 600.0
    assert KeyRing([key]).caller("secret").name == "app"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": ""}, "no name"),
        ({"sha256": "secret"}, "no sha256"),
        ({"scopes": []}, "no scopes"),
        ({"scopes": ["root"]}, "unknown scope"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": True}, "requests_per_minute"),
        ({"key": "secret"}, "unknown field 'key'"),
    ],
)
def test_an_entry_that_is_not_complete_is_refused(change, problem):
    with pytest.raises(BadKeys, match=problem):
        keys_in_text(json.dumps([ENTRY | change]), "CLNET_API_KEYS")


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", json.dumps([ENTRY, ENTRY])])
def test_what_is_no_list_of_keys_is_refused(text):
    with pytest.raises(BadKeys):
        keys_in_text(text, "CLNET_API_KEYS")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadKeys, match="cannot be read"):
        keys_in_file(tmp_path / "keys.toml")


def test_keys_are_shown_nowhere():
    assert digest_of("secret") not in repr(keys_in_text(json.dumps([ENTRY]), "x"))


def test_new_keys_differ():
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ([("authorization", "Bearer k")], "k"),
        ([("authorization", "bearer k")], "k"),
        ([("x-api-key", "k")], "k"),
        ([("authorization", "Basic k")], None),
        ([("authorization", b"Bearer k")], None),
        ([], None),
    ],
)
def test_where_a_key_is_looked_for(metadata, key):
    assert presented_key(metadata) == key


def test_the_command_writes_a_table_that_can_be_read(tmp_path):
    made = CliRunner().invoke(build_app(), ["new-key", "Büro 🚀"])
    path = tmp_path / "keys.toml"
    path.write_text(made.stdout)
    assert tomllib.loads(path.read_text())["keys"][0]["name"] == "Büro 🚀"
