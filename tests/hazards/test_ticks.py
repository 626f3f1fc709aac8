"""Hazards r10, r11: when the stock loop sends, and what it counts before it is anywhere."""

from __future__ import annotations

from tests.hazards.ours import Trio
from tests.hazards.stock import Cluster, hidden, settings
from trivet.consensus.port import NotProposed
from trivet.consensus.settings import ConsensusSettings


def stock_waits_a_period_for_each_command() -> None:
    cluster = Cluster(conf_for=lambda name: settings(appendEntriesUseBatch=True))
    cluster.elect("A")
    waits = []
    for value in range(20):
        heard, started = cluster.propose("A", value), cluster.time.now
        while not heard:
            cluster.tick()
            cluster.wires.deliver_all()
            cluster.time.now += 0.001
            cluster.hold_elections()
        waits.append(cluster.time.now - started)
        cluster.time.now += 0.0137
        cluster.tick()
        cluster.wires.deliver_all()
    assert sorted(waits)[10] > 0.04  # on links without delay, with a tick each millisecond


def stock_raises_for_what_it_has_queued() -> None:
    cluster = Cluster("A", conf_for=lambda name: settings(commandsQueueSize=200_000))
    cluster.elect("A")
    accepted = 0
    try:
        for value in range(70_000):
            cluster["A"].op(value)
            accepted += 1
    except BlockingIOError:
        pass
    assert accepted == 65_536
    assert len(hidden(cluster["A"], "commandsQueue")._FastQueue__queue) == accepted + 1  # the refused one too


def stock_counts_itself_before_anything_is_synced() -> None:
    """The order inside a leader's tick: a single node commits what it has only just appended."""
    cluster = Cluster("A")
    cluster.elect("A")
    events: list[str] = []
    journal = hidden(cluster["A"], "raftLog")
    add = journal.add

    def watched(command: bytes, index: int, term: int) -> None:
        events.append("append")
        add(command, index, term)

    journal.add = watched
    cluster["A"].op("x", callback=lambda result, reason: events.append("answer"))
    cluster.tick("A")
    cluster.tick("A")
    assert events == ["append", "answer"]  # nothing between the two


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


def test_r10a_a_command_leaves_at_once() -> None:
    """On links without delay a commit takes no virtual time at all: no timer is waited for."""
    stock_waits_a_period_for_each_command()
    trio = Trio()
    trio.elect("A")
    trio.run(2)
    for value in range(20):
        now, told = trio.clock.now, trio.propose("A", value)
        for _ in range(6):
            trio.flow()
            trio.beat(seconds=0.0)
        assert told.applied and trio.clock.now == now


def test_r10b_too_many_are_refused_whole() -> None:
    """Above the limit `propose` says overloaded, and what it says that of never appears."""
    stock_raises_for_what_it_has_queued()
    trio = Trio(settings=ConsensusSettings(pending_max=8))
    trio.elect("A")
    trio.block("AB", "AC")
    told = {i: trio.propose("A", i) for i in range(1, 100)}
    refused = [i for i, each in told.items() if each == [NotProposed("overloaded")]]
    assert len(refused) == 99 - 8
    trio.unblock("AB", "AC")
    trio.run(5)
    assert trio.ids("B") == [i for i in told if i not in refused]


def test_r11_a_leader_counts_only_what_its_disk_has() -> None:
    """R8, in a cluster of any size: a single node answers after its own sync, not before."""
    stock_counts_itself_before_anything_is_synced()
    trio = Trio("A")
    node = trio.elect("A")
    node.slow = True
    told = trio.propose("A", 1)
    trio.run(5)
    assert told == [] and node.replica.commit_index == node.storage.durable_index < node.storage.last_index
    node.slow = False
    trio.run(1)
    assert told.applied

    trio = Trio()  # the followers have it durably, the leader has not: not committed there yet
    node = trio.elect("A")
    trio.run(2)
    node.slow = True
    told = trio.propose("A", 1)
    trio.run(3)
    assert told == [] and trio["B"].storage.durable_index == trio["A"].storage.last_index
