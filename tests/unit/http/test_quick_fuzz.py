"""What `http.quick` reads at all, aiohttp's parser reads as the same request: no head means two things here."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import event, given, settings
from hypothesis import strategies as st

from trivet.http.quick import Heads

# Small, and such as a parser may stumble over.
ODD = [b"\r", b"\n", b"\r\n", b"\r\n ", b"\x00", b"\x0b", b"\t", b" ", b":", b",", b"+", b"-", b"_", b"0x", b"#", b"?", b"%",
       b"\x7f", b"\xb3", b"\xc3\xbc", b"chunked", b"close", b"Host: y\r\n", b"Content-Length: 1\r\n", b"Expect: 100-continue\r\n",
       b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n"]  # fmt: skip
HEADERS = [b"Accept: */*", b"Content-Type: application/json", b"Content-Length: 3", b"content-length:0", b"X-y_z:", b"A:  b c\t",
           b"Idempotency-Key: k", b"Authorization: Bearer a.b~c", b"Trivet-Follower: forward"]  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A plain request's head, with at most three places where something odd was put in or something left out."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD"]))
    path = draw(
        st.sampled_from([b"/", b"/v1/ack", b"/v1/queues/q/messages?limit=3", b"/%2f%zz", b"*", b"//x"])
    )
    lines = draw(st.lists(st.sampled_from(HEADERS), max_size=4))
    head = b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: x", *lines, b"", b""])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(head)))
        odd = draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=2)))
        head = head[:at] + odd + head[at + draw(st.integers(0, 2)) :]
    return head + b"\r\n\r\n"


def _aiohttp(data: bytes) -> tuple[str, str, list[tuple[str, str]], int, bytes]:
    """Method, target, headers, length of the body, and what is left behind it. Raises for what is no request."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(Mock(_reading_paused=False), loop, 2**16)
        messages, upgraded, _ = parser.feed_data(data)
        assert not upgraded
        (first, *_) = messages
        message, body = first
        assert not message.chunked and not message.should_close and message.compression is None
        held = b"".join(
            bytes(one[0] if isinstance(one, tuple) else one) for one in getattr(body, "_buffer", ())
        )
        headers = [(name.lower(), value) for name, value in message.headers.items()]
        return message.method, message.path, headers, len(held), held
    finally:
        loop.close()


@settings(max_examples=500, deadline=None)
@given(requests())
def test_what_the_quick_way_reads_aiohttp_reads_alike(data: bytes) -> None:
    read = Heads().read(data)
    event("read" if read is not None else "left to aiohttp")
    if read is None:
        return
    body = b"z" * read.head.length
    try:
        told = _aiohttp(data[: len(data) - len(read.body)] + body)
    except HttpProcessingError as error:
        raise AssertionError(f"the quick way took what is no request: {data!r}") from error
    assert told[0] == read.method and told[1] == read.raw_path
    assert sorted(told[2]) == sorted((name.lower(), value) for name, value in read.headers.items())
    assert told[4] == body
