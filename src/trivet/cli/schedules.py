"""`trivet schedule …`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from trivet.cli.common import option_request_id, talks
from trivet.cli.messages import read_body
from trivet.cli.output import Printer
from trivet.cli.queues import settings
from trivet.client import Client
from trivet.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

COLUMNS = ("name", "when", "timezone", "queue", "state", "next fire", "fired", "skipped")
UNITS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


@click.group()
def schedule() -> None:
    """Schedules: messages at the times of a calendar, or in an interval."""


@schedule.command("put")
@click.argument("name")
@click.argument("queue")
@click.argument("body", required=False)
@click.option(
    "--cron", metavar="'M H DOM MON DOW'", help="Five fields, or @hourly, @daily, @weekly, @monthly, @yearly."
)
@click.option("--every", metavar="LENGTH", help="An interval: 500ms, 30s, 15m, 6h, 1d.")
@click.option("--timezone", help="In which --cron is meant, as Europe/Berlin (default UTC).")
@click.option(
    "--misfire", type=click.Choice(["fire_once", "skip"]), help="After an outage (default fire_once)."
)
@click.option(
    "--overlap",
    type=click.Choice(["allow", "skip"]),
    help="While the last message is unfinished (default allow).",
)
@click.option(
    "--message", "fields", multiple=True, metavar="FIELD=VALUE", help="More of the message: priority=5."
)
@option_request_id
@talks
async def put_schedule(
    client: Client,
    printer: Printer,
    name: str,
    queue: str,
    body: str | None,
    cron: str | None,
    every: str | None,
    timezone: str | None,
    misfire: str | None,
    overlap: str | None,
    fields: tuple[str, ...],
    request_id: str | None,
) -> None:
    """Create or replace a schedule: `trivet schedule put nightly reports '{"kind": "daily"}' --cron '30 2 * * *'`.

    BODY is JSON, or text if it is none; `-` for stdin, `@FILE` for a file."""
    if (cron is None) == (every is None):
        raise ValueError("either --cron or --every")
    more = settings(fields)
    more["body"] = None if body is None else read_body(body, "auto")
    told = await client.put_schedule(
        name,
        queue,
        cron=cron,
        every_ms=None if every is None else length_ms(every),
        timezone=timezone,
        misfire=misfire,
        overlap=overlap,
        request_id=request_id,
        **more,
    )
    _show(printer, told)


def length_ms(text: str) -> int:
    """`15m` in milliseconds. Raises ValueError."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    if not digits.isascii() or not digits.isdigit() or unit not in UNITS:
        raise ValueError(f"{text!r} is no length, as in 500ms, 30s, 15m, 6h, 1d")
    return int(digits) * UNITS[unit]


@schedule.command("list")
@click.option("--limit", type=int, help="At most so many (default 100).")
@click.option("--after", metavar="NAME", help="Begin after this name.")
@talks
async def list_schedules(client: Client, printer: Printer, limit: int | None, after: str | None) -> None:
    """The schedules and when they are due."""
    found = await client.schedules(limit=limit, after=after)
    printer.page(COLUMNS, [_row(one) for one in found["schedules"]], found, "no schedules yet")


@schedule.command("show")
@click.argument("name")
@talks
async def show_schedule(client: Client, printer: Printer, name: str) -> None:
    """One schedule: its next fires, and what became of its slots."""
    _show(printer, await client.schedule(name))


@schedule.command("pause")
@click.argument("name")
@option_request_id
@talks
async def pause_schedule(client: Client, printer: Printer, name: str, request_id: str | None) -> None:
    """Give its slots no message until `resume`."""
    _show(printer, await client.pause_schedule(name, request_id=request_id))


@schedule.command("resume")
@click.argument("name")
@option_request_id
@talks
async def resume_schedule(client: Client, printer: Printer, name: str, request_id: str | None) -> None:
    """Go on with the next slot."""
    _show(printer, await client.resume_schedule(name, request_id=request_id))


@schedule.command("run")
@click.argument("name")
@option_request_id
@talks
async def run_schedule(client: Client, printer: Printer, name: str, request_id: str | None) -> None:
    """Make its message now. Its slots stay as they are."""
    printer.one(await client.run_schedule(name, request_id=request_id))


@schedule.command("delete")
@click.argument("name")
@option_request_id
@talks
async def delete_schedule(client: Client, printer: Printer, name: str, request_id: str | None) -> None:
    """Delete a schedule; the messages it has made stay."""
    printer.one(await client.delete_schedule(name, request_id=request_id))


def _show(printer: Printer, told: dict[str, Any]) -> None:
    if not printer.is_json:
        told = {
            **told,
            "next_fires_at_ms": ", ".join(_instant(at) for at in told.get("next_fires_at_ms", ())),
        }
    printer.one(told)


def _row(told: dict[str, Any]) -> dict[str, Any]:
    state = "paused" if told["paused"] else "on"
    if told["blocked"] is not None:
        state = told["blocked"]["code"]
    fires = told["next_fires_at_ms"]
    return {
        **told,
        "when": told["cron"] if told["cron"] is not None else f"every {told['every_ms']} ms",
        "timezone": None if told["cron"] is None else told["timezone"],
        "state": state,
        "next fire": _instant(fires[0]) if fires and not told["paused"] else None,
    }


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
