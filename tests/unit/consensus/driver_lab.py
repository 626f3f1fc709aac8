"""A driver over a replica that is a list of steps and a disk that waits to be let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from trivet.consensus.driver import Driver
from trivet.consensus.port import Outcome


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
        self.steady = self.settled = False
        self.standing: object = "follower"

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


def in_the_loop(world: World) -> list[bool]:
    return [job.thread == threading.get_ident() for job in world.replica.jobs]


async def write(world: World, times: int = 1) -> None:
    for _ in range(times):
        before = world.replica.steps.count("synced")
        world.offer(b"x")
        async with asyncio.timeout(5):
            while world.replica.steps.count("synced") == before:  # noqa: ASYNC110 the fake has no event
                await asyncio.sleep(0)
