"""The stream of a run's events on one node whose role, contact and state the test sets (R25, R26, R29)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import aiohttp.web
import pytest
import yarl

from tests.loopback import Loopback, serving
from trivet.client.runs import RunEvent, read_stream
from trivet.http.app import Settings
from trivet.machine import run_views
from trivet.machine.commands import (
    MACHINE_VERSION,
    AckLeases,
    Draft,
    Enqueue,
    Extras,
    Lease,
    Request,
)
from trivet.machine.run_commands import AppendRunEvents, NewRunEvent
from trivet.node import readers
from trivet.wire.entry import encode_entry

PATH = "/v1/runs/r/events"


class Following(Loopback):
    """`contact_ms`: what a follower says of the leader."""

    contact_ms: int | None = 0

    def leader_contact_age_ms(self) -> int | None:
        return 0 if self.is_leader else self.contact_ms

    def entry(self, *commands: Any) -> None:
        """An entry that came from wherever the leader is."""
        data = encode_entry(MACHINE_VERSION, self._stamp(), [Request(command) for command in commands])
        self.applier.start(self.machine.applied_index + 1, self.term, data)
        assert self.applier.step(lambda: False)

    def make_run(self) -> None:
        self.entry(Enqueue("q", (Draft(extras=Extras(run_id="r")),)))

    def append(self, *data: Any, run_id: str = "r") -> None:
        self.entry(AppendRunEvents(run_id, tuple(NewRunEvent("t", json.dumps(one).encode()) for one in data)))

    def follow(self, leader: str | None = "n2") -> None:
        self.change(role="follower", leader=leader)


@contextlib.asynccontextmanager
async def opened(
    url: str, query: str = "", **headers: str
) -> AsyncIterator[tuple[aiohttp.ClientResponse, AsyncIterator[RunEvent]]]:
    async with aiohttp.ClientSession() as http:
        asked = http.get(url + PATH + query, headers=headers, allow_redirects=False)
        async with asked as response:
            yield response, events_of(response)


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[RunEvent]:
    async for event in read_stream(response.content):
        if event is not None:
            yield event


async def take(events: AsyncIterator[RunEvent], count: int) -> list[RunEvent]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


async def ended(events: AsyncIterator[RunEvent]) -> list[RunEvent]:
    async with asyncio.timeout(10):
        return [event async for event in events]


def test_a_follower_streams_its_own_state() -> None:
    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            node.follow()
            async with opened(url) as (response, events):
                assert response.status == 200 and response.headers["Trivet-Role"] == "follower"
                assert [event.id for event in await take(events, 1)] == [1]
                node.append("a", "b")
                assert [event.data for event in await take(events, 2)] == ["a", "b"]
            async with asyncio.timeout(5):
                while node.waiters.parked:  # noqa: ASYNC110 - the server notices the hang-up in its own time
                    await asyncio.sleep(0.01)

    asyncio.run(story())


def test_a_follower_that_does_not_know_the_run_sends_to_the_leader() -> None:
    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.urls["n2"] = "http://127.0.0.1:1"
            node.follow()
            async with opened(url) as (response, _):
                assert response.status == 307 and response.headers["Location"] == f"http://127.0.0.1:1{PATH}"
            assert node.waiters.parked == 0

    asyncio.run(story())


def test_a_follower_behind_its_client_waits_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.http.streaming.BEHIND_S", 0.5)

    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.urls["n2"] = "http://127.0.0.1:1"
            node.make_run()
            node.follow()
            async with aiohttp.ClientSession() as http:
                asked = asyncio.ensure_future(http.get(url + PATH, headers={"Last-Event-ID": "3"}))
                await asyncio.sleep(0.1)
                node.append("seen", "seen")
                assert not asked.done()
                node.append("new")
                async with await asked as response:
                    events = events_of(response)
                    assert [(event.id, event.data) for event in await take(events, 1)] == [(4, "new")]
                async with http.get(
                    url + PATH, headers={"Last-Event-ID": "77"}, allow_redirects=False
                ) as late:
                    assert late.status == 307

    asyncio.run(story())


def test_without_contact_to_a_leader_the_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LOOK_S", 0.05)

    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            node.follow()
            node.contact_ms = 5000
            async with opened(url) as (_, events):
                await take(events, 1)
                await asyncio.sleep(0.2)
                node.append("still")
                assert [event.data for event in await take(events, 1)] == ["still"]
                node.contact_ms = 5001
                assert await ended(events) == []

    asyncio.run(story())


def test_a_drain_ends_streams_and_opens_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LOOK_S", 0.05)

    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            async with opened(url) as (_, events):
                await take(events, 1)
                node.draining = True
                assert await ended(events) == []
            async with opened(url) as (response, _):
                assert (
                    response.status == 503 and (await response.json(content_type=None))["code"] == "draining"
                )

    asyncio.run(story())


def test_a_recovering_node_streams_nothing() -> None:
    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            node.recovering = "a wiped disk"
            async with opened(url) as (response, _):
                assert (
                    response.status == 503
                    and (await response.json(content_type=None))["code"] == "recovering"
                )

    asyncio.run(story())


def test_a_forgotten_run_ends_its_streams() -> None:
    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            node.append("a")
            async with opened(url) as (_, events):
                await take(events, 2)
                node.entry(*_finish(node))
                node.advance(2 * 3_600_000)
                told = await ended(events)
                assert told[-1].type in ("message.done", "gap")
            async with opened(url) as (response, _):
                assert response.status == 404

    asyncio.run(story())


def _finish(node: Following) -> list[Any]:
    node.entry(Lease(("q",), "w"))
    ((fence, message),) = node.machine.leases.items()
    assert message.lease is not None
    return [AckLeases((fence,))]


def test_r26_streams_count_among_what_waits_on_a_node() -> None:
    async def story() -> None:
        node = Following(parked_max=2)
        async with serving(node) as url:
            node.make_run()
            async with opened(url) as (_, first), opened(url) as (_, second):
                await take(first, 1)
                await take(second, 1)
                assert node.waiters.parked == 2
                async with opened(url) as (response, _):
                    told = await response.json(content_type=None)
                    assert (response.status, told["code"], told["limit"]) == (429, "overloaded", 2)

    asyncio.run(story())


def test_a_position_beyond_the_run_is_judged_by_the_leader_at_once() -> None:
    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            async with opened(url, "?after=9") as (_, events):
                gap, first = await take(events, 2)
                assert (gap.type, gap.id, gap.data) == ("gap", 0, {"after": 9, "first_id": 1})
                assert first.id == 1

    asyncio.run(story())


def test_r12_known_event_ids_are_answered_under_pressure() -> None:
    async def story() -> None:
        node = Following()
        async with serving(node) as url, aiohttp.ClientSession() as http:
            node.make_run()
            told = {"events": [{"type": "t", "event_id": "e1"}]}
            async with http.post(url + PATH, json=told) as first:
                assert first.status == 201
            node.pressed = "memory"
            async with http.post(url + PATH, json=told) as again:
                assert (await again.json())["events"] == [{"id": 2, "duplicate": True}]
            async with http.post(url + PATH, json={"events": [{"type": "t"}]}) as new:
                assert new.status == 429

    asyncio.run(story())


def test_a_slow_reader_costs_a_page_and_is_cut_off_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes nothing: what the node holds for it stays small however many events come (R29)."""
    held: list[int] = []
    write = aiohttp.web.StreamResponse.write

    async def watched(self: aiohttp.web.StreamResponse, data: bytes) -> None:
        transport = self._req.transport  # type: ignore[union-attr]
        held.append(transport.get_write_buffer_size() + len(data))  # type: ignore[union-attr]
        await write(self, data)

    monkeypatch.setattr(aiohttp.web.StreamResponse, "write", watched)

    async def story() -> None:
        node = Following()
        async with serving(node, Settings(write_timeout_s=0.3)) as url:
            node.make_run()
            host, port = url.removeprefix("http://").split(":")
            with socket.socket() as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                taken.setblocking(False)
                await asyncio.get_running_loop().sock_connect(taken, (host, int(port)))
                taken.send(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                for _ in range(120):
                    node.append(*["x" * 2000] * 100)
                    await asyncio.sleep(0)
                async with asyncio.timeout(20):
                    while not held or node.waiters.parked:  # noqa: ASYNC110 - until it is cut off
                        await asyncio.sleep(0.05)

    asyncio.run(story())
    assert sum(held) > 100_000 and max(held) < 4 * 64 * 1024


def test_many_readers_do_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have something to read, only a few pages are made in one turn of the loop; all get everything."""
    made = 0
    most = 0
    events_view = run_views.events

    def counted(*args: Any) -> Any:
        nonlocal made
        made += 1
        return events_view(*args)

    monkeypatch.setattr(run_views, "events", counted)

    async def story() -> None:
        node = Following()
        async with serving(node) as url:
            node.make_run()
            node.append(*range(1000))

            async def read(http: aiohttp.ClientSession) -> list[int]:
                async with http.get(url + PATH) as response:
                    events = events_of(response)
                    return [(await anext(events)).id for _ in range(2001)]

            async def watch() -> None:
                nonlocal made, most
                while True:
                    made = 0
                    await asyncio.sleep(0)
                    most = max(most, made)

            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                reading = [asyncio.create_task(read(http)) for _ in range(40)]
                watching = asyncio.create_task(watch())
                for n in range(50):
                    node.append(*range(n * 20, n * 20 + 20))
                    await asyncio.sleep(0.002)
                async with asyncio.timeout(60):
                    told = await asyncio.gather(*reading)
                watching.cancel()
        assert all(ids == list(range(1, 2002)) for ids in told)

    asyncio.run(story())
    assert 0 < most <= 2 * readers.PAGES_AT_ONCE


def test_forward_mode_asks_the_leader_and_streams_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.http.streaming.BEHIND_S", 0.5)

    async def story() -> None:
        leading, node = Following("n2"), Following("n1")
        async with serving(leading) as leader_url, serving(node, Settings(follower_mode="forward")) as url:
            node.urls["n2"] = leader_url
            node.follow()
            async with opened(url) as (response, _):
                told = await response.json(content_type=None)
                assert (response.status, told["code"]) == (404, "run_not_found")
            leading.make_run()
            async with opened(url) as (response, _):  # the leader has it, this node does not get it
                told = await response.json(content_type=None)
                assert (response.status, told["code"]) == (503, "no_leader")
            async with aiohttp.ClientSession() as http:
                asked = asyncio.ensure_future(http.get(url + PATH))
                await asyncio.sleep(0.1)
                node.make_run()
                async with await asked as response:
                    assert response.headers["Trivet-Node"] == "n1"
                    assert [event.id for event in await take(events_of(response), 1)] == [1]

    asyncio.run(story())


@pytest.mark.parametrize("path", [PATH, PATH + "/", "/" + PATH])
def test_a_stream_is_one_however_its_path_is_written(path: str) -> None:
    """The quick way writes whole answers: what the router takes for a stream must not come there."""

    async def story() -> None:
        node = Following()
        async with serving(node) as url, aiohttp.ClientSession() as http:
            node.make_run()
            async with http.get(yarl.URL(url + path, encoded=True)) as response:
                assert response.status == 200 and response.content_type == "text/event-stream"
                assert [event.id for event in await take(events_of(response), 1)] == [1]

    asyncio.run(story())
