"""The frame of every small file and header: magic, kind, format version, length, CRC32C.

The frame itself never changes, so that an older Trivet can always tell "newer" from "damaged".
"""

from __future__ import annotations

import struct
from enum import IntEnum

import google_crc32c

from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.port import Disk

_MAGIC = b"TRVB"
_HEAD = struct.Struct("<4sBxHI")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size


class BlockKind(IntEnum):
    IDENTITY = 1
    HARD_STATE = 2
    RECOVERING = 3
    SEGMENT = 4
    SNAPSHOT = 5


FORMATS: dict[BlockKind, int] = dict.fromkeys(BlockKind, 1)
"""The newest format of each kind that this version reads and writes."""


def encode_block(kind: BlockKind, payload: bytes, size: int = 0) -> bytes:
    """The framed payload, padded with zeros to `size` bytes; `ValueError` if it does not fit."""
    head = _HEAD.pack(_MAGIC, kind, FORMATS[kind], len(payload))
    block = head + _CRC.pack(google_crc32c.extend(google_crc32c.value(head), payload)) + payload
    if size and len(block) > size:
        raise ValueError(f"a block of {len(block)} bytes does not fit into {size}")
    return block.ljust(size, b"\0")


def decode_block(kind: BlockKind, raw: bytes, name: str) -> bytes:
    """The payload. Raises `BadBlock`, or `StorageRefused` if the file `name` has a newer format."""
    if len(raw) < HEAD_BYTES:
        raise BadBlock(f"{name} is only {len(raw)} bytes long")
    magic, found, version, length = _HEAD.unpack_from(raw)
    (crc,) = _CRC.unpack_from(raw, _HEAD.size)
    payload = raw[HEAD_BYTES : HEAD_BYTES + length]
    if magic != _MAGIC or len(payload) != length:
        raise BadBlock(f"{name} has no valid header")
    if google_crc32c.extend(google_crc32c.value(raw[: _HEAD.size]), payload) != crc:
        raise BadBlock(f"{name} has a wrong checksum")
    if found != kind:
        raise BadBlock(f"{name} holds a block of another kind ({found} instead of {int(kind)})")
    if version > FORMATS[kind]:
        raise StorageRefused(
            f"{name} has format {version}, this Trivet reads formats up to {FORMATS[kind]}: use the newer version"
        )
    return payload


def replace_file(disk: Disk, name: str, data: bytes) -> None:
    """The whole file anew, durable when it returns; after a crash it is the old one or the new one."""
    temporary = name + ".tmp"
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.create(temporary)
    try:
        file.write_at(0, data)
        file.sync()
    finally:
        file.close()
    disk.rename(temporary, name)
    disk.sync_dir()


def read_file(disk: Disk, name: str, limit: int) -> bytes:
    """Up to `limit` bytes of the file's beginning."""
    file = disk.open(name)
    try:
        return file.read_at(0, min(limit, file.size))
    finally:
        file.close()
