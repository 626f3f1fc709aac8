"""RabbitMQ quorum queues (Debian's rabbitmq-server), group size 3, publisher confirms. Client: pika."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from bench.brokers.child import end, spawn, until
from bench.brokers.port import Unavailable
from trivet.cli.local import free_base_port

BIN = Path("/usr/lib/rabbitmq/bin")
COOKIE = "TRIVETBENCH"


class Rabbit:
    name = "rabbit"
    durability = "majority, each fdatasync of the shared log before the confirm (quorum queue)"

    def __init__(self) -> None:
        self._sessions: dict[int, asyncio.subprocess.Process] = {}
        self._epmd: asyncio.subprocess.Process | None = None
        self._directory = Path()
        self._base = 0

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._base + 6),
            "HOME": str(self._directory),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "LC_ALL": "C.UTF-8",
        }

    async def start(self, directory: Path) -> None:
        epmd = shutil.which("epmd")
        if not (BIN / "rabbitmq-server").exists() or epmd is None:
            raise Unavailable("needs Debian's rabbitmq-server (make bench installs it as root)")
        if importlib.util.find_spec("pika") is None:
            raise Unavailable("needs pika from PyPI (make bench installs it)")
        self._directory, self._base = directory, free_base_port(4)
        directory.mkdir(parents=True, exist_ok=True)
        cookie = directory / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        self._epmd = await spawn([epmd], directory / "epmd.log", self._environment)
        for node in (1, 2, 3):
            await self._spawn(node)
        await until(self._is_formed, "RabbitMQ did not form a cluster of 3", 120)

    def _name(self, node: int) -> str:
        return f"bench{node}@localhost"

    async def _spawn(self, node: int) -> None:
        home = self._directory / f"n{node}"
        home.mkdir(exist_ok=True)
        seeds = "".join(f"cluster_formation.classic_config.nodes.{n} = {self._name(n)}\n" for n in (1, 2, 3))
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {self.address(node)}\n"
            "cluster_formation.peer_discovery_backend = classic_config\n"
            f"{seeds}cluster_partition_handling = pause_minority\nloopback_users = none\nlog.file.level = warning\n"
        )
        (home / "plugins").write_text("[].")
        self._sessions[node] = await spawn(
            [str(BIN / "rabbitmq-server")],
            self._directory / f"n{node}.log",
            {
                **self._environment,
                "RABBITMQ_NODENAME": self._name(node),
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(self._base + node - 1),
                "RABBITMQ_DIST_PORT": str(self._base + node + 2),
                "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
                "RABBITMQ_LOG_BASE": str(home / "log"),
                "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            },
        )

    async def _control(self, program: str, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(BIN / program),
            "-n",
            self._name(1),
            *words,
            env={**self._environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return output.decode(errors="replace")

    async def _is_formed(self) -> bool:
        status = await self._control("rabbitmqctl", "--quiet", "cluster_status", "--formatter", "json")
        if not status.startswith("{"):
            return False
        return len(msgspec.json.decode(status)["running_nodes"]) == 3

    async def stop(self) -> None:
        for node in self._sessions:
            pid = self._beam(node)
            if pid is not None:
                await self.kill(node)
        for process in self._sessions.values():
            await end(process)
        if self._epmd is not None:
            await end(self._epmd)

    # --- through the client, in a thread: pika blocks ------------------------------------------------

    def _blocking(self, what: Any) -> Any:
        import pika

        host, port = self.address(1).split(":")
        connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port)))
        try:
            return what(connection.channel())
        finally:
            connection.close()

    async def prepare(self, queue: str) -> None:
        arguments = {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3}

        def declare(channel: Any) -> None:
            channel.queue_delete(queue)
            channel.queue_declare(queue, durable=True, arguments=arguments)

        await asyncio.to_thread(self._blocking, declare)

    async def leader(self, queue: str) -> int:
        output = await self._control(
            "rabbitmq-queues", "--quiet", "--formatter", "json", "quorum_status", queue
        )
        for replica in msgspec.json.decode(output):
            if replica.get("Raft State") == "leader":
                return int(replica["Node Name"].partition("@")[0].removeprefix("bench"))
        raise TimeoutError(f"{queue} has no leader")

    async def depth(self, queue: str) -> int:
        def count(channel: Any) -> int:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

        return int(await asyncio.to_thread(self._blocking, count))

    def _beam(self, node: int) -> int | None:
        """The Erlang machine in the session that `rabbitmq-server` (a shell script) began."""
        session = self._sessions[node].pid
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                head, _, tail = stat.read_text().rpartition(")")
            except OSError:
                continue  # it ended meanwhile
            if head.endswith("(beam.smp") and int(tail.split()[3]) == session:
                return int(stat.parent.name)
        return None

    def pid(self, node: int) -> int:
        pid = self._beam(node)
        assert pid is not None, f"n{node} does not run"
        return pid

    def address(self, node: int) -> str:
        return f"127.0.0.1:{self._base + node - 1}"

    async def kill(self, node: int) -> None:
        os.kill(self.pid(node), signal.SIGKILL)
        await self._sessions[node].wait()

    async def start_node(self, node: int) -> None:
        await self._spawn(node)
        await until(self._is_formed, f"n{node} is not back", 120)

    def data(self, node: int) -> Path:
        return self._directory / f"n{node}" / "mnesia"

    def driver(self) -> list[str]:
        return [sys.executable, "-m", "bench.drivers.pika"]
