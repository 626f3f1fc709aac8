"""Batches grow while a request is under way, and nobody waits for a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from trivet.client.batching import Batcher


class Wire:
    """Requests that end when the test says so."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.gates: list[asyncio.Future[Any]] = []

    async def send(self, items: Sequence[Any]) -> Sequence[Any]:
        self.sent.append(list(items))
        gate: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        outcome = await gate
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome(item) for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_comes_meanwhile_leaves_with_the_next_request() -> None:
    async def run() -> None:
        wire = Wire()
        batcher = Batcher(wire.send, count_max=3)
        first = batcher.submit(0)
        await settle()
        rest = [batcher.submit(n) for n in range(1, 6)]
        await settle()
        assert wire.sent == [[0]] and len(batcher) == 5
        wire.gates[0].set_result(lambda n: n * 10)
        assert await first == 0
        await settle()
        assert wire.sent == [[0], [1, 2, 3]]
        wire.gates[1].set_result(lambda n: n * 10)
        await settle()
        wire.gates[2].set_result(lambda n: n * 10)
        assert await asyncio.gather(*rest) == [10, 20, 30, 40, 50]

    asyncio.run(run())


def test_each_item_has_its_own_end() -> None:
    async def run() -> None:
        wire = Wire()
        batcher = Batcher(wire.send, count_max=10)
        good, bad = batcher.submit(1), batcher.submit(2)
        await settle()
        wire.gates[0].set_result(lambda n: ValueError("bad") if n == 2 else n)
        assert await good == 1
        with pytest.raises(ValueError, match="bad"):
            await bad

    asyncio.run(run())


def test_a_failed_request_fails_all_of_its_items_and_only_them() -> None:
    async def run() -> None:
        wire = Wire()
        batcher = Batcher(wire.send, count_max=2)
        items = [batcher.submit(n) for n in range(3)]
        await settle()
        wire.gates[0].set_result(OSError("gone"))
        await settle()
        wire.gates[1].set_result(lambda n: n)
        ends = await asyncio.gather(*items, return_exceptions=True)
        assert isinstance(ends[0], OSError) and isinstance(ends[1], OSError) and ends[2] == 2

    asyncio.run(run())


def test_at_most_in_flight_requests_at_once_and_drain_waits_for_all() -> None:
    async def run() -> None:
        wire = Wire()
        batcher = Batcher(wire.send, count_max=1, in_flight=2)
        items = [batcher.submit(n) for n in range(4)]
        await settle()
        assert len(wire.sent) == 2
        draining = asyncio.create_task(batcher.drain())
        for turn in range(4):
            assert not draining.done()
            wire.gates[turn].set_result(lambda n: n)
            await settle()
        await draining
        assert [item.result() for item in items] == [0, 1, 2, 3]

    asyncio.run(run())


def test_a_withdrawn_item_is_not_sent() -> None:
    async def run() -> None:
        wire = Wire()
        batcher = Batcher(wire.send, count_max=5)
        batcher.submit(0).cancel()
        kept = batcher.submit(1)
        await settle()
        assert wire.sent == [[1]]
        wire.gates[0].set_result(lambda n: n)
        assert await kept == 1

    asyncio.run(run())
