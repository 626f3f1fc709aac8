"""R7: the union of what several directories hold; what cannot be proven is printed; a new cluster id."""

from __future__ import annotations

import random

import pytest

from tests.simulation.disk import SimDisk
from tests.unit.storage.support import SMALL, FakeClock
from trivet.storage.salvage import inspect, rebuild
from trivet.storage.segment import HEADER_BYTES, segment_names
from trivet.storage.storage import Identity, SnapshotMeta, Storage, StorageRefused

MEMBERS = ("n1", "n2", "n3")
RECORD = 56 + 104


def body(index: int, term: int) -> bytes:
    return (b"%d/%d " % (index, term)).ljust(104, b".")


def node(
    name: str,
    entries: list[tuple[int, int]],
    snapshot: int = 0,
    cluster: str = "c1",
    after: tuple[tuple[int, int], ...] = (),
) -> SimDisk:
    """A directory with the (index, term) `entries`, then those of `after` in place of what they replace."""
    disk = SimDisk(random.Random(name))
    storage = Storage.open(disk, name, FakeClock(), SMALL)
    storage.set_identity(Identity(cluster, MEMBERS))
    if snapshot:
        writer = storage.snapshots.writer(SnapshotMeta(snapshot, 1, MEMBERS))
        writer.write(b"state at %d" % snapshot)
        job = writer.commit(b"digest")
        job.run()
        job.finish()
        storage.reset_to(snapshot, 1)
    for index, term in [*entries, *after]:
        storage.truncate_from(index)
        if term > storage.term:
            storage.set_vote(term, None)
        storage.append(index, term, body(index, term))
        storage.flush()
    storage.close()
    disk.kill()
    return disk


def span(first: int, last: int, term: int = 1) -> list[tuple[int, int]]:
    return [(index, term) for index in range(first, last + 1)]


def keys(plan: object) -> list[tuple[int, int]]:
    return [key for key, _ in plan.chain]  # type: ignore[attr-defined]


def entry_offset(disk: SimDisk, data: bytes) -> tuple[str, int]:
    for _, name in segment_names(disk):
        file = disk.open(name)
        at = file.read_at(0, file.size).find(data)
        if at >= 0:
            return name, at
    raise AssertionError("not there")


def destroy(disk: SimDisk, index: int, term: int) -> None:
    name, at = entry_offset(disk, body(index, term))
    disk.zero(name, at - 56, RECORD)


def test_two_whole_nodes_prove_everything() -> None:
    plan = inspect([("a", node("n1", span(1, 30))), ("b", node("n2", span(1, 30)))])
    assert keys(plan) == span(1, 30) and plan.proven
    assert "all of it is proven by a majority" in plan.lines()[-1]


def test_what_only_one_holds_is_said() -> None:
    plan = inspect([("a", node("n1", span(1, 30))), ("b", node("n2", span(1, 25)))])
    assert keys(plan) == span(1, 30)
    assert plan.unproven == [(26, 30, 1)] and not plan.proven
    assert any("not proven committed: entries 26..30, on 1 of the 2 needed" in line for line in plan.lines())


def test_holes_are_filled_from_each_other() -> None:
    one, two = node("n1", span(1, 30)), node("n2", span(1, 30))
    for index in (3, 4, 17):
        destroy(one, index, 1)
    for index in (9, 28, 30):
        destroy(two, index, 1)
    plan = inspect([("a", one), ("b", two)])
    assert keys(plan) == span(1, 30)
    assert plan.guessed == [] and plan.lost == []
    assert any("unreadable from byte" in line for line in plan.lines())


def test_a_segment_header_that_is_gone_hides_no_record() -> None:
    one = node("n1", span(1, 30))
    for _, name in segment_names(one):
        one.zero(name, 0, HEADER_BYTES)
    assert keys(inspect([("a", one)])) == span(1, 30)


def test_a_hole_in_all_of_them_cuts_the_rest_and_says_so() -> None:
    one, two = node("n1", span(1, 20)), node("n2", span(1, 20))
    for disk in (one, two):
        destroy(disk, 12, 1)
    plan = inspect([("a", one), ("b", two)])
    assert keys(plan) == span(1, 11) and plan.lost == [(13, 20)]
    assert any("lost: entries 13..20" in line for line in plan.lines())


def test_the_newer_term_wins_and_replaced_entries_do_not_come_back() -> None:
    one = node("n1", span(1, 20))
    two = node("n2", span(1, 20), after=tuple(span(15, 18, 2)))
    plan = inspect([("a", one), ("b", two)])
    assert keys(plan) == [*span(1, 14), *span(15, 18, 2)]
    assert plan.unproven == [(15, 18, 1)]
    assert plan.lost == [(19, 20)]


def test_a_guessed_link_is_said() -> None:
    """Entry 15 of term 2 was appended right after a truncation, its predecessor is shown by no log."""
    two = node("n2", span(1, 20), after=tuple(span(15, 18, 2)))
    plan = inspect([("b", two)])
    assert keys(plan) == [*span(1, 14), *span(15, 18, 2)]
    assert 15 in plan.guessed
    assert any("what preceded entry 15" in line for line in plan.lines())


def test_snapshot_and_the_log_behind_it() -> None:
    one, two = node("n1", span(31, 40), snapshot=30), node("n2", span(1, 36))
    plan = inspect([("a", one), ("b", two)])
    assert plan.base == (30, 1) and keys(plan) == span(31, 40)
    assert plan.unproven == [(37, 40, 1)]
    one.flip(next(name for name in one.names() if name.endswith(".snap")), 8195)
    plan = inspect([("a", one), ("b", two)])
    assert plan.base == (0, 0) and keys(plan) == span(1, 40), "the other log reaches under the lost snapshot"


def test_evidence_files_are_read_too() -> None:
    disk = node("n1", span(1, 20))
    name, at = entry_offset(disk, body(10, 1))
    disk.flip(name, at)
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.recovering is not None and storage.last_index == 9
    disk.kill()
    other = node("n2", span(1, 10))
    plan = inspect([("a", disk), ("b", other)])
    assert keys(plan) == span(1, 20)
    assert any("it is recovering" in line for line in plan.lines())


def test_rebuild_makes_a_whole_directory_of_a_new_cluster() -> None:
    one, two = node("n1", span(31, 45), snapshot=30), node("n2", span(1, 40))
    plan = inspect([("a", one), ("b", two)])
    target = SimDisk(random.Random(9))
    with pytest.raises(StorageRefused, match="accept the loss"):
        rebuild(plan, target, "m1", Identity("c2", ("m1",)), FakeClock(), SMALL, accept_loss=False)
    with pytest.raises(StorageRefused, match="new cluster id"):
        rebuild(plan, target, "m1", Identity("c1", ("m1",)), FakeClock(), SMALL, accept_loss=True)
    rebuild(plan, target, "m1", Identity("c2", ("m1",)), FakeClock(), SMALL, accept_loss=True)
    target.crash()
    storage = Storage.open(target, "m1", FakeClock(), SMALL)
    assert storage.recovering is None and storage.identity == Identity("c2", ("m1",))
    assert (storage.base_index, storage.last_index, storage.term) == (30, 45, 1)
    assert [storage.entry(i) for i in range(31, 46)] == [body(i, 1) for i in range(31, 46)]
    assert storage.snapshots.latest is not None and storage.snapshots.latest.digest == b"digest"
    assert storage.snapshots.reader(storage.snapshots.latest).read_at(0, 99) == b"state at 30"
    with pytest.raises(StorageRefused, match="not empty"):
        rebuild(plan, target, "m1", Identity("c3", ("m1",)), FakeClock(), SMALL, accept_loss=True)


def test_a_rebuild_that_did_not_finish_is_recovering() -> None:
    plan = inspect([("a", node("n1", span(1, 40))), ("b", node("n2", span(1, 40)))])
    identity = Identity("c2", ("m1",))
    target = SimDisk(random.Random(9))
    target.fail("sync", 12)
    with pytest.raises(OSError):
        rebuild(plan, target, "m1", identity, FakeClock(), SMALL, accept_loss=False)
    target.crash()
    storage = Storage.open(target, "m1", FakeClock(), SMALL)
    assert storage.recovering is not None and "salvage" in storage.recovering


def test_directories_of_two_clusters_are_refused() -> None:
    with pytest.raises(StorageRefused, match="different clusters"):
        inspect([("a", node("n1", span(1, 3))), ("b", node("n2", span(1, 3), cluster="c9"))])
    with pytest.raises(ValueError):
        inspect([])


def test_what_is_unreadable_is_listed() -> None:
    disk = node("n1", span(1, 30))
    disk.flip("identity-a")
    disk.flip("hard-b")
    segment = segment_names(disk)[-1][1]
    disk.zero(segment, HEADER_BYTES, 1 << 20)
    text = "\n".join(inspect([("a", disk)]).lines())
    assert "identity-a" in text and "hard-b" in text and "was durable" in text


def test_an_empty_directory_is_no_obstacle() -> None:
    plan = inspect([("a", SimDisk(random.Random(0))), ("b", node("n2", span(1, 5)))])
    assert keys(plan) == span(1, 5) and plan.unproven == [(1, 5, 1)]
