"""`trivet topic …`."""

from __future__ import annotations

from typing import Any

import click

from trivet.cli.common import option_request_id, talks
from trivet.cli.messages import message_of, option_message
from trivet.cli.output import Printer
from trivet.cli.queues import settings
from trivet.client import Client

COLUMNS = ("topic", "first_offset", "next_offset", "retention_ms", "retention_messages", "groups")


@click.group()
def topic() -> None:
    """Topics: publish once, and every consumer group gets its message.

    A group is worked on as the queue TOPIC:GROUP, with `trivet lease`, `trivet queue` and `trivet dead`."""


def _row(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "groups": ", ".join(one["group"] for one in found["groups"]) or None}


@topic.command("list")
@click.option("--limit", type=int, help="At most so many (default 100).")
@click.option("--after", metavar="NAME", help="Begin after this name.")
@talks
async def list_topics(client: Client, printer: Printer, limit: int | None, after: str | None) -> None:
    """The topics, what they keep, and their consumer groups."""
    found = await client.topics(limit=limit, after=after)
    printer.page(COLUMNS, [_row(one) for one in found["topics"]], found, "no topics yet")


@topic.command("show")
@click.argument("name")
@talks
async def show_topic(client: Client, printer: Printer, name: str) -> None:
    """One topic and its consumer groups."""
    printer.one(await client.topic(name))


@topic.command("create")
@click.argument("name")
@click.option("--retention-ms", type=int, help="How long it keeps a message (default 24 h).")
@click.option("--retention-messages", type=int, help="How many messages it keeps (default 100000).")
@option_request_id
@talks
async def create_topic(
    client: Client,
    printer: Printer,
    name: str,
    retention_ms: int | None,
    retention_messages: int | None,
    request_id: str | None,
) -> None:
    """Create a topic, or replace how much it keeps."""
    made = await client.put_topic(
        name, retention_ms=retention_ms, retention_messages=retention_messages, request_id=request_id
    )
    printer.one(made)


@topic.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@option_request_id
@talks
async def delete_topic(
    client: Client, printer: Printer, name: str, yes: bool, request_id: str | None
) -> None:
    """Delete a topic with its consumer groups and their messages."""
    if not yes:
        click.confirm(f"Delete topic {name}, its groups and every message in them?", abort=True, err=True)
    printer.one(await client.delete_topic(name, request_id=request_id))


@topic.command("publish")
@click.argument("name")
@option_message
@option_request_id
@talks
async def publish(
    client: Client,
    printer: Printer,
    name: str,
    body: str,
    kind: str,
    headers: tuple[str, ...],
    fields: tuple[str, ...],
    request_id: str | None,
    **more: Any,
) -> None:
    """Publish a message to topic NAME. BODY is JSON or text, `-` for stdin, `@FILE` for a file."""
    message = message_of(body, kind, headers, fields, more)
    printer.one(await client.publish(name, request_id=request_id, **message))


@topic.command("messages")
@click.argument("name")
@click.option("--from-offset", type=int, help="Begin here (default: the oldest kept).")
@click.option("--limit", type=int, help="At most so many (default 100).")
@talks
async def topic_messages(
    client: Client, printer: Printer, name: str, from_offset: int | None, limit: int | None
) -> None:
    """What a topic keeps."""
    found = await client.topic_messages(name, from_offset=from_offset, limit=limit)
    columns = ("offset", "published_at_ms", "group", "idempotency_key", "body")
    printer.page(columns, found["messages"], found, "nothing is kept from there on", "--from-offset")


# --- groups -------------------------------------------------------------------------------------------


@topic.group("group")
def group() -> None:
    """Consumer groups of a topic."""


@group.command("create")
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.argument("config", nargs=-1, metavar="[FIELD=VALUE]…")
@click.option("--from-offset", type=int, help="Start here instead of at the end.")
@click.option("--from-at-ms", type=int, help="Start with what was published at this instant or later.")
@option_request_id
@talks
async def create_group(
    client: Client,
    printer: Printer,
    name: str,
    group_name: str,
    config: tuple[str, ...],
    from_offset: int | None,
    from_at_ms: int | None,
    request_id: str | None,
) -> None:
    """Create a consumer group, or replace the configuration of its queue: fields as in `trivet queue create`."""
    made = await client.put_group(
        name,
        group_name,
        from_offset=from_offset,
        from_at_ms=from_at_ms,
        request_id=request_id,
        **settings(config),
    )
    printer.one(made)


@group.command("show")
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@talks
async def show_group(client: Client, printer: Printer, name: str, group_name: str) -> None:
    """Counts and configuration of a consumer group."""
    printer.one(await client.group(name, group_name))


@group.command("delete")
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@option_request_id
@talks
async def delete_group(
    client: Client, printer: Printer, name: str, group_name: str, yes: bool, request_id: str | None
) -> None:
    """Delete a consumer group with its messages."""
    if not yes:
        click.confirm(f"Delete group {group_name} of {name} and every message in it?", abort=True, err=True)
    printer.one(await client.delete_group(name, group_name, request_id=request_id))


@group.command("replay")
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option("--from-offset", type=int, help="From this offset on.")
@click.option("--from-at-ms", type=int, help="From what was published at this instant or later.")
@option_request_id
@talks
async def replay_group(
    client: Client,
    printer: Printer,
    name: str,
    group_name: str,
    from_offset: int | None,
    from_at_ms: int | None,
    request_id: str | None,
) -> None:
    """Give a consumer group again what its topic keeps, from a place on."""
    if (from_offset is None) == (from_at_ms is None):
        raise ValueError("replay needs --from-offset or --from-at-ms, and not both")
    found = await client.replay_group(
        name, group_name, from_offset=from_offset, from_at_ms=from_at_ms, request_id=request_id
    )
    printer.one(found)
