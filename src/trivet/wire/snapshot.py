"""The bytes of a snapshot: a header, blocks of records, a trailer. Written and read in slices (R9).

    "TRIVSNAP" · u16 format · u32 length · msgpack `SnapshotHeader` · u32 crc
    block:  u8 kind · u32 raw length · u32 stored length · stored bytes (zstd) · u32 crc
    kind 1: a piece of the record stream; kind 2: the trailer, msgpack `SnapshotTrailer`, then nothing more
    the record stream: u8 table · u32 length · msgpack of the record, one after the other

All integers are little-endian. Each CRC32C continues the one before it, from the first byte of the file,
so blocks cannot be dropped, doubled or exchanged. The record stream is cut into blocks of `BLOCK_BYTES`
wherever that falls: a record of 1 MiB holds the loop no longer in one go than many small ones.

The trailer holds how many records each table has, R11's chain digest, and the digest of the full state,
which does not depend on the order of the records: copy on write changes that order (R9).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol, TypeVar

import google_crc32c
import msgspec
from backports import zstd

from trivet.machine.commands import MACHINE_VERSION
from trivet.machine.snapshotting import DIGEST_MODULUS, record_digest

_T = TypeVar("_T")

OutOfTime = Callable[[], bool]

MAGIC = b"TRIVSNAP"
SNAPSHOT_FORMAT = 1
BLOCK_BYTES = 128 * 1024
HEADER_BYTES_MAX = 4096
RECORD_BYTES_MAX = 64 * 1024 * 1024
STORED_BYTES_MAX = 2 * BLOCK_BYTES  # what zstd makes of incompressible data is far below
_LEVEL = 1

_START = struct.Struct("<8sHI")
_BLOCK = struct.Struct("<BII")
_RECORD = struct.Struct("<BI")
_CRC = struct.Struct("<I")

_KIND_RECORDS = 1
_KIND_TRAILER = 2


class SnapshotHeader(msgspec.Struct, array_like=True, frozen=True):
    """`index`: the last entry in this state. Fields are only added at the end."""

    machine_version: int
    index: int


class SnapshotTrailer(msgspec.Struct, array_like=True, frozen=True):
    """`counts`: (table, records) in the order of the tables."""

    counts: tuple[tuple[int, int], ...]
    state_digest: bytes  # 16 bytes
    chain_digest: bytes  # 16 bytes


class Records(Protocol):
    """What is written: `machine.snapshotting.Walk`."""

    index: int
    chain_digest: bytes

    def next(self) -> tuple[int, bytes] | None:
        """(table, msgpack of one record), (-1, b"") for nothing yet, or None after the last."""
        ...


class RecordTaker(Protocol):
    """What is rebuilt: `machine.snapshotting.Builder`. Raises `ValueError` on a record it cannot take."""

    def add(self, table: int, record: bytes) -> None: ...


class SnapshotWriter:
    """Makes the bytes of a walk, a slice at a time."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._stream = bytearray()
        self._counts: dict[int, int] = {}
        self._digest = 0
        self._crc = 0
        self._stage = 0  # 0: header to come, 1: records, 2: all given

    def read(self, out_of_time: OutOfTime) -> bytes | None:
        """The next piece, empty when the time ran out before there was one, None after the last."""
        if self._stage == 0:
            self._stage = 1
            return self._header()
        if self._stage == 2:
            return None
        while len(self._stream) < BLOCK_BYTES:
            record = self._records.next()
            if record is None:
                return self._end()
            table, data = record
            if table >= 0:
                self._counts[table] = self._counts.get(table, 0) + 1
                self._digest += record_digest(table, data)
                self._stream += _RECORD.pack(table, len(data))
                self._stream += data
            if out_of_time():
                return b""
        piece = bytes(memoryview(self._stream)[:BLOCK_BYTES])
        del self._stream[:BLOCK_BYTES]
        return self._block(_KIND_RECORDS, piece)

    def _end(self) -> bytes:
        """The rest of the stream (less than a block) and the trailer."""
        self._stage = 2
        trailer = SnapshotTrailer(
            counts=tuple(sorted(self._counts.items())),
            state_digest=(self._digest % DIGEST_MODULUS).to_bytes(16, "little"),
            chain_digest=self._records.chain_digest,
        )
        rest = self._block(_KIND_RECORDS, bytes(self._stream)) if self._stream else b""
        return rest + self._block(_KIND_TRAILER, msgspec.msgpack.encode(trailer))

    def _header(self) -> bytes:
        body = msgspec.msgpack.encode(SnapshotHeader(MACHINE_VERSION, self._records.index))
        return self._sealed(_START.pack(MAGIC, SNAPSHOT_FORMAT, len(body)) + body)

    def _block(self, kind: int, raw: bytes) -> bytes:
        stored = zstd.compress(raw, _LEVEL)
        return self._sealed(_BLOCK.pack(kind, len(raw), len(stored)) + stored)

    def _sealed(self, data: bytes) -> bytes:
        self._crc = google_crc32c.extend(self._crc, data)
        return data + _CRC.pack(self._crc)


class SnapshotReader:
    """Takes the bytes in pieces of any size and feeds the records to a taker, a slice at a time.

    Every method raises `ValueError`, with what is wrong and where, for bytes that are not a whole valid
    snapshot this code can read; the reader is of no use afterwards.
    """

    def __init__(self, taker: RecordTaker) -> None:
        self._taker = taker
        self._inbox = bytearray()  # bytes of the unit (header or block) that is not whole yet
        self._wanted = _START.size  # length of that unit as far as known
        self._parse = self._on_start
        self._stream = bytearray()  # raw bytes of records, not yet taken
        self._stream_at = 0
        self._counts: dict[int, int] = {}
        self._digest = 0
        self._crc = 0
        self._offset = 0  # of the unit's first byte in the snapshot, for messages
        self.header: SnapshotHeader | None = None
        self.trailer: SnapshotTrailer | None = None

    def write(self, piece: bytes, out_of_time: OutOfTime) -> bytes:
        """Take the bytes; answers those not taken when the time ran out (empty: all taken)."""
        at = 0
        while True:
            if not self._drain(out_of_time):
                return piece[at:]
            taken = piece[at : at + self._wanted - len(self._inbox)]
            self._inbox += taken
            at += len(taken)
            if len(self._inbox) < self._wanted:
                return b""
            self._parse()

    def finish(self, out_of_time: OutOfTime) -> bool:
        """After the last piece, until True: everything was there and agrees with the trailer."""
        if not self._drain(out_of_time):
            return False
        if self.trailer is None or self._inbox:
            raise ValueError(f"snapshot is cut short at byte {self._offset + len(self._inbox)}")
        return True

    # --- units --------------------------------------------------------------------------------------

    def _on_start(self) -> None:
        magic, fmt, length = _START.unpack_from(self._inbox)
        if magic != MAGIC:
            raise ValueError("not a snapshot: it does not begin with TRIVSNAP")
        if fmt != SNAPSHOT_FORMAT:
            raise ValueError(f"snapshot format {fmt}, this node reads format {SNAPSHOT_FORMAT}")
        if length > HEADER_BYTES_MAX:
            raise ValueError(f"snapshot header of {length} bytes, the most is {HEADER_BYTES_MAX}")
        self._wanted = _START.size + length + _CRC.size
        self._parse = self._on_header

    def _on_header(self) -> None:
        unit = self._take_unit()
        self.header = _decode(unit[_START.size :], SnapshotHeader, "header")
        if self.header.machine_version != MACHINE_VERSION:
            raise ValueError(
                f"snapshot of machine version {self.header.machine_version}, "
                f"this node knows only {MACHINE_VERSION}"
            )
        self._wanted = _BLOCK.size
        self._parse = self._on_block_start

    def _on_block_start(self) -> None:
        if self.trailer is not None:
            raise ValueError(f"snapshot goes on after its trailer, at byte {self._offset}")
        kind, raw_length, stored_length = _BLOCK.unpack_from(self._inbox)
        if kind not in (_KIND_RECORDS, _KIND_TRAILER):
            raise ValueError(f"snapshot block at byte {self._offset} has unknown kind {kind}")
        if raw_length > BLOCK_BYTES or stored_length > STORED_BYTES_MAX:
            raise ValueError(f"snapshot block at byte {self._offset} is longer than a block may be")
        self._wanted = _BLOCK.size + stored_length + _CRC.size
        self._parse = self._on_block

    def _on_block(self) -> None:
        where = self._offset
        unit = self._take_unit()
        kind, raw_length, _ = _BLOCK.unpack_from(unit)
        raw = _decompress(unit[_BLOCK.size :], raw_length, where)
        if kind == _KIND_RECORDS:
            self._stream += raw
        else:
            self._check_trailer(_decode(raw, SnapshotTrailer, "trailer"))
        self._wanted = _BLOCK.size
        self._parse = self._on_block_start

    def _take_unit(self) -> bytes:
        """The whole unit without its CRC, once that has been checked."""
        unit = bytes(memoryview(self._inbox)[: -_CRC.size])
        (expected,) = _CRC.unpack_from(self._inbox, len(unit))
        self._crc = google_crc32c.extend(self._crc, unit)
        if self._crc != expected:
            raise ValueError(f"snapshot is damaged: CRC mismatch in the unit at byte {self._offset}")
        self._offset += len(self._inbox)
        self._inbox.clear()
        return unit

    # --- records ------------------------------------------------------------------------------------

    def _drain(self, out_of_time: OutOfTime) -> bool:
        """Hand over the whole records of the stream; False when the time ran out before the last."""
        stream, at, have = self._stream, self._stream_at, len(self._stream)
        unpack, take, counts = _RECORD.unpack_from, self._taker.add, self._counts
        with memoryview(stream) as view:  # a slice of the bytearray itself would be copied twice
            while (start := at + _RECORD.size) <= have:
                table, length = unpack(stream, at)
                if length > RECORD_BYTES_MAX:
                    raise ValueError(f"snapshot record of {length} bytes, the most is {RECORD_BYTES_MAX}")
                end = start + length
                if end > have:
                    break
                data = bytes(view[start:end])
                counts[table] = counts.get(table, 0) + 1
                self._digest += record_digest(table, data)
                take(table, data)
                self._stream_at = at = end
                if out_of_time():
                    return False
        del stream[:at]
        self._stream_at = 0
        return True

    def _check_trailer(self, trailer: SnapshotTrailer) -> None:
        if self._stream:
            raise ValueError(f"snapshot's last record is cut: {len(self._stream)} bytes are left over")
        if trailer.counts != tuple(sorted(self._counts.items())):
            raise ValueError("snapshot's record counts differ from its trailer")
        if trailer.state_digest != (self._digest % DIGEST_MODULUS).to_bytes(16, "little"):
            raise ValueError("snapshot's state digest differs from its trailer")
        self.trailer = trailer


def _decompress(stored: bytes, raw_length: int, where: int) -> bytes:
    """Exactly `raw_length` bytes: a frame that unfolds to more is refused before it does."""
    decompressor = zstd.ZstdDecompressor()
    try:
        raw = decompressor.decompress(stored, max_length=raw_length + 1)
    except zstd.ZstdError as error:
        raise ValueError(f"snapshot block at byte {where} does not decompress: {error}") from error
    if len(raw) != raw_length or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"snapshot block at byte {where} has another length than it says")
    return raw


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"snapshot {what}: {error}") from error
