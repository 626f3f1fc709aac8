"""api.md, "Dead letters"; rules R20, R23."""

from __future__ import annotations

import time

from tests.acceptance.contract.helper import Api, eventually


def test_a_dead_message_keeps_everything(api: Api, name: str) -> None:
    api.queue(name, max_attempts=2, backoff={"type": "fixed", "base_ms": 0, "jitter": 0})
    number = api.enqueue(name, body={"a": 1}, headers={"h": "v"}, priority=3)
    assert api.nack(api.one(name)["lease_token"], error="first")["status"] == "nacked"
    answer = api.nack(api.one(name)["lease_token"], error="second")
    assert answer["status"] == "dead"
    assert api.lease(name) == []
    (listed,) = api.get(f"/v1/queues/{name}/dead").ok()["messages"]
    direct = api.message(number)
    for message in (listed, direct):
        assert (
            message["id"] == number
            and message["state"] == "dead"
            and message["dead_reason"] == "max_attempts"
        )
        assert message["body"] == {"a": 1} and message["headers"] == {"h": "v"} and message["priority"] == 3
        assert [a["error"] for a in message["attempts"]] == ["first", "second"]
        assert abs(message["dead_at_ms"] - time.time() * 1000) < 10_000
    assert api.counts(name) == {"ready": 0, "leasable": 0, "delayed": 0, "leased": 0, "dead": 1, "blocked": 0}


def test_expiry_counts_as_an_attempt(api: Api, name: str) -> None:
    api.queue(name, max_attempts=1)
    number = api.enqueue(name)
    api.one(name, lease_ms=50)
    message = eventually(lambda: (m := api.message(number))["state"] == "dead" and m, 9)
    assert message["dead_reason"] == "max_attempts" and message["attempts"][0]["outcome"] == "expired"


def test_a_messages_own_max_attempts(api: Api, name: str) -> None:
    api.enqueue(name, max_attempts=1)
    assert api.nack(api.one(name)["lease_token"])["status"] == "dead"
    api.queue(f"{name}x", max_attempts=1)
    api.enqueue(f"{name}x", max_attempts=0)
    for _ in range(3):
        assert api.nack(api.one(f"{name}x")["lease_token"], delay_ms=0)["status"] == "nacked"


def test_absent_max_attempts_follows_the_queue_of_the_moment(api: Api, name: str) -> None:
    api.queue(name, max_attempts=1)
    api.enqueue(name)
    api.patch(f"/v1/queues/{name}", {"max_attempts": 3}).ok()
    for expected in ("nacked", "nacked", "dead"):
        assert api.nack(api.one(name)["lease_token"], delay_ms=0)["status"] == expected


def test_reasons_and_the_filter(api: Api, name: str) -> None:
    api.queue(name, max_attempts=1)
    worn = api.enqueue(name)
    api.nack(api.one(name)["lease_token"])
    rejected = api.kill_message(name)
    dependent_of = api.enqueue(name)
    dependent = api.enqueue(name, depends_on=[dependent_of])
    api.delete(f"/v1/messages/{dependent_of}").ok()
    path = f"/v1/queues/{name}/dead"
    for reason, number in (("max_attempts", worn), ("rejected", rejected), ("dependency_failed", dependent)):
        found = api.get(f"{path}?reason={reason}").ok()["messages"]
        assert [(m["id"], m["dead_reason"]) for m in found] == [(number, reason)]
    assert api.get(f"{path}?reason=expired").ok()["messages"] == []
    api.get(f"{path}?reason=odd").refused(400, "invalid_argument")
    page = api.get(f"{path}?limit=2").ok()
    assert [m["id"] for m in page["messages"]] == [worn, rejected] and page["next"] == rejected
    page = api.get(f"{path}?limit=2&after={rejected}").ok()
    assert [m["id"] for m in page["messages"]] == [dependent] and page["next"] is None


def test_redrive_restarts_attempts_and_keeps_history(api: Api, name: str) -> None:
    number = api.kill_message(name, body="b", idempotency_key="k")
    answer = api.post(f"/v1/queues/{name}/dead/redrive", {}).ok()
    assert answer["redriven"] == 1 and answer["ids"] == [number]
    lease = api.one(name)
    assert lease["id"] == number and lease["attempt"] == 1, "attempts start again"
    message = api.message(number)
    assert message["attempts"][0]["error"] == "no", "history kept"
    assert len(message["attempts"]) == 2
    assert "dead_reason" not in message or message["dead_reason"] is None
    assert message["idempotency_key"] == "k"
    api.ack(lease["lease_token"])
    assert api.get(f"/v1/queues/{name}/dead").ok()["messages"] == []


def test_redrive_takes_no_body_too(api: Api, name: str) -> None:
    api.kill_message(name)
    assert api.post(f"/v1/queues/{name}/dead/redrive").ok()["redriven"] == 1


def test_redrive_selects(api: Api, name: str) -> None:
    api.queue(name, max_attempts=1)
    numbers = [api.kill_message(name, body=n) for n in range(5)]
    worn = api.enqueue(name)
    api.nack(api.one(name)["lease_token"])
    path = f"/v1/queues/{name}/dead/redrive"
    dry = api.post(path, {"reason": "rejected", "limit": 2, "dry_run": True}).ok()
    assert dry["redriven"] == 2 and dry["ids"] == numbers[:2]
    assert api.counts(name)["dead"] == 6
    assert api.post(path, {"reason": "max_attempts"}).ok()["ids"] == [worn]
    assert api.post(path, {"limit": 2}).ok()["ids"] == numbers[:2]
    assert api.post(path, {"ids": [numbers[4], numbers[2]]}).ok()["redriven"] == 2
    assert api.post(path, {"ids": [numbers[4], "m0000ffffffff"]}).ok()["redriven"] == 0
    assert api.counts(name)["dead"] == 1 and api.counts(name)["ready"] == 5
    for bad, field in (
        ({"limit": 0}, "/limit"),
        ({"reason": "x"}, "/reason"),
        ({"dry_run": 1}, "/dry_run"),
        ({"x": 1}, "/x"),
    ):
        api.post(path, bad).refused(400, "invalid_argument", field)


def test_redrive_to_another_queue(api: Api, name: str) -> None:
    number = api.kill_message(name, body="b")
    path = f"/v1/queues/{name}/dead/redrive"
    api.post(path, {"to": f"{name}x"}).refused(404, "queue_not_found")
    api.queue(f"{name}x")
    assert api.post(path, {"to": f"{name}x"}).ok()["redriven"] == 1
    lease = api.one(f"{name}x")
    assert lease["id"] == number and lease["queue"] == f"{name}x" and lease["body"] == "b"
    assert api.counts(name)["dead"] == 0
    assert api.message(number)["origin"], "of a replay or redrive"


def test_redrive_restarts_the_ttl(api: Api, name: str) -> None:
    number = api.enqueue(name, ttl_ms=300)
    eventually(lambda: api.message(number)["state"] == "dead", 9)
    api.post(f"/v1/queues/{name}/dead/redrive", {"ids": [number]}).ok()
    message = api.message(number)
    assert message["state"] == "ready" and message["expires_at_ms"] > time.time() * 1000 - 1000


def test_delete_the_dead(api: Api, name: str) -> None:
    numbers = [api.kill_message(name) for _ in range(2)]
    live = api.enqueue(name)
    assert api.delete(f"/v1/queues/{name}/dead").ok()["removed"] == 2
    assert api.counts(name)["dead"] == 0
    for number in numbers:
        api.get(f"/v1/messages/{number}").refused(404, "message_not_found")
    assert api.message(live)["state"] == "ready"
    assert api.delete(f"/v1/queues/{name}/dead").ok()["removed"] == 0


def test_deleting_one_dead_message(api: Api, name: str) -> None:
    """Silent: dead is a finished state (R24), so cancelling it is 409 `message_finished`."""
    number = api.kill_message(name)
    api.delete(f"/v1/messages/{number}").refused(409, "message_finished")


def test_max_dead_lets_the_oldest_leave(api: Api, name: str) -> None:
    api.queue(name, max_dead=2)
    numbers = [api.kill_message(name) for _ in range(3)]
    eventually(lambda: api.counts(name)["dead"] == 2)
    assert [m["id"] for m in api.get(f"/v1/queues/{name}/dead").ok()["messages"]] == numbers[1:]


def test_dead_retention(api: Api, name: str) -> None:
    api.queue(name, dead_retention_ms=200)
    api.kill_message(name)
    eventually(lambda: api.counts(name)["dead"] == 0, 9)


def test_the_last_twenty_attempts_are_kept(api: Api, name: str) -> None:
    api.queue(name, max_attempts=0)
    number = api.enqueue(name)
    for n in range(22):
        api.nack(api.one(name)["lease_token"], delay_ms=0, error=f"e{n}")
    attempts = api.message(number)["attempts"]
    assert [a["error"] for a in attempts] == [f"e{n}" for n in range(2, 22)]
    assert [a["attempt"] for a in attempts] == list(range(3, 23))
