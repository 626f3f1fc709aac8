"""The SDK's HTTP connections against a node that says exactly the bytes of a test."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from tests.unit.client.fake import free_port
from trivet.client import connections
from trivet.client.connections import HEAD_BYTES_MAX, Broken, Connections, Request, Response

PLAIN = b"HTTP/1.1 200 OK\r\nTrivet-Node: n1\r\nContent-Type: Text/Plain; charset=x\r\nContent-Length: 2\r\n\r\nhi"


@dataclass
class Scripted:
    """Answers the n-th request of all connections with the n-th piece; None hangs up. The last one stays.

    A request ends where its Content-Length says.
    """

    answers: Sequence[bytes | None]
    requests: list[bytes] = field(default_factory=list)
    came: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    serving: list[asyncio.Task[Any]] = field(default_factory=list)
    connected: int = 0
    hung_up: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        task = asyncio.current_task()
        assert task is not None
        self.serving.append(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int((re.findall(rb"Content-Length: (\d+)", head) or [0])[0])
                self.requests.append(head + await reader.readexactly(length))
                self.came.put_nowait(None)
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if answer is None:
                    break
                writer.write(answer)
                if b"Connection: close" in answer or answer.startswith(b"HTTP/1.0"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up += 1
        finally:
            writer.close()

    def request(
        self, method: str = "GET", target: str = "/v1", payload: bytes | None = None, **headers: str
    ) -> Request:
        return Request(method, f"http://127.0.0.1:{self.port}", target, headers, payload)


LOOP: list[Callable[[Any], Any]] = [asyncio.run]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Their transports are not alike."""
    LOOP.append(request.param)
    yield
    LOOP.pop()


def drive(node: Scripted, test: Callable[[Connections], Awaitable[Any]], limit: int = 10) -> Any:
    async def run() -> Any:
        server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
        node.port = server.sockets[0].getsockname()[1]
        made = Connections(limit, 1.0)
        try:
            return await asyncio.wait_for(test(made), 5)
        finally:
            await made.close()
            server.close()
            await asyncio.gather(*node.serving)

    return LOOP[-1](run())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one element is the time by which connections rest."""
    now = [1000.0]
    monkeypatch.setattr(connections, "monotonic", lambda: now[0])
    return now


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """Of a listener whose line is full: its kernel drops what comes."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()


def one(node: Scripted) -> Response:
    answer = drive(node, lambda made: made.send(node.request()))
    assert isinstance(answer, Response)
    return answer


def test_what_leaves() -> None:
    node = Scripted([PLAIN])

    async def calls(made: Connections) -> None:
        await made.send(node.request("POST", "/v1/queues/q/messages?x=%2F", b"\x00body", Accept="a/b"))
        await made.send(node.request("DELETE", "/v1/x"))
        await made.send(node.request())

    drive(node, calls)
    host = f"Host: 127.0.0.1:{node.port}\r\n".encode()
    assert node.requests == [
        b"POST /v1/queues/q/messages?x=%2F HTTP/1.1\r\n"
        + host
        + b"Accept: a/b\r\nContent-Length: 5\r\n\r\n\x00body",
        b"DELETE /v1/x HTTP/1.1\r\n" + host + b"Content-Length: 0\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\n" + host + b"\r\n",
    ]
    assert node.connected == 1


def test_an_answer_is_taken_whole() -> None:
    answer = one(Scripted([PLAIN]))
    assert (answer.status, answer.body, answer.media) == (200, b"hi", "text/plain")
    assert answer.headers["trivet-node"] == "n1"


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", 201, b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", 503, b"no"),
    ],
    ids=["chunked", "continue", "no content", "without a length", "1.0", "close"],
)  # fmt: skip
def test_every_way_an_answer_may_end(data: bytes, status: int, body: bytes) -> None:
    answer = one(Scripted([data]))
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhal",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["hangs up", "half a body", "half of the chunks", "half a head", "no HTTP", "upgrade"],
)
def test_half_an_answer_is_none(data: bytes | None) -> None:
    node = Scripted([data])

    async def call(made: Connections) -> bool:
        request = node.request()
        with pytest.raises(Broken):
            await made.send(request)
        return request.left

    assert drive(node, call) is True
    assert len(node.requests) == 1, "nothing is sent twice"


@pytest.mark.parametrize("more", [0, 1])
def test_a_head_has_a_limit(more: int) -> None:
    rest = HEAD_BYTES_MAX + more - len("Content-Length0" + "X")
    node = Scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + b"x" * rest + b"\r\n\r\n"])
    if more:
        with pytest.raises(Broken, match=str(HEAD_BYTES_MAX)):
            one(node)
    else:
        assert one(node).status == 200


def test_a_closed_connection_is_not_used_again() -> None:
    node = Scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", PLAIN])

    async def calls(made: Connections) -> None:
        for _ in range(3):
            await made.send(node.request())

    drive(node, calls)
    assert node.connected == 2


def test_an_answer_to_nothing_ends_the_connection() -> None:
    node = Scripted([PLAIN + PLAIN, PLAIN])

    async def calls(made: Connections) -> bytes:
        assert (await made.send(node.request())).body == b"hi"
        return (await made.send(node.request())).body

    assert drive(node, calls) == b"hi"
    assert node.connected == 2


def test_who_gives_up_takes_the_connection_along() -> None:
    """What was asked may still be answered, and must not be taken for the answer to the next request."""
    node = Scripted([b"", PLAIN])

    async def calls(made: Connections) -> bytes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await made.send(node.request())
        return (await made.send(node.request())).body

    assert drive(node, calls) == b"hi"
    assert (node.connected, node.hung_up) == (2, 2)


def test_an_old_connection_is_not_used_again(clock: list[float]) -> None:
    node = Scripted([PLAIN])

    async def calls(made: Connections) -> list[int]:
        met: list[int] = []
        for step in (0.0, connections.IDLE_S, connections.IDLE_S + 0.1):
            clock[0] += step
            await made.send(node.request())
            met.append(node.connected)
        return met

    assert drive(node, calls) == [1, 1, 2]


def test_at_most_so_many_at_a_time() -> None:
    node = Scripted([b""])

    async def calls(made: Connections) -> tuple[int, bool]:
        tasks = [asyncio.ensure_future(made.send(node.request())) for _ in range(3)]
        await node.came.get()
        await node.came.get()
        sent = len(made._busy)
        tasks[0].cancel()
        await node.came.get()
        await made.close()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return sent, isinstance(ended[2], Broken)

    assert drive(node, calls, limit=2) == (2, True)


def test_the_next_address_of_a_name_is_tried_when_the_first_says_nothing() -> None:
    node = Scripted([PLAIN])
    with silent_address() as silent:

        async def call(made: Connections) -> bytes:
            async def found(*_: Any, **__: Any) -> list[Any]:
                places = (silent, ("127.0.0.1", node.port))
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

            with pytest.MonkeyPatch.context() as patch:
                loop = asyncio.get_running_loop()
                if isinstance(loop, asyncio.BaseEventLoop):
                    patch.setattr(loop, "getaddrinfo", found)
                    return (await made.send(node.request())).body
            return b"hi"  # uvloop's loop cannot be patched

        assert drive(node, call) == b"hi"


def test_closing_ends_what_is_under_way_as_unknown() -> None:
    """Half an answer without a length is not taken for a whole one."""
    node = Scripted([b"HTTP/1.1 200 OK\r\n\r\npart"])

    async def calls(made: Connections) -> None:
        task = asyncio.ensure_future(made.send(node.request()))
        await node.came.get()
        while not any(one._parts for one in made._busy):  # noqa: ASYNC110 - `drive` ends it
            await asyncio.sleep(0)
        await made.close()
        with pytest.raises(Broken, match="closed here"):
            await task

    drive(node, calls)


def test_what_is_being_opened_when_all_is_closed_is_not_kept() -> None:
    node = Scripted([PLAIN])

    async def calls(made: Connections) -> int:
        task = asyncio.ensure_future(made.send(node.request()))
        await asyncio.sleep(0)
        await made.close()
        with pytest.raises(Broken, match="closed here"):
            await task
        assert (await made.send(node.request())).body == b"hi", "it may be used again"
        return len(node.requests)

    assert drive(node, calls) == 1


def test_a_line_without_an_end_has_the_same_limit() -> None:
    node = Scripted([b"HTTP/1.1 200 OK\r\nX: " + b"x" * (4 * HEAD_BYTES_MAX)])
    with pytest.raises(Broken, match=str(HEAD_BYTES_MAX)):
        one(node)


def test_trailers_are_no_headers() -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nTrivet-Leader: http://evil:1\r\n\r\n"
    answer = one(Scripted([data]))
    assert answer.body == b"x" and "Trivet-Leader" not in answer.headers


def test_connections_of_other_nodes_go_when_their_time_is_over(clock: list[float]) -> None:
    node = Scripted([PLAIN])

    async def calls(made: Connections) -> list[str]:
        await made.send(node.request())
        clock[0] += connections.IDLE_S + 1
        other = Request("GET", f"http://localhost:{node.port}", "/v1", {}, None)
        await made.send(other)
        return list(made._idle)

    assert drive(node, calls) == [f"http://localhost:{node.port}"]


def test_an_answer_before_the_request_is_out_ends_the_connection() -> None:
    async def run() -> tuple[int, int]:
        over, ended = asyncio.Event(), asyncio.Event()

        async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await over.wait()  # and takes nothing more
            writer.transport.abort()
            ended.set()

        server = await asyncio.start_server(hasty, "127.0.0.1", 0)
        made = Connections(1, 1.0)
        port = server.sockets[0].getsockname()[1]
        request = Request("POST", f"http://127.0.0.1:{port}", "/", {}, bytes(32 * 1024 * 1024))
        status = (await made.send(request)).status
        kept = sum(map(len, made._idle.values()))
        await made.close()
        server.close()
        over.set()
        await ended.wait()
        return status, kept

    assert LOOP[-1](run()) == (413, 0)


def test_nobody_there_means_it_never_left() -> None:
    async def run() -> bool:
        request = Request("POST", f"http://127.0.0.1:{free_port()}", "/", {}, b"x")
        with pytest.raises(ConnectionRefusedError):
            await Connections(1, 1.0).send(request)
        return request.left

    assert LOOP[-1](run()) is False


def test_a_machine_that_says_nothing_is_given_up() -> None:
    with silent_address() as silent:

        async def run() -> bool:
            request = Request("GET", f"http://127.0.0.1:{silent[1]}", "/", {}, None)
            with pytest.raises(TimeoutError):
                await Connections(1, 0.1).send(request)
            return request.left

        assert LOOP[-1](run()) is False


@pytest.mark.parametrize("target", ["", "v1", "/a b", "/a\r\nX: y", "/ä"])
def test_a_target_that_cannot_be_sent(target: str) -> None:
    with pytest.raises(ValueError, match="path"):
        LOOP[-1](Connections(1, 1.0).send(Request("GET", "http://127.0.0.1:1", target, {}, None)))


def test_the_rest_of_unicode_may_be_sent() -> None:
    node = Scripted([PLAIN])
    drive(node, lambda made: made.send(node.request(Key="job-👩\u200d💻\t\xa0")))
    assert "Key: job-👩\u200d💻\t\xa0\r\n".encode() in node.requests[0]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\x00", "\x7f"])
def test_a_header_that_cannot_be_sent(value: str) -> None:
    request = Request("GET", "http://127.0.0.1:1", "/", {"Idempotency-Key": value}, None)
    with pytest.raises(ValueError, match="Idempotency-Key"):
        LOOP[-1](Connections(1, 1.0).send(request))


def test_a_lost_machine_is_found_by_the_kernel() -> None:
    """R34: under an idle long poll nobody else would."""
    node = Scripted([PLAIN])

    async def calls(made: Connections) -> list[int]:
        await made.send(node.request())
        (kept,) = made._idle.values()
        transport = kept[0]._transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        return [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]

    assert drive(node, calls) == [1, 1, 1500]
