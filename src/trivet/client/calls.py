"""What every part of `Client` makes its requests with. Answers are plain dicts in api.md's shapes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from trivet.client.paths import query_of
from trivet.client.session import Session
from trivet.limits import WAIT_MS_MAX

LONGEST_WAIT_MS = min(WAIT_MS_MAX, 20_000)


class Calls:
    """The base of what is mixed into `Client`."""

    session: Session

    async def _write(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        request_id: str | None = None,
        if_revision: int | None = None,
    ) -> dict[str, Any]:
        headers = None if if_revision is None else {"If-Match": str(if_revision)}
        result = await self.session.call(method, path, body, request_id=request_id, headers=headers)
        answer: dict[str, Any] = result.data if result.data is not None else {}
        return answer

    async def _read(
        self, path: str, query: Mapping[str, Any] | None = None, *, wait_ms: int = 0
    ) -> dict[str, Any]:
        """`wait_ms`: how long the answer may be waited for, as the query says."""
        result = await self.session.call("GET", path + query_of(query or {}), wait_ms=wait_ms)
        answer: dict[str, Any] = result.data
        return answer

    async def _read_once(self, ended: Container[str], path: str, timeout_s: float) -> dict[str, Any]:
        """Once its `state` is one of `ended`, or as it is after `timeout_s` seconds: long polls."""
        clock = self.session.clock
        end_s = clock.monotonic() + timeout_s
        while True:
            left_ms = int((end_s - clock.monotonic()) * 1000)
            wait_ms = max(0, min(left_ms, LONGEST_WAIT_MS))
            found = await self._read(path, {"wait_ms": wait_ms or None}, wait_ms=wait_ms)
            if found["state"] in ended or clock.monotonic() >= end_s:
                return found


def locally(local: bool) -> dict[str, str | None]:
    """The query of a read that any node may answer from its own state."""
    return {"consistency": "local" if local else None}
