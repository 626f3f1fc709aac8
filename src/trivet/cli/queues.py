"""`trivet queue …` and `trivet dead …`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from trivet.cli.common import option_request_id, talks
from trivet.cli.output import Printer
from trivet.client import Client

COUNTS = ("ready", "leasable", "delayed", "leased", "blocked", "dead")


@click.group()
def queue() -> None:
    """Queues: list, show, create, change, pause, resume, purge, delete."""


@queue.command("list")
@click.option("--limit", type=int, help="At most so many (default 100).")
@click.option("--after", metavar="NAME", help="Begin after this name.")
@talks
async def list_queues(client: Client, printer: Printer, limit: int | None, after: str | None) -> None:
    """The queues and what is in them."""
    found = await client.queues(limit=limit, after=after)
    printer.page(("queue", *COUNTS), found["queues"], found, "no queues yet")


@queue.command("show")
@click.argument("name")
@talks
async def show_queue(client: Client, printer: Printer, name: str) -> None:
    """One queue: counts and configuration."""
    printer.one(await client.queue(name))


def settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`field=value` texts; a value is JSON, or text if it is none. Raises ValueError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{pair!r} is not field=value, as in max_attempts=3")
        try:
            found[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            found[name] = text
    return found


@queue.command("create")
@click.argument("name")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]…")
@option_request_id
@talks
async def create_queue(
    client: Client, printer: Printer, name: str, fields: tuple[str, ...], request_id: str | None
) -> None:
    """Create a queue, or replace its configuration: `trivet queue create mail max_attempts=3`."""
    printer.one(await client.put_queue(name, request_id=request_id, **settings(fields)))


@queue.command("update")
@click.argument("name")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD=VALUE…")
@option_request_id
@talks
async def update_queue(
    client: Client, printer: Printer, name: str, fields: tuple[str, ...], request_id: str | None
) -> None:
    """Change only the fields given."""
    printer.one(await client.patch_queue(name, request_id=request_id, **settings(fields)))


@queue.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@option_request_id
@talks
async def delete_queue(
    client: Client, printer: Printer, name: str, yes: bool, request_id: str | None
) -> None:
    """Delete a queue with its messages."""
    if not yes:
        click.confirm(f"Delete queue {name} and every message in it?", abort=True, err=True)
    printer.one(await client.delete_queue(name, request_id=request_id))


@queue.command("pause")
@click.argument("name")
@click.option("--enqueue", is_flag=True, help="Refuse new messages too.")
@click.option("--lease/--no-lease", default=True, show_default=True, help="Hand out nothing.")
@option_request_id
@talks
async def pause_queue(
    client: Client, printer: Printer, name: str, enqueue: bool, lease: bool, request_id: str | None
) -> None:
    """Hand out nothing (and with --enqueue take nothing) until `resume`."""
    printer.one(await client.pause_queue(name, enqueue=enqueue, lease=lease, request_id=request_id))


@queue.command("resume")
@click.argument("name")
@option_request_id
@talks
async def resume_queue(client: Client, printer: Printer, name: str, request_id: str | None) -> None:
    """End a pause."""
    printer.one(await client.resume_queue(name, request_id=request_id))


@queue.command("purge")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@option_request_id
@talks
async def purge_queue(client: Client, printer: Printer, name: str, yes: bool, request_id: str | None) -> None:
    """Remove every message that is not leased."""
    if not yes:
        click.confirm(f"Remove the messages of queue {name}?", abort=True, err=True)
    printer.one(await client.purge_queue(name, request_id=request_id))


@queue.command("messages")
@click.argument("name")
@click.option("--state", help="blocked, delayed, ready, leased, done, dead or cancelled.")
@click.option("--limit", type=int, help="At most so many (default 100).")
@click.option("--after", metavar="ID", help="Begin after this message.")
@talks
async def browse(
    client: Client, printer: Printer, name: str, state: str | None, limit: int | None, after: str | None
) -> None:
    """Look at messages without leasing them."""
    found = await client.messages(name, state=state, limit=limit, after=after)
    columns = ("id", "state", "priority", "attempt", "group", "body")
    printer.page(columns, found["messages"], found, "no messages")


@click.group()
def dead() -> None:
    """Dead letters: list, redrive, purge."""


@dead.command("list")
@click.argument("name", metavar="QUEUE")
@click.option("--reason", help="max_attempts, expired, rejected, dependency_failed or queue_full.")
@click.option("--limit", type=int, help="At most so many (default 100).")
@click.option("--after", metavar="ID", help="Begin after this message.")
@talks
async def list_dead(
    client: Client, printer: Printer, name: str, reason: str | None, limit: int | None, after: str | None
) -> None:
    """Messages that failed for good, with their last error."""
    found = await client.dead_letters(name, reason=reason, limit=limit, after=after)
    rows = [{**one, "last_error": _last_error(one)} for one in found["messages"]]
    printer.page(("id", "dead_reason", "attempt", "last_error", "body"), rows, found, "no dead letters")


def _last_error(message: dict[str, Any]) -> str | None:
    errors = [one.get("error") for one in message.get("attempts") or [] if one.get("error")]
    return errors[-1] if errors else None


@dead.command("redrive")
@click.argument("name", metavar="QUEUE")
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--reason", help="Only those that died of this.")
@click.option("--limit", type=int, help="At most so many.")
@click.option("--to", metavar="QUEUE", help="Into another queue.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@option_request_id
@talks
async def redrive(
    client: Client,
    printer: Printer,
    name: str,
    ids: tuple[str, ...],
    reason: str | None,
    limit: int | None,
    to: str | None,
    dry_run: bool,
    request_id: str | None,
) -> None:
    """Make dead messages ready again; their attempts begin anew, their history is kept."""
    answer = await client.redrive(
        name, ids=ids or None, reason=reason, limit=limit, to=to, dry_run=dry_run, request_id=request_id
    )
    printer.one(answer)


@dead.command("purge")
@click.argument("name", metavar="QUEUE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@option_request_id
@talks
async def purge_dead(client: Client, printer: Printer, name: str, yes: bool, request_id: str | None) -> None:
    """Remove the dead letters for good."""
    if not yes:
        click.confirm(f"Remove the dead letters of queue {name}?", abort=True, err=True)
    printer.one(await client.purge_dead(name, request_id=request_id))
