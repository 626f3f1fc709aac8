"""Reading the log back (R3): follow the chain to the first bad position X, look for proofs behind it, judge.

X is *torn* if and only if nothing proves that the log was durable beyond X: no whole record header behind X
has `synced_to` > X, no segment header starts behind X, and the watermark is not above X. Everything here
reads; what follows from the verdict is done in `repair.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.port import Disk
from trivet.storage.records import ALIGN, MAGIC, Record, RecordKind, parse_header, payload_is_whole
from trivet.storage.segment import HEADER_BYTES, Segment, SegmentHeader, decode_header, segment_names
from trivet.storage.tables import Tables

PROVEN = 1 << 62
"""A proof stronger than any position: a segment was in use whose header is now unreadable."""


@dataclass(slots=True)
class SegmentScan:
    """`records`: the whole chain from the start; `end`, `chain`: where and how it ends. `tail_is_zero`:
    nothing was written behind. `beyond`: whole headers behind the first bad position (payload unchecked)."""

    records: list[Record]
    end: int
    chain: int
    tail_is_zero: bool
    beyond: list[Record]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state`: clean | torn | damage. `position`: X. `reason` says where and why, for people."""

    state: str
    position: int
    reason: str = ""


_ZEROS = bytes(1 << 20)


def is_zero(raw: bytes, offset: int) -> bool:
    """Whether only zeros follow. By memcmp: `strip` takes 1.5 s for a fresh segment of 64 MiB."""
    while len(raw) - offset >= len(_ZEROS):
        if not raw.startswith(_ZEROS, offset):
            return False
        offset += len(_ZEROS)
    return raw.endswith(_ZEROS[: max(0, len(raw) - offset)])  # the file may end before `offset`


def used_length(raw: bytes) -> int:
    """The length without the zeros at the end."""
    end = len(raw)
    while end >= len(_ZEROS) and raw.endswith(_ZEROS, 0, end):
        end -= len(_ZEROS)
    start = max(0, end - len(_ZEROS))
    return start + len(raw[start:end].rstrip(b"\0"))


def scan_segment(raw: bytes, header: SegmentHeader) -> SegmentScan:
    """All that one segment file says."""
    records: list[Record] = []
    offset, position, chain = HEADER_BYTES, header.start, header.chain
    while True:
        record = parse_header(raw, offset, position, header.salt)
        if record is None or record.prev != chain or not payload_is_whole(raw, record):
            break
        records.append(record)
        offset, position, chain = offset + record.end - position, record.end, record.chain
    tail_is_zero = is_zero(raw, offset)
    beyond = [] if tail_is_zero else list(_find_headers(raw, offset, header))
    return SegmentScan(records, position, chain, tail_is_zero, beyond)


def _find_headers(raw: bytes, offset: int, header: SegmentHeader) -> Iterator[Record]:
    """Whole record headers at or behind `offset`, by their magic: a flipped length hides nothing.

    The length in a whole header can be trusted, so its payload is stepped over and cannot pose as records.
    """
    while True:
        offset = raw.find(MAGIC, offset)
        if offset < 0:
            return
        if offset % ALIGN:
            offset += 1
            continue
        record = parse_header(raw, offset, header.start + offset - HEADER_BYTES, header.salt)
        if record is None:
            offset += ALIGN
            continue
        yield record
        offset += record.end - record.position


def judge(end: int, unused_behind: bool, proof: int, watermark: int) -> Verdict:
    """The decision of R3. `proof`: the highest position that something behind `end` proves durable."""
    if watermark > end:
        return Verdict("damage", end, f"the watermark proves {watermark} durable")
    if proof > end:
        what = "a segment in use" if proof == PROVEN else f"records that prove {proof} durable"
        return Verdict("damage", end, f"behind it there is {what}")
    return Verdict("clean" if unused_behind else "torn", end)


@dataclass(slots=True)
class RecoveredLog:
    """`segments`: those that hold the chain, not opened. `behind`: files behind it, in order.
    `obsolete`: compacted files that a crash has left over.
    `last_file`: where the chain ends. `reset_position`: of the last RESET, or -1.
    `proven`: the position up to which the chain itself says that it was synced."""

    tables: Tables
    segments: list[Segment]
    end: int
    chain: int
    verdict: Verdict
    behind: list[str] = field(default_factory=list)
    obsolete: list[str] = field(default_factory=list)
    last_file: str | None = None
    max_term: int = 0
    sequence: int = 0
    reset_position: int = -1
    proven: int = 0


def read_whole(disk: Disk, name: str) -> bytes:
    file = disk.open(name)
    try:
        return file.read_at(0, file.size)
    finally:
        file.close()


def recover_log(
    disk: Disk, node_id: str, cluster_id: str, watermark: int, first_segment: int = 0
) -> RecoveredLog:
    """Reads all segments from `first_segment` on, changes nothing. Raises `StorageRefused` for newer or
    foreign segments."""
    found = RecoveredLog(Tables(), [], 0, 0, Verdict("clean", 0), sequence=first_segment)
    broken = False  # from the first bad position on, files only serve as proofs
    unused = True
    proof = 0
    for sequence, name in segment_names(disk):
        if sequence < first_segment:
            found.obsolete.append(name)
            continue
        found.sequence = sequence
        raw = read_whole(disk, name)
        try:
            header = decode_header(raw, name)
        except BadBlock:
            # The header was synced before the first record was written: content means it was in use.
            broken, unused = True, False
            found.behind.append(name)
            if not is_zero(raw, HEADER_BYTES):
                proof = PROVEN
            continue
        _check_owner(header, name, node_id, cluster_id)
        found.max_term = max(found.max_term, header.last_term)
        if not broken and _follows(found, header):
            scan = scan_segment(raw, header)
            _take(found, header, name, len(raw), scan)
            broken = found.end != scan.end or not scan.tail_is_zero
        else:
            scan = scan_segment(raw, header)
            proof = max(proof, PROVEN if header.start <= found.end else header.start)
            broken = True
            found.behind.append(name)
            scan.beyond[:0] = scan.records
        unused = unused and not broken
        proof = max([proof, *(record.synced_to for record in scan.beyond)])
    if found.segments:
        found.sequence = found.segments[-1].sequence  # numbers of segments that are cut are used again
    found.verdict = judge(found.end, unused, proof, watermark)
    return found


def _follows(found: RecoveredLog, header: SegmentHeader) -> bool:
    """Whether the segment goes on where the chain stands; the first one starts it."""
    if not found.segments:
        if found.behind:
            return False
        found.tables.reset(header.last_index, header.last_term)
        found.end, found.chain = header.start, header.chain
        return True
    last = found.segments[-1]
    return (header.sequence, header.start, header.chain) == (last.sequence + 1, found.end, found.chain)


def _take(found: RecoveredLog, header: SegmentHeader, name: str, size: int, scan: SegmentScan) -> None:
    segment = Segment(header.sequence, header.start, header.last_index, header.last_term, size)
    segment.header = header
    found.proven = header.start
    found.segments.append(segment)
    found.last_file = name
    for record in scan.records:
        if not _apply(found.tables, record):
            return
        found.max_term = max(found.max_term, record.term)
        found.proven = max(found.proven, record.synced_to)
        if record.kind == RecordKind.RESET:
            found.reset_position = record.position
        elif record.kind == RecordKind.TRUNCATE:
            for earlier in found.segments:
                earlier.note_truncation(record.index)
        found.end, found.chain = record.end, record.chain


def _apply(tables: Tables, record: Record) -> bool:
    """False if the record, though whole, cannot come here."""
    if record.kind == RecordKind.ENTRY:
        if record.index != tables.last_index + 1:
            return False
        tables.append(record.term, record.position, record.length)
    elif record.kind == RecordKind.TRUNCATE:
        if not tables.base_index < record.index <= tables.last_index:
            return False
        tables.truncate_from(record.index)
    else:
        tables.reset(record.index, record.term)
    return True


def _check_owner(header: SegmentHeader, name: str, node_id: str, cluster_id: str) -> None:
    if (header.node_id, header.cluster_id) != (node_id, cluster_id):
        raise StorageRefused(
            f"{name} belongs to node {header.node_id!r} of cluster {header.cluster_id!r}, "
            f"the directory to node {node_id!r} of cluster {cluster_id!r}"
        )
