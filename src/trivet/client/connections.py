"""The SDK's way to a node: kept HTTP/1.1 connections, one request at a time on each (ADR 0018).

httptools (llhttp) reads the answers; what is here is the little that a call needs around it. An answer is taken
whole. Nothing is ever sent twice: whoever calls knows whether a request left, and decides (R35).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools
from multidict import CIMultiDict

from trivet.units import KIB

IDLE_S = 30.0
"""A connection not used for so long is not used again: somebody in between may have forgotten it."""
HEAD_BYTES_MAX = 64 * KIB
TOO_LONG = f"a head of more than {HEAD_BYTES_MAX} bytes"
SWEPT_EVERY_S = 5.0
NEXT_ADDRESS_S = 0.25  # then the next address of a name is tried, too (RFC 8305)
JOINED_BYTES_MAX = 64 * KIB  # a smaller body leaves with its head in one write
AddrInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
_TARGET = re.compile(r"/[!-~]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Broken(ConnectionError):
    """The connection ended without a whole answer, or what came is no HTTP."""


@dataclass(slots=True)
class Request:
    """`origin`: as `ring.origin_of` writes it. `ahead`: it waits for no other. `begun`: it has a connection, or one is
    being opened. `left`: the first byte is on its way, and from then on the outcome may be unknown."""

    method: str
    origin: str
    target: str
    headers: Mapping[str, str]
    payload: bytes | None
    ahead: bool = False
    begun: bool = False
    left: bool = False


@dataclass(slots=True)
class Response:
    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def media(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class Connection(asyncio.Protocol):
    """One connection. Its methods are called by the event loop, by `Connections`, and by the parser (`on_…`)."""

    def __init__(self) -> None:
        self.idle_since_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._head_bytes = self._came = 0
        self._head_done = self._secure = False
        self._parts: list[bytes] = []

    def ask(self, data: bytes, payload: bytes) -> asyncio.Future[Response]:
        """Send; the future ends with the whole answer, or `Broken`."""
        assert self._transport is not None and self._answer is None
        self._answer = answer = asyncio.get_running_loop().create_future()
        self._came = 0
        if len(payload) <= JOINED_BYTES_MAX:
            self._transport.write(data + payload)
        else:
            self._transport.write(data)
            self._transport.write(payload)
        return answer

    @property
    def usable(self) -> bool:
        """Another request may follow. Not where the answer came before the request was out."""
        transport = self._transport
        return (
            transport is not None
            and self._answer is None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def close(self) -> None:
        self._fail("closed here")
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does only
        self._secure = transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"what came is no HTTP answer: {error!r}")
            self.close()
        if self._answer is not None and not self._head_done:
            self._came += len(data)
            if self._came > HEAD_BYTES_MAX:  # the parser tells a line when it has ended
                self._fail(TOO_LONG)
                self.close()

    def eof_received(self) -> None:
        # It may end with its connection (RFC 9112, 6.3); under TLS an end and a cut look alike (9.8).
        told = "Content-Length" in self._headers or "Transfer-Encoding" in self._headers
        if self._head_done and not self._secure and not told:
            self._whole()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(str(error) if error else "the connection was closed before the answer was whole")

    # --- the parser -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.close()  # an answer to nothing
        self._headers, self._parts = CIMultiDict(), []
        self._head_bytes, self._head_done = 0, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer is no header (RFC 9110, 6.5.1)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._fail(TOO_LONG)
            raise httptools.HttpParserError
        self._headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._head_done = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._head_done:  # else it was a 1xx: the answer is yet to come
            if not self._parser.should_keep_alive() and self._transport is not None:
                self._transport.close()
            self._whole()

    # --- the end of a request ---------------------------------------------------------------------------

    def _whole(self) -> None:
        answer, self._answer = self._answer, None
        self._head_done = False
        if answer is not None and not answer.done():
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            answer.set_result(Response(self._parser.get_status_code(), self._headers, body))

    def _fail(self, why: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(Broken(why))


class Connections:
    """At most `limit` requests at a time; a connection opens within `connect_s` seconds. One event loop."""

    def __init__(self, limit: int, connect_s: float) -> None:
        self._room = asyncio.Semaphore(limit)
        self._connect_s = connect_s
        self._idle: dict[str, deque[Connection]] = {}
        self._busy: set[Connection] = set()
        self._trusted: ssl.SSLContext | None = None
        self._life = 0  # counts `close`: what is opened across one belongs to nobody
        self._swept_s = 0.0

    async def send(self, request: Request) -> Response:
        """One request, once. Raises `OSError` (`Broken`, refused, …), `TimeoutError` while connecting, and
        `ValueError` for a header or a path that cannot be sent."""
        data = _head(request)
        async with contextlib.nullcontext() if request.ahead else self._room:
            request.begun = True
            life = self._life
            connection = self._kept(request.origin) or await self._connect(request.origin)
            if life != self._life:
                connection.close()
                raise Broken("closed here")
            self._busy.add(connection)
            try:
                request.left = True
                answer = await connection.ask(data, request.payload or b"")
            except BaseException:
                connection.close()  # its answer may still come: nobody's
                raise
            finally:
                self._busy.discard(connection)
            self._put_back(request.origin, connection)
            return answer

    def _put_back(self, origin: str, connection: Connection) -> None:
        if not connection.usable:
            connection.close()
            return
        now_s = connection.idle_since_s = monotonic()
        self._idle.setdefault(origin, deque()).append(connection)
        if now_s - self._swept_s >= SWEPT_EVERY_S:
            self._swept_s = now_s
            for one in list(self._idle):
                self._sweep(one)

    def _sweep(self, origin: str) -> None:
        """Who rests too long, or was closed, goes; the oldest is in front."""
        kept, oldest = self._idle[origin], monotonic() - IDLE_S
        while kept and (kept[0].idle_since_s < oldest or not kept[0].usable):
            kept.popleft().close()
        if not kept:
            del self._idle[origin]

    async def close(self) -> None:
        self._life += 1
        for connection in [*self._busy, *(one for kept in self._idle.values() for one in kept)]:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # the loop takes the sockets away

    def _kept(self, origin: str) -> Connection | None:
        """The one used last."""
        if origin in self._idle:
            self._sweep(origin)
        kept = self._idle.get(origin, ())
        while kept:
            connection = kept.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, origin: str) -> Connection:
        address = urlsplit(origin)
        host = address.hostname
        assert host is not None, origin
        secure = address.scheme == "https"
        if secure and self._trusted is None:
            self._trusted = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s):
            found = _numeric(host, address.port) or await loop.getaddrinfo(
                host, address.port, type=socket.SOCK_STREAM
            )
            made = await aiohappyeyeballs.start_connection(
                found,
                happy_eyeballs_delay=NEXT_ADDRESS_S,
                interleave=1,
                loop=loop,
                socket_factory=watched_socket,
            )
            try:
                _, connection = await loop.create_connection(
                    Connection,
                    sock=made,
                    ssl=self._trusted if secure else None,
                    server_hostname=host if secure else None,
                )
            except BaseException:
                made.close()
                raise
        return connection


def _numeric(host: str, port: int | None) -> list[AddrInfo]:
    """As `getaddrinfo` says it of an address without a scope; nothing of a name. No thread is needed for it, and the
    threads of the loop may all be at work for somebody else."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return []
    if "%" in host:
        return []
    family, more = (socket.AF_INET, ()) if version == 4 else (socket.AF_INET6, (0, 0))
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, *more))]


def can_be_sent(target: str) -> bool:
    """Whether this is a path, with or without a query, as it must stand in a request."""
    return _TARGET.fullmatch(target) is not None


def check_header(name: str, value: str) -> None:
    """Raises `ValueError` for what would end a header's line, or a text; any other UTF-8 may be sent."""
    if _CONTROL.search(value):
        raise ValueError(f"the header {name} must not hold control characters")


def _head(request: Request) -> bytes:
    if not can_be_sent(request.target):
        raise ValueError(f"not a path that can be sent: {request.target!r}")
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {request.origin.partition('://')[2]}"]
    for name, value in request.headers.items():
        check_header(name, value)
        lines.append(f"{name}: {value}")
    if request.payload is not None or request.method != "GET":
        lines.append(f"Content-Length: {len(request.payload or b'')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def watched_socket(address: Any) -> socket.socket:
    """`address` as `getaddrinfo` gives it. A lost machine sends no reset: let the kernel find it, even under an idle
    long poll (R34)."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 1),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", 1500),
    ):
        option = getattr(socket, name, None)
        if option is not None:  # not on every system
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
