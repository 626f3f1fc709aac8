"""`python -m chaos.damage PLACES SEED`: places in the files of one node at a time are damaged, under load.

Jepsen's NATS cases: bit flips and truncations in the log and snapshot files of a minority. The faults are
those of `chaos.faults.damage`; which file of a node and where in it goes round evenly, so that PLACES spread
over every file and its whole length. Nothing may be lost, no two nodes may differ, no queue may be gone.
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
from typing import Any

from chaos.cluster import DrillCluster
from chaos.faults import damage
from chaos.load import Load
from chaos.tally import History

READY_SECONDS = 60.0
SETTINGS = {"TRIVET__STORAGE__SEGMENT_BYTES": str(1 << 20), "TRIVET__STORAGE__SNAPSHOT_ENTRIES": "200"}
FAMILIES = ("log", "log", "log", "snapshot", "log", "log", "snapshot", "log", "hard", "identity")
GOLDEN = 0.6180339887498949  # its multiples, modulo 1, fill an interval evenly


@dataclass
class DamageReport:
    history: History
    places: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    digests_equal: bool = False
    queue_kept: bool = False

    @property
    def clean(self) -> bool:
        return self.history.clean and self.digests_equal and self.queue_kept and not self.ends["stuck"]


def place(rng: random.Random, number: int, start: float) -> tuple[damage.Bytes, dict[str, Any]]:
    """The `number`-th place: its fault and parameters."""
    fault = damage.Bytes(f"place {number}", FAMILIES[number % len(FAMILIES)])
    spread = (start + number * GOLDEN) % 1
    parameters = fault.plan(rng, 3) | {"where": spread, "which": (spread * 7) % 1}
    return fault, parameters


async def drill(root: Path, places: int = 100, seed: int = 1) -> DamageReport:
    """Raises `NotFired` when a node does not notice, or does not come back."""
    rng = random.Random(seed)
    start = rng.random()
    report = DamageReport(History())
    cluster = DrillCluster(root, settings=SETTINGS)
    try:
        await cluster.start()
        await cluster.leader(READY_SECONDS)
        load = Load(cluster.apis, "damage", report.history)
        await load.prepare()
        load.start(producers=1, workers=1)
        await asyncio.sleep(2)
        for number in range(places):
            fault, parameters = place(rng, number, start)
            evidence = await fault.fire(cluster, parameters)
            (node, end), *_ = evidence["ends"].items()
            what = evidence["damage"][node]
            print(f"place {number}: {node}: {what}: {end['end']}", flush=True)
            report.places += 1
            report.kinds[what.split()[0]] += 1
            report.ends[end["end"]] += 1
            await fault.heal(cluster, parameters)
            await all_ready(cluster)
        await load.stop()
        await load.drain(60)
        report.digests_equal = await equal_digests(cluster)
        held = [await cluster.ask(node, "/v1/queues/damage?consistency=local") for node in cluster.nodes]
        report.queue_kept = [status for status, _ in held] == [200] * len(cluster.nodes)
        await cluster.finish()
    finally:
        await cluster.close()
    return report


async def all_ready(cluster: DrillCluster) -> None:
    """Raises `TimeoutError` with what is missing."""
    deadline = time.monotonic() + READY_SECONDS
    while missing := await cluster.not_ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready within {READY_SECONDS:g} s: {'; '.join(missing)}")
        await asyncio.sleep(0.05)


async def equal_digests(cluster: DrillCluster, seconds: float = 20) -> bool:
    """Quiet nodes reach the same index with the same digest (L3)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = await cluster.at_rest()
        if (
            len(found) == len(cluster.nodes)
            and len({(one["index"], one["digest"]) for one in found.values()}) == 1
        ):
            return True
        await asyncio.sleep(0.1)
    return False


def main(argv: list[str]) -> int:
    places = int(argv[1]) if len(argv) > 1 else 100
    seed = int(argv[2]) if len(argv) > 2 else random.SystemRandom().randrange(1 << 32)
    began = time.monotonic()
    print(f"seed {seed}: python -m chaos.damage {places} {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="trivet-damage-") as root:
        report = asyncio.run(drill(Path(root) / "run", places, seed))
    print(
        f"{report.places} damaged places ({dict(report.kinds)}) in {time.monotonic() - began:.0f} s · "
        f"ends {dict(report.ends)} · digests equal: {report.digests_equal} · queue kept: {report.queue_kept}\n"
        f"{report.history.verdict()}"
    )
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
