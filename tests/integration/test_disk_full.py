"""R10 on a real file system that is really full: enqueues refused first, then the office handed over, then a member
that lives without acknowledging, and everything again when the space is back."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, until
from tests.skips import NO_MOUNT
from trivet.errors import TrivetError
from trivet.machine.commands import AckLeases, Draft, Enqueue, Lease, Request
from trivet.machine.replies import Leased
from trivet.node.runtime import Node
from trivet.units import MIB

RESERVE, FLOOR = 16 * MIB, 3 * MIB
SETTINGS = {"storage.disk_reserve_bytes": RESERVE, "storage.disk_floor_bytes": FLOOR}


def mounted(path: Path) -> bool:
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "trivet-test", str(path)], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Where the directory of n1 lies: a file system of 40 MiB."""
    path = tmp_path / "n1"
    if os.geteuid() != 0 or not mounted(path):
        pytest.skip(NO_MOUNT)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def leave(path: Path, free_bytes: int) -> None:
    """Fills the file system with something that is not ours."""
    ballast = path / "elsewhere"
    ballast.mkdir(exist_ok=True)
    found = os.statvfs(path)
    size = sum(one.stat().st_size for one in ballast.iterdir())
    size += found.f_bavail * found.f_frsize - free_bytes
    with open(ballast / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def make_room(path: Path) -> None:
    (path / "elsewhere" / "ballast").unlink()


async def lead(cluster: Cluster, name: str) -> Node:
    """`name` leads."""

    def leads() -> bool:
        leader = cluster.leader_now()
        if leader is not None and leader.node_id != name:
            leader.replica.transfer(name)
            leader.driver.wake()
        return leader is not None and leader.node_id == name

    await until(leads)
    return cluster.nodes[name]


async def enqueue(node: Node, count: int, size: int = 10) -> None:
    for _ in range(count):
        await node.broker.submit(Request(Enqueue("jobs", (Draft(body=b'"' + b"x" * size + b'"'),))))


def test_a_leader_out_of_space_refuses_then_hands_over_and_comes_back(tmp_path: Path, small: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3, **SETTINGS) as cluster:
            await cluster.leader()
            node = await lead(cluster, "n1")
            await enqueue(node, 5)
            leased = await node.broker.submit(Request(Lease(("jobs",), "w")))
            assert isinstance(leased.answer.reply, Leased)
            grant = leased.answer.reply.grants[0]
            leave(small, RESERVE - MIB)
            await until(lambda: node.duties.pressure.disk)
            assert not node.duties.pressure.floor
            with pytest.raises(TrivetError) as refused:
                await enqueue(node, 1)
            assert refused.value.code == "disk_full"
            assert any(alarm.startswith("disk_full") for alarm in node.cluster()["alarms"])
            acked = await node.broker.submit(Request(AckLeases((grant.fence,))))
            assert acked.answer.reply.results[0].status == "acked"  # type: ignore[union-attr]

            leave(small, FLOOR - MIB)
            leader = await until(
                lambda: (found := cluster.leader_now()) is not None and found.node_id != "n1" and found
            )
            await enqueue(leader, 20)
            await asyncio.sleep(2.5)
            assert (now := cluster.leader_now()) is not None and now.node_id != "n1"

            make_room(small)
            await cluster.settle()
            await until(lambda: not node.duties.pressure.disk)
            await enqueue(await lead(cluster, "n1"), 1)
        assert not cluster.deaths

    asyncio.run(scenario())


def test_a_follower_out_of_space_lives_without_acknowledging_and_votes(tmp_path: Path, small: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3, **SETTINGS) as cluster:
            await cluster.leader()
            await enqueue(await lead(cluster, "n2"), 5)
            await cluster.settle()
            full = cluster.nodes["n1"]
            leave(small, MIB // 2)  # not even the next segment would fit
            await until(lambda: full.replica.status().alarms)
            before = full.storage.last_index
            leader = await cluster.leader()
            await enqueue(leader, 30, size=100_000)
            assert full.storage.last_index == before
            await cluster.stop("n3")
            with pytest.raises(TrivetError), pytest.MonkeyPatch.context() as patch:
                patch.setattr("trivet.node.runtime.PROPOSAL_DEADLINE_SECONDS", 1.0)
                leader.driver._deadline_s = 1.0
                await enqueue(leader, 1)  # a full member makes no majority
            await cluster.start("n3")
            await until(lambda: len({n.replica.term for n in cluster.nodes.values()}) == 1)
            await enqueue(await cluster.leader(), 1)

            make_room(small)
            await cluster.settle(20)
            assert full.storage.last_index > before
        assert not cluster.deaths

    asyncio.run(scenario())


def test_a_vote_needs_no_space(tmp_path: Path, small: Path) -> None:
    """One member is full and the leader is lost: the full one must still elect the third."""

    async def scenario() -> None:
        async with Cluster(tmp_path, 3, **SETTINGS) as cluster:
            await cluster.leader()
            await enqueue(await lead(cluster, "n2"), 5)
            await cluster.settle()
            full = cluster.nodes["n1"]
            leave(small, 0)
            await until(lambda: full.replica.status().alarms)
            await cluster.stop("n2")
            await until(lambda: cluster.nodes["n3"].replica.is_leader)
            await until(lambda: full.replica.leader == "n3")  # the first append tells it, after its vote
            make_room(small)
            await enqueue(await cluster.leader(), 1)
            await cluster.settle()
        assert not cluster.deaths

    asyncio.run(scenario())
