"""Term, vote and watermark in two slots that hold the same record (R4), each rewritten in place.

A write that tears one slot leaves the other; what a torn write would have said has not left the node,
because both are synced before `end_sync`. Two unreadable slots therefore mean damage: recovering.
"""

from __future__ import annotations

import msgspec

from trivet.storage.blocks import BlockKind, decode_block, encode_block, read_file, replace_file
from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.port import Disk, File

SLOTS = ("hard-a", "hard-b")
SLOT_BYTES = 4096


class HardRecord(msgspec.Struct, array_like=True, frozen=True):
    """`watermark`: log position known durable (R3). `recovering` doubles the mark file of R6.
    `first_segment`: segments with a lower number are compacted away, also those a crash has left over:
    replay may only begin where the header still tells the truth about the log's base."""

    node_id: str
    cluster_id: str
    generation: int = 0
    term: int = 0
    voted_for: str | None = None
    watermark: int = 0
    recovering: bool = False
    first_segment: int = 0


def encode_slot(record: HardRecord) -> bytes:
    return encode_block(BlockKind.HARD_STATE, msgspec.msgpack.encode(record), SLOT_BYTES)


def read_slots(disk: Disk) -> tuple[HardRecord | None, list[str]]:
    """The newest readable record, or None, and what is wrong with the slots."""
    best: HardRecord | None = None
    wrong: list[str] = []
    for name in SLOTS:
        try:
            record = read_slot(disk, name)
        except BadBlock as error:
            wrong.append(str(error))
            continue
        if best is None or record.generation > best.generation:
            best = record
    return best, wrong


def read_slot(disk: Disk, name: str) -> HardRecord:
    """Raises `BadBlock` if it is missing or damaged, `StorageRefused` if it is newer."""
    if not disk.exists(name):
        raise BadBlock(f"{name} is missing")
    raw = decode_block(BlockKind.HARD_STATE, read_file(disk, name, SLOT_BYTES), name)
    try:
        return msgspec.msgpack.decode(raw, type=HardRecord)
    except msgspec.DecodeError as error:
        raise BadBlock(f"{name}: {error}") from error


def check_owner(record: HardRecord, node_id: str, cluster_id: str, name: str) -> None:
    if (record.node_id, record.cluster_id) != (node_id, cluster_id):
        raise StorageRefused(
            f"{name} belongs to node {record.node_id!r} of cluster {record.cluster_id!r}, "
            f"the directory to node {node_id!r} of cluster {cluster_id!r}"
        )


def create_slots(disk: Disk, record: HardRecord) -> None:
    """Both slots anew, whole and durable."""
    for name in SLOTS:
        replace_file(disk, name, encode_slot(record))


def settle_slots(disk: Disk, record: HardRecord) -> None:
    """Both slots say `record`, durably. In place, because a full disk must not keep a node from starting;
    the worse slot first, so that a torn write never leaves two bad ones."""
    generations: dict[str, int] = {}
    for name in SLOTS:
        try:
            generations[name] = read_slot(disk, name).generation
        except BadBlock:
            generations[name] = -1
    data = encode_slot(record)
    for name in sorted(SLOTS, key=generations.__getitem__):
        file = disk.open(name) if disk.exists(name) else None
        if file is None:
            replace_file(disk, name, data)
            continue
        try:
            file.write_at(0, data)
            file.sync()
        finally:
            file.close()


class HardSlots:
    """The open slot files. `write_first` and `write_second` run inside a sync job."""

    def __init__(self, disk: Disk) -> None:
        self._files: list[File] = [disk.open(name) for name in SLOTS]

    def write_first(self, data: bytes) -> None:
        self._write(0, data)

    def write_second(self, data: bytes) -> None:
        self._write(1, data)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _write(self, slot: int, data: bytes) -> None:
        self._files[slot].write_at(0, data)
        self._files[slot].sync()
