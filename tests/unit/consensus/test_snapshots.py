"""Snapshots taken, sent, received and installed (R9; r05, r06, r13, r14b)."""

from __future__ import annotations

import errno
import random
from typing import Any

import msgspec
import pytest

from tests.unit.consensus.lab import Lab, LabNode, Notes
from trivet.consensus.port import Applied, Fatal
from trivet.storage import snapshots
from trivet.wire.frames import Append, Message, SnapshotChunk, SnapshotReply

SMALL: dict[str, Any] = {"segment_bytes": 4096 + 600, "snapshot_chunk_bytes": 100, "snapshot_window": 2}


def fill(lab: Lab, node: LabNode, rounds: int = 3, each: int = 20) -> None:
    """Enough for the log to be compacted behind two snapshots."""
    for number in range(rounds):
        lab.put(node, each, f"r{number}.", size=40)
        lab.run(0.3)
        assert node.replica.snapshot_now()
        lab.run(0.7)


def behind(lab: Lab) -> tuple[LabNode, LabNode]:
    """A leader whose log begins behind what the other, cut off, has."""
    leader = lab.leader()
    lab.run(0.2)
    late = lab.followers()[0]
    lab.kill(late.name)
    fill(lab, leader)
    assert leader.storage.base_index > 10
    return leader, late


def test_a_member_behind_the_log_gets_a_snapshot() -> None:
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    lab.seen.clear()
    lab.start(late.name)
    lab.until(lambda: lab.same(), 5)
    assert late.saw("snapshot_installed") and late.storage.base_index >= leader.storage.base_index
    chunks = [m for _, _, m in lab.seen if isinstance(m, SnapshotChunk) and m.data]
    assert len(chunks) > 10 and max(len(m.data) for m in chunks) <= 100
    size = chunks[0].size
    assert sum(len(m.data) for m in chunks) == size, "pieces were sent twice without a loss"
    lab.kill(late.name)
    lab.start(late.name)
    assert late.machine.kept[: len(late.machine.kept)] == leader.machine.kept[: len(late.machine.kept)]
    lab.until(lambda: lab.same(), 3)


def test_the_leader_serves_while_it_sends() -> None:
    """r14b: the stock sender holds the tick for 100 ms and sends 27 250 messages."""
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    lab.start(late.name)
    lab.seen.clear()
    got = lab.put(leader, 10)
    lab.step()
    lab.step()
    assert len([o for o in got if isinstance(o, Applied)]) == 10
    assert len([m for _, _, m in lab.seen if isinstance(m, SnapshotChunk)]) < 40


def test_lost_pieces_are_sent_again() -> None:
    lab = Lab(**SMALL)
    _, late = behind(lab)
    rng = random.Random(5)

    def lossy(sender: str, receiver: str, m: Message) -> Message | None:
        return None if isinstance(m, SnapshotChunk | SnapshotReply) and rng.random() < 0.2 else m

    lab.tamper = lossy
    lab.start(late.name)
    lab.until(lambda: lab.same(), 30)
    assert late.saw("snapshot_installed")


def test_a_newer_snapshot_in_mid_transfer_starts_over() -> None:
    """r13e: the stock pieces have no name and no offset, so a file with a hole was loaded."""
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    seen: list[SnapshotChunk] = []

    def watch(sender: str, receiver: str, m: Message) -> Message | None:
        if isinstance(m, SnapshotChunk):
            seen.append(m)
            if len({c.name for c in seen}) == 1 and m.offset > 300:
                return None
        return m

    lab.tamper = watch
    lab.start(late.name)
    lab.until(lambda: seen and seen[-1].offset > 300, 5)
    lab.run(0.2)
    fill(lab, leader, rounds=3)
    lab.until(lambda: len({c.name for c in seen}) > 1, 5)
    lab.until(lambda: lab.same(), 10)
    assert late.saw("snapshot_dropped")[0]["why"] == "another snapshot"
    assert [event["index"] for event in late.saw("snapshot_installed")] == [max(c.index for c in seen)]


def test_a_connection_replaced_in_mid_transfer() -> None:
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    lab.start(late.name)
    lab.until(
        lambda: late.engine.installer._writer is not None and late.engine.installer._writer.size > 200, 5
    )
    lab.disconnect(leader.name, late.name)
    lab.connect(leader.name, late.name)
    lab.until(lambda: lab.same(), 10)


def test_a_damaged_piece_is_not_installed() -> None:
    """r06a, r13c"""
    lab = Lab(**SMALL)
    _, late = behind(lab)
    hurt = [False]

    def damage(sender: str, receiver: str, m: Message) -> Message | None:
        if isinstance(m, SnapshotChunk) and m.offset == 200 and m.data and not hurt[0]:
            hurt[0] = True
            return msgspec.structs.replace(m, data=b"!" * len(m.data))
        return m

    lab.tamper = damage
    lab.start(late.name)
    lab.until(lambda: lab.same(), 10)
    assert hurt[0] and len(late.saw("snapshot_damaged")) == 1
    assert len(late.saw("snapshot_installed")) == 1


def chunk(leader: LabNode, **changes: Any) -> SnapshotChunk:
    meta = leader.storage.snapshots.latest
    assert meta is not None
    data = leader.storage.snapshots.reader(meta).read_at(0, 10)
    whole = SnapshotChunk(
        "lab", leader.name, leader.replica.term, leader.engine.outbox.next_sequence(), meta.name, meta.index,
        meta.term, list(meta.members), meta.size, meta.crc, meta.digest, 0, leader.engine.health(), data,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def test_a_snapshot_that_is_not_news_cuts_nothing() -> None:
    """r13b: the stock install drops acknowledged entries behind it and goes back in time."""
    lab = Lab(**SMALL)
    leader = lab.leader()
    lab.put(leader, 5)
    lab.run(0.2)
    leader.replica.snapshot_now()
    lab.run(0.1)
    lab.put(leader, 5)
    lab.run(0.3)
    follower = lab.followers()[0]
    log, kept = follower.log(), list(follower.machine.kept)
    lab.seen.clear()
    follower.replica.receive(leader.name, chunk(leader))
    answer = next(m for s, _, m in lab.seen if isinstance(m, SnapshotReply) and s == follower.name)
    assert answer.installed and answer.match == 6
    assert (follower.log(), follower.machine.kept) == (log, kept)


def test_a_member_with_a_slow_disk_is_not_sent_the_snapshot_again_for_each_answer() -> None:
    """It has the log, its disk has not: each piece was answered "installed, through what is durable", each such answer
    began the snapshot anew with a window of pieces (list seeds 1795323278590 and 1795323278716: a storm without end).
    """
    lab = Lab(**SMALL)
    leader = lab.leader()
    lab.run(0.2)
    slow = lab.followers()[0]
    slow.disk_stalled = True
    fill(lab, leader)
    assert slow.storage.durable_index < leader.storage.base_index <= slow.storage.last_index
    lab.disconnect(leader.name, slow.name)
    lab.seen.clear()
    lab.connect(leader.name, slow.name)
    lab.run(1.0)
    pieces = [m for _, _, m in lab.seen if isinstance(m, SnapshotChunk) and m.data]
    assert pieces and sum(len(m.data) for m in pieces) <= pieces[0].size
    answers = [m for _, _, m in lab.seen if isinstance(m, SnapshotReply)]
    assert answers and not any(m.installed for m in answers)
    slow.disk_stalled = False
    lab.until(lambda: lab.same(), 5)
    assert leader.replica.is_leader and not slow.saw("snapshot_installed")


def test_the_answers_to_one_window_send_what_follows_once() -> None:
    """Every piece of a window is answered "installed" once the member has it all: one of them goes back, not each."""
    lab = Lab(**SMALL | {"snapshot_window": 8})
    leader = lab.leader()
    lab.put(leader, 20, size=40)
    lab.run(0.2)
    follower = lab.followers()[0]
    assert leader.replica.snapshot_now()
    lab.run(0.2)
    peer = next(one for one in leader.engine.peers if one.name == follower.name)
    lab.put(leader, 20, size=40)
    progress = leader.engine.replication.of(peer)
    progress.go_back(1)
    leader.engine.snapshot_sender.send_to(peer, heartbeat=False)
    lab.seen.clear()
    lab.run(0.5)
    answers = [m for _, _, m in lab.seen if isinstance(m, SnapshotReply) and m.installed]
    entries = sum(len(m.entries) for s, r, m in lab.seen if isinstance(m, Append) and r == follower.name)
    assert len(answers) >= 3 and entries <= 80, (len(answers), entries)  # 201 when each goes back
    lab.until(lambda: lab.same(), 5)


def test_the_first_piece_commits_nothing() -> None:
    """r05: a deposed leader committed and answered its own four uncommitted entries."""
    lab = Lab(**SMALL)
    old = lab.leader()
    lab.run(0.2)
    lab.isolate(old.name)
    got = lab.put(old, 4, "mine", deadline_s=60)
    new = lab.leader() if lab.until(lambda: [n for n in lab.leaders() if n != old.name], 5) else old
    fill(lab, new)
    commit = old.replica.commit_index
    old.replica.receive(new.name, chunk(new))
    old.replica.tick()
    assert old.replica.commit_index == commit
    assert not [o for o in got if isinstance(o, Applied)]
    lab.heal()
    lab.until(lambda: lab.same(), 10)


def test_what_follows_the_snapshot_and_matches_is_kept() -> None:
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    lab.start(late.name)
    lab.until(lambda: late.engine.installer.busy, 5)
    engine = late.engine
    meta = leader.storage.snapshots.latest
    assert meta is not None
    late.job = late.job or late.replica.take_sync()
    late.sync()
    lab.put(leader, 3)
    # a later leader sends the log instead, while the install waits
    entries = [
        leader.storage.entry(i) for i in range(leader.storage.base_index + 1, leader.storage.last_index + 1)
    ]
    late.storage.reset_to(leader.storage.base_index, leader.storage.base_term)
    for offset, data in enumerate(entries):
        late.storage.append(leader.storage.base_index + 1 + offset, 1, data)
    last = late.storage.last_index
    assert last > meta.index, "else there is nothing to keep"
    engine.installer._installed(meta)
    assert late.storage.last_index == last


def test_an_install_that_waits_for_the_disk_asks_for_no_turns() -> None:
    lab = Lab(**SMALL)
    _, late = behind(lab)
    lab.start(late.name)
    assert lab.until(lambda: late.engine.installer.busy, 5)
    late.disk_stalled = True
    lab.run(0.3)
    assert late.engine.installer.busy and not late.replica.busy and not late.saw("snapshot_installed")
    late.disk_stalled = False
    assert lab.until(lambda: late.saw("snapshot_installed"), 5)


def test_a_snapshot_is_taken_in_slices_while_entries_go_on() -> None:
    """R9"""
    lab = Lab(slice_ms=0.0, **SMALL)
    leader = lab.leader()
    lab.put(leader, 10)
    lab.until(lambda: leader.replica.applied_index == 11)
    assert leader.replica.snapshot_now() and not leader.replica.snapshot_now()
    leader.engine._deadline = lab.now + 1
    leader.engine.taker.step(lambda: False)
    assert leader.storage.snapshots.latest is None
    lab.put(leader, 5)
    lab.until(lambda: leader.storage.snapshots.latest is not None, 5)
    assert leader.storage.snapshots.latest is not None and leader.storage.snapshots.latest.index == 11
    lab.until(lambda: lab.same(), 5)


def test_nothing_new_no_snapshot() -> None:
    lab = Lab()
    node = lab.leader()
    lab.kill(node.name)
    fresh = Lab(identity=False)
    assert not fresh["a"].replica.snapshot_now()
    lab = Lab("a")
    assert not lab["a"].replica.snapshot_now(), "nothing is applied yet"
    node = lab.leader()
    lab.put(node, 1)
    lab.run(0.1)
    assert node.replica.snapshot_now()
    lab.run(0.1)
    assert not node.replica.snapshot_now()


def test_a_full_disk_costs_the_snapshot_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("a")
    node = lab.leader()
    lab.put(node, 10)
    lab.run(0.1)

    def full(self: Any, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("trivet.storage.snapshots.SnapshotWriter.write", full)
        assert node.replica.snapshot_now()
        lab.run(0.1)
    with monkeypatch.context() as patch:
        patch.setattr("trivet.storage.snapshots.SnapshotStore.writer", full)
        assert node.replica.snapshot_now()
        lab.run(0.1)
    assert [event["why"] for event in node.saw("snapshot_failed")] == ["no space", "no space"]
    assert node.replica.snapshot_now()
    lab.run(0.1)
    assert node.saw("snapshot_taken")

    def broken(self: Any, *_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    lab.put(node, 1)
    lab.run(0.1)
    monkeypatch.setattr("trivet.storage.snapshots.SnapshotWriter.write", broken)
    node.replica.snapshot_now()
    with pytest.raises(OSError, match="broken"):
        lab.run(0.1)


def test_a_snapshot_waits_for_the_log_below_it() -> None:
    lab = Lab()
    leader = lab.leader()
    follower = lab.followers()[0]
    lab.run(0.2)
    follower.disk_stalled = True
    lab.put(leader, 3)
    lab.run(0.2)
    assert follower.replica.applied_index == 4 and follower.storage.durable_index == 1
    assert follower.replica.snapshot_now()
    lab.run(0.1)
    assert follower.engine.taker.take_job() is None
    follower.disk_stalled = False
    lab.run(0.1)
    assert follower.saw("snapshot_taken") == [
        {"index": 4, "bytes": follower.saw("snapshot_taken")[0]["bytes"]}
    ]


def test_a_snapshot_the_machine_cannot_read_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """r06: the stock library goes on with an empty state."""
    lab = Lab("a")
    node = lab.leader()
    lab.put(node, 3)
    lab.run(0.1)
    node.replica.snapshot_now()
    lab.run(0.1)
    lab.kill("a", power=False)

    def unreadable(self: Any, index: int, out_of_time: Any) -> bool:
        raise ValueError("not a snapshot")

    monkeypatch.setattr("tests.unit.consensus.lab.Sink.check", unreadable)
    with pytest.raises(Fatal, match="not a snapshot"):
        lab["a"].start()
    monkeypatch.undo()
    monkeypatch.setattr("tests.unit.consensus.lab.Sink.finish", lambda self: None)
    with pytest.raises(Fatal, match="led to index 0"):
        lab["a"].start()


@pytest.mark.parametrize("step", ["write", "check"])
def test_a_received_snapshot_the_machine_cannot_read_never_becomes_its_own(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Once committed it would be read at every start, and the node could never start again."""
    lab = Lab(**SMALL)
    _, late = behind(lab)

    def unreadable(self: Any, *_: Any) -> bool:
        raise ValueError("not a snapshot")

    before = late.disk.names()
    with monkeypatch.context() as patch:
        patch.setattr(f"tests.unit.consensus.lab.Sink.{step}", unreadable)
        lab.start(late.name)
        lab.until(lambda: len(late.saw("snapshot_damaged")) > 1, 10)
        assert {event["why"] for event in late.saw("snapshot_damaged")} == {"not a snapshot"}
        assert late.alive and late.storage.snapshots.latest is None and not late.saw("snapshot_installed")
        lab.kill(late.name, power=False)
        assert [name for name in late.disk.names() if name.endswith(".snap")] == [
            name for name in before if name.endswith(".snap")
        ]
    lab.start(late.name)  # a leader that sends what can be read, and all is well
    lab.until(lambda: lab.same(), 10)


def test_after_an_install_the_machine_is_the_senders() -> None:
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    lab.start(late.name)
    lab.until(lambda: lab.same(), 5)
    lab.kill(leader.name)
    new = lab.leader()
    got = lab.put(new, 3)
    lab.run(0.3)
    assert [type(o) for o in got] == [Applied] * 3 and isinstance(late.machine, Notes) and lab.same()


def test_a_long_snapshot_reaches_the_disk_in_short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: one fsync of everything at the end would hold the log's own syncs for seconds."""
    monkeypatch.setattr("trivet.consensus.snapshot_write.FLUSH_BYTES", 300)
    flushed: list[object] = []
    real = snapshots.SnapshotFlush.run

    def run(self: snapshots.SnapshotFlush) -> None:
        flushed.append(self)
        real(self)

    monkeypatch.setattr(snapshots.SnapshotFlush, "run", run)
    lab = Lab(slice_ms=0.0, **SMALL)
    _, late = behind(lab)
    taken = len(flushed)
    lab.start(late.name)
    lab.until(lambda: late.saw("snapshot_installed") and lab.same(), 10)
    assert len(flushed) - taken >= 10, "the received one was flushed at its end only"


@pytest.mark.parametrize("stall", [False, True])
def test_a_flush_under_way_outlives_what_it_flushes(stall: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file must not be closed under the thread that syncs it; nor committed."""
    monkeypatch.setattr("trivet.consensus.snapshot_write.FLUSH_BYTES", 50)
    lab = Lab("a", slice_ms=0.0)
    node = lab.leader()
    lab.put(node, 5, size=50)
    lab.run(0.2)
    assert node.replica.snapshot_now()
    node.disk_stalled = True
    for _ in range(3):
        node.replica.tick()
    job = node.replica.take_sync()
    assert isinstance(job, snapshots.SnapshotFlush)
    if stall:
        lab.run(0.2)
        assert node.storage.snapshots.latest is None and node.engine.taker.busy
        assert not node.replica.busy, "turns would follow each other until the disk is done"
    else:
        node.engine.taker.abort("a test")
    job.run()
    node.replica.synced(job)
    assert node.replica.busy is stall
    node.disk_stalled = False
    lab.run(0.1)
    assert (node.storage.snapshots.latest is not None) is stall
    assert not [name for name in node.disk.names() if name.endswith(".tmp")]
