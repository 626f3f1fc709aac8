"""The limits of requests that name many things, just inside and just outside (api.md, R25, R31)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import Api, Queue

MIB = 1024 * 1024
BOGUS = "x" * 43
NOBODY = "m" + "f" * 12


@pytest.mark.parametrize("verb", ["ack", "nack", "extend", "release"])
def test_a_settle_batch_has_at_most_1000_items(api: Api, verb: str) -> None:
    field = {"ack": "acks", "nack": "nacks", "extend": "extensions", "release": "leases"}[verb]
    items: list[dict[str, Any]] = [{"lease_token": BOGUS} for _ in range(1001)]
    results = api.post(f"/v1/{verb}", {field: items[:1000]}).ok()["results"]
    assert len(results) == 1000 and {one["status"] for one in results} == {"not_found"}
    api.post(f"/v1/{verb}", {field: items}).refused(413, "batch_too_large", f"/{field}", 1000)


def test_an_ack_commits_at_most_100_effects(api: Api, q: Queue) -> None:
    q.send()
    token = q.take()["lease_token"]
    effects = [{"effect_id": f"{q.name}/{n}", "result": n} for n in range(101)]
    refused = api.post("/v1/ack", {"acks": [{"lease_token": token, "effects": effects}]})
    refused.refused(413, "batch_too_large", "/acks/0/effects", 100)
    assert q.ack(token, effects=effects[:100])["status"] == "acked"
    assert api.get(f"/v1/effects/{q.name}%2F99").ok()["state"] == "done"
    api.get(f"/v1/effects/{q.name}%2F100").refused(404, "effect_not_found")


def test_redrive_names_at_most_1000_ids(api: Api, q: Queue) -> None:
    dead = q.kill()
    api.post(q.path + "/dead/redrive", {"ids": [dead, *[NOBODY] * 1000]}).refused(
        413, "batch_too_large", "/ids", 1000
    )
    assert q.state()["dead"] == 1
    assert api.post(q.path + "/dead/redrive", {"ids": [dead, *[NOBODY] * 999]}).ok()["ids"] == [dead]


@pytest.mark.parametrize("path", ["/messages", "/dead"])
@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [("limit", 1000, 1001), ("limit", 1, 0), ("max_bytes", 8 * MIB, 8 * MIB + 1)],
)
def test_limits_of_a_list(api: Api, q: Queue, path: str, name: str, inside: int, outside: int) -> None:
    api.get(f"{q.path}{path}?{name}={inside}").ok()
    told = api.get(f"{q.path}{path}?{name}={outside}").refused(400, "invalid_argument", "/" + name).told
    assert told["limit"] == inside


def test_a_list_shows_100_unless_asked_for_more(q: Queue) -> None:
    q.send_all([{} for _ in range(101)])
    assert len(q.api.get(q.path + "/messages").ok()["messages"]) == 100
    assert len(q.api.get(q.path + "/messages?limit=101").ok()["messages"]) == 101


def test_a_backoff_has_at_most_100_delays(q: Queue) -> None:
    delays = list(range(101))
    q.put(backoff={"type": "list", "delays_ms": delays[:100]}).ok()
    q.put(backoff={"type": "list", "delays_ms": delays}).refused(
        400, "invalid_argument", "/backoff/delays_ms", 100
    )


def test_request_ids_have_at_most_256_bytes(api: Api, q: Queue) -> None:
    api.post(q.path + "/messages", {"request_id": "r" * 256}).ok(201)
    api.post(q.path + "/messages", {"request_id": "r" * 257}).refused(
        400, "invalid_argument", "/request_id", 256
    )
