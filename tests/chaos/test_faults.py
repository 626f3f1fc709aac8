"""Faults of network, disk, clock and files on real nodes under load: each fires, is proven, and is over after
its heal. And without an effect there is no evidence: then the fault says that it did not fire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos.faults import FAULTS, clocks, network
from chaos.faults.port import NotFired
from chaos.ground.clock import Clocks
from chaos.ground.disks import Disks
from chaos.ground.firewall import Firewall
from chaos.ground.tools import Unavailable, missing

from tests.chaos.kit import loaded, through
from trivet.cli.local import free_base_port

CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "network": [
        ("partition_leader", {"target": "leader", "pick": 1}),
        ("partition_leader_deaf", {"target": "leader", "pick": 0}),
        ("link_down_leader", {"target": "leader", "pick": 0}),
        ("flapping_follower", {"target": "follower", "pick": 1, "down_up_s": [[0.5, 0.1], [0.1, 0.1]]}),
        ("reset_leader", {"target": "leader", "pick": 0, "pauses_s": [0.3, 0.1]}),
        ("clock_jump_leader", {"target": "leader", "pick": 0, "ms": -400 * 86_400_000}),
        ("clock_strobe_follower", {"target": "follower", "pick": 0, "ms": 5000, "period_ms": 200}),
    ],
    "disks": [
        ("power_loss_all", {"target": "all", "pick": 0}),
        ("disk_full_leader", {"target": "leader", "pick": 0, "full_s": 1.0}),
        ("slow_sync_leader", {"target": "leader", "pick": 0, "delay_ms": 50, "slow_s": 1.0}),
        ("failing_sync_leader", {"target": "leader", "pick": 0, "when": 2}),
        ("power_loss_and_pause", {"pick": 0, "behind_s": 0.5}),
    ],
    "files": [
        ("damage_log", {"target": "n1", "pick": 0, "kind": "flip", "which": 0.9, "where": 0.5, "bit": 3}),
        ("damage_identity_twice", {"target": "n2", "pick": 0, "where": 0.5, "bit": 3}),
        ("foreign_directory", {"target": "n3", "pick": 0}),
        ("wiped_directory", {"target": "n1", "pick": 0}),
    ],
}


def unavailable() -> str | None:
    return Disks.available() or Firewall.available() or Clocks.available() or missing("strace")


@pytest.mark.parametrize("group", CASES)
def test_each_fault_fires_and_is_over_after_its_heal(tmp_path: Path, group: str) -> None:
    why = unavailable()
    if why is not None:
        pytest.skip(f"no drill ground: {why}")

    async def play() -> None:
        faults = [(FAULTS[name], parameters) for name, parameters in CASES[group]]
        needs = frozenset(need for fault, _ in faults for need in fault.needs)
        async with loaded(tmp_path / "run", needs) as (cluster, traffic):
            for fault, parameters in faults:
                evidence = await through(cluster, traffic, fault, parameters)
                assert evidence["nodes"], fault.name
                assert not list(tmp_path.rglob("kept-*")), f"{fault.name} left something behind"

    asyncio.run(play())


@dataclass
class Node:
    id: str
    number: int
    is_running: bool = True


class Standing:
    """Three nodes that nobody started."""

    def __init__(self, firewall: Firewall | None = None, clocks: Clocks | None = None) -> None:
        self.nodes = [Node(f"n{number}", number) for number in (1, 2, 3)]
        self.firewall, self.clocks = firewall, clocks

    async def resolve(self, target: str, pick: int) -> list[Node]:
        return self.nodes[:1]


def test_a_cut_that_drops_nothing_did_not_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PROOF_SECONDS", 0.2)
    addresses = [f"127.0.0.{10 + number}" for number in (1, 2, 3)]
    try:
        wall = Firewall(addresses, [free_base_port(1, addresses)])
    except Unavailable as why:
        pytest.skip(f"no partitions: {why}")
    cluster: Any = Standing(firewall=wall)
    try:
        for name in ("partition_leader", "link_down_leader", "partition_ring"):
            with pytest.raises(NotFired, match="was dropped"):
                asyncio.run(FAULTS[name].fire(cluster, {"target": "leader", "pick": 0}))
            asyncio.run(FAULTS[name].heal(cluster, {}))
        with pytest.raises(NotFired, match="no connection"):
            asyncio.run(FAULTS["reset_leader"].fire(cluster, {"target": "n1", "pick": 0, "pauses_s": [0]}))
        cluster.nodes[0].is_running = False
        with pytest.raises(NotFired, match="no two nodes"):
            asyncio.run(FAULTS["partition_leader"].fire(cluster, {"target": "leader", "pick": 0}))
    finally:
        wall.close()


def test_a_clock_that_nobody_reads_did_not_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "PROOF_SECONDS", 0.2)
    try:
        made = Clocks(tmp_path, 3)
    except Unavailable as why:
        pytest.skip(f"no clock jumps: {why}")
    cluster: Any = Standing(clocks=made)
    with pytest.raises(NotFired, match="did not see it"):
        asyncio.run(FAULTS["clock_jump_leader"].fire(cluster, {"target": "leader", "pick": 0, "ms": 1000}))
    made.close()


def test_without_its_ground_a_fault_does_not_fire() -> None:
    cluster: Any = Standing()
    for name in ("partition_leader", "clock_jump_leader"):
        with pytest.raises(NotFired, match="this cluster"):
            asyncio.run(FAULTS[name].fire(cluster, {"target": "leader", "pick": 0, "ms": 1}))
