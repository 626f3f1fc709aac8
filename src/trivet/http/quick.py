"""Small requests that came whole, read and answered without aiohttp (ADR 0011).

Only the plainest form of HTTP/1.1 is read here: one `Content-Length` or none, no coding of any kind, no header
twice, ASCII throughout. `Heads.read` answers None for everything else, and aiohttp reads it from its first byte.
Clients send the same head again and again, but for its `Idempotency-Key`: what was found out about the rest is kept.
"""

from __future__ import annotations

import re
from asyncio import BaseTransport
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict

from trivet.limits import REQUEST_BYTES_MAX
from trivet.units import KIB

if TYPE_CHECKING:
    from trivet.http.call import Reply
    from trivet.http.routing import Route

HEAD_BYTES_MAX = 4 * KIB
HEADERS_MAX = 40
KEPT = 256  # heads known at a time: at most 1 MiB with their tables

_LINE = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([ -~]*?)[ \t]*")
_KEY = b"\r\nIdempotency-Key: "
_VALUE = re.compile(rb"[!-~](?:[ -~]*[!-~])?")
# Whoever sends one of these asks for more than the plain form, or for another end of the connection.
_NOT_PLAIN = frozenset(
    (
        "connection",
        "content-encoding",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


@dataclass(slots=True)
class Opened:
    """What a head says, once it is known to be right: see `app.Api`."""

    route: Route
    path: str
    params: tuple[str, ...]
    query: dict[str, str]
    accept: str
    media: str


@dataclass(slots=True)
class Head:
    """A head, without a line of its own for the key where there was one."""

    method: str
    raw_path: str
    headers: CIMultiDict[str]
    length: int  # bytes of the body
    opened: Opened | None = None


@dataclass(slots=True)
class QuickRequest:
    """What handlers use of a request. `body` is whole once `missing` is 0 (below it: more than one request)."""

    head: Head
    method: str
    raw_path: str
    headers: CIMultiDict[str]
    transport: BaseTransport | None
    body: bytes

    @property
    def missing(self) -> int:
        """Bytes of the body that are yet to come."""
        return self.head.length - len(self.body)


class Heads:
    """Heads by their bytes. One instance a server."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes, transport: BaseTransport | None = None) -> QuickRequest | None:
        """The request that `data` begins with; None if its head is not whole or not of the plain form."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            return None
        raw, key = data[:end], b""
        cut = raw.find(_KEY)
        if cut >= 0:
            stop = raw.find(b"\r\n", cut + len(_KEY))
            stop = end if stop < 0 else stop
            key = raw[cut + len(_KEY) : stop]
            if _VALUE.fullmatch(key) is None:
                return None
            raw = raw[:cut] + raw[stop:]
        head = self._known.get(raw)
        if head is None:
            head = _read(raw)
            if head is None:
                return None
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[raw] = head
        headers = head.headers
        if key:
            if "Idempotency-Key" in headers:
                return None  # twice
            headers = headers.copy()
            headers["Idempotency-Key"] = key.decode()
        return QuickRequest(head, head.method, head.raw_path, headers, transport, data[end + 4 :])


def _read(raw: bytes) -> Head | None:
    first, *lines = raw.split(b"\r\n")
    asked = _LINE.fullmatch(first)
    if asked is None or len(lines) > HEADERS_MAX:
        return None
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            return None
        name = header[1].decode()
        if name in headers or name.lower() in _NOT_PLAIN:
            return None
        headers[name] = header[2].decode()
    length = headers.get("Content-Length", "0")
    if "Host" not in headers or not length.isdigit() or len(length) > 9 or int(length) > REQUEST_BYTES_MAX:
        return None
    return Head(asked[1].decode(), asked[2].decode(), headers, int(length))


_STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}
_NO_LENGTH = (204, 304)


def answer(reply: Reply, common: str, name: str, *, closing: bool) -> bytes:
    """The bytes of an answer. `common`: the headers that all have, each with its line end; `name`: the request's."""
    body = reply.body
    head = [_STATUS[reply.status], common, "Trivet-Request-Id: ", name, "\r\n"]
    for header, value in reply.headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"a line end in the header {header}")
        head.append(f"{header}: {value}\r\n")
    if body:
        head.append(f"Content-Type: {reply.media}\r\n")
    if reply.status not in _NO_LENGTH:
        head.append(f"Content-Length: {len(body)}\r\n")
    head.append(f"Date: {rfc822_formatted_time()}\r\n")
    if closing:
        head.append("Connection: close\r\n")
    head.append("\r\n")
    return "".join(head).encode() + body
