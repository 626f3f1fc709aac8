"""Snapshots of the own machine, taken in slices while it goes on (R9; hazards r02, r13, r14b)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from trivet.consensus.port import OutOfTime, SnapshotSource
from trivet.consensus.snapshot_write import FlushedWriter, SnapshotJob
from trivet.storage.snapshots import SnapshotCommit, SnapshotMeta

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class SnapshotTaker:
    """One at a time: asked for, walked, committed in the sync lane, then the log is compacted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._source: SnapshotSource | None = None
        self._writer: FlushedWriter | None = None
        self._last_writer: FlushedWriter | None = None
        self._job: SnapshotCommit | None = None
        self._running: SnapshotCommit | None = None
        self.wanted = False
        """Asked for, and waiting until no entry is half applied."""

    @property
    def busy(self) -> bool:
        return self.wanted or self._writer is not None

    @property
    def working(self) -> bool:
        """A step now would do something: it waits neither for the disk nor for an install."""
        if self._writer is None:
            return self.wanted and not self._engine.installer.busy
        return self._source is not None or not self._writer.flushing

    def ask(self) -> bool:
        """False if one is under way, nothing is new since the last, or a received one is being installed."""
        engine = self._engine
        latest = engine.storage.snapshots.latest
        if self.busy or self._job or self._running or engine.installer.busy or not engine.born:
            return False
        if latest is not None and latest.index >= engine.machine.applied_index:
            return False
        if engine.machine.applied_index == 0:
            return False
        self.wanted = True
        return True

    def step(self, out_of_time: OutOfTime) -> None:
        engine = self._engine
        if self.wanted and engine.applying.between_entries and not engine.installer.busy:
            self._begin()
        if self._writer is None:
            return
        try:
            while self._source is not None:  # at least one piece a turn
                piece = self._source.read(out_of_time)
                if piece is None:
                    self._source.close()
                    self._source = None
                    break
                if piece:
                    self._writer.write(piece)
                if out_of_time():
                    return
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self.abort("no space")
            return
        if self._source is None and not self._writer.flushing:
            self._job = self._writer.commit()
            self._writer = None

    def _begin(self) -> None:
        engine = self._engine
        self.wanted = False
        source = engine.machine.open_snapshot()
        term = engine.journal.term_at(source.index)
        try:
            writer = engine.storage.snapshots.writer(SnapshotMeta(source.index, term, engine.peers.members))
        except OSError as error:
            source.close()
            if error.errno not in NO_SPACE:
                raise
            engine.event("snapshot_failed", why="no space")
            return
        self._source = source
        self._writer = self._last_writer = FlushedWriter(writer)
        engine.event("snapshot_started", index=source.index)

    def abort(self, why: str) -> None:
        """The walk ends; what was written is removed."""
        self.wanted = False
        if self._source is not None:
            self._source.close()
        if self._writer is not None:
            self._writer.abort()
            self._engine.event("snapshot_failed", why=why)
        self._source = self._writer = None

    def take_job(self) -> SnapshotJob | None:
        """The blocking parts. The last not before the log below it is durable: a snapshot never is ahead of the log
        it stands for, or a crash would leave a hole behind it."""
        if self._writer is not None:
            return self._writer.take_job()
        if self._job is None or self._engine.storage.durable_index < self._job.meta.index:
            return None
        self._running, self._job = self._job, None
        return self._running

    def job_done(self, job: Any) -> bool:
        """False if the job is somebody else's."""
        if self._last_writer is not None and self._last_writer.job_done(job):
            return True
        if job is not self._running or self._running is None:
            return False
        meta = self._running.finish()
        self._running = None
        self._engine.storage.compact(meta.index)
        self._engine.event("snapshot_taken", index=meta.index, bytes=meta.size)
        return True
