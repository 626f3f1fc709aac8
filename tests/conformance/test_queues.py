"""api.md, Queues, and the Queue shape."""

from __future__ import annotations

import time
import uuid

import pytest

from tests.conformance.client import Api, Queue

DEFAULTS = {
    "lease_ms": 30_000,
    "max_attempts": 5,
    "backoff": {
        "type": "exponential",
        "base_ms": 1000,
        "factor": 2,
        "max_ms": 300_000,
        "jitter": 0.5,
        "delays_ms": [],
    },
    "ttl_ms": None,
    "dead_retention_ms": 1_209_600_000,
    "max_dead": 100_000,
    "idempotency_window_ms": 3_600_000,
    "retention_ms": 0,
    "result_retention_ms": 3_600_000,
    "max_messages": None,
    "max_bytes": None,
    "on_full": "reject",
    "max_leased": None,
    "rate_limit": None,
    "max_leased_per_group": 1,
    "breaker": None,
}
COUNTS = ("ready", "leasable", "delayed", "leased", "dead", "blocked")


def test_put_creates_then_replaces(api: Api, name: str) -> None:
    created = api.put(f"/v1/queues/{name}", {"lease_ms": 1000}).ok(201)
    assert created["lease_ms"] == 1000
    replaced = api.put(f"/v1/queues/{name}", {"max_attempts": 9}).ok(200)
    assert (replaced["lease_ms"], replaced["max_attempts"]) == (30_000, 9)


def test_the_defaults(api: Api, q: Queue) -> None:
    told = q.state()
    assert {field: told[field] for field in DEFAULTS} == DEFAULTS


def test_a_queue_is_one_flat_object(api: Api, q: Queue) -> None:
    told = q.state()
    assert told["queue"] == q.name
    assert all(told[count] == 0 for count in COUNTS)
    assert told["bytes"] == 0
    assert told["paused"] == {"enqueue": False, "lease": False}
    assert told["oldest_ready_age_ms"] is None
    assert isinstance(told["revision"], int)


def test_counts(api: Api, q: Queue) -> None:
    first = q.send("a" * 100)
    q.send(priority=-1)
    q.send(delay_ms=60_000)
    q.send(depends_on=[first], priority=-1)
    q.take()
    told = q.state()
    assert {count: told[count] for count in COUNTS} == {
        "ready": 1,
        "leasable": 1,
        "delayed": 1,
        "leased": 1,
        "dead": 0,
        "blocked": 1,
    }
    assert told["bytes"] >= 102
    assert told["oldest_ready_age_ms"] >= 0


def test_patch_changes_only_what_is_given(api: Api, q: Queue) -> None:
    q.put(lease_ms=1000, backoff={"type": "fixed", "base_ms": 50}).ok()
    told = api.patch(q.path, {"backoff": {"jitter": 0.125}}).ok()
    assert told["lease_ms"] == 1000
    assert told["backoff"] == {**DEFAULTS["backoff"], "type": "fixed", "base_ms": 50, "jitter": 0.125}


def test_put_of_a_part_of_backoff_keeps_the_other_defaults(api: Api, q: Queue) -> None:
    q.put(backoff={"base_ms": 7}).ok()
    told = q.put(backoff={"factor": 1.5}).ok()
    assert told["backoff"] == {**DEFAULTS["backoff"], "factor": 1.5}


def test_patch_of_no_queue(api: Api, name: str) -> None:
    api.patch(f"/v1/queues/{name}", {}).refused(404, "queue_not_found")


def test_if_match(api: Api, q: Queue) -> None:
    revision = q.state()["revision"]
    changed = api.patch(q.path, {"lease_ms": 5}, headers={"If-Match": f'"{revision}"'}).ok()
    assert changed["revision"] != revision
    for method in ("PUT", "PATCH"):
        api.call(method, q.path, {}, headers={"If-Match": str(revision)}).refused(412, "revision_changed")
    assert q.state()["lease_ms"] == 5
    api.put(q.path, {}, headers={"If-Match": "soon"}).refused(400, "invalid_argument", "/If-Match")


def test_list(api: Api) -> None:
    stem = uuid.uuid4().hex[:8]
    names = [f"{stem}-{letter}" for letter in "abc"]
    for each in names:
        api.put(f"/v1/queues/{each}", {}).ok(201)
    page = api.get(f"/v1/queues?limit=2&after={stem}").ok().told
    assert [each["queue"] for each in page["queues"]] == names[:2]
    assert page["next"] == names[1]
    assert set(COUNTS) <= page["queues"][0].keys()
    following = api.get(f"/v1/queues?limit=1000&after={page['next']}").ok().told
    assert following["queues"][0]["queue"] == names[2]
    last = api.get("/v1/queues?after=zzzzzzzz").ok().told
    assert (last["queues"], last["next"]) == ([], None)


def test_get_of_no_queue(api: Api, name: str) -> None:
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")


def test_delete_takes_the_messages_and_leases_along(api: Api, q: Queue) -> None:
    message = q.send()
    token = q.take()["lease_token"]
    q.send()
    api.delete(q.path).ok()
    api.get(q.path).refused(404, "queue_not_found")
    api.get(f"/v1/messages/{message}").refused(404, "message_not_found")
    assert q.ack(token)["status"] == "not_found"
    api.delete(q.path).refused(404, "queue_not_found")


def test_delete_drops_the_keys(api: Api, q: Queue) -> None:
    first = q.send(1, idempotency_key="k")
    api.delete(q.path).ok()
    q.put().ok(201)
    assert q.send(1, idempotency_key="k") != first


def test_pause_stops_leases_by_default(api: Api, q: Queue) -> None:
    assert api.post(q.path + "/pause").ok()["paused"] == {"enqueue": False, "lease": True}
    q.send()
    assert q.lease() == []
    assert q.state()["leasable"] == 0
    assert api.post(q.path + "/resume").ok()["paused"] == {"enqueue": False, "lease": False}
    assert len(q.lease()) == 1


def test_pause_of_enqueue(api: Api, q: Queue) -> None:
    q.send()
    paused = api.post(q.path + "/pause", {"enqueue": True, "lease": False}).ok()
    assert paused["paused"] == {"enqueue": True, "lease": False}
    refused = api.post(q.path + "/messages", {}).refused(409, "queue_paused")
    assert refused["retry"] == "later"
    assert len(q.lease()) == 1


def test_purge_keeps_what_is_leased_and_the_keys(api: Api, q: Queue) -> None:
    leased = q.send(1)
    q.take()
    keyed = q.send(2, idempotency_key="k")
    q.send(3, delay_ms=60_000)
    assert api.post(q.path + "/purge").ok()["removed"] == 2
    told = q.state()
    assert (told["ready"], told["delayed"], told["leased"]) == (0, 0, 1)
    assert q.message(leased)["state"] == "leased"
    again = api.post(q.path + "/messages", {"body": 2, "idempotency_key": "k"}).ok(201)["messages"][0]
    assert (again["id"], again["duplicate"]) == (keyed, True)


@pytest.mark.parametrize("verb", ["pause", "resume", "purge"])
def test_verbs_on_no_queue(api: Api, name: str, verb: str) -> None:
    api.post(f"/v1/queues/{name}/{verb}").refused(404, "queue_not_found")


def test_the_first_enqueue_creates_a_queue(api: Api, name: str) -> None:
    api.post(f"/v1/queues/{name}/messages", {"body": 1}).ok(201)
    told = api.get(f"/v1/queues/{name}").ok().told
    assert {field: told[field] for field in DEFAULTS} == DEFAULTS


def test_max_messages_and_max_bytes(api: Api, q: Queue) -> None:
    q.put(max_messages=2).ok()
    q.send_all([{}, {}])
    full = api.post(q.path + "/messages", {}).refused(429, "queue_full", limit=2)
    assert full["retry"] == "later"
    assert int(full.headers["retry-after"]) >= 1
    assert full["retry_after_ms"] >= 1
    q.put(max_bytes=1000).ok()
    api.post(q.path + "/messages", {"body": "x" * 1000}).refused(429, "queue_full", limit=1000)


def test_a_full_queue_may_dead_letter_its_oldest(api: Api, q: Queue) -> None:
    q.put(max_messages=1, on_full="dead_letter_oldest").ok()
    old, new = q.send(1), q.send(2)
    assert q.message(old)["dead_reason"] == "queue_full"
    assert q.message(new)["state"] == "ready"


def test_max_leased_is_a_concurrency_cap(api: Api, q: Queue) -> None:
    q.put(max_leased=2).ok()
    q.send_all([{} for _ in range(5)])
    assert q.state()["leasable"] == 2
    leased = q.lease(5)
    assert len(leased) == 2
    assert q.lease(5) == []
    q.ack(leased[0]["lease_token"])
    assert len(q.lease(5)) == 1


def test_queue_ttl(api: Api, q: Queue) -> None:
    q.put(ttl_ms=50).ok()
    message = q.send()
    deadline = time.monotonic() + 8
    while q.state()["dead"] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert q.message(message)["dead_reason"] == "expired"


def test_rate_limit_and_breaker_come_later(api: Api, q: Queue) -> None:
    q.put(rate_limit=None, breaker=None).ok()
    q.put(rate_limit={"per_second": 1, "burst": 1}).refused(400, "invalid_argument", "/rate_limit")
    api.patch(q.path, {"breaker": {"failures": 5}}).refused(400, "invalid_argument", "/breaker")
