"""Identity, birth and refusals (R5): what a directory must be to be opened, and files that only look right."""

from __future__ import annotations

import random

import pytest

from tests.simulation.disk import SimDisk
from tests.unit.storage.support import (
    IDENTITY,
    SMALL,
    FakeClock,
    fresh,
    snapshot,
    sync,
)
from trivet.storage import blocks
from trivet.storage.blocks import BlockKind, encode_block
from trivet.storage.errors import BadBlock
from trivet.storage.hard_state import SLOTS
from trivet.storage.segment import HEADER_BYTES, segment_names, segment_sequence
from trivet.storage.storage import (
    Identity,
    Storage,
    StorageRefused,
)


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
