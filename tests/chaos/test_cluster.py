"""Who is who in the cluster of a drill, on addresses of their own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from chaos.cluster import DrillCluster, pid_of

from tests.chaos.kit import ready
from trivet.cli.local import ClusterFailed


def test_words_for_nodes(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = DrillCluster(tmp_path, 3)
        try:
            assert [node.host for node in cluster.nodes] == ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
            assert await cluster.not_ready() == [f"n{n} is down (never started)" for n in (1, 2, 3)]
            await cluster.start()
            leader = await cluster.leader(60)
            await ready(cluster)
            assert await cluster.leader_id() == leader.id and await cluster.alive() == 3
            assert await cluster.resolve("leader") == [leader]
            followers = await cluster.followers()
            assert len(followers) == 2 and leader not in followers
            assert [(await cluster.resolve("follower", pick))[0] for pick in range(3)] == [
                *followers,
                followers[0],
            ]
            assert await cluster.resolve("majority", 1) == [leader, followers[1]]
            assert await cluster.resolve("minority", 4) == [cluster.nodes[1]]
            assert await cluster.resolve("all") == cluster.nodes
            assert await cluster.resolve("n2") == [cluster.node("n2")]
            with pytest.raises(ValueError, match="neither a word"):
                await cluster.resolve("n9")
            rest = await cluster.at_rest()
            assert set(rest) == {"n1", "n2", "n3"} and all(one["digest"] for one in rest.values())

            await cluster.kill_all(followers)
            missing = await cluster.not_ready()
            assert sum("is down (-9)" in one for one in missing) == 2
            with pytest.raises(ClusterFailed, match="is down"):
                pid_of(followers[0])
            async with asyncio.timeout(10):
                while await cluster.find_leader() is not None:  # noqa: ASYNC110 it steps down without a quorum
                    await asyncio.sleep(0.02)
            with pytest.raises(ClusterFailed, match="no leader"):
                await cluster.leader(0.0)
            await cluster.start_down()
            await ready(cluster)  # who is killed while Python starts has no handler for SIGTERM yet
            cluster.signal(leader, signal.SIGSTOP)
            assert await cluster.finish() == {"n1": 0, "n2": 0, "n3": 0}
        finally:
            await cluster.close()

    asyncio.run(scenario())
