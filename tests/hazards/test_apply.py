"""Hazard r07, r15c: what happens around `apply`, and what a proposer is told."""

from __future__ import annotations

import pytest
from pysyncobj import replicated

from tests.hazards.ours import Trio
from tests.hazards.stock import Cluster, Heard, Listing
from tests.simulation.machine import encode_ids
from trivet.consensus.port import Fatal, NotProposed, Unknown
from trivet.machine.commands import MACHINE_VERSION, Expire, Request
from trivet.wire.entry import UnsupportedEntry, decode_entry, encode_entry


class Poisoned(Listing):
    @replicated  # type: ignore[untyped-decorator]
    def boom(self) -> None:
        self.applied.append("partial")
        raise ValueError("boom")


class Newer(Listing):
    @replicated(ver=1)  # type: ignore[untyped-decorator]
    def op(self, value: object) -> None:
        self.applied.append(value)


def stock_one_poison_command_kills_the_cluster() -> None:
    cluster = Cluster(kind=Poisoned)
    cluster.elect("A")
    cluster.propose("A", 1)
    cluster.run()
    heard = Heard()
    cluster["A"].boom(callback=heard)
    later = cluster.propose("A", 2)
    raised = dict.fromkeys("ABC", 0)
    for step in range(20):
        cluster.time.now += 0.11
        for name in "ABC":
            try:
                cluster[name].doTick(0)
            except ValueError:
                raised[name] += 1
        cluster.wires.deliver_all()
        cluster.hold_elections()
        if step in (5, 12):  # the leader is mute, the next one's timer fires
            cluster["B" if step == 5 else "C"]._SyncObj__raftElectionDeadline = 0
    assert all(count >= 3 for count in raised.values()) and heard == [] and later == []
    assert all(cluster[name].applied.count("partial") >= 3 for name in "ABC")


def stock_a_raising_callback_applies_twice() -> None:
    cluster = Cluster()
    cluster.elect("A")
    calls = []

    def client_is_gone(result: object, reason: int) -> None:
        calls.append(result)
        if len(calls) == 1:
            raise ConnectionError("client is gone")

    cluster["A"].op("x", callback=client_is_gone)
    for _ in range(6):
        cluster.time.now += 0.11
        for name in "ABC":
            try:
                cluster[name].doTick(0)
            except ConnectionError:
                continue
        cluster.wires.deliver_all()
        cluster.hold_elections()
    assert cluster["A"].applied == ["x", "x"] and cluster["B"].applied == ["x"]


def stock_an_unknown_version_applies_the_next_twice() -> None:
    class Mixed(Cluster):
        def start(self, name: str, connect: bool = True) -> object:
            self.kind = Newer if name in "AB" else Listing
            return super().start(name, connect)

    cluster = Mixed()
    cluster.elect("A")
    cluster["A"].setCodeVersion(1)
    for value in (1, 2, 3):
        cluster.propose("A", value)
    for _ in range(5):
        cluster.time.now += 0.11
        for name in "ABC":
            try:
                cluster[name].doTick(0)
            except KeyError:
                continue
        cluster.wires.deliver_all()
        cluster.hold_elections()
    assert cluster["C"].applied != cluster["A"].applied and len(cluster["C"].applied) > 3


# --- r15c: outcomes ---------------------------------------------------------------------------------------


def stock_says_leader_changed_of_what_commits() -> None:
    cluster = Cluster()
    wires = cluster.wires
    cluster.elect("A")
    heard = cluster.propose("B", "x")
    cluster.tick("B")
    wires.deliver("B", "A")
    wires.block("AB")
    cluster.tick("A")
    wires.deliver("A", "C")
    wires.block("CA", "AC")
    cluster.fire_election("C")
    wires.deliver("C", "B")
    wires.deliver("B", "C")
    assert cluster["C"]._isLeader()
    for _ in range(4):
        cluster.beat("C")
        wires.deliver("C", "B")
        wires.deliver("B", "C")
        cluster.tick("B")
    assert heard == [(None, "LEADER_CHANGED")] and cluster["B"].applied == ["x"]


def stock_never_answers_a_leader_that_stepped_down() -> None:
    cluster = Cluster()
    wires = cluster.wires
    cluster.elect("A")
    forwarded = cluster.propose("B", "y")
    cluster.tick("B")
    wires.disconnect("A", "B")
    wires.connect("A", "B")
    cluster.run(20)
    assert forwarded == [] and cluster["B"].applied == []  # the same leader stays: silence
    wires.disconnect("A", "B")
    wires.disconnect("A", "C")
    heard = cluster.propose("A", "z")
    cluster.tick("A")
    cluster.time.now += 31
    cluster.tick("A")
    assert not cluster["A"]._isLeader() and heard == []


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


def test_r07a_a_raising_machine_ends_the_node() -> None:
    """A broken invariant stops the process before anything more leaves it; nothing is applied twice."""
    stock_one_poison_command_kills_the_cluster()
    trio = Trio()
    trio.elect("A")
    node = trio["A"]

    def broken(out_of_time: object) -> bool:
        raise ZeroDivisionError

    node.machine.step = broken  # type: ignore[method-assign]
    trio.propose("A", 1)
    with pytest.raises(Fatal):
        trio.run(3)
    sent = len(node.sent)
    with pytest.raises(Fatal):  # whatever is asked of it now
        node.replica.tick()
    assert len(node.sent) == sent
    trio.kill("A")
    trio.elect("B")
    trio.run(2)
    assert trio.ids("B").count(1) <= 1 and trio.propose("B", 2) is not None


def test_r07b_a_raising_answer_is_its_own_problem() -> None:
    stock_a_raising_callback_applies_twice()
    trio = Trio()
    trio.elect("A")

    def client_is_gone(outcome: object) -> None:
        raise ConnectionError("client is gone")

    try:
        trio["A"].replica.propose(encode_ids([1], 0), client_is_gone, 5.0)
        trio.run(3)
    except ConnectionError:  # if it is let through it must be after the entry is applied, once
        trio.run(3)
    assert trio.ids("A") == trio.ids("B") == [1]


def test_r07c_an_unknown_version_is_fatal_and_applies_nothing() -> None:
    stock_an_unknown_version_applies_the_next_twice()
    with pytest.raises(UnsupportedEntry):
        decode_entry(encode_entry(MACHINE_VERSION + 1, 0, [Request(Expire())]))


def test_r15c_every_proposal_ends_once() -> None:
    """Applied, not proposed or unknown, and each with its own deadline."""
    stock_says_leader_changed_of_what_commits()
    stock_never_answers_a_leader_that_stepped_down()
    trio = Trio()
    trio.elect("A")
    assert trio.propose("B", 1)[0] == NotProposed("not_leader")  # never forwarded
    trio.cut_off("A")
    told = trio.propose("A", 2, deadline_s=1.0)
    for _ in range(30):
        trio.beat("A", seconds=0.1)
    assert len(told) == 1 and isinstance(told[0], Unknown)
    trio.elect("B")
    trio.propose("B", 3)
    trio.run(3, "B", "C")
    trio.connect_all()
    trio.run(5)
    assert trio.ids("A") == [3] and len(told) == 1
