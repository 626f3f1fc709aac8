"""The log as its one owner sees it: tables of all entries, a cache of the recent ones, a buffer of what
is not yet written. Files are only read here; a sync job (`job.py`) does the writing."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from trivet.storage.errors import StorageFailed
from trivet.storage.records import (
    RecordKind,
    encode_record,
    parse_header,
    payload_is_whole,
    payload_of,
    record_bytes,
)
from trivet.storage.segment import HEADER_BYTES, Segment, SegmentHeader, encode_header
from trivet.storage.settings import StorageSettings
from trivet.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes for one segment. `header`: this segment is new and this is its header page.

    In parts: megabytes are joined where they are written, not in the loop that encodes them."""

    segment: Segment
    offset: int
    parts: list[bytes]
    header: bytes | None

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class _Buffered:
    segment: Segment
    kind: RecordKind
    index: int
    term: int
    payload: bytes
    position: int


class Log:
    """`end`: log position behind the last buffered record."""

    def __init__(
        self,
        tables: Tables,
        segments: list[Segment],
        end: int,
        chain: int,
        sequence: int,
        reset_position: int,
        settings: StorageSettings,
    ) -> None:
        self.tables = tables
        self.segments = segments
        self.end = end
        self.owner = ("", "")  # node id, cluster id
        self._chain = chain
        self._sequence = sequence
        self._settings = settings
        self._buffer: list[_Buffered] = []
        self._cache: dict[int, bytes] = {}
        self._cache_first = tables.last_index + 1
        self._cache_bytes = 0
        self._reset_position = reset_position
        self._in_flight_last = 0
        self._in_flight_end = end
        self.durable_end = end
        self.durable_index = tables.last_index

    # --- changing -------------------------------------------------------------------------------------
    @property
    def dirty(self) -> bool:
        return bool(self._buffer)

    def append(self, index: int, term: int, data: bytes) -> None:
        tables = self.tables
        if index != tables.last_index + 1:
            raise ValueError(f"entry {index} cannot follow entry {tables.last_index}")
        position = self._put(RecordKind.ENTRY, index, term, data)
        tables.append(term, position, len(data))
        self._cache[index] = data
        self._cache_bytes += len(data)
        if self._cache_bytes > self._settings.cache_bytes:
            self._evict()

    def truncate_from(self, index: int) -> None:
        tables = self.tables
        if index <= tables.base_index:
            raise ValueError(f"entry {index} is at or below the base {tables.base_index}")
        if index > tables.last_index:
            return
        self._put(RecordKind.TRUNCATE, index, 0, b"")
        for segment in self.segments:
            segment.note_truncation(index)
        self._uncache(index)
        tables.truncate_from(index)
        self._cap_durable(index - 1)

    def reset_to(self, index: int, term: int) -> None:
        self._reset_position = self._put(RecordKind.RESET, index, term, b"")
        self._uncache(self._cache_first)
        self.tables.reset(index, term)
        self._cache_first = index + 1
        self._cap_durable(index)

    def _cap_durable(self, index: int) -> None:
        """Later entries with the same indices are other entries: nothing in flight makes them durable."""
        self.durable_index = min(self.durable_index, index)
        self._in_flight_last = min(self._in_flight_last, index)

    def _put(self, kind: RecordKind, index: int, term: int, payload: bytes) -> int:
        """Gives the record its place; a segment that is full is followed by a planned one."""
        size = record_bytes(len(payload))
        position = self.end
        if not self.segments or position + size > self.segments[-1].limit:
            capacity = max(self._settings.segment_bytes, HEADER_BYTES + size)
            self._sequence += 1
            tables = self.tables
            self.segments.append(
                Segment(self._sequence, position, tables.last_index, tables.last_term, capacity)
            )
        self._buffer.append(_Buffered(self.segments[-1], kind, index, term, payload, position))
        self.end = position + size
        return position

    def capture(self) -> list[Piece]:
        """Encodes all that is buffered, one piece a segment. Everything before the capture is durable."""
        pieces: list[Piece] = []
        parts: list[bytes] = []
        buffer, self._buffer = self._buffer, []
        synced_to = self.durable_end
        chain = self._chain
        for number, item in enumerate(buffer):
            segment = item.segment
            if not parts:
                first, header = item, self._header(segment, chain)
            *record, chain = encode_record(
                item.kind,
                item.position,
                synced_to,
                item.index,
                item.term,
                item.payload,
                chain,
                segment_salt(segment),
            )
            parts += record
            if number + 1 == len(buffer) or buffer[number + 1].segment is not segment:
                pieces.append(Piece(segment, segment.offset_of(first.position), parts, header))
                parts = []
        self._chain = chain
        self._in_flight_last = self.tables.last_index
        self._in_flight_end = self.end
        return pieces

    def _header(self, segment: Segment, chain: int) -> bytes | None:
        if segment.header is not None:
            return None
        salt = (self._settings.salt ^ (segment.sequence * 0x9E3779B1)) & 0xFFFFFFFF
        segment.header = SegmentHeader(
            *self.owner, segment.sequence, segment.start, chain, segment.last_index, segment.last_term, salt
        )
        return encode_header(segment.header)

    def captured_is_durable(self) -> None:
        self.durable_end = self._in_flight_end
        self.durable_index = self._in_flight_last

    # --- reading --------------------------------------------------------------------------------------
    def entry(self, index: int) -> bytes:
        """Raises `IndexError` outside the log, `StorageFailed` if the disk gives back something else."""
        data = self._cache.get(index)
        if data is not None:
            return data
        slot = self.tables.slot(index)
        return self._read(index, self.tables.places[slot], self.tables.sizes[slot])

    def _read(self, index: int, position: int, size: int) -> bytes:
        segment = self.segments[bisect_right(self.segments, position, key=lambda s: s.start) - 1]
        if segment.file is None or segment.header is None:
            raise StorageFailed(f"entry {index} should be in memory: it is not written yet")
        raw = segment.file.read_at(segment.offset_of(position), record_bytes(size))
        record = parse_header(raw, 0, position, segment.header.salt)
        if record is None or record.index != index or not payload_is_whole(raw, record):
            raise StorageFailed(f"entry {index} in {segment.name} is damaged on the disk")
        return payload_of(raw, record)

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        tables = self.tables
        total = 0
        for index in range(lo, min(hi, tables.last_index + 1)):
            slot = tables.slot(index)
            total += tables.sizes[slot]
            if found and total > max_bytes:
                break
            found.append((index, tables.terms[slot], self.entry(index)))
        return found

    # --- forgetting -------------------------------------------------------------------------------------
    def compact(self, index: int) -> list[Segment]:
        """Moves the base up over whole segments; answers those that may be deleted, oldest first.

        A segment may go when the log at the start of the next one ended at or below `index`: what follows
        there must not have gone back under that end.
        """
        keep = 0
        for number, segment in enumerate(self.segments):
            durable = segment.start <= self.durable_end and segment.file is not None
            if durable and segment.last_index <= index and not segment.undercut:
                keep = number
        gone, self.segments = self.segments[:keep], self.segments[keep:]
        if gone:
            first = self.segments[0]
            # A RESET behind the segment's start has set the base since; what the header says is older.
            if first.start > self._reset_position and first.last_index > self.tables.base_index:
                self._forget_cached(first.last_index)
                self.tables.forget_to(first.last_index, first.last_term)
        return gone

    def _evict(self) -> None:
        """Oldest first; what is not durable stays, it is nowhere else."""
        while self._cache_bytes > self._settings.cache_bytes and self._cache_first <= self.durable_index:
            self._forget_cached(self._cache_first)

    def _forget_cached(self, up_to: int) -> None:
        for index in range(self._cache_first, up_to + 1):
            self._cache_bytes -= len(self._cache.pop(index, b""))
        self._cache_first = max(self._cache_first, up_to + 1)

    def _uncache(self, since: int) -> None:
        for index in range(max(since, self._cache_first), self.tables.last_index + 1):
            self._cache_bytes -= len(self._cache.pop(index, b""))
        self._cache_first = min(self._cache_first, since)


def segment_salt(segment: Segment) -> int:
    assert segment.header is not None, "a record is encoded before its segment's header"
    return segment.header.salt
