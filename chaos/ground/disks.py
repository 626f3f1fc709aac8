"""A file system for each node that can lose its power and fill up: ext4 on a loop device over an image file.

`FS_IOC_SHUTDOWN` with NOLOGFLUSH makes the kernel drop all that was not fsynced (a kill -9 alone would
prove nothing: the page cache survives it). The positive control lies beside the data: a file that was never
fsynced must be gone after the next mount, one that was fsynced must be there (L8).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chaos.ground.janitor import Janitor
from chaos.ground.tools import CommandFailed, Unavailable, find, missing, run

FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
MIB = 1 << 20
BUSY_SECONDS = 10  # how long a file system may stay busy after its processes ended
_UNSYNCED, _SYNCED = "never-fsynced", "fsynced"


@dataclass(frozen=True)
class PowerLoss:
    """What was found after the power came back. `fired`: what was not synced is gone, what was is there."""

    node: int
    unsynced_gone: bool
    synced_kept: bool

    @property
    def fired(self) -> bool:
        return self.unsynced_gone and self.synced_kept


class Volume:
    """One image and where it is mounted."""

    def __init__(self, image: Path, mount: Path) -> None:
        self.image, self.mount = image, mount
        self._control = b""
        self._losses = 0
        self.attached = False

    @property
    def data(self) -> Path:
        """Where the node's directory lies; the controls and the ballast lie beside it."""
        return self.mount / "data"

    def make(self, size_mb: int) -> None:
        with self.image.open("wb") as out:
            out.truncate(size_mb * MIB)
        # No blocks reserved for root: a full file system is full for everybody.
        run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        self.mount.mkdir()
        self.attach()

    def attach(self) -> None:
        run("mount", "-o", "loop,noatime", str(self.image), str(self.mount))  # the loop device goes with it
        self.attached = True

    def detach(self) -> None:
        """Raises `CommandFailed` if somebody still uses it after `BUSY_SECONDS`."""
        deadline = time.monotonic() + BUSY_SECONDS
        while self.attached:
            try:
                run("umount", str(self.mount))
                self.attached = False
            except CommandFailed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # a process that was killed gives its files back a little later

    # --- power --------------------------------------------------------------------------------------

    def lay_controls(self) -> None:
        self._losses += 1
        self._control = f"before power loss {self._losses}".encode()
        with (self.mount / _SYNCED).open("wb", buffering=0) as file:
            file.write(self._control)
            os.fsync(file.fileno())
        self._sync_directory()
        (self.mount / _UNSYNCED).unlink(missing_ok=True)
        self._sync_directory()
        (self.mount / _UNSYNCED).write_bytes(self._control)

    def cut_power(self) -> None:
        """Everything not fsynced on this file system is gone from now on; all further IO fails."""
        root = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(root, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(root)

    def controls(self) -> tuple[bool, bool]:
        """(the unsynced one is gone, the synced one is there). ext4 may bring a name back with zeros for
        content: what counts is the content."""
        return not self._reads(_UNSYNCED), self._reads(_SYNCED)

    def _reads(self, name: str) -> bool:
        path = self.mount / name
        return path.exists() and path.read_bytes() == self._control

    def _sync_directory(self) -> None:
        root = os.open(self.mount, os.O_RDONLY)
        try:
            os.fsync(root)
        finally:
            os.close(root)

    # --- space --------------------------------------------------------------------------------------

    @property
    def ballast(self) -> Path:
        return self.mount / "ballast"

    def fill(self) -> int:
        """Takes every block that is left; how many bytes were taken. Again, if some came free since."""
        file = os.open(self.ballast, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            began = end = os.fstat(file).st_size
            block = os.fstatvfs(file).f_frsize
            piece = 64 * MIB
            while piece >= block:
                try:
                    os.posix_fallocate(file, end, piece)
                    end += piece
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
            os.ftruncate(file, end)  # an allocation that failed may have grown the file a little
            os.fsync(file)
            return end - began
        finally:
            os.close(file)

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)
        with suppress(OSError):  # blocks come free with the journal's commit; a fs without power has none
            self._sync_directory()

    def free_bytes(self) -> int:
        found = os.statvfs(self.mount)
        return found.f_bavail * found.f_frsize  # not f_bfree: ext4 keeps some blocks for its own use


class Disks:
    """`count` file systems of `size_mb` (MiB) under `directory`, for nodes numbered from 1. Raises `Unavailable`."""

    def __init__(self, directory: Path, count: int, size_mb: int) -> None:
        why = self.available()
        if why is not None:
            raise Unavailable(f"no file systems of our own: {why}")
        directory.mkdir(parents=True, exist_ok=True)
        self.without_power: set[int] = set()  # nodes whose power was cut and did not come back yet
        self._volumes = [
            Volume(directory / f"n{node}.img", directory / f"m{node}") for node in range(1, count + 1)
        ]
        umount = find("umount") or "umount"
        self._janitor = Janitor([[umount, "--lazy", str(volume.mount)] for volume in self._volumes])
        try:
            for volume in self._volumes:
                volume.make(size_mb)
        except CommandFailed as error:
            self.close()
            raise Unavailable(f"no file systems of our own: {error}") from error
        except BaseException:
            self.close()
            raise

    @staticmethod
    def available() -> str | None:
        """Why not, or None. Whether this kernel lets us mount is only known by trying: see `Unavailable`."""
        why = missing("mkfs.ext4", "losetup", "mount")
        if why is None and not Path("/dev/loop-control").exists():
            why = "the kernel has no loop devices (/dev/loop-control is missing)"
        return why

    def path(self, node: int) -> Path:
        """The node's data directory, on its own file system; made by the node."""
        return self._volume(node).data

    def mount(self, node: int) -> Path:
        """Where the node's file system is mounted: what must stay with the node's data goes here."""
        return self._volume(node).mount

    def cut_power(self, nodes: Iterable[int]) -> None:
        """These lose power at the same moment. Their processes see EIO; end them, then `remount`."""
        nodes = list(nodes)
        for node in nodes:
            self._volume(node).lay_controls()
        self.without_power.update(nodes)
        for node in nodes:
            self._volume(node).cut_power()

    def remount(self, nodes: Iterable[int]) -> list[PowerLoss]:
        """Power is back: the journal is replayed; says what the controls say. No process may use them."""
        found = []
        for node in nodes:
            volume = self._volume(node)
            volume.detach()
            volume.attach()
            self.without_power.discard(node)
            found.append(PowerLoss(node, *volume.controls()))
        return found

    def fill(self, node: int) -> int:
        """Takes every free block of the node's file system; answers the bytes taken."""
        return self._volume(node).fill()

    def free(self, node: int) -> None:
        """Gives back what `fill` took."""
        self._volume(node).free()

    def free_bytes(self, node: int) -> int:
        return self._volume(node).free_bytes()

    def close(self) -> None:
        """Unmounts all; the images stay with their directory. Idempotent. No process may use them."""
        for volume in self._volumes:
            volume.detach()
        self._janitor.dismiss()

    def _volume(self, node: int) -> Volume:
        return self._volumes[node - 1]
