"""A log segment: a preallocated file with a header page and then records up to a tail of zeros."""

from __future__ import annotations

import msgspec

from trivet.storage.blocks import BlockKind, decode_block, encode_block
from trivet.storage.errors import BadBlock
from trivet.storage.port import Disk, File

HEADER_BYTES = 4096  # a page of its own: no later write touches the header's sectors
PREFIX = "log-"
SUFFIX = ".seg"


class SegmentHeader(msgspec.Struct, array_like=True, frozen=True):
    """`start`: log position of the first record; all before it was durable when this was written.
    `last_index`, `last_term`: where the log ended then: its base once older segments are gone."""

    node_id: str
    cluster_id: str
    sequence: int
    start: int
    chain: int
    last_index: int
    last_term: int
    salt: int


class Segment:
    """One segment in memory. `file` is None until a sync job has created it."""

    __slots__ = ("capacity", "file", "header", "last_index", "last_term", "sequence", "start", "undercut")

    def __init__(self, sequence: int, start: int, last_index: int, last_term: int, capacity: int) -> None:
        self.sequence = sequence
        self.start = start
        self.last_index = last_index
        self.last_term = last_term
        self.capacity = capacity
        self.header: SegmentHeader | None = None
        self.file: File | None = None
        self.undercut = False

    def note_truncation(self, index: int) -> None:
        """Entries that the log had when the segment began were replaced since: it cannot be the first one,
        because its `last_index`, `last_term` would not be those of the log's base."""
        if self.last_index >= index:
            self.undercut = True

    @property
    def name(self) -> str:
        return segment_name(self.sequence)

    @property
    def limit(self) -> int:
        """The log position no record of this segment may pass."""
        return self.start + self.capacity - HEADER_BYTES

    def offset_of(self, position: int) -> int:
        return HEADER_BYTES + position - self.start


def segment_name(sequence: int) -> str:
    return f"{PREFIX}{sequence:016x}{SUFFIX}"


def segment_sequence(name: str) -> int | None:
    """The number in a segment's name, None for any other file."""
    middle = name[len(PREFIX) : -len(SUFFIX)]
    if not name.startswith(PREFIX) or not name.endswith(SUFFIX) or len(middle) != 16:
        return None
    try:
        return int(middle, 16)
    except ValueError:
        return None


def segment_names(disk: Disk) -> list[tuple[int, str]]:
    found = ((segment_sequence(name), name) for name in disk.names())
    return sorted((sequence, name) for sequence, name in found if sequence is not None)


def encode_header(header: SegmentHeader) -> bytes:
    return encode_block(BlockKind.SEGMENT, msgspec.msgpack.encode(header), HEADER_BYTES)


def decode_header(raw: bytes, name: str) -> SegmentHeader:
    """Of the segment or evidence file `name`. Raises `BadBlock`, also for the whole header of another segment (a block
    that was written to the wrong file), or `StorageRefused` for a newer format."""
    payload = decode_block(BlockKind.SEGMENT, raw[:HEADER_BYTES], name)
    try:
        header = msgspec.msgpack.decode(payload, type=SegmentHeader)
    except msgspec.DecodeError as error:
        raise BadBlock(f"{name}: {error}") from error
    if not name.startswith(segment_name(header.sequence)):
        raise BadBlock(f"{name} begins with the header of {segment_name(header.sequence)}")
    return header
