"""One simulated node: the real Storage and Replica over a simulated disk, driven as `consensus/driver.py` does.

One turn: tick → pull a batch → take the next sync job. The job runs at a later virtual time, and the loop
learns of it later still; a crash may come between any two disk calls of a job.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tests.simulation.checks import Checker
from tests.simulation.disk import SimCrash, SimDisk
from tests.simulation.harm import HarmedDisk
from tests.simulation.network import Network
from tests.simulation.options import Options
from tests.simulation.rivals import Rival
from tests.simulation.watched import WatchedStorage
from tests.simulation.world import NodeClock, World
from trivet.consensus.port import Fatal, NotProposed, Outcome, StateMachine
from trivet.consensus.replica import Replica
from trivet.consensus.settings import ConsensusSettings
from trivet.storage.errors import DiskFull, StorageRefused
from trivet.storage.job import SyncJob
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import Identity
from trivet.wire import frames

TICK_SECONDS = 0.02
UNDURABLE_BATCHES_MAX = 2
CLUSTER = "simulated"

Waiting = tuple[bytes, Callable[[Outcome], None], float]
"""(entry, done, virtual time at which its client stops waiting)"""


class Machine(StateMachine, Protocol):
    """What the simulator asks of a machine besides the port."""

    def digest(self) -> bytes: ...


class SimNode(HarmedDisk):
    """A machine with a disk and a clock; `replica` is None while the process is not running."""

    def __init__(
        self,
        world: World,
        name: str,
        members: list[str],
        options: Options,
        network: Network,
        checker: Checker,
        make_machine: Callable[[SimNode], Machine],
    ) -> None:
        self.world, self.name, self.members = world, name, members
        self.options, self.network, self.checker = options, network, checker
        self.make_machine = make_machine
        self.rng = world.stream(f"node/{name}")
        self.disk = SimDisk(world.stream(f"disk/{name}"))
        drift = options.drift * self.rng.uniform(-1, 1)
        spread = options.wall_spread_ms
        self.clock = NodeClock(world, 1.0 + drift, self.rng.randint(-spread, spread), options.cpu_cost)
        self.replica: Replica | None = None
        self.storage: WatchedStorage | None = None
        self.machine: Machine | None = None
        self.incarnation = 0
        self.sync_factor = 1.0
        self.awake_since = 0.0
        self.gently = False
        self.hurt = False  # damaged or wiped, and not yet found healthy again
        self.born = False  # has ever applied an entry
        self.expected_errors = 0  # injected disk errors that may still end the process
        self.after_turn: Callable[[SimNode], None] | None = None
        self.on_died: list[Callable[[SimNode], None]] = []  # deaths that the nemesis did not deal itself
        self.on_death: list[Callable[[SimNode], None]] = []  # all
        self.on_resume: list[Callable[[SimNode], None]] = []  # after a pause, before what waited meanwhile
        self._hurt_in = -1  # the life in which it was damaged
        self._whole_syncs = 0
        self._paused_until = 0.0
        self._backlog: list[Callable[[], None]] = []
        self._pending: deque[Waiting] = deque()
        self._turn_asked = False
        self._standing: object = None
        self._job: Any = None
        self._hanging = None
        self._buffered = self._syncing = 0

    # --- state ------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.replica is not None

    @property
    def paused(self) -> bool:
        return self._paused_until > self.world.now

    @property
    def is_leader(self) -> bool:
        return self.replica is not None and self.replica.is_leader

    @property
    def can_propose(self) -> bool:
        return self.replica is not None and self.replica.can_propose

    @property
    def applied_index(self) -> int:
        return self.replica.applied_index if self.replica is not None else 0

    @property
    def damaged(self) -> bool:
        return self.hurt or (self.storage is not None and self.storage.recovering is not None)

    def picture(self) -> str:
        replica, storage = self.replica, self.storage
        if replica is None or storage is None:
            return f"{self.name} down"
        return (
            f"{self.name} {replica.role} term {replica.term} last {storage.last_index} durable {storage.durable_index} "
            f"commit {replica.commit_index} applied {replica.applied_index} recovering {storage.recovering} hurt {self.hurt}"
        )

    def digest_text(self) -> str:
        assert self.machine is not None
        return self.machine.digest().hex()

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Boot. A node that finds its directory unusable stays down: only after damage."""
        if self.running:
            return None
        self.incarnation += 1
        self.clock.reboot(self.rng.uniform(0, 1000))
        self._paused_until = 0.0
        self._backlog, self._pending = [], deque()
        self._turn_asked, self._job, self._hanging = False, None, None
        self._buffered = self._syncing = self._whole_syncs = 0
        self.awake_since = self.world.now
        self.world.trace(f"start {self.name} life {self.incarnation}")
        try:
            self._boot()
        except SimCrash:
            return self._down("crash at boot", lose_unsynced=True, silently=True)
        except OSError as error:
            return self._failed(error, "boot")
        except StorageRefused as error:
            if not self.hurt:
                self.world.violate("refused", f"{self.name} cannot use its own directory: {error}")
            self.world.count("boot refused after damage")
            self.wipe()  # the operator replaces the disk
            return self.world.after(0.5, self.start)
        except Fatal as error:
            self.world.violate("fatal at boot", f"{self.name}: {error!r}")
        self._ticker(self.incarnation)
        return None

    def _boot(self) -> None:
        settings = StorageSettings(
            segment_bytes=self.options.segment_bytes, cache_bytes=self.rng.choice((1 << 12, 1 << 20))
        )
        storage = WatchedStorage.open(self.disk, self.name, self.clock, settings)
        assert isinstance(storage, WatchedStorage)
        storage.checker, storage.owner = self.checker, self
        if storage.identity is None and self.incarnation == 1 and not self.options.real_birth:
            storage.set_identity(Identity(CLUSTER, tuple(self.members), "born"))
        self.storage = storage
        if storage.recovering is not None:
            self.world.count("recovering at boot")
            self.world.trace(f"{self.name} recovering: {storage.recovering}")
            if not self.hurt and self.incarnation > 1:
                self.world.violate("recovering without damage", f"{self.name}: {storage.recovering}")
            self.checker.forgive(self.name)
            self.checker.forgive_log(self.name)
        elif self.hurt:
            self.world.count("damage without effect")
        self.machine = self.make_machine(self)
        self.replica = Replica(
            self.name,
            self.members,
            storage,
            self.machine,
            self.clock,
            self._chance(),
            self._send,
            self._settings(),
            self._event,
        )
        self.checker.life_begins(self.name, self.replica, storage)

    def _chance(self) -> random.Random:
        """The consensus layer's own randomness."""
        drawn = self.rng.getrandbits(64)
        return Rival(self.world, self.network, drawn) if self.options.rivals else random.Random(drawn)

    def _settings(self) -> ConsensusSettings:
        options = self.options
        return ConsensusSettings(
            append_bytes=options.batch_bytes,
            window_bytes=options.batch_bytes * 8,
            window_frames=self.rng.choice((1, 2, 8, 64)),
            snapshot_chunk_bytes=options.snapshot_chunk_bytes,
            snapshot_window=self.rng.choice((1, 4)),
            pending_max=self.rng.choice((8, 256)),
            bootstrap=True,
        )

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        self.world.say(f"{self.name} {name} {fields}")
        self.world.count(f"event {name}")
        if name == "callback_raised":
            self.world.violate("callback raised", f"{self.name}: {fields}")

    def _failed(self, error: OSError, where: str) -> None:
        """The disk failed: the process ends (design 3). Only injected failures may do that."""
        full = error.errno == errno.ENOSPC and self.disk.capacity is not None
        if self.expected_errors == 0 and not self.hurt and not full:
            self.world.violate("disk error from nowhere", f"{self.name} at {where}: {error!r}")
        what = errno.errorcode.get(error.errno or 0, "damage found while running")
        self.world.count(f"died of {what}")
        self._down(f"disk error at {where}", lose_unsynced=self.rng.random() < 0.5, silently=False)

    def _down(self, why: str, lose_unsynced: bool, silently: bool) -> None:
        self.die(why, lose_unsynced, silently)
        for told in self.on_died:
            told(self)

    def die(self, why: str, lose_unsynced: bool, silently: bool) -> None:
        """The process is gone, at any point. `lose_unsynced`: so is the machine's memory."""
        self.world.trace(f"die {self.name}: {why}")
        self.world.count(f"died: {why}")
        self.replica = self.storage = self.machine = None
        self.expected_errors = 0
        self.gently = False
        self.incarnation += 1
        self._backlog, self._pending = [], deque()
        self._paused_until = 0.0
        (self.disk.crash if lose_unsynced else self.disk.kill)()
        self.network.node_died(self.name, silently)
        for told in self.on_death:
            told(self)

    def stop_cleanly(self) -> None:
        """SIGTERM's last part: everything buffered to the disk, watermark, end."""
        assert self.storage is not None
        if self._job is None and not self.expected_errors:
            self.guard(self._close)
        if self.running:
            self._down("stopped", lose_unsynced=False, silently=False)

    def _close(self) -> None:
        assert self.storage is not None and self.replica is not None
        while (job := self.replica.take_sync()) is not None:
            job.run()
            self.replica.synced(job)
        self.storage.close()

    def guard(self, action: Callable[[], None]) -> None:
        """Run an input; whatever it raises ends the process, as the driver does."""
        if self.replica is None:
            return
        try:
            action()
        except SimCrash:
            self._down("power cut in a disk call", lose_unsynced=True, silently=True)
            return
        except OSError as error:
            self._failed(error, "input")
            return
        except Fatal as error:
            if not self.hurt:
                self.world.violate("fatal", f"{self.name}: {error!r}")
            self.world.count("died of damage found while running")
            self._down("damage found", lose_unsynced=False, silently=False)
            return
        if self.replica is not None and self.storage is not None:
            led = self.checker.audits[self.name].led
            self.checker.step(self.name, self.replica, self.storage)
            if self.replica.is_leader:
                self.checker.office(self.name, self.awake_since)
                if self.replica.term != led:
                    self.network.repeat_to(self.name)
            self.born = self.born or self.replica.applied_index > 0
            whole = self.storage.recovering is None and self._whole_syncs >= 2
            if self.hurt and whole and self.incarnation > self._hurt_in:
                self.hurt = False

    # --- pauses -----------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """SIGSTOP: nothing runs, messages and timers queue up, the clocks go on."""
        self._paused_until = max(self._paused_until, self.world.now + seconds)
        self.world.at(self._paused_until, self._resume)

    def _resume(self) -> None:
        if self.paused or not self.running:
            return
        self.awake_since = self.world.now
        for told in self.on_resume:
            told(self)
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            if self.paused or not self.running:
                return
            action()

    def when_awake(self, action: Callable[[], None]) -> None:
        if self.paused:
            self._backlog.append(action)
        else:
            action()

    # --- inputs -----------------------------------------------------------------------------------------

    def hello(self) -> Any:
        return self.replica.hello()  # type: ignore[union-attr]

    def peer_up(self, peer: str, hello: Any) -> None:
        self.guard(lambda: self.replica.peer_up(peer, hello))  # type: ignore[union-attr]
        self.wake()

    def peer_down(self, peer: str) -> None:
        self.guard(lambda: self.replica.peer_down(peer))  # type: ignore[union-attr]
        self.wake()

    def receive(self, peer: str, frame: bytes) -> None:
        self.world.trace(f"{peer}>{self.name}", frame)
        self.checker.heard(self.name, peer)
        message = frames.decode(frame)
        if self.world.log is not None:
            self.world.say(f"{peer}>{self.name} {message}"[:420])
        self.guard(lambda: self.replica.receive(peer, message))  # type: ignore[union-attr]
        replica = self.replica
        if replica is None or not replica.settled or replica.standing != self._standing:
            self.wake()

    def _send(self, peer: str, message: frames.Message) -> None:
        self.checker.sent(self.name, peer, message, self.storage)
        self.world.count(f"sent {type(message).__name__}")
        self.network.send(self.name, peer, frames.encode(message), message)

    def submit(self, data: bytes, done: Callable[[Outcome], None], deadline_s: float) -> None:
        """A proposal: waits for its turn like a batch of the broker, or is refused at once."""
        replica = self.replica
        if self.paused or replica is None:
            return done(NotProposed("not reached"))
        if not replica.can_propose:
            self.guard(lambda: replica.propose(data, done, deadline_s))
            return None
        self._pending.append((data, done, self.world.now + deadline_s))
        self.wake()
        return None

    def read(self, done: Callable[[bool], None]) -> None:
        replica = self.replica
        if self.paused or replica is None:
            return done(False)
        self.guard(lambda: replica.read(done))
        self.wake()
        return None

    def snapshot_now(self) -> bool:
        replica = self.replica
        if replica is None or self.paused:
            return False
        self.guard(lambda: replica.snapshot_now())
        self.wake()
        return True

    def transfer(self) -> bool:
        replica = self.replica
        if replica is None or self.paused:
            return False
        answers: list[bool] = []
        self.guard(lambda: answers.append(replica.transfer()))
        self.wake()
        return bool(answers and answers[0])

    # --- turns ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if self._turn_asked or not self.running:
            return
        self._turn_asked = True
        life = self.incarnation
        self.world.after(self.options.turn_seconds, lambda: self._turn_if_alive(life))

    def _turn_if_alive(self, life: int) -> None:
        if life == self.incarnation:
            self.when_awake(lambda: self._turn(life))

    def _ticker(self, life: int) -> None:
        if life == self.incarnation:
            self.world.after(TICK_SECONDS * self.rng.uniform(0.5, 1.5), lambda: self._tick(life))

    def _tick(self, life: int) -> None:
        self._ticker(life)
        if life == self.incarnation and not self.paused:
            self._turn(life, timer=True)

    def _turn(self, life: int, timer: bool = False) -> None:
        if life == self.incarnation:
            self._turn_asked = False
            self.guard(lambda: self._do_turn(timer))

    def _do_turn(self, timer: bool = False) -> None:
        """As the driver's: a steady replica ticks by the timer only."""
        replica = self.replica
        assert replica is not None
        if timer or not replica.steady:
            replica.tick()
        elif replica.applied_index < replica.commit_index:
            self.world.count("entries left to the timer")
        latest = self.storage.snapshots.latest  # type: ignore[union-attr]
        if replica.applied_index - (latest.index if latest else 0) >= self.options.snapshot_entries:
            replica.snapshot_now()
        self._pull(replica)
        self._begin_sync(replica)
        if self.after_turn is not None:
            self.after_turn(self)
        self._standing = replica.standing
        if replica.applied_index < replica.commit_index and not replica.steady:
            self.wake()

    def _pull(self, replica: Replica) -> None:
        while self._pending and self._pending[0][2] <= self.world.now:
            self._pending.popleft()[1](NotProposed("overloaded"))
        while self._pending and (
            not replica.can_propose or self._buffered + self._syncing < UNDURABLE_BATCHES_MAX
        ):
            data, done, until = self._pending.popleft()
            if replica.can_propose:
                self._buffered += 1
            replica.propose(data, done, until - self.world.now)

    def _begin_sync(self, replica: Replica) -> None:
        if self._job is not None:
            return
        job = replica.take_sync()
        if job is None:
            self._buffered = 0
            return
        self._job = job
        self._syncing, self._buffered = self._buffered, 0
        life = self.incarnation
        took = self.options.sync_seconds * self.rng.uniform(0.2, 2.0)
        self._disk_busy(took * 0.7, lambda: self._run_job(life, job, took * 0.3))

    def _run_job(self, life: int, job: Any, rest: float) -> None:
        def run() -> None:
            if life == self.incarnation:
                self.guard(lambda: self._really_run(life, job, rest))

        self.when_awake(run)  # SIGSTOP stops the sync thread too

    def _really_run(self, life: int, job: Any, rest: float) -> None:
        try:
            job.run()
        except DiskFull:
            self.world.count("sync job waits for space")
            self.world.after(0.1, lambda: self._run_job(life, job, rest))
            return
        self.world.trace(f"synced {self.name}")
        self._disk_busy(rest, lambda: self._synced(life, job))

    def _synced(self, life: int, job: Any) -> None:
        if life != self.incarnation:
            return

        def told() -> None:
            if life != self.incarnation or self.replica is None:
                return
            self._job, self._syncing = None, 0
            self.guard(lambda: self.replica.synced(job))  # type: ignore[union-attr]
            if isinstance(job, SyncJob):  # a snapshot's flush carries no mark
                # The end of recovering is durable with the sync after it: two in a row without the mark.
                whole = self.storage is not None and self.storage.recovering is None
                self._whole_syncs = self._whole_syncs + 1 if whole else 0
            self.guard(self._do_turn)

        self.when_awake(told)

    # --- the disk ---------------------------------------------------------------------------------------

    def heal(self) -> None:
        """The end of faults: disk, clock and process work again."""
        self.disk_heals()
        self.clock.cost = 0.0
        if self.running and self.hurt and self._hurt_in == self.incarnation:
            self._down("restarted to find its rot", lose_unsynced=False, silently=False)
        if self.paused:
            self.world.after(0.0, self._wake)

    def _wake(self) -> None:  # paused until here: nothing overtakes what waited
        self._paused_until = self.world.now
        self._resume()
