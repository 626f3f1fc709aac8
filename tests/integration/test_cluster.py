"""Three whole nodes in one process: they are born, elect, replicate, lose one, get it back, hand over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, until
from trivet.errors import TrivetError
from trivet.machine import views
from trivet.machine.commands import Draft, Enqueue, Lease, PutQueue, QueueConfig, Request
from trivet.machine.replies import Leased
from trivet.node.watching import CAUGHT_UP_ENTRIES
from trivet.observability import metrics as m


def ready(node: object, queue: str) -> int:
    found = views.queue(node.machine, queue)  # type: ignore[attr-defined]
    return 0 if found is None else int(found["ready"])


def test_three_nodes_are_born_elect_and_replicate(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            for i in range(50):
                await cluster.enqueue("jobs", b"%d" % i)
            await cluster.settle()
            assert [ready(node, "jobs") for node in cluster.nodes.values()] == [50, 50, 50]
            assert len({node.machine.cluster_id for node in cluster.nodes.values()}) == 1
            assert len({node.machine.secret for node in cluster.nodes.values()}) == 1
            view = leader.cluster()
            assert view["quorum"] == {"size": 2, "have": 3}
            assert {one["id"]: one["api"] for one in view["members"]} == {
                name: f"http://127.0.0.1:{port}" for name, port in cluster.api.items()
            }
            assert not leader.quorum_critical() and all(node.caught_up() for node in cluster.nodes.values())
            text = leader.metrics().decode()
            assert "trivet_raft_is_leader 1.0" in text
            assert 'trivet_queue_messages{queue="jobs",state="ready"} 50.0' in text
            assert leader.meters.value(m.FSYNC_SECONDS) > 0
        assert not cluster.deaths

    asyncio.run(scenario())


@pytest.mark.parametrize("whom", ["leader", "follower"])
def test_one_node_stops_and_comes_back(tmp_path: Path, whom: str) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await cluster.enqueue("jobs")
            name = (
                leader.node_id if whom == "leader" else next(n for n in cluster.names if n != leader.node_id)
            )
            await cluster.stop(name)
            for _ in range(20):
                await cluster.enqueue("jobs")
            assert (await cluster.leader()).quorum_critical()
            await cluster.start(name)
            await cluster.leader()
            await cluster.settle()
            assert {ready(node, "jobs") for node in cluster.nodes.values()} == {21}
        assert not cluster.deaths

    asyncio.run(scenario())


def test_who_waits_for_a_snapshot_is_not_ready(tmp_path: Path) -> None:
    """Rolling restarts wait for `/readyz`: a node whose own log does not reach the leader's knew of nothing committed
    beyond it, and said that it was caught up (bench.catchup, 2026-11-23)."""

    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await cluster.enqueue("jobs")
            name = next(n for n in cluster.names if n != leader.node_id)
            has = cluster.nodes[name].replica.applied_index
            await cluster.stop(name)
            here = list(cluster.nodes.values())
            while any(node.replica.status().base_index <= has for node in here):
                for _ in range(CAUGHT_UP_ENTRIES + 1):
                    await cluster.enqueue("jobs", bytes(20_000))
                for node in here:
                    before = node.replica.status().snapshot_index
                    node.replica.snapshot_now()
                    await until(
                        lambda node=node, before=before: node.replica.status().snapshot_index > before
                    )
            back = await cluster.start(name)
            ready_with: list[int] = []  # entries it had not applied when it said so
            safe_with: list[int] = []  # entries it had not stored when the leader said that it might go
            most = 0

            def one_of_them() -> bool:
                nonlocal most
                most = max(most, leader.replica.commit_index - back.replica.applied_index)
                if back.caught_up():
                    ready_with.append(leader.replica.commit_index - back.replica.applied_index)
                if not leader.quorum_critical():
                    safe_with.append(leader.replica.commit_index - back.replica.durable_index)
                return bool(ready_with and safe_with)

            await until(one_of_them)
            assert max(*ready_with, *safe_with) <= CAUGHT_UP_ENTRIES < most
            await cluster.settle()
        assert not cluster.deaths

    asyncio.run(scenario())


def test_all_nodes_stop_and_nothing_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            for _ in range(20):
                await cluster.enqueue("jobs")
            cluster_id = (await cluster.leader()).machine.cluster_id
            for name in cluster.names:
                await cluster.stop(name)
            for name in cluster.names:
                await cluster.start(name)
            leader = await cluster.leader()
            await cluster.settle()
            assert leader.machine.cluster_id == cluster_id
            assert {ready(node, "jobs") for node in cluster.nodes.values()} == {20}
        assert not cluster.deaths

    asyncio.run(scenario())


def test_leadership_is_handed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await cluster.enqueue("jobs")
            heir = next(name for name in cluster.names if name != leader.node_id)
            assert leader.replica.transfer(heir)
            await until(lambda: (found := cluster.leader_now()) and found.node_id == heir)
            await cluster.enqueue("jobs")
            await cluster.settle()
            assert {ready(node, "jobs") for node in cluster.nodes.values()} == {2}
        assert not cluster.deaths

    asyncio.run(scenario())


def test_a_draining_leader_hands_over_and_refuses_new_work(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            draining = asyncio.create_task(leader.drain())
            await asyncio.sleep(0)
            with pytest.raises(TrivetError) as caught:
                await leader.broker.submit(Request(Enqueue("jobs", (Draft(),))))
            assert caught.value.code == "draining"
            assert await draining
            assert not leader.replica.is_leader
            await cluster.stop(leader.node_id)
            await cluster.enqueue("jobs")
        assert not cluster.deaths

    asyncio.run(scenario())


def test_a_single_node_needs_nobody_and_survives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 1) as cluster:
            await cluster.enqueue("jobs")
            node = await cluster.leader()
            assert node.quorum_critical() and node.cluster()["quorum"] == {"size": 1, "have": 1}
            assert await node.drain()
            await cluster.stop("n1")
            await cluster.start("n1")
            assert ready(await cluster.leader(), "jobs") == 1
        assert not cluster.deaths

    asyncio.run(scenario())


def test_delays_end_in_the_grace_and_leases_after_it(tmp_path: Path) -> None:
    """R1: no lease is expired in the first five seconds of an office; what is merely delayed does not wait."""

    async def scenario() -> None:
        async with Cluster(tmp_path, 1) as cluster:
            node = await cluster.leader()
            submit = node.broker.submit
            await submit(Request(PutQueue("jobs", QueueConfig(lease_ms=200))))
            await submit(Request(Enqueue("jobs", (Draft(),))))
            granted = await submit(Request(Lease(("jobs",), "c")))
            assert isinstance(granted.answer.reply, Leased) and len(granted.answer.reply.grants) == 1
            await submit(Request(Enqueue("jobs", (Draft(delay_ms=100),))))
            await until(lambda: ready(node, "jobs") == 1, 1.0)
            assert not node.duties.grace_over(node.clock.monotonic())
            found = views.queue(node.machine, "jobs")
            assert found is not None and found["leased"] == 1
            started = node.clock.monotonic()
            await until(lambda: (views.queue(node.machine, "jobs") or {})["leased"] == 0)
            assert node.clock.monotonic() - started > 3
        assert not cluster.deaths

    asyncio.run(scenario())


def test_snapshots_are_taken_and_a_node_left_behind_gets_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3, **{"storage.snapshot_entries": 100}) as cluster:
            leader = await cluster.leader()
            behind = next(name for name in cluster.names if name != leader.node_id)
            await cluster.stop(behind)
            body = b'"' + b"x" * 20_000 + b'"'
            count = 0
            while leader.storage.base_index == 0:  # until the log below an older snapshot is gone
                await cluster.enqueue("jobs", body, leader)
                count += 1
                assert count < 5000
            await cluster.start(behind)
            await until(lambda: cluster.nodes[behind].replica.applied_index == leader.replica.applied_index)
            await cluster.settle()
            assert {ready(node, "jobs") for node in cluster.nodes.values()} == {count}
        assert not cluster.deaths

    asyncio.run(scenario())


def test_a_failure_inside_ends_the_node_and_the_others_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, 3) as cluster:
            leader = await cluster.leader()

            def broken(*_: object) -> None:
                raise RuntimeError("a broken invariant")

            leader.applier.start = broken  # type: ignore[method-assign]
            with pytest.raises(TimeoutError):  # the process would be gone: nobody answers
                async with asyncio.timeout(0.5):
                    await cluster.enqueue("jobs", node=leader)
            assert [(name, reason) for name, reason, _ in cluster.deaths] == [(leader.node_id, "consensus")]
            assert not leader.driver.running
            await cluster.stop(leader.node_id)
            assert (await cluster.leader()).node_id != leader.node_id
            await cluster.enqueue("jobs")
            await cluster.settle()

    asyncio.run(scenario())
