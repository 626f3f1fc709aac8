"""Runs a plan: cluster, load, faults one after another, heal, drain; writes down all that the judges need.

plan → ground → cluster → load ∥ faults → heal → drain → (check → report: see verdict.py)
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from chaos.faults.port import Fault, NotFired
from chaos.plan import TAIL_S, Plan, Planned
from chaos.probe import Probe
from chaos.starved import Starved
from chaos.timeline import Timeline
from trivet.cli.local import ClusterFailed
from trivet.client import Client

SERVICE_SECONDS = 5.0  # L1: after a heal
READY_SECONDS = 30.0  # every node is back and caught up
GIVE_UP_SECONDS = 60.0
REST_SECONDS = 10.0  # L3
DRAIN_SECONDS = 60.0  # L2, and
DRAIN_SECONDS_MORE = 30.0  # for each 100,000 operations
POLL_SECONDS = 0.05


class System(Protocol):
    """The cluster under test: `DrillCluster`, or somebody else's (`external.py`)."""

    @property
    def apis(self) -> list[str]: ...

    @property
    def names(self) -> dict[str, str]:
        """Node id → base URL."""
        ...

    @property
    def harness_host(self) -> str | None:
        """The address that the harness asks from, if the cluster can tell it from its clients by that."""
        ...

    async def leader_id(self) -> str | None: ...

    def pids(self) -> list[int]:
        """The processes of the nodes that run on this machine."""
        ...

    async def alive(self) -> int:
        """How many nodes answer `/livez`."""
        ...

    async def not_ready(self) -> list[str]: ...

    async def at_rest(self) -> dict[str, dict[str, Any]]: ...

    async def start_down(self) -> None: ...


class Load(Protocol):
    """What `chaos.workloads.Load` is."""

    async def prepare(self) -> None: ...

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def drain(self, patience_s: float) -> None: ...

    def counts(self) -> Mapping[str, Mapping[str, int]]: ...


class Lines:
    """Appends JSON lines, each with one `write`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, e: str, **fields: Any) -> int:
        """Answers the line's instant."""
        now = time.monotonic_ns()
        os.write(self._file, json.dumps({"e": e, "t": now, **fields}).encode() + b"\n")
        return now

    def close(self) -> None:
        os.close(self._file)


class Aborted(Exception):
    """The cluster did not come back: nothing more can be learned from this run."""


class Runner:
    """One run of `plan` in `directory`, which must exist."""

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        system: System,
        load: Load,
        faults: Mapping[str, Fault],
        say: Callable[[str], None],
        probe: Probe | None = None,
    ) -> None:
        self.plan = plan
        self.directory = directory
        self._system = system
        self._load = load
        self._faults = faults
        self._say = say
        self._lines = Lines(directory / "faults.jsonl")
        self._probe = probe or Probe(system.apis, f"drill-{plan.seed}.probe")
        self._began = time.monotonic()

    async def run(self) -> None:
        """From the running cluster to the drained one. What went wrong is in `faults.jsonl`."""
        timeline = Timeline(self.directory / "nodes.jsonl", self._system.names, self._system.harness_host)
        timeline.start()
        try:
            await self._load.prepare()
            await self._probe.start()
            self._load.start()
            self._began = time.monotonic()
            self._lines.write("load")
            try:
                await self._all_faults()
                await self._sleep_until(max(self.plan.seconds, self._elapsed() + TAIL_S))
            finally:
                await self._quiet()
            await self._drain()
            await self._rest()
        except Aborted as why:
            self._lines.write("aborted", why=str(why))
        finally:
            await timeline.stop()
            self._lines.close()

    # --- faults ---------------------------------------------------------------------------------------

    async def _all_faults(self) -> None:
        for n, planned in enumerate(self.plan.faults):
            await self._sleep_until(planned.at_s)
            await self._one(n, planned)

    async def _one(self, n: int, planned: Planned) -> None:
        """Fire, hold, heal, and wait until the cluster is whole again."""
        fault = self._faults[planned.fault]
        leader = await self._system.leader_id()
        self._lines.write("fire", n=n, fault=planned.fault, parameters=planned.parameters, leader=leader)
        struck: int | None = None
        nodes: list[str] = []
        try:
            try:
                evidence = await fault.fire(self._system, planned.parameters)  # type: ignore[arg-type]
            except (NotFired, ClusterFailed) as why:
                self._lines.write("not_fired", n=n, why=str(why))
                self._tell(n, f"{planned.fault}: NOT FIRED: {why}")
            else:
                now = time.monotonic_ns()
                struck, nodes = int(evidence.get("t", now)), list(evidence.get("nodes", []))
                self._lines.write("fired", n=n, struck=struck, evidence=evidence)
                await asyncio.sleep(float(planned.parameters.get("hold_s", 0.0)))
        finally:
            await fault.heal(self._system, planned.parameters)  # type: ignore[arg-type]
        await self._majority_up()
        healed = self._lines.write("healed", n=n)
        failover_s = None
        lost_leader = leader in nodes and leader != await self._system.leader_id()
        if struck is not None and lost_leader and 2 * len(nodes) < self.plan.nodes:
            served = await self._probe.served_after(struck, GIVE_UP_SECONDS)
            failover_s = None if served is None else (served - struck) / 1e9
        await self._back(n, planned, healed, failover_s, nodes)

    async def _back(
        self, n: int, planned: Planned, healed: int, failover_s: float | None, nodes: list[str]
    ) -> None:
        """L1: service again within its bound, and every node ready. What the machine took from the processes
        does not count (`starved`)."""
        starved = Starved(self._system.pids)
        served = await self._probe.served_after(healed, GIVE_UP_SECONDS)
        service_s = None if served is None else (served - healed) / 1e9
        starved_s = round(starved.seconds(), 3)
        if service_s is None or service_s > SERVICE_SECONDS + starved_s:
            took = f"{service_s:.1f} s" if service_s is not None else f"over {GIVE_UP_SECONDS:g} s"
            self._violation("L1", f"no enqueue acknowledged for {took} after fault {n} was healed", n=n)
        missing = await self._until_ready(READY_SECONDS)
        if missing:
            why = f"{READY_SECONDS:g} s after fault {n} was healed: {'; '.join(missing)}"
            self._violation("L1", why, n=n)
            await self._system.start_down()
            missing = await self._until_ready(GIVE_UP_SECONDS)
        ready_s = (time.monotonic_ns() - healed) / 1e9
        times = {"failover_s": failover_s, "service_s": service_s, "starved_s": starved_s, "ready_s": ready_s}
        self._lines.write("back", n=n, **times)
        told = f"{planned.fault} {' '.join(nodes)}".rstrip()
        gap = f", next write {failover_s:.2f} s after it" if failover_s is not None else ""
        self._tell(n, f"{told}{gap}; whole again {ready_s:.1f} s after the heal")
        if missing or served is None:
            raise Aborted(f"the cluster did not come back after {planned.fault}: {'; '.join(missing)}")

    async def _majority_up(self) -> None:
        """Until more than half of the processes answer at all, at most `READY_SECONDS`: how long a machine
        takes to start a process is not the cluster's doing, so the bounds of L1 begin then."""
        deadline = time.monotonic() + READY_SECONDS
        while 2 * await self._system.alive() <= self.plan.nodes and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    async def _until_ready(self, seconds: float) -> list[str]:
        """Why not, after `seconds`; empty as soon as every node is ready."""
        deadline = time.monotonic() + seconds
        while missing := await self._system.not_ready():
            if time.monotonic() > deadline:
                return missing
            await asyncio.sleep(POLL_SECONDS)
        return []

    # --- the end --------------------------------------------------------------------------------------

    async def _quiet(self) -> None:
        await self._load.stop()
        await self._probe.stop()
        self._lines.write("quiet")

    async def _drain(self) -> None:
        """L2: everything that was sent comes to its end, and every unknown outcome is asked about."""
        acknowledged = sum(counts.get("ok", 0) for counts in self._load.counts().values())
        patience_s = DRAIN_SECONDS + DRAIN_SECONDS_MORE * acknowledged / 100_000
        try:
            await self._load.drain(patience_s)
            self._lines.write("drained")
        except TimeoutError as late:
            self._violation("L2", f"not drained within {patience_s:.0f} s: {late}")

    async def _rest(self) -> None:
        """L3: quiet nodes come to the same index with the same digest; what they say then is `final.json`.

        The queues are read between two looks at the nodes that say the same: nothing happened meanwhile."""
        deadline = time.monotonic() + REST_SECONDS
        while True:
            before = await self._system.at_rest()
            queues = await counts_of_queues(self._system.apis)
            after = await self._system.at_rest()
            equal = len({(one["index"], one["digest"]) for one in before.values()}) == 1
            if equal and len(before) == self.plan.nodes and before == after:
                break
            if time.monotonic() > deadline:
                self._violation("L3", f"no common index and digest within {REST_SECONDS:g} s: {before}")
                break
            await asyncio.sleep(POLL_SECONDS)
        final = {"nodes": before, "queues": queues}
        (self.directory / "final.json").write_text(json.dumps(final, indent=1) + "\n", encoding="utf-8")

    # --- small things ---------------------------------------------------------------------------------

    def _violation(self, law: str, text: str, **fields: Any) -> None:
        self._lines.write("violation", law=law, text=text, **fields)
        self._say(f"VIOLATION of {law}: {text}")

    def _tell(self, n: int, text: str) -> None:
        self._say(f"[{self._elapsed():7.1f} s] {n + 1}/{len(self.plan.faults)} {text}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._elapsed()))


async def counts_of_queues(apis: list[str]) -> dict[str, Any]:
    """Every queue's counts, as the leader says them."""
    found: dict[str, Any] = {}
    after: str | None = None
    async with Client(apis) as client:
        while True:
            page = await client.queues(limit=500, after=after)
            for queue in page["queues"]:
                found[queue["queue"]] = {name: value for name, value in queue.items() if type(value) is int}
            after = page.get("next")
            if after is None:
                return found
