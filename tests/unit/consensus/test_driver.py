"""The loop around a replica: what a turn does and in which order, what batches look like, what ends it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from tests.unit.consensus.driver_lab import Job, Replica, World, run
from trivet.consensus import driver as module
from trivet.consensus import syncing
from trivet.storage.errors import DiskFull


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


def test_a_late_turn_does_the_timers_work_and_spares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.4)

    async def scenario(world: World) -> None:
        world.replica.steady = True
        while not world.timers:  # noqa: ASYNC110 - the first one comes at once
            await asyncio.sleep(0)
        world.offer(b"early")
        await asyncio.sleep(0.25)
        assert world.timers == 1
        world.offer(b"late")
        await asyncio.sleep(0.25)  # past the time of the second one
        assert world.timers == 2
        async with asyncio.timeout(5):
            while world.timers < 3:  # noqa: ASYNC110 - bounded by the timeout
                await asyncio.sleep(0.01)

    run(scenario)


def test_what_leaves_nothing_to_do_makes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 60.0)

    async def scenario(world: World) -> None:
        replica, driver = world.replica, world.driver
        replica.steady = replica.settled = True
        driver.wake()
        await asyncio.sleep(0.005)

        async def steps_after(change: Callable[[], None]) -> list[str]:
            replica.steps.clear()
            change()
            driver.receive("n2", "answer")
            await asyncio.sleep(0.005)
            return replica.steps

        assert await steps_after(lambda: None) == ["receive n2", "flush"]
        assert "on_turn" in await steps_after(lambda: setattr(replica, "standing", "leader"))
        assert await steps_after(lambda: None) == ["receive n2", "flush"]
        assert "on_turn" in await steps_after(lambda: setattr(replica, "settled", False))

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


@pytest.mark.parametrize("where", ["tick", "receive", "after a receive", "disk", "disk in the turn"])
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
        elif where == "after a receive":
            world.replica.settled = True
            world.driver.wake()
            await asyncio.sleep(0.005)

            def flush() -> None:
                raise error

            monkeypatch.setattr(world.driver, "_flush", flush)
            world.driver.receive("n2", "answer")
            assert world.deaths
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
        async with asyncio.timeout(10):
            while world.timers < 4:  # noqa: ASYNC110 - the world tells nobody
                await asyncio.sleep(0.005)
        assert not world.deaths
        assert world.replica.steps.count("take_sync") == 1 and "synced" not in world.replica.steps
        world.replica.disk_error = None
        async with asyncio.timeout(10):
            while "synced" not in world.replica.steps:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert world.replica.steps.count("take_sync") == 1

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
