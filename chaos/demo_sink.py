"""The outside world of the demo: a table in which every payment that happened is a row.

It has no unique key on purpose: if the same payment happened twice, two rows tell. Rows are written with
fsync, many in one transaction (`Sink.pay` calls that wait together share one).
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trivet.client import Lease, NotPerformed

PATIENCE_S = 10.0
"""How long a payment waits for its turn: SQLite lets one process write at a time, and is not fair."""
MARGIN_S = 0.4
"""A payment is begun only while its lease may be trusted so much longer: whoever takes the message over
must find the row already there."""


def create(path: Path) -> None:
    with _open(path) as database:
        database.execute("CREATE TABLE payments (effect_id TEXT NOT NULL, worker TEXT NOT NULL)")
        database.execute("CREATE INDEX by_effect ON payments (effect_id)")
    database.close()


def rows_by_effect(path: Path) -> dict[str, int]:
    database = _open(path)
    try:
        return dict(database.execute("SELECT effect_id, count(*) FROM payments GROUP BY effect_id"))
    finally:
        database.close()


def _open(path: Path, patience_s: float = PATIENCE_S) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=patience_s, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    return database


class Sink:
    """One worker's way to the table. Its own thread talks to SQLite."""

    def __init__(self, path: Path, worker: str, patience_s: float = PATIENCE_S) -> None:
        self._worker = worker
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._database = _open(path, patience_s)
        self._waiting: list[tuple[str, Lease, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def pay(self, effect_id: str, lease: Lease) -> None:
        """Returns when the row is durable. Raises `NotPerformed` if it was certainly not written, and what SQLite
        raised where nobody knows."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((effect_id, lease, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        if not await done:
            raise NotPerformed("the table was not free while the lease was long enough")

    async def has(self, effect_id: str) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._look, effect_id)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            batch = [one for one in batch if not one[2].cancelled()]
            try:
                written = await loop.run_in_executor(self._thread, self._insert, batch)
            except sqlite3.Error as error:
                for _, _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, _, done), ok in zip(batch, written, strict=True):
                if not done.done():
                    done.set_result(ok)

    def _insert(self, batch: list[tuple[str, Lease, asyncio.Future[bool]]]) -> list[bool]:
        try:
            self._database.execute("BEGIN IMMEDIATE")  # the wait for other writers comes first
        except sqlite3.OperationalError:  # it did not end in time, and nothing was begun
            return [False] * len(batch)
        with self._database:
            fit = [lease.remaining_s() > MARGIN_S for _, lease, _ in batch]
            self._database.executemany(
                "INSERT INTO payments VALUES (?, ?)",
                [(effect_id, self._worker) for (effect_id, _, _), ok in zip(batch, fit, strict=True) if ok],
            )
        return fit

    def _look(self, effect_id: str) -> bool:
        found = self._database.execute("SELECT 1 FROM payments WHERE effect_id = ?", (effect_id,)).fetchone()
        return found is not None
