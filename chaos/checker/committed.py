"""The committed log, read from the segment files that the archive kept (`log/<node>/`).

Every whole record of every file counts, also behind damage. By log matching an (index, term) is one entry
with one predecessor, on all nodes: that is checked (S17), and it is how the committed log is found: from
the newest entry back to the first. Bytes are read with the product's decoders; nothing else of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from chaos.checker.verdict import Findings
from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.records import (
    ALIGN,
    MAGIC,
    Record,
    RecordKind,
    parse_header,
    payload_is_whole,
    payload_of,
    record_bytes,
)
from trivet.storage.records import HEADER_BYTES as RECORD_HEADER_BYTES
from trivet.storage.segment import HEADER_BYTES, SegmentHeader, decode_header

Key = tuple[int, int]
"""(index, term)."""


@dataclass(slots=True)
class Place:
    file: int
    offset: int
    length: int
    sum: bytes
    node: str


@dataclass
class CommittedLog:
    """`chain`: (index, term) of each committed entry, from the first. `problems`: why it may not be whole."""

    files: list[Path] = field(default_factory=list)
    entries: dict[Key, Place] = field(default_factory=dict)
    before: dict[Key, int] = field(default_factory=dict)  # the predecessor's term
    chain: list[Key] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    damaged: int = 0  # files, or parts of them, that could not be read

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """(index, term, bytes) of the chain."""
        open_file: tuple[int, BinaryIO] | None = None
        try:
            for index, term in self.chain:
                place = self.entries[index, term]
                if open_file is None or open_file[0] != place.file:
                    if open_file is not None:
                        open_file[1].close()
                    open_file = (place.file, self.files[place.file].open("rb"))
                open_file[1].seek(place.offset)
                yield index, term, open_file[1].read(place.length)
        finally:
            if open_file is not None:
                open_file[1].close()


def read_log(directory: Path, last_index: int | None, found: Findings) -> CommittedLog:
    """Of the run in `directory`; up to `last_index` if that is known to be committed."""
    log = CommittedLog()
    for node in sorted(path for path in (directory / "log").iterdir() if path.is_dir()):
        for path in sorted(path for path in node.rglob("*.seg*") if path.is_file()):
            _read_file(log, node.name, path, found)
    _join(log, last_index)
    return log


def _read_file(log: CommittedLog, node: str, path: Path, found: Findings) -> None:
    raw = path.read_bytes()
    try:
        header = decode_header(raw, path.name)
    except (BadBlock, StorageRefused):
        log.damaged += bool(raw.strip(b"\0"))
        return
    log.files.append(path)
    terms = {header.last_index: header.last_term}  # of this file's log, as far as the file shows it
    last = header.last_index
    expected = HEADER_BYTES
    for record in _whole_records(raw, header):
        if record.offset != expected:
            log.damaged += 1
            terms, last = {}, -1
        expected = record.offset + record_bytes(record.length)
        if record.kind == RecordKind.TRUNCATE:
            last = record.index - 1
            continue
        if record.kind == RecordKind.RESET:
            terms, last = {record.index: record.term}, record.index
            continue
        if last == record.index - 1 and last in terms:
            _precedes(log, (record.index, record.term), terms[last], node, found)
        terms[record.index], last = record.term, record.index
        _keep(log, node, raw, record, found)


def _precedes(log: CommittedLog, key: Key, term: int, node: str, found: Findings) -> None:
    if log.before.setdefault(key, term) != term:
        text = f"entry {key} follows term {term} on {node}, and term {log.before[key]} on another node"
        found.add("S17", text)


def _keep(log: CommittedLog, node: str, raw: bytes, record: Record, found: Findings) -> None:
    key = (record.index, record.term)
    data = payload_of(raw, record)
    sum = blake2b(data, digest_size=8).digest()
    first = log.entries.get(key)
    if first is None:
        start = record.offset + RECORD_HEADER_BYTES
        log.entries[key] = Place(len(log.files) - 1, start, record.length, sum, node)
    elif first.sum != sum:
        found.add("S17", f"entry {key} differs between {first.node} and {node}")


def _whole_records(raw: bytes, header: SegmentHeader) -> Iterator[Record]:
    """Every record of which header and payload are whole, in the order of the file."""
    offset = HEADER_BYTES
    while (offset := raw.find(MAGIC, offset)) >= 0:
        if offset % ALIGN:
            offset += 1
            continue
        record = parse_header(raw, offset, header.start + offset - HEADER_BYTES, header.salt)
        if record is None or not payload_is_whole(raw, record):
            offset += ALIGN
            continue
        yield record
        offset += record_bytes(record.length)


def _join(log: CommittedLog, last_index: int | None) -> None:
    """The newest entry that leads back to the first one; nothing newer than `last_index`. Entries behind a
    hole lead nowhere: they count only if the log without them is too short."""
    dead: set[Key] = set()
    for top in sorted(log.entries, key=lambda key: (key[1], key[0]), reverse=True):
        chain = [top]
        while chain[-1][0] > 1:
            previous = (chain[-1][0] - 1, log.before.get(chain[-1], -1))
            if previous not in log.entries or previous in dead:
                break
            chain.append(previous)
        if chain[-1][0] == 1:
            log.chain = chain[::-1]
            break
        dead.update(chain)
    if not log.chain:
        log.problems.append("the archive holds no log that begins at entry 1")
    elif last_index is not None and len(log.chain) < last_index:
        log.problems.append(f"the archive's log ends at {len(log.chain)}, the cluster's at {last_index}")
    if last_index is not None:
        log.chain = log.chain[:last_index]
