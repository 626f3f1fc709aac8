"""R6: a node that may have forgotten what it promised, and how it comes back."""

from __future__ import annotations

from msgspec.structs import replace

from tests.unit.consensus.lab import Lab, LabNode
from trivet.consensus.peers import Peer
from trivet.consensus.port import Applied
from trivet.wire.frames import Append, AppendReply, PreVoteReply, RequestVote, TimeoutNow, Vote


def wiped(lab: Lab, name: str) -> LabNode:
    lab.kill(name)
    lab.wipe(name)
    lab.start(name, identity=False)
    return lab[name]


def test_a_wiped_member_comes_back_through_the_leader() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.put(leader, 30)
    lab.run(0.3)
    name = lab.followers()[0].name
    node = wiped(lab, name)
    assert node.replica.recovering == "an empty directory of a cluster that lives"
    assert node.replica.cluster_id == leader.replica.cluster_id
    took = lab.until(lambda: node.replica.recovering is None, 3)
    assert took < 1.0
    assert node.machine.kept == leader.machine.kept
    released = node.saw("recovered")[0]["index"]
    assert released > 31, "released by an entry from before its hello"
    lab.kill(name)
    lab.start(name, identity=False)
    assert lab[name].replica.recovering is None, "the mark was not gone for good"
    lab.run(0.3)
    assert leader.engine.replication.counts(leader.engine.peers.get(name))


def test_it_does_not_count_while_it_recovers() -> None:
    """The leader and the recovering one alone commit nothing, serve no read, and are no quorum."""
    lab = Lab()
    leader = lab.leader()
    lab.put(leader, 3)
    lab.run(0.3)
    a, b = lab.followers()
    lab.kill(b.name)
    node = wiped(lab, a.name)
    got = lab.put(leader, 1)
    reads: list[bool] = []
    leader.replica.read(reads.append)
    lab.run(0.5)
    assert node.storage.durable_index == leader.storage.last_index, "it receives like any other"
    assert got == [] and reads == []
    assert lab.until(lambda: not leader.replica.is_leader, 2) < 0.6, "its answers kept the leader in office"
    lab.run(3)
    assert not lab.leaders() and node.replica.recovering
    lab.start(b.name)
    lab.leader()
    lab.until(lambda: node.replica.recovering is None, 3)
    lab.run(0.3)
    assert lab.same()


def test_an_acknowledged_entry_survives_the_wiping_of_who_held_it() -> None:
    """The loss R6 forbids: {leader, a} had it, a is wiped, the leader dies; b and a must not go on without it."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    lab.isolate(b.name)
    got = lab.put(leader, 1, "precious")
    lab.run(0.3)
    assert isinstance(got[0], Applied)
    lab.kill(leader.name)
    node = wiped(lab, a.name)
    lab.heal()
    lab.run(5)
    assert not lab.leaders(), "a wiped member voted"
    lab.start(leader.name)
    lab.leader()
    lab.until(lambda: node.replica.recovering is None, 3)
    lab.run(0.3)
    assert lab.same() and node.machine.kept == [(2, b"precious0")]


def test_it_neither_votes_nor_stands_nor_takes_over() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    lab.kill(b.name)
    node = wiped(lab, a.name)
    lab.run(0.2)
    lab.seen.clear()
    term = leader.replica.term
    node.replica.receive(leader.name, RequestVote("lab", leader.name, term + 1, 99, 99))
    node.replica.receive(leader.name, TimeoutNow("lab", leader.name, node.replica.term))
    lab.run(2)
    assert not [
        m for s, _, m in lab.seen if s == node.name and isinstance(m, Vote | RequestVote | PreVoteReply)
    ]
    assert not leader.replica.transfer(node.name)


def test_another_leader_means_another_release() -> None:
    """The release named by a leader that is gone does not free it in a later term."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    node = wiped(lab, lab.followers()[0].name)
    told: list[Append] = []

    def keep_release(sender: str, to: str, m: object) -> object:
        if isinstance(m, Append) and m.release and to == node.name:
            told.append(m)
            return None
        return m

    lab.tamper = keep_release  # type: ignore[assignment]
    lab.until(lambda: told, 3)
    old_term = leader.replica.term
    lab.tamper = None
    lab.kill(leader.name, power=False)
    node.engine.storage.set_vote(old_term + 1, None)
    node.engine.term = old_term + 1
    node.replica.receive(leader.name, told[0])
    node.sync()
    assert node.replica.recovering


def test_a_release_meant_for_an_earlier_life_is_not_taken() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    node = wiped(lab, lab.followers()[0].name)
    lab.step()
    term = leader.replica.term
    old = Append("lab", leader.name, term, 1, 0, 0, 1, 1, node.engine.session + 1, leader.engine.health(), [])
    node.replica.receive(leader.name, old)
    assert node.engine.recovery._release == 0


def with_entries(lab: Lab) -> tuple[LabNode, Peer]:
    """The leader after five entries, and what it knows of a follower that has them all."""
    leader = lab.leader()
    lab.put(leader, 5)
    lab.run(0.3)
    peer = leader.engine.peers.get(lab.followers()[0].name)
    assert peer is not None and peer.match == 6
    return leader, peer


def answer(leader: LabNode, peer: Peer, sequence: int, match: int, recovering: bool) -> AppendReply:
    term, health = leader.replica.term, leader.engine.health()
    return AppendReply("lab", peer.name, term, sequence, True, match, 0, recovering, peer.session, health)


def test_the_leader_forgets_what_it_knew_at_the_hello() -> None:
    lab = Lab()
    leader, peer = with_entries(lab)
    name, engine = peer.name, leader.engine
    lab.kill(name)
    lab.wipe(name)
    late = answer(leader, peer, 0, 6, False)
    lab[name].start(identity=False)
    lab.block |= {(name, leader.name)}
    lab.connect(name, leader.name)
    assert peer.match == 0 and engine.counted_match[peer.node] == 0 and not engine.replication.counts(peer)
    leader.replica.receive(name, replace(late, seq=engine.outbox.sequence - 1))
    assert engine.counted_match[peer.node] == 0, "an answer of its earlier life counted"


def test_a_late_answer_does_not_make_a_whole_member_recover_again() -> None:
    """Simulator, list machine, seed 1795369024464: the leader stepped down, and heard its only voter never again."""
    leader, peer = with_entries(Lab())
    engine = leader.engine
    progress = engine.replication.of(peer)
    assert progress is not None and progress.counts and progress.echo > progress.not_before + 1
    for late in (progress.not_before + 1, progress.echo):
        leader.replica.receive(peer.name, answer(leader, peer, late, 2, True))
        assert engine.replication.counts(peer) and not peer.recovering
    leader.replica.receive(peer.name, answer(leader, peer, progress.echo + 1, 2, True))
    assert engine.outbox.sequence > progress.echo, "else it answers what was never sent"
    assert not engine.replication.counts(peer) and peer.recovering, "its newest answer says so"


def test_damage_found_while_running_starts_over() -> None:
    """A member may begin to recover without a new connection: its answers say so."""
    lab = Lab()
    leader = lab.leader()
    node = lab.followers()[0]
    lab.run(0.3)
    node.storage.mark_recovering("a test")
    lab.run(0.15)
    assert leader.saw("member_recovering")[-1]["member"] == node.name
    lab.until(lambda: node.replica.recovering is None, 2)
    lab.run(0.2)
    assert leader.saw("member_whole")[-1]["member"] == node.name


def test_alone_and_damaged_it_says_so_and_stays() -> None:
    lab = Lab("a")
    lab.leader()
    lab.kill("a")
    lab["a"].start()
    lab["a"].storage.mark_recovering("a test")
    lab.run(2)
    assert not lab.leaders()
    assert lab["a"].replica.status().alarms == ("recovering: a test",)


def test_five_members_two_wiped() -> None:
    lab = Lab("abcde")
    leader = lab.leader()
    lab.put(leader, 10)
    lab.run(0.3)
    names = [node.name for node in lab.followers()][:2]
    for name in names:
        lab.kill(name)
        lab.wipe(name)
    for name in names:
        lab.start(name, identity=False)
    lab.until(lambda: all(lab[n].replica.recovering is None for n in names), 3)
    lab.run(0.3)
    assert lab.same()
