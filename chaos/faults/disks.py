"""Disks that lose their power, fill up, are slow or fail."""

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
from chaos.faults.processes import continue_all, pick, until_stopped
from chaos.ground.disks import Disks
from chaos.ground.tools import Unavailable
from chaos.ground.tracing import traced
from trivet.cli.local import ClusterFailed, LocalNode
from trivet.node.runtime import EXIT_FAILED

OWN_DISKS = frozenset({"root", "own_disks"})
STRACE = frozenset({"strace"})
SYNCS = "fdatasync,fsync"
PROOF_SECONDS = 10.0
DECIDED_SECONDS = 60.0  # the node that lost power is started again meanwhile
POLL_SECONDS = 0.05


# --- power ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLoss:
    """The nodes' file systems lose what was not synced, all at the same moment, under load; then their
    processes are killed. Evidence: on each, a file that was never synced is gone, one that was is there."""

    name: str
    target: str
    needs: frozenset[str] = OWN_DISKS

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": self.target, "pick": pick(rng), "hold_s": round(rng.uniform(0.0, 1.5), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        struck = await cluster.resolve(parameters["target"], parameters["pick"])
        at = time.monotonic_ns()
        return {"t": at, "nodes": [node.id for node in struck], "controls": await lose_power(cluster, struck)}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await give_power(cluster)
        await cluster.start_down()


@dataclass(frozen=True)
class PowerLossAndPause:
    """Jepsen's NATS case: one power loss, and pauses that make the node that lost it decide.

    A follower is paused and falls behind; then the other follower loses power, so that what was acknowledged
    meanwhile is only where it was synced; then the leader is paused and the first follower goes on. The node
    that lost power and the one that is behind are a majority now: if what was acknowledged was not synced,
    they elect a leader without it. Evidence: the controls of the power loss, both pauses as the kernel says,
    and the leader that the majority then chose.
    """

    name: str = "power_loss_and_pause"
    needs: frozenset[str] = OWN_DISKS

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        behind_s = round(rng.uniform(1.0, 3.0), 2)
        return {"pick": pick(rng), "behind_s": behind_s, "hold_s": round(rng.uniform(3.0, 5.0), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        leader = await cluster.leader()
        turn = parameters["pick"] % (len(cluster.nodes) - 1)
        others = [node for node in cluster.nodes if node is not leader]
        others = others[turn:] + others[:turn]
        half = len(others) // 2
        behind, synced = others[:half], others[half:]
        await self._pause(cluster, behind)
        await asyncio.sleep(parameters["behind_s"])
        at = time.monotonic_ns()
        controls = await lose_power(cluster, synced)
        await self._pause(cluster, [leader])
        for node in synced:
            await cluster.start_node(node)
        for node in behind:
            cluster.signal(node, signal.SIGCONT)
        try:
            new = await cluster.leader(DECIDED_SECONDS)
        except ClusterFailed:
            raise NotFired(
                f"without {leader.id} the others chose no leader in {DECIDED_SECONDS:g} s"
            ) from None
        return {
            "t": at,
            "nodes": [leader.id, *(node.id for node in synced)],
            "controls": controls,
            "behind": [node.id for node in behind],
            "paused": leader.id,
            "chosen": new.id,
        }

    async def _pause(self, cluster: DrillCluster, nodes: list[LocalNode]) -> None:
        for node in nodes:
            pid = pid_of(node)
            cluster.signal(node, signal.SIGSTOP)
            await until_stopped(pid)

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        continue_all(cluster)
        await give_power(cluster)
        await cluster.start_down()


def disks_of(cluster: DrillCluster) -> Disks:
    if cluster.disks is None:
        raise NotFired("this cluster's nodes have no file systems of their own")
    return cluster.disks


async def lose_power(cluster: DrillCluster, nodes: list[LocalNode]) -> dict[str, dict[str, bool]]:
    """Power is lost on all at once and back when it returns, their processes are gone. What the controls
    say of each node. Raises `NotFired` where they say that nothing was lost, or too much."""
    disks = disks_of(cluster)
    numbers = [node.number for node in nodes]
    for node in nodes:
        pid_of(node)  # a power loss under a node that is down proves nothing
    await asyncio.to_thread(disks.cut_power, numbers)
    await cluster.kill_all(nodes)
    found = await asyncio.to_thread(disks.remount, numbers)
    for node, loss in zip(nodes, found, strict=True):
        if not loss.fired:
            raise NotFired(f"the power loss under {node.id} is not proven: {loss}")
    return {
        node.id: {"unsynced_gone": loss.unsynced_gone, "synced_kept": loss.synced_kept}
        for node, loss in zip(nodes, found, strict=True)
    }


async def give_power(cluster: DrillCluster) -> None:
    """Where a fault ended half-way: the file systems that lost power and were not mounted again."""
    disks = disks_of(cluster)
    dark = [node for node in cluster.nodes if node.number in disks.without_power]
    await cluster.kill_all([node for node in dark if node.is_running])
    await asyncio.to_thread(disks.remount, [node.number for node in dark])


# --- space ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiskFull:
    """The last free block of the nodes' file systems is taken, and again when something comes free.
    Evidence: no block is free, and the node itself says `disk_full` (R10)."""

    name: str
    target: str
    needs: frozenset[str] = OWN_DISKS

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": self.target, "pick": pick(rng), "full_s": round(rng.uniform(2.0, 6.0), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        disks = disks_of(cluster)
        struck = await cluster.resolve(parameters["target"], parameters["pick"])
        at = time.monotonic_ns()
        taken = {node.id: await asyncio.to_thread(disks.fill, node.number) for node in struck}
        free = {node.id: disks.free_bytes(node.number) for node in struck}
        if not all(taken.values()):
            raise NotFired(f"there was nothing to fill: {taken}")
        until = time.monotonic() + parameters["full_s"]
        said: set[str] = set()
        while time.monotonic() < until or len(said) < len(struck):
            if time.monotonic() > until + PROOF_SECONDS:
                raise NotFired(f"{free} bytes free, but only {sorted(said)} say disk_full")
            for node in struck:
                await asyncio.to_thread(disks.fill, node.number)
                _, body = await cluster.ask(node, "/v1/cluster")
                if any(str(alarm).startswith("disk_full") for alarm in body.get("alarms", [])):
                    said.add(node.id)
            await asyncio.sleep(POLL_SECONDS)
        return {"t": at, "nodes": [node.id for node in struck], "taken": taken, "free": free}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        for node in cluster.nodes:
            await asyncio.to_thread(disks_of(cluster).free, node.number)
        await cluster.start_down()


# --- syncs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlowSync:
    """Every fsync and fdatasync of the node takes longer. Evidence: strace's count of those it delayed."""

    name: str
    target: str
    needs: frozenset[str] = STRACE

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        delay_ms = round(10 * 200 ** rng.random())  # 10 ms … 2 s: R34 begins to count at 1 s
        slow_s = round(rng.uniform(3.0, 7.0), 2)
        return {"target": self.target, "pick": pick(rng), "delay_ms": delay_ms, "slow_s": slow_s}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        delay = f"inject={SYNCS}:delay_enter={parameters['delay_ms'] * 1000}"
        at = time.monotonic_ns()
        try:
            async with traced(pid_of(node), ["-e", f"trace={SYNCS}", "-e", delay]) as log:
                await asyncio.sleep(parameters["slow_s"])
                delayed = log.read_bytes().count(b"(DELAYED)")
        except Unavailable as why:
            raise NotFired(str(why)) from why
        if not delayed:
            raise NotFired(f"{node.id} synced nothing in {parameters['slow_s']} s")
        return {"t": at, "nodes": [node.id], "delayed": delayed}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await cluster.start_down()


@dataclass(frozen=True)
class FailingSync:
    """One fsync or fdatasync of the node answers EIO. Evidence: strace's line of it, and that the node ended
    itself with its own exit code: it must not sync again (reliability.md, D4: the second one may lie)."""

    name: str
    target: str
    needs: frozenset[str] = STRACE

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        hold_s = round(rng.uniform(0.0, 1.5), 2)
        return {"target": self.target, "pick": pick(rng), "when": rng.randint(1, 30), "hold_s": hold_s}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        fail = f"inject={SYNCS}:error=EIO:when={parameters['when']}"
        process = node.process
        assert process is not None
        try:
            async with traced(pid_of(node), ["-e", f"trace={SYNCS}", "-e", fail]) as log:
                try:
                    async with asyncio.timeout(PROOF_SECONDS):
                        code = await process.wait()
                except TimeoutError:
                    raise NotFired(f"{node.id} goes on; strace says: {_injected(log)}") from None
                at, line = time.monotonic_ns(), _injected(log)
        except Unavailable as why:
            raise NotFired(str(why)) from why
        if line is None or code != EXIT_FAILED:
            raise NotFired(f"{node.id} ended with {code}, not {EXIT_FAILED}; strace says: {line}")
        return {"t": at, "nodes": [node.id], "exit": code, "strace": line}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await cluster.start_down()


def _injected(log: Path) -> str | None:
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in lines if "(INJECTED)" in line), None)


FAULTS: tuple[Fault, ...] = (
    PowerLoss("power_loss_leader", "leader"),
    PowerLoss("power_loss_follower", "follower"),
    PowerLoss("power_loss_majority", "majority"),
    PowerLoss("power_loss_all", "all"),
    PowerLossAndPause(),
    DiskFull("disk_full_leader", "leader"),
    DiskFull("disk_full_follower", "follower"),
    DiskFull("disk_full_all", "all"),
    SlowSync("slow_sync_leader", "leader"),
    SlowSync("slow_sync_follower", "follower"),
    FailingSync("failing_sync_leader", "leader"),
    FailingSync("failing_sync_follower", "follower"),
)
