"""R3, R4, R6, R7: damage to what was synced is found and said; nothing is cut silently, no evidence is lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.long import LONG
from tests.simulation.disk import SimCrash, SimDisk
from tests.unit.storage.support import IDENTITY, SMALL, Expected, FakeClock, LogState, Watched
from trivet.storage import records
from trivet.storage.hard_state import SLOTS
from trivet.storage.records import encode_record
from trivet.storage.segment import HEADER_BYTES, segment_names
from trivet.storage.storage import Storage, StorageRefused, StorageSettings


def build() -> tuple[SimDisk, LogState, LogState]:
    """Two snapshots, several segments, a truncation, closed. Also answers the log before the truncation."""
    disk = SimDisk(random.Random(1))
    expected = Expected()
    w = Watched(disk, FakeClock(), expected)
    w.vote(3, "n2")
    for index in range(1, 13):
        w.append(37 * index % 200 + 300)
        w.sync()
        if index in (6, 9):
            w.snapshot(index, 1)
    before = w.expected.logs[-1]
    w.truncate_from(11)
    w.append(400, term=3)
    w.append(400, term=3)
    w.sync()
    w.storage.close()
    disk.crash()
    return disk, w.expected.logs[-1], before


PRISTINE, STATE, BEFORE = build()


def opened(damage: Callable[[SimDisk], object], seed: int = 0) -> tuple[SimDisk, Storage]:
    disk = PRISTINE.clone(random.Random(seed))
    damage(disk)
    return disk, Storage.open(disk, "n1", FakeClock(), SMALL)


def harmed(method: str, *args: object) -> Storage:
    """A storage opened over the pristine directory after one damage of `SimDisk`."""
    return opened(lambda disk: getattr(disk, method)(*args))[1]


def entries_of(storage: Storage) -> tuple[tuple[int, bytes], ...]:
    return tuple((t, d) for _, t, d in storage.entries(storage.base_index + 1, 1 << 40, 1 << 40))


def is_prefix(storage: Storage) -> bool:
    """Whatever is shown is the beginning of what the log was once, never anything else."""
    shown, base = entries_of(storage), storage.base_index
    return any(
        log.entries[base:][: len(shown)] == shown
        and (base == 0 or log.entries[base - 1][0] == storage.base_term)
        for log in (STATE, BEFORE)
    )


def is_whole(storage: Storage) -> bool:
    return (
        storage.recovering is None
        and entries_of(storage) == STATE.entries[storage.base_index :]
        and is_prefix(storage)
        and (storage.term, storage.voted_for) == (3, "n2")
        and storage.identity == IDENTITY
    )


def segments() -> list[str]:
    return [name for _, name in segment_names(PRISTINE)]


def used(name: str) -> int:
    file = PRISTINE.open(name)
    return len(file.read_at(0, file.size).rstrip(b"\0"))


def record_starts(name: str) -> list[int]:
    raw = PRISTINE.open(name).read_at(0, used(name))
    starts, offset = [], HEADER_BYTES
    while (record := records.parse_loose(raw, offset)) is not None:
        starts.append(offset)
        offset += records.record_bytes(record.length)
    return starts


def is_telling(offset: int, starts: list[int]) -> bool:
    """Worth a flip: the segment's header, each record's header and the end of its payload with its padding,
    some bytes of what lies between. `TRIVET_LONG`: every byte."""
    if offset < HEADER_BYTES:  # its page is empty behind the block
        return offset < 200 or offset >= HEADER_BYTES - 8 or offset % 97 == 0
    inside = offset - max(start for start in starts if start <= offset)
    to_next = min((start - offset for start in starts if start > offset), default=0)
    return LONG or inside < records.HEADER_BYTES or to_next <= records.ALIGN or inside % 13 == 0


def test_the_pristine_directory_is_whole() -> None:
    assert len(segments()) >= 4
    storage = harmed("names")
    assert is_whole(storage) and not storage.notes
    storage.close()


@pytest.mark.parametrize("name", segments())
def test_every_flipped_byte_of_a_segment_is_damage_or_harmless(name: str) -> None:
    seen = {"damage": 0, "harmless": 0}
    starts = record_starts(name)
    offsets = [offset for offset in range(used(name)) if is_telling(offset, starts)]
    for offset in offsets:
        mask = 1 << (offset % 8)
        storage = harmed("flip", name, offset, mask)
        assert is_prefix(storage), offset
        if storage.recovering is None:
            assert is_whole(storage), offset
            seen["harmless"] += 1
        else:
            assert name in storage.recovering or "log-" in storage.recovering
            assert (storage.term, storage.voted_for) == (3, "n2")
            seen["damage"] += 1
    assert seen["damage"] >= sum(offset >= HEADER_BYTES for offset in offsets), (
        "every byte of a record, padding included, is covered"
    )


@pytest.mark.parametrize("name", segments())
@pytest.mark.parametrize("length", [8, 512, 4096, 1 << 20])
def test_zeroed_and_cut_pieces(name: str, length: int) -> None:
    for offset in range(0, used(name), 211):
        for storage in (harmed("zero", name, offset, length), harmed("cut", name, offset)):
            assert is_prefix(storage), (name, offset)
            assert storage.recovering is not None or is_whole(storage), (name, offset)


@pytest.mark.parametrize("names", [[n] for n in segments()] + [segments()[-2:], segments()])
def test_missing_segments(names: list[str]) -> None:
    _, storage = opened(lambda disk: [disk.remove(name) for name in names])
    assert is_prefix(storage)
    if names == segments()[:1]:  # the newest snapshot holds all that is gone: nothing is lost
        assert storage.snapshots.latest is not None and storage.base_index <= storage.snapshots.latest.index
        assert is_whole(storage)
    else:
        assert storage.recovering is not None


def test_an_old_copy_of_a_segment_put_back() -> None:
    """A rolled back file: shorter, but every record in it is valid."""
    name = segments()[-1]
    storage = harmed("zero", name, HEADER_BYTES + 500, 1 << 20)
    assert storage.recovering is not None and "watermark" in storage.recovering


def test_two_segments_swapped() -> None:
    first, second = segments()[1:3]

    def swap(disk: SimDisk) -> None:
        disk.rename(first, "x")
        disk.rename(second, first)
        disk.rename("x", second)
        disk.sync_dir()

    _, storage = opened(swap)
    assert storage.recovering is not None and is_prefix(storage)


@pytest.mark.parametrize("source", range(len(segments())))
@pytest.mark.parametrize("target", range(len(segments())))
def test_a_segment_that_begins_with_the_header_of_another_one(target: int, source: int) -> None:
    """Whole, of this node and cluster, and in the wrong file: the first one is taken by no chain (simulator
    1795355726188: a segment of another name was opened, and was not there, at each start)."""
    if target == source:
        return
    name, other = segments()[target], segments()[source]
    disk, storage = opened(lambda disk: disk.misdirect(name, 0, other, 0))
    assert storage.recovering is not None and "is damaged" in storage.recovering
    assert is_prefix(storage)
    storage.close()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert again.recovering is not None and is_prefix(again)


def test_damage_is_marked_before_anything_is_cut_and_survives() -> None:
    """R6: at every crash inside the repair the next open is recovering too, and the evidence stays."""
    name = segments()[1]
    for nth in range(1, 100):
        disk = PRISTINE.clone(random.Random(nth))
        disk.flip(name, HEADER_BYTES + 100)
        disk.crash_at(nth)
        try:
            Storage.open(disk, "n1", FakeClock(), SMALL)
            break
        except SimCrash:
            disk.crash()
        storage = Storage.open(disk, "n1", FakeClock(), SMALL)
        assert storage.recovering is not None and is_prefix(storage), nth
        assert any(other.endswith(".damaged") for other in disk.names()), nth
        disk.crash()
        assert Storage.open(disk, "n1", FakeClock(), SMALL).recovering is not None
    assert nth > 15


def test_recovering_says_file_offset_and_why_and_ends_when_cleared() -> None:
    name = segments()[2]
    disk, storage = opened(lambda disk: disk.flip(name, HEADER_BYTES + 60))
    assert storage.recovering is not None
    assert name in storage.recovering and str(HEADER_BYTES) in storage.recovering
    last = storage.last_index
    storage.append(last + 1, 3, b"from the leader")
    storage.clear_recovering()
    assert storage.recovering is None
    disk_before = disk.clone(random.Random(1))
    job = storage.begin_sync()
    assert job is not None
    job.run()
    storage.end_sync(job)
    disk.crash()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert again.recovering is None and again.last_index == last + 1
    assert Storage.open(disk_before, "n1", FakeClock(), SMALL).recovering is not None, (
        "not synced, not cleared"
    )


def test_evidence_is_bounded() -> None:
    disk = PRISTINE.clone(random.Random(3))
    for _ in range(12):
        storage = Storage.open(disk, "n1", FakeClock(), SMALL)
        for _ in range(3):
            storage.append(storage.last_index + 1, 4, b"x" * 300)
            job = storage.begin_sync()
            assert job is not None
            job.run()
            storage.end_sync(job)
        storage.close()
        disk.kill()
        disk.flip(segment_names(disk)[-1][1], HEADER_BYTES + 20)
    kept = [name for name in disk.names() if name.endswith(".damaged")]
    assert len(kept) == SMALL.damaged_files_max
    assert any(".12." in name or ".11." in name for name in kept), "the newest stay"


# --- hard state (R4) ------------------------------------------------------------------------------------
@pytest.mark.parametrize("slot", SLOTS)
def test_one_bad_slot_is_put_right(slot: str) -> None:
    for offset in range(used(slot)):
        disk = PRISTINE.clone(random.Random(0))
        disk.flip(slot, offset, 1)
        storage = Storage.open(disk, "n1", FakeClock(), SMALL)
        assert is_whole(storage)
        assert slot in storage.notes[0]
        storage.close()
        disk.flip(SLOTS[1 - SLOTS.index(slot)], 20)
        disk.kill()
        assert is_whole(Storage.open(disk, "n1", FakeClock(), SMALL)), "the repaired one is good"


@pytest.mark.parametrize("harm", ["flip", "remove", "cut"])
def test_two_bad_slots_mean_recovering(harm: str) -> None:
    def both(disk: SimDisk) -> None:
        for slot in SLOTS:
            getattr(disk, harm)(slot, *([9] if harm == "cut" else []))

    _, storage = opened(both)
    assert storage.recovering is not None and "hard state" in storage.recovering
    assert storage.term == 3, "the log's own term at least"
    assert storage.voted_for is None
    assert is_prefix(storage) and storage.last_index == STATE.last


def test_the_mark_survives_in_either_place() -> None:
    disk, storage = opened(lambda disk: None)
    storage.mark_recovering("wiped")
    job = storage.begin_sync()
    assert job is not None
    job.run()
    storage.end_sync(job)
    disk.crash()
    other = disk.clone(random.Random(1))
    other.remove("recovering")
    why = Storage.open(other, "n1", FakeClock(), SMALL).recovering
    assert why is not None and "mark" in why
    other = disk.clone(random.Random(1))
    other.flip("recovering", 20)
    why = Storage.open(other, "n1", FakeClock(), SMALL).recovering
    assert why is not None and "unreadable" in why
    assert Storage.open(disk, "n1", FakeClock(), SMALL).recovering == "wiped"


# --- identity (R5) -----------------------------------------------------------------------------------------
def test_one_bad_identity_copy_is_put_right() -> None:
    for name in ("identity-a", "identity-b"):
        for method, args in (("flip", ()), ("remove", ()), ("cut", (3,))):
            disk = PRISTINE.clone(random.Random(0))
            getattr(disk, method)(name, *args)
            assert is_whole(Storage.open(disk, "n1", FakeClock(), SMALL))
            disk.crash()
            disk.remove("identity-a" if name == "identity-b" else "identity-b")
            assert is_whole(Storage.open(disk, "n1", FakeClock(), SMALL))


def test_without_identity_the_directory_is_refused_not_empty() -> None:
    def flip_both(disk: SimDisk) -> None:
        disk.flip("identity-a")
        disk.flip("identity-b")

    def remove_both(disk: SimDisk) -> None:
        disk.remove("identity-a")
        disk.remove("identity-b")

    def only_slots(disk: SimDisk) -> None:
        for name in disk.names():
            if not name.startswith("hard-"):
                disk.remove(name)

    def only_a_bad_slot(disk: SimDisk) -> None:
        only_slots(disk)
        disk.remove("hard-b")
        disk.flip("hard-a")

    def only_a_snapshot(disk: SimDisk) -> None:
        for name in disk.names():
            if not name.startswith("snap-"):
                disk.remove(name)

    for harm in (flip_both, remove_both, only_slots, only_a_bad_slot, only_a_snapshot):
        disk = PRISTINE.clone(random.Random(0))
        harm(disk)
        before = disk.names()
        with pytest.raises(StorageRefused, match="not used as empty"):
            Storage.open(disk, "n1", FakeClock(), SMALL)
        assert disk.names() == before, "nothing was changed"


# --- snapshots (R7) ------------------------------------------------------------------------------------------
def snapshot_names() -> list[str]:
    return [name for name in PRISTINE.names() if name.endswith(".snap")]


def test_a_damaged_newest_snapshot_falls_back_to_the_older_and_the_log() -> None:
    older, newest = snapshot_names()
    head = len(PRISTINE.open(newest).read_at(0, 8192).rstrip(b"\0"))
    for offset in [*range(head), *range(8192, used(newest), 7)]:
        disk = PRISTINE.clone(random.Random(0))
        disk.flip(newest, offset, 4)
        storage = Storage.open(disk, "n1", FakeClock(), SMALL)
        assert is_whole(storage), offset
        assert storage.snapshots.latest is not None and storage.snapshots.latest.name == older
        assert any(newest in note for note in storage.notes)
        assert any(name.startswith(newest) and name.endswith(".damaged") for name in disk.names())


def test_both_snapshots_damaged_behind_a_compacted_log() -> None:
    disk = PRISTINE.clone(random.Random(0))
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    storage.compact(9)
    storage.close()
    base = Storage.open(disk, "n1", FakeClock(), SMALL).base_index
    assert 0 < base <= 6, "the log since the older snapshot stays"
    disk.kill()
    for name in snapshot_names():
        disk.flip(name)
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.recovering is not None and "snapshot" in storage.recovering
    assert (storage.base_index, storage.last_index) == (0, 0)
    assert (storage.term, storage.voted_for) == (3, "n2")
    disk.crash()
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert storage.recovering is not None and storage.last_index == 0, "and so it stays"


def test_both_snapshots_damaged_under_a_whole_log_is_no_loss() -> None:
    _, storage = opened(lambda disk: [disk.flip(name) for name in snapshot_names()])
    assert is_whole(storage) and storage.snapshots.latest is None


# --- the limit that the promises page names ------------------------------------------------------------------
def test_only_the_last_second_can_be_taken_for_a_torn_write() -> None:
    """Without a watermark behind it, damage to the last sync looks torn; damage before it never does."""
    disk = SimDisk(random.Random(1))
    w = Watched(disk, FakeClock(), Expected())
    for _ in range(4):
        w.append(100)
        w.sync()
    name = segment_names(disk)[0][1]
    record = 56 + 104
    for number, torn in ((0, False), (1, False), (2, False), (3, True)):
        hurt = disk.clone(random.Random(number))
        hurt.flip(name, HEADER_BYTES + number * record + 80)
        storage = Storage.open(hurt, "n1", FakeClock(), SMALL)
        assert storage.last_index == number
        assert (storage.recovering is None) is torn, number
    w.clock.now += 0.7
    w.sync()  # the watermark, less than a second after the last sync
    disk.flip(name, HEADER_BYTES + 3 * record + 80)
    disk.kill()
    assert Storage.open(disk, "n1", FakeClock(), SMALL).recovering is not None


def test_a_flipped_length_hides_nothing_behind_it() -> None:
    disk = SimDisk(random.Random(1))
    w = Watched(disk, FakeClock(), Expected())
    for _ in range(4):
        w.append(100)
        w.sync()
    name = segment_names(disk)[0][1]
    for mask in (1, 128):
        for byte in range(8, 12):
            hurt = disk.clone(random.Random(0))
            hurt.flip(name, HEADER_BYTES + 160 + byte, mask)
            assert Storage.open(hurt, "n1", FakeClock(), SMALL).recovering is not None


def test_a_body_that_looks_like_a_record_proves_nothing() -> None:
    """A client cannot make a torn write look like damage: the salt is not known outside."""
    settings = StorageSettings(segment_bytes=4096 + 2048, salt=12345)
    forged = b"".join(encode_record(1, 160 + 56, 1 << 40, 9, 9, b"", 0, 0)[:3])
    disk = SimDisk(random.Random(1))
    w = Watched(disk, FakeClock(), Expected(), settings)
    w.append(100)
    w.sync()
    w.storage.append(2, 1, forged * 3)
    w.storage.flush()
    disk.flip(segment_names(disk)[0][1], HEADER_BYTES + 160 + 4)
    disk.kill()
    storage = Storage.open(disk, "n1", FakeClock(), settings)
    assert storage.recovering is None and storage.last_index == 1
