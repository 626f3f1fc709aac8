"""Snapshot bytes: whole and equal, or refused with a reason; every slice ends in time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from backports import zstd

from trivet.machine.commands import MACHINE_VERSION
from trivet.wire import snapshot as snap
from trivet.wire.snapshot import SnapshotHeader, SnapshotReader, SnapshotTrailer, SnapshotWriter


class Source:
    """Records from a list."""

    chain_digest = b"c" * 16

    def __init__(self, records: list[tuple[int, bytes]], index: int = 41) -> None:
        self.index = index
        self._left = iter(records)

    def next(self) -> tuple[int, bytes] | None:
        return next(self._left, None)


class Taker:
    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []

    def add(self, table: int, record: bytes) -> None:
        self.records.append((table, record))


def never() -> bool:
    return False


def always() -> bool:
    return True


def some_records(count: int = 400, seed: int = 1) -> list[tuple[int, bytes]]:
    rng = random.Random(seed)
    return [(rng.randrange(5), rng.randbytes(rng.choice((0, 1, 30, 900)))) for _ in range(count)]


def written(records: list[tuple[int, bytes]], out_of_time=never) -> list[bytes]:  # type: ignore[no-untyped-def]
    writer = SnapshotWriter(Source(records))
    pieces = []
    while (piece := writer.read(out_of_time)) is not None:
        pieces.append(piece)
    assert writer.read(out_of_time) is None
    return pieces


def read(data: bytes, piece_bytes: int = 1 << 20) -> tuple[SnapshotReader, Taker]:
    taker = Taker()
    reader = SnapshotReader(taker)
    for at in range(0, len(data), piece_bytes):
        assert reader.write(data[at : at + piece_bytes], never) == b""
    assert reader.finish(never)
    return reader, taker


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 1 << 20])
def test_round_trip(piece_bytes: int) -> None:
    records = some_records()
    reader, taker = read(b"".join(written(records)), piece_bytes)
    assert taker.records == records
    assert reader.header == SnapshotHeader(MACHINE_VERSION, 41)
    assert reader.trailer is not None
    assert reader.trailer.chain_digest == b"c" * 16
    assert dict(reader.trailer.counts) == {t: sum(1 for table, _ in records if table == t) for t in range(5)}


def test_nothing_is_a_state_too() -> None:
    reader, taker = read(b"".join(written([])))
    assert taker.records == []
    assert reader.trailer == SnapshotTrailer((), bytes(16), b"c" * 16)


def test_a_record_longer_than_blocks() -> None:
    rng = random.Random(3)
    records = [(1, b"first"), (2, rng.randbytes(5 * snap.BLOCK_BYTES + 3)), (1, b"last")]
    pieces = written(records)
    assert max(map(len, pieces)) < 2 * snap.BLOCK_BYTES
    _, taker = read(b"".join(pieces), 100_000)
    assert taker.records == records


def test_state_digest_does_not_depend_on_the_order() -> None:
    records = some_records()
    there, _ = read(b"".join(written(records)))
    back, _ = read(b"".join(written(records[::-1])))
    other, _ = read(b"".join(written([*records[1:], (records[0][0] + 1, records[0][1])])))
    assert there.trailer and back.trailer and other.trailer
    assert there.trailer.state_digest == back.trailer.state_digest != other.trailer.state_digest


def test_writer_gives_the_loop_back_after_each_record_when_out_of_time() -> None:
    records = some_records(50)
    pieces = written(records, always)
    assert pieces.count(b"") == 50
    assert b"".join(pieces) == b"".join(written(records))


def test_reader_takes_one_record_a_call_when_out_of_time() -> None:
    records = some_records(50)
    data = b"".join(written(records))
    taker = Taker()
    reader = SnapshotReader(taker)
    calls, rest = 0, data
    while rest:
        before = len(taker.records)
        rest = reader.write(rest, always)
        assert len(taker.records) - before <= 1
        calls += 1
    while not reader.finish(always):
        calls += 1
    assert taker.records == records
    assert calls >= 50


def test_records_still_waiting_when_the_bytes_are_all_taken_come_with_finish() -> None:
    """All bytes may be taken while the last block's records are not: `finish` hands them over."""
    crc_of = SnapshotWriter(Source(some_records(20)))
    head = crc_of.read(never)
    assert head is not None
    body = crc_of._block(1, b"".join(snap._RECORD.pack(1, 1) + b"x" for _ in range(3)))
    taker = Taker()
    reader = SnapshotReader(taker)
    assert reader.write(head + body, always) == b""
    assert len(taker.records) == 1
    assert not reader.finish(always)
    assert not reader.finish(always)
    with pytest.raises(ValueError, match="cut short"):
        reader.finish(never)
    assert len(taker.records) == 3


def test_every_cut_is_refused() -> None:
    data = b"".join(written(some_records(40)))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            read(data[:length])


def test_every_flipped_bit_is_refused() -> None:
    data = b"".join(written(some_records(12)))
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(ValueError):
                read(bytes(damaged))


def test_blocks_cannot_be_dropped_doubled_or_exchanged() -> None:
    pieces = written([(1, random.Random(n).randbytes(900)) for n in range(600)])
    head, first, second, *rest = pieces
    for order in ([head, second, *rest], [head, first, first, second, *rest], [head, second, first, *rest]):
        with pytest.raises(ValueError, match="CRC mismatch"):
            read(b"".join(order))


def test_bytes_after_the_trailer() -> None:
    data = b"".join(written(some_records(3)))
    with pytest.raises(ValueError, match="cut short"):
        read(data + b"x")
    with pytest.raises(ValueError, match="goes on after its trailer"):
        read(data + bytes(64))


class Forger(SnapshotWriter):
    """Writes well-sealed bytes that say something wrong."""

    def forge(self, *blocks: tuple[int, bytes]) -> bytes:
        return self._header() + b"".join(self._block(kind, raw) for kind, raw in blocks)

    def sealed(self, data: bytes) -> bytes:
        return self._header() + self._sealed(data)

    def bare(self, data: bytes) -> bytes:
        return self._sealed(data)


def forger() -> Forger:
    return Forger(Source([]))


GOOD_TRAILER = msgspec.msgpack.encode(SnapshotTrailer((), bytes(16), bytes(16)))


def blocks() -> Iterator[tuple[bytes, str]]:
    record = snap._RECORD.pack(1, 1) + b"x"
    yield forger().forge((3, b"")), "unknown kind 3"
    yield forger().forge((2, GOOD_TRAILER[:-1])), "snapshot trailer"
    yield forger().forge((2, msgspec.msgpack.encode(["x", b"", b""]))), "snapshot trailer"
    yield forger().forge((1, record), (2, GOOD_TRAILER)), "record counts differ"
    counted = msgspec.msgpack.encode(SnapshotTrailer(((1, 1),), bytes(16), bytes(16)))
    yield forger().forge((1, record), (2, counted)), "state digest differs"
    yield forger().forge((1, record[:-1]), (2, GOOD_TRAILER)), "last record is cut"
    long_record = snap._RECORD.pack(1, snap.RECORD_BYTES_MAX + 1)
    yield forger().forge((1, long_record)), "record of"
    stored = zstd.compress(b"abc")
    yield forger().sealed(snap._BLOCK.pack(1, snap.BLOCK_BYTES + 1, 0)), "longer than a block"
    yield forger().sealed(snap._BLOCK.pack(1, 3, snap.STORED_BYTES_MAX + 1)), "longer than a block"
    for raw_length in (0, 2, 4):
        yield forger().sealed(snap._BLOCK.pack(1, raw_length, len(stored)) + stored), "another length"
    yield forger().sealed(snap._BLOCK.pack(1, 3, len(stored) - 1) + stored[:-1]), "another length"
    yield forger().sealed(snap._BLOCK.pack(1, 3, len(stored) + 1) + stored + b"x"), "another length"
    yield forger().sealed(snap._BLOCK.pack(1, 3, 4) + b"junk"), "does not decompress"
    bomb = zstd.compress(bytes(50_000_000))
    yield forger().sealed(snap._BLOCK.pack(1, 100, len(bomb)) + bomb), "another length"
    start = snap._START
    newer = msgspec.msgpack.encode(SnapshotHeader(MACHINE_VERSION + 1, 1))
    yield (
        forger().bare(start.pack(snap.MAGIC, 1, len(newer)) + newer),
        f"machine version {MACHINE_VERSION + 1}",
    )
    older = msgspec.msgpack.encode(SnapshotHeader(1, 1))
    yield forger().bare(start.pack(snap.MAGIC, 1, len(older)) + older), "machine version 1"
    yield forger().bare(start.pack(snap.MAGIC, 1, 1) + b"\xc1"), "snapshot header"
    yield start.pack(snap.MAGIC, 2, 10) + bytes(14), "snapshot format 2"
    yield start.pack(snap.MAGIC, 1, snap.HEADER_BYTES_MAX + 1), "snapshot header of"
    yield start.pack(b"TRIVWHAT", 1, 10) + bytes(14), "not a snapshot"


@pytest.mark.parametrize(
    ("data", "reason"), list(blocks()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_forged_bytes(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(data)
