"""Failures and space (R10), also for snapshots: what is fatal, what waits, what was written."""

from __future__ import annotations

import errno

import pytest

from tests.unit.storage.support import (
    SMALL,
    FakeClock,
    fresh,
    snapshot,
    sync,
)
from trivet.storage.segment import HEADER_BYTES, segment_names
from trivet.storage.storage import (
    DiskFull,
    SnapshotMeta,
    Storage,
    StorageFailed,
    StorageRefused,
)


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
