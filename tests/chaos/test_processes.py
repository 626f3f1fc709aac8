"""Every fault of processes takes effect, shows it, and is undone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from chaos.faults import processes
from chaos.faults.overload import Overload
from chaos.faults.port import NotFired

from tests.chaos.kit import loaded, through

FAULTS = {fault.name: fault for fault in processes.FAULTS}


@pytest.mark.timeout(300)  # every node is started many times
def test_they_fire_and_heal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with loaded(tmp_path) as (cluster, traffic):

            async def play(name: str, **more: Any) -> dict[str, Any]:
                fault = FAULTS[name]
                parameters = {"target": getattr(fault, "target", ""), "pick": 0, **more}
                return await through(cluster, traffic, fault, parameters)

            for name, count in (
                ("kill_follower", 1),
                ("kill_leader", 1),
                ("kill_majority", 2),
                ("kill_all", 3),
            ):
                seen = await play(name)
                assert len(seen["killed"]) == len(seen["nodes"]) == count
                assert all(one["ended"] == -9 for one in seen["killed"].values())
            leader = await cluster.leader()
            assert (await play("pause_leader"))["nodes"] == [leader.id]
            assert (await play("pause_follower"))["state"] == "T"
            seen = await play("transfer_leadership")
            assert (await cluster.leader()).id == seen["to"] != seen["from"]
            seen = await play("rolling_restart", order=["n3", "n1", "n2"])
            assert list(seen["drained_s"]) == ["n3", "n1", "n2"]
            assert [node.process.returncode for node in cluster.nodes if node.process] == [None] * 3

    asyncio.run(scenario())


def test_what_cannot_fire_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with loaded(tmp_path) as (cluster, traffic):
            cluster.rate = 20
            seen = await through(cluster, traffic, Overload(), {"seconds": 1.0, "factor": 10})
            assert seen["messages"] >= 100 and seen["calls"]["ok"] > 0
            cluster.rate = 1e6  # nobody can offer that: a burst that was none must not count
            with pytest.raises(NotFired, match="messages went out"):
                await Overload().fire(cluster, {"seconds": 0.3, "factor": 10})

    asyncio.run(scenario())
