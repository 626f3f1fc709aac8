"""`trivet init | serve`: one node of a cluster."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from trivet.cli.local import toml_of
from trivet.cli.output import Exit
from trivet.config import ConfigError, load, parse_address, parse_member

PR_SET_PDEATHSIG = 1


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--id", "node_id", default="n1", show_default=True, help="This node's name.")
@click.option(
    "--members",
    default="",
    metavar="ID=HOST:PORT,…",
    help="Raft addresses of all members, this one included, the same on each. Empty: a single node.",
)
@click.option(
    "--api",
    default="127.0.0.1:7480",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the HTTP API listens.",
)
@click.option("--advertise-url", default="", metavar="URL", help="How clients reach it, if not by --api.")
@click.option(
    "--raft",
    "raft_listen",
    default="",
    metavar="HOST:PORT",
    help="Where peers connect, if not as in --members.",
)
def init(directory: Path, node_id: str, members: str, api: str, advertise_url: str, raft_listen: str) -> None:
    """Make a node: DIRECTORY with trivet.toml and a place for its data.

    Run it once on each machine, with another --id and the same --members. The cluster is born when all
    of them run for the first time. With an odd number of members (1, 3 or 5)."""
    listed = [one.strip() for one in members.split(",") if one.strip()]
    _check_members(node_id, listed, api)
    config = directory / "trivet.toml"
    if config.exists():
        raise click.UsageError(f"{config} exists; remove it first, or take another directory")
    sections: dict[str, dict[str, Any]] = {
        "node": {"id": node_id, "data_dir": str(directory.absolute() / "data")},
        "cluster": {"members": listed, "bootstrap": True},
        "api": {"listen": api},
    }
    if advertise_url:
        sections["api"]["advertise_url"] = advertise_url
    if raft_listen:
        sections["raft"] = {"listen": raft_listen}
    text = "# Every setting: docs/reference/configuration.md\n\n" + toml_of(sections)
    directory.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    try:
        load(config)
    except ConfigError as error:
        config.unlink()
        _usage(error)
    click.echo(f"wrote {config}\nstart it with: trivet serve --config {config}")


def _check_members(node_id: str, listed: list[str], api: str) -> None:
    try:
        ids = [parse_member(one)[0] for one in listed]
        parse_address(api)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if listed and len(listed) not in (1, 3, 5):
        raise click.UsageError(f"{len(listed)} members: a cluster has 1, 3 or 5")
    if listed and node_id not in ids:
        raise click.UsageError(f"--id {node_id} is not among --members ({', '.join(ids)})")


def _usage(error: ConfigError) -> None:
    raise click.UsageError(
        "the configuration cannot be used:\n" + "\n".join(f"  {one}" for one in error.problems)
    )


@click.command()
@click.option(
    "--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="trivet.toml"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Stronger than file and environment.",
)
@click.option("--id", "node_id", help="Short for --set node.id=…")
@click.option("--data", help="Short for --set node.data_dir=…")
@click.option("--api", help="Short for --set api.listen=…")
@click.option("--members", help="Short for --set cluster.members=…")
@click.option("--bootstrap", is_flag=True, help="Short for --set cluster.bootstrap=true.")
@click.option("--log-level", help="Short for --set log.level=…")
@click.option("--parent", type=int, hidden=True, help="End when this process does.")
def serve(
    path: Path | None,
    overrides: tuple[str, ...],
    parent: int | None,
    bootstrap: bool,
    **shortcuts: str | None,
) -> None:
    """Run a node. Settings: flags over environment (TRIVET__SECTION__KEY) over file over defaults.

    SIGTERM or SIGINT drains: leadership is handed over, what is under way is finished; exit 0."""
    if parent is not None:
        die_with(parent)
    keys = {
        "node_id": "node.id",
        "data": "node.data_dir",
        "api": "api.listen",
        "members": "cluster.members",
        "log_level": "log.level",
    }
    named = [f"{keys[name]}={value}" for name, value in shortcuts.items() if value is not None]
    if bootstrap:
        named.append("cluster.bootstrap=true")
    try:
        config = load(path, os.environ, [*overrides, *named])
    except ConfigError as error:
        _usage(error)
    from trivet.cli.serving import run_node  # the server's parts: no other command needs them

    sys.exit(run_node(config))


def die_with(parent: int) -> None:
    """End when the process that started us ends, however it ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(Exit.REFUSED)  # it ended before we asked
