"""A cluster of real `trivet serve` processes on loopback, for drills, benches and acceptance tests.

Nodes are started, killed and restarted one by one; a node's data directory may lie anywhere, so that a
drill can put it on a file system of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet.cli.local import free_base_port

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child: a node never outlives the drill that started it."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class NodeProcess:
    id: str
    api_port: int
    raft_port: int
    data_dir: Path
    log: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    exits: list[int] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.id} is not running"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        assert not self.running, f"{self.id} runs already"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trivet", "serve"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=_die_with_parent,
            )
        self.starts += 1

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.running:
            self.signal(signal.SIGKILL)
        self._reap(10)

    def stop(self, timeout_s: float = 40) -> int:
        """SIGTERM: the node drains; answers its exit code."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self._reap(timeout_s)

    def _reap(self, timeout_s: float) -> int:
        if self.process is None:
            return self.exits[-1] if self.exits else 0
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(10)
        self.process = None
        self.exits.append(code)
        return code

    def get(self, path: str, timeout_s: float = 1.0) -> dict[str, Any] | None:
        """A GET at this node; None when it does not answer with JSON."""
        try:
            with urllib.request.urlopen(self.api + path, timeout=timeout_s) as answer:
                return dict(json.loads(answer.read()))
        except (OSError, urllib.error.HTTPError, ValueError):
            return None

    def last_lines(self, count: int = 15) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-count:])


class Cluster:
    """Use as a context manager: leaving it kills what still runs."""

    def __init__(
        self,
        root: Path,
        size: int = 3,
        data_dirs: list[Path] | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        """`settings`: further `TRIVET__…` environment for each node."""
        root.mkdir(parents=True, exist_ok=True)
        base = free_base_port(size)
        ports = [base + i for i in range(2 * size)]
        ids = [f"n{i + 1}" for i in range(size)]
        members = ",".join(f"{node}=127.0.0.1:{ports[2 * i + 1]}" for i, node in enumerate(ids))
        self.nodes: list[NodeProcess] = []
        for i, node in enumerate(ids):
            data_dir = data_dirs[i] if data_dirs else root / node
            env = {key: value for key, value in os.environ.items() if not key.startswith("TRIVET")}
            env |= {
                "TRIVET__NODE__ID": node,
                "TRIVET__NODE__DATA_DIR": str(data_dir),
                "TRIVET__CLUSTER__MEMBERS": members,
                "TRIVET__CLUSTER__BOOTSTRAP": "true",
                "TRIVET__API__LISTEN": f"127.0.0.1:{ports[2 * i]}",
                **(settings or {}),
            }
            self.nodes.append(
                NodeProcess(node, ports[2 * i], ports[2 * i + 1], data_dir, root / f"{node}.log", env)
            )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    @property
    def apis(self) -> list[str]:
        return [node.api for node in self.nodes]

    def start_all(self) -> None:
        for node in self.nodes:
            if not node.running:
                node.start()

    def kill_all(self) -> None:
        for node in self.nodes:
            if node.running:
                node.signal(signal.SIGKILL)
        for node in self.nodes:
            node.kill()

    def running(self) -> Iterator[NodeProcess]:
        return (node for node in self.nodes if node.running)

    def find_leader(self) -> NodeProcess | None:
        """The node whose `/leader` answers 200: it has a live quorum now."""
        for node in self.running():
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                with urllib.request.urlopen(node.api + "/leader", timeout=1) as answer:
                    if answer.status == 200:
                        return node
        return None

    def wait_leader(self, timeout_s: float = 20) -> NodeProcess:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            leader = self.find_leader()
            if leader is not None:
                return leader
            time.sleep(0.02)
        logs = "\n".join(f"--- {node.id} (exits {node.exits})\n{node.last_lines()}" for node in self.nodes)
        raise TimeoutError(f"no leader within {timeout_s} s\n{logs}")

    def wait_ready(self, timeout_s: float = 30) -> None:
        """Until every running node answers `/readyz` with 200."""
        deadline = time.monotonic() + timeout_s
        waiting = list(self.running())
        while waiting and time.monotonic() < deadline:
            waiting = [node for node in waiting if not _answers_200(node.api + "/readyz")]
            time.sleep(0.05)
        if waiting:
            logs = "\n".join(f"--- {node.id}\n{node.last_lines()}" for node in waiting)
            raise TimeoutError(f"not ready within {timeout_s} s: {[node.id for node in waiting]}\n{logs}")


def _answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
