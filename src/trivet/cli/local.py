"""A cluster of real processes on this machine: what `trivet dev`, the demo, the drills and the bench run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trivet.client import Client, RetryPolicy
from trivet.errors import TrivetError

LOG_TAIL_BYTES = 3000


class ClusterFailed(Exception):
    """The nodes did not come up, or the directory does not fit. The text says what to do."""


@dataclass
class LocalNode:
    """One node: where it is, and its process while it runs.

    `environment` is added to that of its process; host, directory and environment may be changed until
    the node is started.
    """

    id: str
    api_port: int
    raft_port: int
    config: Path
    log: Path
    data_dir: Path
    host: str = "127.0.0.1"
    environment: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    @property
    def number(self) -> int:
        """From 1."""
        return int(self.id[1:])

    @property
    def api(self) -> str:
        return f"http://{self.host}:{self.api_port}"

    @property
    def raft(self) -> str:
        return f"{self.host}:{self.raft_port}"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "api": self.api, "raft": self.raft, "pid": self.pid}


def free_base_port(count: int, hosts: Iterable[str] = ("127.0.0.1",)) -> int:
    """A base port whose `2 * count` ports are free now on all `hosts`. Raises `ClusterFailed`.

    Below the kernel's ephemeral range (from 32768): a port of a node that is down could else become the
    source port of somebody's connection, and the node could not come back.
    """
    picker = random.SystemRandom()
    places = list(hosts)
    for _ in range(200):
        base = picker.randrange(10_000, 32_000, 20)
        if all(_is_free(host, base + n) for host in places for n in range(2 * count)):
            return base
    raise ClusterFailed(f"no {2 * count} free ports in a row")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def toml_of(sections: dict[str, dict[str, Any]]) -> str:
    """TOML of flat sections of text, numbers, booleans and lists of text."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        # A JSON scalar or list of texts is a TOML one, too.
        lines += [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]
        lines.append("")
    return "\n".join(lines)


class LocalCluster:
    """`count` nodes (1, 3 or 5) under `directory`; node i (from 1) has API port base + 2(i−1) and Raft
    port base + 2(i−1) + 1. The same directory may be started again. Nodes end with this process.

    `environment` is added to the nodes' (settings: `TRIVET__SECTION__KEY`); `command` is what runs a node.
    """

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        base_port: int = 7480,
        *,
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "trivet"),
    ) -> None:
        self.directory = directory
        self._environment = environment or {}
        self._command = command
        self.nodes = [
            LocalNode(
                f"n{i + 1}",
                base_port + 2 * i,
                base_port + 2 * i + 1,
                directory / f"n{i + 1}.toml",
                directory / f"n{i + 1}.log",
                directory.absolute() / f"n{i + 1}",
            )
            for i in range(count)
        ]

    @property
    def apis(self) -> list[str]:
        return [node.api for node in self.nodes]

    def node(self, node_id: str) -> LocalNode:
        return next(one for one in self.nodes if one.id == node_id)

    def prepare(self) -> None:
        """Write the nodes' configurations. Raises `ClusterFailed` if the directory holds another cluster."""
        self.directory.mkdir(parents=True, exist_ok=True)
        there = sorted(path.stem for path in self.directory.glob("n[0-9].toml"))
        if there and there != [node.id for node in self.nodes]:
            raise ClusterFailed(
                f"{self.directory} holds a cluster of {len(there)} nodes; "
                f"start it with --nodes {len(there)}, or take another --data directory"
            )
        members = [f"{node.id}={node.raft}" for node in self.nodes] if len(self.nodes) > 1 else []
        for node in self.nodes:
            sections: dict[str, dict[str, Any]] = {
                "node": {"id": node.id, "data_dir": str(node.data_dir)},
                "cluster": {"members": members, "bootstrap": True},
                "api": {"listen": f"{node.host}:{node.api_port}"},
                "log": {"format": "json"},
            }
            node.config.write_text(toml_of(sections), encoding="utf-8")

    # --- processes ----------------------------------------------------------------------------------

    def serve_command(self, node: LocalNode) -> list[str]:
        return [*self._command, "serve", "--config", str(node.config)]

    async def start(self) -> None:
        self.prepare()
        for node in self.nodes:
            await self.start_node(node)

    async def start_node(self, node: LocalNode) -> None:
        """A new process for the node, its output added to its log file."""
        if node.is_running:
            raise RuntimeError(f"{node.id} runs already")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET__")}
        with node.log.open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *self.serve_command(node),
                "--parent",
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, **self._environment, **node.environment},
                start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
            )

    async def kill(self, node: LocalNode, signal_number: int = signal.SIGKILL) -> int:
        """Send the signal and wait for the process to end; its return code."""
        assert node.process is not None
        self.signal(node, signal_number)
        return await node.process.wait()

    async def bounce_leader(self) -> LocalNode:
        """Kill the leader with SIGKILL, wait until another node leads, start it again and wait until it is ready."""
        leader = self.node(await self.wait_for_leader())
        await self.kill(leader)
        if len(self.nodes) > 1:
            await self.wait_for_leader()
        await self.start_node(leader)
        await self.wait_ready(leader)
        return leader

    def signal(self, node: LocalNode, number: int) -> None:
        """Send it, unless the process has ended.

        Not by `send_signal`: that looks first whether the process has ended, and would take the exit code
        away from the one who waits for it."""
        if node.is_running and node.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, number)

    async def stop(self, grace_s: float = 8.0) -> dict[str, int]:
        """SIGTERM to all, SIGKILL to who still runs after `grace_s`. Return codes by node."""
        running = [node for node in self.nodes if node.is_running]
        for node in running:
            self.signal(node, signal.SIGTERM)
        codes: dict[str, int] = {}
        try:
            async with asyncio.timeout(grace_s):
                for node in running:
                    assert node.process is not None
                    codes[node.id] = await node.process.wait()
        except TimeoutError:
            pass  # handled below: who still runs is killed
        finally:
            for node in running:
                if node.is_running:
                    codes[node.id] = await self.kill(node)
        return codes

    # --- waiting ------------------------------------------------------------------------------------

    async def wait_for_leader(self, timeout_s: float = 30.0) -> str:
        """Until every running node names the same leader; its id. Raises `ClusterFailed`."""

        async def agreed() -> str | None:
            views = [await _ask(node, "/v1/cluster") for node in self.nodes if node.is_running]
            leaders = {view.get("leader") if isinstance(view, dict) else None for view in views}
            if len(leaders) != 1 or not all(leaders):
                return None
            leader = str(leaders.pop())
            found = next((node for node in self.nodes if leader in (node.id, node.api)), None)
            return found.id if found and await _ask(found, "/leader") is not None else None

        return str(await self._until(agreed, timeout_s, "no leader"))

    async def wait_ready(self, node: LocalNode, timeout_s: float = 30.0) -> None:
        """Until the node knows a leader and is caught up. Raises `ClusterFailed`."""

        async def ready() -> Any:
            return await _ask(node, "/readyz")

        await self._until(ready, timeout_s, f"{node.id} is not ready")

    async def wait_all_ready(self, timeout_s: float = 30.0) -> str:
        """Until every node follows the same leader and is caught up; the leader's id. Raises `ClusterFailed`."""
        leader = await self.wait_for_leader(timeout_s)
        for node in self.nodes:
            await self.wait_ready(node, timeout_s)
        return leader

    async def _until(
        self,
        found: Callable[[], Awaitable[Any]],
        timeout_s: float,
        missing: str,
        *,
        down_is_failure: bool = True,
    ) -> Any:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while True:
            value = await found()
            if value is not None:
                return value
            ended = [node for node in self.nodes if node.process and node.process.returncode is not None]
            if down_is_failure and len(ended) * 2 > len(self.nodes):
                raise ClusterFailed(f"{missing}: " + self._obituary(ended[0]))
            if loop.time() >= end_s:
                raise ClusterFailed(f"{missing} after {timeout_s:g} s\n" + self._tails())
            await asyncio.sleep(0.03)

    def _obituary(self, node: LocalNode) -> str:
        assert node.process is not None
        return f"{node.id} ended with {node.process.returncode}\n{_tail(node.log)}"

    def _tails(self) -> str:
        return "\n".join(f"--- {node.log}\n{_tail(node.log)}" for node in self.nodes)


async def _ask(node: LocalNode, path: str) -> Any:
    """What this node answers to a GET, once, with 200 (True for an empty body); None for anything else."""
    async with Client([node.api], retry=RetryPolicy(total_s=0, attempt_s=2)) as client:
        try:
            return (await client.session.call("GET", path)).data or True
        except TrivetError:
            return None


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace")
