"""Leases in the very entry that feeds them: who is sure of what, and what becomes of it when it goes wrong."""

from __future__ import annotations

import asyncio

import pytest

from tests.loopback import Loopback, run, until
from trivet.consensus.port import NotProposed
from trivet.errors import TrivetError
from trivet.machine.commands import (
    DeleteQueue,
    Draft,
    Enqueue,
    Extras,
    Lease,
    PauseQueue,
    PutGroup,
    PutQueue,
    PutTopic,
    QueueConfig,
    ReleaseLeases,
    Request,
)
from trivet.machine.replies import Leased
from trivet.node import broker
from trivet.node.ahead import coming
from trivet.node.broker import Committed
from trivet.node.waiters import Ask
from trivet.wire.entry import decode_entry


async def parked(node: Loopback, *asks: Ask) -> list[asyncio.Task[object]]:
    polls: list[asyncio.Task[object]] = [asyncio.create_task(node.waiters.lease(ask)) for ask in asks]
    await until(lambda: node.waiters.parked == len(asks))
    return polls


def ask(**more: object) -> Ask:
    return Ask(("q",), "c", wait_ms=5000, **more)  # type: ignore[arg-type]


def plain(count: int = 1) -> Request:
    return Request(Enqueue("q", (Draft(),) * count))


async def on_its_way(node: Loopback, request: Request) -> asyncio.Task[Committed]:
    """In an entry that is proposed and not decided, as all that follow."""
    node.hold = True
    sending = asyncio.create_task(node.broker.submit(request))
    await until(lambda: bool(node.held))
    return sending


SURE = {
    "plain": Draft(),
    "ttl": Draft(ttl_ms=1000),
    "priority": Draft(priority=3),
    "headers": Draft(headers={"a": "b"}),
}
UNSURE = {
    "known key": Draft(key="known"),
    "group": Draft(group="g"),
    "delay": Draft(delay_ms=1),
    "later": Draft(deliver_at_ms=1),
    "run": Draft(extras=Extras(run_id="r")),
    "dependency": Draft(extras=Extras(depends_on=(1,))),
}


@pytest.mark.parametrize("name", SURE)
def test_what_is_sure_is_leasable_right_after_it(name: str) -> None:
    async def test(node: Loopback) -> None:
        unsure = [draft for draft in UNSURE.values() if draft.key is None]
        request = Request(Enqueue("q", (SURE[name], *unsure, SURE[name])))
        assert coming(node.machine, request) == ("q", 2)
        request = Request(Enqueue("q", (SURE[name], SURE[name])))
        await node.broker.submit(request)
        assert node.machine.queues["q"].leasable == 2

    run(test)


def test_a_key_makes_one_message() -> None:
    async def test(node: Loopback) -> None:
        drafts = (Draft(key="a"), Draft(key="b"), Draft(), Draft(key="a"), Draft())
        request = Request(Enqueue("q", drafts))
        assert coming(node.machine, request) == ("q", 4)
        await node.broker.submit(request)
        assert node.machine.queues["q"].leasable == 4
        assert coming(node.machine, request) == ("q", 2)

    run(test)


def test_a_key_that_is_on_its_way_twice_feeds_one_poll() -> None:
    async def test(node: Loopback) -> None:
        polls = await parked(node, ask(), ask())
        node.hold = True
        twice = [
            asyncio.create_task(node.broker.submit(Request(Enqueue("q", (Draft(key="k"),))))) for _ in "ab"
        ]
        await until(lambda: bool(node.held))
        node.hold = False
        node.decide()
        await asyncio.gather(*twice)
        await until(lambda: any(poll.done() for poll in polls))
        assert [poll.done() for poll in polls] == [True, False] and node.waiters.parked == 1
        await node.broker.submit(plain())
        assert await polls[1] is not None

    run(test)


@pytest.mark.parametrize("name", UNSURE)
def test_of_others_nobody_is_sure(name: str) -> None:
    async def test(node: Loopback) -> None:
        await node.broker.submit(Request(Enqueue("q", (Draft(key="known"),))))
        assert coming(node.machine, Request(Enqueue("q", (UNSURE[name],)))) is None

    run(test)


@pytest.mark.parametrize(
    "config", [QueueConfig(max_messages=5), QueueConfig(max_bytes=10**6), QueueConfig(max_leased=5)]
)
def test_nor_of_a_queue_with_a_limit(config: QueueConfig) -> None:
    async def test(node: Loopback) -> None:
        assert coming(node.machine, plain()) is None

    run(test, config)


def test_nor_of_a_queue_that_is_paused_or_a_topics_or_not_there() -> None:
    async def test(node: Loopback) -> None:
        assert coming(node.machine, Request(Enqueue("other", (Draft(),)))) is None
        await node.broker.submit(Request(PauseQueue("q", enqueue=True)))
        assert coming(node.machine, plain()) is None
        await node.broker.submit(Request(PauseQueue("q", enqueue=False, lease=True)))
        assert coming(node.machine, plain()) is None
        await node.broker.submit(Request(PutTopic("t", 1000, 10)))
        await node.broker.submit(Request(PutGroup("t", "g", QueueConfig())))
        assert "t:g" in node.machine.queues
        assert coming(node.machine, Request(Enqueue("t:g", (Draft(),)))) is None
        assert coming(node.machine, Request(Lease(("q",), "c"))) is None

    run(test)


def test_nor_of_a_repeat() -> None:
    async def test(node: Loopback) -> None:
        request = Request(Enqueue("q", (Draft(),)), "id", b"f" * 16)
        assert coming(node.machine, request) == ("q", 1)
        await node.broker.submit(request)
        assert coming(node.machine, request) is None

    run(test)


def test_a_poll_is_answered_in_the_entry_that_feeds_it() -> None:
    async def test(node: Loopback) -> None:
        polls = await parked(node, ask(max_messages=2), ask(max_messages=2), ask())
        before = len(node.entries)
        fed = (await node.broker.submit(plain(3))).answer.index
        for poll in polls:
            committed = await poll
            assert committed is not None and committed.answer.index == fed  # type: ignore[attr-defined]
        assert len(node.entries) == before + 1
        commands = [request.command for request in decode_entry(node.entries[-1]).requests]
        assert [type(command) for command in commands] == [Enqueue, Lease, Lease, Lease]
        assert [command.max_messages for command in commands[1:]] == [1, 1, 1]  # type: ignore[union-attr]

    run(test)


def test_what_is_dealt_ahead_asks_for_no_turn_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the entry that is being made; a turn for it would stand between the entry and its answers."""

    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask())
        asked: list[None] = []
        wake = node.broker._wake
        monkeypatch.setattr(node.broker, "_wake", lambda: (asked.append(None), wake()))
        await node.broker.submit(plain())
        assert await poll is not None and len(asked) == 1
        await node.broker.submit(plain())
        assert len(asked) == 2

    run(test)


def test_all_of_an_entry_goes_to_one_who_asks_for_all() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask(max_messages=100))
        before = len(node.entries)
        await asyncio.gather(*(node.broker.submit(plain()) for _ in range(60)))
        reply = (await poll).answer.reply  # type: ignore[attr-defined]
        assert isinstance(reply, Leased) and len(reply.grants) == 60
        assert len(node.entries) == before + 1

    run(test)


def test_more_than_they_ask_for_stays() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask(max_messages=2))
        await node.broker.submit(plain(5))
        reply = (await poll).answer.reply  # type: ignore[attr-defined]
        assert isinstance(reply, Leased) and len(reply.grants) == 2
        assert node.machine.queues["q"].leasable == 3
        again = await node.waiters.lease(Ask(("q",), "c", 9))
        assert again is not None and len(again.answer.reply.grants) == 3  # type: ignore[union-attr]

    run(test)


def test_a_lease_that_finds_nothing_leaves_its_poll_waiting() -> None:
    """The queue was paused by a request before: the message is refused, and the next one feeds the poll."""

    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask(request_id="r", fingerprint=b"f" * 16))
        node.hold = True
        pausing = asyncio.create_task(node.broker.submit(Request(PauseQueue("q", enqueue=True))))
        await asyncio.sleep(0)
        refused = asyncio.create_task(node.broker.submit(plain()))
        await until(lambda: bool(node.held))
        node.hold = False
        node.decide()
        await pausing
        with pytest.raises(TrivetError) as caught:
            await refused
        assert caught.value.code == "queue_paused"
        assert not poll.done() and node.waiters.parked == 1
        await node.broker.submit(Request(PauseQueue("q", enqueue=False)))
        await node.broker.submit(plain())
        committed = await poll
        assert committed is not None and committed.answer.reply.grants  # type: ignore[attr-defined]

    run(test)


def test_a_lease_that_the_line_has_no_room_for_leaves_its_poll_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask())
        monkeypatch.setattr(broker, "WAITING_MAX", 1)
        await node.broker.submit(plain())
        committed = await poll
        assert committed is not None and committed.answer.reply.grants  # type: ignore[attr-defined]

    run(test)


def test_who_leaves_before_the_entry_is_decided_gives_its_lease_back() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask())
        sending = await on_its_way(node, plain())
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
        node.hold = False
        before = len(node.entries)
        node.decide()
        await sending
        await until(lambda: node.machine.queues["q"].leasable == 1)
        commands = [r.command for data in node.entries[before:] for r in decode_entry(data).requests]
        assert [type(command) for command in commands] == [Enqueue, Lease, ReleaseLeases]

    run(test)


def test_an_entry_that_was_not_proposed_ends_its_poll_and_promises_nothing() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask())
        sending = await on_its_way(node, plain())
        node.decide(NotProposed("not_leader"))
        for task in (poll, sending):
            with pytest.raises(TrivetError) as caught:
                await task
            assert caught.value.code == "lost_leadership"
        node.hold = False
        polls = await parked(node, ask())
        await node.broker.submit(plain())
        assert await polls[0] is not None

    run(test)


def test_who_does_not_lead_says_so_at_once() -> None:
    """The office may be lost while a request's body is on its way: nothing would ever end such a wait (R26)."""

    async def test(node: Loopback) -> None:
        node.role = "follower"
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(TrivetError) as caught:
            await node.waiters.lease(ask())
        assert caught.value.code == "lost_leadership"
        assert asyncio.get_running_loop().time() - began_s < 1

    run(test)


def test_what_a_refused_lease_was_promised_goes_to_the_next() -> None:
    async def test(node: Loopback) -> None:
        await node.broker.submit(Request(PutQueue("z", QueueConfig())))
        first = asyncio.create_task(node.waiters.lease(Ask(("q", "z"), "c", wait_ms=5000)))
        await until(lambda: node.waiters.parked == 1)
        second = asyncio.create_task(node.waiters.lease(ask()))
        await until(lambda: node.waiters.parked == 2)
        sending = await on_its_way(node, Request(Enqueue("q", (Draft(extras=Extras(lease_ms=60_000)),))))
        deleting = asyncio.create_task(node.broker.submit(Request(DeleteQueue("z"))))
        await until(lambda: len(node.held) == 2)
        node.commit(*node.held.pop(0))
        await sending
        await until(lambda: len(node.held) == 2)  # the delete, and behind it the lease of the first
        node.hold = False
        node.decide()
        await deleting
        with pytest.raises(TrivetError) as caught:
            await first
        assert caught.value.code == "queue_not_found"
        committed = await second
        assert committed is not None and committed.answer.reply.grants  # type: ignore[union-attr]

    run(test)


def test_who_hangs_up_in_the_turn_of_the_commit_gives_the_lease_back() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask())
        sending = await on_its_way(node, plain())
        node.hold = False
        poll.cancel()
        node.decide()  # before the cancelled task has had its turn
        await asyncio.gather(poll, return_exceptions=True)
        await sending
        await until(lambda: node.machine.queues["q"].leasable == 1)

    run(test)


def test_a_repeat_without_a_wait_joins_the_lease_that_is_on_its_way() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, ask(request_id="r", fingerprint=b"f" * 16))
        sending = await on_its_way(node, plain())
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
        again = asyncio.create_task(
            node.waiters.lease(Ask(("q",), "c", request_id="r", fingerprint=b"f" * 16))
        )
        await asyncio.sleep(0.01)
        assert not again.done()
        node.hold = False
        node.decide()
        await sending
        committed = await again
        assert committed is not None and committed.answer.reply.grants  # type: ignore[union-attr]

    run(test)


def test_a_wait_that_ends_at_a_deleted_queue_says_so() -> None:
    async def test(node: Loopback) -> None:
        (poll,) = await parked(node, Ask(("q",), "c", wait_ms=100))
        node.hold = True
        sending = asyncio.create_task(node.broker.submit(Request(PauseQueue("q", enqueue=True))))
        refused = asyncio.create_task(node.broker.submit(plain()))
        deleting = asyncio.create_task(node.broker.submit(Request(DeleteQueue("q"))))
        await until(lambda: bool(node.held))
        node.hold = False
        node.decide()
        await asyncio.gather(sending, refused, deleting, return_exceptions=True)
        with pytest.raises(TrivetError) as caught:
            await poll
        assert caught.value.code == "queue_not_found"

    run(test)


def test_a_wait_begins_without_asking_and_nothing_is_said_without_a_quorum() -> None:
    """An empty answer is a statement about the queue: only a confirmed leader makes it."""

    async def test(node: Loopback) -> None:
        node.reads_fail = True
        (poll,) = await parked(node, ask())
        await node.broker.submit(plain())
        assert await poll is not None
        with pytest.raises(TrivetError) as caught:
            await node.waiters.lease(Ask(("q",), "c", wait_ms=10))
        assert caught.value.code == "lost_leadership"
        node.reads_fail = False
        assert await node.waiters.lease(Ask(("q",), "c", wait_ms=10)) is None

    run(test)
