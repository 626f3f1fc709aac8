"""One message at a time with a confirm, and a new connection at once when one breaks: for failover beside the others."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

PATIENCE_S = 1.0  # a publish without a confirm for so long is given up and repeated
PAUSE_S = 0.02


class Probe(Protocol):
    """`attempts`: counted since it was made."""

    @property
    def attempts(self) -> int: ...

    async def write(self, number: int) -> bool:
        """One message, repeated until it is confirmed; False where that failed for good."""
        ...


class NatsProbe:
    """nats-py; it reconnects by itself, to the next server at once."""

    def __init__(self, queue: str, addresses: list[str]) -> None:
        self.attempts = 0
        self._subject = f"{queue}.in"
        self._servers = [f"nats://{address}" for address in addresses]
        self._client: Any = None

    async def write(self, number: int) -> bool:
        import nats
        from nats.errors import Error

        async def silent(_: Exception) -> None:
            """What fails is raised by the publish."""

        while True:
            self.attempts += 1
            try:
                if self._client is None:
                    self._client = await nats.connect(
                        self._servers,
                        dont_randomize=True,
                        reconnect_time_wait=0.05,
                        max_reconnect_attempts=-1,
                        connect_timeout=1,
                        ping_interval=1,
                        max_outstanding_pings=2,
                        error_cb=silent,
                    )
                stream = self._client.jetstream(timeout=PATIENCE_S)
                await stream.publish(self._subject, b"%015d" % number + bytes(240), timeout=PATIENCE_S)
            except (Error, OSError, TimeoutError):
                await asyncio.sleep(PAUSE_S)
            else:
                return True

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class RabbitProbe:
    """pika's blocking connection with publisher confirms, in a thread; the nodes in turn."""

    def __init__(self, queue: str, addresses: list[str]) -> None:
        self.attempts = 0
        self._queue = queue
        self._addresses = addresses
        self._turn = 0
        self._connection: Any = None
        self._channel: Any = None

    async def write(self, number: int) -> bool:
        while not await asyncio.to_thread(self._try, number):  # noqa: ASYNC110 (a pause between tries)
            await asyncio.sleep(PAUSE_S)
        return True

    def _try(self, number: int) -> bool:
        import pika
        from pika.exceptions import AMQPError

        self.attempts += 1
        try:
            if self._connection is None:
                host, port = self._addresses[self._turn % len(self._addresses)].split(":")
                parameters = pika.ConnectionParameters(
                    host,
                    int(port),
                    socket_timeout=PATIENCE_S,
                    blocked_connection_timeout=PATIENCE_S,
                    connection_attempts=1,
                )
                self._connection = pika.BlockingConnection(parameters)
                self._channel = self._connection.channel()
                self._channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2)
            self._channel.basic_publish("", self._queue, b"%015d" % number + bytes(240), properties)
        except (AMQPError, OSError):
            self._turn += 1
            self._drop()
            return False
        return True

    def _drop(self) -> None:
        from pika.exceptions import AMQPError

        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            with contextlib.suppress(AMQPError, OSError):  # it is left because it does not answer
                connection.close()

    async def close(self) -> None:
        await asyncio.to_thread(self._drop)


PROBES: dict[str, type[NatsProbe] | type[RabbitProbe]] = {"nats-always": NatsProbe, "rabbit": RabbitProbe}
