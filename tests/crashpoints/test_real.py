"""The same with real processes: the leader is killed by strace as it enters its n-th fdatasync, rename, unlink or send
of an ack with an effect; the node comes back, the SDK repeats, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy
from trivet.errors import TrivetError

FDATASYNC = "fdatasync"
SEND = "write,writev,sendto,sendmsg"  # on sockets only
RENAME = "rename,renameat,renameat2"
UNLINK = "unlink,unlinkat"
POINTS = {
    "fdatasync": [(FDATASYNC, 1), (FDATASYNC, 2), (FDATASYNC, 3)],
    "send": [(SEND, 1), (SEND, 5), (SEND, 9)],
    "snapshot": [(RENAME, 1), (UNLINK, 1)],
}
FIRE_SECONDS = 20.0
PATIENT = RetryPolicy(total_s=45)


class Tracer:
    """strace on one process: SIGKILL as it enters its n-th of `calls`. (Only plain `-f` delivers signals.)"""

    def __init__(self, node: LocalNode, calls: str, n: int, log: Path) -> None:
        assert node.pid is not None
        sockets = _sockets(node.pid) if calls == SEND else []
        self.words = [
            "strace", "-f", "-yy", "-o", str(log), "-p", str(node.pid),
            *(part for path in sockets for part in ("-P", path)),
            "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={n}",
        ]  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def attach(self) -> None:
        """Returns when strace holds the process."""
        self.process = await asyncio.create_subprocess_exec(
            *self.words, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert self.process.stderr is not None
        said = await asyncio.wait_for(self.process.stderr.readline(), FIRE_SECONDS)
        assert b"attached" in said, said

    async def end(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        await self.process.communicate()


def _sockets(pid: int) -> list[str]:
    names = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return sorted(name for name in names if name.startswith("socket:"))


async def work(client: Client, number: int, sink: list[int], armed: Callable[[], Awaitable[None]]) -> str:
    """Enqueue, then, struck: lease, effect, ack. Answers the message's id."""
    message = await client.enqueue("work", {"n": number}, idempotency_key=f"k{number}")
    await armed()
    (lease,) = await client.lease("work", "w", lease_ms=120_000)
    assert lease.id == message["id"]
    async with client.effect(f"charge-{number}", lease=lease, with_ack=True) as effect:
        assert not effect.done and not effect.uncertain
        sink.append(number)
        effect.result = number
    answer = await client.ack(lease)
    assert answer["status"] == "acked"
    return str(message["id"])


async def until_dead(client: Client, node: LocalNode, snapshots: bool) -> None:
    """What is not reached inside the ack comes soon after it: more writes, heartbeats, snapshots."""
    assert node.process is not None
    async with asyncio.timeout(FIRE_SECONDS):
        while node.process.returncode is None:
            await client.enqueue("other", "more")
            if snapshots:
                async with Client([node.api], retry=RetryPolicy(total_s=0, attempt_s=2)) as direct:
                    try:
                        await direct.take_snapshot()
                    except TrivetError:
                        continue  # it died of it before it could answer
            await asyncio.sleep(0.02)


async def ask(node: LocalNode, question: Callable[..., Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """This node itself."""
    async with Client([node.api], retry=PATIENT) as direct:
        return await question(direct)


async def judge(cluster: LocalCluster, client: Client, done: dict[int, str], sink: list[int]) -> None:
    """Each message done at its first attempt and each effect committed once, on every node; equal digests."""
    assert sorted(sink) == sorted(done), "each effect ran once"
    for number in done:
        state = await client.effect_state(f"charge-{number}")
        assert (state["state"], state["result"]) == ("done", number), state
    counts = await client.queue("work")
    assert (counts["leased"], counts["ready"], counts["dead"]) == (0, 0, 0), counts
    told: list[dict[str, Any]] = []
    async with asyncio.timeout(FIRE_SECONDS):
        while len({each["index"] for each in told}) != 1:
            told = [await ask(node, lambda direct: direct.digest()) for node in cluster.nodes]
    assert len({each["digest"] for each in told}) == 1, told
    for node in cluster.nodes:
        for identity in done.values():
            shown = await ask(node, lambda direct, identity=identity: direct.message(identity, local=True))
            assert (shown["state"], shown["attempt"]) == ("done", 1), (node.id, shown)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to kill inside a system call")
@pytest.mark.parametrize("points", POINTS.values(), ids=POINTS)
def test_the_leader_is_killed_inside_an_ack(points: list[tuple[str, int]], tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, 3, free_base_port(3))
    sink: list[int] = []
    done: dict[int, str] = {}

    async def strike(client: Client, number: int, calls: str, n: int) -> None:
        leader = cluster.node(await cluster.wait_for_leader())
        tracer = Tracer(leader, calls, n, tmp_path / f"trace-{number}")
        try:
            done[number] = await work(client, number, sink, tracer.attach)
            await until_dead(client, leader, calls in (RENAME, UNLINK))
        finally:
            await tracer.end()
        assert leader.process is not None and leader.process.returncode == -signal.SIGKILL
        await cluster.start_node(leader)
        await cluster.wait_ready(leader)

    async def run() -> None:
        await cluster.start()
        try:
            await cluster.wait_for_leader()
            async with Client(cluster.apis, retry=PATIENT) as client:
                await client.put_queue("work", retention_ms=3_600_000)
                await client.put_queue("other")
                for number, (calls, n) in enumerate(points):
                    await strike(client, number, calls, n)
                await judge(cluster, client, done, sink)
                if RENAME not in dict(points):  # a snapshot is written beside the acks
                    assert client.stats.unknown_attempts > 0
        finally:
            await cluster.stop()

    asyncio.run(run())
    assert len(done) == len(points)
