"""The data directory on a real file system: private, locked, without symbolic links."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from trivet.storage.errors import StorageRefused

LOCK = "lock"


class RealFile:
    """A file by its descriptor; positional reads and writes only, so threads do not disturb each other."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        total = len(data)
        while total < length and (data := os.pread(self._fd, length - total, offset + total)):
            parts.append(data)
            total += len(data)
        return b"".join(parts)

    def write_at(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):  # a short write, at the latest the next one names the reason
            written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)

    def allocate(self, size: int) -> None:
        if size > self.size:
            os.posix_fallocate(self._fd, 0, size)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RealDisk:
    """`path` is made if missing (0700) and locked against a second process until `close`.

    Raises `StorageRefused` if it is locked, a symbolic link, not a directory or not ours.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._dir = -1
        self._lock = -1
        self._open_directory()
        try:
            self._take_lock()
        except BaseException:
            self.close()
            raise

    def _open_directory(self) -> None:
        if not self.path.exists() and not self.path.is_symlink():
            self.path.mkdir(mode=0o700, parents=True)
            parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        try:
            self._dir = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise StorageRefused(
                f"the data directory {self.path} cannot be used: {os.strerror(error.errno or 0)}"
            ) from error
        mode = os.fstat(self._dir)
        if mode.st_uid != os.geteuid():
            owner = mode.st_uid
            self.close()
            raise StorageRefused(f"the data directory {self.path} belongs to another user (uid {owner})")
        if stat.S_IMODE(mode.st_mode) != 0o700:
            os.fchmod(self._dir, 0o700)

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(
                LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._dir
            )
        except OSError as error:
            raise StorageRefused(
                f"cannot open {self.path / LOCK}: {os.strerror(error.errno or 0)}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            by = f"process {holder}" if holder.isdigit() else "another process"
            raise StorageRefused(f"the data directory {self.path} is in use by {by}") from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def create(self, name: str) -> RealFile:
        return RealFile(self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL))

    def open(self, name: str) -> RealFile:
        return RealFile(self._open(name, os.O_RDWR))

    def _open(self, name: str, flags: int) -> int:
        fd = os.open(_plain(name), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._dir)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise StorageRefused(f"{self.path / name} is not a plain file")
        return fd

    def exists(self, name: str) -> bool:
        try:
            os.stat(_plain(name), dir_fd=self._dir, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> list[str]:
        """Without sub-directories (a mount point has its lost+found) and the lock."""
        with os.scandir(self._dir) as found:
            return sorted(e.name for e in found if e.name != LOCK and not e.is_dir(follow_symlinks=False))

    def rename(self, old: str, new: str) -> None:
        os.rename(_plain(old), _plain(new), src_dir_fd=self._dir, dst_dir_fd=self._dir)

    def unlink(self, name: str) -> None:
        os.unlink(_plain(name), dir_fd=self._dir)

    def sync_dir(self) -> None:
        os.fsync(self._dir)

    def free_bytes(self) -> int:
        found = os.fstatvfs(self._dir)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        """Gives the lock back. The lock file stays: removing it would race with the next owner."""
        for fd in (self._lock, self._dir):
            if fd >= 0:
                os.close(fd)
        self._lock = self._dir = -1


def _plain(name: str) -> str:
    if not name or "/" in name or "\0" in name or name in (".", "..", LOCK):
        raise ValueError(f"not a plain file name: {name!r}")
    return name
