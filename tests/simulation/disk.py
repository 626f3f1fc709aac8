"""The simulated disk (R37): what was not synced may be lost, in any subset and any order.

A page that was written since the last sync survives a crash as one of the versions it had, or torn between
two of them. Directory operations since the last `sync_dir` survive as any subset. After a failed sync the
page cache lies: the data can be read, counts as clean, and is gone after the crash. Nothing here reads a
clock; all chance comes from the `random.Random` of the constructor.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PAGE = 512
_VERSIONS_MAX = 4
_TEARING = 0.3
"""How many of the pages under way are torn by a power cut; more by one that is aimed (`crash_near`)."""


class SimCrash(BaseException):
    """The machine lost power inside a disk operation (`SimDisk.crash_at`). Not an `Exception`: no product code may catch it."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What an injected damage changed."""

    name: str
    offset: int
    before: bytes
    after: bytes


class Inode:
    """`dirty`: page → its versions on disk or on the way there since the last sync, oldest first.
    `lost`: page → what the disk really holds, after a sync that failed. `past`: page → what it held on the disk
    before its last change."""

    __slots__ = ("data", "dirty", "lost", "past", "synced_size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced_size = 0
        self.dirty: dict[int, list[bytes]] = {}
        self.lost: dict[int, bytes] = {}
        self.past: dict[int, bytes] = {}

    def settle(self) -> None:
        """All that was written is on the disk."""
        for number, versions in self.dirty.items():
            self.past[number] = versions[0]
        self.dirty.clear()
        self.synced_size = len(self.data)

    def page(self, number: int) -> bytes:
        return bytes(self.data[number * PAGE : (number + 1) * PAGE]).ljust(PAGE, b"\0")

    def touch(self, start: int, end: int) -> None:
        """Remember what the pages of [start, end) hold, before they change."""
        for number in range(start // PAGE, (end + PAGE - 1) // PAGE):
            versions = self.dirty.get(number)
            if versions is None:
                self.dirty[number] = [self.lost.pop(number, None) or self.page(number)]
            elif len(versions) < _VERSIONS_MAX:
                versions.append(self.page(number))


class SimFile:
    """An open file; unusable after a crash of its disk."""

    def __init__(self, disk: SimDisk, inode: Inode, name: str = "") -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._life = disk.life
        self._closed = False

    def _check(self) -> Inode:
        assert self._life == self._disk.life, "a file of before the crash is used"
        assert not self._closed, "a closed file is used"
        return self._inode

    @property
    def size(self) -> int:
        return len(self._check().data)

    def read_at(self, offset: int, length: int) -> bytes:
        inode = self._check()
        self._disk.enter("read")
        return bytes(inode.data[offset : offset + length])

    def write_at(self, offset: int, data: bytes) -> None:
        inode = self._check()
        end = offset + len(data)
        self._disk.enter(
            "write", self._name, torn=lambda share: self._write(inode, offset, data[: int(len(data) * share)])
        )
        self._disk.claim(max(0, end - len(inode.data)))
        self._write(inode, offset, data)

    @staticmethod
    def _write(inode: Inode, offset: int, data: bytes) -> None:
        end = offset + len(data)
        inode.touch(offset, end)
        if end > len(inode.data):
            inode.data.extend(bytes(end - len(inode.data)))
        inode.data[offset:end] = data

    def allocate(self, size: int) -> None:
        inode = self._check()
        self._disk.enter("allocate")
        more = size - len(inode.data)
        if more > 0:
            self._disk.claim(more)
            inode.data.extend(bytes(more))

    def truncate(self, size: int) -> None:
        inode = self._check()
        self._disk.enter("truncate")
        if size < len(inode.data):
            inode.touch(size, len(inode.data))
            del inode.data[size:]
        else:
            inode.data.extend(bytes(size - len(inode.data)))

    def sync(self) -> None:
        inode = self._check()
        try:
            self._disk.enter("sync")
        except OSError:
            self._disk.sync_failed(inode)
            raise
        if not self._disk.lying:
            inode.settle()

    def close(self) -> None:
        self._closed = True


class SimDisk:
    """One node's data directory. `capacity` in bytes, None: without end.

    `crash()` is a power cut; `kill()` the end of the process only (the page cache lives on). `ops` counts
    changing operations, `log` names them. `fail` arms an error, `crash_at` a power cut at an operation.
    """

    def __init__(self, rng: random.Random, capacity: int | None = None) -> None:
        self._rng = rng
        self.capacity = capacity
        self.lying = False  # positive control: sync says yes and does nothing
        self.life = 0
        self.ops = 0
        self.fired: list[str] = []
        self._names: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._pending: list[tuple[str, str, str, Inode]] = []
        self._faults: list[list[object]] = []  # [operation, calls left, errno, for ever]
        self._crash_in: int | None = None
        self._aim: tuple[str, str, int] | None = None  # operation, start of the name, calls from it on
        self._tearing = _TEARING

    # --- Disk -------------------------------------------------------------------------------------------
    def create(self, name: str) -> SimFile:
        if name in self._names:
            raise FileExistsError(errno.EEXIST, "exists", name)
        self.enter("create", name)
        inode = Inode()
        self._names[name] = inode
        self._pending.append(("link", name, "", inode))
        return SimFile(self, inode, name)

    def open(self, name: str) -> SimFile:
        return SimFile(self, self._inode(name), name)

    def exists(self, name: str) -> bool:
        return name in self._names

    def names(self) -> list[str]:
        return sorted(self._names)

    def rename(self, old: str, new: str) -> None:
        inode = self._inode(old)
        self.enter("rename", new)
        del self._names[old]
        self._names[new] = inode
        self._pending.append(("rename", old, new, inode))

    def unlink(self, name: str) -> None:
        inode = self._inode(name)
        self.enter("unlink", name)
        del self._names[name]
        self._pending.append(("unlink", name, "", inode))

    def sync_dir(self) -> None:
        self.enter("sync_dir")
        if not self.lying:
            self._durable = dict(self._names)
            self._pending.clear()

    def free_bytes(self) -> int:
        return 1 << 40 if self.capacity is None else max(0, self.capacity - self.used_bytes())

    def _inode(self, name: str) -> Inode:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return self._names[name]

    def size(self, name: str) -> int:
        return len(self._inode(name).data)

    def changed_pages(self, name: str) -> list[int]:
        """Those of which an older version is known."""
        return sorted(self._inode(name).past)

    def used_bytes(self) -> int:
        return sum(len(inode.data) for inode in self._names.values())

    def claim(self, more: int) -> None:
        """Raises ENOSPC if the disk has not `more` bytes left."""
        if more and self.capacity is not None and self.used_bytes() + more > self.capacity:
            raise OSError(errno.ENOSPC, "simulated disk is full")

    # --- faults -----------------------------------------------------------------------------------------
    def fail(self, operation: str, nth: int = 1, code: int = errno.EIO, for_ever: bool = False) -> None:
        """The `nth` call from now of `operation` (write, sync, sync_dir, create, rename, unlink, allocate,
        truncate, read, or "any" for every changing one) raises `OSError(code)`."""
        self._faults.append([operation, nth, code, for_ever])

    @contextmanager
    def observed(self) -> Iterator[None]:
        """The simulator looks itself: armed faults are for the product."""
        armed, self._faults = self._faults, []
        try:
            yield
        finally:
            self._faults = armed

    def heal(self) -> None:
        self._faults.clear()
        self._crash_in = self._aim = None
        self._tearing = _TEARING

    def crash_at(self, nth: int) -> None:
        """Power is cut inside the `nth` changing operation from now: `SimCrash` is raised."""
        self._crash_in = nth

    def crash_near(self, operation: str, prefix: str, nth: int) -> None:
        """The same, counted from the next `operation` on a file of that prefix, itself included."""
        self._aim = (operation, prefix, nth)

    def enter(self, operation: str, name: str = "", torn: Callable[[float], None] | None = None) -> None:
        """Counts an operation and lets armed faults happen."""
        if operation != "read":
            self.ops += 1
            if self._aim is not None and self._aim[0] == operation and name.startswith(self._aim[1]):
                self._crash_in, self._aim, self._tearing = self._aim[2], None, 0.9
            if self._crash_in is not None:
                self._crash_in -= 1
                if self._crash_in == 0:
                    self._crash_in = None
                    if torn is not None and self._rng.random() < 0.7:
                        torn(self._rng.random())
                    self.fired.append(f"crash in {operation}")
                    raise SimCrash(operation)
        for fault in self._faults:
            wanted, left, code, for_ever = fault
            if wanted == operation or (wanted == "any" and operation != "read"):
                assert isinstance(left, int) and isinstance(code, int)
                if left > 1:
                    fault[1] = left - 1
                    continue
                if not for_ever:
                    self._faults.remove(fault)
                self.fired.append(f"{errno.errorcode[code]} in {operation}")
                raise OSError(code, f"simulated failure of {operation}")

    def sync_failed(self, inode: Inode) -> None:
        """fsyncgate: some dirty pages never reached the disk, and none is dirty any more."""
        for number, versions in inode.dirty.items():
            if self._rng.random() < 0.7:
                inode.lost[number] = versions[0]
        inode.dirty.clear()

    def crash(self) -> None:
        """Power cut: any subset of what was not synced survives. Open files are dead after it."""
        names = dict(self._durable)
        for kind, old, new, inode in self._pending:
            if self._rng.random() < 0.5:
                continue
            if kind == "link":
                names[old] = inode
            elif kind == "rename":
                if names.get(old) is inode:
                    del names[old]
                names[new] = inode
            elif names.get(old) is inode:
                del names[old]
        for name in sorted(names):
            self._lose(names[name])
        self._names, self._durable = dict(names), dict(names)
        self._pending.clear()
        self.kill()

    def kill(self) -> None:
        """The process ends; the page cache stays, and what is dirty in it stays dirty."""
        self.life += 1
        self._faults.clear()
        self._crash_in = self._aim = None
        self._tearing = _TEARING

    def _lose(self, inode: Inode) -> None:
        rng = self._rng
        size = len(inode.data)
        if size != inode.synced_size:
            size = rng.choice((size, inode.synced_size, rng.randint(*sorted((size, inode.synced_size)))))
        for number in sorted(inode.dirty):
            versions = [*inode.dirty[number], inode.page(number)]
            torn = rng.random() >= 1 - self._tearing
            kept = rng.choice(versions)
            if torn:
                kept = _torn(rng, versions[0], kept)
            self._put(inode, number, kept)
        for number, old in sorted(inode.lost.items()):
            self._put(inode, number, old)
        inode.dirty.clear()
        inode.lost.clear()
        del inode.data[size:]
        inode.data.extend(bytes(size - len(inode.data)))
        inode.synced_size = size

    @staticmethod
    def _put(inode: Inode, number: int, page: bytes) -> None:
        end = (number + 1) * PAGE
        if end > len(inode.data):
            inode.data.extend(bytes(end - len(inode.data)))
        inode.data[number * PAGE : end] = page

    # --- damage to what is on the disk ------------------------------------------------------------------------
    def flip(self, name: str, offset: int | None = None, mask: int | None = None) -> Hit:
        """Flips bits (`mask`, by default one) of one byte, by default one that is not zero."""
        data = self._inode(name).data
        if offset is None:
            used = [i for i, byte in enumerate(data) if byte] or list(range(len(data)))
            offset = self._rng.choice(used)
        return self._damage(name, offset, bytes([data[offset] ^ (mask or 1 << self._rng.randrange(8))]))

    def zero(self, name: str, offset: int, length: int) -> Hit:
        length = min(length, len(self._inode(name).data) - offset)
        return self._damage(name, offset, bytes(length))

    def stale(self, name: str, page: int) -> Hit | None:
        """A block comes back as it was before its last change: the drive lost that write. None if it never changed."""
        inode = self._inode(name)
        old = inode.past.get(page)
        if old is None or old == inode.page(page):
            return None
        end = min((page + 1) * PAGE, len(inode.data))
        return self._damage(name, page * PAGE, old[: end - page * PAGE])

    def misdirect(self, name: str, page: int, source: str, source_page: int) -> Hit | None:
        """A write of another block landed on this one."""
        data = self._inode(source).page(source_page)
        end = min((page + 1) * PAGE, len(self._inode(name).data))
        data = data[: end - page * PAGE]
        if data == self._inode(name).page(page)[: len(data)]:
            return None
        return self._damage(name, page * PAGE, data)

    def cut(self, name: str, size: int) -> Hit:
        """Truncates the file on the disk."""
        inode = self._inode(name)
        hit = Hit(name, size, bytes(inode.data[size:]), b"")
        del inode.data[size:]
        inode.synced_size = min(inode.synced_size, size)
        return hit

    def remove(self, name: str) -> Hit:
        """The file is gone from the disk."""
        hit = Hit(name, 0, bytes(self._inode(name).data), b"")
        self._names.pop(name)
        self._durable.pop(name, None)
        return hit

    def wipe(self) -> None:
        """A new, empty disk. Open files are dead."""
        self._names, self._durable = {}, {}
        self._pending.clear()
        self.kill()

    def clone(self, rng: random.Random) -> SimDisk:
        """A disk with the same durable content (call it after a crash or a sync of everything)."""
        other = SimDisk(rng, self.capacity)
        for name, inode in self._names.items():
            copy = Inode()
            copy.data = bytearray(inode.data)
            copy.synced_size = len(copy.data)
            other._names[name] = copy
        other._durable = dict(other._names)
        return other

    def _damage(self, name: str, offset: int, after: bytes) -> Hit:
        inode = self._inode(name)
        before = bytes(inode.data[offset : offset + len(after)])
        inode.data[offset : offset + len(after)] = after
        return Hit(name, offset, before, after)


def _torn(rng: random.Random, old: bytes, new: bytes) -> bytes:
    """A page of which some 64-byte pieces are the new ones."""
    return b"".join((new if rng.random() < 0.5 else old)[at : at + 64] for at in range(0, PAGE, 64))
