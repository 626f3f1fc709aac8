"""Keeps leases alive while their handlers run, and stops a handler whose lease is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from trivet.client.errors import ApiError
from trivet.client.leases import Lease
from trivet.limits import SETTLE_BATCH_MAX

if TYPE_CHECKING:
    from trivet.client.client import Client

Lost = Callable[[Lease, str], None]
"""Told once for a lease that may no longer be trusted: the lease and the reason (`expired`, `stale_lease`,
`cancelled` …)."""

IDLE_S = 3600.0


class LeaseKeeper:
    """Extends every held lease at half of its length. A lease is lost when the cluster says so, when its
    message is cancelled, or when no extension was granted while it could be trusted (R35)."""

    def __init__(self, client: Client, lost: Lost) -> None:
        self._client = client
        self._lost = lost
        self._held: dict[str, Lease] = {}
        self._due_s: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

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
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _plan(self, lease: Lease) -> None:
        self._due_s[lease.token] = lease.trusted_until_s - lease.lease_ms / 2000

    async def _run(self) -> None:
        clock = self._client.clock
        while True:
            now_s = clock.monotonic()
            due = [self._held[token] for token, due_s in self._due_s.items() if due_s <= now_s]
            if due:
                await self._extend(due[:SETTLE_BATCH_MAX])
                continue
            self._changed.clear()
            wait_s = min(self._due_s.values(), default=now_s + IDLE_S) - now_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _extend(self, due: list[Lease]) -> None:
        """One request for all that are due. The retries inside may outlast a lease: watch the clock."""
        for lease in due:
            self._due_s[lease.token] = lease.trusted_until_s  # the deadline, until we know better
        asking = asyncio.create_task(
            self._client.extend_many([(one, one.lease_ms) for one in due], strict=False)
        )
        try:
            while not asking.done():
                self._give_up_expired(due)
                left_s = min((one.remaining_s() for one in due if not one.lost), default=IDLE_S)
                await asyncio.wait({asking}, timeout=left_s + 0.001)
        except asyncio.CancelledError:
            asking.cancel()
            raise
        try:
            answer = asking.result()
        except ApiError:
            self._retry_later(due)
            return
        for lease, result in zip(due, answer["results"], strict=True):
            if lease.token not in self._held:
                continue  # settled meanwhile
            if lease.lost or lease.cancelled:
                self._lose(lease, "cancelled" if lease.cancelled else str(result["status"]))
            else:
                self._plan(lease)

    def _retry_later(self, due: list[Lease]) -> None:
        """The cluster did not extend: once more at half of what is left, until nothing is."""
        now_s = self._client.clock.monotonic()
        self._give_up_expired(due)
        for lease in due:
            if lease.token in self._held:
                self._due_s[lease.token] = now_s + max(lease.remaining_s() / 2, 0.01)

    def _give_up_expired(self, leases: list[Lease]) -> None:
        for lease in leases:
            if lease.token in self._held and lease.remaining_s() <= 0:
                lease.lost = True
                self._lose(lease, "expired")

    def _lose(self, lease: Lease, reason: str) -> None:
        self.drop(lease)
        lease.lost = True
        self._lost(lease, reason)
