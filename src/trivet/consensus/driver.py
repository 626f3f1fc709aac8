"""The loop around a replica on real sockets and a real disk (design 2 and 4).

One turn: tick (if there is something to do, else only by the timer) → pull a batch → take the next sync job →
flush what may leave (what already waits for the disk or the wire goes before the tick). Turns are asked for by
`wake` (a frame that leaves something to do, a proposal, a finished sync), joined into one by the event loop, and by
a timer at most 20 ms apart, which a turn at about that time spares: after a sleep each wake-up is dear. Nothing
between a request and its commit waits for the timer.

A sync job runs in one worker thread, while the loop gathers the next batch, and those of snapshots in another, so
that no log waits for hundreds of megabytes; a light one runs in the turn while the disk is quick (`syncing`). The
replica holds back what may not leave before it is durable; AppendEntries leave before the own fsync begins.

Whatever a turn raises ends the process through `die`: a replica that failed half-way must not go on (design 3).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from trivet.consensus.port import Outcome
from trivet.consensus.syncing import Pace, SyncJob, SyncThread, timed_run
from trivet.storage.errors import DiskFull

TICK_SECONDS = 0.02
UNDURABLE_BATCHES_MAX = 2
DISK_FULL_SECONDS = 0.25  # R10: then the same job is tried again; nothing of it was written


class DrivenReplica(Protocol):
    """The inputs of `Replica` which the driver uses."""

    @property
    def can_propose(self) -> bool: ...

    @property
    def busy(self) -> bool:
        """More slices wait (apply, snapshot, install)."""
        ...

    @property
    def steady(self) -> bool:
        """A tick now would do nothing that the timer's next one does not do as well."""
        ...

    @property
    def standing(self) -> object:
        """Equal as long as role, term and leader are."""
        ...

    @property
    def settled(self) -> bool:
        """Steady, and there is nothing to store."""
        ...

    def peer_up(self, peer: str, hello: Any) -> None: ...

    def peer_down(self, peer: str) -> None: ...

    def receive(self, peer: str, message: Any) -> None: ...

    def tick(self) -> None: ...

    def propose(self, data: bytes, done: Callable[[Outcome], None], deadline_s: float) -> None: ...

    def take_sync(self, snapshots: bool) -> SyncJob | None: ...

    def take_snapshot_job(self) -> SyncJob | None: ...

    def synced(self, job: Any) -> None: ...


class BatchSource(Protocol):
    """Where proposals wait. Every batch given out gets exactly one outcome."""

    def next_batch(self) -> tuple[bytes, Callable[[Outcome], None]] | None: ...


class Observer(Protocol):
    """What the driver reports. Called in the loop; must be quick and must not raise."""

    def turned(self, held_s: float) -> None: ...

    def synced(self, took_s: float) -> None: ...

    def proposed(self, size: int) -> None: ...


class Driver:
    """Runs one replica on the running event loop. All methods belong to the loop's thread."""

    def __init__(
        self,
        replica: DrivenReplica,
        source: BatchSource,
        *,
        flush: Callable[[], None],
        die: Callable[[str, BaseException | None], None],
        observer: Observer | None = None,
        on_turn: Callable[[], None] | None = None,
        on_timer: Callable[[], None] | None = None,
        proposal_deadline_s: float = 10.0,
        name: str = "node",
    ) -> None:
        """`flush` puts what the replica sent on the wire. `on_turn` runs in each turn after the tick
        (role changes), `on_timer` at most every 20 ms (duties); both may propose through `source`."""
        self._replica = replica
        self._source = source
        self._flush = flush
        self._die = die
        self._observer = observer
        self._on_turn = on_turn
        self._on_timer = on_timer
        self._deadline_s = proposal_deadline_s
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: SyncThread | None = None
        self._pace = Pace()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = float("-inf")
        self._standing: object = None  # the replica's, in the last turn
        self._scheduled = False
        self._job: SyncJob | None = None
        self._buffered_batches = 0  # proposed since the last sync job was taken
        self._syncing_batches = 0  # covered by the running job
        self._idle: asyncio.Event | None = None
        self._snapshot_thread: SyncThread | None = None
        self._snapshot_job: SyncJob | None = None
        self._snapshot_idle: asyncio.Event | None = None
        self._failed = False
        self.waits_for_space = False  # R10: the running sync found the disk full

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = SyncThread(self._loop, f"sync-{self._name}")
        self._idle = asyncio.Event()
        self._idle.set()
        self._snapshot_thread = SyncThread(self._loop, f"snapshot-{self._name}")
        self._snapshot_idle = asyncio.Event()
        self._snapshot_idle.set()
        self._timer = self._loop.call_later(0, self._on_tick)

    async def stop(self) -> None:
        """No more turns; waits for the sync that runs and takes what is still buffered to the disk."""
        if self._loop is None or self._idle is None or self._snapshot_idle is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        while not self._failed:
            await self._idle.wait()
            if not self._begin_sync(stopping=True):
                break  # also when the disk is full: the unfinished job is given up
        if not self._failed:
            await self._snapshot_idle.wait()
        self._loop = None
        for thread in (self._thread, self._snapshot_thread):
            if thread is not None:
                thread.stop()
        self._thread = self._snapshot_thread = None

    @property
    def running(self) -> bool:
        return self._timer is not None and not self._failed

    # --- inputs -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Asks for a turn; many calls before it make one."""
        if not self._scheduled and self._timer is not None and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def peer_up(self, peer: str, hello: Any) -> None:
        self._input(self._replica.peer_up, peer, hello)

    def peer_down(self, peer: str) -> None:
        self._input(self._replica.peer_down, peer)

    def receive(self, peer: str, message: Any) -> None:
        self._input(self._receive, peer, message)

    def _receive(self, peer: str, message: Any) -> bool:
        """What leaves nothing to do (a heartbeat, the answer of the second member) is no reason for a turn."""
        self._replica.receive(peer, message)
        if self._replica.settled and self._replica.standing == self._standing:
            self._flush()
            return False
        return True

    def _input(self, handle: Callable[..., bool | None], *arguments: Any) -> None:
        """Then a turn, unless `handle` says False."""
        if not self.running:
            return
        try:
            wanted = handle(*arguments) is not False
        except Exception as error:  # noqa: BLE001 any failure inside the replica is fatal
            self._fail("consensus", error)
            return
        if wanted:
            self.wake()

    # --- a turn -----------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        if self._timer is not None:
            self._turn(timer=True)

    def _turn(self, timer: bool = False) -> None:
        if not timer:
            self._scheduled = False
        if not self.running:
            return
        started = time.perf_counter()
        if timer or started - self._ticked_at >= TICK_SECONDS / 2:
            timer = True  # a turn so late does the next one's work, too
            self._wind_up(started)
        try:
            # First what others wait for: entries just received go to the disk, and what was answered while
            # receiving leaves, before this node applies anything (up to 5 ms, R25).
            self._begin_sync()
            if self._failed:
                return
            self._flush()
            if timer or not self._replica.steady:
                self._replica.tick()
            if self._on_turn is not None:
                self._on_turn()
            if timer and self._on_timer is not None:
                self._on_timer()
            self._pull()
            began = self._begin_sync()
            if self._failed:
                return
            self._begin_snapshot_job()
            self._flush()
            self._standing = self._replica.standing
            synced = began and self._job is None
            if self._replica.busy or (synced and not self._replica.steady):
                # The slice was used up (R9, R25), or the sync brought a commit: let others run, then go on.
                self.wake()
        except Exception as error:  # noqa: BLE001 any failure inside a turn is fatal
            self._fail("consensus", error)
            return
        if self._observer is not None:
            self._observer.turned(time.perf_counter() - started)

    def _wind_up(self, now_s: float) -> None:
        assert self._timer is not None and self._loop is not None
        self._ticked_at = now_s
        self._timer.cancel()
        self._timer = self._loop.call_later(TICK_SECONDS, self._on_tick)

    def _pull(self) -> None:
        """At most two own entries are on their way to the own disk: so batches grow under load, by
        themselves, and one is always being gathered while another is written."""
        while (
            self._buffered_batches + self._syncing_batches < UNDURABLE_BATCHES_MAX
            and self._replica.can_propose
        ):
            batch = self._source.next_batch()
            if batch is None:
                return
            data, done = batch
            self._buffered_batches += 1
            self._replica.propose(data, done, self._deadline_s)
            if self._observer is not None:
                self._observer.proposed(len(data))

    def _begin_sync(self, stopping: bool = False) -> bool:
        if self._job is not None or self._thread is None or self._idle is None:
            return False
        job = self._replica.take_sync(snapshots=False)
        if job is None:
            self._buffered_batches = 0
            return False
        if job.light and self._pace.quick and self._snapshot_job is None and not stopping:
            self._sync_here(job)
            return True
        self._job = job
        self._syncing_batches, self._buffered_batches = self._buffered_batches, 0
        self._idle.clear()
        self._thread.run(job, self._end_sync)
        return True

    def _sync_here(self, job: SyncJob) -> None:
        """The others write at the same time: what they wait for leaves first."""
        self._flush()
        error, took_s = timed_run(job)
        self._buffered_batches = 0
        self._tell_synced(job, error, took_s)

    def _end_sync(self, job: SyncJob, error: BaseException | None, took_s: float) -> None:
        if isinstance(error, DiskFull):
            self._wait_for_space(job)
            return
        self._job = None
        self._syncing_batches = 0
        if self._idle is not None:
            self._idle.set()
        self._tell_synced(job, error, took_s)
        if self.running:
            # At once, not in a later turn: what the sync released (votes, acknowledgements) is what
            # somebody waits for.
            self._turn(timer=False)

    def _tell_synced(self, job: SyncJob, error: BaseException | None, took_s: float) -> None:
        """What follows from a sync, wherever it ran. An error ends the process."""
        if job.light:
            self._pace.took(took_s)
        if error is not None:
            self._fail("storage", error)
            return
        try:
            self._replica.synced(job)
        except Exception as caught:  # noqa: BLE001 any failure inside the replica is fatal
            self._fail("consensus", caught)
            return
        if self._observer is not None:
            self._observer.synced(took_s)

    def _begin_snapshot_job(self) -> None:
        if self._snapshot_job is not None or self._snapshot_thread is None or self._snapshot_idle is None:
            return
        job = self._replica.take_snapshot_job()
        if job is not None:
            self._snapshot_job = job
            self._snapshot_idle.clear()
            self._pace.slow()
            self._snapshot_thread.run(job, self._end_snapshot_job)

    def _end_snapshot_job(self, job: SyncJob, error: BaseException | None, took_s: float) -> None:
        self._snapshot_job = None
        if self._snapshot_idle is not None:
            self._snapshot_idle.set()
        if error is not None:
            self._fail("storage", error)
        else:
            self._input(self._replica.synced, job)

    def _wait_for_space(self, job: SyncJob) -> None:
        """R10: a full node stops acknowledging and lives; heartbeats and reads go on."""
        if not self.running or self._loop is None or self._thread is None:
            if self._idle is not None:
                self._idle.set()  # stopping: what is buffered was promised to nobody
            return
        self.waits_for_space = True
        self._loop.call_later(DISK_FULL_SECONDS, self._try_again, job)

    def _try_again(self, job: SyncJob) -> None:
        self.waits_for_space = False
        if self._thread is None:
            return
        if self.running:
            self._thread.run(job, self._end_sync)
        elif self._idle is not None:
            self._idle.set()

    def _fail(self, reason: str, error: BaseException) -> None:
        if self._failed:
            return
        self._failed = True
        for idle in (self._idle, self._snapshot_idle):
            if idle is not None:
                idle.set()
        self._die(reason, error)
