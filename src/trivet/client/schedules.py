"""Schedules: messages at the times of a calendar, or in an interval."""

from __future__ import annotations

from typing import Any

from trivet.client.calls import Calls, locally
from trivet.client.paths import at, given


class Schedules(Calls):
    """Mixed into `Client`."""

    async def put_schedule(
        self,
        name: str,
        queue: str,
        body: Any = None,
        *,
        cron: str | None = None,
        every_ms: int | None = None,
        timezone: str | None = None,
        misfire: str | None = None,
        overlap: str | None = None,
        if_revision: int | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Create, or replace: `cron` (five fields, in `timezone`) or `every_ms`. `fields` of the message as in
        `Message`. The same again changes nothing, so every deployment may put all of its schedules."""
        told = given(cron=cron, every_ms=every_ms, timezone=timezone, misfire=misfire, overlap=overlap)
        document = {**told, "queue": queue, "message": {"body": body, **fields}}
        return await self._write(
            "PUT", at("schedules", name), document, request_id=request_id, if_revision=if_revision
        )

    async def delete_schedule(
        self, name: str, *, if_revision: int | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """The messages it has made stay."""
        return await self._write(
            "DELETE", at("schedules", name), request_id=request_id, if_revision=if_revision
        )

    async def pause_schedule(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Slots while it is paused get no message, then or later."""
        return await self._write("POST", at("schedules", name, "pause"), request_id=request_id)

    async def resume_schedule(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Go on with the next slot."""
        return await self._write("POST", at("schedules", name, "resume"), request_id=request_id)

    async def run_schedule(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Its message now, by hand: `{"message_id", …}`. It takes no slot."""
        return await self._write("POST", at("schedules", name, "run"), request_id=request_id)

    async def schedule(self, name: str, *, local: bool = False) -> dict[str, Any]:
        """With the next five fires, its message, and what became of its slots."""
        return await self._read(at("schedules", name), locally(local))

    async def schedules(self, *, limit: int | None = None, after: str | None = None) -> dict[str, Any]:
        """By name, without their messages: `{"schedules": […], "next"}`."""
        return await self._read("/v1/schedules", {"limit": limit, "after": after})
