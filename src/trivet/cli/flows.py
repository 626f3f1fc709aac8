"""`trivet flow …`."""

from __future__ import annotations

from typing import Any

import click

from trivet.cli.common import option_request_id, talks
from trivet.cli.messages import read_body
from trivet.cli.output import Printer
from trivet.client import Client
from trivet.client.flows import ENDED

COLUMNS = ("step_id", "state", "queue", "message_id", "attempt", "depends_on", "compensation")


@click.group()
def flow() -> None:
    """Flows: steps that wait for each other, and what undoes them."""


@flow.command("create")
@click.argument("document")
@click.option("--run-id", help="The run of all its messages (default: the flow's id).")
@option_request_id
@talks
async def create_flow(
    client: Client, printer: Printer, document: str, run_id: str | None, request_id: str | None
) -> None:
    """Make a flow. DOCUMENT is JSON as for POST /v1/flows, or only its list of steps; `-` for stdin, `@FILE` for a
    file."""
    given = read_body(document, "json", "flow")
    steps = given.get("steps") if isinstance(given, dict) else given
    if not isinstance(steps, list) or (isinstance(given, dict) and given.keys() - {"steps", "run_id"}):
        raise ValueError('a flow is {"steps": […], "run_id"?} or a list of steps')
    if run_id is None and isinstance(given, dict):
        run_id = given.get("run_id")
    made = await client.create_flow(steps, run_id=run_id, request_id=request_id)
    printer.rows(("step_id", "state", "message_id"), made["steps"], made, "")
    printer.say(f"flow {made['id']}, run {made['run_id']}")


@flow.command("show")
@click.argument("flow_id", metavar="ID")
@click.option("--wait", "wait_s", type=float, default=0.0, metavar="SECONDS", help="Wait for its end.")
@talks
async def show_flow(client: Client, printer: Printer, flow_id: str, wait_s: float) -> None:
    """A flow and its steps."""
    found = await client.wait_flow(flow_id, wait_s) if wait_s else await client.get_flow(flow_id)
    printer.rows(COLUMNS, [_row(step) for step in found["steps"]], found, "")
    ended = "" if found["state"] in ENDED else ", not ended"
    printer.say(f"flow {found['id']}, run {found['run_id']}: {found['state']}{ended}")


def _row(step: dict[str, Any]) -> dict[str, Any]:
    undone = step.get("compensation")
    told = None if undone is None else f"{undone['state']} {undone['message_id']}"
    return {**step, "depends_on": ", ".join(step["depends_on"]) or None, "compensation": told}


@flow.command("list")
@click.option("--state", help="running, compensating, done, compensated or failed.")
@click.option("--limit", type=int, help="At most so many (default 100).")
@click.option("--after", metavar="ID", help="Begin after this flow.")
@talks
async def list_flows(
    client: Client, printer: Printer, state: str | None, limit: int | None, after: str | None
) -> None:
    """Flows that run, and those that ended in the last hour."""
    found = await client.flows(state=state, limit=limit, after=after)
    rows = [{**one, **one["counts"]} for one in found["flows"]]
    columns = ("id", "state", "run_id", "steps", "unfinished", "done", "dead", "cancelled", "compensations")
    printer.page(columns, rows, found, "no flows")
