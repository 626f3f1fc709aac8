"""What a node does by itself: the cluster's first command, expiry, schedules, snapshots, and the watermarks (R1, R2, R10).

Called from the driver's timer, at most 20 ms apart; each call is quick. Nothing here decides what expires:
the machine does, when the `Expire` command is applied. One command of a kind is on its way at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from trivet.errors import TrivetError
from trivet.limits import EXPIRE_BATCH_MAX
from trivet.machine.commands import Command, Expire, Genesis
from trivet.machine.replies import Done, SlotsDecided
from trivet.machine.schedules import Schedules
from trivet.node.broker import Committed
from trivet.node.memory import MemoryGauge
from trivet.node.stamps import Stamper
from trivet.node.timekeeper import Timekeeper
from trivet.observability.logs import Events, Log
from trivet.units import SECOND_MS, Clock

LEASE_GRACE_MS = 5 * SECOND_MS
SECRET_BYTES = 32
FRUITLESS_SECONDS = 0.1  # pause after an expiry that found nothing, so that it cannot spin
WATERMARK_SECONDS = 0.5
HAND_OVER_SECONDS = 2.0
SLOTS_SECONDS = 0.003  # for computing slots, each time (R25)
REFUSED_SECONDS = 1.0  # pause before slots are offered again to a node that takes no new messages

End = Callable[[Committed | TrivetError], None]


class Office(Protocol):
    """What the duties read of the replica."""

    @property
    def can_propose(self) -> bool: ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def applied_index(self) -> int: ...

    memory_pressure: bool  # told to the other members (R10)

    def transfer(self, to: str | None = None, *, with_space: bool = False) -> bool: ...

    def snapshot_now(self) -> object: ...


class Ledger(Protocol):
    """What the duties read of the machine."""

    cluster_id: str
    clock_ms: int
    schedules: Schedules

    def next_deadline_ms(self) -> int | None: ...


class LogSizes(Protocol):
    """What the duties read of storage."""

    def free_bytes(self) -> int: ...

    def snapshot(self) -> tuple[int, int]:
        """(index, size) of the newest snapshot; (0, 0) without one."""
        ...

    def log_bytes(self) -> int:
        """Bytes ever written to the log by this process: grows only."""
        ...


@dataclass(slots=True)
class Pressure:
    """What forbids new messages (`disk`, `memory`) or everything (`floor`). R10."""

    disk: bool = False
    floor: bool = False
    memory: bool = False
    free_bytes: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0

    def reason(self) -> str | None:
        """None, or what forbids new messages now: memory | disk."""
        if self.disk or self.floor:
            return "disk"
        return "memory" if self.memory else None


@dataclass(frozen=True, slots=True)
class DutySettings:
    snapshot_entries: int
    snapshot_bytes: int
    disk_reserve_bytes: int
    disk_floor_bytes: int
    lease_grace_ms: int = LEASE_GRACE_MS
    auto_create_queues: bool = True


class Duties:
    """One node's duties. Runs in the loop's thread."""

    def __init__(
        self,
        *,
        office: Office,
        machine: Callable[[], Ledger],
        sizes: LogSizes,
        stamper: Stamper,
        offer: Callable[[Command, End], None],
        genesis: Callable[[], Genesis | None],
        memory: MemoryGauge,
        clock: Clock,
        settings: DutySettings,
        log: Log,
    ) -> None:
        """`offer` puts a command in the broker's line and may raise `TrivetError`. `genesis`: the first command,
        None while the cluster is not born."""
        self._office = office
        self._machine = machine
        self._sizes = sizes
        self._stamper = stamper
        self._offer = offer
        self._genesis = genesis
        self._memory = memory
        self._clock = clock
        self._settings = settings
        self._log = log
        self.pressure = Pressure(memory_limit_bytes=memory.limit_bytes)
        self.expired = 0  # things expiry handled since the start
        self.fired = 0  # slots that got their message from this node as leader
        self.alarms: list[str] = []
        self._office_since: float | None = None
        self._busy: set[str] = set()  # duties whose command is on its way; only ever looked up
        self._expire_after = 0.0
        self._timekeeper = Timekeeper(settings.auto_create_queues, self._slots_took_long)
        self._slots_since = 0.0
        self._fire_after = 0.0
        self._watermarks_at = 0.0
        self._handed_over_at = 0.0
        self._snapshot_index = -1
        self._log_bytes_at_snapshot = 0

    # --- the timer --------------------------------------------------------------------------------------

    def on_timer(self) -> None:
        now = self._clock.monotonic()
        if now >= self._watermarks_at:
            self._watermarks_at = now + WATERMARK_SECONDS
            self.look_at_watermarks()
            self._look_at_alarms()
            self._take_snapshot_if_due()
        if not self._office.is_leader:
            self._office_since = None
            return
        self._hand_over_if_full(now)
        if not self._office.can_propose:
            return
        if self._office_since is None:
            self._office_since = now
        if not self._machine().cluster_id:
            self._propose_genesis()
        else:
            self._expire(now)
            self._fire(now)

    def take_office(self) -> None:
        """Called in the turn in which this node becomes able to propose, before anything is stamped.

        A new cluster's first command is put in line here, ahead of every client's: the tokens that those
        get are made with the secret in it (R13).
        """
        self._stamper.take_office(self._machine().clock_ms)
        self._office_since = self._clock.monotonic()
        self._expire_after = self._fire_after = 0.0
        if not self._machine().cluster_id:
            self._propose_genesis()

    # --- commands ---------------------------------------------------------------------------------------

    def _propose(self, duty: str, command: Command, end: End) -> None:
        if duty in self._busy:
            return

        def ended(result: Committed | TrivetError) -> None:
            self._busy.discard(duty)
            end(result)

        self._busy.add(duty)
        try:
            self._offer(command, ended)
        except TrivetError as error:
            ended(error)

    def _propose_genesis(self) -> None:
        genesis = self._genesis()
        if genesis is not None:
            self._propose("genesis", genesis, self._genesis_ended)

    def _genesis_ended(self, result: Committed | TrivetError) -> None:
        if isinstance(result, TrivetError):
            self._log(Events.DUTY_FAILED, duty="genesis", reason=result.code)
        else:
            self._log(Events.CLUSTER_BORN, cluster_id=self._machine().cluster_id)

    def _expire(self, now: float) -> None:
        """R1: leases are left alone for the grace after taking office; delays and windows are not."""
        if now < self._expire_after or "expire" in self._busy:
            return
        machine = self._machine()
        due_ms = machine.next_deadline_ms()
        if due_ms is None or due_ms > self._stamper.peek_ms(machine.clock_ms):
            return
        self._propose(
            "expire", Expire(limit=EXPIRE_BATCH_MAX, leases=self.grace_over(now)), self._expire_ended
        )

    def grace_over(self, now: float) -> bool:
        since = self._office_since
        return since is not None and (now - since) * 1000 >= self._settings.lease_grace_ms

    def _expire_ended(self, result: Committed | TrivetError) -> None:
        if isinstance(result, TrivetError):
            self._expire_after = self._clock.monotonic() + FRUITLESS_SECONDS
            if result.code not in (
                "lost_leadership",
                "draining",
                "outcome_unknown",
                "no_leader",
                "overloaded",
            ):
                self._log(Events.DUTY_FAILED, duty="expire", reason=result.code)
            return
        reply = result.answer.reply
        assert isinstance(reply, Done)
        self.expired += reply.count
        if reply.more and reply.count:
            self._expire(self._clock.monotonic())
        elif not reply.count:
            # Due, but nothing to do yet: leases inside the grace, or a deadline earlier than true.
            self._expire_after = self._clock.monotonic() + FRUITLESS_SECONDS

    def _fire(self, now: float) -> None:
        """Schedules that are due. What a full or paused queue refuses is the machine's to try again."""
        if now < self._fire_after or "fire" in self._busy:
            return
        machine = self._machine()
        self._slots_since = now
        command = self._timekeeper.next_command(machine.schedules, self._stamper.peek_ms(machine.clock_ms))
        if command is not None:
            self._propose("fire", command, self._fire_ended)

    def _slots_took_long(self) -> bool:
        return self._clock.monotonic() - self._slots_since > SLOTS_SECONDS

    def _fire_ended(self, result: Committed | TrivetError) -> None:
        if not isinstance(result, TrivetError):
            reply = result.answer.reply
            assert isinstance(reply, SlotsDecided)
            self.fired += sum(end.status == "fired" for end in reply.results)
            return
        refused = result.code in ("memory_pressure", "disk_full", "overloaded")
        self._fire_after = self._clock.monotonic() + (REFUSED_SECONDS if refused else FRUITLESS_SECONDS)
        if not refused and result.code not in ("lost_leadership", "draining", "outcome_unknown", "no_leader"):
            self._log(Events.DUTY_FAILED, duty="fire", reason=result.code)

    # --- watermarks -------------------------------------------------------------------------------------

    def look_at_watermarks(self) -> None:
        """R10. Raises `OSError` if the disk does not even answer how much is free: fatal."""
        settings, pressure = self._settings, self.pressure
        before = (pressure.disk, pressure.floor, pressure.memory)
        pressure.free_bytes = self._sizes.free_bytes()
        _, snapshot_bytes = self._sizes.snapshot()
        pressure.disk = pressure.free_bytes < settings.disk_reserve_bytes + 2 * snapshot_bytes
        pressure.floor = pressure.free_bytes < settings.disk_floor_bytes
        self._memory.look()
        pressure.memory_bytes = self._memory.resident_bytes
        pressure.memory = self._memory.pressed
        self._office.memory_pressure = pressure.memory
        if before != (pressure.disk, pressure.floor, pressure.memory):
            self._log(
                Events.PRESSURE_CHANGED,
                disk="floor" if pressure.floor else pressure.disk,
                memory=pressure.memory,
                free_bytes=pressure.free_bytes,
                memory_bytes=pressure.memory_bytes,
            )

    def _look_at_alarms(self) -> None:
        alarms = self._stamper.alarms()
        for alarm in alarms:
            if alarm not in self.alarms:
                self._log(Events.ALARM_RAISED, alarm=alarm)
        for alarm in self.alarms:
            if alarm not in alarms:
                self._log(Events.ALARM_CLEARED, alarm=alarm)
        self.alarms = alarms

    def _hand_over_if_full(self, now: float) -> None:
        """R10: a leader below the hard floor passes the office on to a member with space, if there is one.
        (One whose disk has stopped answering does so by itself: R34, `consensus/handover.py`.)"""
        if self.pressure.floor and now - self._handed_over_at >= HAND_OVER_SECONDS:
            self._handed_over_at = now
            self._office.transfer(None, with_space=True)

    def _take_snapshot_if_due(self) -> None:
        index, _ = self._sizes.snapshot()
        log_bytes = self._sizes.log_bytes()
        if index != self._snapshot_index:
            self._snapshot_index = index
            self._log_bytes_at_snapshot = log_bytes
        entries = self._office.applied_index - index
        many_bytes = log_bytes - self._log_bytes_at_snapshot >= self._settings.snapshot_bytes
        if entries >= self._settings.snapshot_entries or (many_bytes and entries > 0):
            self._office.snapshot_now()
