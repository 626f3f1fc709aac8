"""Proposals, reads, hand-over: what a waiter is told (R8, R26, R34, R35; r13d, r15c)."""

from __future__ import annotations

import pytest

from tests.unit.consensus.lab import Lab, LabNode
from trivet.consensus.port import Applied, NotProposed, Outcome, Unknown
from trivet.limits import ENTRY_BYTES_MAX
from trivet.wire.frames import Append, TimeoutNow


def test_a_follower_proposes_nothing() -> None:
    lab = Lab()
    lab.leader()
    assert lab.put(lab.followers()[0], 1) == [NotProposed("not_leader")]


def test_a_new_leader_proposes_after_its_no_op() -> None:
    lab = Lab()
    lab.until(lambda: lab.leaders())
    leader = lab[lab.leaders()[0]]
    lab.isolate(leader.name)
    if not leader.replica.caught_up:
        assert lab.put(leader, 1) == [NotProposed("not_leader")]
    assert not leader.replica.can_propose or leader.replica.applied_index >= 1


def test_an_entry_over_the_limit_is_the_callers_error() -> None:
    lab = Lab("a", segment_bytes=2 * ENTRY_BYTES_MAX)
    leader = lab.leader()
    got: list[Outcome] = []
    with pytest.raises(ValueError, match="over"):
        leader.replica.propose(b"x" * (ENTRY_BYTES_MAX + 1), got.append, 1)
    leader.replica.propose(b"x" * ENTRY_BYTES_MAX, got.append, 5)
    lab.run(0.1)
    assert len(got) == 1 and isinstance(got[0], Applied)


def test_the_deadline_is_ours() -> None:
    """r15c: a leader cut off leaves callbacks waiting for ever."""
    lab = Lab()
    leader = lab.leader()
    for node in lab.followers():
        node.disk_stalled = True
    got = lab.put(leader, 1, deadline_s=0.3)
    late = lab.put(leader, 1, deadline_s=10)
    lab.run(0.4)
    assert got == [Unknown("deadline")] and late == []
    for node in lab.followers():
        node.disk_stalled = False
    lab.run(0.3)
    assert got == [Unknown("deadline")] and isinstance(late[0], Applied)


def test_losing_leadership_ends_all_at_once() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.isolate(leader.name)
    got = lab.put(leader, 3, deadline_s=60)
    reads: list[bool] = []
    leader.replica.read(reads.append)
    lab.until(lambda: not leader.replica.is_leader, 2)
    assert got == [Unknown("lost_leadership")] * 3 and reads == [False]


def test_another_entry_in_its_place_means_never() -> None:
    lab = Lab()
    leader = lab.leader()
    got: list[Outcome] = []
    leader.engine.proposals.propose(b"x", got.append, 5)
    index = leader.storage.last_index
    leader.engine.proposals.applied(index, leader.replica.term + 1, None)
    assert got == [NotProposed("discarded")] and len(leader.engine.proposals) == 0


def test_too_many_waiting_are_refused() -> None:
    lab = Lab(pending_max=3)
    leader = lab.leader()
    got = lab.put(leader, 5)
    assert got == [NotProposed("overloaded")] * 2
    lab.run(0.2)
    assert len([o for o in got if isinstance(o, Applied)]) == 3
    lab = Lab(pending_bytes_max=100)
    assert lab.put(lab.leader(), 3, size=60) == [NotProposed("overloaded")]


def test_stop_ends_everything() -> None:
    lab = Lab()
    leader = lab.leader()
    got, reads = lab.put(leader, 2), []
    leader.replica.read(reads.append)
    leader.replica.stop()
    leader.replica.stop()
    assert got == [Unknown("stopped")] * 2 and reads == [False]
    assert lab.put(leader, 1) == [NotProposed("stopped")]
    leader.replica.read(reads.append)
    assert reads == [False, False]
    term = leader.replica.term
    lab.run(2)
    assert leader.replica.term == term


# --- reads --------------------------------------------------------------------------------------------


def test_a_read_needs_an_answer_of_a_quorum() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    got: list[bool] = []
    lab.isolate(leader.name)
    leader.replica.read(got.append)
    lab.run(0.3)
    assert got == [] and leader.replica.is_leader, "answered from memory while it might be deposed"
    lab.heal()
    lab.run(0.3)
    assert got == [True]


def test_a_deposed_leader_serves_no_read() -> None:
    lab = Lab()
    old = lab.leader()
    lab.run(0.2)
    lab.isolate(old.name)
    got: list[bool] = []
    old.replica.read(got.append)
    lab.until(lambda: [n for n in lab.leaders() if n != old.name], 5)
    lab.run(0.5)
    assert got == [False]


def test_answers_given_before_the_read_do_not_vouch_for_it() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    sequence = leader.engine.outbox.sequence
    got: list[bool] = []
    lab.tamper = lambda s, to, m: None if isinstance(m, Append) and m.seq > sequence else m
    leader.replica.read(got.append)
    lab.run(0.2)
    assert got == []


def test_many_reads_share_a_round() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    lab.seen.clear()
    got: list[bool] = []
    for _ in range(50):
        leader.replica.read(got.append)
    lab.step()
    assert got == [True] * 50
    assert len([m for _, _, m in lab.seen if isinstance(m, Append)]) <= 6


def test_a_read_waits_for_what_is_committed_to_be_applied() -> None:
    lab = Lab(slice_ms=0.0)
    leader = lab.leader()
    leader.machine.slow = True
    lab.put(leader, 1, size=30)
    lab.until(lambda: leader.replica.commit_index == 2)
    got: list[bool] = []
    leader.replica.read(got.append)
    lab.step()
    assert got == [] and leader.replica.applied_index == 1
    lab.until(lambda: got == [True])
    assert leader.replica.applied_index == 2


def test_no_read_looks_at_a_half_applied_entry() -> None:
    """Drill, seed 4: a read's quorum round began before entry 2 was committed and ended while it was being
    applied; the read of index 1 saw half of entry 2 (R25)."""
    lab = Lab(slice_ms=0.0)
    leader = lab.leader()
    leader.machine.slow = True
    whole: list[bool] = []
    lab.put(leader, 4, size=30)
    for _ in range(200):  # small steps, so that a round can end in the middle of an entry
        lab.now += 0.001
        leader.replica.read(lambda ok: whole.append(ok and leader.replica._engine.applying.between_entries))
        for node in lab.nodes.values():
            node.replica.tick()
            node.sync()
        lab.deliver()
    lab.until(lambda: len(whole) == 200)
    assert all(whole) and leader.replica.applied_index == 5


def test_a_read_at_a_new_leader_waits_for_its_no_op() -> None:
    lab = Lab()
    lab.until(lambda: lab.leaders())
    leader = lab[lab.leaders()[0]]
    got: list[bool] = []
    leader.replica.read(got.append)
    lab.run(0.3)
    assert got == [True] and leader.replica.caught_up


def test_alone_a_read_is_answered_at_once() -> None:
    lab = Lab("a")
    got: list[bool] = []
    lab.leader().replica.read(got.append)
    assert got == [True]


def test_a_follower_serves_no_read() -> None:
    lab = Lab()
    lab.leader()
    got: list[bool] = []
    lab.followers()[0].replica.read(got.append)
    assert got == [False]


# --- hand-over ----------------------------------------------------------------------------------------


def test_leadership_goes_where_it_is_sent_and_no_outcome_is_lost() -> None:
    lab = Lab()
    leader = lab.leader()
    got = lab.put(leader, 20)
    target = lab.followers()[1]
    lab.run(0.2)
    late = lab.put(leader, 5)
    assert leader.replica.transfer(target.name) and leader.replica.transfer(target.name)
    assert leader.replica.status().transfer_to == target.name
    assert lab.put(leader, 1) == [NotProposed("draining")]
    assert lab.until(lambda: target.replica.can_propose, 3) < 0.3
    assert [type(o) for o in got + late] == [Applied] * 25
    assert target.saw("leader")[-1]["reason"] == f"handed over by {leader.name}"


def test_nobody_able_nobody_asked() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    a, b = lab.followers()
    assert not a.replica.transfer()
    assert not leader.replica.transfer("z")
    lab.kill(a.name)
    assert not leader.replica.transfer(a.name)
    assert leader.replica.transfer()
    assert leader.replica.status().transfer_to == b.name


def test_a_hand_over_that_fails_is_given_up() -> None:
    lab = Lab()
    leader = lab.leader()
    target = lab.followers()[0]
    lab.run(0.2)
    lab.tamper = lambda s, to, m: None if isinstance(m, TimeoutNow) else m
    assert leader.replica.transfer(target.name)
    lab.run(2.1)
    assert leader.saw("transfer_failed") == [{"target": target.name}]
    lab.tamper = None
    got = lab.put(leader, 1)
    lab.run(0.2)
    assert isinstance(got[0], Applied)


def test_a_target_that_is_behind_is_brought_up_first() -> None:
    lab = Lab()
    leader = lab.leader()
    target = lab.followers()[0]
    lab.run(0.2)
    lab.block |= {(leader.name, target.name)}
    lab.put(leader, 50)
    lab.run(0.2)
    assert leader.replica.transfer(target.name)
    lab.run(0.1)
    assert leader.replica.is_leader
    lab.block.clear()
    lab.until(lambda: target.replica.is_leader, 2)
    lab.until(lambda: lab.same(), 2)


def test_a_member_with_room_is_preferred() -> None:
    lab = Lab(disk_floor_bytes=10)
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    a.engine._free_bytes, a.engine._free_bytes_at = 5, lab.now + 100
    lab.run(0.3)
    assert [p.name for p in leader.engine.handover.candidates()] == [b.name, a.name]


def test_a_full_leader_hands_over_to_a_member_with_space_or_to_nobody() -> None:
    """R10: two full members must not pass the office to and fro."""
    lab = Lab(disk_floor_bytes=10)
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    for node in (leader, a, b):
        node.engine._free_bytes, node.engine._free_bytes_at = 5, lab.now + 100
    lab.run(0.3)
    assert not leader.replica.transfer(None, with_space=True) and not leader.replica.status().transfer_to
    b.engine._free_bytes = 10
    lab.run(0.3)
    assert leader.replica.transfer(None, with_space=True)
    lab.until(lambda: b.replica.is_leader, 2)


def test_a_disk_that_does_not_answer_costs_the_office() -> None:
    """R34: the oldest write is not durable for 1 s."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    leader.disk_stalled = True
    got = lab.put(leader, 1, deadline_s=60)
    took = lab.until(lambda: [n for n in lab.leaders() if n != leader.name], 5)
    assert 0.9 < took < 1.5
    assert leader.saw("disk_stalled") and got == [Unknown("lost_leadership")]
    new = lab.leader()
    assert [data for _, data in new.machine.kept] == [b"x0"], "the followers had it"


def test_a_slow_disk_alone_costs_nothing() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    for _ in range(6):
        leader.disk_stalled = True
        lab.put(leader, 1)
        lab.run(0.5)
        leader.disk_stalled = False
        lab.run(0.05)
    assert lab.leaders() == [leader.name] and not leader.saw("transfer_started")


# --- clocks, status -----------------------------------------------------------------------------------


def wall_error(node: LabNode) -> int:
    told = node.replica.quorum_wall_ms()
    assert told is not None
    return told - int(node.lab.now * 1000)


def test_one_wrong_clock_moves_nothing() -> None:
    """R1"""
    year = 365 * 86_400_000
    for wrong in ("leader", "follower"):
        for error in (year, -year):
            lab = Lab()
            leader = lab.leader()
            node = leader if wrong == "leader" else lab.followers()[0]
            node.clock.wall_offset_ms = error
            lab.run(0.5)
            assert abs(wall_error(leader)) <= 5
    assert lab.followers()[0].replica.quorum_wall_ms() is None


def test_without_a_quorum_no_time_is_vouched_for() -> None:
    lab = Lab("abcde")
    leader = lab.leader()
    lab.run(0.3)
    for name in [n for n in "abcde" if n != leader.name][:2]:
        lab.kill(name)
    assert leader.replica.quorum_wall_ms() is not None
    lab.isolate(leader.name)
    lab.now += 0.6
    assert leader.replica.quorum_wall_ms() is not None
    lab.now += 0.4
    assert leader.replica.quorum_wall_ms() is None


def test_status_shows_everybody() -> None:
    lab = Lab(api_url="http://127.0.0.1:1", software="0.1")
    leader = lab.leader()
    a, b = lab.followers()
    lab.put(leader, 3)
    a.replica.memory_pressure = True
    lab.run(0.4)
    lab.kill(b.name)
    lab.put(leader, 2)
    lab.run(0.2)
    status = leader.replica.status()
    rows = {row.node_id: row for row in status.members}
    assert list(rows) == ["a", "b", "c"]
    assert (rows[leader.name].role, rows[a.name].role, rows[b.name].role) == ("leader", "follower", "unknown")
    assert (rows[a.name].lag, rows[b.name].lag) == (0, 2)
    assert rows[a.name].memory_pressure and rows[a.name].api_url == "http://127.0.0.1:1"
    assert not rows[b.name].reachable and (rows[b.name].last_contact_ms or 0) >= 190
    assert (status.applied_index, status.leader, status.alarms) == (6, leader.name, ())
    assert a.replica.leader_contact_ms is not None and a.replica.leader_contact_ms <= 200
    assert leader.replica.leader_contact_ms == 0
    assert a.replica.status().members[0].match is None


def test_what_the_leader_has_committed_is_told_when_it_knows_it_itself() -> None:
    """A new leader's commit index says nothing of what earlier ones committed before its own no-op is: who took it for
    the cluster's was ready at once after a restart of all (review, 2026-11-23)."""
    lab = Lab()
    lab.until(lambda: len(lab.leaders()) == 1)
    lab.put(lab.leader(), 20)
    lab.run(0.3)
    committed = lab.leader().replica.commit_index
    for name in "abc":
        lab.kill(name)
    for name in "abc":
        lab.start(name)
    lab.connect_all()
    told: dict[str, list[int]] = {name: [] for name in "abc"}

    def all_told() -> bool:
        for name, said in told.items():
            leads_to = lab[name].replica.leader_commit
            if leads_to is not None:
                said.append(leads_to)
        return all(told.values())

    lab.until(all_told)
    assert min(min(said) for said in told.values()) > committed  # the no-op of the new term among them
