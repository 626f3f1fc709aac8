"""How commands print: tables for people, JSON for programs, one exit code for each kind of end."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivet.client.errors import BadAnswer, NoLeader, OutcomeUnknown, Unreachable
from trivet.errors import TrivetError


class Exit(IntEnum):
    """The exit codes, as `trivet --help` shows them."""

    OK = 0
    REFUSED = 1  # the cluster refused, or the command failed
    USAGE = 2  # the command line is wrong
    UNREACHABLE = 3  # no node answers, or none leads; nothing was changed
    UNKNOWN = 4  # the write may or may not have happened: repeat with the --request-id printed


EXIT_HELP = (
    "Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 no node reachable or no leader "
    "(nothing was changed) · 4 outcome unknown (repeat with the --request-id that is printed)."
)


def exit_code(error: TrivetError) -> Exit:
    if isinstance(error, OutcomeUnknown):
        return Exit.UNKNOWN
    if isinstance(error, NoLeader | Unreachable | BadAnswer):
        return Exit.UNREACHABLE
    return Exit.REFUSED


HINTS = {
    "unreachable": "is the cluster running? `trivet dev` starts one here; --nodes or TRIVET_NODES says where",
    "bad_answer": "does --nodes or TRIVET_NODES name the API address (not the Raft address)?",
    "queue_not_found": "`trivet queue list` shows the queues; `trivet queue create NAME` makes one",
    "flow_not_found": "a flow is there for an hour after its end; `trivet flow list` shows them",
    "run_not_found": "`trivet run list` shows the runs; one is forgotten an hour after its last change",
    "schedule_not_found": "`trivet schedule list` shows the schedules",
    "no_leader": "`trivet cluster status` shows which members are reachable",
}


def print_error(error: TrivetError, output: str) -> None:
    """To stderr: one JSON line, or plain text with a hint."""
    request_id = error.extra.get("request_id")
    if output == "json":
        document = {
            "code": error.code,
            "detail": error.detail,
            "status": error.status,
            "retry": str(error.retry),
        }
        for name in ("field", "limit", "retry_after_ms"):
            if getattr(error, name) is not None:
                document[name] = getattr(error, name)
        sys.stderr.write(to_json({"error": {**document, **error.extra}}) + "\n")
        return
    sys.stderr.write(f"error: {error}\n")
    if error.field:
        sys.stderr.write(f"  at: {error.field}\n")
    if request_id:
        sys.stderr.write(f"  repeat with: --request-id {request_id}\n")
    if error.code in HINTS:
        sys.stderr.write(f"  hint: {HINTS[error.code]}\n")


def to_json(value: Any) -> str:
    """Bytes become base64 text under their own name, as JSON has none."""
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {
            (f"{key}_base64" if isinstance(one, bytes) else key): _plain(one) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def cell(value: Any) -> str:
    """One value in a table: nothing for null, JSON for what has parts."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, int | float):
        return str(value)
    text = to_json(value)
    return text if len(text) <= 200 else text[:199] + "…"


class Printer:
    """`output`: table | json."""

    def __init__(self, output: str) -> None:
        self.output = output
        # Off a terminal rich would cut lines at 80 columns: give it room, programs may read this too.
        width = None if sys.stdout.isatty() else 200
        self._console = Console(width=width, highlight=False)

    @property
    def is_json(self) -> bool:
        return self.output == "json"

    def json(self, value: Any) -> None:
        sys.stdout.write(to_json(value) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A line for people: nothing in JSON."""
        if not self.is_json:
            self._console.print(Text(text), soft_wrap=True)

    def rows(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], whole: Any, empty: str) -> None:
        """A list: `whole` is what JSON shows, `empty` what a table says when there is nothing."""
        if self.is_json:
            self.json(whole)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        count = 0
        for row in rows:
            count += 1
            table.add_row(*(Text(cell(row.get(column))) for column in columns))
        if count:
            self._console.print(table)
        else:
            self.say(empty)

    def page(
        self,
        columns: Sequence[str],
        rows: Iterable[Mapping[str, Any]],
        whole: Mapping[str, Any],
        empty: str,
        option: str = "--after",
    ) -> None:
        """`rows` of a list that may go on: with which `option`, if it does."""
        self.rows(columns, rows, whole, empty)
        if whole.get("next") is not None:
            self.say(f"more: {option} {whole['next']}")

    def one(self, value: Mapping[str, Any]) -> None:
        """One thing with its fields."""
        if self.is_json:
            self.json(value)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, one in value.items():
            table.add_row(name.replace("_", " "), Text(cell(one)))
        self._console.print(table)
