"""`trivet dev` as a black box: its line, its nodes, kills, restarts, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.acceptance.conftest import Start, is_alive
from trivet.client import Client, RetryPolicy


def wait_until(held: Callable[[], bool], seconds: float, what: str) -> None:
    end_s = time.monotonic() + seconds
    while not held():
        assert time.monotonic() < end_s, what
        time.sleep(0.02)


def leader_of(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """The one whose `/leader` says 200."""
    found: list[dict[str, Any]] = []

    def one_leads() -> bool:
        found[:] = [
            node for node in nodes if is_alive(node["pid"]) and _status(node["api"] + "/leader") == 200
        ]
        return len(found) == 1

    wait_until(one_leads, 15, "one leader")
    return found[0]


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except OSError as error:
        return int(getattr(error, "code", 0))


async def fill(client: Client, count: int, first: int = 0) -> list[str]:
    answer = await client.enqueue_many("mail", [{"body": n} for n in range(first, first + count)])
    return [one["id"] for one in answer["messages"]]


async def drain(client: Client) -> list[int]:
    """Lease and ack until the queue is empty; the bodies in the order they came."""
    bodies: list[int] = []
    while leases := await client.lease("mail", "drain", max_messages=100):
        await client.ack_many(leases)
        bodies += [lease.body for lease in leases]
    return bodies


def test_the_line_the_kill_of_the_leader_and_the_end(dev: Start) -> None:
    run = dev(nodes=3)
    assert [node["id"] for node in run.nodes] == ["n1", "n2", "n3"]
    for at, node in enumerate(run.nodes):
        assert node["api"] == f"http://127.0.0.1:{run.base_port + 2 * at}"
        assert node["raft"] == f"127.0.0.1:{run.base_port + 2 * at + 1}"
        assert is_alive(node["pid"])

    async def before_and_after() -> list[int]:
        async with Client(run.apis, retry=RetryPolicy(total_s=20)) as client:
            await fill(client, 50)
            leader = leader_of(run.nodes)
            os.kill(leader["pid"], signal.SIGKILL)
            await fill(client, 50, first=50)
            wait_until(lambda: not is_alive(leader["pid"]), 5, "the killed node is gone")
            assert leader_of(run.nodes)["id"] != leader["id"]
            return await drain(client)

    assert asyncio.run(before_and_after()) == list(range(100))
    assert run.process.poll() is None, "dev lives on"
    assert sum(is_alive(node["pid"]) for node in run.nodes) == 2, "and does not start the killed node again"
    assert "Start it again with" in run.errors.read_text()
    assert run.end(signal.SIGTERM) == 0
    assert not any(is_alive(node["pid"]) for node in run.nodes)
    assert run.process.stdout is not None and run.process.stdout.read() == b"", "exactly one line"


def test_the_same_directory_starts_again_with_everything_in_it(dev: Start) -> None:
    first = dev(nodes=3)

    async def put() -> None:
        async with Client(first.apis) as client:
            await fill(client, 20)

    asyncio.run(put())
    for node in first.nodes:  # all at once, without a word
        os.kill(node["pid"], signal.SIGKILL)
    assert first.end(signal.SIGINT) == 0
    second = dev(nodes=3, data=first.data, base_port=first.base_port)

    async def take() -> list[int]:
        async with Client(second.apis) as client:
            return await drain(client)

    assert asyncio.run(take()) == list(range(20))
    assert second.end() == 0


def test_nodes_end_with_a_killed_dev(dev: Start) -> None:
    run = dev(nodes=1)
    run.process.kill()
    run.process.wait()
    wait_until(lambda: not is_alive(run.nodes[0]["pid"]), 5, "PR_SET_PDEATHSIG")


def test_a_directory_of_another_size_is_refused(dev: Start, trivet: Any) -> None:
    run = dev(nodes=1)
    run.end()
    refused = trivet("dev", "--nodes", "3", "--data", str(run.data))
    assert refused.returncode == 1
    assert "holds a cluster of 1 nodes" in refused.stderr and "--nodes 1" in refused.stderr
