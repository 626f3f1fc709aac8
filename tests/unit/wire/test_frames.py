"""Peer frames: every kind there and back, and everything that is refused."""

from __future__ import annotations

from typing import Any

import google_crc32c
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.limits import FRAME_BYTES_MAX, ID_BYTES_MAX, INT64_MAX, INT64_MIN
from trivet.wire import frames
from trivet.wire.frames import (
    HEADER,
    Append,
    AppendReply,
    FrameError,
    FrameReader,
    Health,
    Hello,
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    StaleTerm,
    TimeoutNow,
    Vote,
    decode,
    decode_body,
    encode,
)

HEALTH = Health(INT64_MIN, INT64_MAX, True)
HELLO = Hello("", "n1", 0, 1, "empty", ["n1", "n2"], True, "why", 7, "http://x", "0.1", 1, HEALTH)
ALL: list[Message] = [
    HELLO,
    PreVote("c", "n", 1, 2, 3, 4),
    PreVoteReply("c", "n", 1, 2, True),
    RequestVote("c", "n", 1, 2, 3),
    Vote("c", "n", 1),
    StaleTerm("c", "n", INT64_MAX),
    Append("c", "n", 1, 2, 3, 4, 5, 6, 7, HEALTH, [(1, b""), (2, b"\x00\xff")]),
    AppendReply("c", "n", 1, 2, False, 3, 4, True, 5, HEALTH),
    SnapshotChunk("c", "n", 1, 2, "s", 3, 4, ["n"], 5, 2**32 - 1, b"d", 6, HEALTH, b"data"),
    SnapshotReply("c", "n", 1, 2, "s", 3, True, 4, False, 5, HEALTH),
    TimeoutNow("c", "n", 1),
]


def framed(body: bytes) -> bytes:
    return HEADER.pack(len(body), google_crc32c.value(body)) + body


@pytest.mark.parametrize("message", ALL, ids=lambda m: type(m).__name__)
def test_there_and_back(message: Message) -> None:
    assert decode(encode(message)) == message
    assert decode(encode(message), "c") == message


def test_all_kinds_are_here() -> None:
    assert {type(message) for message in ALL} == set(Message.__subclasses__())


def test_another_cluster_is_refused_but_its_hello_is_judged_elsewhere() -> None:
    with pytest.raises(FrameError, match="a Vote of cluster 'c', not 'd'"):
        decode(encode(Vote("c", "n", 1)), "d")
    foreign = msgspec.structs.replace(HELLO, cluster_id="c")
    assert decode(encode(foreign), "d") == foreign


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {"kind": "vote"},
        ["no_such_kind", "c", "n", 1],
        ["vote", "c", "n"],
        ["vote", "c", "n", 1, "one too many"],
        ["vote", "c", "n", -1],
        ["vote", "c", "n", INT64_MAX + 1],
        ["vote", "c", "n", 2**64 - 1],
        ["vote", "c", "n", 1.0],
        ["vote", "c", "n", "1"],
        ["vote", "c", "", 1],
        ["vote", "c", "n" * (ID_BYTES_MAX + 1), 1],
        ["vote", "c" * (ID_BYTES_MAX + 1), "n", 1],
        ["vote", 5, "n", 1],
        ["pre_vote_reply", "c", "n", 1, 2, 1],
        ["append", "c", "n", 1, 2, 3, 4, 5, 6, 7, [0, 0, False], [[1]]],
        ["append", "c", "n", 1, 2, 3, 4, 5, 6, 7, [0, 0, False], [[1, "text"]]],
        ["append", "c", "n", 1, 2, 3, 4, 5, 6, 7, [0, 0], []],
        ["append", "c", "n", 1, 2, 3, 4, 5, 6, 7, [INT64_MAX + 1, 0, False], []],
        ["append", "c", "n", 1, 2, 3, 4, 5, 6, 7, [0, -1, False], []],
        ["append", "c", "n", 1, 2, 3, 4, 5, 6, 7, [0, 0, False], None],
        ["snapshot_chunk", "c", "n", 1, 2, "s", 3, 4, ["n"] * 17, 5, 6, b"", 6, [0, 0, False], b""],
        ["snapshot_chunk", "c", "n", 1, 2, "s", 3, 4, ["n"], 5, 2**32, b"", 6, [0, 0, False], b""],
        ["snapshot_chunk", "c", "n", 1, 2, "s", 3, 4, ["n"], 5, 6, b"d" * 65, 6, [0, 0, False], b""],
    ],
)
def test_what_does_not_fit_is_refused(fields: Any) -> None:
    body = msgspec.msgpack.encode(fields)
    with pytest.raises(FrameError, match="not a message"):
        decode(framed(body))


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x91" * 5000, b"\xa4vot", encode(Vote("c", "n", 1))[8:] + b"\x00"]
)
def test_broken_message_pack_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError, match="not a message"):
        decode_body(body, None)


def test_a_pickle_is_only_bytes() -> None:
    """r08: one such message ran code."""
    with pytest.raises(FrameError):
        decode(framed(b"cos\nsystem\n(S'touch /tmp/owned'\ntR."))


def test_a_length_over_the_limit_is_refused_before_anything_is_kept() -> None:
    reader = FrameReader()
    with pytest.raises(FrameError, match="over"):
        list(reader.feed(HEADER.pack(FRAME_BYTES_MAX + 1, 0)))
    assert list(FrameReader().feed(HEADER.pack(FRAME_BYTES_MAX, 0))) == []
    small = FrameReader(limit=10)
    assert list(small.feed(framed(b"0123456789"))) == [b"0123456789"]
    with pytest.raises(FrameError, match="a frame of 11 bytes is over 10"):
        list(small.feed(framed(b"0123456789a")))


def test_too_long_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 100)
    with pytest.raises(FrameError, match="a SnapshotChunk of"):
        encode(SnapshotChunk("c", "n", 1, 2, "s", 3, 4, ["n"], 5, 6, b"", 6, HEALTH, b"x" * 100))


def test_a_flipped_bit_is_noticed() -> None:
    frame = bytearray(encode(ALL[6]))
    for place in range(4, len(frame)):
        frame[place] ^= 1
        with pytest.raises(FrameError):
            decode(bytes(frame))
        frame[place] ^= 1
    assert decode(bytes(frame)) == ALL[6]


def test_exactly_one_frame() -> None:
    one = encode(ALL[4])
    for wrong in (b"", one[:-1], one + b"\x00", one + one):
        with pytest.raises(FrameError, match="where one frame was expected"):
            decode(wrong)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, len(ALL) - 1), max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=200)
)
def test_a_stream_in_any_pieces(order: list[int], cuts: list[int]) -> None:
    stream = b"".join(encode(ALL[i]) for i in order)
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        got += [decode_body(body, None) for body in reader.feed(stream[at : at + size])]
        at, turn = at + size, turn + 1
    assert got == [ALL[i] for i in order] and reader.pending == 0


def test_what_came_before_a_bad_frame_counts() -> None:
    reader = FrameReader()
    bad = bytearray(encode(ALL[4]))
    bad[-1] ^= 1
    bodies = reader.feed(encode(ALL[5]) + bytes(bad))
    assert decode_body(next(bodies), None) == ALL[5]
    with pytest.raises(FrameError, match="checksum"):
        next(bodies)
