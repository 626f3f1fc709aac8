"""Damage on a minority: one node at a time is stopped, a byte of its log or snapshot is flipped or the
file is cut, and it is started again, under load.

Allowed ends are: the same answers, or a refusal that says so. The node must either repair itself from
the leader (`recovering`, then ready) or refuse to start with a sentence; nothing may be lost.

A node is stopped with SIGTERM before it is damaged: a clean stop writes the watermark, so that every
flipped byte lies in what was known durable. Damage in the last second before a crash cannot be told
from a torn write; the promises page says so (R3).
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from chaos.cluster import Cluster, NodeProcess
from chaos.history import History
from chaos.load import Load

SETTINGS = {
    "TRIVET__STORAGE__SEGMENT_BYTES": str(1 << 20),
    "TRIVET__STORAGE__SNAPSHOT_ENTRIES": "200",
}
FAMILIES = {"log-": 7, "snap": 2, "hard": 1}  # which files, how often
KINDS = ("flip", "flip", "cut", "zero")


@dataclass
class DamageReport:
    history: History
    places: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    digests_equal: bool = False

    @property
    def clean(self) -> bool:
        return self.history.clean and self.digests_equal and not self.ends["stuck"]


def used_bytes(path: Path) -> int:
    """Where the content of a file ends: segments are preallocated with zeros."""
    return len(path.read_bytes().rstrip(b"\0"))


def damage(node: NodeProcess, rng: random.Random) -> str:
    """Change one place of one file of a stopped node; answers what was done."""
    files = [
        one for one in sorted(node.data_dir.iterdir()) if one.suffix != ".damaged" and used_bytes(one) > 0
    ]
    family = rng.choices(list(FAMILIES), weights=list(FAMILIES.values()))[0]
    path = rng.choice([one for one in files if one.name.startswith(family)] or files)
    offset = rng.randrange(used_bytes(path))
    kind = rng.choice(KINDS)
    with path.open("r+b") as file:
        if kind == "cut":
            file.truncate(offset)
        else:
            file.seek(offset)
            old = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([old ^ (1 << rng.randrange(8)) if kind == "flip" else 0]))
    return f"{kind} {path.name} at {offset}"


async def back_again(node: NodeProcess, log_from: int, seconds: float) -> str:
    """How the damaged node came back: `repaired` (it said recovering and was fed), `mended alone` (the
    other copy, or the older snapshot and the log, sufficed), `refused` (it ended), `stuck`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not node.running:
            return "refused"
        if await asyncio.to_thread(node.get, "/readyz?verbose") is not None:
            said = node.log.read_bytes()[log_from:]
            return "repaired" if b'"event": "recovering"' in said else "mended alone"
        await asyncio.sleep(0.05)
    return "stuck"


async def equal_digests(cluster: Cluster, seconds: float = 20) -> bool:
    """Equal indices have equal digests, and quiet nodes reach the same index (L3)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answers = [
            await asyncio.to_thread(n.get, "/v1/cluster/digest?consistency=local") for n in cluster.running()
        ]
        seen = {(a["index"], a["digest"]) for a in answers if a}
        if None not in answers and len(seen) == 1:
            return True
        if len({digest for _, digest in seen}) != len({index for index, _ in seen}):
            return False  # two digests for one index
        await asyncio.sleep(0.1)
    return False


async def drill(root: Path, places: int = 100, seed: int = 1) -> DamageReport:
    rng = random.Random(seed)
    history = History()
    report = DamageReport(history)
    with Cluster(root, settings=SETTINGS) as cluster:
        cluster.start_all()
        cluster.wait_leader(30)
        load = Load(cluster.apis, "damage", history)
        await load.prepare()
        load.start(producers=1, workers=1)
        await asyncio.sleep(2)
        for place in range(places):
            node = rng.choice(cluster.nodes)
            await asyncio.to_thread(node.stop)
            what = damage(node, rng)
            log_from = node.log.stat().st_size
            node.start()
            end = await back_again(node, log_from, 30)
            print(f"place {place}: {node.id}: {what}: {end}", flush=True)
            report.places += 1
            report.kinds[what.split()[0]] += 1
            report.ends[end] += 1
            if end in ("refused", "stuck"):
                print(node.last_lines(4), flush=True)
                node.kill()
                wipe(node)
                node.start()
                if await back_again(node, log_from, 30) == "stuck":
                    report.ends["stuck"] += 1
            await asyncio.to_thread(cluster.wait_ready)
        await load.stop()
        await load.drain(60)
        report.digests_equal = await equal_digests(cluster)
        for node in cluster.nodes:
            await asyncio.to_thread(node.stop)
    return report


def wipe(node: NodeProcess) -> None:
    """What an operator does after a refusal: an empty directory, repaired by the leader (R5, R6)."""
    for one in node.data_dir.iterdir():
        one.unlink()


def main(argv: list[str]) -> int:
    places = int(argv[1]) if len(argv) > 1 else 100
    seed = int(argv[2]) if len(argv) > 2 else random.SystemRandom().randrange(1 << 32)
    began = time.monotonic()
    print(f"seed {seed}: python -m chaos.damage {places} {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="trivet-damage-") as root:
        report = asyncio.run(drill(Path(root), places, seed))
    print(
        f"{report.places} damaged places ({dict(report.kinds)}) in {time.monotonic() - began:.0f} s · "
        f"ends {dict(report.ends)} · digests equal: {report.digests_equal}\n{report.history.verdict()}"
    )
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
