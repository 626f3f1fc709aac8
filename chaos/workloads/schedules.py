"""Schedules: one message a slot, through every failover (R2). One has a queue that is often full."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Role, Workload, config
from chaos.workloads.recording import Process
from trivet.client.errors import ScheduleNotFound

TIGHT = 8  # messages that the second queue takes


class Schedules(Workload):
    """Nobody enqueues by hand: the queues hold what the cluster itself makes. Bodies say their schedule, keys their
    slot. Now and then somebody deploys the same again, which must change nothing."""

    name = "schedules"
    weight = 0.2

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tight = self.queue + ".tight"
        self._op = 0

    def queues(self) -> dict[str, dict[str, Any]]:
        return {self.queue: config(), self._tight: config(max_messages=TIGHT)}

    def timetables(self) -> dict[str, dict[str, Any]]:
        """By the schedule's name."""
        return {
            self.queue + ".skip": {"queue": self.queue, "every_ms": 450, "misfire": "skip"},
            self.queue + ".once": {"queue": self.queue, "every_ms": 700},
            self.queue + ".alone": {"queue": self.queue, "every_ms": 600, "overlap": "skip"},
            self._tight: {"queue": self._tight, "every_ms": 300},
        }

    async def make(self, process: Process, queue: str, config: dict[str, Any]) -> None:
        await super().make(process, queue, config)
        if queue == self._tight:  # the last one
            for name in self.timetables():
                await self._put(process, name)

    async def _put(self, process: Process, name: str) -> None:
        told = self.timetables()[name]
        await process.put_schedule(name, body={"schedule": name, "w": self.name}, **told)

    def producers(self) -> list[Role]:
        return [Role("deployer-0", self.deploy, 1.0), Role("reader-0", self.read, 2.0)]

    def consumers(self) -> list[Role]:
        return [Role("worker-0", self.acked), Role("worker-1", self.acked), Role("slow-0", self.slow, 1.0)]

    async def deploy(self, process: Process) -> None:
        await self._put(process, process.rng.choice(list(self.timetables())))

    async def read(self, process: Process) -> None:
        local = process.rng.random() < 0.2
        try:
            await process.schedule(process.rng.choice(list(self.timetables())), local=local)
        except ScheduleNotFound:
            if not local:
                raise  # a schedule that was acknowledged is gone
            return  # a node that has just started answers from the little it has applied

    async def slow(self, process: Process) -> None:
        """Too slow for its queue: slots are refused, and owed."""
        leases = await self.lease(process, process.rng.randint(1, 4), queue=self._tight)
        if leases:
            await self.ack(process, leases)

    async def rest(self, process: Process) -> None:
        for name in self.timetables():
            if not (await process.pause_schedule(name))["paused"]:
                raise AssertionError(f"{name} is not paused")
            await process.schedule(name)
