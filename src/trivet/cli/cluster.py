"""`trivet cluster …` and `trivet health`."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

import click

from trivet.cli.common import talks
from trivet.cli.output import Exit, Printer
from trivet.client import Client


@click.group()
def cluster() -> None:
    """The nodes: status, transfer, snapshot, digest."""


@cluster.command("status")
@talks
async def status(client: Client, printer: Printer) -> None:
    """Members, who leads, how far each is."""
    found = await client.cluster()
    if printer.is_json:
        printer.json(found)
        return
    quorum = found.get("quorum") or {}
    printer.say(
        f"cluster {found.get('cluster_id')} · leader {found.get('leader') or 'unknown'} · term {found.get('term')}"
        f" · {quorum.get('have')} members present, {quorum.get('size')} needed · seen by {found.get('node')}"
    )
    members = found.get("members") or []
    wanted = ["id", "role", "api", "raft", "term", "commit_index", "applied_index", "match_index", "lag"]
    wanted += ("last_contact_ms", "reachable", "version")
    columns = [name for name in wanted if any(name in one for one in members)]
    printer.rows(columns, members, found, "no members")
    for alarm in found.get("alarms") or []:
        printer.say(f"alarm: {alarm}")


@cluster.command("transfer")
@click.option("--to", metavar="NODE", help="To this member (default: the one that is furthest).")
@talks
async def transfer(client: Client, printer: Printer, to: str | None) -> None:
    """Hand leadership over."""
    printer.one(await client.transfer_leadership(to))


@cluster.command("snapshot")
@talks
async def snapshot(client: Client, printer: Printer) -> None:
    """Take a snapshot now."""
    printer.one(await client.take_snapshot())


@cluster.command("digest")
@talks
async def digest(client: Client, printer: Printer) -> None:
    """Digest of the state at an index: equal on every node at the same index."""
    printer.one(await client.digest())


@click.command()
@click.option("--url", default="http://127.0.0.1:7480", show_default=True, envvar="TRIVET_HEALTH_URL")
@click.option("--live", is_flag=True, help="Ask only whether the process runs (/livez).")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 60), default=2.0, show_default=True)
def health(url: str, live: bool, timeout_s: float) -> None:
    """Is this node well? For container health checks: exit 0 ready, 1 not ready, 3 not reachable."""
    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url must begin with http:// or https://")
    path = "/livez" if live else "/readyz?verbose"
    try:
        with urllib.request.urlopen(url.rstrip("/") + path, timeout=timeout_s) as answer:
            click.echo(answer.read(2000).decode("utf-8", "replace").strip())
    except urllib.error.HTTPError as error:
        click.echo(error.read(2000).decode("utf-8", "replace").strip(), err=True)
        sys.exit(Exit.REFUSED)
    except (OSError, ValueError) as error:
        click.echo(f"error: {url} does not answer: {error}", err=True)
        sys.exit(Exit.UNREACHABLE)
