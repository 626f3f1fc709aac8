"""Partitions of every shape, a pulled cable, connections that are reset.

A cut is a set of directed links (source, target), all blocked at the same moment. Evidence: packets that
were dropped on the links that were cut, counted by the firewall. Peers send something every 0.3 s and dial
every 0.2 s, so a cut between two that run is proven within a second.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.cluster import DrillCluster
from chaos.faults.port import Fault, NotFired
from chaos.faults.processes import pick
from chaos.ground.firewall import Firewall
from chaos.ground.tools import CommandFailed

NFT = frozenset({"root", "nft"})
PROOF_SECONDS = 5.0
POLL_SECONDS = 0.05
TELLING_SECONDS = 1.0  # a flapping link that is down for so long must have dropped something
HOLD_S = (2.0, 8.0)

Links = list[tuple[int, int]]
Shape = Callable[[list[int]], Links]


def both(one: list[int], other: list[int]) -> Links:
    """All links between two groups, in both directions."""
    return [pair for a in one for b in other for pair in ((a, b), (b, a))]


# --- shapes: from the nodes in an order that begins with the target to the links that are cut ----------


def alone(nodes: list[int]) -> Links:
    """The target hears no peer and no peer hears it; clients still reach it."""
    return both(nodes[:1], nodes[1:])


def halves(nodes: list[int]) -> Links:
    """A minority with the target, and the rest."""
    half = (len(nodes) - 1) // 2
    return both(nodes[:half], nodes[half:])


def bridge(nodes: list[int]) -> Links:
    """Two halves that do not hear each other; the target hears both."""
    half = len(nodes) // 2 + 1
    return both(nodes[1:half], nodes[half:])


def chain_end(nodes: list[int]) -> Links:
    """As the bridge, with the target in one of the halves: it lost some peers, another node sees all."""
    return bridge([*nodes[1:], nodes[0]])


def ring(nodes: list[int]) -> Links:
    """Each hears just a majority, and no two the same: of five its two neighbours, of three the next one
    only, so that every link is cut in one direction."""
    size = len(nodes)
    if size == 3:
        return [(nodes[place - 1], node) for place, node in enumerate(nodes)]
    reach = size // 4
    return [
        (nodes[(place + step) % size], node)
        for place, node in enumerate(nodes)
        for step in range(reach + 1, size - reach)
    ]


def mute(nodes: list[int]) -> Links:
    """Nothing that the target says arrives; it hears all."""
    return [(nodes[0], other) for other in nodes[1:]]


def deaf(nodes: list[int]) -> Links:
    """The target hears nothing; what it says arrives."""
    return [(other, nodes[0]) for other in nodes[1:]]


@dataclass(frozen=True)
class Partition:
    """A cut of one shape, with a leader or a follower where the shape has its target."""

    name: str
    target: str
    shape: Shape
    needs: frozenset[str] = NFT

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": self.target, "pick": pick(rng), "hold_s": round(rng.uniform(*HOLD_S), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        wall = firewall_of(cluster)
        nodes = await in_order(cluster, parameters)
        links = self.shape(nodes)
        at = time.monotonic_ns()
        await asyncio.to_thread(wall.block_all, links)
        dropped = await proven(cluster, wall, links)
        return {"t": at, "nodes": struck(cluster, links, nodes), "dropped": dropped}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await asyncio.to_thread(firewall_of(cluster).heal)


@dataclass(frozen=True)
class Flapping:
    """The target's links to its peers go up and down, each time for 50 ms to 2 s. Evidence: drops in total,
    and in every down time that was long enough for a peer to notice."""

    name: str
    target: str
    needs: frozenset[str] = NFT

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        def length_s() -> float:
            return round(0.05 * float(40 ** rng.random()), 3)

        times = [[length_s(), length_s()] for _ in range(rng.randint(4, 8))]
        return {"target": self.target, "pick": pick(rng), "down_up_s": times}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        wall = firewall_of(cluster)
        nodes = await in_order(cluster, parameters)
        at, dropped = time.monotonic_ns(), []
        for down_s, up_s in parameters["down_up_s"]:
            before = await asyncio.to_thread(wall.dropped)
            await asyncio.to_thread(wall.block_all, alone(nodes))
            await asyncio.sleep(down_s)
            dropped.append(await asyncio.to_thread(wall.dropped) - before)
            await asyncio.to_thread(wall.heal)
            if not dropped[-1] and down_s > TELLING_SECONDS:
                raise NotFired(f"no packet was dropped while the link was down for {down_s} s")
            await asyncio.sleep(up_s)
        if not sum(dropped):
            raise NotFired(f"no packet was dropped in {len(dropped)} short cuts")
        return {"t": at, "nodes": [name_of(cluster, nodes[0])], "dropped": dropped}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await asyncio.to_thread(firewall_of(cluster).heal)


@dataclass(frozen=True)
class LinkDown:
    """The cable is pulled: nothing to or from the node arrives, from clients neither, and nobody gets a
    reset. Evidence: packets dropped around the node."""

    name: str
    target: str
    needs: frozenset[str] = NFT

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": self.target, "pick": pick(rng), "hold_s": round(rng.uniform(*HOLD_S), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        wall = firewall_of(cluster)
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        at = time.monotonic_ns()
        await asyncio.to_thread(wall.isolate, node.number)
        deadline = time.monotonic() + PROOF_SECONDS
        while not (dropped := await asyncio.to_thread(wall.dropped_around, node.number)):
            if time.monotonic() > deadline:
                raise NotFired(f"no packet to or from {node.id} was dropped in {PROOF_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)
        return {"t": at, "nodes": [node.id], "dropped": dropped}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await asyncio.to_thread(firewall_of(cluster).heal)


@dataclass(frozen=True)
class ResetConnections:
    """Every connection of the node is reset, some times in a row. Evidence: how many `ss` closed each time."""

    name: str
    target: str
    needs: frozenset[str] = NFT

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        pauses = [round(rng.uniform(0.05, 1.0), 2) for _ in range(rng.randint(1, 5))]
        return {"target": self.target, "pick": pick(rng), "pauses_s": pauses}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        wall = firewall_of(cluster)
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        at, closed = time.monotonic_ns(), []
        for pause_s in parameters["pauses_s"]:
            try:
                closed.append(await asyncio.to_thread(wall.reset_connections, node.number))
            except CommandFailed as why:
                raise NotFired(str(why)) from why
            await asyncio.sleep(pause_s)
        if not all(closed):
            raise NotFired(f"{node.id} had no connection to reset: {closed}")
        return {"t": at, "nodes": [node.id], "closed": closed}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        """The nodes dial again by themselves."""


# --- helpers -------------------------------------------------------------------------------------------


def firewall_of(cluster: DrillCluster) -> Firewall:
    if cluster.firewall is None:
        raise NotFired("this cluster stands on no firewall")
    return cluster.firewall


def name_of(cluster: DrillCluster, number: int) -> str:
    return cluster.nodes[number - 1].id


async def in_order(cluster: DrillCluster, parameters: dict[str, Any]) -> list[int]:
    """The nodes' numbers, the target first, the others in an order that `pick` turns."""
    (first,) = await cluster.resolve(parameters["target"], parameters["pick"])
    others = [node.number for node in cluster.nodes if node is not first]
    turn = parameters["pick"] % len(others)
    return [first.number, *others[turn:], *others[:turn]]


def struck(cluster: DrillCluster, links: Links, nodes: list[int]) -> list[str]:
    """The nodes that no longer hear, or are no longer heard by, a majority (with themselves)."""
    needed = len(nodes) // 2 + 1
    found = []
    for node in nodes:
        heard = sum((other, node) not in links for other in nodes)
        heard_by = sum((node, other) not in links for other in nodes)
        if min(heard, heard_by) < needed:
            found.append(name_of(cluster, node))
    return found


async def proven(cluster: DrillCluster, wall: Firewall, links: Links) -> dict[str, int]:
    """Packets dropped by directed link, once each cut pair whose nodes run has lost some. Raises `NotFired`.

    A pair that is cut both ways is proven by either direction: the one that dials is heard by nobody, so
    the other one has nothing to answer.
    """
    pairs = {
        frozenset(link) for link in links if all(cluster.nodes[number - 1].is_running for number in link)
    }
    if not pairs:
        raise NotFired("no two nodes on the two sides of a cut run")
    deadline = time.monotonic() + PROOF_SECONDS
    while True:
        counts = {link: await asyncio.to_thread(wall.dropped_between, *link) for link in links}
        silent = [pair for pair in pairs if not any(n for link, n in counts.items() if pair == set(link))]
        if not silent:
            return {f"{name_of(cluster, a)}>{name_of(cluster, b)}": n for (a, b), n in counts.items()}
        if time.monotonic() > deadline:
            names = [" and ".join(name_of(cluster, number) for number in sorted(pair)) for pair in silent]
            raise NotFired(f"no packet was dropped between {', '.join(sorted(names))}")
        await asyncio.sleep(POLL_SECONDS)


FAULTS: tuple[Fault, ...] = (
    Partition("partition_leader", "leader", alone),
    Partition("partition_follower", "follower", alone),
    Partition("partition_halves", "leader", halves),
    Partition("partition_bridge", "leader", bridge),
    Partition("partition_chain", "leader", chain_end),
    Partition("partition_ring", "leader", ring),
    Partition("partition_leader_mute", "leader", mute),
    Partition("partition_leader_deaf", "leader", deaf),
    Partition("partition_follower_mute", "follower", mute),
    Partition("partition_follower_deaf", "follower", deaf),
    Flapping("flapping_leader", "leader"),
    Flapping("flapping_follower", "follower"),
    LinkDown("link_down_leader", "leader"),
    LinkDown("link_down_follower", "follower"),
    ResetConnections("reset_leader", "leader"),
    ResetConnections("reset_follower", "follower"),
)
