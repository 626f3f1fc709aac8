"""Requests and answers in bulk: what `http.bulk` reads and writes is what the general code does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trivet.http import build, bulk, render
from trivet.http import schema as s
from trivet.http.call import _command_bytes
from trivet.http.codec import BIG_BYTES, JSON, MSGPACK, Codec
from trivet.machine import views
from trivet.machine.commands import MACHINE_VERSION, Draft, Enqueue, Extras, Genesis, Lease, Request
from trivet.machine.core import Machine
from trivet.machine.ids import decode_token, encode_token, join_tokens
from trivet.machine.replies import EnqueuedOne, Leased, Settled, all_settled, enqueued
from trivet.wire.entry import encode_command, encode_request, join_request

ENCODE = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}
DECODE = {JSON: msgspec.json.decode, MSGPACK: msgspec.msgpack.decode}
MEDIA = (JSON, MSGPACK)

VALUES = ["", "x" * 300, {"a": [1, 2.5, None]}, 12345678901234567890 // 10, None, True, "ü\n\\", 1e22]
BYTES = [b"", b"x", b"x" * 255, b"y" * 256, b"z" * 70_000]


@pytest.mark.parametrize(("media", "bodies"), [(JSON, VALUES), (MSGPACK, VALUES), (MSGPACK, BYTES)])
def test_plain_messages_are_read_as_the_general_code_reads_them(media: str, bodies: list[Any]) -> None:
    data = ENCODE[media]({"messages": [{"body": body} for body in bodies], "request_id": "r"})
    quick = bulk.drafts(data, media)
    assert quick is not None and quick[1] == "r"
    given = Codec(s.EnqueueIn).decode(data, media)
    assert quick[0] == build.drafts(given, typed=media == MSGPACK, now_ms=0)
    for body, draft in zip(bodies, quick[0], strict=True):
        one = bulk.one_draft(ENCODE[media]({"body": body}), media)
        assert one == ((draft,), msgspec.UNSET) or len(draft.body) > BIG_BYTES


ODD: list[Any] = [
    {"messages": []},
    {"messages": [{"body": b"x"}, {"body": b"y", "priority": 1}]},
    {"messages": [{}]},
    {"messages": None},
    {"messages": [{"body": b"x"}] * 1001},
    {"messages": [{"body": b"x" * (1024 * 1024 + 1)}]},
    {"messages": [{"body": b"x"}], "delay_ms": 1},
    {"messages": [{"body": b"x"}], "request_id": 7},
    {"body": b"x"},
    [],
]


@pytest.mark.parametrize("given", ODD)
def test_what_is_not_plain_is_left_alone(given: Any) -> None:
    assert bulk.drafts(msgspec.msgpack.encode(given), MSGPACK) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"messages":[{"body":NaN}]}',
        b'{"messages":[{"body":1}',
        b'{"messages":[{"body":' + b"[" * 80 + b"]" * 80 + b"}]}",
        b'{"messages":[{"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b'{"messages":[{"body":12345678901234567890123}]}',
        b'{"messages":[{"body":"\xff"}]}',
    ],
)
def test_what_json_cannot_be_stored_is_left_to_whoever_tells_why(text: bytes) -> None:
    assert bulk.drafts(text, JSON) is None


def test_what_is_big_is_read_in_parts() -> None:
    many = b'{"messages":[{"body":[' + b",".join([b"1"] * 200_000) + b"]}]}"
    assert len(many) < bulk.BYTES_MAX and bulk.drafts(many, JSON) is None
    few = msgspec.json.encode({"messages": [{"body": "x" * 400}] * 1000})
    assert bulk.drafts(few, JSON) is not None
    big = {"messages": [{"body": b"x" * 600_000}] * 2}
    assert bulk.drafts(msgspec.msgpack.encode(big), MSGPACK) is None


@pytest.mark.parametrize("body", [{"a": b"x"}, 2**63, {1: 2}, msgspec.msgpack.Ext(1, b""), float("nan")])
def test_what_messagepack_holds_and_json_does_not_is_left_alone(body: Any) -> None:
    assert bulk.drafts(msgspec.msgpack.encode({"messages": [{"body": body}]}), MSGPACK) is None
    assert bulk.one_draft(msgspec.msgpack.encode({"body": body}), MSGPACK) is None


def test_many_values_in_messagepack_are_read_in_parts() -> None:
    def request(size: int) -> bytes:
        return msgspec.msgpack.encode({"messages": [{"body": "x" * (size // 10)}] * 10})

    below = request(BIG_BYTES - 200)
    assert len(below) <= BIG_BYTES < len(request(BIG_BYTES))
    assert bulk.drafts(below, MSGPACK) is not None
    assert bulk.drafts(request(BIG_BYTES), MSGPACK) is None


TOKENS = [encode_token(fence, bytes([fence]) * 16) for fence in (1, 2, 200)]


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize(
    "tokens",
    [
        TOKENS,
        TOKENS[:1],
        ["x", *TOKENS],
        [*TOKENS, TOKENS[0][:-1] + "="],
        [encode_token(2**63, b"m" * 16)],
        ["A" * 16 + "B" * 16, "A" * 31 + "é"],
        ["A" * 33, "A" * 31],
        ["A" * 31 + "!", "A" * 32],
    ],
)
def test_plain_acks(media: str, tokens: list[str]) -> None:
    data = ENCODE[media]({"acks": [{"lease_token": token} for token in tokens]})
    quick = bulk.acks(data, media)
    assert quick is not None and quick[1] is msgspec.UNSET
    given = Codec(s.AckIn).decode(data, media)
    assert quick[0] == build.ack(given, typed=media == MSGPACK, now_ms=0, auto_create=True)
    assert quick[0].tokens == join_tokens([decode_token(token) for token in tokens])


@pytest.mark.parametrize(
    "given",
    [
        {"acks": []},
        {"acks": [{"lease_token": "x", "result": None}]},
        {"acks": [{"lease_token": "x"}], "enqueue": []},
        {"acks": [{"lease_token": "x"}] * 1001},
        {"acks": "x"},
    ],
)
def test_other_acks_are_left_alone(given: Any) -> None:
    for media in MEDIA:
        assert bulk.acks(ENCODE[media](given), media) is None


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_answers_to_enqueue_and_ack(media: str, count: int) -> None:
    made = [EnqueuedOne(n, ("ready", "delayed", "blocked", "dead")[n % 4]) for n in range(count)]
    made.append(EnqueuedOne(7, "done", True, b'{"a":1}'))
    for some in (made, [EnqueuedOne(n, "ready") for n in range(5, 5 + count)]):
        told = DECODE[media](bulk.enqueued(enqueued(some), media))
        assert told == [DECODE[media](render.encode(render.enqueued(one, media), media)) for one in some]
    for last in (Settled("acked"), Settled("acked", repeated=True), Settled("stale_lease")):
        results = [Settled("acked")] * count + [last]
        told = DECODE[media](bulk.settled(all_settled(results), media))
        assert told == [render.settled(one) for one in results]


DRAFTS = [
    Draft(b'{"a":[1,"\\u00fc"]}', 0),
    Draft(b"", 1),
    Draft(b"\x00\xff" * 100, 1, priority=-1000),
    Draft(b"z" * 300, 1, priority=1000),
    Draft(b"z" * 70_000, 1),
    Draft(b"1", headers={"h": "v"}),
    Draft(b"1", content_type="text/plain", codec=1),
    Draft(b"1", group="g"),
    Draft(b"1", key="k"),
    Draft(b"1", ttl_ms=5000),
    Draft(b"1", extras=Extras(run_id="run", max_attempts=0)),
    *[Draft(b"null")] * 10,
]


@pytest.mark.parametrize("media", MEDIA)
def test_the_answer_to_a_lease(media: str) -> None:
    machine = Machine()
    machine.begin_entry(1, 1_700_000_000_000, MACHINE_VERSION)
    machine.apply(Request(Genesis("c", b"s" * 32, ("n1",))))
    queue = "q" * 100
    machine.apply(Request(Enqueue(queue, tuple(DRAFTS))))
    reply = machine.apply(Request(Lease((queue,), "w", 100))).reply
    assert isinstance(reply, Leased) and len(reply.grants) == len(DRAFTS)
    shown = views.leases(machine, reply.fences)
    assert sum(isinstance(one, tuple) for one in shown) == 15
    told = DECODE[media](bulk.leased(shown, media))
    general = []
    for grant in reply.grants:
        one = views.leased(machine, grant.fence)
        assert one is not None
        whole = render.message({"headers": {}, "group": None, **one}, media)
        general.append(DECODE[media](render.encode(whole, media)))
    assert told == general
    assert bytes(bulk.leased([], media)) == ENCODE[media]([])


def test_a_request_put_together_is_the_request_encoded() -> None:
    command = Enqueue("q", (Draft(b"x"), Draft(b"y", 1)))
    for key, fingerprint in (("r", b"f" * 16), ("r" * 256, b""), (None, b"")):
        request = Request(command, key, fingerprint)
        assert join_request(encode_command(command), request) == encode_request(request)
    # R12: read in bulk or not, a repeat has the same fingerprint.
    assert b"\x91" + encode_command(command) == _command_bytes((command,))
