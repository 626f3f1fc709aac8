"""Damage to the data directory of a minority while its nodes are down: bytes, files, whole directories.

Allowed ends are: the same answers, or a refusal that says so. A node is stopped with SIGTERM before its
files are changed: a clean stop writes the watermark, so that every changed byte lies in what was known
durable. Damage in the last second before a crash cannot be told from a torn write, and no rule promises it
(R3). Evidence is what the node says about it: it begins `recovering`, it notes the repair, or it refuses to
start with a sentence. Where it has nothing to say (one copy of two was replaced), the file itself is healed.

Not fired, because no rule promises anything: a whole older copy of the directory put back. It agrees with
itself, so R3, which judges a directory by what lies in it, takes it for the truth; entries and votes given
since are forgotten. (A restore makes a new cluster: R17.) What R3 does find is an older log or snapshot
below a newer hard state: `stale_log`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.cluster import DrillCluster, pid_of
from chaos.faults.port import Fault, NotFired
from chaos.faults.processes import pick
from trivet.cli.local import LocalNode

STOP_SECONDS = 30.0
BACK_SECONDS = 60.0
POLL_SECONDS = 0.05
FAMILIES = {"log": "log-", "snapshot": "snap-", "hard": "hard-", "identity": "identity-"}
KINDS = ("flip", "cut", "zero")
RECORDS_AT = 4096  # of a segment; its header is a block at the beginning of that page
ZEROED_BYTES = 512
SNAPSHOT_SECONDS = 15.0


@dataclass
class Return:
    """How a node came back. `end`: `repaired` (it was recovering and a leader fed it), `mended` (the other
    copy, or the older snapshot and the log, sufficed), `refused` (it ended), `stuck`."""

    end: str
    said: list[str] = field(default_factory=list)


# --- single files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bytes:
    """One place of one file of each struck node is flipped (a bit), zeroed or cut off (all behind it)."""

    name: str
    family: str
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {
            "target": "minority",
            "pick": pick(rng),
            "kind": rng.choice(KINDS),
            "which": round(rng.random(), 6),
            "where": round(rng.random(), 6),
            "bit": rng.randrange(8),
        }

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        done: dict[str, str] = {}
        nodes = await struck(cluster, parameters)
        if self.family == "snapshot":
            for node in nodes:
                await have_snapshot(cluster, node)

        async def hurt(node: LocalNode) -> None:
            done[node.id] = await asyncio.to_thread(
                damage_bytes, node.data_dir, keep_of(node), self.family, parameters
            )

        evidence = await strike(cluster, nodes, hurt)
        ends = evidence["ends"]
        for node_id, what in done.items():
            healed = is_healed(cluster.node(node_id).data_dir, what)
            if ends[node_id]["end"] == "stuck" or not (ends[node_id]["said"] or healed):
                raise NotFired(f"{node_id}: {what}: {ends[node_id]}")
        return {**evidence, "damage": done}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await put_right(cluster)


async def have_snapshot(cluster: DrillCluster, node: LocalNode) -> None:
    """Asks for one if there is none yet. Raises `NotFired` if none comes."""
    deadline = time.monotonic() + SNAPSHOT_SECONDS
    while not any(one.name.startswith("snap-") and is_plain(one) for one in node.data_dir.iterdir()):
        if time.monotonic() > deadline:
            raise NotFired(f"{node.id} takes no snapshot within {SNAPSHOT_SECONDS:g} s")
        await cluster.post(node, "/v1/cluster/snapshot", {})
        await asyncio.sleep(4 * POLL_SECONDS)


def keep_of(node: LocalNode) -> Path:
    """Where a fault keeps what it changes, on the node's own file system."""
    return node.data_dir.parent / f"kept-{node.id}"


def damage_bytes(directory: Path, keep: Path, family: str, parameters: dict[str, Any]) -> str:
    """Changes one place; says what. The old file goes to `keep`. Raises `NotFired` if there is no such file."""
    prefix = FAMILIES[family]
    files = [one for one in sorted(directory.iterdir()) if one.name.startswith(prefix) and is_plain(one)]
    if not files:
        raise NotFired(f"{directory} holds no {prefix} file yet")
    path = files[int(parameters["which"] * len(files))]
    old = path.read_bytes()
    first = RECORDS_AT if family == "log" else 0
    end = len(old.rstrip(b"\0"))  # segments are allocated with zeros
    if end <= first:
        first = 0
    offset = first + int(parameters["where"] * (end - first))
    while not old[offset]:  # a zero may be padding; the last byte is none
        offset += 1
    new = changed(old, offset, parameters["kind"], parameters["bit"])
    assert new != old
    keep.mkdir(exist_ok=True)
    shutil.copy2(path, keep / path.name)
    replace_with(path, new)
    return f"{parameters['kind']} {path.name} at {offset} of {end}"


def is_plain(path: Path) -> bool:
    """Holds something, and is not put aside as evidence by an earlier repair."""
    return (
        path.suffix not in (".damaged", ".tmp") and path.is_file() and bool(path.read_bytes().rstrip(b"\0"))
    )


def changed(old: bytes, offset: int, kind: str, bit: int) -> bytes:
    if kind == "cut":
        return old[:offset]
    if kind == "zero":
        length = min(ZEROED_BYTES, len(old) - offset)
        return old[:offset] + bytes(length) + old[offset + length :]
    return old[:offset] + bytes([old[offset] ^ 1 << bit]) + old[offset + 1 :]


def replace_with(path: Path, data: bytes) -> None:
    """A new file under the old name: the archive of segments has hard links to the old one."""
    draft = path.parent.parent / f"{path.name}.new"
    draft.write_bytes(data)
    shutil.copystat(path, draft)
    os.replace(draft, path)


def is_healed(directory: Path, what: str) -> bool:
    """Whether a small file that was replaced is as good as its twin again (R4, R5: two copies)."""
    name = what.split()[1]
    if not name.startswith((FAMILIES["hard"], FAMILIES["identity"])):
        return False
    twin = directory / (name[:-1] + ("b" if name.endswith("a") else "a"))
    return twin.exists() and (directory / name).read_bytes() == twin.read_bytes()


@dataclass(frozen=True)
class BothCopies:
    """Both copies of the hard state (the node must come back recovering: R4) or of the identity (it must
    refuse to start) have a flipped bit."""

    name: str
    family: str
    end: str
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {
            "target": "minority",
            "pick": pick(rng),
            "where": round(rng.random(), 6),
            "bit": rng.randrange(8),
        }

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        nodes = await struck(cluster, parameters)

        async def hurt(node: LocalNode) -> None:
            for which in (0.0, 0.5):
                place = {**parameters, "kind": "flip", "which": which}
                await asyncio.to_thread(damage_bytes, node.data_dir, keep_of(node), self.family, place)

        evidence = await strike(cluster, nodes, hurt)
        expect(evidence, self.end)
        return evidence

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await put_right(cluster)


# --- files and directories ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StaleLog:
    """Log and snapshots as they were `age_s` earlier, below the hard state of now: R3, by the watermark."""

    name: str = "stale_log"
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": "minority", "pick": pick(rng), "age_s": round(rng.uniform(1.0, 4.0), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        nodes = await struck(cluster, parameters)
        await stop_cleanly(cluster, nodes)
        for node in nodes:
            await asyncio.to_thread(copy_of_log, node.data_dir, keep_of(node))
            await cluster.start_node(node)
        await came_back(cluster, nodes, {node.id: node.log.stat().st_size for node in nodes})
        await asyncio.sleep(parameters["age_s"])
        evidence = await strike(cluster, nodes, put_old_log)
        expect(evidence, "repaired")
        return evidence

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        for node in cluster.nodes:
            shutil.rmtree(keep_of(node), ignore_errors=True)
        await cluster.start_down()


def log_files(directory: Path) -> list[Path]:
    return [one for one in sorted(directory.iterdir()) if one.name.startswith(("log-", "snap-"))]


def copy_of_log(directory: Path, keep: Path) -> None:
    keep.mkdir(exist_ok=True)
    for path in log_files(directory):
        shutil.copy2(path, keep / path.name)


async def put_old_log(node: LocalNode) -> None:
    for path in log_files(node.data_dir):
        path.unlink()
    for path in log_files(keep_of(node)):
        shutil.copy2(path, node.data_dir / path.name)


@dataclass(frozen=True)
class ForeignFiles:
    """Files of another node lie where the node's own were: all of them, or one segment. It must refuse and
    say whose they are. Its own are put back by `heal`."""

    name: str
    segment_only: bool
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": "minority", "pick": pick(rng)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        nodes = await struck(cluster, parameters)
        other = next(node for node in cluster.nodes if node not in nodes)

        async def hurt(node: LocalNode) -> None:
            replace = foreign_segment if self.segment_only else foreign_directory
            await asyncio.to_thread(replace, node.data_dir, keep_of(node), other.data_dir)

        evidence = await strike(cluster, nodes, hurt)
        expect(evidence, "refused", f"belongs to node '{other.id}'")
        return {**evidence, "from": other.id}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await put_right(cluster)


def foreign_directory(directory: Path, keep: Path, other: Path) -> None:
    """The other node goes on writing its own while it is copied."""
    directory.rename(keep)
    directory.mkdir(mode=0o700)
    for path in sorted(other.iterdir()):
        if path.is_file() and path.name != "lock":
            copy_if_there(path, directory / path.name)


def foreign_segment(directory: Path, keep: Path, other: Path) -> None:
    mine = [one for one in log_files(directory) if one.name.startswith("log-") and is_plain(one)]
    theirs = [one for one in log_files(other) if one.name.startswith("log-") and is_plain(one)]
    keep.mkdir(exist_ok=True)
    os.replace(mine[-1], keep / mine[-1].name)
    shutil.copy2(theirs[-1], mine[-1])


def copy_if_there(source: Path, target: Path) -> None:
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        return  # compacted away since it was listed


@dataclass(frozen=True)
class Wiped:
    """An empty directory under a known id: it must come back recovering (R5, R6). Evidence: the node was born
    anew from the others' cluster, and said of itself that it recovers, or that it has recovered."""

    name: str = "wiped_directory"
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"target": "minority", "pick": pick(rng)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        nodes = await struck(cluster, parameters)

        async def hurt(node: LocalNode) -> None:
            await asyncio.to_thread(wipe, node.data_dir)

        evidence = await strike(cluster, nodes, hurt)
        for node_id, found in evidence["ends"].items():
            if found["end"] != "repaired":
                raise NotFired(f"{node_id} came back from an empty directory without recovering: {found}")
        return evidence

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        await cluster.start_down()


def wipe(directory: Path) -> None:
    shutil.rmtree(directory)


# --- stopping, starting, listening ----------------------------------------------------------------------


async def struck(cluster: DrillCluster, parameters: dict[str, Any]) -> list[LocalNode]:
    """The nodes to damage. Raises `NotFired` unless all others are whole: a damaged majority is beyond every
    promise."""
    nodes = await cluster.resolve(parameters["target"], parameters["pick"])
    await others_are_whole(cluster, nodes)
    return nodes


async def strike(
    cluster: DrillCluster, nodes: list[LocalNode], hurt: Callable[[LocalNode], Awaitable[None]]
) -> dict[str, Any]:
    """Stops the nodes, hurts each, starts them and waits until they are back or have ended."""
    at = time.monotonic_ns()
    await stop_cleanly(cluster, nodes)
    for node in nodes:
        await hurt(node)
    starts = {node.id: node.log.stat().st_size for node in nodes}
    for node in nodes:
        await cluster.start_node(node)
    ends = await came_back(cluster, nodes, starts)
    said = {name: {"end": found.end, "said": found.said} for name, found in ends.items()}
    return {"t": at, "nodes": [node.id for node in nodes], "ends": said}


async def others_are_whole(cluster: DrillCluster, nodes: list[LocalNode]) -> None:
    for node in cluster.nodes:
        if node not in nodes and (await cluster.ask(node, "/readyz?verbose"))[0] != 200:
            raise NotFired(f"{node.id} is not whole: damage to {[one.id for one in nodes]} might be a loss")


async def stop_cleanly(cluster: DrillCluster, nodes: list[LocalNode]) -> None:
    """One after another, so that each can hand its office over. Raises `NotFired` for another exit code than 0."""
    for node in nodes:
        pid_of(node)
        code = await asyncio.wait_for(cluster.kill(node, signal.SIGTERM), STOP_SECONDS)
        if code != 0:
            raise NotFired(f"{node.id} ended with {code} instead of stopping cleanly")


async def came_back(
    cluster: DrillCluster, nodes: list[LocalNode], log_from: dict[str, int]
) -> dict[str, Return]:
    """Waits for each until it is ready or has ended. `log_from`: where in its log this life begins."""
    ends: dict[str, Return] = {}
    deadline = time.monotonic() + BACK_SECONDS
    while len(ends) < len(nodes):
        for node in nodes:
            if node.id in ends:
                continue
            if not node.is_running:
                ends[node.id] = Return("refused", complaints(node, log_from[node.id]))
            elif (await cluster.ask(node, "/readyz?verbose"))[0] == 200:
                said = complaints(node, log_from[node.id])
                fed = any(line.startswith(("recovering", "consensus: recovered")) for line in said)
                ends[node.id] = Return("repaired" if fed else "mended", said)
            elif time.monotonic() > deadline:
                ends[node.id] = Return("stuck", complaints(node, log_from[node.id]))
        await asyncio.sleep(POLL_SECONDS)
    return ends


def complaints(node: LocalNode, log_from: int) -> list[str]:
    """What the node said about its directory in this life."""
    found = []
    for line in node.log.read_bytes()[log_from:].decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a plain sentence: why it does not start
            if "cannot be used" in line:
                found.append(line.strip())
            continue
        what = event.get("event")
        if what in ("recovering", "storage_repaired"):
            found.append(f"{what}: {event.get('reason') or event.get('detail')}")
        elif what == "consensus" and event.get("what") in ("recovered", "birth"):
            found.append(f"{what}: {event['what']} {event.get('detail')}")
    return found


def expect(evidence: dict[str, Any], end: str, saying: str = "") -> None:
    """Raises `NotFired` unless every struck node came to this end and said this."""
    for node_id, found in evidence["ends"].items():
        if found["end"] != end or (saying and not any(saying in line for line in found["said"])):
            raise NotFired(f"{node_id} should have {end} {saying}: {found}")


async def put_right(cluster: DrillCluster) -> None:
    """Nodes that refused get back what was theirs; what was kept of the others is dropped."""
    for node in cluster.nodes:
        keep = keep_of(node)
        if keep.exists() and not node.is_running:
            await asyncio.to_thread(give_back, node.data_dir, keep)
        shutil.rmtree(keep, ignore_errors=True)
    await cluster.start_down()


def give_back(directory: Path, keep: Path) -> None:
    if (keep / "lock").exists():  # the whole directory was moved away
        shutil.rmtree(directory)
        keep.rename(directory)
        return
    for path in keep.iterdir():
        os.replace(path, directory / path.name)


FAULTS: tuple[Fault, ...] = (
    Bytes("damage_log", "log"),
    Bytes("damage_snapshot", "snapshot"),
    Bytes("damage_hard_state", "hard"),
    Bytes("damage_identity", "identity"),
    BothCopies("damage_hard_state_twice", "hard", "repaired"),
    BothCopies("damage_identity_twice", "identity", "refused"),
    StaleLog(),
    ForeignFiles("foreign_directory", segment_only=False),
    ForeignFiles("foreign_segment", segment_only=True),
    Wiped(),
)
