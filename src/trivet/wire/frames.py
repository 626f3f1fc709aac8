"""What members say to each other: typed messages, length-bounded and checksummed. Never pickle (hazard r08).

A frame is ``u32 length | u32 CRC32C of the body | body``, big endian, where the body is MessagePack
``[kind, cluster_id, node_id, term, fields…]``. Whatever does not fit one of the types below exactly is refused
with `FrameError`: an unknown kind, a wrong field, an integer out of range, another cluster's id, a length over
`FRAME_BYTES_MAX`. After a `FrameError` the connection is of no use and is closed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, TypeVar

import google_crc32c
import msgspec

from trivet.limits import FRAME_BYTES_MAX, ID_BYTES_MAX, INT64_MAX, INT64_MIN

PROTOCOL = 1
"""Raised when a message changes its meaning; members of different protocols do not talk."""

HEADER = struct.Struct(">II")
MEMBERS_MAX = 16
FRAME_ENTRIES_MAX = 65_536

Count = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
WallMs = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=ID_BYTES_MAX)]
LongText = Annotated[str, msgspec.Meta(max_length=4 * ID_BYTES_MAX)]
NodeId = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_BYTES_MAX)]
Digest = Annotated[bytes, msgspec.Meta(max_length=64)]
Checksum = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
LogItem = tuple[Count, bytes]
"""(term, data). The index follows from the place in the message."""


class FrameError(Exception):
    """These bytes are not a message of this cluster; the text says why."""


class Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """The common head. `term` is the sender's current term when it made the message."""

    cluster_id: Text
    node_id: NodeId
    term: Count


class Health(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """How the sender is (R1, R10): its wall clock, the free bytes of its disk, its memory over the limit; and how far
    it is, for operators: what it knows committed and has applied. Nothing is decided by these two."""

    wall_ms: WallMs
    free_bytes: Count
    memory_pressure: bool
    commit: Count = 0
    applied: Count = 0


class Hello(Message, tag="hello", frozen=True, gc=True):
    """First on every connection, and again whenever something in it changes.

    `phase`: empty | pending | born (R5). `recovering`: empty text in health, else why (R6); `session` names this
    run of the process, so that a release meant for an earlier one is not taken.
    """

    protocol: Count
    phase: Text
    members: Annotated[list[NodeId], msgspec.Meta(max_length=MEMBERS_MAX)]
    bootstrap: bool
    recovering: LongText
    session: Count
    api_url: LongText
    software: Text
    machine_version: Count
    health: Health


class PreVote(Message, tag="pre_vote", frozen=True):
    """Would you vote for me in term `term` + 1? Raises nobody's term (Ongaro 9.6)."""

    round: Count
    last_index: Count
    last_term: Count


class PreVoteReply(Message, tag="pre_vote_reply", frozen=True):
    round: Count
    granted: bool


class RequestVote(Message, tag="request_vote", frozen=True):
    last_index: Count
    last_term: Count


class Vote(Message, tag="vote", frozen=True):
    """A granted vote; refusals are silent or `StaleTerm`."""


class StaleTerm(Message, tag="stale_term", frozen=True):
    """The receiver spoke in an older term than `term`."""


class Append(Message, tag="append", frozen=True):
    """Entries behind (`prev_index`, `prev_term`), or none: a heartbeat.

    `release` (0: none) is R6: the index whose durable possession ends the recovery of run `session`.
    """

    seq: Count
    prev_index: Count
    prev_term: Count
    commit: Count
    release: Count
    session: Count
    health: Health
    entries: Annotated[list[LogItem], msgspec.Meta(max_length=FRAME_ENTRIES_MAX)]


class AppendReply(Message, tag="append_reply", frozen=True):
    """`ok`: this log equals the leader's through `match`, durably. Not `ok`: go on at index `next`."""

    seq: Count
    ok: bool
    match: Count
    next: Count
    recovering: bool
    session: Count
    health: Health


class SnapshotChunk(Message, tag="snapshot_chunk", frozen=True):
    """A piece of snapshot `name`. Empty `data` is the heartbeat of a transfer. The frame's CRC covers the piece,
    `crc` the whole body of `size` bytes; `digest` is the state's."""

    seq: Count
    name: Text
    index: Count
    index_term: Count
    members: Annotated[list[NodeId], msgspec.Meta(max_length=MEMBERS_MAX)]
    size: Count
    crc: Checksum
    digest: Digest
    offset: Count
    health: Health
    data: bytes


class SnapshotReply(Message, tag="snapshot_reply", frozen=True):
    """`offset`: the next byte wanted of `name`. `installed`: its state and log position are durable here."""

    seq: Count
    name: Text
    offset: Count
    installed: bool
    match: Count
    recovering: bool
    session: Count
    health: Health


class TimeoutNow(Message, tag="timeout_now", frozen=True):
    """Start an election at once: leadership is handed to you (Ongaro 3.10)."""


AnyMessage = (
    Hello
    | PreVote
    | PreVoteReply
    | RequestVote
    | Vote
    | StaleTerm
    | Append
    | AppendReply
    | SnapshotChunk
    | SnapshotReply
    | TimeoutNow
)

M = TypeVar("M", bound=Message)
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """The whole frame. Raises `FrameError` if it would be over the limit (a defect of the sender)."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameError(f"a {type(message).__name__} of {len(body)} bytes is over {FRAME_BYTES_MAX}")
    return HEADER.pack(len(body), google_crc32c.value(body)) + body


def decode_body(body: bytes, cluster_id: str | None) -> AnyMessage:
    """The message in a body whose length and CRC were right.

    `cluster_id`: the only cluster spoken to; None takes any. A `Hello` of a node without a cluster carries an
    empty id and passes: birth (R5) judges it.
    """
    try:
        message = _decoder.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise FrameError(f"not a message: {error}") from error
    if cluster_id is None or message.cluster_id == cluster_id or isinstance(message, Hello):
        return message
    raise FrameError(f"a {type(message).__name__} of cluster {message.cluster_id!r}, not {cluster_id!r}")


def decode(frame: bytes, cluster_id: str | None = None) -> AnyMessage:
    """One whole frame, as the simulator and the tests carry it."""
    reader = FrameReader()
    bodies = list(reader.feed(frame))
    if len(bodies) != 1 or reader.pending:
        raise FrameError(f"{len(bodies)} frames and {reader.pending} bytes where one frame was expected")
    return decode_body(bodies[0], cluster_id)


class FrameReader:
    """Cuts a byte stream into checked bodies; each byte is looked at a constant number of times (hazard r14)."""

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        """`limit`: the longest body taken; smaller before the peer has said who it is."""
        self.limit = limit
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies completed by `data`. Raises `FrameError` at the first bad header or checksum."""
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= HEADER.size:
                length, crc = HEADER.unpack_from(self._buffer, at)
                if length > self.limit:
                    raise FrameError(f"a frame of {length} bytes is over {self.limit}")
                end = at + HEADER.size + length
                if len(self._buffer) < end:
                    break
                body = bytes(memoryview(self._buffer)[at + HEADER.size : end])
                at = end
                if google_crc32c.value(body) != crc:
                    raise FrameError("a frame's checksum is wrong")
                yield body
        finally:
            del self._buffer[:at]
