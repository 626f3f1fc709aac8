"""Servers as child processes that never outlive the bench."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def spawn(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    """A session of its own: a Ctrl-C in the terminal is the bench's to handle."""
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


async def end(process: asyncio.subprocess.Process, grace_s: float = 15) -> None:
    """SIGTERM, and SIGKILL after the grace."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), grace_s)
    except TimeoutError:
        process.kill()
        await process.wait()


async def until(ready: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60) -> None:
    """Ask until it is so. Raises `TimeoutError` with `what`."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    while not await ready():
        if loop.time() > end_s:
            raise TimeoutError(f"{what} after {timeout_s:g} s")
        await asyncio.sleep(0.1)
