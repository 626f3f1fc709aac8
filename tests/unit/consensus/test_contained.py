"""What is overridden is there, and the library is the audited one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pysyncobj.syncobj as library
import pytest
from pysyncobj import SyncObj

from tests.unit.consensus.lab import Lab
from trivet.consensus import contained
from trivet.consensus.contained import Contained, Fields, Member, Turn, verify_source
from trivet.consensus.journal import StorageJournal
from trivet.consensus.outbox import Outbox
from trivet.consensus.peers import Peers
from trivet.consensus.port import Fatal
from trivet.consensus.settings import ConsensusSettings


def test_another_source_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contained, "_verified", False)
    monkeypatch.setattr(contained, "PINNED_SHA256", "0" * 64)
    with pytest.raises(Fatal, match="not the audited"):
        verify_source()
    with pytest.raises(Fatal, match="not the audited"):
        Lab("a")


def test_every_override_has_something_to_override() -> None:
    """A renamed private name would silently bring the unsafe code back."""
    ours = [name for name in vars(Contained) if name.startswith("_SyncObj__")]
    assert len(ours) == 11
    for name in ours:
        assert name == "_SyncObj__raftLog" or callable(getattr(SyncObj, name)), name
    for name in ("_applyCommand", "_checkCommandsToApply", "_onTick"):
        assert callable(getattr(SyncObj, name))


def test_every_accessor_reads_what_the_library_writes() -> None:
    engine = Lab("a")["a"].engine
    names = [name for name, value in vars(Fields).items() if isinstance(value, property)]
    assert len(names) == 12 and set(names) == set(Fields.__annotations__)
    read = {name.removeprefix("_SyncObj__") for name in vars(Fields) if name.startswith("_SyncObj__")}
    stored = {key.removeprefix("_SyncObj__") for key in vars(engine) if key.startswith("_SyncObj__")}
    wanted = {
        "raftCurrentTerm", "votedForNodeId", "raftState", "raftLeader", "raftCommitIndex", "raftLastApplied",
        "raftElectionDeadline", "raftMatchIndex", "lastResponseTime", "transferInProgress", "noopIDx",
        "newAppendEntriesTime",
    }  # fmt: skip
    assert read == wanted <= stored


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e._SyncObj__onMessageReceived(e.me, {"type": "append_entries"}),
        lambda e: e._SyncObj__loadDumpFile(True),
        lambda e: e._SyncObj__doApplyCommand(b"\x00"),
        lambda e: e._SyncObj__parseChangeClusterRequest(b"\x02"),
        lambda e: e._applyCommand(b"", None),
        lambda e: e._SyncObj__getEntries(1),
        lambda e: e.outbox.send(e.me, {"type": "apply_command", "term": 1}),
        lambda e: e.journal.clear(),
        lambda e: e.journal.deleteEntriesFrom(0),
        lambda e: e.journal.deleteEntriesTo(0),
        lambda e: e.journal[1],
        lambda e: e.journal.term_at(99),
    ],
)
def test_the_unsafe_paths_are_fatal_not_silent(call: Any) -> None:
    lab = Lab("a")
    with pytest.raises(Fatal):
        call(lab.leader().engine)


def test_nothing_is_pickled() -> None:
    """r08: no module of ours names pickle, and the stock callers of it are all overridden."""
    callers = (
        "__doApplyCommand",
        "__parseChangeClusterRequest",
        "__onMessageReceived",
        "__sendAppendEntries",
    )
    for name in callers:
        assert "_SyncObj" + name in vars(Contained)


def test_each_turn_has_its_own_clock_and_leaves_the_library_as_it_was() -> None:
    before = (library.monotonicTime, library.random)
    outer, inner = Turn(lambda: 1.0, random.Random(1)), Turn(lambda: 2.0, random.Random(2))
    with outer:
        assert library.monotonicTime() == 1.0
        with inner:
            assert library.monotonicTime() == 2.0
        assert library.monotonicTime() == 1.0
    assert (library.monotonicTime, library.random) == before
    with pytest.raises(ZeroDivisionError), outer:
        _ = 1 / 0
    assert (library.monotonicTime, library.random) == before
    lab = Lab()
    lab.leader()
    assert (library.monotonicTime, library.random) == before


def test_members_hash_to_their_place() -> None:
    """R37"""
    peers = Peers("b", ("c", "a", "b"))
    assert [(peer.name, hash(peer.node)) for peer in peers] == [("a", 0), ("c", 2)]
    assert hash(peers.me) == 1 and peers.quorum == 2
    assert Member("a", 0) == Member("a", 0) and Member("a", 0) != Member("b", 0) and Member("a", 0) != "a"
    for bad in (("a", "a", "b"), ("a", "c")):
        with pytest.raises(ValueError, match="each member once"):
            Peers("b", bad)


REPLAY = """
from tests.unit.consensus.lab import Lab
lab = Lab("node-1 node-2 node-3 node-4 node-5".split(), seed=7)
leader = lab.leader()
lab.put(leader, 20)
lab.run(0.5)
lab.kill(leader.name)
lab.put(lab.leader(), 5)
lab.run(0.5)
import hashlib
from trivet.wire.frames import encode
print(hashlib.sha256(b"".join(s.encode() + r.encode() + encode(m) for s, r, m in lab.seen)).hexdigest(), len(lab.seen))
"""


def test_the_same_seed_gives_the_same_messages_under_any_hash_seed() -> None:
    """R37"""
    outputs = set()
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", REPLAY],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_ms": 200},
        {"election_min_ms": 900},
        {"heartbeat_ms": 0},
        {"append_bytes": 0},
        {"window_frames": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        ConsensusSettings(**wrong)


def test_the_small_classes_are_ours() -> None:
    engine = Lab("a")["a"].engine
    assert isinstance(engine.journal, StorageJournal) and isinstance(engine.outbox, Outbox)
    assert len(engine.journal) == 1 and engine.journal[0] == (b"", 0, 0)
    engine.journal.onOneSecondTimer()
    engine.journal.setRaftCommitIndex(99)
    engine.destroy()
    assert engine.journal.getRaftCommitIndex() == 0
