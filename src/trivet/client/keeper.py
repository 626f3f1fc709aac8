"""Keeps leases alive while their handlers run, and stops a handler whose lease is gone."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from trivet.client.errors import ApiError
from trivet.client.leases import Lease
from trivet.limits import SETTLE_BATCH_MAX

if TYPE_CHECKING:
    from trivet.client.client import Client

log = logging.getLogger("trivet.client.worker")

Lost = Callable[[Lease, str], None]
"""Told once for a lease that may no longer be trusted: the lease and the reason (`expired`, `stale_lease`,
`cancelled` …)."""

IDLE_S = 3600.0
RETRY_S_MIN = 0.01


class LeaseKeeper:
    """Extends every held lease at half of its length. A lease is lost when the cluster says so, when its
    message is cancelled, or when no extension was granted while it could be trusted (R35).

    One task watches the ends of all leases, and never waits for an answer: an extension may be retried for longer
    than a lease is, its own or another's. Whatever an extension or `lost` raises, the watch goes on.
    """

    def __init__(self, client: Client, lost: Lost) -> None:
        self._client = client
        self._lost = lost
        self._held: dict[str, Lease] = {}
        self._due_s: dict[str, float] = {}  # when to ask for an extension; never while one is under way
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, lease: Lease) -> None:
        self._held[lease.token] = lease
        self._plan(lease)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._changed.set()

    def drop(self, lease: Lease) -> None:
        """It is being settled: no more extensions."""
        self._held.pop(lease.token, None)
        self._due_s.pop(lease.token, None)

    async def close(self) -> None:
        """No extension is asked for any more."""
        tasks = [*self._asking, *([] if self._task is None else [self._task])]
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _plan(self, lease: Lease) -> None:
        self._due_s[lease.token] = lease.trusted_until_s - lease.lease_ms / 2000

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            for lease in [one for one in self._held.values() if one.cancelled or one.remaining_s() <= 0]:
                self._lose(lease, "cancelled" if lease.cancelled else "expired")
            now_s = self._client.clock.monotonic()
            self._ask([self._held[token] for token, due_s in self._due_s.items() if due_s <= now_s])
            ends = (one.trusted_until_s for one in self._held.values())
            next_s = min(min(self._due_s.values(), default=math.inf), min(ends, default=math.inf))
            try:
                async with asyncio.timeout(min(max(0.0, next_s - now_s), IDLE_S)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _ask(self, due: list[Lease]) -> None:
        for start in range(0, len(due), SETTLE_BATCH_MAX):
            part = due[start : start + SETTLE_BATCH_MAX]
            for lease in part:
                self._due_s[lease.token] = math.inf
            task = asyncio.create_task(self._extend(part))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _extend(self, due: list[Lease]) -> None:
        """One request for all that are due."""
        try:
            answer = await self._client.extend_many([(one, one.lease_ms) for one in due], strict=False)
            self._extended(zip(due, answer["results"], strict=True))
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("an extension failed; it is asked for again")
            self._retry_later(due)
        self._changed.set()

    def _extended(self, results: Iterable[tuple[Lease, dict[str, Any]]]) -> None:
        for lease, result in results:
            if lease.token not in self._held:
                continue  # settled meanwhile
            if lease.lost or lease.cancelled:
                self._lose(lease, "cancelled" if lease.cancelled else str(result["status"]))
            else:
                self._plan(lease)

    def _retry_later(self, due: list[Lease]) -> None:
        """The cluster did not extend: once more at half of what is left, until nothing is."""
        now_s = self._client.clock.monotonic()
        for lease in due:
            if lease.token in self._held:
                self._due_s[lease.token] = now_s + max(lease.remaining_s() / 2, RETRY_S_MIN)

    def _lose(self, lease: Lease, reason: str) -> None:
        self.drop(lease)
        lease.lost = True
        try:
            self._lost(lease, reason)
        except Exception:
            log.exception("the loss of the lease of %s could not be told", lease.id)
