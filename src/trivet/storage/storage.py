"""`Storage`: the facade over one data directory (docs/internals/architecture.md, storage/).

One owner calls everything here; only `SyncJob.run` and `SnapshotCommit.run` belong into a thread. What is
buffered becomes durable by `begin_sync`, `job.run`, `end_sync`, in this order, one job at a time.
"""

from __future__ import annotations

import msgspec

from trivet.storage import hard_state, repair
from trivet.storage import identity as identity_files
from trivet.storage.errors import DiskFull, StorageFailed, StorageRefused
from trivet.storage.hard_state import HardRecord, HardSlots
from trivet.storage.identity import Identity, IdentityFiles
from trivet.storage.job import SyncJob
from trivet.storage.log import Log
from trivet.storage.opening import Opened, open_directory
from trivet.storage.port import Disk
from trivet.storage.segment import Segment
from trivet.storage.settings import StorageSettings
from trivet.storage.snapshots import SnapshotMeta, SnapshotStore
from trivet.storage.tables import Tables
from trivet.units import Clock

__all__ = [
    "DiskFull",
    "Identity",
    "SnapshotMeta",
    "Storage",
    "StorageFailed",
    "StorageRefused",
    "StorageSettings",
]


class Storage:
    """Made by `Storage.open`. After a `StorageFailed` nothing but `close` may be called."""

    def __init__(self, disk: Disk, node_id: str, clock: Clock, settings: StorageSettings) -> None:
        self._disk = disk
        self._node_id = node_id
        self._clock = clock
        self._settings = settings
        self._identity = IdentityFiles(disk, node_id)
        self._slots: HardSlots | None = None
        self._hard = HardRecord(node_id, "")
        self._hard_dirty = False
        self._recovering: str | None = None
        self._unmark = False
        self._log = Log(Tables(), [], 0, 0, 0, -1, settings)
        self._gone: list[Segment] = []
        self._position = 0
        self._durable_position = 0
        self._job: SyncJob | None = None
        self._unnoted_since: float | None = None  # a sync that the watermark does not know yet
        self._failed = False
        self.snapshots = SnapshotStore(disk)
        self.notes: list[str] = []  # what open found and put right, for the log

    @classmethod
    def open(cls, disk: Disk, node_id: str, clock: Clock, settings: StorageSettings | None = None) -> Storage:
        """Recovers the directory (R3, R4). Raises `StorageRefused`, and `OSError` if the disk fails."""
        storage = cls(disk, node_id, clock, settings or StorageSettings())
        opened = open_directory(disk, node_id, storage._settings)
        if opened is None:
            storage._recovering = identity_files.read_mark(disk)
        else:
            storage._adopt(opened)
        return storage

    def _adopt(self, opened: Opened) -> None:
        found = opened.log
        self._identity = opened.identity
        self._hard = opened.hard
        self._recovering = opened.recovering
        self.snapshots = opened.snapshots
        self.notes = opened.notes
        for segment in found.segments:
            segment.file = self._disk.open(segment.name)
        if found.segments:
            repair.write_again(found.segments[-1], max(found.proven, opened.hard.watermark), found.end)
        self._log = Log(
            found.tables,
            found.segments,
            found.end,
            found.chain,
            found.sequence,
            found.reset_position,
            self._settings,
        )
        self._own()
        if opened.base is not None:
            self.reset_to(*opened.base)
            self._sync_now()

    def _own(self) -> None:
        """Files that exist only in a directory that belongs to somebody."""
        assert self._identity.current is not None
        self._slots = HardSlots(self._disk)
        self._log.owner = (self._node_id, self._identity.current.cluster_id)
        self.snapshots.cluster_id = self._identity.current.cluster_id

    # --- identity, recovering -------------------------------------------------------------------------------
    @property
    def node_id(self) -> str:
        return self._node_id

    @property
    def identity(self) -> Identity | None:
        return self._identity.current

    def set_identity(self, identity: Identity) -> None:
        """Durable when it returns. Raises `StorageRefused` for another cluster's id."""
        if self._identity.current is None:
            self._hard = msgspec.structs.replace(
                self._hard, cluster_id=identity.cluster_id, recovering=self._recovering is not None
            )
            hard_state.create_slots(self._disk, self._hard)
        self._identity.save(identity)
        if self._slots is None:
            self._own()

    @property
    def recovering(self) -> str | None:
        """Why this node must not vote, lead or count (R6)."""
        return self._recovering

    def mark_recovering(self, why: str) -> None:
        """Durable when it returns."""
        identity_files.write_mark(self._disk, why)
        self._recovering = why
        self._unmark = False
        if self._slots is not None:  # else `set_identity` writes it
            self._change_hard(recovering=True)

    def clear_recovering(self) -> None:
        """The mark goes with the next sync; a crash before it leaves the node recovering."""
        if self._recovering is not None:
            self._recovering = None
            self._unmark = True
            self._change_hard(recovering=False)

    # --- term and vote ----------------------------------------------------------------------------------------
    @property
    def term(self) -> int:
        return self._hard.term

    @property
    def voted_for(self) -> str | None:
        return self._hard.voted_for

    def set_vote(self, term: int, voted_for: str | None) -> None:
        """Buffered. Raises `ValueError` if the term falls or a vote of the term is changed."""
        hard = self._hard
        if term < hard.term or (term == hard.term and hard.voted_for not in (None, voted_for)):
            raise ValueError(f"vote {term}/{voted_for} after {hard.term}/{hard.voted_for}")
        if (term, voted_for) != (hard.term, hard.voted_for):
            self._change_hard(term=term, voted_for=voted_for)

    def _change_hard(self, **changes: object) -> None:
        self._hard = msgspec.structs.replace(self._hard, **changes)
        self._hard_dirty = True
        self._position += 1

    # --- the log ------------------------------------------------------------------------------------------------
    @property
    def base_index(self) -> int:
        return self._log.tables.base_index

    @property
    def base_term(self) -> int:
        return self._log.tables.base_term

    @property
    def last_index(self) -> int:
        return self._log.tables.last_index

    def term_at(self, index: int) -> int | None:
        """None for an index that is neither the base nor in the log."""
        return self._log.tables.term_at(index)

    def entry(self, index: int) -> bytes:
        """Raises `IndexError` outside base+1..last, `StorageFailed` if the disk gives back something else."""
        return self._log.entry(index)

    def bytes_of(self, first: int, last: int) -> int:
        """The data of these entries together, which are in the log."""
        return self._log.tables.bytes_of(first, last)

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[tuple[int, int, bytes]]:
        """(index, term, data) of lo <= index < hi, up to `max_bytes` of data but at least one entry.
        Raises `IndexError` if `lo` is at or below the base."""
        return self._log.entries(lo, hi, max_bytes)

    def append(self, index: int, term: int, data: bytes) -> None:
        """Buffered. Raises `ValueError` unless index is last_index + 1."""
        self._log.append(index, term, data)
        self._position += 1

    def truncate_from(self, index: int) -> None:
        """Buffered; nothing happens above `last_index`. Raises `ValueError` at or below the base."""
        self._log.truncate_from(index)
        self._position += 1

    def reset_to(self, index: int, term: int) -> None:
        """Buffered. The log starts anew behind `index`, of which a snapshot is durable."""
        self._log.reset_to(index, term)
        self._position += 1

    def compact(self, index: int) -> None:
        """Whole segments at or below `index` are forgotten now and deleted with the next sync; the log
        since the older of the two snapshots stays (R7)."""
        gone = self._log.compact(min(index, self.snapshots.older_index))
        if gone:
            self._gone += gone
            self._change_hard(first_segment=gone[-1].sequence + 1)

    # --- durability -----------------------------------------------------------------------------------------------
    @property
    def position(self) -> int:
        """Counts every buffered change; compare with `durable_position`."""
        return self._position

    @property
    def durable_position(self) -> int:
        return self._durable_position

    @property
    def durable_index(self) -> int:
        """The last entry that is on disk; never above `last_index`."""
        return self._log.durable_index

    @property
    def log_end(self) -> int:
        """Logical byte position behind the last record: grows with everything that is written."""
        return self._log.end

    @property
    def failed(self) -> bool:
        """A sync has failed, or the storage is closed."""
        return self._failed or (self._job is not None and self._job.failed)

    @property
    def dirty(self) -> bool:
        """`begin_sync` would give a job, if none ran."""
        return self._hard_dirty or self._log.dirty or bool(self._gone) or self._watermark_due()

    def begin_sync(self) -> SyncJob | None:
        """All that is buffered, as a job; None if there is nothing to do. Also hands out the watermark when
        it is due (R3), so call it on every turn. Raises `StorageFailed` after a failure."""
        if self.failed:
            raise StorageFailed("the disk has failed before: the process must end")
        if self._job is not None:
            raise RuntimeError("a sync job is already running")
        return self._begin() if self.dirty else None

    def _begin(self) -> SyncJob:
        if self._slots is None:
            raise RuntimeError("the directory has no identity yet: nothing can be stored")
        job = SyncJob(self._disk, self._slots, self._position, gone=self._gone, unmark=self._unmark)
        if self._hard_dirty or self._watermark_due():
            watermark = self._log.durable_end
            self._hard = msgspec.structs.replace(
                self._hard, generation=self._hard.generation + 1, watermark=watermark
            )
            job.hard = hard_state.encode_slot(self._hard)
            self._unnoted_since = None
        job.pieces = self._log.capture()
        self._hard_dirty, self._unmark, self._gone = False, False, []
        self._job = job
        return job

    def end_sync(self, job: SyncJob) -> None:
        """After `job.run` returned. After it raised `StorageFailed`: do not call this, end the process."""
        if job is not self._job or not job.done:
            raise RuntimeError("this job is not the running one, or has not run")
        self._job = None
        self._durable_position = job.position
        self._log.captured_is_durable()
        if job.pieces:
            rolled = any(piece.header is not None for piece in job.pieces)
            if rolled:
                self._unnoted_since = self._clock.monotonic() - self._settings.watermark_s
            elif self._unnoted_since is None:
                self._unnoted_since = self._clock.monotonic()

    def flush(self) -> None:
        """Everything buffered is durable when it returns: for tools, not for the loop. Raises as `run`."""
        if self.position > self.durable_position:
            self._sync_now()

    def _watermark_due(self) -> bool:
        since = self._unnoted_since
        return since is not None and self._clock.monotonic() - since >= self._settings.watermark_s

    def _sync_now(self) -> None:
        job = self._begin()
        job.run()
        self.end_sync(job)

    # --- space, end -------------------------------------------------------------------------------------------------
    def free_bytes(self) -> int:
        """Bytes free on the disk, without what is preallocated."""
        return self._disk.free_bytes()

    def close(self) -> None:
        """Syncs what is buffered and writes the watermark. After a failure it only closes the files.
        Raises `RuntimeError` while a job is running, `OSError` if the disk fails."""
        if self._job is not None and not self.failed:
            raise RuntimeError("a sync job is still running")
        try:
            if self._slots is not None and not self.failed:
                self._sync_now()
                if self._unnoted_since is not None:
                    self._hard_dirty = True
                    self._sync_now()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        self._failed = True
        if self._slots is not None:
            self._slots.close()
        for segment in (*self._log.segments, *self._gone):
            if segment.file is not None:
                segment.file.close()
