"""One node's wall clock jumps, drifts or swings; its monotonic clock does not. Evidence: the shim in the
node's process was asked for the time since, and answered the wrong one."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from chaos.cluster import DrillCluster
from chaos.faults.port import Fault, NotFired
from chaos.faults.processes import pick
from chaos.ground.clock import Clocks
from trivet.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

GCC = frozenset({"gcc"})
PROOF_SECONDS = 5.0
POLL_SECONDS = 0.02
# Around a lease, around the alarm at 60 s (R1), around the request window, and beyond every window there is.
JUMPS_MS = (
    2 * SECOND_MS, 20 * SECOND_MS, 59 * SECOND_MS, 61 * SECOND_MS, 10 * MINUTE_MS, 5 * HOUR_MS, 3 * DAY_MS,
    400 * DAY_MS,
)  # fmt: skip
DRIFTS_PPM = (500, 10_000, 200_000)
SWINGS_MS = (200, 5 * SECOND_MS, HOUR_MS)
STEPS_MIN = 3  # sudden changes seen, before a swing counts


@dataclass(frozen=True)
class ClockFault:
    """`kind`: jump, drift or strobe."""

    name: str
    target: str
    kind: str
    needs: frozenset[str] = GCC

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        sign = rng.choice((1, -1))
        made: dict[str, Any] = {"target": self.target, "pick": pick(rng)}
        made["hold_s"] = round(rng.uniform(2.0, 6.0), 2)
        if self.kind == "jump":
            return {**made, "ms": sign * rng.choice(JUMPS_MS)}
        if self.kind == "drift":
            return {**made, "ppm": sign * rng.choice(DRIFTS_PPM)}
        return {**made, "ms": sign * rng.choice(SWINGS_MS), "period_ms": rng.randint(20, 1000)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        clocks = clocks_of(cluster)
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        number, before = node.number, clocks.reading(node.number)
        at = time.monotonic_ns()
        if self.kind == "jump":
            clocks.jump(number, parameters["ms"])
        elif self.kind == "drift":
            clocks.drift(number, parameters["ppm"])
        else:
            clocks.strobe(number, parameters["ms"], parameters["period_ms"])
        deadline = time.monotonic() + PROOF_SECONDS
        while True:
            seen = clocks.reading(number)
            if seen.calls > before.calls and self._wrong(
                parameters, seen.applied_ms, seen.steps - before.steps
            ):
                break
            if time.monotonic() > deadline or not node.is_running:
                raise NotFired(f"{node.id} did not see it: {before} before, {seen} after")
            await asyncio.sleep(POLL_SECONDS)
        asked = seen.calls - before.calls
        return {
            "t": at,
            "nodes": [node.id],
            "calls": asked,
            "steps": seen.steps,
            "applied_ms": seen.applied_ms,
        }

    def _wrong(self, parameters: dict[str, Any], applied_ms: float, steps: int) -> bool:
        """Whether the last answer (or the swings so far) can only come from this fault."""
        if self.kind == "jump":
            return applied_ms == float(parameters["ms"])
        if self.kind == "drift":
            return applied_ms * float(parameters["ppm"]) > 0
        return steps >= STEPS_MIN

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        clocks_of(cluster).heal()


def clocks_of(cluster: DrillCluster) -> Clocks:
    if cluster.clocks is None:
        raise NotFired("this cluster's nodes have no clocks of their own")
    return cluster.clocks


FAULTS: tuple[Fault, ...] = tuple(
    ClockFault(f"clock_{kind}_{target}", target, kind)
    for kind in ("jump", "drift", "strobe")
    for target in ("leader", "follower")
)
