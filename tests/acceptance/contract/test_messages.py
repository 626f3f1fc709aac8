"""api.md, "Messages": enqueue, read, browse, cancel, patch; rules R12, R16, R19, R22, R24."""

from __future__ import annotations

import base64
import time

import pytest

from tests.acceptance.contract.helper import Api, eventually, later


def test_one_or_many_aligned_with_the_input(api: Api, name: str) -> None:
    one = api.post(f"/v1/queues/{name}/messages", {"body": 1}).ok(201)
    assert one["messages"] == [{"id": one["messages"][0]["id"], "state": "ready", "duplicate": False}]
    first = api.message(one["messages"][0]["id"])
    sent = [
        {"body": n, "delay_ms": 60_000 if n % 2 else 0, "depends_on": [first["id"]] if n == 2 else []}
        for n in range(5)
    ]
    many = api.post(f"/v1/queues/{name}/messages", {"messages": sent}).ok(201)["messages"]
    assert [m["state"] for m in many] == ["ready", "delayed", "blocked", "delayed", "ready"]
    assert [api.message(m["id"])["body"] for m in many] == [0, 1, 2, 3, 4]
    assert len({m["id"] for m in many}) == 5


def test_a_batch_is_all_or_nothing(api: Api, name: str) -> None:
    api.queue(name)
    batch = {"messages": [{"body": 1}, {"body": 2, "priority": 5000}, {"body": 3}]}
    api.post(f"/v1/queues/{name}/messages", batch).refused(400, "invalid_argument", "/messages/1/priority")
    unknown = {"messages": [{"body": 1}, {"depends_on": ["m00000fffffff"]}]}
    api.post(f"/v1/queues/{name}/messages", unknown).refused(404, "message_not_found")
    assert api.counts(name)["ready"] == 0


def test_every_field_of_a_message_comes_back(api: Api, name: str) -> None:
    sent = {
        "body": {"deep": [1, {"x": None}]},
        "headers": {"Trace": "1", "leer": ""},
        "priority": -7,
        "group": "customer-1",
        "idempotency_key": "key-1",
        "run_id": "run-1",
        "step_id": "step-1",
        "parent_step_id": "step-0",
        "tenant_id": "tenant",
        "user_id": "user",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "max_attempts": 9,
        "ttl_ms": 60_000,
        "lease_ms": 12_000,
        "backoff": {"type": "fixed", "base_ms": 5},
        "retention_ms": 1000,
    }
    number = api.enqueue(name, **sent)
    lease = api.one(name)
    stored = api.message(number)
    echoed = (
        "body",
        "headers",
        "priority",
        "group",
        "run_id",
        "step_id",
        "parent_step_id",
        "tenant_id",
        "user_id",
        "traceparent",
        "max_attempts",
    )
    for field in echoed:
        assert lease[field] == sent[field], field
        assert stored[field] == sent[field], field
    assert stored["idempotency_key"] == "key-1"
    assert stored["id"] == lease["id"] == number
    assert stored["queue"] == lease["queue"] == name
    assert stored["state"] == "leased" and stored["attempt"] == lease["attempt"] == 1
    assert stored["expires_at_ms"] == stored["enqueued_at_ms"] + 60_000
    assert abs(lease["lease_expires_at_ms"] - lease["enqueued_at_ms"] - 12_000) < 3000
    attempts = stored["attempts"]
    assert len(attempts) == 1
    assert attempts[0]["attempt"] == 1 and attempts[0]["consumer"] == "c"
    assert type(attempts[0]["started_at_ms"]) is int
    assert "lease_token" not in stored, "a token is only in the answer to its lease (R13)"


@pytest.mark.parametrize(
    "body", [None, True, 0, -1, 1.5, "", "ü😀", [], {}, [[]], 2**63 - 1, -(2**63), 1e300, {"": ""}]
)
def test_any_json_value_is_a_body(api: Api, name: str, body: object) -> None:
    number = api.enqueue(name, body=body)
    got = api.one(name)["body"]
    assert got == body and type(got) is type(body)
    assert api.message(number)["body"] == body


@pytest.mark.parametrize("size", [0, 1, 3, 1000])
def test_bytes_by_base64(api: Api, name: str, size: int) -> None:
    data = bytes(n % 256 for n in range(size))
    number = api.enqueue(name, body_base64=base64.b64encode(data).decode(), content_type="image/png")
    for message in (api.one(name), api.message(number)):
        assert base64.b64decode(message["body_base64"]) == data
        assert message["content_type"] == "image/png" and "body" not in message


def test_body_and_base64_exclude_each_other(api: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    api.post(path, {"body": 1, "body_base64": "AA=="}).refused(400, "invalid_argument")
    for bad in ("!", "A", "AA=", 5):
        api.post(path, {"body_base64": bad}).refused(400, "invalid_argument", "/body_base64")


def test_higher_priority_first_and_fifo_inside(api: Api, name: str) -> None:
    ids = api.enqueue_all(name, [{"body": p, "priority": p} for p in (0, 5, -1000, 5, 1000, 0)])
    assert [m["id"] for m in api.lease(name, 10)] == [ids[n] for n in (4, 1, 3, 0, 5, 2)]


def test_delay_and_deliver_at(api: Api, name: str) -> None:
    now = int(time.time() * 1000)
    delayed = api.enqueue(name, delay_ms=400)
    at = api.enqueue(name, deliver_at_ms=now + 500)
    past = api.enqueue(name, deliver_at_ms=now - 10_000)
    assert [m["id"] for m in api.lease(name, 5)] == [past]
    message = api.message(delayed)
    assert message["state"] == "delayed"
    assert message["deliver_at_ms"] == message["enqueued_at_ms"] + 400
    assert api.message(at)["deliver_at_ms"] == now + 500
    got = [api.one(name, wait_ms=5000)["id"], api.one(name, wait_ms=5000)["id"]]
    assert sorted(got) == sorted([delayed, at])
    assert time.time() * 1000 >= now + 400
    both = api.post(f"/v1/queues/{name}/messages", {"delay_ms": 1, "deliver_at_ms": now})
    both.refused(400, "invalid_argument")


def test_ttl_makes_it_dead(api: Api, name: str) -> None:
    number = api.enqueue(name, ttl_ms=200, body="x")
    message = eventually(lambda: (m := api.message(number))["state"] == "dead" and m, 9)
    assert message["dead_reason"] == "expired" and message["dead_at_ms"] >= message["expires_at_ms"]
    assert message["body"] == "x"
    assert api.lease(name) == []


def test_the_queues_ttl_is_the_default(api: Api, name: str) -> None:
    api.queue(name, ttl_ms=60_000)
    message = api.message(api.enqueue(name))
    assert message["expires_at_ms"] == message["enqueued_at_ms"] + 60_000
    message = api.message(api.enqueue(name, ttl_ms=1000))
    assert message["expires_at_ms"] == message["enqueued_at_ms"] + 1000


def test_ttl_is_not_looked_at_while_leased(api: Api, name: str) -> None:
    numbers = [api.enqueue(name, ttl_ms=250) for _ in range(3)]
    acked, nacked, released = api.lease(name, 3)
    time.sleep(0.4)
    assert [api.message(number)["state"] for number in numbers] == ["leased"] * 3
    assert api.ack(acked["lease_token"])[0]["status"] == "acked"
    assert api.nack(nacked["lease_token"])["status"] == "dead"
    api.post("/v1/release", {"leases": [{"lease_token": released["lease_token"]}]}).ok()
    for lease in (nacked, released):
        message = api.message(lease["id"])
        assert (message["state"], message["dead_reason"]) == ("dead", "expired")


def test_a_key_gives_the_first_message(api: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    first = api.post(path, {"body": {"a": 1}, "idempotency_key": "k"}).ok(201)["messages"][0]
    again = api.post(path, {"body": {"a": 1}, "idempotency_key": "k", "priority": 5}).ok(201)["messages"][0]
    assert again == {**first, "duplicate": True}
    api.post(path, {"body": {"a": 2}, "idempotency_key": "k"}).refused(409, "idempotency_conflict")
    other = api.post(path, {"body": {"a": 1}, "content_type": "text/x", "idempotency_key": "k"})
    other.refused(409, "idempotency_conflict")
    assert api.counts(name)["ready"] == 1
    api.post(f"/v1/queues/{name}x/messages", {"body": 5, "idempotency_key": "k"}).ok(
        201
    )  # a key is its queue's
    token = api.one(name)["lease_token"]
    assert (
        api.post(path, {"body": {"a": 1}, "idempotency_key": "k"}).ok(201)["messages"][0]["state"] == "leased"
    )
    api.post("/v1/ack", {"acks": [{"lease_token": token, "result": {"sum": 3}}]}).ok()
    done = api.post(path, {"body": {"a": 1}, "idempotency_key": "k"}).ok(201)["messages"][0]
    assert done == {"id": first["id"], "state": "done", "duplicate": True, "result": {"sum": 3}}


def test_keys_inside_a_batch(api: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    batch = [{"body": 1, "idempotency_key": "a"}, {"body": 2}, {"body": 1, "idempotency_key": "a"}]
    got = api.post(path, {"messages": batch}).ok(201)["messages"]
    assert [m["duplicate"] for m in got] == [False, False, True] and got[0]["id"] == got[2]["id"]
    clash = [{"body": 0}, {"body": 9, "idempotency_key": "a"}]
    api.post(path, {"messages": clash}).refused(409, "idempotency_conflict", "/messages/1/idempotency_key")
    inside = [{"body": 1, "idempotency_key": "b"}, {"body": 2, "idempotency_key": "b"}]
    api.post(path, {"messages": inside}).refused(409, "idempotency_conflict", "/messages/1/idempotency_key")
    assert api.counts(name)["ready"] == 2


def test_a_key_ends_with_its_window_but_not_before_its_message(api: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    sent = {"body": 1, "idempotency_key": "k", "idempotency_window_ms": 150}
    first = api.post(path, sent).ok(201)["messages"][0]["id"]
    time.sleep(0.4)
    assert api.post(path, sent).ok(201)["messages"][0]["duplicate"] is True, "unfinished"
    api.ack(api.one(name)["lease_token"])
    fresh = eventually(
        lambda: (m := api.post(path, sent).ok(201)["messages"][0]) and not m["duplicate"] and m, 9
    )
    assert fresh["id"] != first


def test_wait_until_finished(api: Api, name: str) -> None:
    number = api.enqueue(name)
    start = time.monotonic()
    assert api.get(f"/v1/messages/{number}?wait_ms=200").ok()["state"] == "ready"
    assert 0.15 <= time.monotonic() - start < 3
    future = later(api.get, f"/v1/messages/{number}?wait_ms=10000")
    lease = api.one(name)
    time.sleep(0.1)
    assert not future.done()
    start = time.monotonic()
    api.post("/v1/ack", {"acks": [{"lease_token": lease["lease_token"], "result": [1]}]}).ok()
    message = future.result(12).ok()
    assert time.monotonic() - start < 2
    assert message["state"] == "done" and message["result"] == [1]
    assert message["finished_at_ms"] >= message["enqueued_at_ms"]
    assert message["attempts"][0]["outcome"] == "acked"
    start = time.monotonic()
    assert api.get(f"/v1/messages/{number}?wait_ms=10000").ok()["state"] == "done"
    assert time.monotonic() - start < 3
    for bad in ("60001", "-1", "x"):
        api.get(f"/v1/messages/{number}?wait_ms={bad}").refused(400, "invalid_argument")


@pytest.mark.parametrize("end", ["cancel", "dead"])
def test_wait_ends_on_every_finish(api: Api, name: str, end: str) -> None:
    number = api.enqueue(name)
    future = later(api.get, f"/v1/messages/{number}?wait_ms=10000")
    time.sleep(0.1)
    if end == "cancel":
        api.delete(f"/v1/messages/{number}").ok()
        assert future.result(12).ok()["state"] == "cancelled"
    else:
        api.nack(api.one(name)["lease_token"], dead_letter=True)
        assert future.result(12).ok()["state"] == "dead"


def test_wait_on_a_plain_message_that_is_acked(api: Api, name: str) -> None:
    """Without retention it is gone once acked: the wait ends at once, with `done` or a 404, never with its time."""
    number = api.enqueue(name)
    future = later(api.get, f"/v1/messages/{number}?wait_ms=10000")
    time.sleep(0.15)
    start = time.monotonic()
    api.ack(api.one(name)["lease_token"])
    reply = future.result(12)
    assert time.monotonic() - start < 3
    assert reply.status == 404 or reply["state"] == "done", reply


def test_an_acked_message_without_retention_is_gone(api: Api, name: str) -> None:
    number = api.enqueue(name)
    api.ack(api.one(name)["lease_token"])
    api.get(f"/v1/messages/{number}").refused(404, "message_not_found")


def test_retention_keeps_it_and_then_not(api: Api, name: str) -> None:
    number = api.enqueue(name, retention_ms=400, body="kept")
    api.ack(api.one(name)["lease_token"])
    assert api.message(number)["state"] == "done" and api.message(number)["body"] == "kept"
    eventually(lambda: api.get(f"/v1/messages/{number}").status == 404, 9)
    api.patch(f"/v1/queues/{name}", {"retention_ms": 60_000}).ok()
    number = api.enqueue(name)
    api.ack(api.one(name)["lease_token"])
    assert api.message(number)["state"] == "done"


@pytest.mark.parametrize("why", ["run", "key", "result", "dependents"])
def test_what_others_look_for_is_kept(api: Api, name: str, why: str) -> None:
    more = {"run": {"run_id": "r"}, "key": {"idempotency_key": "k"}}.get(why, {})
    number = api.enqueue(name, **more)
    if why == "dependents":
        api.enqueue(name, depends_on=[number])
    result = {"result": 5} if why == "result" else {}
    api.post("/v1/ack", {"acks": [{"lease_token": api.one(name)["lease_token"], **result}]}).ok()
    assert api.message(number)["state"] == "done"


def test_cancel(api: Api, name: str) -> None:
    numbers = [api.enqueue(name), api.enqueue(name, delay_ms=60_000)]
    numbers.append(api.enqueue(name, depends_on=[numbers[1]], on_dependency_failure="run"))
    for number in (numbers[0], numbers[2]):
        assert api.delete(f"/v1/messages/{number}").ok()["state"] == "cancelled"
        again = api.get(f"/v1/messages/{number}")
        assert again.status == 404 or again["state"] == "cancelled"
    assert api.lease(name) == []
    assert api.counts(name)["ready"] == 0 and api.counts(name)["blocked"] == 0
    api.delete("/v1/messages/none").refused(404, "message_not_found")


def test_cancelling_or_patching_what_is_finished(api: Api, name: str) -> None:
    number = api.enqueue(name, retention_ms=60_000)
    api.ack(api.one(name)["lease_token"])
    api.delete(f"/v1/messages/{number}").refused(409, "message_finished")
    api.patch(f"/v1/messages/{number}", {"priority": 1}).refused(409, "message_finished")


def test_cancelling_a_leased_message_marks_it(api: Api, name: str) -> None:
    api.enqueue_all(name, [{"body": n, "retention_ms": 60_000} for n in range(4)])
    leases = api.lease(name, 4, lease_ms=20_000)
    for lease in leases:
        api.delete(f"/v1/messages/{lease['id']}").ok()
        assert api.message(lease["id"])["state"] == "leased"
    tokens = [lease["lease_token"] for lease in leases]
    extended = api.post("/v1/extend", {"extensions": [{"lease_token": tokens[0], "lease_ms": 20_000}]}).ok()
    assert extended["results"][0]["status"] == "extended" and extended["results"][0]["cancelled"] is True
    assert api.ack(tokens[0])[0]["status"] == "acked"
    assert api.message(leases[0]["id"])["state"] == "done"
    api.nack(tokens[1])
    assert api.message(leases[1]["id"])["state"] == "cancelled"
    api.post("/v1/release", {"leases": [{"lease_token": tokens[2]}]}).ok()
    assert api.message(leases[2]["id"])["state"] == "cancelled"
    api.post("/v1/extend", {"extensions": [{"lease_token": tokens[3], "lease_ms": 1}]}).ok()
    message = eventually(lambda: (m := api.message(leases[3]["id"]))["state"] != "leased" and m, 9)
    assert message["state"] == "cancelled"


def test_patch_priority_and_time(api: Api, name: str) -> None:
    first, second = api.enqueue(name), api.enqueue(name)
    api.patch(f"/v1/messages/{second}", {"priority": 10}).ok()
    assert api.message(second)["priority"] == 10
    assert api.one(name)["id"] == second
    api.patch(f"/v1/messages/{first}", {"deliver_at_ms": int(time.time() * 1000) + 60_000}).ok()
    assert api.message(first)["state"] == "delayed"
    assert api.lease(name) == []
    api.patch(f"/v1/messages/{first}", {"deliver_at_ms": int(time.time() * 1000) - 5}).ok()
    assert api.one(name)["id"] == first
    api.patch("/v1/messages/none", {"priority": 1}).refused(404, "message_not_found")
    for bad, field in (
        ({"priority": 1001}, "/priority"),
        ({"body": 1}, "/body"),
        ({"priority": "1"}, "/priority"),
    ):
        api.patch(f"/v1/messages/{first}", bad).refused(400, "invalid_argument", field)


def test_browse_by_state_and_page(api: Api, name: str) -> None:
    ids = api.enqueue_all(name, [{"body": n} for n in range(7)])
    late = api.enqueue(name, delay_ms=60_000)
    path = f"/v1/queues/{name}/messages"
    page = api.get(f"{path}?limit=3").ok()
    assert [m["id"] for m in page["messages"]] == ids[:3] and page["next"] == ids[2]
    assert page["messages"][0]["body"] == 0 and page["messages"][0]["state"] == "ready"
    page = api.get(f"{path}?limit=3&after={page['next']}").ok()
    assert [m["id"] for m in page["messages"]] == ids[3:6]
    page = api.get(f"{path}?limit=3&after={page['next']}").ok()
    assert [m["id"] for m in page["messages"]] == [ids[6], late] and page["next"] is None
    assert api.counts(name)["ready"] == 7, "browsing leases nothing"
    lease = api.one(name)
    by_state = {
        s: [m["id"] for m in api.get(f"{path}?state={s}").ok()["messages"]]
        for s in ("ready", "delayed", "leased", "dead")
    }
    assert by_state == {"ready": ids[1:], "delayed": [late], "leased": [lease["id"]], "dead": []}
    listed = api.get(f"{path}?state=leased").ok()["messages"][0]
    assert "lease_token" not in listed
    api.get(f"{path}?state=odd").refused(400, "invalid_argument")
    api.get(f"{path}?limit=0").refused(400, "invalid_argument")
    api.get(f"{path}?after=zzz").refused(400, "invalid_argument")


def test_groups_are_strict_and_one_in_flight(api: Api, name: str) -> None:
    a = api.enqueue_all(name, [{"group": "a", "body": n} for n in range(3)])
    b = api.enqueue_all(name, [{"group": "b", "body": n} for n in range(2)])
    free = api.enqueue(name)
    leases = api.lease(name, 10)
    assert [m["id"] for m in leases] == [a[0], b[0], free]
    assert api.lease(name, 10) == []
    api.ack(leases[0]["lease_token"])
    assert [m["id"] for m in api.lease(name, 10)] == [a[1]]
    api.nack(leases[1]["lease_token"], delay_ms=60_000)
    assert api.lease(name, 10) == [], "a backing-off head blocks its group"
    api.delete(f"/v1/messages/{b[0]}").ok()
    assert [m["id"] for m in api.lease(name, 10)] == [b[1]], "removed frees it"
    api.delete(f"/v1/messages/{a[1]}").ok()


def test_a_failed_head_keeps_its_place_in_the_group(api: Api, name: str) -> None:
    ids = api.enqueue_all(name, [{"group": "g", "body": n} for n in range(3)])
    api.nack(api.one(name)["lease_token"], delay_ms=0)
    head = api.one(name)
    assert head["id"] == ids[0] and head["attempt"] == 2
    api.nack(head["lease_token"], dead_letter=True)
    second = api.one(name)
    assert second["id"] == ids[1], "dead frees the group"
    api.post(f"/v1/queues/{name}/dead/redrive", {}).ok()
    api.ack(second["lease_token"])
    order = []
    while leases := api.lease(name):
        order.append(leases[0]["id"])
        api.ack(leases[0]["lease_token"])
    assert order == [ids[2], ids[0]], "a redriven message goes to its group's end"


def test_a_delayed_head_blocks_and_priority_orders_groups_by_their_head(api: Api, name: str) -> None:
    api.enqueue(name, group="late", delay_ms=60_000)
    api.enqueue(name, group="late", priority=1000)
    low = api.enqueue(name, group="low", priority=1)
    api.enqueue(name, group="low", priority=900)
    high = api.enqueue(name, group="high", priority=5)
    assert [m["id"] for m in api.lease(name, 10)] == [high, low]


def test_more_than_one_in_flight_when_configured(api: Api, name: str) -> None:
    api.queue(name, max_leased_per_group=2)
    ids = api.enqueue_all(name, [{"group": "g"} for _ in range(4)])
    assert [m["id"] for m in api.lease(name, 10)] == ids[:2]


def test_dependencies(api: Api, name: str) -> None:
    first, second = api.enqueue(name, body=1), api.enqueue(name, body=2)
    both = api.enqueue(name, body=3, depends_on=[first, second], priority=9)
    assert api.message(both)["state"] == "blocked"
    leases = api.lease(name, 5)
    api.ack(leases[0]["lease_token"])
    assert api.lease(name) == []
    api.ack(leases[1]["lease_token"])
    assert api.one(name)["id"] == both
    done = api.enqueue(name, depends_on=[first]), first
    assert api.message(done[0])["state"] == "ready", "a dependency that is done is satisfied"


@pytest.mark.parametrize("end", ["dead", "cancelled"])
def test_a_failed_dependency(api: Api, name: str, end: str) -> None:
    parent = api.enqueue(name)
    fails = api.enqueue(name, depends_on=[parent])
    child = api.enqueue(name, depends_on=[fails])
    runs = api.enqueue(name, depends_on=[parent], on_dependency_failure="run")
    if end == "dead":
        api.nack(api.one(name)["lease_token"], dead_letter=True)
    else:
        api.delete(f"/v1/messages/{parent}").ok()
    for number in (fails, child):
        message = api.message(number)
        assert (message["state"], message["dead_reason"]) == ("dead", "dependency_failed")
    assert api.one(name)["id"] == runs
    api.post(f"/v1/queues/{name}/messages", {"depends_on": ["m0000ffffffff"]}).refused(
        404, "message_not_found"
    )
    api.post(f"/v1/queues/{name}/messages", {"depends_on": [parent], "on_dependency_failure": "x"}).refused(
        400, "invalid_argument", "/on_dependency_failure"
    )


def test_progress_is_kept_and_counts_as_a_heartbeat(api: Api, name: str) -> None:
    number = api.enqueue(name, retention_ms=60_000)
    lease = api.one(name, lease_ms=1500)
    before = lease["lease_expires_at_ms"]
    time.sleep(0.3)
    token = lease["lease_token"]
    api.post(f"/v1/messages/{number}/progress", {"lease_token": token, "percent": 40, "note": "half"}).ok()
    message = api.message(number)
    assert message["progress"]["percent"] == 40 and message["progress"]["note"] == "half"
    assert type(message["progress"]["at_ms"]) is int
    assert message["lease_expires_at_ms"] > before if "lease_expires_at_ms" in message else True
    path = f"/v1/messages/{number}/progress"
    api.post(path, {"lease_token": "nonsense", "percent": 1}).refused(409, "stale_lease")
    for bad in (-1, 101, "5"):
        api.post(path, {"lease_token": token, "percent": bad}).refused(400, "invalid_argument", "/percent")
    other = api.enqueue(name)
    mismatch = api.post(f"/v1/messages/{other}/progress", {"lease_token": token, "percent": 1})
    assert mismatch.status == 409, mismatch
    assert api.ack(token)[0]["status"] == "acked"
    api.post(path, {"lease_token": token, "percent": 1}).refused(409, "stale_lease")
