"""Processes that are killed, paused, restarted, relieved of their office."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.cluster import DrillCluster, pid_of
from chaos.faults.port import Fault, NotFired
from trivet.cli.local import LocalNode

STOPPED_SECONDS = 2.0
TRANSFER_SECONDS = 5.0
READY_SECONDS = 30.0


def pick(rng: random.Random) -> int:
    """A number for `DrillCluster.resolve`."""
    return rng.randrange(60)


@dataclass(frozen=True)
class Kill:
    """kill -9. Evidence: each process ended by SIGKILL, with its pid."""

    name: str
    target: str
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": self.target, "pick": pick(rng), "hold_s": round(rng.uniform(0.0, 1.5), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        struck = await cluster.resolve(parameters["target"], parameters["pick"])
        killed = {node.id: {"pid": pid_of(node)} for node in struck}
        at = time.monotonic_ns()
        await cluster.kill_all(struck)
        for node in struck:
            assert node.process is not None
            killed[node.id]["ended"] = code = int(node.process.returncode or 0)
            if code != -signal.SIGKILL:
                raise NotFired(f"{node.id} ended with {code} before it was killed")
        return {"t": at, "nodes": list(killed), "killed": killed}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await cluster.start_down()


@dataclass(frozen=True)
class Pause:
    """SIGSTOP for longer than a lease and any election timeout, then SIGCONT. Evidence: the kernel says
    that the process is stopped."""

    name: str
    target: str
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": self.target, "pick": pick(rng), "hold_s": round(rng.uniform(2.0, 6.0), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        pid = pid_of(node)
        at = time.monotonic_ns()
        cluster.signal(node, signal.SIGSTOP)
        await until_stopped(pid)
        return {"t": at, "nodes": [node.id], "pid": pid, "state": state_of(pid)}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        continue_all(cluster)


@dataclass(frozen=True)
class RollingRestart:
    """Each node in turn: SIGTERM, it drains and hands over, and is started again; the next one when it is
    ready. Evidence: exit code 0 of each."""

    name: str = "rolling_restart"
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        order = [f"n{number}" for number in range(1, size + 1)]
        rng.shuffle(order)
        return {"order": order}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        drains: dict[str, float] = {}
        for node in map(cluster.node, parameters["order"]):
            began = time.monotonic()
            pid_of(node)
            code = await asyncio.wait_for(cluster.kill(node, signal.SIGTERM), READY_SECONDS)
            if code != 0:
                raise NotFired(f"{node.id} ended with {code} instead of draining")
            drains[node.id] = round(time.monotonic() - began, 3)
            await cluster.start_node(node)
            await cluster.wait_ready(node, READY_SECONDS)
        return {"nodes": [], "drained_s": drains}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await cluster.start_down()


@dataclass(frozen=True)
class TransferLeadership:
    """Asked for by the API. Evidence: another leader in a later term."""

    name: str = "transfer_leadership"
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"pick": pick(rng)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        old = await cluster.leader()
        (new,) = await cluster.resolve("follower", parameters["pick"])
        term = (await cluster.ask(old, "/leader"))[1].get("term")
        at = time.monotonic_ns()
        status, answer = await cluster.post(old, "/v1/cluster/transfer", {"to": new.id})
        if status != 202:
            raise NotFired(f"{old.id} refused to hand over to {new.id}: {status} {answer}")
        deadline = time.monotonic() + TRANSFER_SECONDS
        while (leader := await cluster.find_leader()) is not new:
            if time.monotonic() > deadline:
                raise NotFired(f"{leader.id if leader else 'nobody'} leads, not {new.id}")
            await asyncio.sleep(0.02)
        return {"t": at, "nodes": [], "from": old.id, "to": new.id, "term_before": term}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        """Nothing to undo."""


# --- processes as the kernel sees them -----------------------------------------------------------------


def state_of(pid: int) -> str:
    """One letter, as in ps(1): R, S, D, T (stopped), t (stopped by a tracer), Z; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


async def until_stopped(pid: int) -> None:
    """Raises `NotFired` if it is not stopped in time."""
    deadline = time.monotonic() + STOPPED_SECONDS
    while state_of(pid) not in "Tt":
        if time.monotonic() > deadline:
            raise NotFired(f"process {pid} is not stopped: state {state_of(pid)}")
        await asyncio.sleep(0.005)


def continue_all(cluster: DrillCluster) -> None:
    """Let every stopped node go on (to a running one it is nothing)."""
    for node in cluster.running:
        cluster.signal(node, signal.SIGCONT)


def exit_code(node: LocalNode) -> int:
    """Of its last process, which must have ended."""
    assert node.process is not None and node.process.returncode is not None
    return node.process.returncode


FAULTS: tuple[Fault, ...] = (
    Kill("kill_leader", "leader"),
    Kill("kill_follower", "follower"),
    Kill("kill_majority", "majority"),
    Kill("kill_all", "all"),
    Pause("pause_leader", "leader"),
    Pause("pause_follower", "follower"),
    RollingRestart(),
    TransferLeadership(),
)
