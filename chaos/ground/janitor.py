"""Leaves nothing behind: mounts and firewall rules outlive a process, so a shell waits beside the drill.

It holds one end of a pipe. When the drill ends without having cleaned up (an exception that nobody caught,
SIGTERM, SIGKILL), the kernel closes the other end and the shell runs the commands it was given.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

_SCRIPT = """trap '' HUP INT TERM
while read -r line; do [ "$line" = dismissed ] && exit 0; done
{commands}"""


class Janitor:
    """`commands` run if this process ends before `dismiss`. Each must name things of this run only, and
    may fail: the thing may be gone already."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        script = _SCRIPT.format(commands="\n".join(shlex.join(one) for one in commands))
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the drill's terminal is not for the janitor
        )

    @property
    def pid(self) -> int:
        return self._shell.pid

    def dismiss(self) -> None:
        """All is clean. Idempotent."""
        if self._shell.poll() is None:
            self._shell.communicate(b"dismissed\n", timeout=10)
