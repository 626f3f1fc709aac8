"""Hazards r01, r02: what the stock library forgets when the power goes, and what ours keeps."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from pysyncobj import pickle as library_pickle
from pysyncobj.journal import LAST_RECORD_OFFSET_OFFSET, FileJournal

from tests.hazards.ours import CLUSTER, Trio
from tests.hazards.stock import Cluster, alone, settings
from tests.simulation.disk import SimCrash
from trivet.consensus.settings import ConsensusSettings
from trivet.wire import frames

ROOT = Path(__file__).resolve().parents[2]


def run_child(code: str, *arguments: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A stock node in a process of its own, so that it can be killed."""
    environment = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'src'}")
    return subprocess.run(
        [*under, sys.executable, "-c", code, *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# --- r01 --------------------------------------------------------------------------------------------------

FIFTY_ACKS = """
import os, sys
from tests.hazards.stock import alone, feed, settings
node, _ = alone(settings(journalFile=sys.argv[1] + "/journal"))
os.write(2, b"BEGIN")
assert all(heard[0][1] == "SUCCESS" for heard in feed(node, *range(50)))
os.write(2, b"END")
"""


def stock_acks_without_fsync(directory: Path) -> None:
    trace = directory / "trace"
    run = run_child(
        FIFTY_ACKS, str(directory),
        under=("strace", "-f", "-e", "trace=fsync,fdatasync,msync,sync_file_range,rename,write", "-o", str(trace)),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    calls = trace.read_text()
    between = calls[calls.index('"BEGIN"') : calls.index('"END"')]
    assert not any(f"{call}(" in between for call in ("fsync", "fdatasync", "msync", "sync_file_range"))
    assert "journal.meta" in calls and "fsync(" not in calls  # term and vote: renamed, never synced


def stock_votes_twice(directory: Path) -> None:
    cluster = Cluster(conf_for=lambda name: settings(journalFile=str(directory / name)))
    wires = cluster.wires
    wires.block("AC", "CA")
    cluster.fire_election("A")
    wires.deliver("A", "B")
    wires.deliver("B", "A")
    assert cluster["A"]._isLeader()
    wires.disconnect("A", "B")
    wires.kill("B")
    (directory / "B.meta").write_bytes(b"")  # what a rename without fsync may leave after a power cut
    cluster.start("B", connect=False)
    wires.connect("B", "C")
    cluster.fire_election("C")
    wires.deliver("C", "B")
    wires.deliver("B", "C")
    assert cluster["C"]._isLeader() and cluster["C"].raftCurrentTerm == cluster["A"].raftCurrentTerm
    by_c = cluster.propose("C", "from C")
    for _ in range(4):
        cluster.beat("C", "B")
        wires.deliver("C", "B")
        wires.deliver("B", "C")
    wires.disconnect("B", "C")
    wires.connect("A", "B")
    by_a = cluster.propose("A", "from A")
    for _ in range(6):
        cluster.beat("A", "B")
        wires.deliver("A", "B")
        wires.deliver("B", "A")
    assert by_a == [(1, "SUCCESS")] and by_c == [(1, "SUCCESS")]
    assert cluster["A"].applied != cluster["C"].applied  # two leaders of one term, both acknowledged


def stock_commits_beyond_its_log(directory: Path) -> None:
    cluster = Cluster(conf_for=lambda name: settings(journalFile=str(directory / name)))
    cluster.elect("A")
    cluster.propose("A", "old")
    cluster.run()
    for name in "ABC":  # the power goes: the commit index reached the disk, the end of the journal did not
        cluster.wires.kill(name)
        path = directory / f"{name}.meta"
        meta = library_pickle.loads(path.read_bytes())
        meta["raftCommitIndex"] = 20
        path.write_bytes(library_pickle.dumps(meta))
    for name in "ABC":
        cluster.start(name, connect=False)
    cluster.connect_all()
    cluster.fire_election("A")
    cluster.wires.deliver("A", "B")
    cluster.wires.deliver("B", "A")
    assert cluster["A"]._isLeader()
    cluster.wires.block("AB", "AC")
    heard = cluster.propose("A", "nobody has it")
    cluster.tick("A")
    cluster.tick("A")
    assert heard[0][1] == "SUCCESS" and cluster.holders("nobody has it") == ["A"]


def stock_forgets_without_a_journal() -> None:
    cluster = Cluster()
    wires = cluster.wires
    cluster.elect("A")
    wires.disconnect("A", "C")
    wires.disconnect("B", "C")
    cluster.names = ["A", "B"]
    heard = cluster.propose("A", "acked")
    cluster.run()
    wires.kill("B")
    cluster.names = ["A", "B", "C"]
    cluster.start("B", connect=False)
    wires.kill("A")
    cluster.names = ["B", "C"]
    cluster.connect_all()
    cluster.elect("C")
    cluster.propose("C", "after")
    cluster.run()
    assert heard == [(1, "SUCCESS")] and cluster["C"].applied == ["after"]


# --- r02 --------------------------------------------------------------------------------------------------

KILLED_IN_COMPACTION = """
import os, signal, sys
import pysyncobj.journal as journal
from tests.hazards.stock import alone, feed, settings
d = sys.argv[1]
node, _ = alone(settings(journalFile=d + "/journal", fullDumpFile=d + "/dump", useFork=False))
feed(node, *range(10))
node.forceLogCompaction()
node.doTick(0)
serializer = node._SyncObj__serializer
finished, serializer.checkSerializing = serializer.checkSerializing, lambda: (1, None)
assert all(heard[0][1] == "SUCCESS" for heard in feed(node, *range(10, 50)))
added, add = [0], journal.FileJournal.add
def killing(self, *arguments):
    add(self, *arguments)
    added[0] += 1
    if added[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
journal.FileJournal.add = killing
serializer.checkSerializing = finished
node.doTick(0)
"""

STOPPED_IN_DUMP = """
import os, signal, sys, time
import pysyncobj.serializer as serializer
from tests.hazards.stock import alone, feed, settings
d = sys.argv[1]
node, _ = alone(settings(journalFile=d + "/journal", fullDumpFile=d + "/dump", useFork=True))
feed(node, *range(10))
replace = serializer.atomicReplace
def slowly(a, b):
    time.sleep(0.3)
    replace(a, b)
serializer.atomicReplace = slowly
node.forceLogCompaction()
node.doTick(0)
assert all(heard[0][1] == "SUCCESS" for heard in feed(node, *range(10, 50)))
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
node.destroy()
os._exit(0)
"""


def reopened(directory: Path) -> list[int]:
    conf = settings(
        journalFile=str(directory / "journal"), fullDumpFile=str(directory / "dump"), useFork=False
    )
    node, _ = alone(conf)
    for _ in range(4):
        node.doTick(0)
    applied = list(node.applied)
    node.destroy()
    return applied


def stock_loses_its_log_in_compaction(directory: Path) -> None:
    run = run_child(KILLED_IN_COMPACTION, str(directory))
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(reopened(directory)) < 50


def stock_reads_any_journal(directory: Path) -> None:
    path = directory / "big"
    FileJournal(str(path))._destroy()
    os.truncate(path, 2**32 + 4096)  # sparse: nothing of it is written
    journal = FileJournal(str(path))
    journal._FileJournal__currentOffset = 2**32 - 30
    with pytest.raises(struct.error):
        journal.add(b"x" * 64, 1, 1)
    assert len(journal) == 1  # in memory all the same
    journal._destroy()
    path.unlink()

    path = directory / "flipped"
    journal = FileJournal(str(path))
    for index in range(1, 4):
        journal.add(b"\0payload-%d" % index, index, 1)
    journal._destroy()
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"payload-2")] ^= 1
    path.write_bytes(raw)
    journal = FileJournal(str(path))
    assert journal[1][0] == b"\0qayload-2"  # taken as it is
    journal._destroy()

    path = directory / "stale"  # rewritten in place: a new header over the old records
    journal = FileJournal(str(path))
    for index in range(1, 9):
        journal.add(b"\0old-%02d" % index, index, 1)
    mixed = bytearray(path.read_bytes())
    journal.deleteEntriesTo(6)
    journal.add(b"\0new-09", 9, 2)
    journal.add(b"\0new-10", 10, 2)
    journal._destroy()
    at = LAST_RECORD_OFFSET_OFFSET
    mixed[at : at + 4] = path.read_bytes()[at : at + 4]
    path.write_bytes(mixed)
    journal = FileJournal(str(path))
    assert [entry[1] for entry in journal[:]] != [7, 8, 9, 10]  # a log that never was
    journal._destroy()


def stock_deletes_its_log_after_a_dump(directory: Path, how: str) -> None:
    run = run_child(STOPPED_IN_DUMP, str(directory), how)
    assert run.returncode in (0, -signal.SIGKILL), run.stderr
    deadline = 200
    while not (directory / "dump").exists() and deadline:  # the orphaned child still renames its file
        deadline -= 1
        signal.sigtimedwait([], 0.02)
    journal = FileJournal(str(directory / "journal"))
    assert journal[-1][1] > 50  # all forty are in the file
    journal._destroy()
    assert reopened(directory) == list(range(10))
    shutil.rmtree(directory)


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace to see the stock library's system calls"
)
def test_r01a_stock_acks_without_fsync(tmp_path: Path) -> None:
    stock_acks_without_fsync(tmp_path)


def test_r01a_ours_acks_only_what_is_synced() -> None:
    """The disks stand still: nothing is acknowledged, no follower has said yes; then they go on."""
    trio = Trio()
    trio.elect("A")
    for node in trio.up.values():
        node.slow = True
    told = trio.propose("A", 1)
    trio.run(3)
    assert told == [] and all(
        node.storage.durable_index < node.storage.last_index for node in trio.up.values()
    )
    for node in trio.up.values():
        node.slow = False
    trio.run(3)
    assert told.applied
    for name in "ABC":  # and what was acknowledged survives a power cut of all
        trio.kill(name)
    for name in "ABC":
        trio.start(name)
    trio.connect_all()
    trio.elect("B")
    assert trio.ids("B") == [1]


def test_r01b_a_lost_vote(tmp_path: Path) -> None:
    stock_votes_twice(tmp_path)
    trio = Trio()
    trio.block("AC", "CA")
    grant_only_to(trio, "A", "B")
    assert trio["B"].storage.voted_for == "A"
    term = trio["B"].storage.term
    trio.kill("B")  # its vote had left, so it was durable
    trio.start("B")
    assert (trio["B"].storage.term, trio["B"].storage.voted_for) == (term, "A")
    trio["B"].replica.tick()
    vote_request = frames.RequestVote(CLUSTER, "C", term, 99, 99)
    trio.connect("B", "C")
    trio["B"].replica.receive("C", vote_request)
    trio["B"].turn(tick=False)
    assert not any(isinstance(m, frames.Vote) for m in trio.waiting("B", "C"))


def grant_only_to(trio: Trio, candidate: str, voter: str) -> None:
    """Time passes for `candidate` alone until `voter` has voted for it."""
    for _ in range(40):
        trio.beat(candidate, seconds=0.1)
        for _ in range(3):
            trio.deliver(candidate, voter)
            trio.deliver(voter, candidate)
        if trio[voter].storage.voted_for == candidate:
            return
    raise AssertionError("no vote")


def test_r01c_a_commit_index_beyond_the_log(tmp_path: Path) -> None:
    """Ours stores no commit index at all; after a power cut it is learnt anew and never passes the log."""
    stock_commits_beyond_its_log(tmp_path)
    trio = Trio()
    trio.elect("A")
    told = [trio.propose("A", i) for i in range(1, 6)]
    trio.run()
    assert all(each.applied for each in told)
    for name in "ABC":
        trio.kill(name)
    for name in "ABC":
        assert trio.start(name).replica.commit_index <= trio[name].storage.last_index
    trio.connect_all()
    trio.elect("A")
    trio.cut_off("A")
    heard = trio.propose("A", 99)
    trio.run(3, "A")
    assert not heard.applied and trio.ids("B") != [1, 2, 3, 4, 5, 99]


def test_r01d_nothing_lives_in_memory_only() -> None:
    stock_forgets_without_a_journal()
    trio = Trio()
    trio.elect("A")
    trio.disconnect("A", "C")
    trio.disconnect("B", "C")
    told = trio.propose("A", 1)
    trio.run(4, "A", "B")
    assert told.applied
    trio.kill("B")
    trio.start("B")
    trio.kill("A")
    trio.connect("B", "C")
    trio.elect("B")  # C has an empty log: only B can be elected
    trio.run(3)
    assert trio.ids("B") == [1] and trio.ids("C") == [1]


def test_r02a_kill_in_compaction(tmp_path: Path) -> None:
    """A power cut at every disk call of a snapshot with its compaction: all that was acknowledged is there."""
    stock_loses_its_log_in_compaction(tmp_path)
    calls = 1
    while True:
        trio = Trio("A", settings=ConsensusSettings())
        trio.elect("A")
        told = [trio.propose("A", i, padding=3000) for i in range(1, 30)]
        trio.run(3)
        assert all(each.applied for each in told)
        trio.disks["A"].crash_at(calls)
        try:
            trio["A"].replica.snapshot_now()
            trio.run(8)
        except SimCrash:
            pass
        else:
            break
        trio.kill("A")
        trio.start("A")
        trio.elect("A")
        assert trio.ids("A") == list(range(1, 30)), f"power cut at disk call {calls}"
        calls += 1
    assert calls > 3 and trio["A"].storage.snapshots.latest is not None


def test_r02b_damaged_records_are_found(tmp_path: Path) -> None:
    """A flipped bit anywhere in what is known durable: never read as an entry."""
    stock_reads_any_journal(tmp_path)
    for where in (0.1, 0.35, 0.6, 0.85):
        trio = Trio()
        trio.elect("A")
        told = [trio.propose("A", i, padding=50) for i in range(1, 40)]
        trio.run()
        trio.run(1, "A", "B", "C")
        trio.clock.now += 2.0
        trio.run(3)  # the watermark is noted
        assert all(each.applied for each in told)
        disk = trio.disks["B"]
        trio.kill("B")
        name = next(n for n in disk.names() if n.startswith("log-"))
        used = len(bytes(disk.open(name).read_at(0, 1 << 20)).rstrip(b"\0"))
        disk.flip(name, 4096 + int((used - 4096) * where))
        trio.start("B")
        assert trio["B"].storage.recovering is not None
        trio.connect_all()
        trio.run(12)
        assert trio["B"].storage.recovering is None and trio.ids("B") == list(range(1, 40))


@pytest.mark.parametrize("how", ["kill", "clean"])
def test_r02c_crash_around_a_snapshot(tmp_path: Path, how: str) -> None:
    """A snapshot that is under way when the process ends takes nothing of the log with it."""
    stock_deletes_its_log_after_a_dump(
        tmp_path / "stock" if (tmp_path / "stock").mkdir() is None else tmp_path, how
    )
    trio = Trio("A")
    trio.elect("A")
    told = [trio.propose("A", i) for i in range(1, 11)]
    trio.run(2)
    trio["A"].replica.snapshot_now()
    trio["A"].slow = True  # begun, not ended
    trio.beat()
    trio["A"].slow = False
    told += [trio.propose("A", i) for i in range(11, 51)]
    while not all(each.applied for each in told):
        trio.beat()
    trio.kill("A", power=how == "kill")
    trio.start("A")
    trio.elect("A")
    assert trio.ids("A") == list(range(1, 51))
