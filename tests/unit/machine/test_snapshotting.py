"""The builder refuses what makes no machine; an old machine can be taken apart. Walks: tests/machine/test_cuts.py."""

from __future__ import annotations

import gc

import msgspec
import pytest

from tests.machine.harness import records
from tests.unit.machine.kit import Kit, token
from trivet.machine.commands import DeleteQueue, Draft, EffectBegin, Extras
from trivet.machine.core import Machine
from trivet.machine.snapshotting import EFFECTS, HEADER, MESSAGES, Builder, dismantle
from trivet.machine.state import KeyRecord, Message, Queue


def some_machine() -> Kit:
    kit = Kit()
    (first,) = kit.put("a")
    kit.put(*(Draft(b"%d" % n, group=f"g{n % 3}", key=f"k{n}") for n in range(30)))
    kit.put(Draft(extras=Extras(depends_on=(first,))))
    kit.put("gone", queue="other")
    grants = kit.lease(4)
    kit.ack(grants[0])
    kit.nack(grants[1], dead_letter=True)
    kit(EffectBegin("e", "o", token(grants[2]), True))
    kit(DeleteQueue("other"))
    return kit


def test_the_header_comes_first_and_once() -> None:
    found = records(some_machine().m)
    with pytest.raises(ValueError, match="before the header"):
        Builder().add(*found[1])
    builder = Builder()
    builder.add(*found[0])
    with pytest.raises(ValueError, match="second header"):
        builder.add(*found[0])
    with pytest.raises(ValueError, match="no header"):
        Builder().finish()


@pytest.mark.parametrize(
    ("table", "data", "reason"),
    [
        (99, b"\x90", "unknown table 99"),
        (MESSAGES, b"\xc1", "a record of messages cannot be read"),
        (EFFECTS, b"\x93\x01\x02\x03", "a record of effects cannot be read"),
        (HEADER, b"\xc1", "a record of header cannot be read|a second header"),
    ],
)
def test_records_that_cannot_be(table: int, data: bytes, reason: str) -> None:
    builder = Builder()
    builder.add(*records(some_machine().m)[0])
    with pytest.raises(ValueError, match=reason):
        builder.add(table, data)


def test_a_header_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="a record of header cannot be read"):
        Builder().add(HEADER, b"\xc1")


def test_a_message_needs_its_queue() -> None:
    found = records(some_machine().m)
    builder = Builder()
    builder.add(*found[0])
    message = next(item for item in found if item[0] == MESSAGES)
    with pytest.raises(ValueError, match="a record of messages cannot be read: KeyError"):
        builder.add(*message)


def test_records_are_plain_data() -> None:
    """So that any tool can read a snapshot without this code."""
    for _, data in records(some_machine().m):
        assert isinstance(msgspec.msgpack.decode(data), list)


def test_a_machine_taken_apart_holds_nothing_and_no_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        before = count()
        kit = some_machine()
        machine, kit.m = kit.m, Machine()
        assert count() > before + 30
        pieces = sum(1 for _ in dismantle(machine))
        assert pieces > 10
        assert not machine.messages and not machine.leases and not machine.queues
        del machine
        assert count() == before
    finally:
        gc.enable()


def count() -> int:
    return sum(isinstance(each, Message | Queue | KeyRecord) for each in gc.get_objects())
