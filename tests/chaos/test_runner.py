"""The order of a drill, what it writes down, and how it ends: with a cluster that does as it is told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.faults.port import NotFired
from chaos.history import lines
from chaos.plan import Plan, Planned
from chaos.runner import Runner
from chaos.verdict import Story, percentile, spread

from chaos import runner as module

N1, N2, N3 = "n1", "n2", "n3"


class FakeSystem:
    """Three nodes; a fault takes the leader away, its heal brings it back."""

    harness_host = None
    apis = ("http://127.0.0.1:9",)

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.leader: str | None = N1
        self.missing: list[str] = []
        self.digests = dict.fromkeys((N1, N2, N3), "d")
        self.started = 0

    async def leader_id(self) -> str | None:
        return self.leader

    def pids(self) -> list[int]:
        return []

    async def alive(self) -> int:
        return 3 - len(self.missing)

    async def not_ready(self) -> list[str]:
        return self.missing

    async def at_rest(self) -> dict[str, dict[str, Any]]:
        return {name: {"index": 7, "digest": digest} for name, digest in self.digests.items()}

    async def start_down(self) -> None:
        self.started += 1
        self.missing = []


class FakeLoad:
    def __init__(self, log: list[str], drains: bool = True) -> None:
        self.log, self.drains = log, drains

    async def prepare(self) -> None:
        self.log.append("prepare")

    def start(self) -> None:
        self.log.append("start")

    async def stop(self) -> None:
        self.log.append("stop")

    async def drain(self, patience_s: float) -> None:
        self.log.append("drain")
        if not self.drains:
            raise TimeoutError("something is left")

    def counts(self) -> dict[str, dict[str, int]]:
        return {"enqueue": {"ok": 5}}


class FakeProbe:
    """Served at once, unless it is told not to be."""

    def __init__(self) -> None:
        self.serves = True

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def served_after(self, since_ns: int, timeout_s: float) -> int | None:
        return since_ns + 250_000_000 if self.serves else None


class FakeFault:
    name = "strike"
    needs = frozenset[str]()

    def __init__(self, system: FakeSystem, log: list[str]) -> None:
        self.system, self.log = system, log
        self.fires = True
        self.broken: Callable[[], None] = lambda: None

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {}

    async def fire(self, cluster: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        self.log.append("fire")
        if not self.fires:
            raise NotFired("it was raining")
        self.system.leader = N2
        return {"t": time.monotonic_ns(), "nodes": [N1], "killed": {N1: {}}}

    async def heal(self, cluster: Any, parameters: dict[str, Any]) -> None:
        self.log.append("heal")
        self.broken()


class Drill:
    """A run of two strikes, fast."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, seconds in (("READY_SECONDS", 0.2), ("GIVE_UP_SECONDS", 0.3), ("REST_SECONDS", 0.2)):
            monkeypatch.setattr(module, name, seconds)
        monkeypatch.setattr(module, "TAIL_S", 0.0)

        async def no_queues(apis: list[str]) -> dict[str, Any]:
            return {"q": {"ready": 0}}

        monkeypatch.setattr(module, "counts_of_queues", no_queues)
        self.directory = directory
        self.log: list[str] = []
        self.system, self.probe = FakeSystem(), FakeProbe()
        self.load = FakeLoad(self.log)
        self.fault = FakeFault(self.system, self.log)
        self.plan = Plan(
            1, 3, 0.0, [], 1.0, [Planned(0.0, "strike", {"hold_s": 0.01}), Planned(0.05, "strike", {})]
        )

    def run(self) -> list[dict[str, Any]]:
        faults = {"strike": self.fault}
        runner = Runner(
            self.plan,
            self.directory,
            self.system,
            self.load,
            faults,
            self.log.append,
            self.probe,  # type: ignore[arg-type]
        )
        asyncio.run(runner.run())
        return list(lines(self.directory / "faults.jsonl"))


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drill:
    return Drill(tmp_path, monkeypatch)


def test_one_fault_after_the_other_and_then_the_end(drill: Drill) -> None:
    found = drill.run()
    assert [one["e"] for one in found] == [
        "load", *(2 * ["fire", "fired", "healed", "back"]), "quiet", "drained",
    ]  # fmt: skip
    said = [line for line in drill.log if not line.startswith("[")]
    assert said == ["prepare", "start", "fire", "heal", "fire", "heal", "stop", "drain"]
    first, second = (one for one in found if one["e"] == "back")
    assert first["failover_s"] == 0.25 and first["service_s"] == 0.25
    assert second["failover_s"] is None  # n2 led already: nobody had to be elected
    final = json.loads((drill.directory / "final.json").read_text())
    assert final["nodes"][N3] == {"index": 7, "digest": "d"} and final["queues"] == {"q": {"ready": 0}}
    story = Story.read(drill.directory)
    assert story.fired == {"strike": 2} and len(story.kills) == 2
    assert not story.problems and not story.violations and story.failovers_s == [0.25]


def test_a_fault_that_did_not_fire_is_healed_and_told(drill: Drill) -> None:
    drill.fault.fires = False
    found = drill.run()
    assert sum(one["e"] == "not_fired" for one in found) == 2 and drill.log.count("heal") == 2
    story = Story.read(drill.directory)
    assert story.problems == [f"fault {n} (strike) did not fire: it was raining" for n in (0, 1)]


def test_a_node_that_does_not_come_back_is_a_violation_and_is_started(drill: Drill) -> None:
    drill.fault.broken = lambda: drill.system.missing.append("n1 is down (1)")
    found = drill.run()
    broken = [one for one in found if one["e"] == "violation"]
    assert [one["law"] for one in broken] == ["L1", "L1"] and "n1 is down (1)" in broken[0]["text"]
    assert drill.system.started == 2 and found[-1]["e"] == "drained"


def test_without_service_the_run_is_given_up(drill: Drill) -> None:
    drill.probe.serves = False
    found = drill.run()
    assert [one["e"] for one in found][-3:] == ["back", "quiet", "aborted"]
    story = Story.read(drill.directory)
    assert story.violations[0]["law"] == "L1" and "given up" in story.problems[0]
    assert "drain" not in drill.log and "stop" in drill.log


def test_a_load_that_does_not_drain_and_nodes_that_differ_are_violations(drill: Drill) -> None:
    drill.load.drains = False
    drill.system.digests[N3] = "other"
    found = drill.run()
    assert [one["law"] for one in found if one["e"] == "violation"] == ["L2", "L3"]
    assert "drained" not in [one["e"] for one in found]


def test_a_defect_of_the_harness_is_raised_and_everything_is_closed(drill: Drill) -> None:
    def burst() -> None:
        raise RuntimeError("the hook burned down")

    drill.fault.broken = burst
    with pytest.raises(RuntimeError, match="burned down"):
        drill.run()
    assert "stop" in drill.log


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert spread([0.1, 0.30049]) == {"n": 2, "p50": 0.1, "p99": 0.3, "max": 0.3}
