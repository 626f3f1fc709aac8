"""The cluster of a drill: real `trivet serve` processes on a ground that can be taken from under them.

Node i (from 1) listens on 127.0.0.(10+i) and dials from there, so that a firewall can tell the directed
links apart. Where the plan needs it, each node has a file system of its own and a clock of its own.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from chaos.asking import Asker, Said, not_ready_because
from chaos.ground.clock import Clocks
from chaos.ground.disks import Disks
from chaos.ground.firewall import Firewall
from trivet.cli.local import ClusterFailed, LocalCluster, LocalNode, free_base_port

HARNESS_HOST = "127.0.0.2"  # where the harness asks from; the load's own connections come from 127.0.0.1
STOP_SECONDS = 20.0
DISK_MB = 4096  # the image is sparse: what is not written takes no space
# Small segments and snapshots, so that rolls, compactions and snapshots happen under every fault, and little
# disk is kept free of a drill's small file system.
SETTINGS = {
    "TRIVET__STORAGE__SEGMENT_BYTES": str(4 << 20),
    "TRIVET__STORAGE__SNAPSHOT_ENTRIES": "2000",
    "TRIVET__STORAGE__DISK_RESERVE_BYTES": str(48 << 20),
    "TRIVET__STORAGE__DISK_FLOOR_BYTES": str(16 << 20),
}


def host_of(number: int) -> str:
    """The address of node `number` (from 1)."""
    return f"127.0.0.{10 + number}"


class DrillCluster(LocalCluster):
    """`count` nodes (3 or 5) under `directory`. Raises `Unavailable` if a ground in `needs` cannot be had.

    `needs`: of `own_disks`, `nft`, `gcc` (a clock for each node); the other words need no ground.
    `rate`: messages a second that the load offers, for faults that offer more.
    """

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        *,
        needs: frozenset[str] = frozenset(),
        settings: dict[str, str] | None = None,
        rate: float = 100.0,
    ) -> None:
        hosts = [host_of(number) for number in range(1, count + 1)]
        base_port = free_base_port(count, hosts)
        super().__init__(directory, count, base_port, environment={**SETTINGS, **(settings or {})})
        self.disks: Disks | None = None
        self.firewall: Firewall | None = None
        self.clocks: Clocks | None = None
        self.rate = rate
        self._asker = Asker(HARNESS_HOST)
        for node, host in zip(self.nodes, hosts, strict=True):
            node.host = host
            node.data_dir = directory.absolute() / "data" / node.id
        try:
            self._lay_ground(needs)
        except BaseException:
            self._clear_ground()
            raise

    def _lay_ground(self, needs: frozenset[str]) -> None:
        if "own_disks" in needs:
            self.disks = Disks(self.directory / "disks", len(self.nodes), DISK_MB)
            for node in self.nodes:
                node.data_dir = self.disks.path(node.number).absolute()
        if "nft" in needs:
            ports = [port for node in self.nodes for port in (node.api_port, node.raft_port)]
            self.firewall = Firewall([node.host for node in self.nodes], ports)
        if "gcc" in needs:
            self.clocks = Clocks(self.directory / "clocks", len(self.nodes))
            for node in self.nodes:
                node.environment |= self.clocks.environment(node.number)

    def _clear_ground(self) -> None:
        for ground in (self.firewall, self.disks, self.clocks):
            if ground is not None:
                ground.close()
        self.firewall = self.disks = self.clocks = None

    async def close(self) -> None:
        """Kill what still runs and clear the ground. Idempotent."""
        for node in self.nodes:
            if node.is_running:
                await self.kill(node)
        await self._asker.close()
        self._clear_ground()

    # --- processes ------------------------------------------------------------------------------------

    @property
    def running(self) -> list[LocalNode]:
        return [node for node in self.nodes if node.is_running]

    async def start_down(self) -> None:
        """Start every node that is down."""
        for node in self.nodes:
            if not node.is_running:
                await self.start_node(node)

    async def kill_all(self, nodes: list[LocalNode]) -> None:
        """SIGKILL to all of them at once; returns when all are gone."""
        for node in nodes:
            self.signal(node, signal.SIGKILL)
        for node in nodes:
            await self.kill(node)

    # --- who is who -----------------------------------------------------------------------------------

    async def ask(self, node: LocalNode, path: str) -> Said:
        """(status, body) of a GET at this node; (0, {}) when no JSON object came back in time."""
        return await self._asker.get(node.api + path)

    async def post(self, node: LocalNode, path: str, body: dict[str, Any]) -> Said:
        """As `ask`; sent once."""
        return await self._asker.post(node.api + path, body)

    async def find_leader(self) -> LocalNode | None:
        """The node that says it leads and has heard from a quorum lately; None if there is none now."""
        running = self.running
        answers = await asyncio.gather(*(self.ask(node, "/leader") for node in running))
        leaders = [node for node, (status, _) in zip(running, answers, strict=True) if status == 200]
        return leaders[0] if len(leaders) == 1 else None

    async def leader(self, timeout_s: float = 15.0) -> LocalNode:
        """Waits for one. Raises `ClusterFailed`."""
        found: LocalNode = await self._until(self.find_leader, timeout_s, "no leader", down_is_failure=False)
        return found

    async def followers(self) -> list[LocalNode]:
        """The running nodes that do not lead. Raises `ClusterFailed` without a leader."""
        leader = await self.leader()
        return [node for node in self.running if node is not leader]

    async def resolve(self, target: str, pick: int = 0) -> list[LocalNode]:
        """The nodes that a word means now: `leader`, `follower`, `minority` (as many as may fail; `pick`
        turns it round the nodes), `majority` (with the leader), `all`, or a node's id. Raises
        `ClusterFailed` without a leader, `ValueError` for another word."""
        size = len(self.nodes)
        if target == "all":
            return list(self.nodes)
        if target == "minority":
            return [self.nodes[(pick + n) % size] for n in range((size - 1) // 2)]
        leader = await self.leader()
        others = [node for node in self.nodes if node is not leader]
        others = others[pick % len(others) :] + others[: pick % len(others)]
        if target == "leader":
            return [leader]
        if target == "follower":
            return others[:1]
        if target == "majority":
            return [leader, *others[: size // 2]]
        found = [node for node in self.nodes if node.id == target]
        if not found:
            raise ValueError(f"{target!r} is neither a word for nodes nor a node")
        return found

    # --- what the runner asks of every cluster (see external.py for somebody else's) --------------------

    @property
    def data(self) -> dict[str, Path]:
        """Node id → data directory."""
        return {node.id: node.data_dir for node in self.nodes}

    @property
    def mounts(self) -> dict[str, Path]:
        """Node id → the top of its own file system, where nodes have one."""
        return {node.id: self.disks.mount(node.number) for node in self.nodes} if self.disks else {}

    @property
    def names(self) -> dict[str, str]:
        """Node id → base URL."""
        return {node.id: node.api for node in self.nodes}

    @property
    def harness_host(self) -> str | None:
        return HARNESS_HOST

    async def leader_id(self) -> str | None:
        leader = await self.find_leader()
        return leader.id if leader is not None else None

    def pids(self) -> list[int]:
        return [pid_of(node) for node in self.nodes if node.is_running]

    async def alive(self) -> int:
        """How many nodes answer `/livez`."""
        answers = await asyncio.gather(*(self.ask(node, "/livez") for node in self.nodes))
        return sum(status == 200 for status, _ in answers)

    async def not_ready(self) -> list[str]:
        """Why each node that is not ready is not: down with its exit code, or what `/readyz` says."""
        answers = await asyncio.gather(*(self.ask(node, "/readyz?verbose") for node in self.nodes))
        missing = []
        for node, (status, body) in zip(self.nodes, answers, strict=True):
            if not node.is_running:
                code = node.process.returncode if node.process is not None else "never started"
                missing.append(f"{node.id} is down ({code})")
            elif status != 200:
                missing.append(f"{node.id} {not_ready_because(status, body)}")
        return missing

    async def at_rest(self) -> dict[str, dict[str, Any]]:
        """`{"n1": {"index", "digest"}}` of every node that answers."""
        answers = await asyncio.gather(
            *(self.ask(node, "/v1/cluster/digest?consistency=local") for node in self.nodes)
        )
        return {
            node.id: {"index": body["index"], "digest": body["digest"]}
            for node, (status, body) in zip(self.nodes, answers, strict=True)
            if status == 200
        }

    async def finish(self) -> dict[str, int]:
        """SIGTERM to all; exit codes by node."""
        for node in self.nodes:
            self.signal(node, signal.SIGCONT)
        return await self.stop(STOP_SECONDS)


def pid_of(node: LocalNode) -> int:
    """Of its process. Raises `ClusterFailed` if it is down."""
    if node.pid is None or not node.is_running:
        raise ClusterFailed(f"{node.id} is down")
    return node.pid
