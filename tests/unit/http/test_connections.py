"""Slow, half-open and broken connections: a deadline for each phase, an answer where one can be given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from tests.loopback import Loopback, serving
from trivet.http.app import Settings

FAST = Settings(header_timeout_s=0.2, body_timeout_s=0.2, keepalive_timeout_s=0.5, write_timeout_s=0.5)


def run(test: Callable[[Loopback, int], Awaitable[None]], settings: Settings = FAST) -> None:
    async def main() -> None:
        node = Loopback()
        async with serving(node, settings) as url:
            async with asyncio.timeout(20):
                await test(node, int(url.rpartition(":")[2]))

    asyncio.run(main())


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return (
        int(head[0].split(" ")[1]),
        headers,
        await reader.readexactly(int(headers.get("content-length", 0))),
    )


async def closed(reader: asyncio.StreamReader) -> None:
    """The server ends the connection."""
    assert await reader.read(1) == b""


def test_a_head_that_does_not_come() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")
        status, headers, body = await answer_of(reader)
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        assert headers["content-type"] == "application/problem+json"
        told = {"trivet-node", "trivet-role", "trivet-term", "trivet-index", "trivet-request-id"}
        assert told <= headers.keys(), "every answer says who gave it"
        await closed(reader)
        writer.close()

    run(test)


def test_a_head_that_comes_in_drops() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def drip() -> None:
            for byte in b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 1000:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert (await answer_of(reader))[0] == 408
        dripping.cancel()
        writer.close()

    run(test)


def test_a_second_request_has_its_own_deadline() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer_of(reader))[0] == 200
            await asyncio.sleep(0.1)
        writer.write(b"GET /li")
        assert (await answer_of(reader))[0] == 408
        writer.close()

    run(test)


def test_a_head_in_two_pieces_is_fine() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HT")
        await asyncio.sleep(0.05)
        writer.write(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer_of(reader))[0] == 200
        await asyncio.sleep(0.3)  # the head's deadline has passed and does not count any more
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer_of(reader))[0] == 200
        writer.close()

    run(test)


def test_a_body_that_does_not_come() -> None:
    async def test(node: Loopback, port: int) -> None:
        before = node.applied_index
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PUT /v1/queues/q HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        status, headers, body = await answer_of(reader)
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        assert headers["trivet-node"] == "n1"
        await closed(reader)
        writer.close()
        assert node.applied_index - before <= 1  # genesis at most

    run(test)


def test_idle_connections_end() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await closed(reader)
        writer.close()

    run(test)


def test_a_half_open_poll_is_forgotten() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PUT /v1/queues/q HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer_of(reader))[0] == 201
        ask = b'{"consumer": "c", "wait_ms": 30000}'
        head = b"POST /v1/queues/q/lease HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(ask)
        writer.write(head + ask)
        while not node.waiters.parked:  # noqa: ASYNC110 - bounded by the test's timeout
            await asyncio.sleep(0.005)
        writer.transport.abort()
        while node.waiters.parked:  # noqa: ASYNC110 - bounded by the test's timeout
            await asyncio.sleep(0.005)

    run(test)


def test_an_answer_that_is_not_read() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        body = json.dumps({"messages": [{"body": "x" * 1_000_000}] * 7}).encode()
        head = b"POST /v1/queues/q/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        assert (await answer_of(reader))[0] == 201
        for _ in range(4):  # more than any socket buffer holds
            writer.write(b"GET /v1/queues/q/messages HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.5)
        got = 0
        try:
            while chunk := await reader.read(1 << 20):
                got += len(chunk)
        except ConnectionResetError:
            pass
        assert got < 4 * 7_000_000, "cut off before all was sent"
        writer.close()

    run(test)


def test_bytes_that_are_no_http() -> None:
    async def test(node: Loopback, port: int) -> None:
        for wrong in (
            b"hello\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nBad Header\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wrong)
            status, headers, body = await answer_of(reader)
            assert status == 400, wrong
            assert headers["content-type"] == "application/problem+json"
            assert json.loads(body)["code"] == "invalid_argument"
            await closed(reader)
            writer.close()

    run(test)


def test_expect_100_continue() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"PUT /v1/queues/q HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"{}")
        assert (await answer_of(reader))[0] == 201
        writer.close()

    run(test)


def test_a_chunked_body_has_its_limit_too() -> None:
    async def test(node: Loopback, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/queues/q/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
        try:
            for _ in range(16):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        status, _, body = await answer_of(reader)
        assert (status, json.loads(body)["limit"]) == (413, 12 * 2**20)
        writer.close()

    run(test, Settings())
