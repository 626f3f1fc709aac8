"""api.md, Effects (R27)."""

from __future__ import annotations

import time
import uuid
from typing import Any
from urllib.parse import quote

import pytest

from tests.conformance.client import Answer, Api, Queue


@pytest.fixture
def effect() -> str:
    return f"run:step/{uuid.uuid4().hex}"


def begin(api: Api, effect: str, **more: Any) -> Answer:
    return api.post("/v1/effects/begin", {"effect_id": effect, "owner": "me", **more})


def shown(api: Api, effect: str) -> Answer:
    return api.get("/v1/effects/" + quote(effect, safe=""))


def test_granted_then_done(api: Api, effect: str) -> None:
    granted = begin(api, effect).ok().told
    assert (granted["state"], granted["uncertain"]) == ("granted", False)
    assert shown(api, effect).ok()["state"] == "granted"
    done = api.post("/v1/effects/commit", {"effect_token": granted["effect_token"], "result": {"id": 7}}).ok()
    assert (done["state"], done["result"]) == ("done", {"id": 7})
    told = begin(api, effect).ok().told
    assert (told["state"], told["result"]) == ("done", {"id": 7})


def test_get(api: Api, effect: str) -> None:
    shown(api, effect).refused(404, "effect_not_found")
    begin(api, effect, ttl_ms=60_000).ok()
    told = shown(api, effect).ok().told
    assert told["effect_id"] == effect
    assert (told["state"], told["uncertain"], told["result"], told["owner"]) == ("granted", False, None, "me")
    assert isinstance(told["expires_at_ms"], int)
    assert "effect_token" not in told


def test_held_while_another_holder_lives(api: Api, effect: str) -> None:
    begin(api, effect).ok()
    assert begin(api, effect, owner="you").refused(409, "effect_held")["retry"] == "later"
    begin(api, effect).refused(409, "effect_held")  # the same owner is no proof of being the same


def test_only_the_same_request_id_repeats_a_grant(api: Api, effect: str) -> None:
    key = uuid.uuid4().hex
    first = begin(api, effect, request_id=key).ok().told
    again = begin(api, effect, request_id=key).ok().told
    assert again["effect_token"] == first["effect_token"]
    assert again["repeated"] is True


def test_commit_is_idempotent(api: Api, effect: str) -> None:
    token = begin(api, effect).ok()["effect_token"]
    first = api.post("/v1/effects/commit", {"effect_token": token, "result": 1}).ok()
    assert "repeated" not in first.told
    again = api.post("/v1/effects/commit", {"effect_token": token, "result": 1}).ok()
    assert (again["state"], again["result"], again["repeated"]) == ("done", 1, True)


def test_abort_opens_it_again_without_doubt(api: Api, effect: str) -> None:
    token = begin(api, effect).ok()["effect_token"]
    assert api.post("/v1/effects/abort", {"effect_token": token}).ok()["state"] == "aborted"
    assert shown(api, effect).ok()["state"] == "open"
    again = begin(api, effect).ok().told
    assert (again["state"], again["uncertain"]) == ("granted", False)


def test_a_grant_that_ran_out_leaves_doubt(api: Api, effect: str) -> None:
    old = begin(api, effect, ttl_ms=50).ok()["effect_token"]
    deadline = time.monotonic() + 10
    while (answer := begin(api, effect)).status == 409 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert answer.ok()["uncertain"] is True
    api.post("/v1/effects/commit", {"effect_token": old}).refused(409, "stale_effect")
    api.post("/v1/effects/abort", {"effect_token": answer["effect_token"]}).ok()
    assert begin(api, effect).ok()["uncertain"] is True, "an abort restores the doubt of before"


def test_tokens_never_issued(api: Api) -> None:
    for verb in ("commit", "abort"):
        for token in ("x", "A" * 32):
            api.post(f"/v1/effects/{verb}", {"effect_token": token}).refused(404, "effect_not_found")


def test_a_grant_bound_to_a_lease(api: Api, q: Queue, effect: str) -> None:
    q.send()
    token = q.take()["lease_token"]
    assert begin(api, effect, lease_token=token).ok()["state"] == "granted"
    q.release(token)
    assert begin(api, effect).ok()["uncertain"] is True
    begin(api, effect + "x", lease_token=token).refused(409, "stale_lease")


def test_effects_commit_with_the_ack(api: Api, q: Queue, effect: str) -> None:
    q.send()
    token = q.take()["lease_token"]
    begin(api, effect, lease_token=token).ok()
    assert q.ack(token, effects=[{"effect_id": effect, "result": 5}])["status"] == "acked"
    told = shown(api, effect).ok().told
    assert (told["state"], told["result"]) == ("done", 5)


def test_an_effect_never_begun_commits_with_the_ack(api: Api, q: Queue, effect: str) -> None:
    q.send()
    assert q.ack(q.take()["lease_token"], effects=[{"effect_id": effect}])["status"] == "acked"
    assert shown(api, effect).ok()["state"] == "done"


def test_somebody_elses_effect_refuses_the_ack(api: Api, q: Queue, effect: str) -> None:
    granted = begin(api, effect).ok()["effect_token"]
    message = q.send(retention_ms=60_000)
    token = q.take()["lease_token"]
    for effects in (
        [{"effect_id": effect}],
        [{"effect_id": effect, "effect_token": "malformed"}],
        [{"effect_id": effect, "effect_token": "A" * 32}],
    ):
        assert q.ack(token, effects=effects)["status"] not in ("acked", "not_found")
        assert q.message(message)["state"] == "leased"
    assert q.ack(token, effects=[{"effect_id": effect, "effect_token": granted}])["status"] == "acked"


def test_an_effect_may_be_called_anything(api: Api) -> None:
    unique = uuid.uuid4().hex
    for effect in (f"a/b?c#{unique}", f"ü {unique}", f"%2F{unique}"):
        begin(api, effect).ok()
        assert shown(api, effect).ok()["effect_id"] == effect


def test_what_begin_refuses(api: Api, effect: str) -> None:
    begin(api, "").refused(400, "invalid_argument", "/effect_id", 256)
    begin(api, "e" * 257).refused(400, "invalid_argument", "/effect_id", 256)
    begin(api, effect, owner="").refused(400, "invalid_argument", "/owner", 256)
    for ttl_ms in (0, 43_200_001):
        begin(api, effect, ttl_ms=ttl_ms).refused(400, "invalid_argument", "/ttl_ms")
    begin(api, effect, ttl_ms=43_200_000).ok()
