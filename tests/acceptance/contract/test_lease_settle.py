"""api.md, "Messages": lease, ack, nack, extend, release; rules R12–R15, R18, R20, R26."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.contract.helper import Api, eventually, later, parked


def test_the_shape_of_a_lease(api: Api, name: str) -> None:
    number = api.enqueue(name, body={"a": 1}, headers={"h": "1"}, group="g", priority=2)
    before = int(time.time() * 1000)
    answer = api.post(f"/v1/queues/{name}/lease", {"consumer": "me"}).ok()
    assert abs(answer["now_ms"] - before) < 5000
    (message,) = answer["messages"]
    assert message["id"] == number and message["queue"] == name and message["attempt"] == 1
    assert message["body"] == {"a": 1} and message["headers"] == {"h": "1"}
    assert message["group"] == "g" and message["priority"] == 2
    assert isinstance(message["lease_token"], str) and len(message["lease_token"]) >= 22
    assert type(message["lease_expires_at_ms"]) is int and type(message["enqueued_at_ms"]) is int
    assert 28_000 <= message["lease_expires_at_ms"] - answer["now_ms"] <= 30_100


def test_lease_length_is_the_requests_else_the_messages_else_the_queues(api: Api, name: str) -> None:
    api.queue(name, lease_ms=10_000)
    for more, request, expected in (
        ({}, {}, 10_000),
        ({"lease_ms": 20_000}, {}, 20_000),
        ({"lease_ms": 20_000}, {"lease_ms": 5_000}, 5_000),
    ):
        api.enqueue(name, **more)
        answer = api.post(f"/v1/queues/{name}/lease", {"consumer": "c", **request}).ok()
        rest = answer["messages"][0]["lease_expires_at_ms"] - answer["now_ms"]
        assert expected - 2000 <= rest <= expected


def test_tokens_are_new_for_each_lease(api: Api, name: str) -> None:
    api.enqueue(name)
    seen = []
    for _ in range(4):
        seen.append(api.one(name)["lease_token"])
        api.post("/v1/release", {"leases": [{"lease_token": seen[-1]}]}).ok()
    assert len(set(seen)) == 4


def test_a_wait_ends_empty_and_writes_nothing(api: Api, name: str) -> None:
    api.queue(name)
    written = []
    for _ in range(5):  # a lease that an earlier test left may expire meanwhile, not each time
        index = api.get("/v1/cluster")["applied_index"]
        start = time.monotonic()
        answer = api.post(f"/v1/queues/{name}/lease", {"consumer": "c", "wait_ms": 400}).ok()
        assert 0.35 <= time.monotonic() - start < 3
        assert answer["messages"] == []
        assert api.post(f"/v1/queues/{name}/lease", {"consumer": "c"}).ok()["messages"] == []
        written.append(api.get("/v1/cluster")["applied_index"] - index)
        if not written[-1]:
            break
    assert not written[-1], written


def wake_ways() -> dict[str, Callable[[Api, str], Callable[[], Any]]]:
    """For each way: prepares the queue, returns what makes a message leasable."""

    def leased(api: Api, name: str, **more: Any) -> dict[str, Any]:
        api.enqueue(name, **more)
        return api.one(name)

    def enqueue(api: Api, name: str) -> Callable[[], Any]:
        api.queue(name)
        return lambda: api.enqueue(name)

    def batch(api: Api, name: str) -> Callable[[], Any]:
        api.queue(name)
        return lambda: api.enqueue_all(name, [{}, {}])

    def due(api: Api, name: str) -> Callable[[], Any]:
        api.enqueue(name, delay_ms=700)
        return lambda: None

    def expiry(api: Api, name: str) -> Callable[[], Any]:
        api.enqueue(name)
        lease = api.one(name, lease_ms=20_000)["lease_token"]
        return lambda: api.post("/v1/extend", {"extensions": [{"lease_token": lease, "lease_ms": 1}]}).ok()

    def nack(api: Api, name: str) -> Callable[[], Any]:
        token = leased(api, name)["lease_token"]
        return lambda: api.nack(token, delay_ms=0)

    def release(api: Api, name: str) -> Callable[[], Any]:
        token = leased(api, name)["lease_token"]
        return lambda: api.post("/v1/release", {"leases": [{"lease_token": token}]}).ok()

    def redrive(api: Api, name: str) -> Callable[[], Any]:
        api.kill_message(name)
        return lambda: api.post(f"/v1/queues/{name}/dead/redrive", {}).ok()

    def redrive_from_elsewhere(api: Api, name: str) -> Callable[[], Any]:
        api.queue(name)
        api.kill_message(f"{name}-other")
        return lambda: api.post(f"/v1/queues/{name}-other/dead/redrive", {"to": name}).ok()

    def resume(api: Api, name: str) -> Callable[[], Any]:
        api.enqueue(name)
        api.post(f"/v1/queues/{name}/pause").ok()
        return lambda: api.post(f"/v1/queues/{name}/resume").ok()

    def dependency(api: Api, name: str) -> Callable[[], Any]:
        lease = leased(api, name)
        api.enqueue(name, depends_on=[lease["id"]])
        return lambda: api.ack(lease["lease_token"])

    def failed_dependency(api: Api, name: str) -> Callable[[], Any]:
        first = api.enqueue(f"{name}-other")
        api.enqueue(name, depends_on=[first], on_dependency_failure="run")
        return lambda: api.delete(f"/v1/messages/{first}").ok()

    def ack_frees_group(api: Api, name: str) -> Callable[[], Any]:
        lease = leased(api, name, group="g")
        api.enqueue(name, group="g")
        return lambda: api.ack(lease["lease_token"])

    def dead_frees_group(api: Api, name: str) -> Callable[[], Any]:
        lease = leased(api, name, group="g")
        api.enqueue(name, group="g")
        return lambda: api.nack(lease["lease_token"], dead_letter=True)

    def ack_frees_cap(api: Api, name: str) -> Callable[[], Any]:
        api.queue(name, max_leased=1)
        lease = leased(api, name)
        api.enqueue(name)
        return lambda: api.ack(lease["lease_token"])

    def cancel_frees_group(api: Api, name: str) -> Callable[[], Any]:
        head = api.enqueue(name, group="g", delay_ms=60_000)
        api.enqueue(name, group="g")
        return lambda: api.delete(f"/v1/messages/{head}").ok()

    def configuration(api: Api, name: str) -> Callable[[], Any]:
        api.queue(name, max_leased=1)
        leased(api, name)
        api.enqueue(name)
        return lambda: api.patch(f"/v1/queues/{name}", {"max_leased": 2}).ok()

    def group_configuration(api: Api, name: str) -> Callable[[], Any]:
        leased(api, name, group="g")
        api.enqueue(name, group="g")
        return lambda: api.patch(f"/v1/queues/{name}", {"max_leased_per_group": 2}).ok()

    def patch_time(api: Api, name: str) -> Callable[[], Any]:
        number = api.enqueue(name, delay_ms=60_000)
        return lambda: api.patch(f"/v1/messages/{number}", {"deliver_at_ms": 1}).ok()

    def ack_with_enqueue(api: Api, name: str) -> Callable[[], Any]:
        token = leased(api, name)["lease_token"]
        request = {"acks": [{"lease_token": token}], "enqueue": [{"queue": name}]}
        return lambda: api.post("/v1/ack", request).ok()

    return {key: value for key, value in locals().items() if key != "leased"}


@pytest.mark.parametrize("way", sorted(wake_ways()))
def test_a_wait_wakes_on(api: Api, name: str, way: str) -> None:
    leases, seconds = parked(api, name, wake_ways()[way](api, name))
    assert len(leases) == 1, way
    assert seconds < 3


def test_deleting_the_queue_ends_its_waits(api: Api, name: str) -> None:
    api.queue(name)
    future = later(api.post, f"/v1/queues/{name}/lease", {"consumer": "c", "wait_ms": 9000})
    time.sleep(0.2)
    start = time.monotonic()
    api.delete(f"/v1/queues/{name}").ok()
    future.result(12).refused(404, "queue_not_found")
    assert time.monotonic() - start < 2


def test_waiting_consumers_are_dealt_to_one_by_one(api: Api, name: str) -> None:
    api.queue(name)
    futures = []
    for n in range(10):
        futures.append(later(api.lease, name, 10, f"c{n}", wait_ms=9000))
        time.sleep(0.06)
    ids = api.enqueue_all(name, [{"body": n} for n in range(10)])
    got = [future.result(12) for future in futures]
    assert [len(leases) for leases in got] == [1] * 10, "shared fairly: one each, not ten for the first"
    assert [leases[0]["id"] for leases in got] == ids, "in the order they came"


def test_many_waiters_one_message(api: Api, name: str) -> None:
    api.queue(name)
    futures = [later(api.lease, name, 1, f"c{n}", wait_ms=1500) for n in range(8)]
    time.sleep(0.3)
    number = api.enqueue(name)
    got = [lease["id"] for future in futures for lease in future.result(12)]
    assert got == [number]


def test_several_queues_in_the_order_given(api: Api, name: str) -> None:
    a, b, c = f"{name}a", f"{name}b", f"{name}c"
    for queue in (a, b, c):
        api.enqueue_all(queue, [{"body": queue}] * 2)
    got = api.post("/v1/lease", {"consumer": "c", "queues": [b, a], "max_messages": 3}).ok()["messages"]
    assert [m["queue"] for m in got] == [b, b, a]
    for queue in (a, b, c):
        api.post(f"/v1/queues/{queue}/purge").ok()
    future = later(api.post, "/v1/lease", {"consumer": "c", "queues": [a, b], "wait_ms": 9000})
    time.sleep(0.2)
    number = api.enqueue(b)
    assert [m["id"] for m in future.result(12).ok()["messages"]] == [number]
    api.post("/v1/lease", {"consumer": "c", "queues": []}).refused(400, "invalid_argument", "/queues")
    api.post("/v1/lease", {"consumer": "c", "queues": [f"{name}none"]}).refused(404, "queue_not_found")
    api.post("/v1/lease", {"consumer": "c"}).refused(400, "invalid_argument", "/queues")


def test_lease_repeats(api: Api, name: str) -> None:
    api.enqueue_all(name, [{"body": n} for n in range(4)])
    request = {"consumer": "c", "max_messages": 3, "request_id": f"{name}-l"}
    first = api.post(f"/v1/queues/{name}/lease", request).ok()
    again = api.post(f"/v1/queues/{name}/lease", request).ok()
    assert again["repeated"] is True
    tokens = [m["lease_token"] for m in first["messages"]]
    assert [m["lease_token"] for m in again["messages"]] == tokens
    assert again.get("lost", 0) == 0
    assert again["messages"][0]["body"] == 0 and "now_ms" in again
    api.ack(tokens[0])
    third = api.post(f"/v1/queues/{name}/lease", request).ok()
    assert [m["lease_token"] for m in third["messages"]] == tokens[1:] and third["lost"] == 1
    assert api.counts(name)["ready"] == 1, "grants nothing new"
    api.post(f"/v1/queues/{name}/lease", {**request, "max_messages": 2}).refused(409, "idempotency_conflict")


def test_an_empty_lease_is_not_remembered(api: Api, name: str) -> None:
    api.queue(name)
    request = {"consumer": "c", "request_id": f"{name}-e"}
    assert api.post(f"/v1/queues/{name}/lease", request).ok()["messages"] == []
    number = api.enqueue(name)
    assert [m["id"] for m in api.post(f"/v1/queues/{name}/lease", request).ok()["messages"]] == [number]


def test_a_repeat_while_the_first_is_parked_takes_no_second_message(api: Api, name: str) -> None:
    api.queue(name)
    request = {"consumer": "c", "wait_ms": 5000, "request_id": f"{name}-p"}
    futures = [later(api.post, f"/v1/queues/{name}/lease", request) for _ in range(2)]
    time.sleep(0.3)
    api.enqueue_all(name, [{}, {}])
    got = [future.result(12).ok()["messages"] for future in futures]
    assert {lease["lease_token"] for leases in got for lease in leases} == {got[0][0]["lease_token"]}
    assert api.counts(name)["leased"] == 1


def test_a_client_that_went_away_leaves_no_orphan(api: Api, name: str) -> None:
    import http.client
    import json

    api.queue(name)
    gone = http.client.HTTPConnection(api.host, api.port, timeout=5)
    body = json.dumps({"consumer": "gone", "wait_ms": 9000})
    gone.request("POST", f"/v1/queues/{name}/lease", body, {"Content-Type": "application/json"})
    time.sleep(0.2)
    gone.close()
    time.sleep(0.1)
    number = api.enqueue(name)
    lease = api.one(name, wait_ms=5000)
    assert lease["id"] == number and lease["attempt"] == 1


def test_ack_per_item_and_aligned(api: Api, name: str) -> None:
    api.enqueue_all(name, [{"retention_ms": 60_000}] * 3)
    first, second, third = api.lease(name, 3)
    api.nack(third["lease_token"])
    tokens = [first["lease_token"], "garbage", third["lease_token"], second["lease_token"]]
    results = api.ack(*tokens)
    assert [r["status"] for r in results] == ["acked", "not_found", "stale_lease", "acked"]
    again = api.ack(*tokens)
    assert [r["status"] for r in again] == ["acked", "not_found", "stale_lease", "acked"]
    assert [r.get("repeated", False) for r in again] == [True, False, False, True]
    assert api.message(first["id"])["state"] == "done"


def test_the_same_token_twice_in_one_batch(api: Api, name: str) -> None:
    api.enqueue(name)
    token = api.one(name)["lease_token"]
    assert api.ack(token, token) == [{"status": "acked"}, {"status": "acked", "repeated": True}]


def test_settled_tokens_same_verb_repeats_other_verb_is_stale(api: Api, name: str) -> None:
    api.enqueue_all(name, [{}] * 3)
    calls: dict[str, Callable[[str], dict[str, Any]]] = {
        "ack": lambda t: api.ack(t)[0],
        "nack": lambda t: api.nack(t),
        "release": lambda t: api.post("/v1/release", {"leases": [{"lease_token": t}]}).ok()["results"][0],
    }
    for verb, call in calls.items():
        token = api.one(name)["lease_token"]
        first = call(token)
        assert first["status"] == {"ack": "acked", "nack": "nacked", "release": "released"}[verb]
        assert call(token) == {**first, "repeated": True}
        for other, wrong in calls.items():
            if other != verb:
                assert wrong(token) == {"status": "stale_lease"}
        assert _extend(api, token)["status"] == "stale_lease"


def _extend(api: Api, token: str, lease_ms: int = 5000) -> dict[str, Any]:
    answer = api.post("/v1/extend", {"extensions": [{"lease_token": token, "lease_ms": lease_ms}]}).ok()
    return dict(answer["results"][0])


def test_an_expired_lease_is_stale_and_its_message_comes_back_at_the_tail(api: Api, name: str) -> None:
    api.queue(name, backoff={"type": "fixed", "base_ms": 0, "jitter": 0})
    first, second = api.enqueue(name), api.enqueue(name)
    token = api.one(name, lease_ms=100)["lease_token"]
    eventually(lambda: api.counts(name)["leased"] == 0, 9)
    assert api.ack(token)[0] == {"status": "stale_lease"}, "even if nobody took it since"
    assert api.nack(token)["status"] == "stale_lease"
    assert _extend(api, token)["status"] == "stale_lease"
    leases = api.lease(name, 2)
    assert [m["id"] for m in leases] == [second, first]
    assert leases[1]["attempt"] == 2
    attempts = api.message(first)["attempts"]
    assert attempts[0]["outcome"] == "expired" and attempts[0]["ended_at_ms"] >= attempts[0]["started_at_ms"]


def test_nack_backs_off_and_says_when(api: Api, name: str) -> None:
    api.queue(name, backoff={"type": "fixed", "base_ms": 60_000, "jitter": 0})
    number = api.enqueue(name)
    before = int(time.time() * 1000)
    answer = api.nack(api.one(name)["lease_token"], error="boom")
    assert answer["status"] == "nacked" and answer["state"] == "delayed"
    assert 59_000 <= answer["deliver_at_ms"] - before <= 62_000
    message = api.message(number)
    assert message["state"] == "delayed" and message["deliver_at_ms"] == answer["deliver_at_ms"]
    assert message["attempts"][0]["error"] == "boom" and message["attempts"][0]["outcome"] == "nacked"


def test_nack_with_a_delay_of_its_own(api: Api, name: str) -> None:
    first, second = api.enqueue(name), api.enqueue(name)
    answer = api.nack(api.one(name)["lease_token"], delay_ms=0)
    assert answer["state"] == "ready"
    assert [m["id"] for m in api.lease(name, 2)] == [second, first], "a nacked one goes to the tail"


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (
            {"type": "exponential", "base_ms": 10_000, "factor": 2, "jitter": 0, "max_ms": 35_000},
            [10_000, 20_000, 35_000, 35_000],
        ),
        ({"type": "fixed", "base_ms": 7_000, "jitter": 0}, [7_000, 7_000, 7_000]),
        ({"type": "list", "delays_ms": [5_000, 9_000], "jitter": 0}, [5_000, 9_000, 9_000]),
        ({"type": "exponential", "base_ms": 10_000, "factor": 1.5, "jitter": 0}, [10_000, 15_000, 22_500]),
    ],
)
def test_backoff_shapes(api: Api, name: str, backoff: dict[str, Any], delays: list[int]) -> None:
    api.queue(name, backoff=backoff, max_attempts=0)
    number = api.enqueue(name)
    for delay in delays:
        lease = api.one(name)
        answer = api.nack(lease["lease_token"])
        ended = api.message(number)["attempts"][-1]["ended_at_ms"]
        assert answer["deliver_at_ms"] - ended == delay
        api.patch(f"/v1/messages/{number}", {"deliver_at_ms": 1}).ok()


def test_jitter_stays_in_its_range(api: Api, name: str) -> None:
    api.queue(name, backoff={"type": "fixed", "base_ms": 10_000, "jitter": 0.5})
    api.enqueue_all(name, [{}] * 20)
    leases = api.lease(name, 20)
    answer = api.post("/v1/nack", {"nacks": [{"lease_token": m["lease_token"]} for m in leases]}).ok()
    ended = api.message(leases[0]["id"])["attempts"][0]["ended_at_ms"]
    delays = [r["deliver_at_ms"] - ended for r in answer["results"]]
    assert all(5_000 <= delay <= 15_000 for delay in delays), delays
    assert len(set(delays)) > 5, "spread"


def test_extend_sets_the_rest_from_now_and_may_shorten(api: Api, name: str) -> None:
    api.enqueue(name)
    token = api.one(name, lease_ms=60_000)["lease_token"]
    before = int(time.time() * 1000)
    longer = _extend(api, token, 100_000)
    assert longer["status"] == "extended" and abs(longer["lease_expires_at_ms"] - before - 100_000) < 3000
    shorter = _extend(api, token, 1_000)
    assert abs(shorter["lease_expires_at_ms"] - before - 1_000) < 3000
    assert "cancelled" not in shorter or shorter["cancelled"] is False
    assert _extend(api, "garbage")["status"] == "not_found"
    for bad in (0, -1, 43_200_001, "5"):
        reply = api.post("/v1/extend", {"extensions": [{"lease_token": token, "lease_ms": bad}]})
        reply.refused(400, "invalid_argument", "/extensions/0/lease_ms")


def test_release_goes_back_to_its_place_uncounted(api: Api, name: str) -> None:
    ids = api.enqueue_all(name, [{"body": n} for n in range(3)])
    token = api.one(name)["lease_token"]
    released = api.post("/v1/release", {"leases": [{"lease_token": token}]}).ok()["results"]
    assert released == [{"status": "released"}]
    leases = api.lease(name, 3)
    assert [m["id"] for m in leases] == ids
    assert leases[0]["attempt"] == 1, "the attempt not counted"
    assert api.ack(token)[0]["status"] == "stale_lease"


def test_ack_with_enqueue(api: Api, name: str) -> None:
    api.enqueue(name)
    token = api.one(name)["lease_token"]
    request = {
        "acks": [{"lease_token": token, "result": 5}],
        "enqueue": [{"queue": f"{name}x", "body": 1}, {"queue": f"{name}y"}],
    }
    key = {"Idempotency-Key": f"{name}-awe"}
    answer = api.post("/v1/ack", request, headers=key).ok()
    assert answer["results"] == [{"status": "acked"}]
    assert [m["duplicate"] for m in answer["messages"]] == [False, False]
    assert api.one(f"{name}x")["id"] == answer["messages"][0]["id"]
    again = api.post("/v1/ack", request, headers=key).ok()
    assert again["repeated"] is True and again["messages"] == answer["messages"]
    assert api.counts(f"{name}y")["ready"] == 1
    # without the request id the token is no longer live, so the whole is refused (R15)
    api.post("/v1/ack", request).refused(409, "stale_lease")
    assert api.counts(f"{name}y")["ready"] == 1


def test_ack_with_enqueue_is_all_or_nothing(api: Api, name: str) -> None:
    api.enqueue_all(name, [{}, {}])
    tokens = [m["lease_token"] for m in api.lease(name, 2)]
    acks = [{"lease_token": token} for token in tokens]
    new = [{"queue": f"{name}x"}]
    dead = api.post("/v1/ack", {"acks": [*acks, {"lease_token": "garbage"}], "enqueue": new})
    assert dead.status == 409, dead
    full = api.queue(f"{name}full", max_messages=1) and api.enqueue(f"{name}full")
    assert full
    api.post("/v1/ack", {"acks": acks, "enqueue": [*new, {"queue": f"{name}full"}]}).refused(
        429, "queue_full"
    )
    api.post("/v1/ack", {"acks": acks, "enqueue": [{"queue": f"{name}x", "priority": 9999}]}).refused(
        400, "invalid_argument", "/enqueue/0/priority"
    )
    api.post("/v1/ack", {"acks": acks, "enqueue": [{"body": 1}]}).refused(
        400, "invalid_argument", "/enqueue/0/queue"
    )
    api.post("/v1/ack", {"acks": [], "enqueue": new}).refused(400, "invalid_argument", "/acks")
    api.post("/v1/ack", {"enqueue": new}).refused(400, "invalid_argument", "/acks")
    api.get(f"/v1/queues/{name}x").refused(404, "queue_not_found")
    assert api.counts(name)["leased"] == 2, "the leases stay"
    assert [r["status"] for r in api.ack(*tokens)] == ["acked", "acked"]


def test_an_empty_or_missing_list_is_400(api: Api) -> None:
    for verb, field in (("ack", "acks"), ("nack", "nacks"), ("extend", "extensions"), ("release", "leases")):
        for body in ({field: []}, {}, {field: None}, {field: {}}, {field: "x"}):
            api.post(f"/v1/{verb}", body).refused(400, "invalid_argument", f"/{field}")
        api.post(f"/v1/{verb}", {field: ["x"]}).refused(400, "invalid_argument", f"/{field}/0")
        api.post(f"/v1/{verb}", {field: [{}]}).refused(400, "invalid_argument", f"/{field}/0/lease_token")
        api.post(f"/v1/{verb}", {field: [{"lease_token": 5}]}).refused(
            400, "invalid_argument", f"/{field}/0/lease_token"
        )


def test_unknown_tokens_change_nothing(api: Api, name: str) -> None:
    api.enqueue(name)
    token = api.one(name)["lease_token"]
    flipped = token[:-1] + ("A" if token[-1] != "A" else "B")
    odd = ["", "x", "ü", "0" * 3000, token[:-1], token + "A", flipped, token.upper(), " " + token]
    for each in odd:
        reply = api.post("/v1/ack", {"acks": [{"lease_token": each}]})
        assert reply.ok()["results"][0]["status"] in ("not_found", "stale_lease"), each
    assert api.counts(name)["leased"] == 1
    assert api.ack(token)[0]["status"] == "acked"
