"""What each node says of itself, five times a second: `nodes.jsonl`, one line a node and sample.

`{"t":…,"node":"n1","up":true,"role":"leader","term":3,"leader":"n1","commit":812,"applied":812}`;
a node that did not answer in time has `"up": false` and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from chaos.asking import Asker

PERIOD_SECONDS = 0.2
PATIENCE_SECONDS = 0.5


class Timeline:
    """Samples `nodes` (id → base URL) from `start` until `stop`. `source`: the address to ask from."""

    def __init__(self, path: Path, nodes: dict[str, str], source: str | None = None) -> None:
        self._nodes = nodes
        self._asker = Asker(source)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch(name, url)) for name, url in self._nodes.items()]

    async def stop(self) -> None:
        """Raises what made a watcher end before its time, if anything did."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._asker.close()
        os.close(self._file)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _watch(self, name: str, url: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            next_s = loop.time() + PERIOD_SECONDS
            status, said = await self._asker.get(url + "/v1/cluster", PATIENCE_SECONDS)
            told = shown(said) if status == 200 else {"up": False}
            line = {"t": time.monotonic_ns(), "node": name, **told}
            os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")
            await asyncio.sleep(max(0.0, next_s - loop.time()))


def shown(said: dict[str, Any]) -> dict[str, Any]:
    """What of `/v1/cluster` goes into the line of the node that said it."""
    own: dict[str, Any] = next((one for one in said["members"] if one["id"] == said["node"]), {})
    return {
        "up": True,
        "role": own.get("role"),
        "term": said["term"],
        "leader": said["leader"],
        "commit": said["commit_index"],
        "applied": said["applied_index"],
        "recovering": bool(own.get("recovering")),
    }
