"""Runs: what they are made of, their events, replay; and how a worker's handler tells what it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
import msgspec

from trivet.client.batching import Batcher
from trivet.client.calls import Calls, locally
from trivet.client.errors import ApiError, BadAnswer, RunNotFound, Unreachable
from trivet.client.paths import at, given
from trivet.client.retry import Verdict, judge
from trivet.client.ring import origin_of
from trivet.client.session import BAD_FOR_S, HOPS_MAX, Session
from trivet.limits import RUN_APPEND_BYTES_MAX, RUN_APPEND_MAX

if TYPE_CHECKING:
    from trivet.client.client import Client

EVENT_STREAM = "text/event-stream"
SILENCE_S = 20.0  # a node says something every 15 s
LINE_BYTES_MAX = 1 << 20
_SPARE_BYTES = 64  # of an event on its way, beside what is counted


@dataclass(frozen=True, slots=True)
class RunEvent:
    """`id`: the position to go on from. `type`: `message.<state>` of a transition, `gap` where the oldest events
    have left (`data`: `after`, `first_id`), else what its sender chose."""

    id: int
    type: str
    data: Any


class Runs(Calls):
    """Mixed into `Client`."""

    async def run(self, run_id: str, *, limit: int | None = None, after: str | None = None) -> dict[str, Any]:
        """Its steps (a page of them), counts and timeline."""
        return await self._read(at("runs", run_id), {"limit": limit, "after": after})

    async def runs(self, *, limit: int | None = None, after: str | None = None) -> dict[str, Any]:
        """`{"runs": […], "next"}`, oldest first."""
        return await self._read(at("runs"), {"limit": limit, "after": after})

    async def events_page(
        self, run_id: str, *, after: int = 0, limit: int | None = None, local: bool = False
    ) -> dict[str, Any]:
        """`{"events": [{"id", "at_ms", "type", "data"}], "next", "first_id"}`, oldest first."""
        query = {"after": after, "limit": limit, **locally(local)}
        return await self._read(at("runs", run_id, "events"), query)

    async def append_events(
        self, run_id: str, events: Sequence[Mapping[str, Any]], *, request_id: str | None = None
    ) -> dict[str, Any]:
        """Up to 1000 events `{"type", "data"?, "event_id"?}` in one log entry: `{"events": [{"id"}]}`, aligned. An
        event whose `event_id` the run knows is dropped and answers with the first one's id."""
        path = at("runs", run_id, "events")
        return await self._write("POST", path, {"events": list(events)}, request_id=request_id)

    async def replay_run(
        self, run_id: str, *, step_id: str | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """Finished steps again, as new messages: `{"messages": [{"id", "origin"}]}`."""
        body = given(step_id=step_id)
        return await self._write("POST", at("runs", run_id, "replay"), body, request_id=request_id)

    def run_events(self, run_id: str, *, after: int = 0) -> AsyncGenerator[RunEvent, None]:
        """`async for event in client.run_events(run_id)`: each event behind `after` once and in order, for as long
        as the run is remembered; from any node, and from another one when that goes away.

        Raises `RunNotFound` if there is no such run at the start, `Unreachable` when no node has answered for the
        whole retry time.
        """
        return _Following(self.session, run_id, after).events()


class _Following:
    """One reader of a run, over as many connections as it takes."""

    def __init__(self, session: Session, run_id: str, after: int) -> None:
        self._session = session
        self._path = at("runs", run_id, "events")
        self._position = after
        self._found = False
        self._tried: set[str] = set()
        self._round = 0
        self._last: Exception | None = None
        self._heard_at_s = session.clock.monotonic()

    async def events(self) -> AsyncGenerator[RunEvent, None]:
        session = self._session
        while True:
            origin = self._next_node()
            if origin is None:
                await self._pause()
                continue
            self._tried.add(origin)
            try:
                async with contextlib.aclosing(self._from(origin)) as told:
                    async for event in told:
                        yield event
            except RunNotFound:
                if self._found:
                    return  # forgotten meanwhile
                raise
            except (aiohttp.ClientError, OSError, TimeoutError, _Elsewhere) as error:
                self._last = error
                session.ring.failed(origin, session.clock.monotonic(), BAD_FOR_S)

    def _next_node(self) -> str | None:
        """Any node will do: the next one in turn that was not tried in this round."""
        ring, now_s = self._session.ring, self._session.clock.monotonic()
        left = [one for one in ring.in_turn() if one not in self._tried]
        return next((one for one in left if not ring.is_bad(one, now_s)), left[0] if left else None)

    async def _pause(self) -> None:
        session = self._session
        self._tried.clear()
        session.ring.turn()
        if session.clock.monotonic() - self._heard_at_s > session.policy.total_s:
            refusal = self._last.refusal if isinstance(self._last, _Elsewhere) else None
            if refusal is not None:
                raise refusal
            said = f"no node went on with {self._path} for {session.policy.total_s:g} s"
            raise Unreachable(said) from self._last
        await asyncio.sleep(session.pause_s(self._round))
        self._round += 1

    async def _from(self, origin: str) -> AsyncGenerator[RunEvent, None]:
        """The events that one node tells (or the one it sends to), until its stream ends."""
        url = origin + self._path
        headers = {"Accept": EVENT_STREAM, "Last-Event-ID": str(self._position)}
        for _ in range(HOPS_MAX + 1):
            async with self._session.stream(url, headers, silence_s=SILENCE_S) as response:
                if response.status == 307:
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    await self._refused(response)
                if response.content_type != EVENT_STREAM:
                    raise BadAnswer(f"{origin_of(url)} answers, but not with a stream of events")
                self._found = True
                async for event in read_stream(response.content):
                    self._heard_at_s, self._round = self._session.clock.monotonic(), 0
                    if event is None:
                        continue
                    if event.id > self._position or event.type == "gap":
                        self._tried.clear()
                        self._position = event.id
                        yield event
                return
        raise _Elsewhere(None)

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        raw = await response.read()
        data = msgspec.json.decode(raw) if response.content_type.endswith("json") else None
        verdict, error = judge(response.status, data, ours="Trivet-Node" in response.headers)
        if verdict is Verdict.REFUSED and error is not None:
            raise error
        raise _Elsewhere(error)


class _Elsewhere(Exception):
    """This node does not tell it: another one may, or this one later."""

    def __init__(self, refusal: ApiError | None) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


async def read_stream(content: aiohttp.StreamReader) -> AsyncIterator[RunEvent | None]:
    """Events of a stream; None for a comment: the node is there."""
    fields: dict[bytes, bytes] = {}
    line = b""
    async for chunk, _ in content.iter_chunks():
        *lines, line = (line + chunk).split(b"\n")
        if len(line) > LINE_BYTES_MAX:
            raise BadAnswer("a line of the stream has no end")
        for one in lines:
            if one.startswith(b":"):
                yield None
            elif one:
                name, _, value = one.partition(b":")
                fields[name] = value.removeprefix(b" ")
            elif b"id" in fields:
                yield RunEvent(
                    int(fields[b"id"]), fields[b"event"].decode(), msgspec.json.decode(fields[b"data"])
                )
                fields = {}
            else:
                fields = {}


class RunWriter:
    """Tells the events of one lease's run: `await writer.emit("token", text)`.

    What is told while a request is under way leaves with the next one. Each event gets an id of its own made of
    the lease and a counter: a request that is repeated appends nothing twice. `close` waits until all is told.
    """

    def __init__(self, client: Client, run_id: str, lease_token: str) -> None:
        self._client = client
        self._run_id = run_id
        self._name = blake2b(lease_token.encode(), digest_size=9).hexdigest()
        self._count = 0
        self._failed: Exception | None = None
        self._batcher = Batcher(self._send, count_max=RUN_APPEND_MAX)

    async def emit(self, type: str, data: Any = None) -> None:
        """Tell an event. Waits only while more than a request's worth of them is on its way. Raises what kept an
        earlier one from being told."""
        self._raise_failed()
        self._count += 1
        event = {"type": type, "data": data, "event_id": f"{self._name}-{self._count}"}
        told = self._batcher.submit(event)
        told.add_done_callback(self._told)
        if len(self._batcher) >= RUN_APPEND_MAX:
            await asyncio.wait((told,))
            self._raise_failed()
        else:
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self._batcher.drain()
        self._raise_failed()

    def _told(self, told: asyncio.Future[Any]) -> None:
        if not told.cancelled() and told.exception() is not None:
            error = told.exception()
            self._failed = self._failed or (error if isinstance(error, Exception) else None)

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise self._failed

    async def _send(self, events: Sequence[Any]) -> Sequence[Any]:
        answers: list[Any] = []
        for part in _parts(events):
            answers += (await self._client.append_events(self._run_id, part))["events"]
        return answers


def _parts(events: Sequence[Any]) -> list[list[Any]]:
    """The events in requests that are not too large."""
    parts: list[list[Any]] = [[]]
    left = RUN_APPEND_BYTES_MAX
    for event in events:
        size = len(msgspec.json.encode(event)) + _SPARE_BYTES
        if parts[-1] and size > left:
            parts.append([])
            left = RUN_APPEND_BYTES_MAX
        parts[-1].append(event)
        left -= size
    return parts
