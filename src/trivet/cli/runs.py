"""`trivet run list | show | events | append | replay`."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from trivet.cli.common import option_request_id, talks
from trivet.cli.messages import read_body
from trivet.cli.output import Printer, cell
from trivet.client import Client


@click.group()
def run() -> None:
    """Runs: what happened to every message with one run id."""


@run.command("list")
@click.option("--limit", type=int, default=100, show_default=True)
@click.option("--after", metavar="CURSOR", help="Go on after this: the `next` of the list before.")
@talks
async def list_runs(client: Client, printer: Printer, limit: int, after: str | None) -> None:
    """Runs, oldest first."""
    told = await client.runs(limit=limit, after=after)
    columns = ("run_id", "counts", "started_at_ms", "finished_at_ms", "next_event_id")
    rows = [{**one, "counts": _counts(one["counts"])} for one in told["runs"]]
    printer.page(columns, rows, told, "no runs")


def _counts(counts: dict[str, int]) -> str:
    return " ".join(f"{name}={count}" for name, count in counts.items() if count)


@run.command("show")
@click.argument("run_id", metavar="RUN")
@talks
async def show(client: Client, printer: Printer, run_id: str) -> None:
    """Its steps, and the timeline of all their transitions."""
    told = await client.run(run_id)
    if printer.is_json:
        printer.json(told)
        return
    rest = {name: value for name, value in told.items() if name not in ("steps", "timeline", "next", "as_of")}
    printer.one({**rest, "counts": _counts(told["counts"])})
    printer.say("")
    columns = (
        "step_id",
        "message_id",
        "queue",
        "state",
        "attempt",
        "dead_reason",
        "replay_of",
        "replayed_by",
    )
    printer.rows(columns, told["steps"], None, "none of its messages is left")
    printer.say("")
    lines = ("id", "at_ms", "type", "message_id", "step_id", "attempt", "consumer", "reason", "error")
    printer.rows(lines, told["timeline"], None, "no transitions")


@run.command("events")
@click.argument("run_id", metavar="RUN")
@click.option("--after", type=click.IntRange(0), default=0, help="Only events behind this id.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, through reconnects, until Ctrl-C.")
@talks
async def events(client: Client, printer: Printer, run_id: str, after: int, follow: bool) -> None:
    """The events of a run, one line each: id, type, data. JSON lines with -o json."""
    if follow:
        async with contextlib.aclosing(client.run_events(run_id, after=after)) as told:
            async for event in told:
                _line(printer, {"id": event.id, "type": event.type, "data": event.data})
        return
    position: int | None = after
    while position is not None:
        page = await client.events_page(run_id, after=position, limit=1000)
        if page["first_id"] > position + 1:
            gap = {"after": position, "first_id": page["first_id"]}
            _line(printer, {"id": page["first_id"] - 1, "type": "gap", "data": gap})
        for event in page["events"]:
            _line(printer, event)
        position = page["next"]


def _line(printer: Printer, event: dict[str, Any]) -> None:
    if printer.is_json:
        printer.json(event)
    else:
        printer.say(f"{event['id']}  {event['type']}  {cell(event['data'])}")


@run.command("append")
@click.argument("run_id", metavar="RUN")
@click.argument("event_type", metavar="TYPE")
@click.argument("data", default="null")
@click.option("--event-id", help="A repeat of the same id is dropped.")
@option_request_id
@talks
async def append(
    client: Client,
    printer: Printer,
    run_id: str,
    event_type: str,
    data: str,
    event_id: str | None,
    request_id: str | None,
) -> None:
    """Append an event of TYPE. DATA is JSON or text, `-` for stdin, `@FILE` for a file."""
    event: dict[str, Any] = {"type": event_type, "data": read_body(data, "auto", "data")}
    if event_id is not None:
        event["event_id"] = event_id
    told = await client.append_events(run_id, [event], request_id=request_id)
    (first,) = told.pop("events")
    printer.one({**first, **told})


@run.command("replay")
@click.argument("run_id", metavar="RUN")
@click.option("--step", "step_id", help="Only this step (default: all that are finished).")
@option_request_id
@talks
async def replay(
    client: Client, printer: Printer, run_id: str, step_id: str | None, request_id: str | None
) -> None:
    """Enqueue finished steps again, as new messages that name their origin."""
    told = await client.replay_run(run_id, step_id=step_id, request_id=request_id)
    rows = [{"id": one["id"], "replay_of": one["origin"]["message_id"]} for one in told["messages"]]
    printer.rows(("id", "replay_of"), rows, told, "nothing to replay")
