"""strace on a running process: system calls that are late, fail, or bring a signal.

Traps (reliability.md, C): `--seccomp-bpf` delivers no signals and says nothing; a call that is to be injected
must be in `trace=` too. So strace's own lines are never enough as evidence of what the process did.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from chaos.ground.tools import Unavailable, find

ATTACH_SECONDS = 15.0
DETACH_SECONDS = 5.0


@asynccontextmanager
async def traced(pid: int, options: Sequence[str]) -> AsyncIterator[Path]:
    """strace holds all threads of `pid` inside; yields its log. Raises `Unavailable` if it cannot attach."""
    with tempfile.TemporaryDirectory(prefix="trivet-strace-") as directory:
        log = Path(directory) / "log"
        log.touch()
        tracer = await asyncio.create_subprocess_exec(
            *(find("strace") or "strace", "-f", "-yy", "-o", str(log), "-p", str(pid), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            await _attached(tracer, pid)
            yield log
        finally:
            await _detach(tracer)


async def _attached(tracer: asyncio.subprocess.Process, pid: int) -> None:
    assert tracer.stderr is not None
    try:
        async with asyncio.timeout(ATTACH_SECONDS):
            said = (await tracer.stderr.readline()).decode(errors="replace").strip()
    except TimeoutError:
        said = f"nothing within {ATTACH_SECONDS:g} s"
    if "attached" not in said:
        raise Unavailable(f"strace did not attach to {pid}: it said {said or 'nothing'}")


async def _detach(tracer: asyncio.subprocess.Process) -> None:
    """A stopped process stays stopped, a running one goes on."""
    if tracer.returncode is None:
        tracer.send_signal(signal.SIGTERM)
    try:
        # The pipe is emptied too: strace writes a line for each thread that it lets go.
        await asyncio.wait_for(tracer.communicate(), DETACH_SECONDS)
    except TimeoutError:
        tracer.kill()
        await tracer.wait()
