"""The applier: entries in slices, no-ops, installs that are refused. Exchanges: tests/machine/test_cuts.py."""

from __future__ import annotations

import pytest

from trivet.machine.commands import MACHINE_VERSION, Draft, Enqueue, Genesis, Request
from trivet.machine.effects import EntryEffects
from trivet.machine.replies import Enqueued
from trivet.node.applier import Applier
from trivet.wire.entry import MalformedEntry, UnsupportedEntry, encode_entry, join_entry

GENESIS = Request(Genesis("c", b"s" * 32, ("n1",)))


def put(queue: str, *bodies: bytes) -> Request:
    return Request(Enqueue(queue, tuple(Draft(body) for body in bodies)))


def never() -> bool:
    return False


def always() -> bool:
    return True


class Bench:
    def __init__(self) -> None:
        self.told: list[tuple[int, list[str]]] = []
        self.applier = Applier(self._effects)
        self.feed(encode_entry(MACHINE_VERSION, 1000, [GENESIS]))

    def _effects(self, index: int, effects: EntryEffects) -> None:
        self.told.append((index, list(effects.ready)))

    def feed(self, data: bytes) -> None:
        self.applier.start(self.applier.applied_index + 1, 7, data)
        assert self.applier.step(never)

    def snapshot(self) -> bytes:
        source = self.applier.open_snapshot()
        pieces = []
        while (piece := source.read(never)) is not None:
            pieces.append(piece)
        source.close()
        return b"".join(pieces)


def test_an_entry_in_slices() -> None:
    bench = Bench()
    applier = bench.applier
    applier.start(2, 7, encode_entry(MACHINE_VERSION, 2000, [put("a", b"1"), put("b", b"2"), put("a", b"3")]))
    steps = 1
    while not applier.step(always):
        assert applier.busy and applier.applied_index == 1, "it moves when the entry is whole"
        assert len(bench.told) == 1, "effects are told when the entry is whole"
        steps += 1
    assert steps == 4 and not applier.busy
    assert applier.applied_index == 2
    assert [answer.seq for answer in applier.result] == [0, 1, 2]
    assert all(isinstance(answer.reply, Enqueued) and answer.index == 2 for answer in applier.result)
    assert bench.told[-1] == (2, ["a", "b"])
    assert applier.machine.clock_ms == 2000


def test_the_no_op_moves_the_index_and_nothing_else() -> None:
    bench = Bench()
    before = bench.applier.machine.digest()
    bench.feed(b"")
    assert (bench.applier.applied_index, bench.applier.result) == (2, [])
    assert bench.applier.machine.clock_ms == 1000
    assert bench.applier.machine.digest() != before, "the chain holds every index"


def test_what_cannot_be_read_ends_the_node() -> None:
    bench = Bench()
    with pytest.raises(UnsupportedEntry):
        bench.applier.start(2, 7, join_entry(99, 0, ()))
    bench.applier.start(2, 7, encode_entry(MACHINE_VERSION, 0, [put("a", b"1")]) + b"more")
    assert not bench.applier.step(always)
    with pytest.raises(MalformedEntry):
        bench.applier.step(never)


def test_entries_come_in_turn() -> None:
    bench = Bench()
    with pytest.raises(AssertionError, match="entry 3 after 1"):
        bench.applier.start(3, 7, b"")
    with pytest.raises(AssertionError, match="no entry is under way"):
        bench.applier.step(never)
    bench.applier.start(2, 7, b"")
    with pytest.raises(AssertionError, match="still under way"):
        bench.applier.start(3, 7, b"")
    with pytest.raises(AssertionError, match="between two entries"):
        bench.applier.open_snapshot()


def test_an_install_of_another_index_or_of_damaged_bytes_leaves_the_old_machine() -> None:
    bench = Bench()
    data = bench.snapshot()
    other = Bench()
    other.feed(encode_entry(MACHINE_VERSION, 5, [put("kept", b"1")]))
    machine = other.applier.machine
    sink = other.applier.begin_install()
    assert sink.write(data, never) == b""
    with pytest.raises(ValueError, match="snapshot of index 1, expected 9"):
        sink.check(9, never)
    damaged = data[:-30] + bytes([data[-30] ^ 1]) + data[-29:]
    sink = other.applier.begin_install()
    with pytest.raises(ValueError, match="damaged"):
        sink.write(damaged, never)
    sink.abort()
    assert other.applier.machine is machine and "kept" in machine.queues


def test_a_trailer_with_another_chain_is_refused() -> None:
    bench = Bench()
    source = bench.applier.open_snapshot()
    source._writer._records.chain_digest = b"x" * 16  # type: ignore[attr-defined]
    pieces = []
    while (piece := source.read(never)) is not None:
        pieces.append(piece)
    sink = Bench().applier.begin_install()
    sink.write(b"".join(pieces), never)
    with pytest.raises(ValueError, match="chain digest"):
        sink.check(1, never)


def test_a_replaced_machine_is_freed_piece_by_piece_between_entries() -> None:
    bench = Bench()
    data = bench.snapshot()
    bench.feed(encode_entry(MACHINE_VERSION, 5, [put(f"q{n}", *[b"x"] * 50) for n in range(40)]))
    old = bench.applier.machine
    sink = bench.applier.begin_install()
    sink.write(data, never)
    assert sink.check(1, never)
    sink.finish()
    assert len(old.messages) == 2000
    freed_after = 0
    while old.messages or old.queues:
        left = 3

        def out_of_time() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        bench.applier.start(bench.applier.applied_index + 1, 7, b"")
        assert bench.applier.step(out_of_time)
        freed_after += 1
    assert freed_after > 10


def test_an_install_while_an_entry_is_under_way_drops_the_entry() -> None:
    bench = Bench()
    data = bench.snapshot()
    bench.applier.start(2, 7, encode_entry(MACHINE_VERSION, 5, [put("a", b"1"), put("a", b"2")]))
    assert not bench.applier.step(always)
    sink = bench.applier.begin_install()
    sink.write(data, never)
    assert sink.check(1, never)
    sink.finish()
    assert not bench.applier.busy and bench.applier.applied_index == 1
    bench.feed(b"")
