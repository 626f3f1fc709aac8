"""The broker: batching, honest ends, barriers, admission; and the waiters' bookkeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.loopback import Loopback, run, until
from trivet.consensus.port import Applied, NotProposed
from trivet.errors import TrivetError
from trivet.limits import ENTRY_BYTES_TARGET
from trivet.machine import commands as c
from trivet.machine.commands import (
    Draft,
    Enqueue,
    Extras,
    Fire,
    FireSchedules,
    Lease,
    PauseSchedule,
    Publish,
    PutGroup,
    PutSchedule,
    PutTopic,
    QueueConfig,
    ReleaseLeases,
    ReplayGroup,
    Request,
    RunSchedule,
    ScheduleSpec,
)
from trivet.machine.core import HANDLERS
from trivet.machine.replies import Leased, Published
from trivet.node import broker as broker_module
from trivet.node.broker import ADDS
from trivet.node.waiters import Ask
from trivet.wire.entry import decode_entry


def enqueue(body: bytes = b"1", count: int = 1) -> Request:
    return Request(Enqueue("q", (Draft(body=body),) * count))


def test_what_waits_becomes_one_entry() -> None:
    async def test(node: Loopback) -> None:
        before = len(node.entries)
        ends = await asyncio.gather(*(node.broker.submit(enqueue()) for _ in range(50)))
        assert len(node.entries) == before + 1
        assert {end.answer.index for end in ends} == {node.applied_index}
        assert [end.answer.seq for end in ends] == list(range(50))

    run(test)


def test_a_batch_stops_at_its_target_but_takes_one_request_of_any_size() -> None:
    async def test(node: Loopback) -> None:
        before = len(node.entries)
        big = ENTRY_BYTES_TARGET // 2
        await asyncio.gather(
            node.broker.submit(enqueue(b"x" * (big * 3))),
            node.broker.submit(enqueue(b"x" * (big - 100))),
            node.broker.submit(enqueue(b"x" * (big - 100))),
            node.broker.submit(enqueue(b"x" * big)),
        )
        counts = [len(decode_entry(data).requests) for data in node.entries[before:]]
        assert counts == [1, 2, 1]
        assert node.broker.waiting == (0, 0)

    run(test)


def test_idle_means_no_batch() -> None:
    async def test(node: Loopback) -> None:
        assert node.broker.next_batch() is None

    run(test)


def test_entries_carry_the_stamp() -> None:
    async def test(node: Loopback) -> None:
        node.advance(1_000_000)
        await node.broker.submit(enqueue())
        assert decode_entry(node.entries[-1]).now_ms >= 1_800_001_000_000

    run(test)


def test_a_client_that_left_does_not_stop_its_request() -> None:
    async def test(node: Loopback) -> None:
        node.hold = True
        task = asyncio.create_task(node.broker.submit(enqueue()))
        await until(lambda: bool(node.held))
        task.cancel()
        node.decide()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert node.machine.queues["q"].leasable == 1

    run(test)


def test_a_refusal_is_an_error_with_its_field() -> None:
    async def test(node: Loopback) -> None:
        with pytest.raises(TrivetError) as caught:
            await node.broker.submit(Request(Enqueue("none", (Draft(),), auto_create=False)))
        assert caught.value.code == "queue_not_found"
        assert caught.value.field == "/messages/0/queue"

    run(test)


def test_requests_that_no_entry_takes_end_as_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "OFFER_DEADLINE_S", 0.05)
    monkeypatch.setattr(broker_module, "_SWEEP_S", 0.02)

    async def test(node: Loopback) -> None:
        node.can_commit = False
        with pytest.raises(TrivetError) as caught:
            await node.broker.submit(enqueue())
        assert (caught.value.code, caught.value.retry) == ("no_leader", "elsewhere")
        node.can_commit = True
        await node.broker.submit(enqueue())
        assert node.machine.queues["q"].leasable == 1, "what ended as not applied never is"

    run(test)


def test_too_much_waiting_is_refused_and_repeats_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "WAITING_MAX", 3)

    async def test(node: Loopback) -> None:
        known = Request(enqueue().command, "key", b"f" * 16)
        await node.broker.submit(known)
        node.can_commit = False
        tasks = [asyncio.create_task(node.broker.submit(enqueue())) for _ in range(3)]
        await until(lambda: node.broker.waiting[0] == 3)
        with pytest.raises(TrivetError) as caught:
            await node.broker.submit(enqueue())
        assert (caught.value.code, caught.value.retry, caught.value.limit) == ("overloaded", "later", 3)
        repeat = asyncio.create_task(node.broker.submit(known))
        await until(lambda: node.broker.waiting[0] == 4)
        node.can_commit = True
        node.broker.role_changed()
        assert (await repeat).answer.repeated
        await asyncio.gather(*tasks)

    run(test)


def test_too_many_bytes_waiting_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "WAITING_BYTES_MAX", 1000)

    async def test(node: Loopback) -> None:
        node.can_commit = False
        task = asyncio.create_task(node.broker.submit(enqueue(b"x" * 1000)))
        await until(lambda: node.broker.waiting[0] == 1)
        with pytest.raises(TrivetError) as caught:
            await node.broker.submit(enqueue())
        assert caught.value.code == "overloaded"
        node.can_commit = True
        node.broker.role_changed()
        await task

    run(test)


def test_losing_office_ends_what_was_not_proposed() -> None:
    async def test(node: Loopback) -> None:
        node.can_commit = False
        task = asyncio.create_task(node.broker.submit(enqueue()))
        await until(lambda: node.broker.waiting[0] == 1)
        node.change(role="follower", leader="n2")
        with pytest.raises(TrivetError) as caught:
            await task
        assert (caught.value.code, caught.value.retry) == ("lost_leadership", "elsewhere")
        assert node.broker.waiting == (0, 0)

    run(test)


def test_reads_share_quorum_rounds() -> None:
    async def test(node: Loopback) -> None:
        rounds: list[Callable[[bool], None]] = []
        node.read = rounds.append  # type: ignore[method-assign]
        first = asyncio.create_task(node.broker.read(lambda m: "first"))
        await until(lambda: len(rounds) == 1)
        later = [asyncio.create_task(node.broker.read(lambda m, n=n: n)) for n in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(rounds) == 1, "a round that has begun proves nothing for a later read"
        rounds[0](True)
        assert len(rounds) == 2
        rounds[1](True)
        assert await first == "first"
        assert await asyncio.gather(*later) == list(range(5))

    run(test)


def test_a_read_sees_the_state_of_the_turn_in_which_its_round_ends() -> None:
    async def test(node: Loopback) -> None:
        rounds: list[Callable[[bool], None]] = []
        node.read = rounds.append  # type: ignore[method-assign]
        read = asyncio.create_task(node.broker.read(lambda m: m.applied_index))
        await until(lambda: bool(rounds))
        await node.broker.submit(enqueue())
        seen = node.applied_index
        rounds[0](True)
        await node.broker.submit(enqueue())
        assert await read == seen

    run(test)


def test_a_read_whose_round_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "BARRIER_DEADLINE_S", 0.05)

    async def test(node: Loopback) -> None:
        node.read = lambda done: None  # type: ignore[method-assign, assignment]
        with pytest.raises(TrivetError) as caught:
            await node.broker.read(lambda m: 1)
        assert caught.value.code == "lost_leadership"

    run(test)


def test_a_local_read_waits_for_the_whole_entry() -> None:
    async def test(node: Loopback) -> None:
        held, node.hold = node.held, True
        writes = [asyncio.create_task(node.broker.submit(enqueue())) for _ in range(3)]
        await until(lambda: bool(held))
        data, done = held.pop()
        node.applier.start(node.applied_index + 1, node.term, data)
        assert not node.applier.step(lambda: True)  # one request of three
        read = asyncio.create_task(node.broker.read_local(lambda m: m.queues["q"].leasable))
        await asyncio.sleep(0)
        assert not read.done()
        while not node.applier.step(lambda: True):
            pass
        done(Applied(node.applied_index, node.term, node.applier.result))
        assert await read == 3
        await asyncio.gather(*writes)

    run(test)


# --- waiters ------------------------------------------------------------------------------------------


def leases_in(node: Loopback, since: int) -> list[Lease]:
    return [
        request.command
        for data in node.entries[since:]
        for request in decode_entry(data).requests
        if isinstance(request.command, Lease)
    ]


async def feed_and_hold_the_lease(node: Loopback) -> None:
    """Commit a message that a parked poll waits for; the lease it sets off stays undecided. It has extras, of which
    the leader is not sure before."""
    node.hold = True
    sending = asyncio.create_task(
        node.broker.submit(Request(Enqueue("q", (Draft(extras=Extras(lease_ms=60_000)),))))
    )
    await until(lambda: bool(node.held))
    node.commit(*node.held.pop())
    await sending
    await until(lambda: bool(node.held))


def test_no_more_leases_are_proposed_than_there_is_to_lease() -> None:
    async def test(node: Loopback) -> None:
        asks = [Ask(("q",), f"c{n}", 10, wait_ms=5000) for n in range(100)]
        polls = [asyncio.create_task(node.waiters.lease(ask)) for ask in asks]
        await until(lambda: node.waiters.parked == 100)
        before = len(node.entries)
        await node.broker.submit(enqueue(count=3))
        await until(lambda: node.waiters.parked == 97)
        leases = leases_in(node, before)
        assert [(lease.consumer, lease.max_messages) for lease in leases] == [("c0", 1), ("c1", 1), ("c2", 1)]
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        assert node.waiters.parked == 0

    run(test)


def test_who_leaves_while_its_lease_is_under_way_gives_it_back() -> None:
    async def test(node: Loopback) -> None:
        poll = asyncio.create_task(node.waiters.lease(Ask(("q",), "gone", wait_ms=5000)))
        await until(lambda: node.waiters.parked == 1)
        await feed_and_hold_the_lease(node)
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
        node.hold = False
        before = len(node.entries)
        node.decide()
        await until(lambda: node.machine.queues["q"].leasable == 1)
        commands = [r.command for data in node.entries[before:] for r in decode_entry(data).requests]
        assert [type(command) for command in commands] == [Lease, ReleaseLeases]
        again = await node.waiters.lease(Ask(("q",), "c"))
        assert again is not None
        assert again.answer.reply.grants[0].attempt == 1

    run(test)


def test_who_leaves_with_a_request_id_can_ask_again() -> None:
    async def test(node: Loopback) -> None:
        ask = Ask(("q",), "c", wait_ms=5000, request_id="key", fingerprint=b"f" * 16)
        poll = asyncio.create_task(node.waiters.lease(ask))
        await until(lambda: node.waiters.parked == 1)
        await feed_and_hold_the_lease(node)
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
        node.hold = False
        node.decide()
        assert node.machine.queues["q"].leasable == 0
        again = await node.waiters.lease(ask)
        assert again is not None and again.answer.repeated
        assert isinstance(again.answer.reply, Leased)
        assert len(again.answer.reply.grants) == 1

    run(test)


def test_a_repeat_with_other_content_while_the_first_waits() -> None:
    async def test(node: Loopback) -> None:
        first = Ask(("q",), "c", wait_ms=5000, request_id="key", fingerprint=b"f" * 16)
        poll = asyncio.create_task(node.waiters.lease(first))
        await until(lambda: node.waiters.parked == 1)
        with pytest.raises(TrivetError) as caught:
            await node.waiters.lease(Ask(("q",), "d", wait_ms=5, request_id="key", fingerprint=b"g" * 16))
        assert caught.value.code == "idempotency_conflict"
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)

    run(test)


def test_at_most_so_many_are_parked() -> None:
    async def test(node: Loopback) -> None:
        polls = [asyncio.create_task(node.waiters.lease(Ask(("q",), "c", wait_ms=5000))) for _ in range(2)]
        await until(lambda: node.waiters.parked == 2)
        with pytest.raises(TrivetError) as caught:
            await node.waiters.lease(Ask(("q",), "c", wait_ms=5000))
        assert (caught.value.code, caught.value.limit) == ("overloaded", 2)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    run(test, parked_max=2)


def test_a_wait_that_ends_while_its_lease_is_under_way_still_gets_it() -> None:
    async def test(node: Loopback) -> None:
        poll = asyncio.create_task(node.waiters.lease(Ask(("q",), "c", wait_ms=30)))
        await until(lambda: node.waiters.parked == 1)
        await feed_and_hold_the_lease(node)
        await asyncio.sleep(0.05)
        assert not poll.done()
        node.hold = False
        node.decide()
        assert (await poll) is not None

    run(test)


def test_a_lease_that_was_not_proposed_ends_its_poll() -> None:
    async def test(node: Loopback) -> None:
        poll = asyncio.create_task(node.waiters.lease(Ask(("q",), "c", wait_ms=5000)))
        await until(lambda: node.waiters.parked == 1)
        await feed_and_hold_the_lease(node)
        node.decide(NotProposed("not_leader"))
        with pytest.raises(TrivetError) as caught:
            await poll
        assert caught.value.code == "lost_leadership"
        assert node.waiters.parked == 0
        node.hold = False
        assert await node.waiters.lease(Ask(("q",), "c")) is not None, "its share is free again"

    run(test)


def test_a_publish_makes_messages_and_is_refused_under_pressure_but_not_its_repeat() -> None:
    """R10, R12: a group that starts with what is kept, too; one that starts at the end adds nothing."""

    async def test(node: Loopback) -> None:
        known = Publish("t", (Draft(b"1", key="k"),))
        await node.broker.submit(Request(PutTopic("t", 1000, 1000)))
        await node.broker.submit(Request(known))
        node.pressure = lambda: "memory"  # type: ignore[method-assign]
        again = await node.broker.submit(Request(known))
        assert isinstance(again.answer.reply, Published) and again.answer.reply.duplicates == (0,)
        await node.broker.submit(Request(PutGroup("t", "end", QueueConfig())))
        for command in (
            Publish("t", (Draft(b"1", key="k"), Draft(b"2"))),
            PutGroup("t", "start", QueueConfig(), from_offset=0),
            PutGroup("t", "start", QueueConfig(), from_at_ms=0),
            ReplayGroup("t", "end", from_offset=0),
        ):
            with pytest.raises(TrivetError) as refused:
                await node.broker.submit(Request(command))
            assert refused.value.code == "memory_pressure", command

    run(test)


def test_slots_make_messages_and_are_refused_under_pressure() -> None:
    async def test(node: Loopback) -> None:
        spec = ScheduleSpec("q", Draft(), every_ms=1000)
        await node.broker.submit(Request(PutSchedule("s", spec)))
        node.pressure = lambda: "disk"  # type: ignore[method-assign]
        for command in (FireSchedules((Fire("s", 1, 1, 2),)), RunSchedule("s")):
            with pytest.raises(TrivetError) as refused:
                await node.broker.submit(Request(command))
            assert refused.value.code == "disk_full"
        await node.broker.submit(Request(PauseSchedule("s", True)))

    run(test)


def test_a_flow_makes_messages_and_is_refused_under_pressure() -> None:
    async def test(node: Loopback) -> None:
        node.pressure = lambda: "disk"  # type: ignore[method-assign]
        with pytest.raises(TrivetError) as refused:
            await node.broker.submit(Request(c.CreateFlow((c.FlowStepDraft("a", "q", Draft()),), (0,))))
        assert refused.value.code == "disk_full"

    run(test)


def test_of_every_command_it_is_known_whether_it_makes_messages() -> None:
    """A new one is put here or into `ADDS`, not forgotten."""
    sometimes = {c.Ack, c.PutGroup}  # with `enqueue`; with a place to start from
    never = {
        *(c.Genesis, c.PutQueue, c.PatchQueue, c.DeleteQueue, c.PauseQueue, c.PurgeQueue, c.Lease, c.Nack),
        *(c.Extend, c.Release, c.Progress, c.Cancel, c.PatchMessage, c.Redrive, c.PurgeDead, c.Expire),
        *(c.AckTokens, c.AckLeases, c.ReleaseLeases),
        *(c.EffectBegin, c.EffectCommit, c.EffectAbort, c.PutTopic, c.DeleteTopic, c.DeleteGroup),
        *(c.PutSchedule, c.DeleteSchedule, c.PauseSchedule),
    }
    assert {*ADDS} | sometimes | never == set(HANDLERS)
    assert not ({*ADDS} & (sometimes | never) or sometimes & never)
