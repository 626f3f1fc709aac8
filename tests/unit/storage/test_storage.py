"""The facade: what is buffered and what is durable, the watermark, compaction."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.simulation.disk import SimCrash, SimDisk
from tests.unit.storage.support import (
    SMALL,
    Expected,
    FakeClock,
    Watched,
    fresh,
    snapshot,
    sync,
    watermark,
)
from trivet.storage.job import LIGHT_BYTES_MAX, SyncJob
from trivet.storage.records import record_bytes
from trivet.storage.segment import HEADER_BYTES, segment_names
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import (
    Identity,
    Storage,
    StorageFailed,
)


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


def test_a_light_job_is_one_small_write_to_a_segment_that_is_there() -> None:
    def job_of(storage: Storage, *sizes: int) -> SyncJob:
        for size in sizes:
            storage.append(storage.last_index + 1, 1, b"x" * size)
        job = storage.begin_sync()
        assert job is not None
        job.run()
        storage.end_sync(job)
        return job

    _, _, storage = fresh(StorageSettings(segment_bytes=1 << 20))
    limit = LIGHT_BYTES_MAX - record_bytes(0)
    assert not job_of(storage, 10).light, "it makes a segment"
    assert not job_of(storage).light, "the watermark is hard state"
    assert job_of(storage, 10, 20, 30).light
    assert job_of(storage, limit).light
    assert not job_of(storage, limit + 1).light
    storage.set_vote(2, "n2")
    assert not job_of(storage).light


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


def test_watched_model_runs_without_faults() -> None:
    disk, expected = SimDisk(random.Random(0)), Expected()
    w = Watched(disk, FakeClock(), expected)
    w.append(5)
    w.sync()
    assert expected.logs[0].last == 1 == w.storage.durable_index
