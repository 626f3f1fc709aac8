"""Hazards r03, r04, r05, r16 and r03b: how the stock leader and follower disagree about the log."""

from __future__ import annotations

import pickle
from pathlib import Path

import msgspec
from pysyncobj.node import Node

from tests.hazards.ours import CLUSTER, Told, Trio
from tests.hazards.stock import Cluster, Heard, hidden, settings
from trivet.consensus.settings import ConsensusSettings
from trivet.wire import frames


def stock_cuts_without_conflict() -> None:
    cluster = Cluster()
    wires = cluster.wires
    cluster.elect("A")
    wires.disconnect("A", "C")
    heards = [cluster.propose("A", f"{i}" + "x" * 30_000) for i in range(6)]  # three to a 64 KiB message
    cluster.tick("A")
    wires.disconnect("A", "B")  # what was on the way is lost; reconnect
    wires.connect("A", "B")
    cluster.beat("A")
    cluster.beat("A")
    wires.deliver("A", "B", 2)
    assert [m["reset"] for m in wires.waiting("B", "A")] == [True, True]
    wires.deliver("B", "A", 1)
    cluster.beat("A")
    wires.deliver("A", "B")
    wires.deliver("B", "A", 1)  # the second reset: A sends everything once more
    cluster.beat("A")
    wires.deliver("B", "A")
    cluster.beat("A")
    assert all(heard[0][1] == "SUCCESS" for heard in heards)
    wires.deliver("A", "B", 1)  # the first message of the repeat cuts what was acknowledged, then A dies
    wires.kill("A")
    wires.connect("B", "C")
    cluster.names = ["B", "C"]
    cluster.elect("B")
    cluster.propose("B", "after")
    cluster.run()
    assert len(cluster["B"].applied) < 7


def stock_resends_and_cuts_without_any_fault() -> None:
    cluster = Cluster("AB")
    cluster.elect("A")
    journal = hidden(cluster["B"], "raftLog")
    highest = sent = cut = 0
    cut_real = type(journal).deleteEntriesFrom

    def cut_watched(position: int) -> None:
        nonlocal cut
        cut += journal[position][1] <= highest
        cut_real(journal, position)

    journal.deleteEntriesFrom = cut_watched
    before = len(hidden(cluster["A"], "raftLog"))
    flying: list[tuple[int, str, str, dict[str, object]]] = []
    for now in range(300):
        cluster.time.now += 0.005
        if now < 150:
            cluster.propose("A", now)
        cluster.tick()
        for source, target in (("A", "B"), ("B", "A")):
            for message in cluster.wires.waiting(source, target):
                flying.append((now + 3, source, target, message))
                if message["type"] == "append_entries":
                    sent += len(message.get("entries", ()))
                elif message.get("success"):
                    highest = max(highest, message["next_node_idx"] - 1)
            cluster.wires.drop(source, target)
        for each in [each for each in flying if each[0] <= now]:
            flying.remove(each)
            cluster.wires.up[each[2]]._onMessageReceived(Node(each[1]), each[3])
        cluster.hold_elections()
    appended = len(hidden(cluster["A"], "raftLog")) - before
    assert sent > 1.5 * appended and cut > 0


def stock_counts_a_reply_of_an_old_term() -> None:
    cluster = Cluster("ABCDE")
    wires = cluster.wires
    cluster.elect("A")
    wires.block("DA", "AB", "AC", "AE")
    for i in range(5):
        cluster.propose("A", f"first-{i}")
    cluster.tick("A")
    wires.deliver("A", "D")  # D's answer stays on its slow link
    for name in "BCE":
        wires.drop("A", name)
    wires.block("BA", "AD")
    cluster.fire_election("B")
    for name in "CE":
        wires.deliver("B", name)
    for name in "CE":
        wires.deliver(name, "B")
    assert cluster["B"]._isLeader()
    cluster.beat("B")
    for name in "CDE":
        wires.deliver("B", name)
    wires.unblock("BA")
    wires.deliver("B", "A")
    wires.block("BA", "BC", "BD", "BE")
    wires.unblock("AC", "AE")
    cluster.fire_election("A")
    for name in "CE":
        wires.deliver("A", name)
    for name in "CE":
        wires.deliver(name, "A")
    assert cluster["A"]._isLeader() and cluster["A"].raftCurrentTerm == 3
    wires.block("AE")
    wires.drop("A", "E")
    heards = [cluster.propose("A", f"third-{i}") for i in range(3)]
    cluster.tick("A")
    wires.deliver("A", "C")
    wires.deliver("C", "A")
    cluster.beat("A")
    assert not any(heards)
    wires.unblock("DA")
    wires.deliver("D", "A")  # of term 1
    cluster.beat("A")
    assert all(heard and heard[0][1] == "SUCCESS" for heard in heards)
    assert cluster.holders("third-0") == ["A", "C"]


def stock_commits_what_a_chunk_did_not_verify() -> None:
    cluster = Cluster(conf_for=lambda name: settings(logCompactionBatchSize=64))
    heards = divergent_leader_meets_a_compacted_one(cluster)
    cluster.beat("B")
    cluster.wires.deliver("B", "A", 1)  # the first chunk only
    cluster.tick("A")
    assert all(heard[0][1] == "SUCCESS" for heard in heards)
    assert "lost-0" not in cluster["B"].applied


def divergent_leader_meets_a_compacted_one(cluster: Cluster) -> list[Heard]:
    cluster.elect("A")
    cluster.wires.disconnect("A", "B")
    cluster.wires.disconnect("A", "C")
    heards = [cluster.propose("A", f"lost-{i}") for i in range(4)]
    cluster.tick("A")
    cluster.elect("B")
    for i in range(20):
        cluster.propose("B", f"good-{i}")
    cluster.run()
    cluster["B"].forceLogCompaction()
    cluster.beat("B")
    cluster.tick("B")
    cluster.wires.connect("A", "B")
    return heards


def stock_commits_on_an_empty_transfer(directory: Path) -> None:
    state = {"is": 0}

    def write(path: str, data: object) -> None:
        Path(path).write_bytes(pickle.dumps(data))

    def read(path: str) -> object:
        return pickle.loads(Path(path).read_bytes())

    cluster = Cluster(
        conf_for=lambda name: settings(
            fullDumpFile=str(directory / name), serializer=write, deserializer=read,
            serializeChecker=(lambda: state["is"]) if name == "B" else (lambda: 0),
        )
    )  # fmt: skip
    wires = cluster.wires
    cluster.elect("A")
    wires.disconnect("A", "B")
    wires.disconnect("A", "C")
    heard = cluster.propose("A", "lost")
    cluster.tick("A")
    cluster.elect("B")
    for i in range(20):
        cluster.propose("B", f"good-{i}")
    cluster.run()
    cluster["B"].forceLogCompaction()
    cluster.tick("B")
    state["is"] = 2
    cluster.tick("B")
    for i in range(3):
        cluster.propose("B", f"more-{i}")
    state["is"] = 0
    cluster.run()
    cluster["B"].forceLogCompaction()
    cluster.tick("B")
    state["is"] = 1  # the next dump is being written
    wires.connect("A", "B")
    cluster.time.per_look = 2e-5
    cluster.beat("B")
    cluster.time.per_look = 0.0
    assert len(wires.waiting("B", "A")) > 300  # from one tick
    wires.deliver("B", "A", 1)
    cluster.tick("A")
    assert heard == [(1, "SUCCESS")] and "lost" not in cluster["B"].applied


def stock_never_backs_off_enough() -> None:
    cluster = Cluster()
    wires = cluster.wires
    cluster.elect("A")
    cluster.propose("A", "base")
    cluster.run()
    wires.disconnect("A", "B")
    wires.disconnect("A", "C")
    cluster.propose("A", "divergent")
    cluster.tick("A")
    cluster.elect("B")
    for i in range(120):
        cluster.propose("B", f"{i:3}" + "x" * 1000)
    cluster.run()
    wires.kill("B")
    cluster.names = ["A", "C"]
    wires.connect("A", "C")
    cluster.fire_election("C")
    wires.deliver("C", "A")
    wires.deliver("A", "C")
    assert cluster["C"]._isLeader()
    heard = cluster.propose("C", "needs A")
    for _ in range(150):  # 16 virtual seconds with two healthy, connected nodes
        cluster.beat()
        wires.deliver("C", "A")
        wires.deliver("A", "C")
        cluster.hold_elections()
    assert len(cluster["A"].applied) == 1 and heard == []


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


def appends(trio: Trio, source: str, target: str) -> list[frames.Append]:
    return [m for m in trio.waiting(source, target) if isinstance(m, frames.Append)]


def test_r03a_repeated_entries_cut_nothing() -> None:
    """A stale, shorter repeat of entries that are there and acknowledged changes nothing."""
    stock_cuts_without_conflict()
    trio = Trio(settings=ConsensusSettings(append_bytes=60_000, window_bytes=60_000))
    trio.elect("A")
    trio.disconnect("A", "C")
    told = [trio.propose("A", i, padding=30_000) for i in range(1, 7)]
    first = trio.queues[("A", "B")][0]
    trio.run(8, "A", "B")
    assert all(each.applied for each in told)
    last = trio["B"].storage.last_index
    trio["B"].replica.receive("A", frames.decode(first))  # the old first message once more
    trio["B"].turn(tick=False)
    assert trio["B"].storage.last_index == last
    trio.kill("A")
    trio.connect("B", "C")
    trio.elect("B")
    assert trio.ids("B") == list(range(1, 7))


def test_r03b_pipelining_sends_once() -> None:
    """Entries on the way are not sent again because older ones are acknowledged."""
    stock_resends_and_cuts_without_any_fault()
    trio = Trio("AB")
    trio.elect("A")
    before, sent = trio["A"].storage.last_index, 0
    cuts: list[int] = []
    cut = trio["B"].storage.truncate_from
    trio["B"].storage.truncate_from = lambda index: (cuts.append(index), cut(index))[1]  # type: ignore[method-assign]
    flying: list[tuple[int, str, str, bytes]] = []
    for now in range(300):
        if now < 150:
            trio.propose("A", now + 1)
        trio.beat(seconds=0.005)
        for link in (("A", "B"), ("B", "A")):
            for frame in trio.queues[link]:
                flying.append((now + 3, *link, frame))
                message = frames.decode(frame)
                sent += len(message.entries) if isinstance(message, frames.Append) else 0
            trio.queues[link].clear()
        for each in [each for each in flying if each[0] <= now]:
            flying.remove(each)
            trio[each[2]].replica.receive(each[1], frames.decode(each[3]))
            trio[each[2]].turn(tick=False)
    appended = trio["A"].storage.last_index - before
    assert appended == 150 and sent <= 1.05 * appended and cuts == []


def test_r04_replies_of_an_old_term() -> None:
    stock_counts_a_reply_of_an_old_term()
    trio = Trio("ABCDE")
    trio.elect("A")
    trio.run(2)
    for name in "BCDE":
        trio.block("A" + name)
    told = trio.propose("A", 1)
    node = trio["A"]
    replies = [
        frames.AppendReply(
            CLUSTER, name, node.replica.term - 1, seq, True, node.storage.last_index, 0, False,
            trio[name].replica.hello().session, trio[name].replica.hello().health,
        )
        for name in "BCDE" for seq in range(1, 200)
    ]  # fmt: skip
    for reply in replies:
        node.replica.receive(reply.node_id, reply)
    node.turn()
    assert told == [] and node.replica.commit_index < node.storage.last_index


def test_r05_a_chunk_commits_nothing() -> None:
    """A deposed leader with entries of its own meets one that must send it a snapshot."""
    stock_commits_what_a_chunk_did_not_verify()
    trio, told = divergent_meets_compacted()
    for _ in range(6):
        trio.beat("B")
        trio.deliver("B", "A", 1)
        trio["A"].turn()
        assert not any(each.applied for each in told)
        trio.deliver("A", "B")
    trio.run(12)
    assert all(not each.applied for each in told) and trio.ids("A") == trio.ids("B")
    assert all(len(each) == 1 for each in told)


def divergent_meets_compacted() -> tuple[Trio, list[Told]]:
    trio = Trio(settings=ConsensusSettings(snapshot_chunk_bytes=64, snapshot_window=1))
    trio.elect("A")
    trio.cut_off("A")
    told = [trio.propose("A", 100 + i) for i in range(4)]
    trio.elect("B")
    good = [trio.propose("B", i, padding=4000) for i in range(1, 21)]
    trio.run(4, "B", "C")
    for _ in range(2):  # the log since the older of two snapshots is kept
        trio["B"].replica.snapshot_now()
        trio.run(6, "B", "C")
        good.append(trio.propose("B", 50 + len(good), padding=12_000))
        good.append(trio.propose("B", 50 + len(good), padding=12_000))
        trio.run(4, "B", "C")
    assert all(each.applied for each in good) and trio["B"].storage.base_index > trio["A"].storage.last_index
    trio.connect("A", "B")
    return trio, told


def test_r05b_an_empty_transfer_commits_nothing(tmp_path: Path) -> None:
    """The heartbeat of a transfer moves no commit index, and one turn sends a bounded number of frames."""
    stock_commits_on_an_empty_transfer(tmp_path)
    trio, told = divergent_meets_compacted()
    before = trio["A"].replica.commit_index
    chunks: list[frames.SnapshotChunk] = []
    while not chunks:
        trio.beat("B")
        assert len(trio.queues[("B", "A")]) < 10
        chunks = [m for m in trio.waiting("B", "A") if isinstance(m, frames.SnapshotChunk)]
        if not chunks:
            trio.deliver("B", "A")
            trio.deliver("A", "B")
    chunk = chunks[0]
    trio["A"].replica.receive("B", msgspec.structs.replace(chunk, data=b"", offset=0))
    trio["A"].turn()
    assert trio["A"].replica.commit_index == before and not any(each.applied for each in told)


def test_r16_backing_off_ends() -> None:
    """One divergent entry, a long newer log, small messages: the follower catches up in seconds."""
    stock_never_backs_off_enough()
    trio = Trio(settings=ConsensusSettings(append_bytes=2000, window_bytes=16_000))
    trio.elect("A")
    trio.propose("A", 1)
    trio.run(3)
    trio.cut_off("A")
    lost = trio.propose("A", 99)
    trio.elect("B")
    told = [trio.propose("B", i, padding=1000) for i in range(2, 122)]
    trio.run(4, "B", "C")
    assert all(each.applied for each in told)
    trio.kill("B")
    trio.connect("A", "C")
    trio.elect("C")
    needs = trio.propose("C", 200)
    trio.run(60, "A", "C")
    assert needs.applied and trio.ids("A") == [1, *range(2, 122), 200] and not lost.applied
