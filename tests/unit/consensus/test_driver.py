"""The loop around a replica: what a turn does and in which order, what batches look like, what ends it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from trivet.consensus import driver as module
from trivet.consensus import syncing
from trivet.consensus.driver import Driver
from trivet.consensus.port import Outcome
from trivet.storage.errors import DiskFull


class Job:
    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.light = replica.writes_little
        self.thread: int | None = None

    def run(self) -> None:
        self.thread = threading.get_ident()
        self.replica.steps.append("run")
        if not self.replica.disk.wait(5):
            raise TimeoutError("the test forgot to let the disk answer")
        if self.replica.disk_error is not None:
            raise self.replica.disk_error


class Replica:
    """Commits what is durable. The disk answers while `disk` is set."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.can_propose = True
        self.commit_index = self.applied_index = 0
        self.disk = threading.Event()
        self.disk.set()
        self.disk_error: Exception | None = None
        self.writes_little = False
        self.jobs: list[Job] = []
        self.snapshot_jobs: list[Job] = []
        self.appended: list[bytes] = []
        self._unsynced = 0
        self._tick_error: Exception | None = None
        self.steady = False

    @property
    def busy(self) -> bool:
        return self.applied_index < self.commit_index

    def break_down(self, error: Exception) -> None:
        self._tick_error = error

    def peer_up(self, peer: str, hello: Any) -> None:
        self.steps.append(f"up {peer}")

    def peer_down(self, peer: str) -> None:
        self.steps.append(f"down {peer}")

    def receive(self, peer: str, message: Any) -> None:
        self.steps.append(f"receive {peer}")
        if isinstance(message, Exception):
            raise message

    def tick(self) -> None:
        self.steps.append("tick")
        if self._tick_error is not None:
            raise self._tick_error
        if self.applied_index < self.commit_index:
            self.applied_index += 1

    def propose(self, data: bytes, done: Callable[[Outcome], None], deadline_s: float) -> None:
        self.steps.append("propose")
        self.appended.append(data)
        self._unsynced += 1

    def take_snapshot_job(self) -> Job | None:
        if not self.snapshot_jobs:
            return None
        self.jobs.append(self.snapshot_jobs.pop(0))
        return self.jobs[-1]

    def take_sync(self, snapshots: bool) -> Job | None:
        assert not snapshots
        if not self._unsynced:
            return None
        self._unsynced = 0
        self.steps.append("take_sync")
        self.jobs.append(Job(self))
        return self.jobs[-1]

    def synced(self, job: Job) -> None:
        assert job in self.jobs
        self.steps.append("synced")


class Source:
    """Everything that waits goes into the next batch."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def next_batch(self) -> tuple[bytes, Callable[[Outcome], None]] | None:
        if not self.waiting:
            return None
        data, self.waiting = b"".join(self.waiting), []
        return data, lambda _outcome: None


class World:
    def __init__(self, **options: Any) -> None:
        self.replica, self.source = Replica(), Source()
        self.deaths: list[tuple[str, BaseException | None]] = []
        self.timers = 0
        self.driver = Driver(
            self.replica,
            self.source,
            flush=lambda: self.replica.steps.append("flush"),
            die=lambda reason, error: self.deaths.append((reason, error)),
            on_turn=lambda: self.replica.steps.append("on_turn"),
            on_timer=self._count,
            **options,
        )

    def _count(self) -> None:
        self.timers += 1

    def offer(self, data: bytes) -> None:
        self.source.waiting.append(data)
        self.driver.wake()


def run(scenario: Callable[[World], Any], monkeypatch: pytest.MonkeyPatch | None = None) -> World:
    async def main() -> World:
        world = World()
        world.driver.start()
        await asyncio.sleep(0)
        try:
            await scenario(world)
        finally:
            world.replica.disk.set()
            await world.driver.stop()
        return world

    return asyncio.run(main())


def test_a_turn_ticks_pulls_syncs_and_flushes_in_this_order() -> None:
    async def scenario(world: World) -> None:
        await asyncio.sleep(0.005)
        world.replica.steps.clear()
        world.offer(b"x")
        await asyncio.sleep(0.01)
        assert world.replica.steps[:6] == ["flush", "tick", "on_turn", "propose", "take_sync", "flush"]
        assert "synced" in world.replica.steps

    run(scenario)


def test_nothing_waits_for_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 60.0)

    async def scenario(world: World) -> None:
        world.offer(b"x")
        async with asyncio.timeout(1):
            while "synced" not in world.replica.steps:  # noqa: ASYNC110 the fake has no event
                await asyncio.sleep(0)
        assert world.timers == 1

    run(scenario)


def test_the_job_runs_in_another_thread_and_the_loop_goes_on() -> None:
    async def scenario(world: World) -> None:
        world.replica.disk.clear()
        world.offer(b"x")
        await asyncio.sleep(0.05)
        assert world.timers >= 2  # ticks go on while the disk works
        assert "synced" not in world.replica.steps
        world.replica.disk.set()
        await asyncio.sleep(0.02)
        assert world.replica.jobs[0].thread not in (None, threading.get_ident())

    run(scenario)


def in_the_loop(world: World) -> list[bool]:
    return [job.thread == threading.get_ident() for job in world.replica.jobs]


async def write(world: World, times: int = 1) -> None:
    for _ in range(times):
        before = world.replica.steps.count("synced")
        world.offer(b"x")
        async with asyncio.timeout(5):
            while world.replica.steps.count("synced") == before:  # noqa: ASYNC110 the fake has no event
                await asyncio.sleep(0)


def test_a_light_job_runs_in_the_turn_once_the_disk_has_shown_to_be_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", 5.0)

    async def scenario(world: World) -> None:
        world.replica.writes_little = True
        await write(world, syncing.TRIED)
        assert not any(in_the_loop(world))
        world.replica.steps.clear()
        await write(world)
        assert in_the_loop(world)[-1]
        steps = world.replica.steps
        # What the others wait for has left before, and what waited for the sync leaves right after.
        assert steps[steps.index("take_sync") :][:5] == ["take_sync", "flush", "run", "synced", "flush"]
        world.replica.writes_little = False
        await write(world)
        assert not in_the_loop(world)[-1]

    run(scenario)


def test_after_a_slow_sync_the_loop_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "RECOVERED", 3)

    async def scenario(world: World) -> None:
        world.replica.writes_little = True
        await write(world, syncing.TRIED + 1)
        assert in_the_loop(world)[-1]
        monkeypatch.setattr(syncing, "QUICK_SECONDS", -1.0)
        await write(world)
        assert in_the_loop(world)[-1], "which will be slow cannot be known"
        monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
        await write(world, 3)
        assert not any(in_the_loop(world)[-3:])
        await write(world)
        assert in_the_loop(world)[-1]

    run(scenario)


def test_while_a_snapshot_is_written_the_loop_waits_for_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "RECOVERED", 2)

    async def scenario(world: World) -> None:
        world.replica.writes_little = True
        await write(world, syncing.TRIED + 1)
        assert in_the_loop(world)[-1]
        world.replica.disk.clear()
        world.replica.snapshot_jobs = [Job(world.replica)]
        world.driver.wake()
        await asyncio.sleep(0.02)
        world.offer(b"x")
        await asyncio.sleep(0.02)
        assert world.replica.steps.count("synced") == syncing.TRIED + 1, "both wait for the disk, elsewhere"
        world.replica.disk.set()
        async with asyncio.timeout(5):
            while world.replica.steps.count("synced") < syncing.TRIED + 3:  # noqa: ASYNC110 the fake has no event
                await asyncio.sleep(0)
        await write(world)
        assert not any(in_the_loop(world)[-3:])
        await write(world)
        assert in_the_loop(world)[-1]

    run(scenario)


def test_a_disk_that_is_never_slow_and_always_middling_is_waited_for_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sync of 8 ms would be allowed in the loop; all of them would fill it."""
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", -1.0)

    async def scenario(world: World) -> None:
        world.replica.writes_little = True
        await write(world, syncing.TRIED + 5)
        assert not any(in_the_loop(world))

    run(scenario)


def test_the_pace_of_a_disk() -> None:
    pace = syncing.Pace()
    for _ in range(syncing.TRIED - 1):
        pace.took(0.0003)
    assert not pace.quick
    pace.took(syncing.QUICK_SECONDS)
    assert pace.quick
    pace.took(syncing.QUICK_SECONDS + 0.001)
    for _ in range(syncing.RECOVERED - 1):
        pace.took(0.0003)
        assert not pace.quick
    pace.took(0.0003)
    assert pace.quick
    for _ in range(500):
        pace.took(0.0019)
    assert pace.quick
    for _ in range(500):
        pace.took(0.0021)
    assert not pace.quick


def test_heavy_jobs_say_nothing_about_the_pace_of_light_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", 5.0)

    async def scenario(world: World) -> None:
        await write(world, syncing.TRIED)
        world.replica.writes_little = True
        await write(world)
        assert not in_the_loop(world)[-1]

    run(scenario)


def test_a_commit_that_a_sync_in_the_turn_brought_waits_for_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 60.0)
    monkeypatch.setattr(syncing, "TRIED", 0)
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", 5.0)

    async def scenario(world: World) -> None:
        world.replica.writes_little = True
        await write(world)
        assert in_the_loop(world) == [True]
        steps = world.replica.steps
        async with asyncio.timeout(5):
            while "tick" not in steps[steps.index("synced") :]:  # noqa: ASYNC110 the fake has no event
                await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # nothing is left to be committed: it comes to rest
        world.replica.steps.clear()
        await asyncio.sleep(0.02)
        assert world.replica.steps == []

    run(scenario)


def test_batches_grow_while_the_disk_works_and_at_most_two_are_under_way() -> None:
    async def scenario(world: World) -> None:
        world.replica.disk.clear()
        for letter in b"abcdef":
            world.offer(bytes([letter]))
            await asyncio.sleep(0.002)
        assert world.replica.appended == [b"a", b"b"]
        world.replica.disk.set()
        await asyncio.sleep(0.02)
        assert world.replica.appended == [b"a", b"b", b"cdef"]
        assert len(world.replica.jobs) == 3

    run(scenario)


def test_many_wakes_make_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 60.0)

    async def scenario(world: World) -> None:
        await asyncio.sleep(0.005)
        world.replica.steps.clear()
        for i in range(100):
            world.driver.receive("n2", i)
        assert "tick" not in world.replica.steps
        await asyncio.sleep(0.005)
        assert world.replica.steps.count("tick") == 1
        assert world.replica.steps.count("receive n2") == 100

    run(scenario)


def test_a_steady_replica_ticks_by_the_timer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.2)

    async def scenario(world: World) -> None:
        async def seen(step: str) -> None:
            async with asyncio.timeout(5):
                while step not in world.replica.steps:  # noqa: ASYNC110 - bounded by the timeout
                    await asyncio.sleep(0.001)

        await seen("tick")
        world.replica.steps.clear()
        world.replica.steady = True
        world.offer(b"x")
        await seen("synced")
        await seen("tick")
        assert world.replica.steps.count("tick") == world.timers - 1  # the first was before

    run(scenario)


def test_a_used_up_slice_goes_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 60.0)

    async def scenario(world: World) -> None:
        world.replica.commit_index = 50
        world.driver.wake()
        await asyncio.sleep(0.05)
        assert world.replica.applied_index == 50

    run(scenario)


def test_nothing_is_pulled_when_it_cannot_be_proposed() -> None:
    async def scenario(world: World) -> None:
        world.replica.can_propose = False
        world.offer(b"x")
        await asyncio.sleep(0.03)
        assert world.source.waiting == [b"x"]
        world.replica.can_propose = True
        await asyncio.sleep(0.03)  # the timer finds it
        assert world.replica.appended == [b"x"]

    run(scenario)


@pytest.mark.parametrize("where", ["tick", "receive", "disk", "disk in the turn"])
def test_a_failure_ends_the_process_once_and_stops_every_turn(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "TRIED", 0)

    async def scenario(world: World) -> None:
        world.replica.writes_little = where == "disk in the turn"
        error = OSError("gone")
        if where == "tick":
            world.replica.break_down(error)
        elif where == "receive":
            world.driver.receive("n2", error)
        else:
            world.replica.disk_error = error
            world.offer(b"x")
        await asyncio.sleep(0.05)
        assert world.deaths == [("storage" if where.startswith("disk") else "consensus", error)]
        world.replica.steps.clear()
        world.driver.wake()
        world.driver.peer_up("n2", None)
        await asyncio.sleep(0.05)
        assert world.replica.steps == []

    run(scenario)


def test_a_full_disk_is_waited_for_and_the_same_job_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """R10: a full node stops acknowledging and lives."""
    monkeypatch.setattr(module, "DISK_FULL_SECONDS", 0.02)

    async def scenario(world: World) -> None:
        world.replica.disk_error = DiskFull(28, "no space")
        world.offer(b"x")
        await asyncio.sleep(0.1)
        assert world.timers >= 4 and not world.deaths
        assert world.replica.steps.count("take_sync") == 1 and "synced" not in world.replica.steps
        world.replica.disk_error = None
        await asyncio.sleep(0.1)
        assert world.replica.steps.count("take_sync") == 1 and "synced" in world.replica.steps

    run(scenario)


def test_a_snapshot_does_not_stand_in_the_logs_way() -> None:
    """R9: hundreds of megabytes go to the disk in a lane of their own."""

    class Slow(Job):
        def __init__(self, replica: Replica) -> None:
            super().__init__(replica)
            self.answer = threading.Event()

        def run(self) -> None:
            self.thread = threading.get_ident()
            assert self.answer.wait(5)

    async def scenario(world: World) -> None:
        slow = Slow(world.replica)
        world.replica.snapshot_jobs = [slow, Slow(world.replica)]
        world.driver.wake()
        await asyncio.sleep(0.03)
        assert slow.thread is not None and len(world.replica.snapshot_jobs) == 1, "one at a time"
        world.offer(b"x")
        await asyncio.sleep(0.05)
        assert world.replica.steps.count("synced") == 1 and world.replica.jobs[-1].thread != slow.thread
        slow.answer.set()
        await asyncio.sleep(0.05)
        assert world.replica.steps.count("synced") == 2 and not world.replica.snapshot_jobs
        second = next(job for job in world.replica.jobs if isinstance(job, Slow) and job is not slow)
        threading.Timer(0.05, second.answer.set).start()
        await world.driver.stop()  # waits for it
        assert second.answer.is_set()

    run(scenario)


def test_a_snapshot_that_the_disk_refuses_ends_the_process() -> None:
    class Broken(Job):
        def run(self) -> None:
            raise OSError(5, "the disk is broken")

    async def scenario(world: World) -> None:
        world.replica.snapshot_jobs = [Broken(world.replica)]
        world.driver.wake()
        await asyncio.sleep(0.05)
        assert [reason for reason, _ in world.deaths] == ["storage"] and not world.driver.running

    run(scenario)


def test_stopping_on_a_full_disk_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISK_FULL_SECONDS", 0.02)

    async def scenario(world: World) -> None:
        world.replica.disk_error = DiskFull(28, "no space")
        world.offer(b"x")
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            await world.driver.stop()
        assert "synced" not in world.replica.steps

    run(scenario)


def test_stop_takes_what_is_buffered_to_the_disk() -> None:
    async def scenario(world: World) -> None:
        world.replica.disk.clear()
        world.offer(b"a")
        await asyncio.sleep(0.005)
        world.offer(b"b")
        await asyncio.sleep(0.005)
        threading.Timer(0.05, world.replica.disk.set).start()
        await world.driver.stop()
        assert world.replica.steps.count("synced") == 2
        assert not world.driver.running

    run(scenario)


def test_peers_are_passed_on() -> None:
    async def scenario(world: World) -> None:
        world.driver.peer_up("n2", None)
        world.driver.peer_down("n2")
        assert [s for s in world.replica.steps if "n2" in s] == ["up n2", "down n2"]

    run(scenario)


def test_an_idle_driver_costs_little() -> None:
    """Fifty turns a second with nothing in them."""

    async def scenario(world: World) -> None:
        before = time.process_time()
        await asyncio.sleep(0.5)
        assert world.timers <= 27
        assert time.process_time() - before < 0.05

    run(scenario)
