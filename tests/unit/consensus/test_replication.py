"""The log: r03, r04, r05, r07, r16 and R8, each with the situation that needs it."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.unit.consensus.lab import Lab
from trivet.consensus.contained import NO_OP, REGULAR
from trivet.consensus.port import Applied, Fatal
from trivet.wire.frames import Append, AppendReply, Health, Message

HEALTH = Health(0, 0, False)


def test_three_members_elect_replicate_and_apply() -> None:
    lab = Lab()
    leader = lab.leader()
    got = lab.put(leader, 20)
    lab.run(0.3)
    assert [type(outcome) for outcome in got] == [Applied] * 20
    assert [outcome.index for outcome in got if isinstance(outcome, Applied)] == list(range(2, 22))
    assert lab.same() and leader.machine.applied_index == 21


def test_two_messages_an_entry_and_no_resends() -> None:
    """r03b: without faults every entry travels once to each follower."""
    lab = Lab()
    leader = lab.leader()
    lab.seen.clear()
    for _ in range(30):
        lab.put(leader, 3)
        lab.step()
    lab.run(0.2)
    carried = sum(len(m.entries) for _, _, m in lab.seen if isinstance(m, Append))
    assert carried == 2 * 90


def test_a_short_message_cuts_nothing() -> None:
    """r03a: a late, shorter copy of what is there already."""
    lab = Lab()
    leader = lab.leader()
    follower = lab.followers()[0]
    lab.put(leader, 5)
    lab.run(0.3)
    log = follower.log()
    late = Append("lab", leader.name, leader.replica.term, 1, 1, 1, 1, 0, 0, HEALTH, [(1, REGULAR + b"x0")])
    follower.replica.receive(leader.name, late)
    assert follower.log() == log


def test_a_conflict_is_cut_and_only_from_there() -> None:
    lab = Lab()
    old = lab.leader()
    lab.isolate(old.name)
    lab.put(old, 4, "lost")
    lab.run(2.0)
    new = lab.leader()
    assert new is not old
    lab.put(new, 2, "kept")
    lab.run(0.2)
    lab.heal()
    lab.run(2.0)
    assert lab.same()
    assert [data for _, data in old.machine.kept] == [b"kept0", b"kept1"]
    assert old.saw("log_truncated") == [{"index": 2, "last": 5}]


def test_commit_only_what_the_message_verified() -> None:
    """r05 and its echo in the audit's mutant `commit_to_log_end`: an unverified tail is not committed."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    follower = lab.followers()[0]
    lab.isolate(follower.name)
    term = leader.replica.term
    tail = [(term, REGULAR + b"divergent")] * 3
    follower.replica.receive(leader.name, Append("lab", leader.name, term, 9, 1, term, 1, 0, 0, HEALTH, tail))
    heartbeat = Append("lab", leader.name, term + 1, 10, 1, term, 4, 0, 0, HEALTH, [])
    follower.replica.receive(leader.name, heartbeat)
    assert follower.storage.last_index == 4
    assert follower.replica.commit_index == 1


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """Raft 5.4.2, figure 8: all have it, but only an entry of the leader's own term commits it."""
    lab = Lab()
    old = lab.leader()
    lab.run(0.2)
    lab.tamper = lambda sender, receiver, m: None if isinstance(m, AppendReply) else m
    lab.put(old, 1, "earlier")
    lab.run(0.1)
    earlier = old.storage.last_index
    assert all(lab[name].storage.last_index == earlier for name in "abc")

    def without_its_own(sender: str, receiver: str, m: Message) -> Message:
        return structs.replace(m, match=min(m.match, earlier)) if isinstance(m, AppendReply) else m

    lab.kill(old.name, power=False)
    lab.tamper = without_its_own
    lab.until(lab.leaders)
    new = lab[lab.leaders()[0]]
    lab.run(0.5)
    assert new is not old and new.replica.is_leader and new.storage.last_index == earlier + 1
    assert max(new.engine.counted_match.values()) == earlier
    assert new.replica.commit_index < earlier
    lab.tamper = None
    lab.run(0.5)
    assert new.replica.commit_index == earlier + 1


def test_an_answer_of_an_older_term_counts_nothing() -> None:
    """r04"""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    lab.isolate(leader.name)
    lab.put(leader, 1)
    leader.sync()
    other = lab.followers()[0] if lab.leader() is leader else lab[next(n for n in "abc" if n != leader.name)]
    engine = leader.engine
    before = engine.replication.of(engine.peers.get(other.name)).match

    def answer(term: int, seq: int, session: int) -> AppendReply:
        last = leader.storage.last_index
        return AppendReply("lab", other.name, term, seq, True, last, 0, False, session, HEALTH)

    session = other.engine.session
    now = engine.outbox.sequence
    for wrong in (
        answer(leader.replica.term - 1, now, session),
        answer(leader.replica.term, now + 1, session),
    ):
        leader.replica.receive(other.name, wrong)
        assert engine.replication.of(engine.peers.get(other.name)).match == before
    leader.replica.receive(other.name, answer(leader.replica.term, now, session + 1))  # another life of it
    assert engine.replication.of(engine.peers.get(other.name)).match == before
    leader.replica.receive(other.name, answer(leader.replica.term, now, session))
    assert engine.replication.of(engine.peers.get(other.name)).match == leader.storage.last_index


def livelock(lab: Lab) -> tuple[float, int]:
    """r16: a divergent entry, a backlog of many messages, a new leader. How long, and how many entries travel."""
    old = lab.leader()
    lab.run(0.2)
    lab.isolate(old.name)
    lab.put(old, 3, "div")
    lab.run(2.0)
    middle = lab.leader()
    for _ in range(30):
        lab.put(middle, 20)
        lab.step()
    lab.run(0.5)
    lab.kill(middle.name)
    lab.heal()
    lab.seen.clear()
    last = max(node.storage.last_index for node in lab.nodes.values() if node.alive)
    took = lab.until(lambda: old.machine.applied_index > last, 20)
    return took, sum(len(m.entries) for _, _, m in lab.seen if isinstance(m, Append))


def test_a_follower_with_a_divergent_entry_and_a_backlog_catches_up() -> None:
    took, carried = livelock(Lab(append_bytes=40))
    assert took < 3.0 and carried < 1300, f"{carried} entries for a backlog of 600"


def test_without_the_reset_barrier_the_backlog_is_sent_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutant of r16: every refusal of a window steps back and sends anew."""
    from trivet.consensus.replication import Progress

    class NoBarrier(Progress):
        __slots__ = ()

        @property
        def barrier(self) -> int:  # type: ignore[override]
            return 0

        @barrier.setter
        def barrier(self, value: int) -> None:
            """Forgotten at once."""

    assert resent_for_ten_refusals(Lab(append_bytes=4)) == 1
    monkeypatch.setattr("trivet.consensus.replication.Progress", NoBarrier)
    assert resent_for_ten_refusals(Lab(append_bytes=4)) == 10


def resent_for_ten_refusals(lab: Lab) -> int:
    """A window of ten messages is refused, each of them: how many messages of entries go out again."""
    leader = lab.leader()
    follower = lab.followers()[0]
    lab.run(0.2)
    engine = leader.engine
    lab.put(leader, 10)
    lab.net.clear()  # lost on the way
    lab.seen.clear()
    sequence = engine.outbox.sequence
    for seq in range(sequence - 9, sequence + 1):
        refusal = AppendReply(
            "lab",
            follower.name,
            leader.replica.term,
            seq,
            False,
            0,
            2,
            False,
            follower.engine.session,
            HEALTH,
        )
        leader.replica.receive(follower.name, refusal)
    return sum(1 for _, to, m in lab.seen if to == follower.name and isinstance(m, Append) and m.entries)


def test_one_refusal_undoes_a_whole_term() -> None:
    """r16: backoff of one index per round trip would take 500 of them here."""
    lab = Lab()
    old = lab.leader()
    lab.run(0.2)
    lab.isolate(old.name)
    lab.put(old, 200, "div")
    lab.run(2.0)
    new = lab.leader()
    lab.put(new, 1)
    lab.run(0.2)
    lab.seen.clear()
    lab.heal()
    lab.until(lambda: lab.same(), 5)
    refusals = [m for s, _, m in lab.seen if s == old.name and isinstance(m, AppendReply) and not m.ok]
    assert 1 <= len(refusals) <= 3


def test_the_window_bounds_what_is_on_the_way() -> None:
    lab = Lab(append_bytes=1000, window_bytes=4000, window_frames=3)
    leader = lab.leader()
    follower = lab.followers()[0]
    lab.run(0.3)
    lab.block.add((leader.name, follower.name))
    lab.seen.clear()
    lab.put(leader, 50, size=300)
    on_the_way = [m for _, to, m in lab.seen if to == follower.name and isinstance(m, Append) and m.entries]
    assert 0 < len(on_the_way) <= 3
    assert max(sum(len(data) for _, data in m.entries) for m in on_the_way) <= 1000
    lab.block.clear()
    lab.until(lambda: lab.same() and leader.machine.applied_index == 51, 3)


def test_an_entry_longer_than_a_message_travels_alone() -> None:
    """r15a: the stock sender splits and pickles it."""
    lab = Lab(append_bytes=100)
    got = lab.put(lab.leader(), 1, size=300_000)
    lab.run(0.3)
    assert isinstance(got[0], Applied) and lab.same()


def test_the_leader_counts_itself_only_when_durable() -> None:
    """R8: both followers have it, the leader's disk has not."""
    lab = Lab()
    leader = lab.leader()
    leader.disk_stalled = True
    got = lab.put(leader, 1)
    lab.run(0.5)
    assert all(node.storage.durable_index == 2 for node in lab.followers())
    assert got == [] and leader.replica.commit_index == 1
    leader.disk_stalled = False
    lab.run(0.1)
    assert isinstance(got[0], Applied)


def test_alone_nothing_is_answered_before_the_disk() -> None:
    """R8 at N = 1: SyncObj alone commits what it has just appended."""
    lab = Lab("a")
    leader = lab.leader()
    leader.disk_stalled = True
    got = lab.put(leader, 3)
    lab.run(0.5)
    assert got == [] and leader.replica.commit_index == 1
    leader.disk_stalled = False
    lab.run(0.05)
    assert [type(outcome) for outcome in got] == [Applied] * 3
    lab.kill("a")
    lab.start("a")
    lab.until(lambda: lab["a"].machine.applied_index == 5)
    assert [data for _, data in lab["a"].machine.kept] == [b"x0", b"x1", b"x2"]


def test_no_acknowledgement_leaves_before_the_disk() -> None:
    lab = Lab()
    leader = lab.leader()
    for node in lab.followers():
        node.disk_stalled = True
    lab.seen.clear()
    got = lab.put(leader, 1)
    lab.run(0.5)
    assert got == []
    replies = [m for _, _, m in lab.seen if isinstance(m, AppendReply)]
    assert replies and all(m.match == 1 for m in replies)  # heartbeats are answered, with what is durable
    assert lab.leader() is leader


def test_a_raising_machine_ends_the_process() -> None:
    """r07: the stock code repeats it in every tick, half applied."""
    lab = Lab()
    leader = lab.leader()
    leader.machine.fail_at = 2
    lab.put(leader, 1)
    with pytest.raises(Fatal, match="index 2"):
        lab.run(0.3)


def test_a_raising_callback_is_reported_and_applies_once() -> None:
    """r07b"""
    lab = Lab()
    leader = lab.leader()

    def broken(_: object) -> None:
        raise ValueError("a waiter's defect")

    leader.replica.propose(b"once", broken, 5)
    lab.run(0.3)
    assert leader.saw("callback_raised") == [{"error": 'ValueError("a waiter\'s defect")'}]
    assert lab.same() and leader.machine.kept == [(2, b"once")]


def test_apply_returns_to_the_loop() -> None:
    """R25: an entry that takes long is spread over turns, and later ones wait for it."""
    lab = Lab("a", slice_ms=0.0)
    node = lab.leader()
    node.machine.slow = True
    got = lab.put(node, 2, size=20)
    node.sync()
    node.replica.tick()
    assert node.machine.steps < 5 and got == [] and node.replica.busy
    lab.run(1.0)
    assert [outcome.index for outcome in got if isinstance(outcome, Applied)] == [2, 3]
    assert not node.replica.busy


def test_a_full_follower_lives_and_does_not_acknowledge() -> None:
    """R10"""
    lab = Lab(disk_floor_bytes=1000)
    leader = lab.leader()
    follower = lab.followers()[0]
    lab.run(0.2)
    follower.engine.disk_full = True
    follower.engine._free_bytes_at = lab.now + 100
    got = lab.put(leader, 3)
    lab.run(1.0)
    assert [type(outcome) for outcome in got] == [Applied] * 3 and follower.storage.last_index == 1
    assert lab.leader() is leader
    follower.engine.disk_full = False
    lab.run(1.0)
    assert lab.same()


def test_a_second_leader_of_the_term_is_fatal() -> None:
    lab = Lab()
    leader = lab.leader()
    other = lab.followers()[0]
    forged = Append("lab", other.name, leader.replica.term, 1, 0, 0, 0, 0, 0, HEALTH, [])
    with pytest.raises(Fatal, match="as this node does"):
        leader.replica.receive(other.name, forged)


@pytest.mark.parametrize(("previous", "entries"), [(1, [(9, REGULAR + b"y")]), (2, [])])
def test_a_leader_that_contradicts_what_is_committed_is_fatal(
    previous: int, entries: list[tuple[int, bytes]]
) -> None:
    lab = Lab()
    leader = lab.leader()
    lab.put(leader, 2)
    lab.run(0.5)
    follower = lab.followers()[0]
    term_before = leader.replica.term if previous == 1 else 9
    bad = Append("lab", leader.name, 10, 1, previous, term_before, 0, 0, 0, HEALTH, entries)
    with pytest.raises(Fatal, match="committed index"):
        follower.replica.receive(leader.name, bad)


def test_entries_below_the_base_are_the_same_by_definition() -> None:
    lab = Lab(segment_bytes=4096 + 600)
    leader = lab.leader()
    for _ in range(3):
        lab.put(leader, 20, size=40)
        lab.run(0.3)
        for node in lab.nodes.values():
            node.replica.snapshot_now()
        lab.run(0.3)
    follower = lab.followers()[0]
    base, last = follower.storage.base_index, follower.storage.last_index
    assert base > 10
    terms = [(1, NO_OP)] * (base - 5)
    below = Append("lab", leader.name, leader.replica.term, 1, 2, 1, 0, 0, 0, HEALTH, terms)
    follower.replica.receive(leader.name, below)
    across = [
        (leader.storage.term_at(i) or 0, leader.storage.entry(i)) for i in range(base - 1 + 2, last + 1)
    ]
    reach = Append(
        "lab", leader.name, leader.replica.term, 1, base - 1, 1, 0, 0, 0, HEALTH, [(1, b"?"), *across]
    )
    follower.replica.receive(leader.name, reach)
    assert (follower.storage.base_index, follower.storage.last_index) == (base, last)


def test_messages_of_strangers_and_other_clusters_are_ignored() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    follower = lab.followers()[0]
    high = Append("lab", "stranger", 99, 1, 0, 0, 0, 0, 0, HEALTH, [])
    foreign = Append("elsewhere", leader.name, 99, 1, 0, 0, 0, 0, 0, HEALTH, [])
    masked = Append("lab", follower.name, 99, 1, 0, 0, 0, 0, 0, HEALTH, [])
    messages: list[tuple[str, Message]] = [("stranger", high), (leader.name, foreign), (leader.name, masked)]
    for name, message in messages:
        follower.replica.receive(name, message)
    assert follower.replica.term == leader.replica.term
