"""`trivet enqueue | lease | ack | nack | extend | release | message`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from trivet.cli.common import option_request_id, talks
from trivet.cli.output import Printer
from trivet.cli.queues import settings
from trivet.client import Client
from trivet.client.effects import default_owner


def read_body(text: str, kind: str, what: str = "body") -> Any:
    """`text`, or what `-` (stdin) or `@FILE` holds, as `kind` says. Raises ValueError."""
    try:
        if text == "-":
            raw = sys.stdin.buffer.read()
        elif text.startswith("@"):
            raw = Path(text[1:]).read_bytes()
        else:
            raw = text.encode()
    except OSError as error:
        raise ValueError(f"the {what} cannot be read: {error}") from error
    if kind == "bytes":
        return raw
    if kind == "text":
        return raw.decode()
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        if kind == "json":
            raise ValueError(f"the body is not JSON: {error}; --as text sends it as it is") from error
        return raw.decode()


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


option_message = _options(
    click.argument("body"),
    click.option(
        "--as",
        "kind",
        type=click.Choice(["auto", "json", "text", "bytes"]),
        default="auto",
        show_default=True,
        help="auto: JSON if it is JSON, else text.",
    ),
    click.option("--priority", type=int),
    click.option("--delay-ms", type=int, help="Not before so many milliseconds from now."),
    click.option("--ttl-ms", type=int, help="Dead as expired after so many milliseconds."),
    click.option("--group", help="Ordering key."),
    click.option("--key", "idempotency_key", help="Idempotency key: the same key, the same message."),
    click.option("--run-id"),
    click.option("--header", "headers", multiple=True, metavar="NAME=VALUE"),
    click.option(
        "--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Any other field of a message."
    ),
)
"""What `enqueue` and `topic publish` take: see `message_of`."""


def message_of(
    body: str, kind: str, headers: tuple[str, ...], fields: tuple[str, ...], more: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a message, its body too."""
    message = {name: value for name, value in more.items() if value is not None}
    message.update(settings(fields))
    if headers:
        message["headers"] = {name: str(value) for name, value in _headers(headers)}
    message["body"] = read_body(body, kind)
    return message


@click.command()
@click.argument("queue")
@option_message
@option_request_id
@talks
async def enqueue(
    client: Client,
    printer: Printer,
    queue: str,
    body: str,
    kind: str,
    headers: tuple[str, ...],
    fields: tuple[str, ...],
    request_id: str | None,
    **more: Any,
) -> None:
    """Put a message into QUEUE. BODY is JSON or text, `-` for stdin, `@FILE` for a file."""
    message = message_of(body, kind, headers, fields, more)
    printer.one(await client.enqueue(queue, request_id=request_id, **message))


def _headers(pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    split = [pair.partition("=") for pair in pairs]
    for name, equals, _ in split:
        if not name or not equals:
            raise ValueError(f"a header is NAME=VALUE, not {name!r}")
    return [(name, value) for name, _, value in split]


@click.command()
@click.argument("queues", nargs=-1, required=True, metavar="QUEUE…")
@click.option("--max", "max_messages", type=int, default=1, show_default=True)
@click.option("--wait-ms", type=int, default=0, show_default=True, help="Wait so long for the first message.")
@click.option("--lease-ms", type=int, help="How long the lease lasts (default: the queue's).")
@click.option("--consumer", default=None, help="Who leases (default: host and process id).")
@option_request_id
@talks
async def lease(
    client: Client,
    printer: Printer,
    queues: tuple[str, ...],
    max_messages: int,
    wait_ms: int,
    lease_ms: int | None,
    consumer: str | None,
    request_id: str | None,
) -> None:
    """Take messages to work on. Settle each with `trivet ack TOKEN` or `trivet nack TOKEN`."""
    leases = await client.lease(
        queues[0] if len(queues) == 1 else list(queues),
        consumer or default_owner(),
        max_messages=max_messages,
        wait_ms=wait_ms,
        lease_ms=lease_ms,
        request_id=request_id,
    )
    rows = [one.data for one in leases]
    columns = ("id", "queue", "attempt", "body", "lease_token", "lease_expires_at_ms")
    printer.rows(columns, rows, {"messages": rows, "lost": leases.lost}, "nothing to lease")


@click.command()
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN…")
@click.option("--result", metavar="JSON", help="The message's result, kept for readers.")
@option_request_id
@talks
async def ack(
    client: Client, printer: Printer, tokens: tuple[str, ...], result: str | None, request_id: str | None
) -> None:
    """Done: these leases' messages are never delivered again."""
    item = {} if result is None else {"result": read_body(result, "auto", "result")}
    items = [{"lease_token": token, **item} for token in tokens]
    _settled(printer, await client.ack_many(items, request_id=request_id))


@click.command()
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN…")
@click.option("--error", help="What went wrong; kept with the attempt.")
@click.option("--delay-ms", type=int, help="Again after so long (default: the queue's backoff).")
@click.option("--dead-letter", is_flag=True, help="Straight to the dead letters.")
@option_request_id
@talks
async def nack(
    client: Client,
    printer: Printer,
    tokens: tuple[str, ...],
    error: str | None,
    delay_ms: int | None,
    dead_letter: bool,
    request_id: str | None,
) -> None:
    """Failed: deliver again later, or not at all."""
    item = {"error": error, "delay_ms": delay_ms, "dead_letter": dead_letter or None}
    known = {name: value for name, value in item.items() if value is not None}
    items = [{"lease_token": token, **known} for token in tokens]
    _settled(printer, await client.nack_many(items, request_id=request_id))


@click.command()
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN…")
@click.option("--lease-ms", type=int, required=True, help="The rest of the lease, from now.")
@option_request_id
@talks
async def extend(
    client: Client, printer: Printer, tokens: tuple[str, ...], lease_ms: int, request_id: str | None
) -> None:
    """Keep leases longer."""
    pairs = [(token, lease_ms) for token in tokens]
    _settled(printer, await client.extend_many(pairs, request_id=request_id))


@click.command()
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN…")
@option_request_id
@talks
async def release(client: Client, printer: Printer, tokens: tuple[str, ...], request_id: str | None) -> None:
    """Give leases back untouched; the attempt is not counted."""
    _settled(printer, await client.release_many(tokens, request_id=request_id))


def _settled(printer: Printer, answer: dict[str, Any]) -> None:
    results = answer["results"]
    names = dict.fromkeys(name for one in results for name in one)
    printer.rows(tuple(names), results, answer, "nothing to do")


@click.group()
def message() -> None:
    """One message: show, wait, cancel."""


@message.command("show")
@click.argument("message_id", metavar="ID")
@talks
async def show(client: Client, printer: Printer, message_id: str) -> None:
    """Its state, attempts and result."""
    printer.one(await client.message(message_id))


@message.command("wait")
@click.argument("message_id", metavar="ID")
@click.option("--for", "seconds", type=click.FloatRange(0, 86_400), default=60.0, show_default=True)
@talks
async def wait(client: Client, printer: Printer, message_id: str, seconds: float) -> None:
    """Until it is finished, or the seconds are over."""
    printer.one(await client.wait(message_id, seconds))


@message.command("progress")
@click.argument("message_id", metavar="ID")
@click.argument("lease_token", metavar="TOKEN")
@click.option("--percent", type=click.IntRange(0, 100))
@click.option("--note", help="At most 1 KiB.")
@option_request_id
@talks
async def progress(
    client: Client,
    printer: Printer,
    message_id: str,
    lease_token: str,
    percent: int | None,
    note: str | None,
    request_id: str | None,
) -> None:
    """Show how far the work is; the lease gets its length again. `cancelled` tells that it is not wanted any more."""
    told = await client.progress(
        lease_token, message_id=message_id, percent=percent, note=note, request_id=request_id
    )
    printer.one(told)


@message.command("cancel")
@click.argument("message_id", metavar="ID")
@option_request_id
@talks
async def cancel(client: Client, printer: Printer, message_id: str, request_id: str | None) -> None:
    """Take it back; a leased one is cancelled when its lease ends without an ack."""
    printer.one(await client.cancel(message_id, request_id=request_id))
