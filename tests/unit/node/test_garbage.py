"""The collector never looks at the whole state while a node runs (R9)."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Iterator

import pytest

from tests.loopback import Loopback, run, until
from trivet.errors import TrivetError
from trivet.machine.commands import DeleteQueue, PurgeQueue, Request
from trivet.node.garbage import TIMERS, Garbage
from trivet.node.waiters import Ask


class Knot:
    """A cycle."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    before = gc.get_threshold()
    one = Garbage()
    one.start()
    yield one
    one.stop()
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0


def test_what_lives_on_is_frozen_and_never_looked_at_again(garbage: Garbage) -> None:
    full, frozen = gc.get_stats()[2]["collections"], gc.get_freeze_count()
    state = []
    for n in range(100_000):
        state.append([n])
        if n % 500 == 0:
            garbage.on_timer()
    assert gc.get_stats()[2]["collections"] == full
    assert gc.get_freeze_count() - frozen > 90_000


def test_what_makes_no_work_for_the_collector_is_frozen_while_it_is_small(garbage: Garbage) -> None:
    """A queue of plain records, filled by an install, was walked through with a million of them (R9)."""
    grows: deque[int] = deque()
    garbage.on_timer()
    young = [len(grows)]
    for n in range(50_000):
        grows.append(n)
        if n % 100 == 0:
            garbage.on_timer()
            if any(one is grows for generation in (0, 1) for one in gc.get_objects(generation)):
                young.append(len(grows))
    assert max(young) <= 100 * TIMERS


def test_young_cycles_are_still_found(garbage: Garbage) -> None:
    found = sum(stats["collected"] for stats in gc.get_stats())
    for n in range(20_000):
        Knot()
        if n % 500 == 0:
            garbage.on_timer()
    assert sum(stats["collected"] for stats in gc.get_stats()) - found > 18_000


def test_the_last_of_several_nodes_gives_the_collector_back(garbage: Garbage) -> None:
    during = gc.get_threshold()
    other = Garbage()
    other.stop()
    other.start()
    other.start()
    other.stop()
    assert gc.get_threshold() == during


def cycles_of(count: int) -> int:
    """Objects in cycles that so many polls, refused writes and failed reads leave behind."""

    async def test(node: Loopback) -> None:
        waiting = [
            asyncio.create_task(node.waiters.lease(Ask(("q",), "c", wait_ms=9000))) for _ in range(count)
        ]
        await until(lambda: node.waiters.parked == count)
        await node.broker.submit(Request(DeleteQueue("q")))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, TrivetError) for one in ended)
        node.reads_fail = True
        for _ in range(count):
            with pytest.raises(TrivetError):
                await node.broker.submit(Request(PurgeQueue("none")))
            with pytest.raises(TrivetError):
                await node.broker.read(lambda machine: None)

    gc.collect()
    gc.disable()
    try:
        run(test)
        return gc.collect()
    finally:
        gc.enable()


def test_waits_that_end_by_an_error_leave_no_cycle() -> None:
    """What waits is frozen meanwhile; a cycle of it and of its error would never be found (4 kB for each poll)."""
    cycles_of(1)  # what the first run makes once
    assert cycles_of(80) - cycles_of(40) < 40
