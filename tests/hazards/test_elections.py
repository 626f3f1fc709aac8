"""Hazards r09, r12, r15b: who leads, who may vote, who is a member."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pysyncobj.syncobj as library
import pytest
from pysyncobj.node import Node

from tests.hazards.ours import CLUSTER, Trio
from tests.hazards.stock import Cluster, Heard, hidden, settings
from trivet.consensus.contained import Contained
from trivet.consensus.port import Fatal
from trivet.consensus.replica import Replica
from trivet.wire import frames
from trivet.wire.frames import FrameError


def live(cluster: Cluster, seconds: float) -> list[tuple[float, list[tuple[str, int]]]]:
    """Let timers run in virtual time; answers each change of who claims to lead, and in which term."""
    claims: list[tuple[float, list[tuple[str, int]]]] = []
    start = cluster.time.now
    while cluster.time.now < start + seconds:
        cluster.time.now += 0.01
        cluster.tick()
        cluster.wires.deliver_all()
        for link in cluster.wires.blocked:
            cluster.wires.queues[link].clear()
        now = [(n, cluster[n].raftCurrentTerm) for n in cluster.names if cluster[n]._isLeader()]
        if not claims or claims[-1][1] != now:
            claims.append((cluster.time.now - start, now))
    return claims


def living() -> tuple[Cluster, str, list[str]]:
    cluster = Cluster()
    library.random.seed(3)
    for node in cluster.nodes.values():
        node._SyncObj__raftElectionDeadline = cluster.time.now + 0.4 + library.random.random()
    live(cluster, 5.0)
    leader = next(name for name in cluster.names if cluster[name]._isLeader())
    return cluster, leader, [name for name in cluster.names if name != leader]


def stock_two_leaders_for_half_a_minute() -> None:
    cluster, leader, others = living()
    for other in others:
        cluster.wires.block(leader + other, other + leader)
    claims = live(cluster, 35.0)
    both = next(at for at, who in claims if len(who) == 2)
    one = next(at for at, who in claims if at > both and len(who) == 1)
    assert one - both > 25


def stock_one_deaf_node_deposes_for_ever() -> None:
    cluster, leader, others = living()
    cluster.wires.block(leader + others[0], others[1] + others[0])  # it can send, and hears nobody
    claims = live(cluster, 30.0)
    assert len({term for _, who in claims for _, term in who}) > 10


def stock_splits_by_two_removals() -> None:
    cluster = Cluster(conf_for=lambda name: settings(dynamicMembershipChange=True))
    wires = cluster.wires
    cluster.elect("A")
    cluster.propose("A", 0)
    cluster.run()
    wires.disconnect("A", "B")
    wires.disconnect("A", "C")
    for name in "BC":
        cluster["A"].removeNodeFromCluster(name, callback=Heard())
    by_a = cluster.propose("A", "on A")
    cluster.beat("A")
    cluster.tick("A")
    cluster.names = ["B", "C"]
    cluster.elect("B")
    by_b = cluster.propose("B", "on B")
    cluster.run()
    assert by_a[0][1] == by_b[0][1] == "SUCCESS" and cluster["A"].applied != cluster["B"].applied


def stock_snapshot_holds_an_uncommitted_member(directory: Path) -> None:
    cluster = Cluster(
        conf_for=lambda name: settings(
            dynamicMembershipChange=True, journalFile=str(directory / f"{name}.j"),
            fullDumpFile=str(directory / f"{name}.d"), useFork=False,
        )
    )  # fmt: skip
    cluster.elect("A")
    for i in range(5):
        cluster.propose("A", i)
    cluster.run()
    cluster.wires.block("AB", "AC")
    cluster["A"].addNodeToCluster("D")
    cluster["A"].forceLogCompaction()
    cluster.tick("A")
    cluster.tick("A")
    dump = hidden(cluster["A"], "serializer").deserialize()
    assert "D" in {node.id for node in dump[3]} and dump[1][1] < cluster.indices("A")[-1]


def stock_counts_votes_not_voters() -> None:
    cluster = Cluster("ABCDE")
    cluster.fire_election("A")
    cluster.wires.deliver("A", "B")
    queue = cluster.wires.queues[("B", "A")]
    queue.append(queue[0])
    cluster.wires.deliver("B", "A")
    assert cluster["A"]._isLeader()  # two of five

    cluster = Cluster("ABCDE")
    cluster.fire_election("A")
    cluster.wires.deliver("A", "B")
    cluster.wires.deliver("B", "A")
    cluster.wires.up["A"]._onMessageReceived(Node("Z"), {"type": "response_vote", "term": 1})
    assert cluster["A"]._isLeader()  # by a stranger's vote


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


def leaders(trio: Trio) -> list[str]:
    return [name for name in trio.up if trio[name].replica.is_leader]


def test_r09a_a_cut_off_leader_steps_down() -> None:
    """CheckQuorum: within an election timeout, and it serves no read meanwhile."""
    stock_two_leaders_for_half_a_minute()
    trio = Trio()
    trio.elect("A")
    trio.run(3)
    for other in "BC":
        trio.block("A" + other, other + "A")  # no reset: nobody is told
    reads: list[bool] = []
    trio["A"].replica.read(reads.append)
    for step in range(12):
        trio.beat(seconds=0.1)
        trio.deliver("B", "C")
        trio.deliver("C", "B")
        if step == 8:
            assert not trio["A"].replica.is_leader
    assert reads == [False]


def test_r09b_a_deaf_node_deposes_nobody() -> None:
    stock_one_deaf_node_deposes_for_ever()
    trio = Trio()
    trio.elect("A")
    trio.run(3)
    term = trio["A"].replica.term
    trio.block("AB", "CB")  # B can send, and hears nobody
    for _ in range(300):
        trio.beat(seconds=0.1)
        trio.flow()
        for link in ("AB", "CB"):
            trio.drop(link[0], link[1])
        assert leaders(trio) == ["A"]
    assert trio["A"].replica.term == term


def test_r09c_a_broken_triangle_settles() -> None:
    """A and C do not reach each other, both reach B: at most a few elections, then one leader for good."""
    trio = Trio()
    trio.elect("A")
    trio.block("AC", "CA")
    history: list[tuple[str, ...]] = []
    for _ in range(450):
        trio.beat(seconds=0.1)
        trio.flow()
        for link in ("AC", "CA"):
            trio.drop(link[0], link[1])
        if not history or history[-1] != tuple(leaders(trio)):
            history.append(tuple(leaders(trio)))
    assert len(history) <= 6 and len(history[-1]) == 1


def test_r12a_no_membership_change_reaches_the_library() -> None:
    """Membership is fixed until its own issue; the stock code path is shut, in both directions."""
    stock_splits_by_two_removals()
    trio = Trio()
    engine = engine_of(trio.elect("A").replica)
    with pytest.raises(Fatal):
        engine._SyncObj__parseChangeClusterRequest(b"\x02rem B")
    with pytest.raises(Exception, match="dynamicMembershipChange is disabled"):  # the library's own check
        engine.removeNodeFromCluster("B")
    assert trio["A"].replica.status() is not None


def engine_of(replica: Replica) -> Contained:
    return next(value for value in vars(replica).values() if isinstance(value, Contained))


def test_r12b_a_snapshot_names_the_members_at_its_index(tmp_path: Path) -> None:
    stock_snapshot_holds_an_uncommitted_member(tmp_path)
    trio = Trio()
    trio.elect("A")
    trio.propose("A", 1)
    trio.run(3)
    trio["A"].replica.snapshot_now()
    trio.run(5)
    latest = trio["A"].storage.snapshots.latest
    assert latest is not None and latest.members == ("A", "B", "C")
    trio.kill("A")  # and after a restart the members are those of the identity
    trio.start("A")
    assert trio["A"].storage.identity.members == ("A", "B", "C")


def test_r15b_votes_are_counted_by_voter() -> None:
    stock_counts_votes_not_voters()
    trio = Trio("ABCDE")
    trio.elect("A")
    trio.run(2)
    trio.cut_off("A")
    trio.clock.now += 2.0
    for _ in range(60):  # B campaigns: its questions reach C and D, its vote requests nobody
        trio.beat("B", seconds=0.1)
        for peer in "CDE":
            questions = [f for f in trio.queues[("B", peer)] if isinstance(frames.decode(f), frames.PreVote)]
            trio.drop("B", peer)
            for question in questions:
                trio[peer].replica.receive("B", frames.decode(question))
                trio[peer].turn(tick=False)
            answers = [
                f for f in trio.queues[(peer, "B")] if isinstance(frames.decode(f), frames.PreVoteReply)
            ]
            trio.drop(peer, "B")
            for answer in answers:
                trio["B"].replica.receive(peer, frames.decode(answer))
        trio["B"].turn(tick=False)
        if trio["B"].replica.role == "candidate":
            break
    node = trio["B"]
    assert node.replica.role == "candidate"
    vote = frames.Vote(CLUSTER, "C", node.replica.term)
    for _ in range(4):
        node.replica.receive("C", vote)
    assert not node.replica.is_leader  # two of five
    with suppress(FrameError, KeyError, Fatal, ValueError):
        node.replica.receive("Z", frames.Vote(CLUSTER, "Z", node.replica.term))
    assert not node.replica.is_leader  # a stranger
    node.replica.receive("D", frames.Vote(CLUSTER, "D", node.replica.term))
    assert node.replica.is_leader
