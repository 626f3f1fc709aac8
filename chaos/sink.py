"""The outside world of a drill: counts what really happened.

Deliberately not idempotent: told twice, it does it twice, and its file has two lines. It knows nothing of
the broker. An execution is one append; it is checked against its lease and done without giving up the
event loop in between, so a lease cannot run out between the check and the deed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from trivet.client import Lease, NotPerformed

MARGIN_S = 0.3
"""Nothing is begun under a lease that may be trusted for less (R35): whoever takes the message over must
find the line already there."""


class Sink:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.executions = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def execute(self, effect_id: str, lease: Lease, proc: str) -> None:
        """Do it. Raises `NotPerformed`, and does nothing, if the lease is too short by now."""
        if lease.remaining_s() <= MARGIN_S:
            raise NotPerformed(f"the lease of {lease.id} is too short now")
        line = {
            "t": time.monotonic_ns(),
            "effect_id": effect_id,
            "id": lease.id,
            "lease_token": lease.token,
            "proc": proc,
        }
        data = msgspec.json.encode(line) + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError(f"{self.path}: the execution could not be written")
        self.executions += 1

    def has(self, effect_id: str) -> bool:
        """Whether it was executed. Reads the file: that is what the outside world remembers."""
        return b'"effect_id":' + msgspec.json.encode(effect_id) in self.path.read_bytes()

    def close(self) -> None:
        os.close(self._file)
