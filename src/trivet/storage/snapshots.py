"""Snapshot files: a header page, then the body. Written beside and renamed; the two newest are kept (R7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import google_crc32c
import msgspec

from trivet.storage.blocks import BlockKind, decode_block, encode_block
from trivet.storage.errors import BadBlock, StorageFailed, StorageRefused
from trivet.storage.port import Disk, File

BODY_AT = 8192
PREFIX = "snap-"
SUFFIX = ".snap"
KEPT = 2
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """`members`: the configuration at `index`. `size` bytes of body with CRC32C `crc`; `digest`: of the
    state. `size`, `crc` and `name` are filled in by the commit."""

    index: int
    term: int
    members: tuple[str, ...]
    size: int = 0
    digest: bytes = b""
    name: str = ""
    crc: int = 0


class _Manifest(msgspec.Struct, array_like=True, frozen=True):
    cluster_id: str
    index: int
    term: int
    members: tuple[str, ...]
    size: int
    digest: bytes
    crc: int


class SnapshotWriter:
    """A snapshot being written. Ends with `commit` or `abort`."""

    def __init__(self, store: SnapshotStore, meta: SnapshotMeta, name: str) -> None:
        self._store = store
        self.meta = meta
        self._name = name
        self._file: File | None = store.disk.create(name)
        self.size = 0
        self.crc = 0
        try:
            self._file.allocate(BODY_AT)  # R10: the commit must not be the one that finds the disk full
        except OSError:
            self.abort()
            raise

    def write(self, data: bytes) -> None:
        """Appends to the body. Raises `OSError` (a full disk: `abort` and live on)."""
        assert self._file is not None
        self._file.write_at(BODY_AT + self.size, data)
        self.size += len(data)
        self.crc = google_crc32c.extend(self.crc, data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of what was written, from `offset`: to look at it before it counts."""
        assert self._file is not None
        return self._file.read_at(BODY_AT + offset, max(0, min(length, self.size - offset)))

    def flush(self) -> SnapshotFlush:
        """A job that takes what was written so far to the disk, so that the commit's own fsync is short.
        Writing may go on while it runs; `commit` and `abort` may not be called before it has ended."""
        assert self._file is not None
        return SnapshotFlush(self._file)

    def commit(self, digest: bytes | None = None, crc: int | None = None) -> SnapshotCommit:
        """The blocking rest as a job. `digest` replaces the one of the meta. Raises `ValueError` if the
        body's CRC is not the given `crc` (a received snapshot)."""
        assert self._file is not None
        if crc is not None and crc != self.crc:
            self.abort()
            raise ValueError(f"the snapshot's body has CRC {self.crc:08x} instead of {crc:08x}")
        meta = replace(
            self.meta,
            size=self.size,
            crc=self.crc,
            digest=self.meta.digest if digest is None else digest,
            name=snapshot_name(self.meta.index, self.meta.term),
        )
        job = SnapshotCommit(self._store, meta, self._file, self._name)
        self._file = None
        return job

    def abort(self) -> None:
        """Removes what was written. Does nothing after `commit`."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._store.disk.unlink(self._name)


class SnapshotFlush:
    """`run` blocks and may run in a thread."""

    light = False  # megabytes wait in the page cache

    def __init__(self, file: File) -> None:
        self._file = file

    def run(self) -> None:
        """Raises `StorageFailed`: fatal."""
        try:
            self._file.sync()
        except OSError as error:
            raise StorageFailed(
                error.errno, f"the disk failed while a snapshot was written: {error}"
            ) from error


class SnapshotCommit:
    """`run` blocks (header, fsync, rename, fsync of the directory) and may run in a thread; then `finish`
    in the loop makes it the store's own."""

    light = False

    def __init__(self, store: SnapshotStore, meta: SnapshotMeta, file: File, temporary: str) -> None:
        self._store = store
        self.meta = meta
        self._file = file
        self._temporary = temporary
        self._header = store.encode(meta)
        self._drop = store.superseded_by(meta)

    def run(self) -> None:
        """Raises `StorageFailed`: fatal."""
        disk = self._store.disk
        try:
            try:
                self._file.write_at(0, self._header)
                self._file.sync()
            finally:
                self._file.close()
            disk.rename(self._temporary, self.meta.name)
            disk.sync_dir()
            for name in self._drop:
                if disk.exists(name):
                    disk.unlink(name)
        except OSError as error:
            raise StorageFailed(
                error.errno, f"the disk failed while a snapshot was committed: {error}"
            ) from error

    def finish(self) -> SnapshotMeta:
        """The snapshot counts from here on; older ones than the two newest count no more."""
        self._store.add(self.meta)
        return self.meta


class SnapshotReader:
    """An open snapshot's body. It stays readable while newer ones replace it."""

    def __init__(self, disk: Disk, meta: SnapshotMeta) -> None:
        self.meta = meta
        self._file = disk.open(meta.name)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` body bytes from `offset`."""
        length = max(0, min(length, self.meta.size - offset))
        return self._file.read_at(BODY_AT + offset, length)

    def close(self) -> None:
        self._file.close()


class SnapshotStore:
    """`kept`: whole snapshots, newest first. `damaged`: files that failed verification, with the reason."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.cluster_id = ""
        self.kept: list[SnapshotMeta] = []
        self.damaged: list[tuple[str, str]] = []
        self._leftover: list[str] = []
        self._writes = 0

    @property
    def latest(self) -> SnapshotMeta | None:
        return self.kept[0] if self.kept else None

    @property
    def older_index(self) -> int:
        """The log must be kept behind this index (R7): that of the second snapshot, 0 without one."""
        return self.kept[1].index if len(self.kept) > 1 else 0

    def load(self) -> None:
        """Verifies every snapshot file, body and all. Raises `StorageRefused` (newer format, foreign)."""
        for name in snapshot_files(self.disk):
            try:
                self.kept.append(verify_snapshot(self.disk, name, self.cluster_id))
            except BadBlock as error:
                self.damaged.append((name, str(error)))
        ranked = _ranked(self.kept)
        self.kept, self._leftover = ranked[:KEPT], [meta.name for meta in ranked[KEPT:]]

    def writer(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Raises `OSError`, and leaves nothing behind, where there is no space even to begin."""
        self._writes += 1
        return SnapshotWriter(self, meta, f"{snapshot_name(meta.index, meta.term)}.{self._writes}.tmp")

    def reader(self, meta: SnapshotMeta) -> SnapshotReader:
        return SnapshotReader(self.disk, meta)

    def superseded_by(self, meta: SnapshotMeta) -> list[str]:
        """Files that go once `meta` is durable, none of them `meta` itself or the newest. A crash may bring
        one back: the next commit or the next `load` removes it."""
        ranked = _ranked([meta, *(other for other in self.kept if other.name != meta.name)])
        gone = [other.name for other in ranked[KEPT:] if other is not meta]
        return [name for name in (*self._leftover, *gone) if name != meta.name]

    def add(self, meta: SnapshotMeta) -> None:
        ranked = _ranked([meta, *(other for other in self.kept if other.name != meta.name)])
        self.kept = ranked[:KEPT]
        self._leftover = [other.name for other in ranked[KEPT:] if self.disk.exists(other.name)]

    def encode(self, meta: SnapshotMeta) -> bytes:
        manifest = _Manifest(
            self.cluster_id, meta.index, meta.term, tuple(meta.members), meta.size, meta.digest, meta.crc
        )
        return encode_block(BlockKind.SNAPSHOT, msgspec.msgpack.encode(manifest), BODY_AT)


def _ranked(metas: list[SnapshotMeta]) -> list[SnapshotMeta]:
    return sorted(metas, key=lambda meta: (meta.index, meta.term), reverse=True)


def snapshot_files(disk: Disk) -> list[str]:
    return [name for name in disk.names() if name.startswith(PREFIX) and name.endswith(SUFFIX)]


def snapshot_name(index: int, term: int) -> str:
    return f"{PREFIX}{index:016x}-{term:016x}{SUFFIX}"


def verify_snapshot(disk: Disk, name: str, cluster_id: str | None) -> SnapshotMeta:
    """Reads the whole file. Raises `BadBlock` if any byte that counts is wrong, `StorageRefused` if it is
    of another cluster than `cluster_id` or of a newer format."""
    file = disk.open(name)
    try:
        payload = decode_block(BlockKind.SNAPSHOT, file.read_at(0, BODY_AT), name)
        try:
            found = msgspec.msgpack.decode(payload, type=_Manifest)
        except msgspec.DecodeError as error:
            raise BadBlock(f"{name}: {error}") from error
        if cluster_id is not None and found.cluster_id != cluster_id:
            raise StorageRefused(
                f"{name} belongs to cluster {found.cluster_id!r}, the directory to {cluster_id!r}"
            )
        if file.size != BODY_AT + found.size or name != snapshot_name(found.index, found.term):
            raise BadBlock(
                f"{name} has {file.size} bytes instead of {BODY_AT + found.size}, or another's name"
            )
        crc = 0
        for offset in range(0, found.size, _CHUNK):
            crc = google_crc32c.extend(crc, file.read_at(BODY_AT + offset, min(_CHUNK, found.size - offset)))
        if crc != found.crc:
            raise BadBlock(f"{name} has a wrong checksum")
    finally:
        file.close()
    return SnapshotMeta(found.index, found.term, found.members, found.size, found.digest, name, found.crc)
