"""The facade: what is buffered and what is durable, the watermark, compaction, space, refusals."""

from __future__ import annotations

import contextlib
import errno
import random

import pytest

from tests.simulation.disk import SimCrash, SimDisk
from tests.unit.storage.support import IDENTITY, SMALL, Expected, FakeClock, Watched
from trivet.storage import blocks
from trivet.storage.blocks import BlockKind, encode_block
from trivet.storage.errors import BadBlock
from trivet.storage.hard_state import SLOTS, read_slots
from trivet.storage.records import record_bytes
from trivet.storage.segment import HEADER_BYTES, segment_names, segment_sequence
from trivet.storage.storage import (
    DiskFull,
    Identity,
    SnapshotMeta,
    Storage,
    StorageFailed,
    StorageRefused,
    StorageSettings,
)


def fresh(
    settings: StorageSettings = SMALL, capacity: int | None = None
) -> tuple[SimDisk, FakeClock, Storage]:
    disk, clock = SimDisk(random.Random(1), capacity), FakeClock()
    storage = Storage.open(disk, "n1", clock, settings)
    storage.set_identity(IDENTITY)
    return disk, clock, storage


def sync(storage: Storage) -> None:
    job = storage.begin_sync()
    assert job is not None
    job.run()
    storage.end_sync(job)


def snapshot(storage: Storage, index: int, term: int = 1, data: bytes = b"s") -> SnapshotMeta:
    writer = storage.snapshots.writer(SnapshotMeta(index, term, IDENTITY.members))
    writer.write(data)
    job = writer.commit(b"d")
    job.run()
    return job.finish()


# --- durability -----------------------------------------------------------------------------------------
def test_nothing_is_durable_before_end_sync() -> None:
    _, _, storage = fresh()
    assert storage.begin_sync() is None
    storage.set_vote(1, "n1")
    storage.append(1, 1, b"a")
    assert (storage.position, storage.durable_position, storage.durable_index) == (2, 0, 0)
    job = storage.begin_sync()
    assert job is not None
    storage.append(2, 1, b"b")  # the loop goes on while the job runs
    assert storage.entry(1) == b"a" and storage.entry(2) == b"b"
    job.run()
    assert (storage.durable_position, storage.durable_index) == (0, 0)
    with pytest.raises(RuntimeError):
        storage.begin_sync()
    storage.end_sync(job)
    assert (storage.position, storage.durable_position, storage.durable_index) == (3, 2, 1)
    with pytest.raises(RuntimeError):
        storage.end_sync(job)
    sync(storage)
    assert (storage.durable_position, storage.durable_index) == (3, 2)


def test_entries_replaced_while_a_job_runs_are_not_durable() -> None:
    _, _, storage = fresh()
    for index in range(1, 6):
        storage.append(index, 1, b"old")
    job = storage.begin_sync()
    assert job is not None
    storage.truncate_from(4)
    storage.append(4, 2, b"new")
    storage.append(5, 2, b"new")
    job.run()
    storage.end_sync(job)
    assert (storage.last_index, storage.durable_index) == (5, 3)
    sync(storage)
    assert storage.durable_index == 5
    job = storage.begin_sync()
    assert job is None
    storage.append(6, 2, b"x")
    job = storage.begin_sync()
    assert job is not None
    storage.reset_to(2, 2)
    assert storage.durable_index == 2
    job.run()
    storage.end_sync(job)
    assert storage.durable_index == 2


def test_wrong_calls_are_refused() -> None:
    disk = SimDisk(random.Random(0))
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    storage.append(1, 1, b"")
    with pytest.raises(RuntimeError, match="identity"):
        storage.begin_sync()
    storage.close()
    _, _, storage = fresh()
    storage.append(1, 1, b"")
    with pytest.raises(ValueError):
        storage.append(3, 1, b"")
    with pytest.raises(ValueError):
        storage.append(1, 1, b"")
    with pytest.raises(ValueError):
        storage.truncate_from(0)
    storage.truncate_from(2)  # nothing there
    assert storage.last_index == 1
    for index in (0, 2):
        with pytest.raises(IndexError):
            storage.entry(index)
    with pytest.raises(IndexError):
        storage.entries(0, 2, 100)
    assert storage.term_at(0) == 0 and storage.term_at(1) == 1
    assert storage.term_at(2) is None and storage.term_at(-1) is None
    storage.set_vote(2, "n2")
    for term, vote in ((1, None), (2, "n3"), (2, None)):
        with pytest.raises(ValueError):
            storage.set_vote(term, vote)
    storage.set_vote(2, "n2")
    job = storage.begin_sync()
    assert job is not None
    with pytest.raises(RuntimeError):
        storage.end_sync(job)
    with pytest.raises(RuntimeError):
        storage.close()
    with pytest.raises(ValueError):
        storage.set_identity(Identity("c1", ("n1",), "unborn"))


def test_entries_are_bounded_but_never_none() -> None:
    _, _, storage = fresh()
    for index in range(1, 11):
        storage.append(index, index, bytes(100))
    sync(storage)
    assert [i for i, _, _ in storage.entries(3, 8, 10_000)] == [3, 4, 5, 6, 7]
    assert [i for i, _, _ in storage.entries(3, 8, 250)] == [3, 4]
    assert [i for i, _, _ in storage.entries(3, 8, 1)] == [3]
    assert storage.entries(11, 99, 1) == [] and storage.entries(5, 5, 1) == []
    assert storage.entries(4, 5, 9) == [(4, 4, bytes(100))]


def test_the_cache_is_bounded_and_old_entries_come_from_the_files() -> None:
    disk, _, storage = fresh()
    for index in range(1, 101):
        storage.append(index, 1, b"%03d" % index * 40)
        sync(storage)
    assert storage._log._cache_bytes <= SMALL.cache_bytes
    assert len(storage._log._cache) < 30
    assert [data for _, _, data in storage.entries(1, 101, 1 << 30)] == [
        b"%03d" % i * 40 for i in range(1, 101)
    ]
    storage.append(101, 1, bytes(10 * SMALL.cache_bytes))
    storage.append(102, 1, b"not yet written entries always stay in memory")
    assert storage.entry(102).startswith(b"not yet") and len(storage.entry(101)) == 10 * SMALL.cache_bytes
    sync(storage)
    storage.truncate_from(50)
    storage.append(50, 2, b"new")
    assert storage.entry(49) == b"049" * 40 and storage.entry(50) == b"new"
    name = segment_names(disk)[0][1]
    disk.flip(name, HEADER_BYTES + 60)
    with pytest.raises(StorageFailed, match="damaged"):
        storage.entry(1)


def test_one_write_call_for_all_records_of_a_job() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"")
    sync(storage)
    sync(storage)  # the watermark of the new segment
    for index in range(2, 8):
        storage.append(index, 1, b"x" * 10)
    job = storage.begin_sync()
    assert job is not None
    before = disk.ops
    job.run()
    assert disk.ops - before == 2, "one write, one fdatasync"


# --- watermark (R3) ---------------------------------------------------------------------------------------
def watermark(disk: SimDisk) -> int:
    record, wrong = read_slots(disk)
    assert record is not None and not wrong
    return record.watermark


def test_the_watermark_follows_within_a_second_and_costs_nothing_when_idle() -> None:
    disk, clock, storage = fresh()
    storage.append(1, 1, b"x" * 8)
    sync(storage)
    assert storage.begin_sync() is not None, "a new segment is noted at once"
    disk, clock, storage = fresh()
    storage.append(1, 1, b"x" * 8)
    sync(storage)
    sync(storage)
    for step in range(1, 4):
        storage.append(step + 1, 1, b"x" * 8)
        sync(storage)
        clock.now += 0.2
    assert watermark(disk) == record_bytes(8)
    clock.now += 0.1
    sync(storage)
    assert watermark(disk) == 4 * record_bytes(8)
    clock.now += 100
    assert storage.begin_sync() is None


def test_a_vote_and_a_clean_close_carry_the_watermark() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"x" * 8)
    sync(storage)
    storage.set_vote(1, "n2")
    sync(storage)
    assert watermark(disk) == record_bytes(8)
    storage.append(2, 1, b"x" * 8)
    storage.close()
    assert watermark(disk) == 2 * record_bytes(8)
    disk.crash()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert (again.last_index, again.term, again.voted_for) == (2, 1, "n2")


# --- compaction (R7) ----------------------------------------------------------------------------------------
def test_compaction_keeps_the_log_since_the_older_snapshot() -> None:
    disk, _, storage = fresh()
    for index in range(1, 41):
        storage.append(index, 1, bytes(400))
        sync(storage)
    storage.compact(40)
    assert storage.base_index == 0, "no snapshot, no compaction"
    snapshot(storage, 20)
    storage.compact(40)
    assert storage.base_index == 0, "one snapshot may be damaged: the log from the start is its fallback"
    snapshot(storage, 30)
    before = len(segment_names(disk))
    storage.compact(40)
    assert 10 < storage.base_index <= 20
    assert len(segment_names(disk)) == before, "files go with the next sync"
    sync(storage)
    assert len(segment_names(disk)) < before
    assert storage.term_at(storage.base_index) == 1 and storage.term_at(storage.base_index - 1) is None
    base = storage.base_index
    disk.crash()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert (again.base_index, again.base_term, again.last_index) == (base, 1, 40)


def test_a_segment_whose_start_was_undercut_cannot_be_the_first() -> None:
    """It begins behind entries of term 1 that a truncation in it replaced: its header's base is wrong."""
    for crash_point in range(1, 12):
        disk, _, storage = fresh()
        for index in range(1, 9):
            storage.append(index, 1, bytes(1800))  # one a segment
            sync(storage)
        storage.truncate_from(3)  # the rest of segment 8, whose header says 7
        for index in range(3, 14):
            storage.append(index, 2, bytes(1800))
            sync(storage)
        snapshot(storage, 5, 2)
        snapshot(storage, 12, 2)
        storage.compact(12)
        assert storage.base_index == 5 and storage.base_term == 2, "not inside 3..7 of term 1"
        disk.crash_at(crash_point)
        with contextlib.suppress(SimCrash):
            sync(storage)
        disk.crash()
        again = Storage.open(disk, "n1", FakeClock(), SMALL)
        assert (again.recovering, again.last_index) == (None, 13), crash_point
        assert again.base_index in (0, 5) and again.term_at(6) == 2


def test_compaction_after_a_reset_keeps_the_base_of_the_reset() -> None:
    """The segment's header still tells of the longer log before the RESET."""
    _, _, storage = fresh()
    for index in range(1, 41):
        storage.append(index, 1, bytes(400))
        sync(storage)
    snapshot(storage, 30)
    snapshot(storage, 39)
    storage.reset_to(0, 0)
    storage.append(1, 2, b"again")
    sync(storage)
    storage.compact(40)
    sync(storage)
    assert (storage.base_index, storage.last_index, storage.entry(1)) == (0, 1, b"again")


# --- failures, space (R10) ------------------------------------------------------------------------------------
def test_a_failed_sync_ends_everything() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"a")
    job = storage.begin_sync()
    assert job is not None
    disk.fail("sync")
    with pytest.raises(StorageFailed, match="disk failed") as caught:
        job.run()
    assert isinstance(caught.value, OSError) and caught.value.errno == errno.EIO
    assert storage.failed
    with pytest.raises(StorageFailed):
        storage.begin_sync()
    before = disk.ops
    storage.close()
    assert disk.ops == before, "after a failure nothing is written any more"


@pytest.mark.parametrize("operation", ["allocate", "create"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_for_a_segment_is_told_apart_and_nothing_was_written(operation: str, code: int) -> None:
    disk, _, storage = fresh()
    storage.set_vote(4, "n3")
    for index in range(1, 8):
        storage.append(index, 1, bytes(900))  # several new segments in one job
    job = storage.begin_sync()
    assert job is not None
    before = {name: disk.open(name).read_at(0, 1 << 20) for name in disk.names()}
    disk.fail(operation, 2, code)
    with pytest.raises(DiskFull):
        job.run()
    assert {name: disk.open(name).read_at(0, 1 << 20) for name in disk.names()} == before
    assert not storage.failed
    job.run()
    storage.end_sync(job)
    disk.crash()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert (again.last_index, again.term, again.recovering) == (7, 4, None)


def test_other_errors_of_allocate_are_fatal() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"")
    job = storage.begin_sync()
    assert job is not None
    disk.fail("allocate", 1, errno.EIO)
    with pytest.raises(StorageFailed):
        job.run()
    assert storage.failed


def test_inside_a_preallocated_segment_a_full_disk_does_not_matter() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, bytes(10))
    sync(storage)
    disk.capacity = disk.used_bytes()
    assert storage.free_bytes() == 0
    for index in range(2, 10):
        storage.append(index, 1, bytes(10))
        storage.set_vote(index, None)
        sync(storage)
    storage.append(10, 1, bytes(3000))
    job = storage.begin_sync()
    assert job is not None
    for _ in range(3):
        with pytest.raises(DiskFull):
            job.run()
    disk.capacity = None
    job.run()
    storage.end_sync(job)
    assert storage.durable_index == 10


# --- snapshots ------------------------------------------------------------------------------------------------
def test_two_newest_snapshots_are_kept_and_readers_outlive_them() -> None:
    disk, _, storage = fresh()
    assert storage.snapshots.latest is None and storage.snapshots.older_index == 0
    first = snapshot(storage, 1, data=b"first")
    reader = storage.snapshots.reader(first)
    for index in (2, 3, 4):
        snapshot(storage, index)
    assert [meta.index for meta in storage.snapshots.kept] == [4, 3]
    assert len([n for n in disk.names() if n.endswith(".snap")]) == 2
    assert reader.read_at(0, 99) == b"first" and reader.read_at(2, 2) == b"rs" and reader.read_at(9, 9) == b""
    reader.close()
    snapshot(storage, 1)  # older than both: of no use, and gone with the next one
    assert [meta.index for meta in storage.snapshots.kept] == [4, 3]
    snapshot(storage, 4)
    snapshot(storage, 5)
    assert sorted(m.index for m in storage.snapshots.kept) == [4, 5]
    assert len([n for n in disk.names() if n.endswith(".snap")]) == 2


def test_a_wrong_received_snapshot_is_not_committed() -> None:
    disk, _, storage = fresh()
    writer = storage.snapshots.writer(SnapshotMeta(9, 1, ("n1",)))
    writer.write(b"received")
    with pytest.raises(ValueError, match="CRC"):
        writer.commit(crc=1)
    assert not any(name.startswith("snap-") for name in disk.names())
    writer = storage.snapshots.writer(SnapshotMeta(9, 1, ("n1",), digest=b"given"))
    writer.write(b"received")
    job = writer.commit(crc=writer.crc)
    writer.abort()  # after commit: nothing
    job.run()
    assert job.finish().digest == b"given"
    with pytest.raises(ValueError, match="fit"):
        storage.snapshots.writer(SnapshotMeta(10, 1, ("n" * 9000,))).commit()


def test_a_full_disk_or_a_bad_one_during_a_snapshot() -> None:
    disk, _, storage = fresh()
    writer = storage.snapshots.writer(SnapshotMeta(9, 1, ("n1",)))
    disk.fail("write", 1, errno.ENOSPC)
    with pytest.raises(OSError):
        writer.write(b"x")
    writer.abort()
    assert not any(name.startswith("snap-") for name in disk.names())
    writer = storage.snapshots.writer(SnapshotMeta(9, 1, ("n1",)))
    job = writer.commit()
    disk.fail("sync")
    with pytest.raises(StorageFailed):
        job.run()


# --- identity, refusals (R5) ----------------------------------------------------------------------------------
def test_birth_goes_from_pending_to_born() -> None:
    disk = SimDisk(random.Random(0))
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.identity is None and storage.recovering is None and storage.node_id == "n1"
    storage.set_identity(Identity("c1", ("n1", "n2"), "pending"))
    disk.crash()
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.identity == Identity("c1", ("n1", "n2"), "pending")
    storage.set_identity(IDENTITY)
    disk.crash()
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.identity == IDENTITY
    with pytest.raises(StorageRefused, match="'c1', not to 'c2'"):
        storage.set_identity(Identity("c2", ("n1",)))


def test_a_wiped_node_is_recovering_before_it_has_an_identity() -> None:
    disk = SimDisk(random.Random(0))
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    storage.mark_recovering("an empty directory joined a living cluster")
    disk.crash()
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.identity is None and storage.recovering is not None
    storage.set_identity(IDENTITY)
    disk.crash()
    disk.remove("recovering")
    assert Storage.open(disk, "n1", FakeClock(), SMALL).recovering is not None, "the hard state says it too"
    disk, _, storage = fresh()
    storage.clear_recovering()
    assert storage.begin_sync() is None


def test_foreign_directories_are_refused() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"x")
    storage.close()
    disk.kill()
    with pytest.raises(StorageRefused, match="belongs to node 'n1', this node is 'n2'"):
        Storage.open(disk, "n2", FakeClock(), SMALL)
    other = SimDisk(random.Random(2))
    foreign = Storage.open(other, "n1", FakeClock(), SMALL)
    foreign.set_identity(Identity("c7", ("n1",)))
    foreign.append(1, 1, b"y")
    snapshot(foreign, 1)
    foreign.close()
    other.kill()
    for names in (SLOTS, [segment_names(other)[0][1]], [n for n in other.names() if n.startswith("snap-")]):
        mixed = disk.clone(random.Random(0))
        for name in names:
            if mixed.exists(name):
                mixed.unlink(name)
            file = mixed.create(name)
            file.write_at(0, other.open(name).read_at(0, 1 << 20))
        with pytest.raises(StorageRefused, match="'c7'"):
            Storage.open(mixed, "n1", FakeClock(), SMALL)


@pytest.mark.parametrize("kind", list(BlockKind))
def test_a_newer_format_is_refused_naming_both(kind: BlockKind, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setitem(blocks.FORMATS, kind, 2)
        disk, _, storage = fresh()
        storage.append(1, 1, b"x")
        storage.mark_recovering("why")
        snapshot(storage, 1)
        storage.close()
    disk.kill()
    with pytest.raises(StorageRefused, match="has format 2, this Trivet reads formats up to 1"):
        Storage.open(disk, "n1", FakeClock(), SMALL)


def test_files_that_are_not_ours_are_left_alone() -> None:
    disk = SimDisk(random.Random(0))
    disk.create("notes.txt").close()
    disk.create("mine.tmp").close()
    disk.create("log-old").close()
    disk.unlink("log-old")
    disk.sync_dir()
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    storage.set_identity(IDENTITY)
    storage.close()
    disk.kill()
    Storage.open(disk, "n1", FakeClock(), SMALL)
    assert disk.exists("notes.txt") and disk.exists("mine.tmp")
    assert segment_sequence("log-000000000000000g.seg") is None
    assert segment_sequence("log-1.seg") is None


def test_blocks_say_what_is_wrong() -> None:
    block = encode_block(BlockKind.IDENTITY, b"abc")
    assert blocks.decode_block(BlockKind.IDENTITY, block, "f") == b"abc"
    for raw, word in ((b"", "0 bytes"), (block[:-1], "header"), (block[:-1] + b"d", "checksum")):
        with pytest.raises(BadBlock, match=word):
            blocks.decode_block(BlockKind.IDENTITY, raw, "f")
    with pytest.raises(BadBlock, match="another kind"):
        blocks.decode_block(BlockKind.SEGMENT, block, "f")
    for kind, name in ((BlockKind.HARD_STATE, "hard-a"), (BlockKind.IDENTITY, "identity-a")):
        disk, _, storage = fresh()
        storage.close()
        disk.kill()
        file = disk.open(name)
        file.truncate(0)
        file.write_at(0, encode_block(kind, b"\xc1 not msgpack"))
        again = Storage.open(disk, "n1", FakeClock(), SMALL)
        assert again.identity == IDENTITY and again.recovering is None


def test_a_valid_record_in_the_wrong_place_is_damage() -> None:
    """A whole chain that breaks the log's own rules (a gap) can only be a defect: it is not applied."""
    from trivet.storage.records import RecordKind

    for kind, index in ((RecordKind.ENTRY, 5), (RecordKind.TRUNCATE, 9)):
        disk, _, storage = fresh()
        storage.append(1, 1, b"x")
        storage._log._put(kind, index, 1, b"")
        sync(storage)
        storage.append(2, 1, b"y")
        storage.close()
        disk.kill()
        again = Storage.open(disk, "n1", FakeClock(), SMALL)
        assert again.recovering is not None and again.last_index == 1


def test_segments_and_snapshots_with_unreadable_contents_behind_a_good_checksum() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"x")
    meta = snapshot(storage, 1)
    storage.close()
    disk.kill()
    segment = segment_names(disk)[0][1]
    disk.open(segment).write_at(0, encode_block(BlockKind.SEGMENT, b"\xc1", HEADER_BYTES))
    disk.open(meta.name).write_at(0, encode_block(BlockKind.SNAPSHOT, b"\xc1", HEADER_BYTES))
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert again.recovering is not None and segment in again.recovering
    assert again.snapshots.latest is None


def test_damage_on_a_full_disk_waits_for_space_and_cuts_nothing() -> None:
    disk, _, storage = fresh()
    for index in range(1, 12):
        storage.append(index, 1, bytes(300))
        sync(storage)
    storage.close()
    disk.kill()
    name = segment_names(disk)[0][1]
    disk.flip(name, HEADER_BYTES + 500)
    before = disk.open(name).read_at(0, 1 << 20)
    disk.capacity = disk.used_bytes() + 2000
    for _ in range(2):
        with pytest.raises(StorageRefused, match="make room for 6144 bytes"):
            Storage.open(disk, "n1", FakeClock(), SMALL)
        assert disk.open(name).read_at(0, 1 << 20) == before
        disk.kill()
    disk.capacity = None
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert again.recovering is not None
    assert any(name.endswith(".damaged") for name in disk.names())


def test_a_whole_directory_opens_on_a_full_disk() -> None:
    disk, _, storage = fresh()
    storage.append(1, 1, b"x")
    storage.set_vote(1, "n1")
    storage.close()
    disk.crash()
    disk.capacity = disk.used_bytes()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert (again.last_index, again.term, again.recovering) == (1, 1, None)
    again.set_vote(2, "n2")
    sync(again)


def test_watched_model_runs_without_faults() -> None:
    disk, expected = SimDisk(random.Random(0)), Expected()
    w = Watched(disk, FakeClock(), expected)
    w.append(5)
    w.sync()
    assert expected.logs[0].last == 1 == w.storage.durable_index
