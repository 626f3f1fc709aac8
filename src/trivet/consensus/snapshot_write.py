"""A snapshot file on its way to the disk: flushed piece by piece, so that no job holds the sync lane for long (R9)."""

from __future__ import annotations

from trivet.storage.snapshots import SnapshotCommit, SnapshotFlush, SnapshotWriter
from trivet.units import MIB

FLUSH_BYTES = 8 * MIB

SnapshotJob = SnapshotFlush | SnapshotCommit


class FlushedWriter:
    """One job at a time, handed out by `take_job`. After `abort` the file goes when the running job has ended."""

    def __init__(self, writer: SnapshotWriter) -> None:
        self._writer = writer
        self._unflushed = 0
        self._running: SnapshotFlush | None = None
        self._aborted = False

    @property
    def size(self) -> int:
        return self._writer.size

    @property
    def crc(self) -> int:
        return self._writer.crc

    def read_at(self, offset: int, length: int) -> bytes:
        """What was written, before `commit`."""
        return self._writer.read_at(offset, length)

    @property
    def flushing(self) -> bool:
        return self._running is not None

    def write(self, data: bytes) -> None:
        self._writer.write(data)
        self._unflushed += len(data)

    def take_job(self) -> SnapshotFlush | None:
        if self._running is not None or self._aborted or self._unflushed < FLUSH_BYTES:
            return None
        self._unflushed = 0
        self._running = self._writer.flush()
        return self._running

    def job_done(self, job: object) -> bool:
        """False if the job is somebody else's."""
        if job is not self._running or self._running is None:
            return False
        self._running = None
        if self._aborted:
            self._writer.abort()
        return True

    def commit(self, digest: bytes | None = None, crc: int | None = None) -> SnapshotCommit:
        """Not while `flushing`. Raises `ValueError` if the body is not the one of `crc`."""
        return self._writer.commit(digest, crc)

    def abort(self) -> None:
        self._aborted = True
        if self._running is None:
            self._writer.abort()
