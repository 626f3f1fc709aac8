"""A snapshot from the leader: received beside, read whole by the machine in slices, committed, and only then the state.

What the machine cannot read never becomes this node's newest snapshot, or it could not start again.

Hazards: r05 a first piece commits what was never verified; r13b an old snapshot cuts acknowledged entries; r13c, r13e
a failed or holed transfer is answered as a success; r13d waiting proposals below it never end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from trivet.consensus.peers import Peer
from trivet.consensus.port import Fatal, OutOfTime, SnapshotSink, StateMachine
from trivet.consensus.snapshot_take import NO_SPACE
from trivet.consensus.snapshot_write import FlushedWriter, SnapshotJob
from trivet.storage.snapshots import SnapshotCommit, SnapshotMeta, SnapshotReader
from trivet.units import KIB
from trivet.wire.frames import SnapshotChunk, SnapshotReply

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

PIECE_BYTES = 256 * KIB


class Source(Protocol):
    """The body of a snapshot."""

    def read_at(self, offset: int, length: int) -> bytes: ...


class SnapshotInstaller:
    """Receiving, then building the state beside, then committing in the sync lane, then the swap. A newer name starts
    over until it is whole."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._name = ""
        self._writer: FlushedWriter | None = None
        self._last_writer: FlushedWriter | None = None
        self._whole: SnapshotChunk | None = None
        self._job: SnapshotCommit | None = None
        self._running: SnapshotCommit | None = None
        self._install: Install | None = None
        self._answer_to: tuple[Peer, SnapshotChunk] | None = None

    @property
    def busy(self) -> bool:
        """From the whole snapshot on."""
        return self._install is not None or self._running is not None or self._job is not None

    @property
    def working(self) -> bool:
        """A step now would do something: it does not wait for the disk."""
        return self._install is not None and self._running is None and self._job is None

    # --- receiving ------------------------------------------------------------------------------------

    def on_chunk(self, peer: Peer, m: SnapshotChunk) -> None:
        engine, storage = self._engine, self._engine.storage
        if not engine.receiver.from_leader(peer, m):
            return
        if m.index <= engine.commit_index or storage.term_at(m.index) == m.index_term:
            self._not_news(peer, m)
            return
        self._answer_to = (peer, m)
        if not self.busy:
            try:
                self._take(m)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self.abort("no space")
        size = m.size if self.busy else (self._writer.size if self._writer is not None else 0)
        self._reply(peer, m, size, False, 0, engine.journal.vote_position)

    def _not_news(self, peer: Peer, m: SnapshotChunk) -> None:
        """What it covers is in our log already: committed, so the same.

        "Installed" says that it is durable here. Said before, of a log that the disk has not taken yet, the leader
        would find this member behind its log still and begin the snapshot anew, once for each piece of its window:
        each answer would make a window of pieces, each piece an answer. Until then it is told to send no more.
        """
        engine = self._engine
        engine.receiver.verify(m.index)
        engine.commit_index = max(engine.commit_index, m.index)
        if not self.busy:
            self.abort("overtaken by the log")
        durable = m.index <= engine.storage.durable_index
        offset, match = (0, m.index) if durable else (m.size, 0)
        self._reply(peer, m, offset, durable, match, engine.journal.vote_position)

    def _take(self, m: SnapshotChunk) -> None:
        if self._writer is None or m.name != self._name or m.offset == 0 == m.size:
            self.abort("another snapshot")
            meta = SnapshotMeta(m.index, m.index_term, tuple(m.members), digest=m.digest)
            self._writer = self._last_writer = FlushedWriter(self._engine.storage.snapshots.writer(meta))
            self._name = m.name
        writer = self._writer
        assert writer is not None
        if m.offset == writer.size and m.data:
            writer.write(m.data)
        if writer.size >= m.size:
            self._whole = m
            self._begin()

    def _begin(self) -> None:
        """All is here: the machine may read it, once no flush of the file is running."""
        m, writer = self._whole, self._writer
        if m is None or writer is None or writer.flushing or self._install is not None:
            return
        if writer.crc != m.crc:
            self._refuse(f"its body has CRC {writer.crc:08x} instead of {m.crc:08x}")
            return
        meta = SnapshotMeta(m.index, m.index_term, tuple(m.members), writer.size, m.digest, m.name, m.crc)
        self._install = Install(self._engine.machine, meta, writer)

    def _refuse(self, why: str) -> None:
        """It is not what the leader said, or the machine cannot read it: this node goes on with what it has."""
        writer, install = self._writer, self._install
        self._whole = self._writer = self._install = None
        if install is not None:
            install.close()
        if writer is not None:
            writer.abort()
        self._engine.event("snapshot_damaged", name=self._name, why=why)

    def abort(self, why: str) -> None:
        """Forget a snapshot that is not committed yet."""
        if self._install is not None and self._writer is not None:
            self._install.close()
            self._install = None
        if self._writer is not None:
            self._writer.abort()
            self._writer = self._whole = None
            self._engine.event("snapshot_dropped", name=self._name, why=why)

    def _reply(
        self, peer: Peer, m: SnapshotChunk, offset: int, installed: bool, match: int, barrier: int
    ) -> None:
        engine = self._engine
        reply = SnapshotReply(
            engine.cluster_id,
            engine.me.id,
            engine.term,
            m.seq,
            m.name,
            offset,
            installed,
            match,
            engine.recovery.active,
            engine.session,
            engine.health(),
        )
        engine.outbox.post(peer.name, reply, barrier)

    # --- committing -----------------------------------------------------------------------------------

    def take_job(self) -> SnapshotJob | None:
        if self._writer is not None and self._whole is None:
            return self._writer.take_job()
        if self._job is None:
            return None
        self._running, self._job = self._job, None
        return self._running

    def job_done(self, job: Any) -> bool:
        """False if the job is somebody else's."""
        if self._last_writer is not None and self._last_writer.job_done(job):
            self._begin()
            return True
        if job is not self._running or self._running is None:
            return False
        self._running.finish()
        self._running = None
        return True

    # --- installing -----------------------------------------------------------------------------------

    def step(self, out_of_time: OutOfTime) -> None:
        install, applying = self._install, self._engine.applying
        if install is None or not applying.between_entries:
            return
        if self._writer is not None:
            self._look_at(install, self._writer, out_of_time)
        elif self._job is None and self._running is None:  # committed
            self._install = None
            if install.meta.index <= self._engine.machine.applied_index:
                install.close()  # the log was quicker
                return
            self._engine.taker.abort("a snapshot is being installed")
            install.swap()
            self._installed(install.meta)

    def _look_at(self, install: Install, writer: FlushedWriter, out_of_time: OutOfTime) -> None:
        if install.meta.index <= self._engine.machine.applied_index:
            self.abort("overtaken by the log")
            return
        try:
            whole = install.read(out_of_time)
        except ValueError as error:
            self._refuse(str(error))
            return
        if whole:
            self._job = writer.commit(install.meta.digest, install.meta.crc)
            self._whole = self._writer = None

    def _installed(self, meta: SnapshotMeta) -> None:
        engine, storage = self._engine, self._engine.storage
        if storage.term_at(meta.index) == meta.term:
            storage.compact(meta.index)  # what follows it matches and may be acknowledged (r13b)
        else:
            storage.reset_to(meta.index, meta.term)
        engine.last_applied = meta.index
        engine.commit_index = max(engine.commit_index, meta.index)
        engine.receiver.verify(meta.index)  # committed: in the log of every leader from now on
        engine.proposals.end_all("snapshot", meta.index)
        engine.event("snapshot_installed", index=meta.index, bytes=meta.size)
        answer_to, self._answer_to = self._answer_to, None
        if answer_to is not None and answer_to[1].term == engine.term:
            self._reply(*answer_to, meta.size, True, meta.index, storage.position)


class Install:
    """The bytes of a snapshot into a machine, in slices."""

    def __init__(self, machine: StateMachine, meta: SnapshotMeta, source: Source) -> None:
        self.meta = meta
        self._machine = machine
        self._source = source
        self._sink: SnapshotSink = machine.begin_install()
        self._offset = 0
        self._rest = b""

    def read(self, out_of_time: OutOfTime) -> bool:
        """True when the new state is whole; call `swap` then. Raises `ValueError` if the machine cannot read it."""
        while self._rest or self._offset < self.meta.size:
            if not self._rest:
                self._rest = self._source.read_at(self._offset, PIECE_BYTES)
                self._offset += len(self._rest)
                if not self._rest:
                    raise Fatal(f"snapshot {self.meta.name} ends at {self._offset}")
            self._rest = self._sink.write(self._rest, out_of_time)
            if out_of_time():
                return False
        return self._sink.check(self.meta.index, out_of_time)

    def swap(self) -> None:
        """The machine holds the snapshot's state."""
        self._sink.finish()
        if self._machine.applied_index != self.meta.index:
            raise Fatal(f"snapshot {self.meta.name} led to index {self._machine.applied_index}")

    def close(self) -> None:
        self._sink.abort()


def load(machine: StateMachine, reader: SnapshotReader) -> None:
    """This node's own newest snapshot into an empty machine, at the start. Raises `Fatal` if it cannot be read."""
    install = Install(machine, reader.meta, reader)
    try:
        while not install.read(lambda: False):
            pass
    except ValueError as error:
        raise Fatal(f"snapshot {reader.meta.name} cannot be read: {error}") from error
    finally:
        reader.close()
    install.swap()
