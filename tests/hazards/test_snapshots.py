"""Hazards r06, r13, r14b: snapshots that swallow errors, drop acknowledged entries or flood."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pysyncobj import replicated
from pysyncobj.node import Node

from tests.hazards.ours import Told, Trio
from tests.hazards.stock import NEVER, Cluster, Heard, Listing, alone, feed, hidden, settings
from tests.simulation.disk import SimCrash
from trivet.consensus.port import Unknown
from trivet.consensus.settings import ConsensusSettings
from trivet.machine.commands import MACHINE_VERSION, Expire, Request
from trivet.wire import frames
from trivet.wire.entry import UnsupportedEntry, decode_entry, encode_entry


def flip_a_byte(path: Path) -> bytes:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    return bytes(raw)


def stock_serves_nothing_from_a_damaged_dump(directory: Path) -> None:
    cluster = Cluster(
        conf_for=lambda name: settings(
            journalFile=str(directory / f"{name}.journal"),
            fullDumpFile=str(directory / f"{name}.dump"),
            useFork=False,
        )
    )
    cluster.elect("A")
    for i in range(10):
        cluster.propose("A", i)
    cluster.run()
    for name in "ABC":
        cluster[name].forceLogCompaction()
    cluster.tick()
    cluster.tick()
    cluster.run()
    for i in range(10, 13):
        cluster.propose("A", i)
    cluster.run()
    hidden(cluster["A"], "raftLog").onOneSecondTimer()
    cluster["A"].destroy()
    damaged = flip_a_byte(directory / "A.dump")
    cluster.start("A")
    cluster.tick("A")
    cluster.elect("A")
    heard = cluster.propose("A", "new")
    cluster.run()
    assert cluster["A"]._isLeader() and cluster["A"].applied == [] and heard == []
    assert cluster["B"].applied[-1] == "new"
    cluster.wires.kill("C")
    for suffix in ("journal", "journal.meta", "dump"):
        (directory / f"C.{suffix}").unlink()
    cluster.start("C")
    cluster.run()
    assert cluster["C"].applied == [] and (directory / "C.dump").read_bytes() == damaged  # it spreads


class Second(Listing):
    @replicated(ver=1)  # type: ignore[untyped-decorator]
    def op(self, value: object) -> None:
        self.applied.append(f"v1:{value}")


def stock_forgets_the_code_version(directory: Path) -> None:
    def opened() -> Second:
        node, _ = alone(
            settings(journalFile=str(directory / "j"), fullDumpFile=str(directory / "d"), useFork=False),
            Second,
        )
        for _ in range(2):
            node.doTick(0)
        return node

    node = opened()
    feed(node, "a")
    node.setCodeVersion(1)
    node.doTick(0)
    node.doTick(0)
    feed(node, "b", "b2")
    assert node._getFuncName("op") == "op_v1"
    node.forceLogCompaction()
    node.doTick(0)
    node.doTick(0)
    node.destroy()
    node = opened()
    assert node.getCodeVersion() == 1 and node._getFuncName("op") == "op_v0"
    node.destroy()


def stock_replaces_a_good_dump_by_half_of_one(directory: Path) -> None:
    path = directory / "dump"
    path.write_bytes(b"a good snapshot")
    state = {"is": 0}
    opened = []

    def write_later(name: str, _: object) -> None:
        file = open(name, "wb")  # noqa: SIM115 it goes on writing after this returns
        file.write(b"PART")
        file.flush()
        opened.append(file)
        state["is"] = 1

    node, _ = alone(
        settings(
            fullDumpFile=str(path), serializer=write_later, deserializer=lambda name: None,
            serializeChecker=lambda: state["is"],
        )
    )  # fmt: skip
    feed(node, *range(5))
    node.forceLogCompaction()
    node.doTick(0)
    assert path.read_bytes() == b"PART"
    opened[0].close()


def stock_install_drops_acknowledged(directory: Path) -> None:
    cluster = Cluster(conf_for=lambda name: settings(fullDumpFile=str(directory / name), useFork=False))
    wires = cluster.wires
    cluster.elect("A")
    wires.block("AB")
    for i in range(20):
        cluster.propose("A", i)
    cluster.run()
    cluster["A"].forceLogCompaction()
    cluster.tick("A")
    cluster.tick("A")
    wires.disconnect("A", "C")
    wires.disconnect("A", "B")
    wires.unblock("AB")
    wires.connect("A", "B")
    cluster.beat("A")
    cluster.beat("A")
    wires.deliver("A", "B", 2)
    wires.deliver("B", "A", 1)
    cluster.beat("A")
    wires.deliver("A", "B")
    cluster.tick("B")
    cluster.time.now += 0.01
    heards = [cluster.propose("A", f"n{i}") for i in range(5)]
    cluster.tick("A")
    wires.deliver("A", "B")
    cluster.tick("B")
    wires.deliver("B", "A", 1)  # the second reset
    cluster.beat("A")
    wires.deliver("B", "A")
    cluster.beat("A")
    assert all(heard[0][1] == "SUCCESS" for heard in heards)
    chunks = sum("serialized" in message for message in wires.waiting("A", "B"))
    wires.deliver("A", "B", chunks)
    wires.kill("A")
    wires.connect("B", "C")
    cluster.names = ["B", "C"]
    cluster.elect("B")
    cluster.run()
    assert "n0" not in cluster["B"].applied


def deposed_with_a_long_tail(directory: Path, tail: int, chunk: int) -> Cluster:
    """A leads, is cut off with entries of its own; B leads and has compacted; A and B meet."""
    conf = {"fullDumpFile": "", "useFork": False, "logCompactionBatchSize": chunk}
    cluster = Cluster(conf_for=lambda name: settings(**{**conf, "fullDumpFile": str(directory / name)}))
    cluster.elect("A")
    cluster.wires.disconnect("A", "B")
    cluster.wires.disconnect("A", "C")
    for i in range(tail):
        cluster.propose("A", f"divergent-{i}")
    cluster.tick("A")
    cluster.elect("B")
    source = random.Random(1)
    for _ in range(tail // 3):
        cluster.propose("B", f"{source.getrandbits(120):030x}")
    cluster.run()
    cluster["B"].forceLogCompaction()
    cluster.tick("B")
    cluster.tick("B")
    return cluster


def acks_alone(cluster: Cluster) -> Heard:
    heard = cluster.propose("B", "only on B")
    cluster.wires.block("BA")
    cluster.beat("B")
    cluster.beat("B")
    assert cluster.holders("only on B") == ["B"]
    return heard


def stock_failed_install_says_success(directory: Path) -> None:
    cluster = deposed_with_a_long_tail(directory, tail=60, chunk=1 << 16)
    flip_a_byte(directory / "B")
    cluster.wires.disconnect("B", "C")
    cluster.wires.connect("A", "B")
    cluster.beat("B")
    cluster.wires.deliver("B", "A")
    cluster.wires.deliver("A", "B")
    assert acks_alone(cluster)[0][1] == "SUCCESS"


def stock_installs_a_file_with_a_hole(directory: Path) -> None:
    cluster = deposed_with_a_long_tail(directory, tail=300, chunk=256)
    wires = cluster.wires
    wires.disconnect("B", "C")
    wires.connect("A", "B")
    cluster.time.per_look = 0.012
    cluster.beat("B")
    cluster.time.per_look = 0.0
    wires.deliver("B", "A", len(wires.queues[("B", "A")]) - 3)
    wires.drop("B", "A")  # three chunks die with a connection that is replaced unnoticed
    for _ in range(30):
        cluster.beat("B")
        wires.deliver("B", "A")
        if hidden(cluster["B"], "raftMatchIndex").get(Node("A"), 0):
            break
        wires.deliver("A", "B")
    assert acks_alone(cluster)[0][1] == "SUCCESS"


def stock_callbacks_lost_under_a_snapshot() -> None:
    cluster = Cluster()
    wires = cluster.wires
    cluster.elect("A")
    heard = cluster.propose("B", "forwarded")
    cluster.tick("B")
    wires.deliver("B", "A")
    cluster.tick("A")
    wires.deliver("A", "B", 1)
    wires.disconnect("A", "B")
    cluster.run()
    cluster.propose("A", 1)
    cluster.run()
    cluster["A"].forceLogCompaction()
    cluster.tick("A")
    cluster.tick("A")
    wires.connect("A", "B")
    cluster.run(8)
    assert cluster["B"].applied[:1] == ["forwarded"] and heard == []


def stock_floods_while_it_serializes() -> None:
    cluster = Cluster(conf_for=lambda name: settings())
    clock = cluster.time  # goes on by being looked at: how often is then the same on every machine
    clock.per_look = 0.00005
    for node in cluster.nodes.values():
        node._SyncObj__raftElectionDeadline = clock() + NEVER
    cluster["A"]._SyncObj__raftElectionDeadline = 0

    def spin(turns: int) -> None:
        for _ in range(turns):
            cluster.tick()
            cluster.wires.deliver_all()

    spin(3)
    assert cluster["A"]._isLeader()
    cluster.wires.disconnect("A", "C")
    for i in range(20):
        cluster.propose("A", i)
    spin(6)
    cluster["A"].forceLogCompaction()
    cluster.tick("A")
    cluster.tick("A")
    serializer = hidden(cluster["A"], "serializer")
    serializer._Serializer__pid = 999_999
    serializer.checkSerializing = lambda: (1, None)  # the child is still writing
    cluster.wires.connect("A", "C")
    clock.now += 0.11
    before_s = clock.now
    cluster.tick("A")
    assert clock.now - before_s > 0.09
    assert len(cluster.wires.queues[("A", "C")]) > 300


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


def with_two_snapshots(**changes: int) -> tuple[Trio, list[Told]]:
    """Three nodes; A has taken two snapshots and holds only a tail of its log."""
    trio = Trio(settings=ConsensusSettings(**changes))
    trio.elect("A")
    told = []
    for batch in range(3):
        told += [trio.propose("A", 1000 * batch + i, padding=4000) for i in range(1, 11)]
        trio.run(3)
        trio["A"].replica.snapshot_now()
        trio.run(6)
    assert all(each.applied for each in told) and trio["A"].storage.base_index > 0
    return trio, told


def test_r06a_a_damaged_snapshot_is_no_state(tmp_path: Path) -> None:
    """The node says that it is damaged, does not lead, spreads nothing, and is fed by the others."""
    stock_serves_nothing_from_a_damaged_dump(tmp_path)
    trio, _ = with_two_snapshots()
    expected = trio.ids("B")[:]
    trio.kill("A")
    disk = trio.disks["A"]
    for name in [name for name in disk.names() if name.startswith("snap")]:
        disk.flip(name, 8192 + 20)
    trio.start("A")
    assert trio["A"].storage.recovering is not None and trio.ids("A") == []
    assert not trio["A"].replica.can_propose
    trio.connect_all()
    trio.elect("B")
    told = trio.propose("B", 7777)
    trio.run(12)
    assert told.applied and trio.ids("A") == trio.ids("B") == trio.ids("C") == [*expected, 7777]
    assert trio["A"].storage.recovering is None


def test_r06b_an_entry_names_its_version(tmp_path: Path) -> None:
    """No method table and no numbering to lose: an entry carries version and typed commands, also behind a snapshot."""
    stock_forgets_the_code_version(tmp_path)
    data = encode_entry(MACHINE_VERSION, 1, [Request(Expire())])
    entry = decode_entry(data)
    assert entry.version == MACHINE_VERSION and entry.requests[0].command == Expire()
    with pytest.raises(UnsupportedEntry):
        decode_entry(encode_entry(MACHINE_VERSION + 1, 1, [Request(Expire())]))


def test_r13a_the_old_snapshot_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A power cut at each disk call of writing the next snapshot: one whole snapshot is always there."""
    stock_replaces_a_good_dump_by_half_of_one(tmp_path)
    calls = 1
    while True:
        trio = Trio("A")
        trio.elect("A")
        trio.propose("A", 1)
        trio.run(2)
        trio["A"].replica.snapshot_now()
        trio.run(8)
        first = trio["A"].storage.snapshots.latest
        assert first is not None
        trio.propose("A", 2)
        trio.run(2)
        trio.disks["A"].crash_at(calls)
        try:
            trio["A"].replica.snapshot_now()
            trio.run(8)
        except SimCrash:
            pass
        else:
            break
        trio.kill("A")
        latest = trio.start("A").storage.snapshots.latest
        assert latest is not None and latest.index >= first.index
        assert trio["A"].storage.recovering is None
        calls += 1
    assert calls > 2


def test_r13b_a_needless_snapshot_drops_nothing(tmp_path: Path) -> None:
    """The chunks of a transfer arrive once more at a follower that has gone on: nothing is dropped or set back."""
    stock_install_drops_acknowledged(tmp_path)
    trio, _ = with_two_snapshots()
    trio.kill("C")
    trio.disks["C"].wipe()
    trio.wiped.add("C")
    trio.start("C")
    trio.connect_all()
    chunks: list[bytes] = []
    for _ in range(15):
        trio.beat()
        chunks += [f for f in trio.queues[("A", "C")] if isinstance(frames.decode(f), frames.SnapshotChunk)]
        trio.flow()
    assert chunks and trio.ids("C") == trio.ids("A")
    told = [trio.propose("A", 5000 + i) for i in range(5)]
    trio.run(3, "A", "C")
    assert all(each.applied for each in told)
    last, applied = trio["C"].storage.last_index, trio["C"].replica.applied_index
    for frame in chunks:
        trio["C"].replica.receive("A", frames.decode(frame))
        trio["C"].turn()
    assert trio["C"].storage.last_index >= last and trio["C"].replica.applied_index >= applied
    assert trio.ids("C")[-5:] == [5000 + i for i in range(5)]


def meeting(tmp: str, damage: bool, hole: bool) -> tuple[Trio, Told]:
    """A deposed A with entries of its own is fed B's snapshot; C is gone. `damage`: B's file is rotten.
    `hole`: chunks are lost with a replaced connection."""
    trio = Trio(settings=ConsensusSettings(snapshot_chunk_bytes=64, snapshot_window=4))
    trio.elect("A")
    trio.cut_off("A")
    for i in range(60):
        trio.propose("A", 9000 + i)
    trio.elect("B")
    for batch in range(3):
        for i in range(1, 11):
            trio.propose("B", 100 * batch + i, padding=4000)
        trio.run(3, "B", "C")
        trio["B"].replica.snapshot_now()
        trio.run(6, "B", "C")
    latest = trio["B"].storage.snapshots.latest
    assert latest is not None and trio["B"].storage.base_index > 2, tmp
    if damage:
        trio.disks["B"].flip(latest.name, 8192 + latest.size // 2)
    trio.disconnect("B", "C")
    trio.connect("A", "B")
    for step in range(40):
        trio.beat("B")
        trio.beat("A", seconds=0.0)
        if hole and step % 7 == 3:
            trio.disconnect("A", "B")
            trio.connect("A", "B")
        trio.deliver("B", "A")
        if step < 39:
            trio.deliver("A", "B")
    told = trio.propose("B", 1)
    trio.block("BA")
    trio.run(3, "B")
    return trio, told


def test_r13c_a_failed_install_acknowledges_nothing(tmp_path: Path) -> None:
    stock_failed_install_says_success(tmp_path)
    trio, told = meeting("r13c", damage=True, hole=False)
    assert not told.applied  # on one of three nodes
    assert 9000 not in trio.ids("A") and all(9000 + i not in trio.ids("B") for i in range(60))


def test_r13d_answers_under_a_snapshot() -> None:
    """Whatever an install covers ends, and as unknown."""
    stock_callbacks_lost_under_a_snapshot()
    trio = Trio()
    trio.elect("A")
    trio.cut_off("A")
    told = [trio.propose("A", i) for i in range(1, 4)]
    trio.elect("B")
    for batch in range(3):
        for i in range(1, 11):
            trio.propose("B", 100 * batch + i, padding=4000)
        trio.run(3, "B", "C")
        trio["B"].replica.snapshot_now()
        trio.run(6, "B", "C")
    trio.connect_all()
    trio.run(15)
    assert trio.ids("A") == trio.ids("B")
    assert all(len(each) == 1 and isinstance(each[0], Unknown) for each in told)


def test_r13e_a_transfer_over_a_replaced_connection(tmp_path: Path) -> None:
    stock_installs_a_file_with_a_hole(tmp_path)
    trio, told = meeting("r13e", damage=False, hole=True)
    assert not told.applied
    trio.unblock("BA")
    trio.connect_all()
    trio.run(30)
    assert trio.ids("A") == trio.ids("B") == trio.ids("C")  # it went on, or began anew, without a hole


def test_r14b_no_flood() -> None:
    """One turn sends a member at most its window, whatever it lacks."""
    stock_floods_while_it_serializes()
    trio, _ = with_two_snapshots(
        snapshot_chunk_bytes=64, snapshot_window=4, window_frames=8, append_bytes=500
    )
    trio.kill("C")
    trio.disks["C"].wipe()
    trio.wiped.add("C")
    trio.start("C")
    trio.connect_all()
    most = 0
    for _ in range(30):
        trio["A"].replica.snapshot_now()
        trio.beat()
        most = max(most, len(trio.queues[("A", "C")]))
        trio.flow()
    assert 0 < most <= 12 and trio.ids("C") == trio.ids("A")
