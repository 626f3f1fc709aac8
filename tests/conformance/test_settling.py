"""api.md, Messages: ack, nack, extend, release (R13, R14, R15, R20, R22)."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from tests.conformance.client import Api, Queue

VERBS = {
    "ack": ("/v1/ack", "acks"),
    "nack": ("/v1/nack", "nacks"),
    "extend": ("/v1/extend", "extensions"),
    "release": ("/v1/release", "leases"),
}


def test_results_are_aligned(api: Api, q: Queue) -> None:
    q.send_all([{}, {}, {}])
    tokens = [one["lease_token"] for one in q.lease(3)]
    q.release(tokens[1])
    told = api.post(
        "/v1/ack",
        {"acks": [{"lease_token": t} for t in (tokens[0], tokens[1], "malformed", tokens[2])]},
    ).ok(200)
    assert [one["status"] for one in told["results"]] == ["acked", "stale_lease", "not_found", "acked"]


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_tokens_are_not_found_for_their_item(api: Api, verb: str) -> None:
    path, items = VERBS[verb]
    for token in ("", "x", "A" * 32, "é" * 16, "A" * 10_000):
        told = api.post(path, {items: [{"lease_token": token}]}).ok()
        assert told["results"] == [{"status": "not_found"}]


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_list_is_refused(api: Api, verb: str) -> None:
    path, items = VERBS[verb]
    api.post(path, {items: []}).refused(400, "invalid_argument", "/" + items)
    api.post(path, {}).refused(400, "invalid_argument", "/" + items)


@pytest.mark.parametrize("verb", VERBS)
def test_a_batch_has_at_most_1000_items(api: Api, verb: str) -> None:
    path, items = VERBS[verb]
    assert len(api.post(path, {items: [{"lease_token": "x"}] * 1000}).ok()["results"]) == 1000
    api.post(path, {items: [{"lease_token": "x"}] * 1001}).refused(413, "batch_too_large", "/" + items, 1000)


def test_ack_ends_a_message(api: Api, q: Queue) -> None:
    message = q.send(run_id="r")
    assert q.ack(q.take()["lease_token"], result=[1]) == {"status": "acked"}
    told = q.message(message)
    assert (told["state"], told["result"]) == ("done", [1])
    assert told["finished_at_ms"] >= told["enqueued_at_ms"]


def test_a_message_acked_without_retention_is_gone(api: Api, q: Queue) -> None:
    message = q.send()
    q.ack(q.take()["lease_token"])
    api.get(f"/v1/messages/{message}").refused(404, "message_not_found")


@pytest.mark.parametrize("verb", ["ack", "nack", "release"])
def test_the_same_token_and_verb_again_gives_the_same_answer(api: Api, q: Queue, verb: str) -> None:
    q.send()
    token = q.take()["lease_token"]
    path, items = VERBS[verb]
    first = api.post(path, {items: [{"lease_token": token}]}).ok()["results"][0]
    again = api.post(path, {items: [{"lease_token": token}]}).ok()["results"][0]
    assert again == {**first, "repeated": True}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("before", ["ack", "nack", "release"])
def test_another_verb_with_a_settled_token_is_stale(api: Api, q: Queue, verb: str, before: str) -> None:
    if verb == before:
        return
    message = q.send(retention_ms=60_000)
    token = q.take()["lease_token"]
    api.post(VERBS[before][0], {VERBS[before][1]: [{"lease_token": token}]}).ok()
    state = q.message(message)["state"]
    assert api.post(VERBS[verb][0], {VERBS[verb][1]: [{"lease_token": token}]}).ok()["results"] == [
        {"status": "stale_lease"}
    ]
    assert q.message(message)["state"] == state


def test_nack_backs_off(api: Api, q: Queue) -> None:
    q.put(backoff={"type": "fixed", "base_ms": 60_000, "jitter": 0}).ok()
    message = q.send()
    answer = api.post("/v1/nack", {"nacks": [{"lease_token": q.take()["lease_token"], "error": "boom"}]}).ok()
    told = answer["results"][0]
    assert (told["status"], told["state"]) == ("nacked", "delayed")
    shown = q.message(message)
    assert shown["deliver_at_ms"] == told["deliver_at_ms"]
    last = shown["attempts"][-1]
    assert (last["outcome"], last["error"]) == ("nacked", "boom")
    assert told["deliver_at_ms"] == last["ended_at_ms"] + 60_000


def test_nack_with_its_own_delay(api: Api, q: Queue) -> None:
    last_sent = q.message(q.send())["enqueued_at_ms"]
    told = q.nack(q.take()["lease_token"], delay_ms=0)
    assert (told["status"], told["state"]) == ("nacked", "ready")
    assert 0 <= told["deliver_at_ms"] - last_sent < 60_000
    assert q.take()["attempt"] == 2


def test_nack_to_the_tail_of_its_priority(api: Api, q: Queue) -> None:
    q.send_all([{"body": n} for n in range(3)])
    q.nack(q.take()["lease_token"], delay_ms=0)
    assert [one["body"] for one in q.lease(10)] == [1, 2, 0]


def test_release_goes_back_to_its_place_uncounted(api: Api, q: Queue) -> None:
    q.send_all([{"body": n} for n in range(3)])
    assert q.release(q.take()["lease_token"])["status"] == "released"
    found = q.lease(10)
    assert [one["body"] for one in found] == [0, 1, 2]
    assert found[0]["attempt"] == 1


def test_dead_letter_at_once(api: Api, q: Queue) -> None:
    message = q.send()
    assert q.nack(q.take()["lease_token"], dead_letter=True, error="no")["status"] == "dead"
    assert q.message(message)["dead_reason"] == "rejected"


def test_the_last_attempt_kills(api: Api, q: Queue) -> None:
    message = q.send(max_attempts=2)
    assert q.nack(q.take()["lease_token"], delay_ms=0)["status"] == "nacked"
    assert q.nack(q.take()["lease_token"], delay_ms=0)["status"] == "dead"
    told = q.message(message)
    assert (told["state"], told["dead_reason"], told["attempt"]) == ("dead", "max_attempts", 2)


def test_no_limit_of_attempts(api: Api, q: Queue) -> None:
    q.send(max_attempts=0)
    for attempt in range(1, 8):
        found = q.take()
        assert found["attempt"] == attempt
        assert q.nack(found["lease_token"], delay_ms=0)["status"] == "nacked"


def test_an_error_is_cut_never_refused(api: Api, q: Queue) -> None:
    message = q.send()
    q.nack(q.take()["lease_token"], error="ü" * 4096)
    error = q.message(message)["attempts"][0]["error"]
    assert error == "ü" * 2048


def test_extend_sets_the_rest_from_now(api: Api, q: Queue) -> None:
    message = q.send()
    token = q.take(lease_ms=60_000)["lease_token"]
    longer = q.extend(token, lease_ms=120_000)
    assert longer["status"] == "extended"
    assert q.message(message)["lease_expires_at_ms"] == longer["lease_expires_at_ms"]
    shorter = q.extend(token, lease_ms=1000)
    assert shorter["lease_expires_at_ms"] < longer["lease_expires_at_ms"]


def test_a_shortened_lease_ends_early(api: Api, q: Queue) -> None:
    q.send()
    token = q.take(lease_ms=600_000)["lease_token"]
    q.extend(token, lease_ms=1)
    assert q.take(wait_ms=10_000)["attempt"] == 2
    assert q.extend(token)["status"] == "stale_lease"


def test_a_cancelled_lease_is_told_at_extend_and_may_still_ack(api: Api, q: Queue) -> None:
    message = q.send(retention_ms=60_000)
    token = q.take()["lease_token"]
    told = api.delete(f"/v1/messages/{message}").ok()
    assert (told["state"], told["cancelled"]) == ("leased", True)
    assert q.extend(token)["cancelled"] is True
    assert q.ack(token)["status"] == "acked"
    assert q.message(message)["state"] == "done"


@pytest.mark.parametrize("verb", ["nack", "release"])
def test_any_other_end_of_a_cancelled_lease_cancels(api: Api, q: Queue, verb: str) -> None:
    message = q.send(retention_ms=60_000)
    token = q.take()["lease_token"]
    api.delete(f"/v1/messages/{message}").ok()
    api.post(VERBS[verb][0], {VERBS[verb][1]: [{"lease_token": token}]}).ok()
    assert q.message(message)["state"] == "cancelled"
    assert q.lease() == []


# --- ack with enqueue (R15) -------------------------------------------------------------------------------


def test_ack_with_enqueue_is_one_step(api: Api, q: Queue, name: str) -> None:
    q.send(1)
    told = api.post(
        "/v1/ack",
        {
            "acks": [{"lease_token": q.take()["lease_token"]}],
            "enqueue": [
                {"queue": name, "body": "next"},
                {"queue": q.name, "body": "again", "delay_ms": 1000},
            ],
        },
    ).ok(200)
    assert told["results"] == [{"status": "acked"}]
    assert [one["state"] for one in told["messages"]] == ["ready", "delayed"]
    assert Queue(api, name).take()["body"] == "next"


def test_a_stale_token_refuses_all(api: Api, q: Queue) -> None:
    q.send_all([{}, {}])
    live, stale = (one["lease_token"] for one in q.lease(2))
    q.release(stale)
    asked: dict[str, Any] = {
        "acks": [{"lease_token": live}, {"lease_token": stale}],
        "enqueue": [{"queue": q.name, "body": "never"}],
    }
    before = q.state()["ready"]
    api.post("/v1/ack", asked).refused(409, "stale_lease", "/acks/1/lease_token")
    assert q.state()["ready"] == before
    assert q.extend(live)["status"] == "extended"


def test_a_refused_message_refuses_all(api: Api, q: Queue, name: str) -> None:
    api.put(f"/v1/queues/{name}", {"max_messages": 1}).ok(201)
    Queue(api, name).send()
    q.send()
    token = q.take()["lease_token"]
    api.post("/v1/ack", {"acks": [{"lease_token": token}], "enqueue": [{"queue": name}]}).refused(
        429, "queue_full"
    )
    assert q.extend(token)["status"] == "extended"
    wrong = {"acks": [{"lease_token": token}], "enqueue": [{"queue": name, "priority": 1001}]}
    api.post("/v1/ack", wrong).refused(400, "invalid_argument", "/enqueue/0/priority", 1000)
    wrong = {"acks": [{"lease_token": token}], "enqueue": [{"queue": "-x"}]}
    api.post("/v1/ack", wrong).refused(400, "invalid_argument", "/enqueue/0/queue")


def test_ack_with_enqueue_needs_an_ack(api: Api, q: Queue) -> None:
    api.post("/v1/ack", {"acks": [], "enqueue": [{"queue": q.name}]}).refused(
        400, "invalid_argument", "/acks"
    )


def test_a_repeated_ack_with_enqueue(api: Api, q: Queue, name: str) -> None:
    q.send()
    asked = {
        "acks": [{"lease_token": q.take()["lease_token"]}],
        "enqueue": [{"queue": name}],
        "request_id": uuid.uuid4().hex,
    }
    first = api.post("/v1/ack", asked).ok().told
    again = api.post("/v1/ack", asked).ok().told
    assert again == {**first, "repeated": True}
    assert Queue(api, name).state()["ready"] == 1


# --- one message --------------------------------------------------------------------------------------------


def test_the_story_of_a_message(api: Api, q: Queue) -> None:
    message = q.send("b", retention_ms=60_000)
    q.nack(q.take(consumer="first")["lease_token"], error="boom", delay_ms=0)
    q.ack(q.take(consumer="second")["lease_token"], result="r")
    told = q.message(message)
    assert [(a["attempt"], a["consumer"], a["outcome"]) for a in told["attempts"]] == [
        (1, "first", "nacked"),
        (2, "second", "acked"),
    ]
    assert told["attempts"][0]["error"] == "boom"
    assert all(a["started_at_ms"] <= a["ended_at_ms"] for a in told["attempts"])
    assert (told["state"], told["result"], told["attempt"]) == ("done", "r", 2)


@pytest.mark.parametrize("unknown", ["mffffffffffff", "nonsense", "m1", "%C3%BC"])
def test_an_unknown_message(api: Api, unknown: str) -> None:
    for method in ("GET", "DELETE"):
        api.call(method, f"/v1/messages/{unknown}").refused(404, "message_not_found")
    api.patch(f"/v1/messages/{unknown}", {"priority": 1}).refused(404, "message_not_found")


def test_waiting_for_a_message_to_finish(api: Api, q: Queue) -> None:
    message = q.send(retention_ms=60_000)
    token = q.take()["lease_token"]
    waiting = api.soon("GET", f"/v1/messages/{message}?wait_ms=15000")
    time.sleep(0.15)
    assert not waiting.done()
    q.ack(token, result=7)
    told = waiting.result(5).ok().told
    assert (told["state"], told["result"]) == ("done", 7)
    assert api.get(f"/v1/messages/{message}?wait_ms=15000").ok()["state"] == "done"


def test_the_wait_for_a_message_ends(api: Api, q: Queue) -> None:
    message = q.send()
    assert api.get(f"/v1/messages/{message}?wait_ms=150").ok()["state"] == "ready"
    for wrong in ("60001", "-1", "x", "1.5"):
        api.get(f"/v1/messages/{message}?wait_ms={wrong}").refused(400, "invalid_argument", "/wait_ms")


def test_cancel(api: Api, q: Queue) -> None:
    message = q.send(retention_ms=60_000)
    assert api.delete(f"/v1/messages/{message}").ok()["state"] == "cancelled"
    assert q.message(message)["state"] == "cancelled"
    assert q.lease() == []
    api.delete(f"/v1/messages/{message}").refused(409, "message_finished")
    api.patch(f"/v1/messages/{message}", {"priority": 1}).refused(409, "message_finished")


def test_patch(api: Api, q: Queue) -> None:
    first, second = q.send(1), q.send(2)
    assert api.patch(f"/v1/messages/{second}", {"priority": 9}).ok()["state"] == "ready"
    assert q.take()["id"] == second
    at = q.message(first)["enqueued_at_ms"] + 600_000
    assert api.patch(f"/v1/messages/{first}", {"deliver_at_ms": at}).ok()["state"] == "delayed"
    assert q.message(first)["deliver_at_ms"] == at
    for wrong in ({}, {"priority": None}, {"body": 1}):
        api.patch(f"/v1/messages/{first}", wrong).refused(400, "invalid_argument")


def test_progress_is_a_heartbeat(api: Api, q: Queue) -> None:
    message = q.send()
    found = q.take(lease_ms=60_000)
    time.sleep(0.02)
    told = api.post(
        f"/v1/messages/{message}/progress",
        {"lease_token": found["lease_token"], "percent": 40, "note": "half"},
    ).ok()
    assert told["lease_expires_at_ms"] > found["lease_expires_at_ms"]
    shown = q.message(message)["progress"]
    assert (shown["percent"], shown["note"]) == (40, "half")
    assert isinstance(shown["at_ms"], int)


def test_progress_needs_the_live_lease(api: Api, q: Queue) -> None:
    message = q.send()
    token = q.take()["lease_token"]
    q.release(token)
    api.post(f"/v1/messages/{message}/progress", {"lease_token": token}).refused(409, "stale_lease")
    for percent in (-1, 101, 1.5, "1"):
        api.post(f"/v1/messages/{message}/progress", {"lease_token": token, "percent": percent}).refused(
            400, "invalid_argument", "/percent"
        )


# --- browsing -------------------------------------------------------------------------------------------------


def test_browse_without_leasing(api: Api, q: Queue) -> None:
    ids = q.send_all([{"body": n} for n in range(5)])
    q.take()
    page = api.get(q.path + "/messages?limit=2").ok().told
    assert [one["id"] for one in page["messages"]] == ids[:2]
    assert [one["state"] for one in page["messages"]] == ["leased", "ready"]
    assert "lease_token" not in page["messages"][0]
    following = api.get(q.path + f"/messages?limit=100&after={page['next']}").ok().told
    assert [one["id"] for one in following["messages"]] == ids[2:]
    assert following["next"] is None
    ready = api.get(q.path + "/messages?state=ready").ok().told
    assert [one["id"] for one in ready["messages"]] == ids[1:]
    assert q.state()["leased"] == 1


def test_browse_refuses_what_it_does_not_know(api: Api, q: Queue, name: str) -> None:
    api.get(q.path + "/messages?state=lost").refused(400, "invalid_argument", "/state")
    api.get(q.path + "/messages?after=x").refused(400, "invalid_argument", "/after")
    for wrong in ("0", "1001", "x", ""):
        api.get(q.path + f"/messages?limit={wrong}").refused(400, "invalid_argument", "/limit")
    api.get(f"/v1/queues/{name}/messages").refused(404, "queue_not_found")
