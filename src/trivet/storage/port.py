"""What storage asks of a disk: one flat directory of files. `RealDisk` and the simulator's disk fit here.

Every method may raise `OSError` (ENOSPC, EIO); a failed `sync` is fatal for the node, never retried
(design 3). Names are plain file names without separators.
"""

from __future__ import annotations

from typing import Protocol


class File(Protocol):
    """An open file. Nothing is durable before `sync` returns; new names need `Disk.sync_dir` too."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; shorter only at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes) -> None: ...

    def allocate(self, size: int) -> None:
        """Reserve zeroed space up to `size` bytes, so that later writes inside cannot fail for space."""
        ...

    def truncate(self, size: int) -> None: ...

    def sync(self) -> None:
        """fdatasync. May run in another thread while the loop goes on writing."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A data directory."""

    def create(self, name: str) -> File:
        """A new empty file; raises `FileExistsError` if the name is taken."""
        ...

    def open(self, name: str) -> File: ...

    def exists(self, name: str) -> bool: ...

    def names(self) -> list[str]:
        """All file names, sorted."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, name: str) -> None: ...

    def sync_dir(self) -> None: ...

    def free_bytes(self) -> int: ...
