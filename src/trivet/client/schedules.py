"""Schedules: messages at the times of a calendar, or in an interval."""

from __future__ import annotations

from typing import Any

from trivet.client.paths import at, given, query_of
from trivet.client.session import Session


class Schedules:
    """Mixed into `Client`. Answers are plain dicts in api.md's shapes."""

    session: Session

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
        return await self._schedule("PUT", name, "", document, request_id, if_revision)

    async def delete_schedule(
        self, name: str, *, if_revision: int | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """The messages it has made stay."""
        return await self._schedule("DELETE", name, "", None, request_id, if_revision)

    async def pause_schedule(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Slots while it is paused get no message, then or later."""
        return await self._schedule("POST", name, "pause", None, request_id)

    async def resume_schedule(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Go on with the next slot."""
        return await self._schedule("POST", name, "resume", None, request_id)

    async def run_schedule(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Its message now, by hand: `{"message_id", …}`. It takes no slot."""
        return await self._schedule("POST", name, "run", None, request_id)

    async def schedule(self, name: str, *, local: bool = False) -> dict[str, Any]:
        """With the next five fires, its message, and what became of its slots."""
        path = at("schedules", name) + query_of({"consistency": "local" if local else None})
        result = await self.session.call("GET", path)
        answer: dict[str, Any] = result.data
        return answer

    async def schedules(self, *, limit: int | None = None, after: str | None = None) -> dict[str, Any]:
        """By name, without their messages: `{"schedules": […], "next"}`."""
        result = await self.session.call("GET", "/v1/schedules" + query_of({"limit": limit, "after": after}))
        answer: dict[str, Any] = result.data
        return answer

    async def _schedule(
        self,
        method: str,
        name: str,
        verb: str,
        document: Any,
        request_id: str | None,
        if_revision: int | None = None,
    ) -> dict[str, Any]:
        path = at("schedules", name, verb) if verb else at("schedules", name)
        headers = {} if if_revision is None else {"If-Match": str(if_revision)}
        result = await self.session.call(method, path, document, request_id=request_id, headers=headers)
        answer: dict[str, Any] = result.data
        return answer
