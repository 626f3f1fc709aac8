"""Keeps every log segment that a node of a drill ever had, so that the whole committed log can be read later.

Compaction deletes segments; the second judge needs them all. A hard link to each new segment file, made while
the node still has it, costs nothing and shares its bytes: what the node appends later is there too, and so is
damage done to the file in place (another node has the record then). The name of a link ends with the inode,
because a segment's number is used again after a wipe, a repair, or a stale copy put in its place.

A link cannot leave its file system. So the links of a node stand on a shelf beside its data: in the run's own
`log/<node>/` when that is the same file system, else in `archive/` at the top of the node's own, from where
`collect` copies them once the cluster has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trivet.storage.recovery import used_length

POLL_SECONDS = 0.1
SEGMENT = ".seg"  # also inside the names that repair gives to what it puts aside
_GONE_FOR_NOW = frozenset(
    (
        errno.ENOENT,
        errno.EIO,
        errno.EROFS,
        errno.ENOSPC,
        errno.ESHUTDOWN,
        errno.ESTALE,
        errno.EUCLEAN,
    )
)
"""Wiped, unmounted, without power, full: the node is in the middle of a fault; the next look comes soon."""


@dataclass
class _Node:
    data: Path
    shelf: Path
    known: set[int] = field(default_factory=set)  # inodes; a link keeps its inode from being used again


class Archive:
    """`data`: node → data directory (whether or not it exists yet). `own`: node → the top of a file system
    of its own, for nodes that have one. Links go where the module says; `collect` brings them to
    `directory/log/<node>/`. One event loop; the looking is done in a thread."""

    def __init__(
        self, directory: Path, data: Mapping[str, Path], own: Mapping[str, Path] | None = None
    ) -> None:
        self.directory = directory / "log"
        self._nodes = {
            name: _Node(path, self._shelf(name, (own or {}).get(name))) for name, path in data.items()
        }
        self._task: asyncio.Task[None] | None = None
        self.missed = 0  # looks at a node that a fault stood in the way of

    def _shelf(self, name: str, own: Path | None) -> Path:
        return self.directory / name if own is None else own / "archive"

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Looks once more. Raises what ended the watch before its time, if anything did."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await asyncio.to_thread(self.look)

    async def _watch(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> int:
        """One look at every node; answers how many new files it found. Blocks for well under a millisecond."""
        return sum(self._look_at(node) for node in self._nodes.values())

    def _look_at(self, node: _Node) -> int:
        new = 0
        try:
            with os.scandir(node.data) as listed:
                found = [(one.name, one.inode()) for one in listed if SEGMENT in one.name]
            for name, inode in found:
                if inode not in node.known:
                    node.shelf.mkdir(parents=True, exist_ok=True)
                    new += self._keep(node, name)
        except OSError as error:
            if error.errno not in _GONE_FOR_NOW:
                raise
            self.missed += 1
        return new

    def _keep(self, node: _Node, name: str) -> bool:
        """Link first, then ask which file it was: another may have come under the name in between."""
        fresh = node.shelf / f".{name}"
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        os.link(node.data / name, fresh, follow_symlinks=False)
        inode = fresh.stat().st_ino
        if inode in node.known:
            fresh.unlink()
            return False
        fresh.rename(node.shelf / f"{name}.{inode}")
        node.known.add(inode)
        return True

    def collect(self) -> int:
        """Copies what stands on other file systems into the run's directory; answers how many files there
        are in all. Call it when the nodes have stopped and their file systems are still mounted."""
        total = 0
        for name, node in self._nodes.items():
            target = self.directory / name
            target.mkdir(parents=True, exist_ok=True)
            kept = sorted(node.shelf.glob(f"*{SEGMENT}*")) if node.shelf.is_dir() else []
            if node.shelf != target:
                for path in kept:
                    _copy(path, target / path.name)
            total += len(kept)
        return total


def _copy(source: Path, target: Path) -> None:
    """With a hole in place of the zeros at its end. A file that cannot be read is left out: the judge says what
    is missing."""
    try:
        raw = source.read_bytes()
    except OSError as error:
        if error.errno not in _GONE_FOR_NOW:
            raise
        return
    with target.open("wb") as file:
        file.write(raw[: used_length(raw)])
        file.truncate(len(raw))  # a record may end with zeros, too
