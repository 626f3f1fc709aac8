"""The events of a run as a stream (server-sent events), from any node's own state (R29).

A node may stream once it knows the run and has come as far as the client has; until then a follower waits,
and sends the client to the leader in the end. Nothing is kept for a reader: what it has not taken yet is
read from the state when the connection has room again, so a slow one costs a page of memory and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from trivet.errors import TrivetError
from trivet.http import leader
from trivet.http.call import Call, Reply
from trivet.http.codec import JSON
from trivet.machine import run_views
from trivet.node.readers import CONTACT_LOST_MS, Reader
from trivet.units import KIB, SECOND_MS

if TYPE_CHECKING:
    from trivet.machine.core import Machine

EVENT_STREAM = "text/event-stream"
GAP = "gap"
COMMENT_S = 15.0
PAGE_EVENTS = 250
PAGE_BYTES = 32 * KIB
BEHIND_S = CONTACT_LOST_MS / SECOND_MS  # how long a client waits for a node that is behind it
_HELLO = b"retry: 1000\n: the events of a run\n\n"
_COMMENT = b": \n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def is_stream(raw_path: str) -> bool:
    """Whether a GET of this path may be answered by a stream: aiohttp has to write it."""
    path = raw_path.partition("?")[0].strip("/")  # as the router does
    return path.startswith("v1/runs/") and path.endswith("/events")


class Place:
    """Where a run stands: which one it is (a forgotten run's id may come back), and its next event's id."""

    __slots__ = ("next_id", "number")

    def __init__(self, number: int, next_id: int) -> None:
        self.number = number
        self.next_id = next_id


def _place_of(run_id: str, machine: Machine) -> Place | None:
    run = machine.runs.get(run_id)
    return None if run is None else Place(run.number, run.next_id)


async def follow(call: Call, run_id: str, after: int) -> Reply:
    """The stream, or why there is none here. Raises `run_not_found`, `recovering`, `draining`, `overloaded`."""
    broker = call.services.broker
    if broker.consensus.recovering is not None:
        raise TrivetError("recovering", f"this node is recovering: {broker.consensus.recovering}")
    readers = call.services.readers
    reader = readers.open(run_id)
    try:
        place = await _reached(call, reader, run_id, after)
        if isinstance(place, Reply):
            readers.close(reader)
            return place
        if call.request.method == "HEAD":
            readers.close(reader)
            return Reply(200, media=EVENT_STREAM, headers=dict(_HEADERS))
    except BaseException:
        readers.close(reader)
        raise
    start = after if after < place.next_id else 0  # no position of this run: all of it, with a gap before
    pieces = _pieces(call, reader, run_id, place.number, start, lost=after if start != after else None)
    await anext(pieces)  # from here on closing it closes the reader
    return Reply(200, media=EVENT_STREAM, headers=dict(_HEADERS), pieces=pieces)


async def _reached(call: Call, reader: Reader, run_id: str, after: int) -> Place | Reply:
    """Wait until this node has come as far as the client. A run that it does not know, and a position that it
    does not reach, are the leader's to judge."""
    broker, readers = call.services.broker, call.services.readers
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BEHIND_S
    asked = False
    while True:
        place = await readers.page(reader, lambda m: _place_of(run_id, m))
        if place is not None and after < place.next_id:
            return place
        left = deadline - loop.time()
        if (place is None and not asked) or left <= 0 or broker.consensus.is_leader:
            url = await leader.other(call)
            if url is None:
                place = await broker.read(lambda m: _place_of(run_id, m))
                if place is None:
                    raise TrivetError("run_not_found", f'there is no run "{run_id}"')
                return place
            if asked:
                raise TrivetError("no_leader", "this node is far behind", retry_after_ms=SECOND_MS)
            if leader.mode(call) == "redirect":
                return leader.redirect(call, url)
            refused = await _ask(call, url, after)
            if refused is not None:
                return refused
            asked, deadline = True, loop.time() + BEHIND_S
            continue
        await readers.wait(reader, left)
        if reader.ended is not None:
            raise TrivetError("no_leader", reader.ended, retry_after_ms=SECOND_MS)


async def _ask(call: Call, url: str, after: int) -> Reply | None:
    """In forward mode a stream is not passed on (it would cost two nodes): the leader only says whether there is
    anything to wait for here. None: there is."""
    path = call.request.raw_path.partition("?")[0]
    headers = {"Accept": JSON, leader.FORWARDED: call.services.broker.host.node_id}
    if "Authorization" in call.request.headers:
        headers["Authorization"] = call.request.headers["Authorization"]
    try:
        async with call.services.forwarder().get(
            URL(f"{url}{path}?after={after}&limit=1", encoded=True), headers=headers, allow_redirects=False
        ) as answer:
            if answer.status == 200:
                return None
            media = answer.headers.get("Content-Type", JSON)
            back = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
            return Reply(answer.status, await answer.read(), media, back)
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise TrivetError(
            "no_leader", f"the leader at {url} did not answer: {error!r}", retry_after_ms=SECOND_MS
        ) from None


async def _pieces(
    call: Call, reader: Reader, run_id: str, number: int, after: int, lost: int | None
) -> AsyncGenerator[bytes, None]:
    """The bytes of the stream, each piece at most about `PAGE_BYTES` or one event. Ends when it must."""
    readers = call.services.readers
    loop = asyncio.get_running_loop()
    comment_at = loop.time() + COMMENT_S

    def look(machine: Machine) -> tuple[bytes, int] | None:
        run = machine.runs.get(run_id)
        if run is None or run.number != number:
            return None
        page = run_views.events(machine, run_id, after, PAGE_EVENTS, PAGE_BYTES)
        assert page is not None
        return _encoded(page, after, lost)

    try:
        yield b""
        yield _HELLO
        while reader.ended is None:
            made = await readers.page(reader, look)
            if made is None:
                return  # forgotten: who comes again is told so
            data, after = made
            lost = None
            if loop.time() >= comment_at:
                comment_at = loop.time() + COMMENT_S
                data += _COMMENT
                reader.stale = True  # an installed snapshot brings news without an effect
            if data:
                yield data
            else:
                await readers.wait(reader, comment_at - loop.time())
    finally:
        readers.close(reader)


def _encoded(page: run_views.Page, after: int, lost: int | None) -> tuple[bytes, int]:
    """Events on the wire, and the position after them. `lost`: a position that is not of this run."""
    parts: list[bytes] = []
    if lost is not None or after + 1 < page.first_id:
        missed = b'{"after":%d,"first_id":%d}' % (after if lost is None else lost, page.first_id)
        after = page.first_id - 1
        parts.append(b"event: gap\nid: %d\ndata: %b\n\n" % (after, missed))
    for event in page.events:
        parts.append(b"id: %d\nevent: %b\ndata: %b\n\n" % (event.id, event.type.encode(), event.data))
        after = event.id
    return b"".join(parts), after
