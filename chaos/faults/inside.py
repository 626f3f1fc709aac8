"""Killed, or stopped, inside one system call of one node: between writing and syncing, between syncing and
telling, between committing and answering.

strace attaches to the running node and sends the signal when the node enters its n-th call of a kind. With
SIGKILL the call itself does not happen; SIGSTOP holds the thread when the call is done, before it returns.
The evidence is the node's own end by SIGKILL together with strace's line for the call (see `ground/tracing.py`
for what strace does not tell).

The node is Python on uvloop: whatever it sends, to peers or clients, it sends with `write`. Which of the two
it is, only the socket tells, so strace is given the sockets it is about (`-P socket:[inode]`).
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.cluster import HARNESS_HOST, DrillCluster, pid_of
from chaos.faults.port import Fault, NotFired
from chaos.faults.processes import continue_all, pick, state_of
from chaos.ground.tools import Unavailable
from chaos.ground.tracing import traced
from trivet.cli.local import LocalNode

FIRE_SECONDS = 30.0
POLL_SECONDS = 0.01
SNAPSHOT_EVERY_SECONDS = 0.5
LINE_CHARACTERS = 300
ESTABLISHED = "01"
SNAPSHOT_CALLS = "rename,renameat,renameat2,unlink,unlinkat"

Paths = Callable[[DrillCluster, LocalNode], list[str]]


# --- what the call is about ----------------------------------------------------------------------------


def any_file(cluster: DrillCluster, node: LocalNode) -> list[str]:
    return []


def to_clients(cluster: DrillCluster, node: LocalNode) -> list[str]:
    """Connections of the load; the harness asks its own questions from another address."""
    others = {HARNESS_HOST, *(one.host for one in cluster.nodes)}
    return [path for port, host, path in _sockets(node) if port == node.api_port and host not in others]


def to_peers(cluster: DrillCluster, node: LocalNode) -> list[str]:
    peers = {one.host for one in cluster.nodes if one is not node}
    return [path for _, host, path in _sockets(node) if host in peers]


def to_itself(cluster: DrillCluster, node: LocalNode) -> list[str]:
    """How the thread that syncs wakes the event loop: the batch is durable and nobody knows it yet."""
    return ["anon_inode:[eventfd]"]


def _sockets(node: LocalNode) -> Iterator[tuple[int, str, str]]:
    """(own port, the other's address, what strace calls it) of each connection of the node."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = fields = line.split()
        host, port = _address(local)
        if state == ESTABLISHED and host == node.host and fields[9] != "0":
            yield port, _address(remote)[0], f"socket:[{fields[9]}]"


def _address(text: str) -> tuple[str, int]:
    """`0B00007F:1F90` of /proc/net/tcp: the address in the byte order of the machine."""
    host, port = text.split(":")
    packed = int(host, 16).to_bytes(4, "little" if socket.htons(1) != 1 else "big")
    return socket.inet_ntoa(packed), int(port, 16)


# --- the fault -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inside:
    """SIGKILL (`stop`: SIGSTOP) at the n-th of `calls` on `paths` of the node that is `target`."""

    name: str
    target: str
    calls: str
    paths: Paths
    last: int  # n is drawn from 1 … last
    stop: bool = False
    snapshot: bool = False  # the calls belong to a snapshot: ask for one when strace is there
    needs: frozenset[str] = frozenset({"strace"})

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        hold = (2.0, 5.0) if self.stop else (0.0, 1.5)
        return {
            "target": self.target,
            "pick": pick(rng),
            "when": rng.randint(1, self.last),
            "hold_s": round(rng.uniform(*hold), 2),
        }

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        (node,) = await cluster.resolve(parameters["target"], parameters["pick"])
        pid = pid_of(node)
        paths = self.paths(cluster, node)
        if self.paths is not any_file and not paths:
            raise NotFired(f"{node.id} has no such connection now")
        try:
            async with traced(pid, self._options(parameters["when"], paths)) as log:
                if self.snapshot:
                    await _ask_for_snapshots(cluster, node)
                at = await (_stopped(log) if self.stop else _ended(node))
                line = _call_in(log, self.calls)
        except Unavailable as why:
            raise NotFired(str(why)) from why
        if at is None or line is None:
            raise NotFired(f"{node.id} did not come to {self.calls} number {parameters['when']}")
        evidence: dict[str, Any] = {"t": at, "nodes": [node.id], "pid": pid, "strace": line}
        if self.stop:
            if state_of(pid) != "T":
                raise NotFired(f"{node.id} is not stopped: state {state_of(pid)}")
            return {**evidence, "state": "T"}
        assert node.process is not None
        if node.process.returncode != -signal.SIGKILL:
            raise NotFired(f"{node.id} ended with {node.process.returncode}, not by SIGKILL")
        return {**evidence, "killed": {node.id: {"pid": pid, "ended": -signal.SIGKILL}}}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        continue_all(cluster)
        await cluster.start_down()

    def _options(self, when: int, paths: list[str]) -> list[str]:
        word = "STOP" if self.stop else "KILL"
        chosen = [part for path in paths for part in ("-P", path)]
        return [*chosen, "-e", f"trace={self.calls}", "-e", f"inject={self.calls}:signal={word}:when={when}"]


async def _ask_for_snapshots(cluster: DrillCluster, node: LocalNode) -> None:
    """One after the other until the node dies of one: a first snapshot has nothing to delete yet."""
    deadline = time.monotonic() + FIRE_SECONDS
    while node.is_running and time.monotonic() < deadline:
        status, answer = await cluster.post(node, "/v1/cluster/snapshot", {})
        if status not in (0, 202):  # 0: it died of it before it could answer
            raise NotFired(f"{node.id} takes no snapshot: {status} {answer}")
        await asyncio.sleep(SNAPSHOT_EVERY_SECONDS)


# --- what was seen -------------------------------------------------------------------------------------


async def _ended(node: LocalNode) -> int | None:
    """When the node's process ended (monotonic ns); None if it still runs after a while."""
    assert node.process is not None
    try:
        async with asyncio.timeout(FIRE_SECONDS):
            await node.process.wait()
    except TimeoutError:
        return None
    return time.monotonic_ns()


async def _stopped(log: Path) -> int | None:
    """When strace saw the stop. (The kernel's word is no use here: every traced call stops its thread.)"""
    deadline = time.monotonic() + FIRE_SECONDS
    while time.monotonic() < deadline:
        if b"stopped by SIGSTOP" in log.read_bytes():
            return time.monotonic_ns()
        await asyncio.sleep(POLL_SECONDS)
    return None


def _call_in(log: Path, calls: str) -> str | None:
    """strace's line of the call that never returned; of the last one, if all did (a stop comes after)."""
    began = re.compile(rf"^(\d+) +(?:{calls.replace(',', '|')})\(")
    resumed = re.compile(r"^(\d+) +<\.\.\. ")
    under_way: dict[str, str] = {}
    last = None
    for line in log.read_text(errors="replace").splitlines():
        start, again = began.match(line), resumed.match(line)
        if start:
            last = under_way[start[1]] = line
        if (start or again) and not line.endswith(("= ?", "<unfinished ...>")):
            under_way.pop((start or again)[1], None)  # type: ignore[index]
    found = next(reversed(under_way.values()), last)
    return found and found[:LINE_CHARACTERS]


FAULTS: tuple[Fault, ...] = (
    Inside("kill_leader_at_log_write", "leader", "pwrite64", any_file, 30),
    Inside("kill_leader_at_fdatasync", "leader", "fdatasync", any_file, 30),
    Inside("kill_follower_at_fdatasync", "follower", "fdatasync", any_file, 30),
    Inside("kill_leader_after_sync", "leader", "write", to_itself, 30),
    Inside("kill_leader_at_append", "leader", "write", to_peers, 60),
    Inside("kill_follower_at_reply", "follower", "write", to_peers, 60),
    Inside("kill_leader_at_answer", "leader", "write", to_clients, 40),
    Inside("kill_leader_in_snapshot", "leader", SNAPSHOT_CALLS, any_file, 3, snapshot=True),
    Inside("pause_leader_in_commit", "leader", "fdatasync", any_file, 30, stop=True),
)
