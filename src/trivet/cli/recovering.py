"""`trivet recover`: when no quorum of whole nodes is left (R7)."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from trivet.cli.output import Exit
from trivet.node.clock import RealClock
from trivet.storage.errors import StorageRefused
from trivet.storage.identity import Identity
from trivet.storage.port import Disk
from trivet.storage.real_disk import RealDisk
from trivet.storage.salvage import Plan, inspect, rebuild
from trivet.storage.settings import StorageSettings

_directories = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--inspect", "only_look", is_flag=True, help="Only report; changes nothing.")
@click.option("--from", "rescue", is_flag=True, help="Make a new cluster from what is there.")
@click.argument("directories", nargs=-1, required=True, type=_directories, metavar="DIR…")
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="ID=DIR",
    help="With --from: a member of the new cluster and its empty data directory; once for each member.",
)
@click.option(
    "--accept-loss", is_flag=True, help="Yes: what cannot be proven committed may be wrong or missing."
)
def recover(
    only_look: bool, rescue: bool, directories: tuple[Path, ...], targets: tuple[str, ...], accept_loss: bool
) -> None:
    """Look into data directories of stopped nodes, or make a new cluster of them.

    \b
    trivet recover --inspect n1/data n2/data
    trivet recover --from n1/data n2/data --to n1=new/data --accept-loss

    Only when no quorum of whole nodes is left: everything that is whole in any of the directories is put
    together, what cannot be proven is printed, and the new cluster gets a new id."""
    if only_look == rescue:
        raise click.UsageError("give one of --inspect and --from")
    members = _members(targets)
    if rescue and not (members and accept_loss):
        raise click.UsageError("--from needs --to ID=DIR (once for each new member) and --accept-loss")
    try:
        with ExitStack() as stack:
            plan = inspect([(str(path), _open(path, stack)) for path in directories])
            click.echo("\n".join(plan.lines()))
            if rescue:
                _rescue(plan, members, stack)
    except (StorageRefused, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(Exit.REFUSED)


def _members(targets: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for target in targets:
        name, equals, path = target.partition("=")
        if not (name and equals and path) or name in found:
            raise click.UsageError(f"--to {target}: give ID=DIR, each id once")
        found[name] = Path(path)
    if len(found) not in (0, 1, 3, 5):
        raise click.UsageError(f"{len(found)} members: a cluster has 1, 3 or 5")
    return found


def _rescue(plan: Plan, members: dict[str, Path], stack: ExitStack) -> None:
    identity = Identity(secrets.token_hex(16), tuple(sorted(members)))
    for name, path in members.items():
        settings = StorageSettings(salt=secrets.randbits(32))
        rebuild(plan, _open(path, stack), name, identity, RealClock(), settings, accept_loss=True)
        click.echo(f"wrote {path} for node {name} of the new cluster {identity.cluster_id}")


def _open(path: Path, stack: ExitStack) -> Disk:
    disk = RealDisk(path)  # locked: a node that still runs on it is refused
    stack.callback(disk.close)
    return disk
