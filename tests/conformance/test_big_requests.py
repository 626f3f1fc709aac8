"""Big enqueues are taken apart in pieces: the same answers as for small ones, and the loop goes on."""

from __future__ import annotations

import time

import msgspec
import pytest

from tests.conformance.client import JSON, MSGPACK, Api, Queue

MIB = 1024 * 1024
PAD = "x" * 400_000  # more than the limit of a request that is taken whole


@pytest.mark.parametrize("media", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        ({"messages": [{"body": PAD}, {"body": 1, "priority": 5000}]}, 400, "/messages/1/priority"),
        ({"messages": [{"body": 1}, {"body": PAD, "nope": 1}]}, 400, "/messages/1/nope"),
        (
            {"messages": [{"body": PAD}, {"body": 1, "backoff": {"type": "x"}}]},
            400,
            "/messages/1/backoff/type",
        ),
        ({"messages": [{"body": PAD}, 5]}, 400, "/messages/1"),
        ({"messages": [{"body": PAD}], "group": "g"}, 400, "/group"),
        ({"messages": [{"body": PAD}], "nope": 1}, 400, "/nope"),
        ({"messages": PAD}, 400, "/messages"),
        ({"body": PAD, "nope": 1}, 400, "/nope"),
        ({"body": PAD, "priority": "x"}, 400, "/priority"),
        ({"messages": [{"body": 1}, {"body": PAD * 3}]}, 413, "/messages/1/body"),
        ({"body": PAD * 3}, 413, "/body"),
        ({"body": [0] * 900_000}, 413, "/body"),
        ({"messages": [{"body": 1}, {"body": [0] * 900_000}]}, 413, "/messages/1/body"),
        ({"messages": [{}] * 200_000}, 413, "/messages"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(
    q: Queue, media: str, request_: object, status: int, field: str
) -> None:
    codec = msgspec.json if media == JSON else msgspec.msgpack
    answer = q.api.post(f"{q.path}/messages", data=codec.encode(request_), headers={"Content-Type": media})
    codes = {400: "invalid_argument", 413: "batch_too_large" if field == "/messages" else "payload_too_large"}
    answer.refused(status, codes[status], field)
    assert q.api.get(q.path)["ready"] == 0


@pytest.mark.parametrize("media", [JSON, MSGPACK])
def test_big_batches_come_as_they_were_sent(q: Queue, media: str) -> None:
    bodies = [PAD, {"a": [1, None, ",[{" * 100_000]}, 7, [[]] * 1000]
    sent = {
        "messages": [{"body": body, "priority": -at} for at, body in enumerate(bodies)],
        "request_id": q.name,
    }
    codec = msgspec.json if media == JSON else msgspec.msgpack
    call = {"data": codec.encode(sent), "headers": {"Content-Type": media}}
    first = q.api.post(f"{q.path}/messages", **call).ok(201)
    again = q.api.post(f"{q.path}/messages", **call).ok(201)
    assert again["repeated"] is True and again["messages"] == first["messages"]
    leased = q.api.post(f"{q.path}/lease", {"consumer": "c", "max_messages": 10}).ok()
    assert [message["body"] for message in leased["messages"]] == bodies


def test_commas_and_brackets_of_a_text_fit_as_long_as_they_fit(q: Queue) -> None:
    text = ",[{" * (MIB // 3)
    assert len(text) + 2 > MIB - 2
    text = text[: MIB - 2]
    q.api.post(f"{q.path}/messages", {"body": text}).ok(201)
    q.api.post(f"{q.path}/messages", {"body": text + ","}).refused(413, "payload_too_large", "/body")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_packed_bodies_are_not_unpacked(q: Queue, encoding: str) -> None:
    packed = {"Content-Type": JSON, "Content-Encoding": encoding}
    answer = q.api.post(f"{q.path}/messages", data=b"\x1f\x8b", headers=packed)
    answer.refused(415, "unsupported_media_type")


def test_who_waited_for_a_message_that_is_not_kept_hears_how_it_ended(api: Api, q: Queue) -> None:
    number = api.post(f"{q.path}/messages", {"body": "b"}).ok(201)["messages"][0]["id"]
    waiting = api.soon("GET", f"/v1/messages/{number}?wait_ms=10000")
    lease = api.post(f"{q.path}/lease", {"consumer": "c"}).ok()["messages"][0]
    time.sleep(0.1)  # if the wait has not begun yet, the answer is the 404 below
    index = api.post("/v1/ack", {"acks": [{"lease_token": lease["lease_token"]}]}).ok()["index"]
    told = waiting.result(10).ok().told
    assert (told["id"], told["state"], told["body"]) == (number, "done", "b")
    assert "attempts" not in told and told["finished_at_ms"] >= told["enqueued_at_ms"]
    assert told["as_of"] >= index
    api.get(f"/v1/messages/{number}").refused(404, "message_not_found")


def test_several_of_a_group_in_one_call(api: Api, q: Queue) -> None:
    q.put(max_leased_per_group=3).ok()
    api.post(f"{q.path}/messages", {"messages": [{"group": "g"}] * 5}).ok(201)
    assert len(api.post(f"{q.path}/lease", {"consumer": "c", "max_messages": 10}).ok()["messages"]) == 3
    assert api.post(f"{q.path}/lease", {"consumer": "c", "max_messages": 10}).ok()["messages"] == []


def test_a_repeated_put_has_the_revision_it_made(api: Api, name: str) -> None:
    key = {"Idempotency-Key": name}
    first = api.put(f"/v1/queues/{name}", {"lease_ms": 5000}, headers=key).ok(201)
    api.patch(f"/v1/queues/{name}", {"lease_ms": 7000}).ok()
    again = api.put(f"/v1/queues/{name}", {"lease_ms": 5000}, headers=key).ok(201)
    assert again["revision"] == first["revision"] and again["repeated"] is True
