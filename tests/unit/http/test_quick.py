"""The quick way (`http.quick`) says what aiohttp's way says, takes only what is plain, and keeps a connection's order."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable

import msgpack
import pytest

from tests.loopback import Loopback, serving
from trivet.http import server
from trivet.http.app import Settings
from trivet.http.quick import Heads

BODY = b'{"body":{"a":1}}'


def post(path: str, body: bytes = b"", media: str = "application/json", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def packed(value: object) -> bytes:
    return bytes(msgpack.packb(value))


def run(test: Callable[[Loopback, int], Awaitable[None]], settings: Settings | None = None) -> None:
    async def main() -> None:
        node = Loopback()
        async with serving(node, settings or Settings()) as url, asyncio.timeout(20):
            await test(node, int(url.rpartition(":")[2]))

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split(" ")[1]), headers, body


@pytest.fixture
def passed_on(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What aiohttp got to read."""
    seen: list[bytes] = []
    way = server._Connection._to_aiohttp

    def spy(self: server._Connection, data: bytes) -> None:
        if data:
            seen.append(data)
        way(self, data)

    monkeypatch.setattr(server._Connection, "_to_aiohttp", spy)
    return seen


MESSAGES, MSGPACK = "/v1/queues/q/messages", "application/msgpack"
BOTH_WAYS = {
    "one": post(MESSAGES, BODY),
    "one with a request id": post(MESSAGES, b'{"body":[1],"request_id":"r1"}'),
    "its repeat": post(MESSAGES, b'{"body": [1] ,"request_id":"r1"}'),
    "its conflict": post(MESSAGES, b'{"body":[2],"request_id":"r1"}'),
    "the id in a header": post(MESSAGES, BODY, more="Idempotency-Key: r2\r\n"),
    "two ids": post(MESSAGES, b'{"body":1,"request_id":"r4"}', more="Idempotency-Key: r5\r\n"),
    "one in msgpack": post(MESSAGES, packed({"body": b"\x00\xff"}), MSGPACK),
    "one in msgpack, no bytes": post(MESSAGES, packed({"body": "text"}), MSGPACK),
    "one in msgpack, a map": post(
        MESSAGES, packed({"body": {"a": [1, None, 2.5]}, "request_id": "r6"}), MSGPACK
    ),
    "the same in JSON": post(MESSAGES, b'{"request_id":"r6","body":{"a":[1,null,2.5]}}'),
    "one in msgpack, bytes inside": post(MESSAGES, packed({"body": {"a": b"x"}}), MSGPACK),
    "one in msgpack, a number too large": post(MESSAGES, packed({"body": 2**63}), MSGPACK),
    "one in msgpack, keys that are no text": post(MESSAGES, packed({"body": {1: 2}}), MSGPACK),
    "many in msgpack": post(MESSAGES, packed({"messages": [{"body": {"a": 1}}, {"body": []}]}), MSGPACK),
    "many in msgpack, mixed": post(MESSAGES, packed({"messages": [{"body": b"x"}, {"body": 1}]}), MSGPACK),
    "answered in msgpack": post(MESSAGES, BODY, more=f"Accept: {MSGPACK}\r\n"),
    "many": post(MESSAGES, b'{"messages":[{"body":1},{"body":2}]}'),
    "a named request": post(MESSAGES, BODY, more="Trivet-Request-Id: mine\r\n"),
    "general": post(MESSAGES, b'{"body":1,"priority":3}'),
    "unknown field": post(MESSAGES, b'{"body":1,"nobody":2}'),
    "no JSON": post(MESSAGES, b'{"body":'),
    "NaN": post(MESSAGES, b'{"body":NaN}'),
    "no body": post(MESSAGES),
    "wrong media": post(MESSAGES, BODY, "text/plain"),
    "no acceptable media": post(MESSAGES, BODY, more="Accept: text/html\r\n"),
    "wrong name": post("/v1/queues/-q/messages", BODY),
    "wrong query": post(MESSAGES + "?x=1", BODY),
    "wrong path": post("/v1/queues/q/massages", BODY),
    "wrong method": b"PUT /v1/ack HTTP/1.1\r\nHost: x\r\n\r\n",
    "lease": post("/v1/queues/q/lease", b'{"consumer":"c","max_messages":2}'),
    "ack of nothing": post("/v1/ack", b'{"acks":[]}'),
    "ack of a stranger": post("/v1/ack", b'{"acks":[{"lease_token":"%b"}]}' % base64.b64encode(bytes(24))),
    "a look": b"GET /v1/queues/q HTTP/1.1\r\nHost: x\r\n\r\n",
    "health": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
}


async def asked(port: int, pieces: list[bytes]) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.005)  # so that they come apart
    found = await answer(reader)
    writer.close()
    return found


def test_both_ways_say_the_same(passed_on: list[bytes]) -> None:
    told: list[list[tuple[int, dict[str, str], str]]] = []

    async def test(node: Loopback, port: int, split: bool) -> None:
        found = told[-1]
        for request in BOTH_WAYS.values():
            status, headers, body = await asked(port, [request[:9], request[9:]] if split else [request])
            assert headers.pop("trivet-leader") == f"http://127.0.0.1:{port}"
            del headers["date"]
            if headers["trivet-request-id"] != "mine":
                headers["trivet-request-id"] = re.sub(
                    r"\A[0-9a-f]{16}\Z", "made", headers["trivet-request-id"]
                )
            text = re.sub(r'("[a-z_]*_ms":|"lease_token":)("[^"]*"|\d+)', r"\1", body.decode("latin-1"))
            found.append((status, headers, text))

    for split in (False, True):
        told.append([])
        run(lambda node, port, split=split: test(node, port, split))  # type: ignore[misc]
        if not split:
            assert not passed_on
    assert len(passed_on) == 2 * len(BOTH_WAYS)
    for name, quickly, through in zip(BOTH_WAYS, *told, strict=True):
        assert quickly == through, name


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.0\r\nHost: x",
        b"HEAD /x HTTP/1.1\r\nHost: x",
        b"POST  /x HTTP/1.1\r\nHost: x",
        b"POST http://x/x HTTP/1.1\r\nHost: x",
        b"POST /x\xc3\xbc HTTP/1.1\r\nHost: x",
        b"POST /x HTTP/1.1",
        b"POST /x HTTP/1.1\r\nHost: x\r\nHost: y",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\ncontent-length: 2",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: +1",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: ",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length : 1",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip",
        b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close",
        b"POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue",
        b"POST /x HTTP/1.1\r\nHost: x\r\nA: b\r\n folded",
        b"POST /x HTTP/1.1\r\nHost: x\r\nA: b\nB: c",
        b"POST /x HTTP/1.1\r\nHost: x\r\nA: \xc3\xbc",
        b"POST /x HTTP/1.1\r\nHost: x\r\nA: b\x00",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\nIdempotency-Key: b",
        b"POST /x HTTP/1.1\r\nHost: x\r\nidempotency-key: a\r\nIdempotency-Key: b",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\n folded",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: ",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key:  a",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a ",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\nB: c",
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: \xc3\xbc",
        b"POST /x HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 5000,
        b"POST /x HTTP/1.1\r\nHost: x\r\n" + b"\r\n".join(b"A%d: b" % at for at in range(60)),
    ],
)
def test_what_is_not_plain_is_not_read(head: bytes) -> None:
    assert Heads().read(head + b"\r\n\r\n") is None


def test_heads_are_kept_up_to_a_limit() -> None:
    heads = Heads()
    made = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % at for at in range(1000)]
    for head in made:
        first, again = heads.read(head + b"body"), heads.read(head)
        assert first is not None and again is not None and first.head is again.head
        assert first.body == b"body" and first.missing == -4
    assert len(heads._known) <= 256


def test_a_head_is_known_whatever_its_key() -> None:
    """Each call of the SDK has a key of its own."""
    heads = Heads()
    made = [
        b"POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: %s\r\nContent-Length: 2\r\n\r\nhi" % key
        for key in (b"a", b"b c", b"~" * 256)
    ]
    read = [heads.read(one) for one in made]
    assert [one and one.headers["idempotency-key"] for one in read] == ["a", "b c", "~" * 256]
    assert all(one is not None and one.missing == 0 for one in read)
    assert len({id(one and one.head) for one in read}) == 1
    without = heads.read(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    assert without is not None and "Idempotency-Key" not in without.headers


def test_requests_in_one_piece_are_answered_in_order() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"".join(post(MESSAGES, b'{"body":%d}' % at) for at in range(3)))
            indexes = [json.loads((await answer(reader))[2])["index"] for _ in range(3)]
            assert indexes == sorted(indexes)
        writer.close()

    run(test)


def test_what_comes_while_one_is_under_way_waits_for_it(passed_on: list[bytes]) -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(MESSAGES, BODY))
        await answer(reader)
        node.hold = True
        writer.write(post(MESSAGES, BODY))
        async with asyncio.timeout(5):
            while not node.held:  # noqa: ASYNC110 - bounded by the timeout
                await asyncio.sleep(0.005)
        whole = b"GET /v1/queues/q HTTP/1.1\r\nHost: x\r\n\r\n"
        for piece in (whole[:7], whole[7:], whole):
            writer.write(piece)
            await asyncio.sleep(0.01)
        node.hold = False
        node.decide()
        found = [await answer(reader) for _ in range(3)]
        assert [status for status, _, _ in found] == [201, 200, 200]
        assert json.loads(found[2][2])["ready"] == 2
        writer.close()

    run(test)


def test_after_a_big_request_the_quick_way_is_open_again(passed_on: list[bytes]) -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        big = post(MESSAGES, b'{"body":"%b"}' % (b"x" * 900_000))
        for request in (big, post(MESSAGES, BODY), big, post(MESSAGES, BODY)):
            writer.write(request)
            assert (await answer(reader))[0] == 201
        assert b"".join(passed_on) == big + big
        # Half a request more: aiohttp has it, so it gets all that follows.
        writer.write(big + b"GET /li")
        assert (await answer(reader))[0] == 201
        writer.write(b"vez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.write(post(MESSAGES, BODY))
        assert (await answer(reader))[0] == 201
        assert passed_on[-1] == post(MESSAGES, BODY)
        writer.close()

    run(test)


def test_a_parked_poll_outlives_the_idle_time_and_the_connection_does_not() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PUT /v1/queues/q HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await answer(reader)
        writer.write(post("/v1/queues/q/lease", b'{"consumer":"c","wait_ms":900}'))
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["messages"]) == (200, [])
        assert await reader.read() == b""  # then idle, and ended
        writer.close()

    run(test, Settings(keepalive_timeout_s=0.3))


def test_a_stop_waits_for_what_is_under_way() -> None:
    async def main() -> None:
        node = Loopback()
        async with asyncio.timeout(20):
            async with serving(node, Settings()) as url:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                node.hold = True
                writer.write(post(MESSAGES, BODY))
                while not node.held:  # noqa: ASYNC110 - bounded by the timeout
                    await asyncio.sleep(0.005)
                node.hold = False
                asyncio.get_running_loop().call_later(0.1, node.decide)
            assert (await answer(reader))[0] == 201
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


def test_who_hangs_up_ends_only_the_wait() -> None:
    async def test(node: Loopback, port: int) -> None:
        node.hold = True
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(MESSAGES, BODY))
        while not node.held:  # noqa: ASYNC110 - bounded by `run`
            await asyncio.sleep(0.005)
        writer.close()
        await writer.wait_closed()
        node.hold = False
        node.decide()
        status, _, body = await asked(port, [b"GET /v1/queues/q HTTP/1.1\r\nHost: x\r\n\r\n"])
        assert (status, json.loads(body)["ready"]) == (200, 1)

    run(test)
