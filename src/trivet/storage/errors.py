"""What storage raises. Each stands for one decision of the caller, so nobody has to look at an errno."""

from __future__ import annotations


class StorageRefused(Exception):
    """The directory must not be used by this node as it is: foreign, newer, locked or not provably empty.

    The text is one plain sentence for the operator. The process ends; nothing was changed.
    """


class StorageFailed(OSError):
    """The disk failed under us. Fatal: the process ends, nothing is tried again (design 3).

    After a failed fsync the page cache lies: a second fsync may succeed over lost data.
    """


class DiskFull(OSError):
    """No space for a new log segment, and nothing of the job was written (R10).

    The same `SyncJob.run()` may be called again later. A caller that only knows `OSError` ends the
    process, which is safe too.
    """


class BadBlock(Exception):
    """A checksummed block is unreadable. Inside storage only: each caller decides what that means."""
