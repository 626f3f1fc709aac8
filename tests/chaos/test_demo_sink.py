"""The demo's sink: whatever SQLite does, every payment that waits is told."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from chaos.demo_sink import Sink, create, rows_by_effect

from trivet.client import Lease, NotPerformed

SHORT_S = 5.0


@dataclass
class Leased:
    left_s: float

    def remaining_s(self) -> float:
        return self.left_s


def _pay(sink: Sink, *effects: str, left_s: float = 60.0) -> list[BaseException | None]:
    async def pay() -> list[BaseException | None]:
        async with asyncio.timeout(SHORT_S):
            paying = (sink.pay(effect, cast(Lease, Leased(left_s))) for effect in effects)
            return await asyncio.gather(*paying, return_exceptions=True)

    return asyncio.run(pay())


def test_a_table_that_another_writer_never_leaves_costs_the_payment_not_its_caller(tmp_path: Path) -> None:
    path = tmp_path / "sink.db"
    create(path)
    sink = Sink(path, "w1", patience_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    outcomes = _pay(sink, "pay:1", "pay:2")
    other.execute("ROLLBACK")
    other.close()
    assert [type(one) for one in outcomes] == [NotPerformed, NotPerformed]
    assert rows_by_effect(path) == {}
    assert _pay(sink, "pay:1", "pay:2") == [None, None]
    assert rows_by_effect(path) == {"pay:1": 1, "pay:2": 1}


def test_what_sqlite_raises_reaches_all_that_paid_together(tmp_path: Path) -> None:
    path = tmp_path / "sink.db"
    create(path)
    sink = Sink(path, "w1")
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE payments")
    other.close()
    outcomes = _pay(sink, "pay:1", "pay:2")
    assert [type(one) for one in outcomes] == [sqlite3.OperationalError] * 2


@pytest.mark.parametrize("left_s", [0.4, 0.41])
def test_a_payment_is_begun_only_under_a_lease_that_is_long_enough(tmp_path: Path, left_s: float) -> None:
    path = tmp_path / "sink.db"
    create(path)
    [outcome] = _pay(Sink(path, "w1"), "pay:1", left_s=left_s)
    assert isinstance(outcome, NotPerformed) == (left_s <= 0.4)
    assert len(rows_by_effect(path)) == (left_s > 0.4)
