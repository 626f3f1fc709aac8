"""What the bench asks of a broker: three local nodes with a durable queue on all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Unavailable(Exception):
    """This broker cannot be run here; the text says what is missing."""


class Broker(Protocol):
    """`durability` is what a confirm means, in words, for the table. Addresses are what the driver takes."""

    name: str
    durability: str

    async def start(self, directory: Path) -> None: ...
    async def stop(self) -> None: ...
    async def prepare(self, queue: str) -> None:
        """A new, empty queue on all three nodes."""
        ...

    async def leader(self, queue: str) -> int:
        """The node (1…3) that leads this queue."""
        ...

    async def depth(self, queue: str) -> int: ...
    def pid(self, node: int) -> int: ...
    def address(self, node: int) -> str: ...
    async def kill(self, node: int) -> None:
        """SIGKILL, and wait until it is gone."""
        ...

    async def start_node(self, node: int) -> None: ...
    def data(self, node: int) -> Path: ...
    def driver(self) -> list[str]:
        """The command of its client processes."""
        ...
