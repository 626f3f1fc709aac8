"""The operator's verbs: queues, dead letters, the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trivet.client.calls import Calls, locally
from trivet.client.paths import at, given


class Admin(Calls):
    """Mixed into `Client`."""

    # --- queues -------------------------------------------------------------------------------------

    async def put_queue(
        self, queue: str, *, if_revision: int | None = None, request_id: str | None = None, **config: Any
    ) -> dict[str, Any]:
        """Create, or replace the configuration: what is not given is its default."""
        return await self._write(
            "PUT", at("queues", queue), config, request_id=request_id, if_revision=if_revision
        )

    async def patch_queue(
        self, queue: str, *, if_revision: int | None = None, request_id: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        return await self._write(
            "PATCH", at("queues", queue), changes, request_id=request_id, if_revision=if_revision
        )

    async def delete_queue(
        self, queue: str, *, if_revision: int | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """With its messages."""
        return await self._write(
            "DELETE", at("queues", queue), request_id=request_id, if_revision=if_revision
        )

    async def queue(self, queue: str, *, local: bool = False) -> dict[str, Any]:
        """Configuration and counts."""
        return await self._read(at("queues", queue), locally(local))

    async def queues(
        self, *, limit: int | None = None, after: str | None = None, local: bool = False
    ) -> dict[str, Any]:
        return await self._read("/v1/queues", {"limit": limit, "after": after, **locally(local)})

    async def pause_queue(
        self, queue: str, *, enqueue: bool = False, lease: bool = True, request_id: str | None = None
    ) -> dict[str, Any]:
        body = {"enqueue": enqueue, "lease": lease}
        return await self._write("POST", at("queues", queue, "pause"), body, request_id=request_id)

    async def resume_queue(self, queue: str, *, request_id: str | None = None) -> dict[str, Any]:
        return await self._write("POST", at("queues", queue, "resume"), {}, request_id=request_id)

    async def purge_queue(self, queue: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Removes what is not leased: `{"removed": n}`."""
        return await self._write("POST", at("queues", queue, "purge"), {}, request_id=request_id)

    async def messages(
        self,
        queue: str,
        *,
        state: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Browse without leasing, oldest first: `{"messages": […], "next"}`."""
        return await self._read(
            at("queues", queue, "messages"), {"state": state, "limit": limit, "after": after}
        )

    # --- dead letters -------------------------------------------------------------------------------

    async def dead_letters(
        self,
        queue: str,
        *,
        limit: int | None = None,
        after: str | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return await self._read(
            at("queues", queue, "dead"), {"limit": limit, "after": after, "reason": reason}
        )

    async def redrive(
        self,
        queue: str,
        *,
        ids: Sequence[str] | None = None,
        reason: str | None = None,
        limit: int | None = None,
        to: str | None = None,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Dead messages become ready again, their attempts begin anew: `{"redriven": n, "ids": […]}`."""
        body = given(
            ids=None if ids is None else list(ids), reason=reason, limit=limit, to=to, dry_run=dry_run or None
        )
        return await self._write("POST", at("queues", queue, "dead", "redrive"), body, request_id=request_id)

    async def purge_dead(self, queue: str, *, request_id: str | None = None) -> dict[str, Any]:
        return await self._write("DELETE", at("queues", queue, "dead"), request_id=request_id)

    # --- cluster ------------------------------------------------------------------------------------

    async def cluster(self) -> dict[str, Any]:
        """Members, quorum, leader, as the node asked sees them."""
        return await self._read("/v1/cluster")

    async def transfer_leadership(self, to: str | None = None) -> dict[str, Any]:
        """Asks the leader to hand over; visible in `cluster()` afterwards."""
        return await self._write("POST", "/v1/cluster/transfer", given(to=to))

    async def take_snapshot(self) -> dict[str, Any]:
        return await self._write("POST", "/v1/cluster/snapshot", {})

    async def digest(self) -> dict[str, Any]:
        """State digest at an index: equal indices have equal digests on every node."""
        return await self._read("/v1/cluster/digest")
