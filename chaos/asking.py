"""Plain questions to single nodes: one attempt, no redirect, no patience. (The SDK goes to whom it likes.)"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

ASK_SECONDS = 1.0

Said = tuple[int, dict[str, Any]]
"""Status and body; (0, {}) when no JSON object came back in time."""


class Asker:
    """`source`: the address to ask from. Close it."""

    def __init__(self, source: str | None = None) -> None:
        self._source = (source, 0) if source else None
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, timeout_s: float = ASK_SECONDS) -> Said:
        return await self._request("GET", url, None, timeout_s)

    async def post(self, url: str, body: dict[str, Any]) -> Said:
        return await self._request("POST", url, body, ASK_SECONDS)

    async def get_all(self, urls: list[str], path: str) -> list[Said]:
        """The same question to all, at once."""
        return await asyncio.gather(*(self.get(url + path) for url in urls))

    async def _request(self, method: str, url: str, body: Any, timeout_s: float) -> Said:
        if self._session is None:
            connector = aiohttp.TCPConnector(local_addr=self._source)
            self._session = aiohttp.ClientSession(connector=connector)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, url, json=body, timeout=timeout, allow_redirects=False
            ) as answer:
                found = json.loads(await answer.read() or b"{}")
                return answer.status, found if isinstance(found, dict) else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return 0, {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def not_ready_because(status: int, body: dict[str, Any]) -> str:
    """What `/readyz?verbose` says, in words."""
    failed = [name for name, good in body.get("checks", {}).items() if not good]
    return f"answers {status or 'nothing'} {' '.join(failed)}".rstrip()
