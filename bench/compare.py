"""One test on one broker: client processes, server CPU, what else used the machine."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.brokers import Broker
from bench.drivers.common import Result
from bench.process import Machine, cpu_of

QUEUE = "bench"
TAIL_S = 1.0  # servers are still counted so long after the clients' end: what they put off belongs to the run
REST_S, REST_CORES, REST_MAX_S = 0.5, 0.15, 30.0


@dataclass
class Figure:
    """Of one run. CPU in µs a message: all three servers together, all client processes together."""

    broker: str
    test: str
    messages: int
    per_second: float
    server_us: float
    client_us: float
    confirm_ms: tuple[float, float] | None  # p50, p99
    delivered_ms: tuple[float, float] | None
    other_cores: float  # used by neither servers nor clients
    stolen_cores: float
    extra: dict[str, float] = field(default_factory=dict)


def percentiles(seconds: list[float]) -> tuple[float, float] | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return tuple(round(ordered[int(len(ordered) * part)] * 1000, 3) for part in (0.5, 0.99))  # type: ignore[return-value]


class Driver:
    """A client process: started, made ready, let go, read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, broker: Broker, node: int, role: str, *words: str) -> Driver:
        command = [*broker.driver(), role, "--address", broker.address(node), "--queue", QUEUE, *words]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=64 << 20
        )
        driver = cls(process)
        if (line := await driver._line()) != b"READY":
            raise RuntimeError(f"{command} said {line!r}")
        return driver

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"GO\n")

    async def result(self) -> Result:
        line = await self._line()
        if await self.process.wait() != 0:
            raise RuntimeError(f"a driver ended with {self.process.returncode}")
        return msgspec.json.decode(line, type=Result)


async def at_rest(pids: list[int]) -> None:
    """What the test before left to be done (a deleted backlog is swept, a log compacted) does not belong to this one."""
    for _ in range(round(REST_MAX_S / REST_S)):
        before = cpu_of(pids)
        await asyncio.sleep(REST_S)
        if cpu_of(pids) - before <= REST_CORES * REST_S:
            return


async def run(broker: Broker, test: str, drivers: list[Driver], counted: str) -> Figure:
    """Let the drivers work; messages are those of role `counted`."""
    pids = [broker.pid(node) for node in (1, 2, 3)]
    await at_rest(pids)
    servers, machine = cpu_of(pids), Machine.now()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for driver in drivers:
        driver.go()
    results = await asyncio.gather(*(driver.result() for driver in drivers))
    await asyncio.sleep(TAIL_S)
    seconds, after = loop.time() - began_s, Machine.now()
    used_s = cpu_of(pids) - servers
    clients_s = sum(one.cpu_s for one in results)
    chosen = [one for one in results if one.role == counted]
    messages = sum(one.messages for one in chosen)
    if not messages:
        raise RuntimeError(f"{broker.name}: {test} moved no message")
    return Figure(
        broker=broker.name,
        test=test,
        messages=messages,
        per_second=round(sum(one.messages / one.seconds for one in chosen)),
        server_us=round(used_s / messages * 1e6, 1),
        client_us=round(clients_s / messages * 1e6, 1),
        confirm_ms=percentiles([value for one in results for value in one.confirm_s]),
        delivered_ms=percentiles([value for one in results for value in one.delivered_s]),
        other_cores=round((after.busy_s - machine.busy_s - used_s - clients_s) / seconds, 2),
        stolen_cores=round((after.stolen_s - machine.stolen_s) / seconds, 2),
    )


# --- the tests ------------------------------------------------------------------------------------------


async def publish(broker: Broker, seconds: float, size: int) -> Figure:
    """One producer, window 1,000; nobody consumes."""
    await broker.prepare(QUEUE)
    node = await broker.leader(QUEUE)
    words = ("--seconds", str(seconds), "--size", str(size))
    return await run(broker, "publish", [await Driver.start(broker, node, "publish", *words)], "publish")


async def end_to_end(broker: Broker, seconds: float, size: int) -> Figure:
    """One producer and one consumer at once, at most 5,000 messages between them."""
    await broker.prepare(QUEUE)
    node = await broker.leader(QUEUE)
    with tempfile.TemporaryDirectory() as directory:
        words = ("--seconds", str(seconds), "--size", str(size), "--level", str(Path(directory) / "level"))
        drivers = [await Driver.start(broker, node, role, *words) for role in ("publish", "consume")]
        return await run(broker, "end to end", drivers, "consume")


async def consume(broker: Broker, seconds: float, size: int) -> Figure:
    """A backlog of 100,000 is taken and acked by one consumer."""
    await broker.prepare(QUEUE)
    node = await broker.leader(QUEUE)
    backlog = await fill(broker, node, 100_000, size)
    words = ("--seconds", str(max(60, seconds)), "--count", str(backlog))
    return await run(
        broker, "consume + ack", [await Driver.start(broker, node, "consume", *words)], "consume"
    )


async def latency(broker: Broker, seconds: float, size: int) -> Figure:
    """200 messages a second, each a request of its own, to a waiting consumer."""
    await broker.prepare(QUEUE)
    node = await broker.leader(QUEUE)
    words = ("--size", str(size), "--rate", "200")
    drivers = [
        await Driver.start(broker, node, "publish", *words, "--seconds", str(seconds)),
        await Driver.start(broker, node, "consume", *words, "--seconds", str(seconds + 0.5)),
    ]
    return await run(broker, "200 a second", drivers, "publish")


async def fill(broker: Broker, node: int, count: int, size: int) -> int:
    """A backlog of at least so many messages; answers how many."""
    words = ("--seconds", "300", "--count", str(count), "--size", str(size))
    driver = await Driver.start(broker, node, "publish", *words)
    driver.go()
    return (await driver.result()).messages


TESTS = {"publish": publish, "consume": consume, "end_to_end": end_to_end, "latency": latency}
