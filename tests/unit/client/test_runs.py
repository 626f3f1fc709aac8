"""Following a run through nodes that come and go, and telling its events from a worker's handler."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from aiohttp import web

from tests.loopback import Loopback, serving
from tests.unit.client.fake import FakeNode, Step, problem, redirect, reset
from trivet.client import (
    BlockingClient,
    Client,
    Lease,
    MessageFailed,
    RetryPolicy,
    RunEvent,
    RunNotFound,
    Unreachable,
    Worker,
)
from trivet.client.errors import BadAnswer, Overloaded
from trivet.client.runs import RUN_APPEND_BYTES_MAX, _parts
from trivet.machine.run_commands import AppendRunEvents
from trivet.wire.entry import decode_entry

FAST = RetryPolicy(
    total_s=0.5, attempt_s=0.3, attempt_max_s=0.3, connect_s=0.2, backoff_s=0.005, backoff_max_s=0.02
)


class FirstNode(random.Random):
    """Begins at the first node."""

    def randrange(self, *_bounds: Any) -> int:
        return 0


def tells(*lines: bytes, then: str = "end") -> Step:
    """A stream of these pieces; `then`: end | reset | hang."""

    async def step(node: FakeNode, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Trivet-Node": "fake"})
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if then == "reset":
            return await reset(node, request)
        if then == "hang":
            await asyncio.Event().wait()
        return response

    return step


def event(number: int, data: str = "1", type: str = "t") -> bytes:
    return f"id: {number}\nevent: {type}\ndata: {data}\n\n".encode()


async def following(nodes: list[FakeNode], count: int, after: int = 0) -> list[RunEvent]:
    """The first `count` events, or all until the run is forgotten."""
    found: list[RunEvent] = []
    for node in nodes:
        await node.start()
    try:
        urls = [node.url for node in nodes]
        async with Client(urls, retry=FAST, rng=FirstNode()) as client, asyncio.timeout(10):
            async for one in client.run_events("r", after=after):
                found.append(one)
                if len(found) == count:
                    break
        return found
    finally:
        for node in nodes:
            await node.stop()


def test_events_come_as_they_are_told_whatever_their_pieces() -> None:
    text = b": hello\n\n" + event(1, '"a"') + event(2, "{}") + b": \n\n" + event(3, "null", "message.done")
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    node = FakeNode([tells(*pieces, then="hang")])
    found = asyncio.run(following([node], 3))
    assert found == [RunEvent(1, "t", "a"), RunEvent(2, "t", {}), RunEvent(3, "message.done", None)]
    assert node.seen[0].headers["Last-Event-ID"] == "0" and node.seen[0].path == "/v1/runs/r/events"


@pytest.mark.parametrize("then", ["end", "reset"])
def test_it_goes_on_at_another_node_from_where_it_was(then: str) -> None:
    """What a node tells again, though it should not, is not told again."""
    nodes = [
        FakeNode([tells(event(1), event(2), then=then)]),
        FakeNode([tells(event(2), event(3), then="hang")]),
    ]
    found = asyncio.run(following(nodes, 3))
    assert [one.id for one in found] == [1, 2, 3]
    asked = [seen.headers["Last-Event-ID"] for node in nodes for seen in node.seen]
    assert "2" in asked and set(asked) <= {"0", "2"}


def test_a_silent_node_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.client.runs.SILENCE_S", 0.1)
    nodes = [FakeNode([tells(event(1), then="hang")]), FakeNode([tells(event(2), then="hang")])]
    assert [one.id for one in asyncio.run(following(nodes, 2))] == [1, 2]


def test_it_follows_a_redirect_and_passes_over_nodes_that_cannot() -> None:
    leader = FakeNode([tells(event(5), then="hang")])

    async def story() -> list[RunEvent]:
        await leader.start()
        try:
            nodes = [
                FakeNode([problem("no_leader", 503, "elsewhere")]),
                FakeNode([reset]),
                FakeNode([redirect(leader)]),
            ]
            return await following(nodes, 1, after=4)
        finally:
            await leader.stop()

    assert [one.id for one in asyncio.run(story())] == [5]
    assert leader.seen[-1].headers["Last-Event-ID"] == "4"


def test_a_gap_is_told_and_moves_the_position() -> None:
    nodes = [
        FakeNode(
            [tells(event(9, '{"after":0,"first_id":10}', "gap"), event(10)), tells(event(11), then="hang")]
        )
    ]
    found = asyncio.run(following(nodes, 3))
    assert [(one.id, one.type) for one in found] == [(9, "gap"), (10, "t"), (11, "t")]
    assert nodes[0].seen[1].headers["Last-Event-ID"] == "10"


def test_its_ends() -> None:
    gone = problem("run_not_found", 404, "never")
    with pytest.raises(RunNotFound):
        asyncio.run(following([FakeNode([gone])], 1))
    forgotten = [FakeNode([tells(event(1)), gone])]
    assert [one.id for one in asyncio.run(following(forgotten, 9))] == [1]
    with pytest.raises(Unreachable):
        asyncio.run(following([FakeNode([reset])], 1))
    with pytest.raises(Overloaded):
        asyncio.run(following([FakeNode([problem("overloaded", 429, "later")])], 1))
    with pytest.raises(BadAnswer, match="no end"):
        asyncio.run(following([FakeNode([tells(b"x" * (1 << 20) + b"xx", then="hang")])], 1))


# --- telling ------------------------------------------------------------------------------------------


def test_a_handler_tells_events_and_all_of_them_stand_before_its_end() -> None:
    async def handle(lease: Lease) -> str:
        for word in ("to", "be", "or"):
            await lease.emit("token", word)
        if lease.attempt == 1:
            raise RuntimeError("half way")
        return "done"

    async def story() -> list[dict[str, Any]]:
        node = Loopback()
        async with serving(node) as url, Client([url], retry=FAST) as client:
            await client.put_queue("q", backoff={"type": "fixed", "base_ms": 0})
            made = await client.enqueue("q", 1, run_id="r")
            worker = Worker(client, "q", handle, wait_ms=1000)
            working = asyncio.create_task(worker.run())
            assert await client.result(made["id"], 10) == "done"
            await worker.stop()
            await working
            page = await client.events_page("r")
            return list(page["events"])

    events = asyncio.run(story())
    assert [one["type"].removeprefix("message.") for one in events] == [
        *("ready", "leased", "token", "token", "token", "ready"),
        *("leased", "token", "token", "token", "done"),
    ]


def test_only_a_handler_of_a_run_can_tell() -> None:
    told: list[str] = []

    async def handle(lease: Lease) -> None:
        try:
            await lease.emit("token")
        except ValueError as error:
            told.append(str(error))

    async def story() -> None:
        node = Loopback()
        async with serving(node) as url, Client([url], retry=FAST) as client:
            made = await client.enqueue("q", 1, retention_ms=10_000)
            worker = Worker(client, "q", handle, wait_ms=1000)
            working = asyncio.create_task(worker.run())
            await client.result(made["id"], 10)
            await worker.stop()
            await working

    asyncio.run(story())
    assert len(told) == 1 and "run_id" in told[0]


def test_a_repeated_request_tells_nothing_twice() -> None:
    """The first answer is lost: the SDK repeats, under the same request id and the same event ids."""
    lost = 0

    async def handle(lease: Lease) -> None:
        for n in range(2500):
            await lease.emit("n", n)

    async def story() -> list[int]:
        nonlocal lost
        node = Loopback()
        commit = node.commit

        def losing(data: bytes, done: Any) -> None:
            nonlocal lost
            requests = decode_entry(data).requests
            if lost < 3 and any(isinstance(one.command, AppendRunEvents) for one in requests):
                lost += 1
                commit(data, lambda _outcome: None)  # applied, and nobody hears of it
            else:
                commit(data, done)

        node.commit = losing  # type: ignore[method-assign]
        async with (
            serving(node) as url,
            Client([url], retry=RetryPolicy(total_s=20, attempt_s=0.3)) as client,
        ):
            made = await client.enqueue("q", 1, run_id="r")
            worker = Worker(client, "q", handle, wait_ms=1000)
            working = asyncio.create_task(worker.run())
            await client.result(made["id"], 30)
            await worker.stop()
            await working
            events: list[int] = []
            position: int | None = 0
            while position is not None:
                page = await client.events_page("r", after=position, limit=1000)
                events += [one["data"] for one in page["events"] if one["type"] == "n"]
                position = page["next"]
            return events

    assert asyncio.run(story()) == list(range(2500))
    assert lost == 3


def test_events_are_sent_in_requests_that_are_not_too_large() -> None:
    events = [{"type": "t", "data": "x" * 300_000}] * 10 + [{"type": "t", "data": "x" * 262_000}]
    parts = _parts(events)
    assert [one for part in parts for one in part] == events
    assert max(sum(len(one["data"]) for one in part) for part in parts) <= RUN_APPEND_BYTES_MAX
    assert len(parts) == 4


# --- results and progress -----------------------------------------------------------------------------


def test_results_and_what_has_none() -> None:
    async def story() -> None:
        node = Loopback()
        async with serving(node) as url, Client([url], retry=FAST) as client:
            made = await client.enqueue("q", 1, retention_ms=10_000)
            with pytest.raises(TimeoutError):
                await client.result(made["id"], 0.05)
            waiting = asyncio.create_task(client.result(made["id"], 10))
            (lease,) = await client.lease("q", "w")
            await client.ack(lease, result={"n": 1})
            assert await waiting == {"n": 1}
            dead = await client.enqueue("q", 1)
            (lease,) = await client.lease("q", "w")
            await client.nack(lease, dead_letter=True)
            with pytest.raises(MessageFailed, match="rejected") as failed:
                await client.result(dead["id"], 10)
            assert failed.value.message["state"] == "dead"

    asyncio.run(story())


def test_progress_is_a_heartbeat_and_tells_of_a_cancellation() -> None:
    async def story() -> None:
        node = Loopback()
        async with serving(node) as url, Client([url], retry=FAST) as client:
            made = await client.enqueue("q", 1)
            (lease,) = await client.lease("q", "w", lease_ms=5000)
            lease.trusted_until_s -= 3
            told = await client.progress(lease, percent=40, note="on it")
            assert lease.remaining_s() > 4 and not lease.cancelled and told["state"] == "leased"
            shown = await client.message(made["id"])
            assert (shown["progress"]["percent"], shown["progress"]["note"]) == (40, "on it")
            await client.cancel(made["id"])
            await client.progress(lease.token, message_id=made["id"], percent=50)
            assert not lease.cancelled
            await client.progress(lease, percent=60)
            assert lease.cancelled
            with pytest.raises(ValueError, match="message_id"):
                await client.progress(lease.token)

    asyncio.run(story())


def test_a_handler_shows_how_far_it_is_and_hears_of_a_cancellation() -> None:
    heard: list[bool] = []

    async def story() -> None:
        node = Loopback()
        async with serving(node) as url, Client([url], retry=FAST) as client:
            made = await client.enqueue("q", 1, retention_ms=60_000)
            shown = asyncio.Event()

            async def handle(lease: Lease) -> None:
                await lease.progress(30, "reading")
                shown.set()
                while not lease.cancelled:
                    await asyncio.sleep(0.01)
                    await lease.progress(60)
                heard.append(lease.cancelled)
                raise RuntimeError("not wanted any more")

            worker = Worker(client, "q", handle, wait_ms=1000, lease_ms=20_000)
            working = asyncio.create_task(worker.run())
            await shown.wait()
            progress = (await client.message(made["id"]))["progress"]
            assert (progress["percent"], progress["note"]) in ((30, "reading"), (60, None))
            await client.cancel(made["id"])
            with pytest.raises(MessageFailed, match="cancelled"):
                await client.result(made["id"], 10)
            await worker.stop()
            await working
            (lease,) = await _one_lease(client)
            with pytest.raises(ValueError, match="only a worker"):
                await lease.progress(1)

    asyncio.run(story())
    assert heard == [True]


async def _one_lease(client: Client) -> list[Lease]:
    await client.enqueue("other", 1)
    return await client.lease("other", "w")


def test_without_await() -> None:
    async def serve(ready: asyncio.Future[str], done: asyncio.Event) -> None:
        async with serving(Loopback()) as url:
            ready.set_result(url)
            await done.wait()

    async def story() -> list[int]:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()
        server = asyncio.create_task(serve(ready, done))

        def use(url: str) -> list[int]:
            with BlockingClient([url]) as client:
                client.enqueue("q", 1, run_id="r")  # type: ignore[attr-defined]
                client.append_events("r", [{"type": "t"}] * 3)  # type: ignore[attr-defined]
                found = []
                for one in client.run_events("r"):
                    found.append(one.id)
                    if len(found) == 4:
                        break
                return found

        found = await asyncio.to_thread(use, await ready)
        done.set()
        await server
        return found

    assert asyncio.run(story()) == [1, 2, 3, 4]
