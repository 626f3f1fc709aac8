"""What every command that talks to a cluster shares: its options, its client, its ends."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click

from trivet.cli.output import Printer, exit_code, print_error
from trivet.client import Client, RetryPolicy
from trivet.errors import TrivetError

DEFAULT_NODES = "http://127.0.0.1:7480,http://127.0.0.1:7482,http://127.0.0.1:7484"

Command = Callable[..., Awaitable[None]]


def _option_nodes(command: Any) -> Any:
    return click.option(
        "--nodes",
        envvar="TRIVET_NODES",
        default=DEFAULT_NODES,
        metavar="URL,…",
        help="API addresses of the nodes, separated by commas (environment: TRIVET_NODES). "
        "Default: where `trivet dev` listens.",
    )(command)


def option_output(command: Any) -> Any:
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print."
    )(command)


def option_request_id(command: Any) -> Any:
    return click.option(
        "--request-id",
        metavar="ID",
        help="Repeat an earlier write safely: the same id, the same answer (60 s).",
    )(command)


def talks(function: Command) -> Any:
    """Makes `async def command(client, printer, …)` a click command's callback with the common options."""

    @_option_nodes
    @option_output
    @click.option(
        "--token", envvar="TRIVET_TOKEN", help="Sent as a bearer token (environment: TRIVET_TOKEN)."
    )
    @click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0, 50),
        default=10.0,
        show_default=True,
        help="Seconds to go on trying.",
    )
    @functools.wraps(function)
    def command(nodes: str, output: str, token: str | None, timeout_s: float, **given: Any) -> None:
        printer = Printer(output)
        try:
            asyncio.run(_run(function, printer, nodes, token, timeout_s, given))
        except TrivetError as error:
            print_error(error, output)
            sys.exit(exit_code(error))
        except ValueError as error:
            raise click.UsageError(str(error)) from error

    return command


async def _run(
    function: Command,
    printer: Printer,
    nodes: str,
    token: str | None,
    timeout_s: float,
    given: dict[str, Any],
) -> None:
    addresses = [one for one in (part.strip() for part in nodes.split(",")) if one]
    async with Client(addresses, token=token, retry=RetryPolicy(total_s=timeout_s)) as client:
        await function(client, printer, **given)
