"""Small requests that came whole, read and answered without aiohttp (ADR 0011).

Only the plainest form of HTTP/1.1 is read here: one `Content-Length` or none, no coding of any kind, no header
twice, ASCII throughout. `Heads.read` answers None for everything else, and aiohttp reads it from its first byte.
Clients send the same head again and again: what was found out about one is kept.
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
    key: str | None


@dataclass(slots=True)
class Head:
    size: int  # bytes, its empty line included
    method: str
    raw_path: str
    headers: CIMultiDict[str]
    length: int  # bytes of the body
    opened: Opened | None = None


@dataclass(slots=True)
class QuickRequest:
    """What handlers use of a request. `body` is whole."""

    head: Head
    method: str
    raw_path: str
    headers: CIMultiDict[str]
    transport: BaseTransport | None
    body: bytes


class Heads:
    """Heads by their bytes. One instance a server."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head | None:
        """The head that `data` begins with; None if it is not whole or not of the plain form."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            return None
        raw = data[:end]
        head = self._known.get(raw)
        if head is None:
            head = _read(raw)
            if head is not None:
                if len(self._known) >= KEPT:
                    self._known.clear()
                self._known[raw] = head
        return head


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
    return Head(len(raw) + 4, asked[1].decode(), asked[2].decode(), headers, int(length))


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
