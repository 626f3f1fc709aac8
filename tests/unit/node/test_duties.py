"""What a node does by itself: the first command, expiry and its grace, snapshots, watermarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trivet.errors import TrivetError
from trivet.machine.commands import Command, Draft, Expire, FireSchedules, Genesis, ScheduleSpec
from trivet.machine.replies import Answer, Done, SlotEnd, SlotsDecided
from trivet.machine.schedules import Schedule, Schedules
from trivet.node import duties as module
from trivet.node.broker import Committed
from trivet.node.duties import Duties, DutySettings, End
from trivet.node.memory import MemoryGauge, memory_limit_bytes, resident_bytes
from trivet.node.stamps import Stamper
from trivet.observability.logs import silent_log
from trivet.units import GIB, MIB

START_MS = 1_760_000_000_000


@dataclass
class Clock:
    now_s: float = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return START_MS + int(self.now_s * 1000)


@dataclass
class Office:
    is_leader: bool = True
    can_propose: bool = True
    applied_index: int = 0
    memory_pressure: bool = False
    transfers: int = 0
    snapshots: int = 0

    def transfer(self, to: str | None = None, *, with_space: bool = False) -> bool:
        assert with_space
        self.transfers += 1
        return True

    def snapshot_now(self) -> bool:
        self.snapshots += 1
        return True


@dataclass
class State:
    cluster_id: str = "c"
    clock_ms: int = 0
    due_ms: int | None = None
    schedules: Schedules = field(default_factory=Schedules)

    def next_deadline_ms(self) -> int | None:
        return self.due_ms


@dataclass
class Sizes:
    free: int = 100 * GIB
    newest: tuple[int, int] = (0, 0)
    written: int = 0

    def free_bytes(self) -> int:
        return self.free

    def snapshot(self) -> tuple[int, int]:
        return self.newest

    def log_bytes(self) -> int:
        return self.written


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    office: Office = field(default_factory=Office)
    state: State = field(default_factory=State)
    sizes: Sizes = field(default_factory=Sizes)
    memory: int = 0
    weight: int = 0
    offered: list[tuple[Command, End]] = field(default_factory=list)
    refuse: TrivetError | None = None

    def __post_init__(self) -> None:
        self.duties = Duties(
            office=self.office,
            machine=lambda: self.state,
            sizes=self.sizes,
            stamper=Stamper(self.clock, self.clock.wall_ms, alone=False),
            offer=self.offer,
            genesis=lambda: Genesis("c", b"s", ("n1",)),
            memory=MemoryGauge(lambda: self.memory, lambda: self.weight, 1000),
            clock=self.clock,
            settings=DutySettings(
                snapshot_entries=1000,
                snapshot_bytes=10 * MIB,
                disk_reserve_bytes=256 * MIB,
                disk_floor_bytes=64 * MIB,
            ),
            log=silent_log(),
        )
        self.duties.take_office()

    def offer(self, command: Command, end: End) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.offered.append((command, end))

    def run(self, seconds: float = 0.02) -> None:
        self.clock.now_s += seconds
        self.duties.on_timer()

    def answer(self, count: int, more: bool = False) -> None:
        _, end = self.offered[-1]
        end(Committed(Answer(Done(count, more), 1, 0), 1))


def test_genesis_comes_first_and_once() -> None:
    world = World(state=State(cluster_id=""))
    world.state.due_ms = 0
    assert [type(command) for command, _ in world.offered] == [Genesis]  # at once, ahead of every client
    world.run()
    world.run()
    assert len(world.offered) == 1
    world.offered[0][1](TrivetError("lost_leadership", ""))
    world.run()
    assert len(world.offered) == 2
    world.state.cluster_id = "c"
    world.answer(0)
    world.run()
    assert isinstance(world.offered[-1][0], Expire)


def test_expiry_waits_for_its_time_and_only_one_is_on_its_way() -> None:
    world = World()
    world.run()
    assert not world.offered
    world.state.due_ms = world.clock.wall_ms() + 50
    world.run(0.04)
    assert not world.offered
    world.run()
    world.run()
    assert [type(command) for command, _ in world.offered] == [Expire]


def test_leases_are_left_alone_in_the_grace_only() -> None:
    world = World()
    world.state.due_ms = 0
    world.run(4.9)
    assert world.offered[-1][0] == Expire(leases=False)
    world.answer(0)
    world.run(0.2)
    assert world.offered[-1][0] == Expire(leases=True)


def test_a_full_line_does_not_begin_a_new_grace_but_a_new_office_does() -> None:
    world = World()
    world.state.due_ms = 0
    world.clock.now_s += 10
    world.office.can_propose = False  # overloaded for a while
    world.run()
    world.office.can_propose = True
    world.run()
    assert world.offered[-1][0] == Expire(leases=True)
    world.answer(0)
    world.office.is_leader = False
    world.run()
    world.office.is_leader = True
    world.duties.take_office()
    world.run(0.2)
    assert world.offered[-1][0] == Expire(leases=False)


def test_more_goes_on_at_once_and_nothing_to_do_pauses() -> None:
    world = World()
    world.state.due_ms = 0
    world.run()
    world.answer(1000, more=True)
    assert len(world.offered) == 2
    world.answer(0)
    world.run()
    assert len(world.offered) == 2
    world.run(module.FRUITLESS_SECONDS)
    assert len(world.offered) == 3
    assert world.duties.expired == 1000


def test_a_refused_expiry_is_tried_again_later() -> None:
    world = World(refuse=TrivetError("overloaded", ""))
    world.state.due_ms = 0
    world.run()
    world.refuse = None
    world.run()
    assert not world.offered
    world.run(module.FRUITLESS_SECONDS)
    assert len(world.offered) == 1


def test_followers_propose_nothing_and_take_snapshots() -> None:
    world = World(office=Office(is_leader=False, can_propose=False, applied_index=999))
    world.state.due_ms = 0
    world.run(1)
    assert not world.offered and world.office.snapshots == 0
    world.office.applied_index = 1000
    world.run(1)
    assert world.office.snapshots == 1


def test_snapshots_by_bytes_since_the_last() -> None:
    world = World()
    world.office.applied_index = 10
    world.run(1)
    world.sizes.written = 10 * MIB - 1
    world.run(1)
    assert world.office.snapshots == 0
    world.sizes.written += 1
    world.run(1)
    assert world.office.snapshots == 1
    world.sizes.newest = (10, 100)
    world.run(1)
    assert world.office.snapshots == 1


def test_disk_watermarks_and_what_forbids_what() -> None:
    world = World()
    for free, reason, floor in (
        (256 * MIB, None, False),
        (256 * MIB - 1, "disk", False),
        (64 * MIB, "disk", False),
        (64 * MIB - 1, "disk", True),
        (100 * GIB, None, False),
    ):
        world.sizes.free = free
        world.run(1)
        assert (world.duties.pressure.reason(), world.duties.pressure.floor) == (reason, floor)
    world.sizes.newest = (1, GIB)  # the reserve grows with the last snapshot
    world.sizes.free = 2 * GIB + 256 * MIB - 1
    world.run(1)
    assert world.duties.pressure.disk


def test_below_the_floor_a_leader_hands_over_now_and_then() -> None:
    world = World()
    world.sizes.free = MIB
    for _ in range(50):
        world.run(0.1)
    assert world.office.transfers in (2, 3)


def test_memory_watermark_has_a_gap() -> None:
    world = World()
    for used, pressed in ((800, False), (801, True), (751, True), (750, False), (799, False)):
        world.memory = used
        world.run(1)
        assert world.duties.pressure.memory is pressed
        assert world.office.memory_pressure is pressed
    world.memory = 900
    world.run(1)
    assert world.duties.pressure.reason() == "memory"


def test_memory_pressure_ends_although_the_process_stays_as_large_as_it_was() -> None:
    """Freed records leave holes, and the resident size does not fall: what the state gave up counts."""
    world = World()
    for resident, weight, pressed in (
        (790, 500, False),
        (810, 520, True),  # the backlog has grown over the mark
        (810, 480, True),
        (810, 460, False),  # 60 given up: 750
        (810, 505, False),
        (810, 515, True),  # the holes are filled again
        (951, 0, True),  # so near the limit nothing is taken off
        (740, 0, False),  # it has fallen after all, and what was given up is forgotten
        (801, 0, True),
    ):
        world.memory, world.weight = resident, weight
        world.run(1)
        assert world.duties.pressure.memory is pressed, (resident, weight)


def test_an_alarm_is_kept_while_it_lasts() -> None:
    world = World()
    true_wall = world.clock.wall_ms
    world.duties._stamper._quorum_wall_ms = lambda: true_wall() - 10**9
    world.run(1)
    assert world.duties.alarms == ["clock_suspect"]
    world.duties._stamper._quorum_wall_ms = true_wall
    world.run(1)
    assert world.duties.alarms == []


def test_memory_limit_is_the_smallest_that_is_known(tmp_path: Path) -> None:
    group = tmp_path / "memory.max"
    group.write_text("1048576\n")
    assert memory_limit_bytes(5) == 5
    assert memory_limit_bytes(0, (str(group),)) == MIB
    group.write_text("max\n")
    assert memory_limit_bytes(0, (str(group), str(tmp_path / "none"))) > 100 * MIB
    assert 5 * MIB < resident_bytes() < 100 * GIB


# --- schedules (R2) -----------------------------------------------------------------------------------


def with_a_schedule() -> World:
    """One that has to be looked at, at the instant its machine knows."""
    world = World()
    spec = ScheduleSpec("q", Draft(), every_ms=1000)
    now = world.clock.wall_ms()
    record = Schedule(1, "s", spec, 1, now, now, now, now, 0)
    world.state.schedules.by_name["s"] = record
    world.state.schedules.arm(record)
    return world


def fires(world: World) -> list[FireSchedules]:
    return [command for command, _ in world.offered if isinstance(command, FireSchedules)]


def decided(world: World, *ends: SlotEnd) -> None:
    _, end = world.offered[-1]
    end(Committed(Answer(SlotsDecided(ends), 1, 0), 1))


def test_a_schedule_that_is_due_is_said_once_at_a_time() -> None:
    world = with_a_schedule()
    world.run()
    (said,) = fires(world)
    assert [(fire.name, fire.enqueue) for fire in said.fires] == [("s", False)] and said.auto_create
    world.run()
    assert len(fires(world)) == 1, "the first is on its way"
    decided(world, SlotEnd("fired", 7), SlotEnd("blocked", code="queue_full"))
    assert world.duties.fired == 1
    world.run()
    assert len(fires(world)) == 2


def test_a_lost_step_is_said_again() -> None:
    world = with_a_schedule()
    world.run()
    world.offered[-1][1](TrivetError("outcome_unknown", ""))
    world.run()
    assert len(fires(world)) == 1
    world.run(module.FRUITLESS_SECONDS)
    assert len(fires(world)) == 2


def test_slots_wait_while_the_node_takes_no_messages() -> None:
    world = with_a_schedule()
    world.refuse = TrivetError("memory_pressure", "")
    world.run()
    world.refuse = None
    world.run()
    assert not fires(world)
    world.run(module.REFUSED_SECONDS)
    assert len(fires(world)) == 1


def test_only_a_leader_speaks_of_schedules() -> None:
    world = with_a_schedule()
    world.office.is_leader = world.office.can_propose = False
    world.run()
    assert not fires(world)


def test_computing_slots_is_bounded_in_time() -> None:
    world = with_a_schedule()
    world.duties._slots_since = world.clock.now_s
    assert not world.duties._slots_took_long()
    world.clock.now_s += 2 * module.SLOTS_SECONDS
    assert world.duties._slots_took_long()
