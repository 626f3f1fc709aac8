"""Where a sync runs (ADR 0016): in the turn while the disk is quick, else in its thread."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.consensus.driver_lab import Job, World, in_the_loop, run, write
from trivet.consensus import driver as module
from trivet.consensus import syncing


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is."""
    monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
    monkeypatch.setattr(syncing, "MEAN_SECONDS", 5.0)


async def until_in_the_loop(world: World) -> None:
    world.replica.writes_little = True
    await write(world, syncing.TRIED + 1)
    assert in_the_loop(world)[-1]


@pytest.mark.usefixtures("quick_disk")
def test_a_light_job_runs_in_the_turn_once_the_disk_has_shown_to_be_quick() -> None:
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


@pytest.mark.usefixtures("quick_disk")
def test_after_a_slow_sync_the_loop_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "RECOVERED", 3)

    async def scenario(world: World) -> None:
        await until_in_the_loop(world)
        monkeypatch.setattr(syncing, "QUICK_SECONDS", -1.0)
        await write(world)
        assert in_the_loop(world)[-1], "which will be slow cannot be known"
        monkeypatch.setattr(syncing, "QUICK_SECONDS", 5.0)
        await write(world, 3)
        assert not any(in_the_loop(world)[-3:])
        await write(world)
        assert in_the_loop(world)[-1]

    run(scenario)


@pytest.mark.usefixtures("quick_disk")
def test_while_a_snapshot_is_written_the_loop_waits_for_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "RECOVERED", 2)

    async def scenario(world: World) -> None:
        await until_in_the_loop(world)
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


@pytest.mark.usefixtures("quick_disk")
def test_a_disk_that_is_never_slow_and_always_middling_is_waited_for_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sync of 8 ms would be allowed in the loop; all of them would fill it."""
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


@pytest.mark.usefixtures("quick_disk")
def test_heavy_jobs_say_nothing_about_the_pace_of_light_ones() -> None:
    async def scenario(world: World) -> None:
        await write(world, syncing.TRIED)
        world.replica.writes_little = True
        await write(world)
        assert not in_the_loop(world)[-1]

    run(scenario)


@pytest.mark.usefixtures("quick_disk")
def test_a_commit_that_a_sync_in_the_turn_brought_waits_for_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 60.0)
    monkeypatch.setattr(syncing, "TRIED", 0)

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
