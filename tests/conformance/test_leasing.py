"""api.md, Messages: leases, waits, fairness (R13, R18, R26)."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.conformance.client import Api, Queue


def test_what_a_lease_answers(api: Api, q: Queue) -> None:
    message = q.send({"a": 1}, headers={"h": "1"}, group="g")
    told = api.post(q.path + "/lease", {"consumer": "c", "lease_ms": 5000}).ok().told
    assert {"messages", "index", "seq", "term", "now_ms"} <= told.keys()
    one = told["messages"][0]
    assert one["id"] == message
    assert (one["queue"], one["body"], one["headers"], one["group"]) == (q.name, {"a": 1}, {"h": "1"}, "g")
    assert (one["attempt"], one["priority"]) == (1, 0)
    assert one["enqueued_at_ms"] <= told["now_ms"]
    assert one["lease_expires_at_ms"] == told["now_ms"] + 5000
    assert isinstance(one["lease_token"], str)


def test_nothing_to_lease(api: Api, q: Queue) -> None:
    assert q.lease() == []


def test_consumer_is_required(api: Api, q: Queue) -> None:
    api.post(q.path + "/lease", {}).refused(400, "invalid_argument", "/consumer")
    for wrong in ("", "c" * 257):
        api.post(q.path + "/lease", {"consumer": wrong}).refused(400, "invalid_argument", "/consumer", 256)
    api.post(q.path + "/lease", {"consumer": "c" * 256}).ok()


def test_leasing_from_no_queue(api: Api, name: str) -> None:
    for wait_ms in (0, 50):
        api.post(f"/v1/queues/{name}/lease", {"consumer": "c", "wait_ms": wait_ms}).refused(
            404, "queue_not_found"
        )
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")


def test_the_length_is_the_requests_else_the_messages_else_the_queues(api: Api, q: Queue) -> None:
    q.put(lease_ms=11_000).ok()
    for ask, given, length in (
        ({"lease_ms": 7000}, {"lease_ms": 9000}, 7000),
        ({}, {"lease_ms": 9000}, 9000),
        ({}, {}, 11_000),
    ):
        q.send(**given)
        told = api.post(q.path + "/lease", {"consumer": "c", **ask}).ok().told
        assert told["messages"][0]["lease_expires_at_ms"] - told["now_ms"] == length


def test_a_message_has_one_lease(api: Api, q: Queue) -> None:
    q.send()
    assert len(q.lease()) == 1
    assert q.lease() == []


def test_an_expired_lease_comes_again_with_a_new_token(api: Api, q: Queue) -> None:
    q.send()
    first = q.take(lease_ms=50)
    second = q.take(wait_ms=10_000)
    assert second["id"] == first["id"]
    assert second["attempt"] == 2
    assert second["lease_token"] != first["lease_token"]
    assert q.ack(first["lease_token"])["status"] == "stale_lease"
    assert q.ack(second["lease_token"])["status"] == "acked"


def test_the_same_request_id_repeats_the_same_leases(api: Api, q: Queue) -> None:
    q.send_all([{}, {}, {}])
    ask = {"consumer": "c", "max_messages": 2, "request_id": uuid.uuid4().hex}
    first = api.post(q.path + "/lease", ask).ok().told
    again = api.post(q.path + "/lease", ask).ok().told
    assert again["repeated"] is True
    assert [one["lease_token"] for one in again["messages"]] == [
        one["lease_token"] for one in first["messages"]
    ]
    assert again["lost"] == 0
    assert q.state()["leased"] == 2


def test_a_repeat_returns_only_live_leases(api: Api, q: Queue) -> None:
    q.send_all([{}, {}])
    ask = {"consumer": "c", "max_messages": 2, "request_id": uuid.uuid4().hex}
    first = api.post(q.path + "/lease", ask).ok()["messages"]
    q.ack(first[0]["lease_token"])
    again = api.post(q.path + "/lease", ask).ok().told
    assert [one["id"] for one in again["messages"]] == [first[1]["id"]]
    assert again["lost"] == 1


def test_an_empty_answer_is_not_remembered(api: Api, q: Queue) -> None:
    ask = {"consumer": "c", "request_id": uuid.uuid4().hex}
    assert api.post(q.path + "/lease", ask).ok()["messages"] == []
    q.send()
    assert len(api.post(q.path + "/lease", ask).ok()["messages"]) == 1


def test_the_same_lease_request_id_with_other_content(api: Api, q: Queue) -> None:
    q.send()
    key = uuid.uuid4().hex
    api.post(q.path + "/lease", {"consumer": "c", "request_id": key}).ok()
    api.post(q.path + "/lease", {"consumer": "d", "request_id": key}).refused(409, "idempotency_conflict")


def test_max_bytes_gives_at_least_one(api: Api, q: Queue) -> None:
    q.send_all([{"body": "x" * 1000} for _ in range(4)])
    assert len(q.lease(10, max_bytes=1)) == 1
    assert len(q.lease(10, max_bytes=2500)) == 2
    api.post(q.path + "/lease", {"consumer": "c", "max_bytes": 8 * 2**20 + 1}).refused(
        400, "invalid_argument", "/max_bytes", 8 * 2**20
    )


# --- several queues -------------------------------------------------------------------------------------


def test_several_queues_in_the_order_given(api: Api, q: Queue, name: str) -> None:
    other = Queue(api, name)
    other.put().ok(201)
    other.send("b")
    q.send("a")
    ask = {"queues": [q.name, name], "consumer": "c", "max_messages": 2}
    told = api.post("/v1/lease", ask).ok()["messages"]
    assert [(one["queue"], one["body"]) for one in told] == [(q.name, "a"), (name, "b")]


def test_a_wait_over_several_queues_wakes_by_any(api: Api, q: Queue, name: str) -> None:
    other = Queue(api, name)
    other.put().ok(201)
    waiting = api.soon("POST", "/v1/lease", {"queues": [q.name, name], "consumer": "c", "wait_ms": 10_000})
    time.sleep(0.1)
    other.send("b")
    assert waiting.result(5)["messages"][0]["body"] == "b"


def test_several_queues_all_exist(api: Api, q: Queue, name: str) -> None:
    api.post("/v1/lease", {"queues": [q.name, name], "consumer": "c"}).refused(404, "queue_not_found")
    api.post("/v1/lease", {"queues": [], "consumer": "c"}).refused(400, "invalid_argument", "/queues")
    api.post("/v1/lease", {"queues": [q.name, "-x"], "consumer": "c"}).refused(
        400, "invalid_argument", "/queues/1"
    )


# --- waiting ----------------------------------------------------------------------------------------------


def test_a_wait_ends_empty(api: Api, q: Queue) -> None:
    began = time.monotonic()
    assert q.lease(wait_ms=300) == []
    assert 0.25 < time.monotonic() - began < 3


def test_a_wait_with_nothing_to_give_writes_nothing(api: Api, q: Queue) -> None:
    # Leases of other tests may expire meanwhile: that is one entry now and then, not one for each poll.
    before = q.state()["as_of"]
    for _ in range(50):
        q.lease(wait_ms=10)
        q.lease(wait_ms=0)
    assert q.state()["as_of"] - before < 20


def _enqueue(q: Queue) -> None:
    q.send()


def _come_due(q: Queue) -> None:
    q.send(delay_ms=100)


def _expire(q: Queue) -> None:
    q.send()
    q.take(lease_ms=100)


def _nack(q: Queue) -> None:
    q.send()
    q.nack(q.take()["lease_token"], delay_ms=0)


def _release(q: Queue) -> None:
    q.send()
    q.release(q.take()["lease_token"])


def _redrive(q: Queue) -> None:
    q.kill()
    q.api.post(q.path + "/dead/redrive").ok()


def _resume(q: Queue) -> None:
    q.api.post(q.path + "/pause").ok()
    q.send()
    q.api.post(q.path + "/resume").ok()


def _satisfy_dependency(q: Queue) -> None:
    first = q.send()
    q.send(depends_on=[first])
    q.ack(q.take()["lease_token"])


def _ack_frees_the_group(q: Queue) -> None:
    q.send(group="g")
    q.send(group="g")
    q.ack(q.take()["lease_token"])


def _cancel_frees_the_group(q: Queue) -> None:
    head = q.send(group="g", delay_ms=600_000)
    q.send(group="g")
    q.api.delete(f"/v1/messages/{head}").ok()


def _patch_makes_it_due(q: Queue) -> None:
    message = q.send(delay_ms=600_000)
    q.api.patch(f"/v1/messages/{message}", {"deliver_at_ms": 1}).ok()


def _raise_the_cap(q: Queue) -> None:
    q.put(max_leased=1).ok()
    q.send_all([{}, {}])
    q.take()
    q.api.patch(q.path, {"max_leased": 2}).ok()


def _ack_under_the_cap(q: Queue) -> None:
    q.put(max_leased=1).ok()
    q.send_all([{}, {}])
    q.ack(q.take()["lease_token"])


@pytest.mark.parametrize(
    "free",
    [
        _enqueue,
        _come_due,
        _expire,
        _nack,
        _release,
        _redrive,
        _resume,
        _satisfy_dependency,
        _ack_frees_the_group,
        _cancel_frees_the_group,
        _patch_makes_it_due,
        _raise_the_cap,
        _ack_under_the_cap,
    ],
)
def test_every_way_to_become_leasable(api: Api, q: Queue, free: Callable[[Queue], None]) -> None:
    """A wait that begins just after finds it, at once or when it is due."""
    free(q)
    assert len(q.lease(1, consumer="waiter", wait_ms=15_000)) == 1


@pytest.mark.parametrize("wake", ["nack", "release", "ack", "resume", "patch", "config"])
def test_a_parked_wait_wakes(api: Api, q: Queue, wake: str) -> None:
    """As above, with the wait parked before the event."""
    if wake == "config":
        q.put(max_leased=1).ok()
    delayed = q.send("delayed", delay_ms=600_000) if wake == "patch" else ""
    group = {"group": "g"} if wake == "ack" else {}
    if wake in ("nack", "release", "ack", "config"):
        q.send(1, **group)
        token = q.take()["lease_token"]
        if wake in ("ack", "config"):
            q.send(2, **group)
    elif wake == "resume":
        api.post(q.path + "/pause").ok()
        q.send()
    waiting = api.soon("POST", q.path + "/lease", {"consumer": "w", "wait_ms": 15_000})
    time.sleep(0.15)
    assert not waiting.done()
    began = time.monotonic()
    if wake == "nack":
        q.nack(token, delay_ms=0)
    elif wake == "release":
        q.release(token)
    elif wake == "ack":
        q.ack(token)
    elif wake == "resume":
        api.post(q.path + "/resume").ok()
    elif wake == "patch":
        api.patch(f"/v1/messages/{delayed}", {"deliver_at_ms": 1}).ok()
    else:
        api.patch(q.path, {"max_leased": 5}).ok()
    assert len(waiting.result(5)["messages"]) == 1
    assert time.monotonic() - began < 2


def test_waiting_consumers_share_fairly(api: Api, q: Queue) -> None:
    waiting = []
    for number in range(3):
        ask = {"consumer": f"c{number}", "max_messages": 100, "wait_ms": 10_000}
        waiting.append(api.soon("POST", q.path + "/lease", ask))
        time.sleep(0.1)
    q.send_all([{"body": n} for n in range(7)])
    assert [len(one.result(5)["messages"]) for one in waiting] == [3, 2, 2]


def test_waiting_consumers_are_served_in_the_order_they_came(api: Api, q: Queue) -> None:
    waiting = []
    for number in range(3):
        waiting.append(api.soon("POST", q.path + "/lease", {"consumer": f"c{number}", "wait_ms": 10_000}))
        time.sleep(0.1)
    for number in range(3):
        q.send(number)
        assert waiting[number].result(5)["messages"][0]["body"] == number


def test_deleting_the_queue_ends_its_waits(api: Api, q: Queue) -> None:
    waiting = api.soon("POST", q.path + "/lease", {"consumer": "c", "wait_ms": 30_000})
    time.sleep(0.15)
    api.delete(q.path).ok()
    waiting.result(5).refused(404, "queue_not_found")


def test_who_hangs_up_gets_nothing(api: Api, q: Queue) -> None:
    """A parked poll whose client is gone does not swallow the next message (R26)."""
    base = api.get(q.path).headers["trivet-leader"]
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    ask = json.dumps({"consumer": "gone", "wait_ms": 30_000})
    connection.request("POST", q.path + "/lease", ask, {"Content-Type": "application/json"})
    time.sleep(0.2)
    connection.close()
    time.sleep(0.2)
    q.send("for another")
    found = q.take()
    assert (found["body"], found["attempt"]) == ("for another", 1)


def test_a_repeat_of_a_parked_wait_waits_with_it(api: Api, q: Queue) -> None:
    ask = {"consumer": "c", "wait_ms": 10_000, "request_id": uuid.uuid4().hex}
    first = api.soon("POST", q.path + "/lease", ask)
    time.sleep(0.1)
    second = api.soon("POST", q.path + "/lease", ask)
    time.sleep(0.1)
    q.send_all([{}, {}])
    tokens = [one.result(5)["messages"][0]["lease_token"] for one in (first, second)]
    assert tokens[0] == tokens[1]
    assert q.state()["leased"] == 1
