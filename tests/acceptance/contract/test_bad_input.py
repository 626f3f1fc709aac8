"""Issue 2, "Bad input and bad days"; api.md's sizes; rules R30, R31: just below, and just above."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import time
import zlib
from typing import Any

import msgpack
import pytest

from tests.acceptance.contract.helper import JSON, MSGPACK, Api

KIB, MIB, DAY_MS = 1024, 1024 * 1024, 86_400_000


def test_malformed_json(single: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    odd = [
        b"",
        b"{",
        b"}",
        b"[]",
        b'"x"',
        b"null",
        b"1",
        b'{"body": }',
        b'{"body": 1,}',
        b"{'body': 1}",
        b'{"body": 1} x',
    ]
    odd += [
        b'{"body": NaN}',
        b'{"body": Infinity}',
        b'{"body": -Infinity}',
        b'{"body": 1e400}',
        b'{"body": -1e400}',
    ]
    odd += [
        b'{"body": 01}',
        b'{"body": +1}',
        b'{"body": .5}',
        b'{"body": 1.}',
        b'{"body": "\x01"}',
        b'{"body": "\\x"}',
    ]
    odd += [
        b'{"body": "\xff"}',
        b'{"body": "\\ud800"}',
        b'{"body": {"\\udc00": 1}}',
        b'\xff\xfe{"a":1}',
        b"\x00",
    ]
    odd += [b'{"body": ' + str(2**64).encode() + b"}", b'{"body": ' + str(-(2**63) - 1).encode() + b"}"]
    odd += [b'{"body": ' + b"9" * 5000 + b"}", b'{"body": /* c */ 1}', b'{"body": tru}']
    for raw in odd:
        reply = single.post(path, raw=raw)
        assert reply.status == 400, (raw[:60], reply)
        reply.refused(400, "invalid_argument")
    single.get(f"/v1/queues/{name}").refused(404, "queue_not_found")


def test_malformed_messagepack(single: Api, name: str) -> None:
    def wrapped(value: bytes) -> bytes:
        return b"\x81\xa4body" + value

    nan, infinity = struct.pack(">d", float("nan")), struct.pack(">d", float("inf"))
    odd = [
        b"",
        b"\xc1",
        b"\x81",
        b"\x81\xa4body",
        wrapped(b"\x01") + b"\x01",
        b"\x90",
        b"\xc0",
        wrapped(b"\xcb" + nan),
    ]
    odd += [
        wrapped(b"\xcb" + infinity),
        wrapped(b"\xd4\x05\x00"),
        wrapped(msgpack.packb(msgpack.Timestamp(1))),
    ]
    odd += [wrapped(b"\x81\x01\x02"), wrapped(b"\xa1\xff"), wrapped(b"\x81\xc0\x01"), b"\x81\x01\x01"]
    odd += [
        b"\xdd\xff\xff\xff\xff",
        wrapped(b"\xdb\xff\xff\xff\xff"),
        wrapped(b"\xca\x7f\xc0\x00\x00"),
        wrapped(b"\x81\xc4\x01a\x01"),
    ]
    for raw in odd:
        reply = single.post(f"/v1/queues/{name}/messages", raw=raw, headers={"Content-Type": MSGPACK})
        assert reply.status == 400, (raw, reply)
        reply.refused(400, "invalid_argument")


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_depth(single: Api, name: str, kind: str) -> None:
    def nested(depth: int) -> bytes:
        if kind == JSON:
            return b'{"body":' + b"[" * depth + b"]" * depth + b"}"
        return b"\x81\xa4body" + b"\x91" * depth + b"\xc0"

    path, head = f"/v1/queues/{name}/messages", {"Content-Type": kind}
    for depth in (1, 30, 60):
        single.post(path, raw=nested(depth), headers=head).ok(201)
    for depth in (66, 500, 100_000):
        single.post(path, raw=nested(depth), headers=head).refused(400, "invalid_argument")
    assert single.get("/livez").status == 200


def test_wrong_types(single: Api, name: str) -> None:
    single.queue(name)
    path = f"/v1/queues/{name}/messages"
    wrong: dict[str, list[Any]] = {
        "headers": [[], "x", {"a": 1}, {"a": None}, 5],
        "priority": ["1", 1.5, True, 1001, -1001, 2**80],
        "delay_ms": ["1", -1, True, 400 * DAY_MS + 1],
        "deliver_at_ms": ["now", -1, False, 2**63],
        "ttl_ms": [0, -1, "x", 400 * DAY_MS + 1],
        "group": [5, "", [], "x" * 257],
        "idempotency_key": [5, "", "x" * 257, "ü" * 129],
        "idempotency_window_ms": ["x", -1],
        "run_id": [5, "", "x" * 257],
        "content_type": [5],
        "max_attempts": [-1, "5", True],
        "backoff": ["fixed", {"type": "x"}, 5],
        "lease_ms": [0, 43_200_001, "x"],
        "depends_on": ["m1", {}, [5]],
        "retention_ms": [-1, "x"],
    }
    for field, values in wrong.items():
        for value in values:
            sent = (
                {field: value, "idempotency_key": "k"} if field == "idempotency_window_ms" else {field: value}
            )
            problem = single.post(path, sent).refused(400, "invalid_argument")
            assert problem["field"].startswith(f"/{field}"), (sent, problem)
    for messages in ({}, "x", 5, [5], [None], [[]]):
        single.post(path, {"messages": messages}).refused(400, "invalid_argument")
    single.post(path, {"messages": []}).refused(400, "invalid_argument", "/messages")
    single.post(path, {"messages": [{}], "body": 1}).refused(400, "invalid_argument")
    assert single.counts(name)["ready"] == 0


def test_lease_arguments(single: Api, name: str) -> None:
    single.queue(name)
    path = f"/v1/queues/{name}/lease"
    for field, values in {
        "consumer": ["", 5, None, "x" * 257, "ü" * 129],
        "max_messages": [0, -1, 1001, "1", 1.5, True],
        "lease_ms": [0, -1, 43_200_001, "x"],
        "wait_ms": [-1, 60_001, "x", 0.5],
        "request_id": ["", 5, "x" * 257],
    }.items():
        for value in values:
            reply = single.post(path, {"consumer": "c", field: value})
            reply.refused(400, "invalid_argument", f"/{field}")
    single.post(path, {}).refused(400, "invalid_argument", "/consumer")
    single.post(
        path, {"consumer": "x" * 256, "max_messages": 1000, "lease_ms": 43_200_000, "request_id": "r" * 256}
    ).ok()
    single.post(path, {"consumer": "ü" * 128, "lease_ms": 1}).ok()
    queues = [name] * 65
    single.post("/v1/lease", {"consumer": "c", "queues": queues}).refused(400, "invalid_argument", "/queues")
    many = [f"{name}-{n}" for n in range(65)]
    for each in many:
        single.queue(each)
    single.post("/v1/lease", {"consumer": "c", "queues": many[:64]}).ok()
    reply = single.post("/v1/lease", {"consumer": "c", "queues": many})
    assert reply.status in (400, 413) and reply["limit"] == 64, reply


def test_a_body_of_one_mebibyte(single: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    single.post(path, {"body": "x" * (MIB - 2)}).ok(201)  # its compact JSON has two quotes more
    problem = single.post(path, {"body": "x" * (MIB - 1)}).refused(413, "payload_too_large", "/body")
    assert problem["limit"] == MIB
    exact = base64.b64encode(b"\0" * MIB).decode()
    single.post(path, {"body_base64": exact}).ok(201)
    over = base64.b64encode(b"\0" * (MIB + 1)).decode()
    assert single.post(path, {"body_base64": over}).refused(413, "payload_too_large")["limit"] == MIB
    packed = {"Content-Type": MSGPACK}
    single.post(path, {"body": b"\0" * MIB}, headers=packed).ok(201)
    single.post(path, {"body": b"\0" * (MIB + 1)}, headers=packed).refused(413, "payload_too_large")
    spaced = b'{"body": [' + b" " * MIB + b"1]}"
    single.post(path, raw=spaced).ok(201)  # counts as its compact JSON
    assert single.counts(name)["ready"] == 4
    leased = single.lease(name, 10)
    assert len(leased) == 4 and leased[0]["body"] == "x" * (MIB - 2)


def test_headers_of_sixteen_kibibytes(single: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    single.post(path, {"headers": {"k": "v" * (16 * KIB - 1)}}).ok(201)
    problem = single.post(path, {"headers": {"k": "v" * (16 * KIB)}}).refused(
        413, "payload_too_large", "/headers"
    )
    assert problem["limit"] == 16 * KIB
    single.post(path, {"headers": {f"h{n}": "" for n in range(64)}}).ok(201)
    many = single.post(path, {"headers": {f"h{n}": "" for n in range(65)}})
    assert many.status in (400, 413) and many["limit"] == 64, many


def test_a_batch_of_a_thousand(single: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    assert len(single.post(path, {"messages": [{}] * 1000}).ok(201)["messages"]) == 1000
    assert single.post(path, {"messages": [{}] * 1001}).refused(413, "batch_too_large")["limit"] == 1000
    leases = single.lease(name, 1000)
    assert len(leases) == 1000
    tokens = [{"lease_token": m["lease_token"]} for m in leases]
    for verb, field, more in (
        ("extend", "extensions", {"lease_ms": 60_000}),
        ("release", "leases", {}),
        ("nack", "nacks", {}),
        ("ack", "acks", {}),
    ):
        items = [{**token, **more} for token in tokens]
        over = single.post(f"/v1/{verb}", {field: [*items, items[0]]})
        assert over.refused(413, "batch_too_large", f"/{field}")["limit"] == 1000
        results = single.post(f"/v1/{verb}", {field: items}).ok()["results"]
        assert len(results) == 1000


def test_a_batch_of_eight_mebibytes(single: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    full = [{"body": "x" * (MIB - 2)}] * 8
    reply = single.post(path, {"messages": full})
    assert reply.status == 201, reply
    over = single.post(path, {"messages": [*full, {"body": "xx"}]})
    assert over.status == 413 and over["code"] in ("batch_too_large", "payload_too_large"), over
    assert over["limit"] == 8 * MIB
    as_base64 = [{"body_base64": base64.b64encode(b"\0" * MIB).decode()}] * 8
    assert single.post(path, {"messages": as_base64}).status == 201
    answer = single.post(f"/v1/queues/{name}/lease", {"consumer": "c", "max_messages": 1000}).ok()
    assert 7 <= len(answer["messages"]) <= 8, "answers take 8 MiB at most"
    small = single.post(
        f"/v1/queues/{name}/lease", {"consumer": "c", "max_messages": 1000, "max_bytes": 1}
    ).ok()
    assert len(small["messages"]) == 1, "at least one message"


def test_an_endless_body_is_refused_early(single: Api, name: str) -> None:
    connection = http.client.HTTPConnection(single.host, single.port, timeout=10)
    connection.putrequest("POST", f"/v1/queues/{name}/messages")
    connection.putheader("Content-Type", JSON)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["code"] in ("payload_too_large", "batch_too_large")
    connection.close()


def test_settle_limits(single: Api, name: str) -> None:
    single.queue(name, max_attempts=0)
    number = single.enqueue(name)
    token = single.one(name)["lease_token"]
    over = single.post("/v1/ack", {"acks": [{"lease_token": token, "result": "x" * (256 * KIB - 1)}]})
    assert over.refused(413, "payload_too_large", "/acks/0/result")["limit"] == 256 * KIB
    note = single.post(f"/v1/messages/{number}/progress", {"lease_token": token, "note": "n" * 1024})
    note.ok()
    long_note = single.post(f"/v1/messages/{number}/progress", {"lease_token": token, "note": "n" * 1025})
    assert long_note.status in (400, 413), long_note
    single.nack(token, error="ü" * 4096, delay_ms=0)
    error = single.message(number)["attempts"][0]["error"]
    assert set(error) == {"ü"} and 4000 <= len(error.encode()) <= 4096, "cut, never refused"
    token = single.one(name)["lease_token"]
    for bad, field in (
        ({"error": 5}, "/nacks/0/error"),
        ({"delay_ms": -1}, "/nacks/0/delay_ms"),
        ({"delay_ms": 400 * DAY_MS + 1}, "/nacks/0/delay_ms"),
        ({"dead_letter": "yes"}, "/nacks/0/dead_letter"),
    ):
        single.post("/v1/nack", {"nacks": [{"lease_token": token, **bad}]}).refused(
            400, "invalid_argument", field
        )
    single.post("/v1/ack", {"acks": [{"lease_token": token, "result": "x" * (256 * KIB - 2)}]}).ok()
    assert len(single.message(number)["result"]) == 256 * KIB - 2


def test_depends_on_a_hundred(single: Api, name: str) -> None:
    ids = single.enqueue_all(name, [{}] * 101)
    path = f"/v1/queues/{name}/messages"
    single.post(path, {"depends_on": ids[:100]}).ok(201)
    reply = single.post(path, {"depends_on": ids})
    assert reply.status in (400, 413) and reply["limit"] == 100, reply


def test_key_lengths_at_their_limit(single: Api, name: str) -> None:
    most = "k" * 256
    single.enqueue(
        name, idempotency_key=most, group=most, run_id=most, step_id=most, tenant_id=most, user_id=most
    )
    single.enqueue(name, delay_ms=400 * DAY_MS, ttl_ms=400 * DAY_MS)
    single.post(f"/v1/queues/{name}/messages", {}, headers={"Idempotency-Key": most}).ok(201)
    single.post(f"/v1/queues/{name}/messages", {}, headers={"Idempotency-Key": most + "k"}).refused(
        400, "invalid_argument"
    )
    single.post(f"/v1/queues/{name}/messages", {}, headers={"Idempotency-Key": ""}).refused(
        400, "invalid_argument"
    )


def test_both_request_ids_must_agree(single: Api, name: str) -> None:
    path = f"/v1/queues/{name}/messages"
    single.post(path, {"request_id": f"{name}-a"}, headers={"Idempotency-Key": f"{name}-a"}).ok(201)
    reply = single.post(path, {"request_id": f"{name}-b"}, headers={"Idempotency-Key": f"{name}-c"})
    reply.refused(400, "invalid_argument")


@pytest.mark.parametrize("size", [0, 1, 100])
def test_half_a_request_harms_nobody(single: Api, size: int) -> None:
    with socket.create_connection((single.host, single.port), timeout=5) as half:
        half.sendall(b"POST /v1/ack HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"[: size + 20])
        assert single.get("/livez").status == 200


def test_garbage_on_the_port(single: Api) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET\r\n\r\n",
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection((single.host, single.port), timeout=5) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    huge = b"GET /v1/queues HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"
    with socket.create_connection((single.host, single.port), timeout=5) as connection:
        connection.sendall(huge)
        assert connection.recv(4096).split()[1][:1] == b"4"
    assert single.get("/livez").status == 200


def test_packed_bodies_are_refused_without_unpacking(single: Api, name: str) -> None:
    """415: a bomb of 400 KB held the event loop long enough to cost a leader its office."""
    bomb = zlib.compress(b"0" * (200 * MIB), 1)
    path = f"/v1/queues/{name}/messages"
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
        reply = single.post(path, raw=bomb, headers={"Content-Encoding": encoding})
        reply.refused(415, "unsupported_media_type")
        start = time.monotonic()
        assert single.get("/livez").status == 200
        assert time.monotonic() - start < 0.5
    single.post(path, {"body": 1}, headers={"Content-Encoding": "identity"}).ok(201)


def test_chunked_bodies_are_bodies(single: Api, name: str) -> None:
    connection = http.client.HTTPConnection(single.host, single.port, timeout=5)
    connection.request(
        "POST",
        f"/v1/queues/{name}/messages",
        iter([b'{"bo', b'dy":5}']),
        {"Content-Type": JSON},
        encode_chunked=True,
    )
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    answer.read()
    connection.close()
    assert single.one(name)["body"] == 5


def test_odd_paths(single: Api) -> None:
    for path in (
        "/v1/messages/%00",
        "/v1/messages/%FF%FE",
        "/v1/messages/..",
        "/v1/messages/" + "m" * 5000,
        "/v1/messages/m-1",
    ):
        reply = single.get(path)
        assert reply.status in (400, 404), reply
    for path in ("/v1/queues//messages", "/v1/queues/../queues", "/v1//queues"):
        assert single.get(path).status in (400, 404), path
