"""api.md, "Effects (exactly-once side effects)"; rule R27."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.contract.helper import Api, eventually


def begin(api: Api, effect: str, owner: str = "me", **more: Any) -> dict[str, Any]:
    return dict(api.post("/v1/effects/begin", {"effect_id": effect, "owner": owner, **more}).ok())


def look(api: Api, effect: str) -> dict[str, Any]:
    return dict(api.get(f"/v1/effects/{quote(effect, safe='')}").ok())


@pytest.fixture
def effect(name: str) -> str:
    return f"run:{name}:charge 1/ü"


def test_grant_commit_done(api: Api, effect: str) -> None:
    api.get(f"/v1/effects/{quote(effect, safe='')}").refused(404, "effect_not_found")
    granted = begin(api, effect)
    assert granted["state"] == "granted" and granted["uncertain"] is False
    assert isinstance(granted["effect_token"], str)
    seen = look(api, effect)
    assert seen["effect_id"] == effect and seen["state"] == "granted" and seen["owner"] == "me"
    assert seen["uncertain"] is False and seen["expires_at_ms"] > time.time() * 1000
    assert "effect_token" not in seen
    commit = {"effect_token": granted["effect_token"], "result": {"id": "ch_1"}}
    first = api.post("/v1/effects/commit", commit).ok()
    assert first["state"] == "done" and first["result"] == {"id": "ch_1"} and not first.get("repeated")
    again = api.post("/v1/effects/commit", commit).ok()
    assert again["state"] == "done" and again["result"] == {"id": "ch_1"} and again["repeated"] is True
    done = begin(api, effect, "other")
    assert done["state"] == "done" and done["result"] == {"id": "ch_1"} and "effect_token" not in done
    seen = look(api, effect)
    assert seen["state"] == "done" and seen["result"] == {"id": "ch_1"}


def test_held_while_another_live_holder_has_it(api: Api, effect: str) -> None:
    begin(api, effect, ttl_ms=60_000)
    for owner in ("other", "me"):
        held = api.post("/v1/effects/begin", {"effect_id": effect, "owner": owner})
        problem = held.refused(409, "effect_held")
        assert problem["retry"] == "later"
        assert 0 < problem["retry_after_ms"] <= 60_000


def test_only_the_same_request_id_repeats_a_live_grant(api: Api, effect: str) -> None:
    request = {"effect_id": effect, "owner": "me", "request_id": f"{effect}-1"}
    first = api.post("/v1/effects/begin", request).ok()
    again = api.post("/v1/effects/begin", request).ok()
    assert again["effect_token"] == first["effect_token"] and again["repeated"] is True


def test_abort_says_it_did_not_happen(api: Api, effect: str) -> None:
    token = begin(api, effect)["effect_token"]
    assert api.post("/v1/effects/abort", {"effect_token": token}).ok()["state"] == "aborted"
    seen = look(api, effect)
    assert seen["state"] == "open" and seen["uncertain"] is False
    assert begin(api, effect)["uncertain"] is False
    api.post("/v1/effects/commit", {"effect_token": token}).refused(409, "stale_effect")


def test_expiry_leaves_uncertain_and_abort_restores_it(api: Api, effect: str) -> None:
    old = begin(api, effect, ttl_ms=100)["effect_token"]
    eventually(lambda: look(api, effect)["state"] == "open", 9)
    assert look(api, effect)["uncertain"] is True
    second = begin(api, effect, "second")
    assert second["uncertain"] is True
    api.post("/v1/effects/commit", {"effect_token": old}).refused(409, "stale_effect")
    api.post("/v1/effects/abort", {"effect_token": old}).refused(409, "stale_effect")
    assert look(api, effect)["state"] == "granted", "a superseded token changes nothing"
    api.post("/v1/effects/abort", {"effect_token": second["effect_token"]}).ok()
    third = begin(api, effect, "third")
    assert third["uncertain"] is True, "as it was before"
    assert third["effect_token"] not in (old, second["effect_token"])
    api.post("/v1/effects/commit", {"effect_token": third["effect_token"]}).ok()
    assert begin(api, effect)["state"] == "done"
    api.post("/v1/effects/abort", {"effect_token": third["effect_token"]}).refused(409, "stale_effect")


def test_a_grant_bound_to_a_lease_lives_as_long_as_it(api: Api, name: str, effect: str) -> None:
    api.enqueue(name)
    token = api.one(name, lease_ms=40_000)["lease_token"]
    granted = begin(api, effect, lease_token=token)
    api.post("/v1/extend", {"extensions": [{"lease_token": token, "lease_ms": 80_000}]}).ok()
    assert look(api, effect)["expires_at_ms"] > time.time() * 1000 + 60_000
    api.nack(token)
    seen = look(api, effect)
    assert seen["state"] == "open" and seen["uncertain"] is True
    api.post("/v1/effects/commit", {"effect_token": granted["effect_token"]}).refused(409, "stale_effect")
    begin_again = api.post("/v1/effects/begin", {"effect_id": effect, "owner": "me", "lease_token": token})
    begin_again.refused(409, "stale_lease")
    both = {"effect_id": effect, "owner": "me", "lease_token": token, "ttl_ms": 5}
    assert api.post("/v1/effects/begin", both).status in (400, 409)


def test_an_acks_effects_commit_with_it(api: Api, name: str, effect: str) -> None:
    api.enqueue(name)
    token = api.one(name)["lease_token"]
    begin(api, effect, lease_token=token)
    fresh = f"{effect}:fresh"
    ack = {
        "lease_token": token,
        "effects": [{"effect_id": effect, "result": 1}, {"effect_id": fresh, "result": 2}],
    }
    assert api.post("/v1/ack", {"acks": [ack]}).ok()["results"] == [{"status": "acked"}]
    for each, result in ((effect, 1), (fresh, 2)):
        seen = look(api, each)
        assert seen["state"] == "done" and seen["result"] == result
    assert api.post("/v1/ack", {"acks": [ack]}).ok()["results"] == [{"status": "acked", "repeated": True}]


def test_an_acks_effect_needs_its_token(api: Api, name: str, effect: str) -> None:
    api.enqueue(name)
    lease = api.one(name)["lease_token"]
    granted = begin(api, effect, "somebody")
    ack = {"lease_token": lease, "effects": [{"effect_id": effect}]}
    refused = api.post("/v1/ack", {"acks": [ack]}).ok()["results"][0]
    assert refused["status"] not in ("acked",), refused
    assert api.counts(name)["leased"] == 1 and look(api, effect)["state"] == "granted"
    right = {
        "lease_token": lease,
        "effects": [{"effect_id": effect, "effect_token": granted["effect_token"], "result": 7}],
    }
    assert api.post("/v1/ack", {"acks": [right]}).ok()["results"][0]["status"] == "acked"
    assert look(api, effect)["result"] == 7


def test_a_stale_ack_commits_no_effect(api: Api, name: str, effect: str) -> None:
    api.enqueue(name)
    lease = api.one(name)["lease_token"]
    api.nack(lease)
    ack = {"lease_token": lease, "effects": [{"effect_id": effect}]}
    assert api.post("/v1/ack", {"acks": [ack]}).ok()["results"] == [{"status": "stale_lease"}]
    api.get(f"/v1/effects/{quote(effect, safe='')}").refused(404, "effect_not_found")


def test_a_token_never_issued_is_404(api: Api) -> None:
    for verb in ("commit", "abort"):
        for token in ("garbage", "", "A" * 32):
            api.post(f"/v1/effects/{verb}", {"effect_token": token}).refused(404, "effect_not_found")


def test_bad_requests(api: Api, effect: str) -> None:
    path = "/v1/effects/begin"
    for body, field in [
        ({"owner": "o"}, "/effect_id"),
        ({"effect_id": "", "owner": "o"}, "/effect_id"),
        ({"effect_id": effect}, "/owner"),
        ({"effect_id": effect, "owner": 5}, "/owner"),
        ({"effect_id": "x" * 257, "owner": "o"}, "/effect_id"),
        ({"effect_id": effect, "owner": "o", "ttl_ms": 0}, "/ttl_ms"),
        ({"effect_id": effect, "owner": "o", "ttl_ms": "1"}, "/ttl_ms"),
        ({"effect_id": effect, "owner": "o", "x": 1}, "/x"),
    ]:
        api.post(path, body).refused(400, "invalid_argument", field)
    api.post("/v1/effects/commit", {}).refused(400, "invalid_argument", "/effect_token")
    api.post("/v1/effects/abort", {"effect_token": 1}).refused(400, "invalid_argument", "/effect_token")


def test_two_begins_at_once_grant_one(api: Api, effect: str) -> None:
    from tests.acceptance.contract.helper import later

    replies = [
        later(api.post, "/v1/effects/begin", {"effect_id": effect, "owner": f"o{n}"}) for n in range(8)
    ]
    assert sorted(reply.result(10).status for reply in replies) == [200] + [409] * 7
