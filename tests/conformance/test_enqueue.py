"""api.md, Messages: enqueueing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conformance.client import Api, Queue


def test_one_message(api: Api, q: Queue) -> None:
    told = api.post(q.path + "/messages", {"body": {"a": 1}}).ok(201).told
    assert set(told) == {"messages", "index", "seq", "term"}
    assert told["messages"] == [{"id": told["messages"][0]["id"], "state": "ready", "duplicate": False}]


def test_many_messages_are_aligned(api: Api, q: Queue) -> None:
    told = api.post(
        q.path + "/messages", {"messages": [{"body": 1}, {"body": 2, "delay_ms": 60_000}, {"body": 3}]}
    ).ok(201)
    assert [one["state"] for one in told["messages"]] == ["ready", "delayed", "ready"]
    assert [q.message(one["id"])["body"] for one in told["messages"]] == [1, 2, 3]


def test_all_or_nothing(api: Api, q: Queue) -> None:
    q.send(1, idempotency_key="k")
    api.post(q.path + "/messages", {"messages": [{"body": 1}, {"body": 2, "idempotency_key": "k"}]}).refused(
        409, "idempotency_conflict", "/messages/1/idempotency_key"
    )
    assert q.state()["ready"] == 1


def test_either_one_or_many(api: Api, q: Queue) -> None:
    api.post(q.path + "/messages", {"messages": [{}], "body": 1}).refused(400, "invalid_argument", "/body")
    api.post(q.path + "/messages", {"messages": []}).refused(400, "invalid_argument", "/messages")


@pytest.mark.parametrize(
    "body",
    [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "ü\u0000😀",
        [],
        {},
        {"a": [{"b": None}]},
        2**63 - 1,
        -(2**63),
        "m" * 5000,
        [[[[]]]],
    ],
)
def test_any_json_value_is_a_body(api: Api, q: Queue, body: Any) -> None:
    message = q.send(body)
    assert q.message(message)["body"] == body
    assert q.take()["body"] == body


def test_an_absent_body_is_null(api: Api, q: Queue) -> None:
    api.post(q.path + "/messages", {}).ok(201)
    found = q.take()
    assert "body" in found and found["body"] is None


def test_what_a_message_carries(api: Api, q: Queue) -> None:
    given = {
        "body": 1,
        "content_type": "application/vnd.x+json",
        "headers": {"a": "1", "ü": ""},
        "priority": 7,
        "group": "g",
        "idempotency_key": "k",
        "run_id": "r",
        "step_id": "s",
        "parent_step_id": "p",
        "tenant_id": "t",
        "user_id": "u",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "max_attempts": 3,
    }
    sent = api.post(q.path + "/messages", {**given, "ttl_ms": 60_000}).ok(201)["messages"][0]["id"]
    shown = q.message(sent)
    assert {field: shown[field] for field in given} == given
    assert shown["queue"] == q.name
    assert shown["state"] == "ready"
    assert shown["expires_at_ms"] == shown["enqueued_at_ms"] + 60_000
    leased = q.take()
    assert {field: leased[field] for field in given} == given


def test_priority_then_fifo(api: Api, q: Queue) -> None:
    for body, priority in (("a", 0), ("b", 5), ("c", -1000), ("d", 5), ("e", 1000)):
        q.send(body, priority=priority)
    assert [one["body"] for one in q.lease(10)] == ["e", "b", "d", "a", "c"]


def test_delay(api: Api, q: Queue) -> None:
    message = q.send(delay_ms=150)
    shown = q.message(message)
    assert shown["state"] == "delayed"
    assert shown["deliver_at_ms"] == shown["enqueued_at_ms"] + 150
    assert q.lease() == []
    began = time.monotonic()
    assert q.take(wait_ms=5000)["id"] == message
    assert time.monotonic() - began < 3


def test_deliver_at(api: Api, q: Queue) -> None:
    now = api.post(q.path + "/lease", {"consumer": "c"}).ok()["now_ms"]
    at = max(now, int(time.time() * 1000)) + 60_000
    assert q.message(q.send(deliver_at_ms=at))["deliver_at_ms"] == at
    assert q.message(q.send(deliver_at_ms=1))["state"] == "ready"
    api.post(q.path + "/messages", {"delay_ms": 1, "deliver_at_ms": at}).refused(
        400, "invalid_argument", "/deliver_at_ms"
    )


def test_ttl(api: Api, q: Queue) -> None:
    message = q.send(ttl_ms=50)
    told = api.get(f"/v1/messages/{message}?wait_ms=8000").ok().told
    assert (told["state"], told["dead_reason"]) == ("dead", "expired")


def test_a_group_is_in_order_and_one_at_a_time(api: Api, q: Queue) -> None:
    for body in (1, 2, 3):
        q.send(body, group="g")
    q.send("other", group="h")
    first = q.lease(10)
    assert [one["body"] for one in first] == [1, "other"]
    assert q.lease(10) == []
    q.ack(first[0]["lease_token"])
    assert [one["body"] for one in q.lease(10)] == [2]


def test_a_failed_head_blocks_its_group(api: Api, q: Queue) -> None:
    q.send(1, group="g")
    q.send(2, group="g")
    head = q.take()
    q.nack(head["lease_token"], delay_ms=60_000)
    assert q.lease(10) == []
    api.delete(f"/v1/messages/{head['id']}").ok()
    assert [one["body"] for one in q.lease(10)] == [2]


def test_a_head_that_dies_frees_its_group(api: Api, q: Queue) -> None:
    q.send(1, group="g")
    q.send(2, group="g")
    q.nack(q.take()["lease_token"], dead_letter=True)
    assert q.take()["body"] == 2


def test_the_same_key_is_the_same_message(api: Api, q: Queue) -> None:
    first = q.send({"a": 1}, idempotency_key="k")
    again = api.post(q.path + "/messages", {"body": {"a": 1}, "idempotency_key": "k"}).ok(201)["messages"][0]
    assert again == {"id": first, "state": "ready", "duplicate": True}
    assert q.state()["ready"] == 1


def test_a_key_tells_state_and_result_when_finished(api: Api, q: Queue) -> None:
    first = q.send(1, idempotency_key="k")
    q.ack(q.take()["lease_token"], result={"ok": True})
    again = api.post(q.path + "/messages", {"body": 1, "idempotency_key": "k"}).ok(201)["messages"][0]
    assert again == {"id": first, "state": "done", "duplicate": True, "result": {"ok": True}}


def test_the_same_key_with_another_body_conflicts(api: Api, q: Queue) -> None:
    q.send(1, idempotency_key="k")
    api.post(q.path + "/messages", {"body": 2, "idempotency_key": "k"}).refused(
        409, "idempotency_conflict", "/idempotency_key"
    )


def test_the_first_of_equal_keys_in_a_batch_wins(api: Api, q: Queue) -> None:
    told = api.post(q.path + "/messages", {"messages": [{"body": 1, "idempotency_key": "k"}] * 2}).ok(201)[
        "messages"
    ]
    assert told[0]["id"] == told[1]["id"]
    assert [one["duplicate"] for one in told] == [False, True]


def test_a_key_is_forgotten_after_its_window(api: Api, q: Queue) -> None:
    first = q.send(1, idempotency_key="k", idempotency_window_ms=100)
    q.ack(q.take()["lease_token"])
    deadline = time.monotonic() + 8
    while (again := q.send(1, idempotency_key="k")) == first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert again != first


def test_a_key_lives_while_its_message_is_unfinished(api: Api, q: Queue) -> None:
    first = q.send(1, idempotency_key="k", idempotency_window_ms=1)
    time.sleep(0.05)
    assert q.send(1, idempotency_key="k") == first


def test_a_dependent_waits_until_its_dependencies_are_done(api: Api, q: Queue) -> None:
    first, second = q.send(1), q.send(2)
    last = q.send(3, depends_on=[first, second])
    assert q.message(last)["state"] == "blocked"
    leased = q.lease(10)
    assert [one["id"] for one in leased] == [first, second]
    for one in leased:
        q.ack(one["lease_token"])
    assert q.take()["id"] == last


def test_a_dependent_dies_with_its_dependency(api: Api, q: Queue) -> None:
    first = q.send(1)
    last = q.send(2, depends_on=[first])
    q.nack(q.take()["lease_token"], dead_letter=True)
    told = api.get(f"/v1/messages/{last}?wait_ms=5000").ok().told
    assert (told["state"], told["dead_reason"]) == ("dead", "dependency_failed")


def test_a_dependent_may_run_all_the_same(api: Api, q: Queue) -> None:
    first = q.send(1)
    last = q.send(2, depends_on=[first], on_dependency_failure="run")
    api.delete(f"/v1/messages/{first}").ok()
    assert q.take()["id"] == last


def test_an_unknown_dependency(api: Api, q: Queue) -> None:
    for unknown in ("mffffffffffff", "nonsense"):
        api.post(q.path + "/messages", {"depends_on": [unknown]}).refused(
            404, "message_not_found", "/depends_on/0"
        )


def test_max_attempts_of_the_message_and_of_the_queue_of_the_moment(api: Api, q: Queue) -> None:
    own, plain = q.send("own", max_attempts=1), q.send("plain")
    api.patch(q.path, {"max_attempts": 2}).ok()
    assert q.message(plain)["max_attempts"] == 2
    for one in q.lease(2):
        q.nack(one["lease_token"], delay_ms=0)
    assert q.message(own)["state"] == "dead"
    assert q.message(plain)["state"] == "ready"


def test_retention_keeps_a_finished_message(api: Api, q: Queue) -> None:
    kept, gone = q.send(1, retention_ms=60_000), q.send(2)
    for one in q.lease(2):
        q.ack(one["lease_token"])
    assert q.message(kept)["state"] == "done"
    api.get(f"/v1/messages/{gone}").refused(404, "message_not_found")
