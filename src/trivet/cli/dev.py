"""`trivet dev`: a whole cluster on this machine, for trying out and for tests."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from trivet.cli.local import ClusterFailed, LocalCluster, LocalNode
from trivet.cli.output import Exit, Printer


@click.command()
@click.option("--nodes", "count", type=click.Choice(["1", "3", "5"]), default="3", show_default=True)
@click.option("--base-port", type=click.IntRange(1, 65_500), default=7480, show_default=True)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the nodes' data and logs; may be started again. Default: a temporary one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line with the nodes, nothing else.")
@click.option("--wait-s", type=float, default=30.0, show_default=True, help="How long to wait for a leader.")
def dev(count: str, base_port: int, data: Path | None, as_json: bool, wait_s: float) -> None:
    """Run a local cluster of real processes until Ctrl-C.

    A node that you kill stays dead, so that you can watch the others go on; the command that starts it
    again is printed."""
    with _directory(data) as directory:
        cluster = LocalCluster(directory, int(count), base_port)
        try:
            asyncio.run(_run(cluster, Printer("json" if as_json else "table"), wait_s))
        except ClusterFailed as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(Exit.REFUSED)


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="trivet-dev-") as made:
        yield Path(made)


async def _run(cluster: LocalCluster, printer: Printer, wait_s: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await cluster.start()
        starting = asyncio.create_task(cluster.wait_all_ready(wait_s))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        leader = await starting
        if printer.is_json:
            printer.json({"nodes": [node.as_dict() for node in cluster.nodes]})
        else:
            _welcome(cluster, printer, leader)
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(_watch(cluster, node)) for node in cluster.nodes]
            await stop.wait()
            for watcher in watchers:
                watcher.cancel()
    finally:
        await cluster.stop()


async def _watch(cluster: LocalCluster, node: LocalNode) -> None:
    """Say on stderr that a node ended; it is not started again."""
    assert node.process is not None
    code = await node.process.wait()
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    again = shlex.join(cluster.serve_command(node))
    click.echo(f"{node.id} ended ({how}). Start it again with: {again}", err=True)


def _welcome(cluster: LocalCluster, printer: Printer, leader: str) -> None:
    rows = [
        {**node.as_dict(), "role": "leader" if node.id == leader else "follower"} for node in cluster.nodes
    ]
    printer.rows(("id", "role", "api", "raft", "pid"), rows, rows, "")
    api, urls = cluster.nodes[0].api, ",".join(cluster.apis)
    first = next(node for node in cluster.nodes if node.id == leader)
    printer.say(f"\ndata and logs: {cluster.directory.absolute()}\n\ntry, in another terminal:")
    printer.say(f"  export TRIVET_NODES={urls}")
    printer.say('  trivet enqueue mail \'{"to": "ada"}\'')
    printer.say("  trivet lease mail")
    printer.say("  trivet cluster status")
    printer.say(
        f"  curl -sL {api}/v1/queues/mail/messages -H 'content-type: application/json' -d '{{\"body\": 1}}'"
    )
    printer.say(f"  kill -9 {first.pid}   # the leader; the others go on")
    printer.say(f"\nthe HTTP API: {api}/docs\n\nCtrl-C ends the cluster.")
