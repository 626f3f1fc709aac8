"""One node as a process: the parts put together, signals, drain, exit code."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable

import click
import msgspec
import uvloop  # only here: the library has one door

from trivet.cli.output import Exit
from trivet.config import Config
from trivet.http.app import Observe, Settings
from trivet.http.server import ApiServer
from trivet.node.runtime import Node
from trivet.node.waiters import Waiters
from trivet.observability import metrics as m
from trivet.storage.errors import StorageRefused

BIND_TRIES = 30
BIND_PAUSE_SECONDS = 0.1


def run_node(config: Config) -> int:
    """Until a signal; the exit code: 0 after a drain, 1 if it could not start, 70 if it ended itself."""
    logging.basicConfig(level=logging.WARNING, handlers=[_JsonLines(config.node.id)], force=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        node = Node(config)
    except (StorageRefused, OSError) as error:
        return _refuse(f"the data directory {config.node.data_dir} cannot be used: {error}")
    waiters = Waiters(node.broker)
    server = ApiServer(node.broker, waiters, _settings(config), _observer(node, waiters))
    try:
        await _bind(lambda: server.start(config.api_listen.host, config.api_listen.port))
    except OSError as error:
        await node.stop()
        return _refuse(f"api.listen {config.api.listen} cannot be bound: {error}")
    try:
        await _bind(node.start)
    except OSError as error:
        await server.stop(timeout_s=0)
        await node.stop()
        return _refuse(f"the Raft address {config.raft_listen} cannot be bound: {error}")
    await stop.wait()
    # The API goes on while the office is handed over: what arrives is answered or sent to the new leader.
    await node.drain("signal")
    await server.stop(timeout_s=config.api.drain_ms / 1000)
    await node.stop()
    return Exit.OK


async def _bind(start: Callable[[], Awaitable[object]]) -> None:
    """Raises the last `OSError` when the address stays taken.

    A port in the kernel's ephemeral range may be the passing source port of somebody's connection while a
    node restarts; that ends by itself.
    """
    for _ in range(BIND_TRIES - 1):
        try:
            await start()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        await asyncio.sleep(BIND_PAUSE_SECONDS)
    await start()


def _refuse(reason: str) -> int:
    click.echo(f"error: {reason}", err=True)
    return Exit.REFUSED


def _settings(config: Config) -> Settings:
    return Settings(follower_mode=config.api.follower_mode, election_wait_ms=config.api.election_wait_ms)


def _observer(node: Node, waiters: Waiters) -> Observe:
    """Counts every HTTP request by its route, never by its path."""

    def observe(route: str, method: str, status: int, seconds: float) -> None:
        node.meters.inc(m.REQUESTS, route=route, method=method, status=str(status))
        node.meters.observe(m.REQUEST_SECONDS, seconds, route=route)
        if status == 307:
            node.meters.inc(m.REDIRECTS)

    node.meters.on_scrape(lambda meters: meters.set(m.PARKED_POLLS, waiters.parked))
    return observe


class _JsonLines(logging.Handler):
    """What libraries log, in the same shape as our own events: one JSON line each."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "node": self._node_id,
            "level": record.levelname.lower(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "event": "library",
            "source": record.name,
            "text": record.getMessage(),
        }
        line |= {name: str(getattr(record, name)) for name in ("route", "error") if hasattr(record, name)}
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
