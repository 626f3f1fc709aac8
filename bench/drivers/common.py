"""What all drivers share: options, the start signal, the shared level of messages under way, the result line.

A driver prints READY when it is connected, waits for a line on stdin, works, and prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

STAMP = struct.Struct("d")  # when a message was sent: time.monotonic() of the one host, in seconds
LEVEL_BYTES = 16


def body_of(size: int) -> bytes:
    """A message of `size` bytes that carries when it was made."""
    return STAMP.pack(time.monotonic()) + bytes(size - STAMP.size)


def made_at_s(body: bytes) -> float:
    return float(STAMP.unpack_from(body)[0])


class Level:
    """How many messages were published and not yet consumed, shared between two processes of one machine.

    Each side writes its own counter only, so no lock is needed.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(LEVEL_BYTES))
        with path.open("r+b") as file:
            self._counters = memoryview(mmap.mmap(file.fileno(), LEVEL_BYTES)).cast("Q")

    def published(self, count: int) -> None:
        self._counters[0] += count

    def consumed(self, count: int) -> None:
        self._counters[1] += count

    @property
    def under_way(self) -> int:
        return self._counters[0] - self._counters[1]

    async def room(self, ahead: int, end_s: float) -> None:
        """Until no more than `ahead` are under way, or it is `end_s`. Another process counts: only asking tells."""
        while self.under_way > ahead and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@dataclass
class Result:
    """`confirm_s`, `delivered_s`: send → confirm, send → in the consumer's hands, one a message (or batch)."""

    role: str
    messages: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    confirm_s: list[float] = field(default_factory=list)
    delivered_s: list[float] = field(default_factory=list)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("publish", "consume"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--count", type=int, default=0, help="stop after so many messages")
    parser.add_argument("--size", type=int, default=256, help="bytes of a message")
    parser.add_argument("--window", type=int, default=1000, help="messages sent and not confirmed, at most")
    parser.add_argument(
        "--batch", type=int, default=500, help="messages a request, where the API has batches"
    )
    parser.add_argument("--rate", type=float, default=0, help="messages a second, one by one; 0: all it can")
    parser.add_argument("--level", type=Path, help="shared counters: producer stays `--ahead` in front")
    parser.add_argument("--ahead", type=int, default=5000)
    return parser.parse_args()


async def paced(rate: float, end_s: float, send: Callable[[], object]) -> None:
    """Call `send` at fixed instants, however long each takes (open loop: no coordinated omission)."""
    began_s, number = time.monotonic(), 0
    while (due_s := began_s + number / rate) < end_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        send()
        number += 1


def wait_for_start() -> tuple[float, float]:
    """READY, then the start signal: (monotonic, CPU) seconds at the start."""
    print("READY", flush=True)
    sys.stdin.readline()
    return time.monotonic(), time.process_time()


def report(result: Result, started: tuple[float, float]) -> None:
    result.seconds = result.seconds or time.monotonic() - started[0]
    result.cpu_s = time.process_time() - started[1]
    print(msgspec.json.encode(result).decode(), flush=True)
