"""One log record (R3): 8-byte aligned, magic, CRC of the header, CRC of the payload chained to the record before.

A record can be judged alone, because its header carries the chain value before it (`prev`); that it
follows the record before is judged by comparing the two. `position` counts the record bytes of the whole
log through all segments. `synced_to` is the position known durable when the record was written: the
proof, for whoever finds this record behind a hole, that the hole is damage and not a torn write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

import google_crc32c

ALIGN = 8
MAGIC = b"\xf7TrR"
_FIXED = struct.Struct("<4sBBHIIQQQQ")
_SUMS = struct.Struct("<II")
HEADER_BYTES = _FIXED.size + _SUMS.size
_PADS = [bytes(n) for n in range(ALIGN)]

assert HEADER_BYTES % ALIGN == 0


class RecordKind(IntEnum):
    ENTRY = 1  # payload: the entry's bytes
    TRUNCATE = 2  # entries from `index` on are gone
    RESET = 3  # the log starts anew behind (`index`, `term`)


_KINDS = frozenset(int(kind) for kind in RecordKind)


@dataclass(frozen=True, slots=True)
class Record:
    """A header that was found whole. `offset` is where it lies in its segment file."""

    kind: int
    position: int
    synced_to: int
    index: int
    term: int
    length: int
    prev: int
    chain: int
    offset: int

    @property
    def end(self) -> int:
        """The position behind the record."""
        return self.position + record_bytes(self.length)

    def moved_to(self, offset: int) -> Record:
        """The same record as it lies at `offset` of another buffer."""
        return replace(self, offset=offset)


def record_bytes(length: int) -> int:
    """Bytes a record with a payload of `length` bytes takes."""
    return HEADER_BYTES + length + (-length % ALIGN)


def encode_record(
    kind: int, position: int, synced_to: int, index: int, term: int, payload: bytes, prev: int, salt: int
) -> tuple[bytes, bytes, bytes, int]:
    """Header, payload, padding, and the chain value for the next record."""
    fixed = _FIXED.pack(MAGIC, kind, 0, 0, len(payload), prev, position, synced_to, index, term)
    pad = _PADS[-len(payload) % ALIGN]
    chain = google_crc32c.extend(google_crc32c.extend(google_crc32c.extend(prev, fixed), payload), pad)
    sums = _SUMS.pack(chain, google_crc32c.extend(salt, fixed + chain.to_bytes(4, "little")))
    return fixed + sums, payload, pad, chain


def parse_header(raw: bytes, offset: int, position: int, salt: int) -> Record | None:
    """The record header at `offset`, if it is whole and was written for this `position`."""
    head = raw[offset : offset + HEADER_BYTES]
    if len(head) < HEADER_BYTES or head[:4] != MAGIC:
        return None
    _, kind, zero, zero2, length, prev, place, synced_to, index, term = _FIXED.unpack_from(head)
    chain, crc = _SUMS.unpack_from(head, _FIXED.size)
    if google_crc32c.extend(salt, head[: _FIXED.size + 4]) != crc:
        return None
    if place != position or kind not in _KINDS or zero or zero2:
        return None
    return Record(kind, position, synced_to, index, term, length, prev, chain, offset)


def parse_loose(raw: bytes, offset: int) -> Record | None:
    """A header without the segment's salt and start: only `payload_is_whole` tells whether it is one."""
    head = raw[offset : offset + HEADER_BYTES]
    if len(head) < HEADER_BYTES:
        return None
    _, kind, _, _, length, prev, position, synced_to, index, term = _FIXED.unpack_from(head)
    chain, _ = _SUMS.unpack_from(head, _FIXED.size)
    return Record(kind, position, synced_to, index, term, length, prev, chain, offset)


def payload_is_whole(raw: bytes, record: Record) -> bool:
    """Whether payload and padding match the chained checksum."""
    body = record.offset + HEADER_BYTES
    end = record.offset + record_bytes(record.length)
    if end > len(raw):
        return False
    seed = google_crc32c.extend(record.prev, raw[record.offset : record.offset + _FIXED.size])
    return bool(google_crc32c.extend(seed, raw[body:end]) == record.chain)


def payload_of(raw: bytes, record: Record) -> bytes:
    body = record.offset + HEADER_BYTES
    return raw[body : body + record.length]
