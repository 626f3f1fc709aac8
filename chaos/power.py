"""`python -m chaos.power`: all nodes lose power at once, some times, under load; nothing acknowledged is lost.

The fault itself is `chaos.faults.disks.PowerLoss`: real file systems that drop what was not synced, with a
positive control beside the data. Needs root, loop devices and mkfs.ext4.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.cluster import DrillCluster
from chaos.faults.disks import OWN_DISKS, PowerLoss
from chaos.ground.disks import Disks
from chaos.ground.tools import Unavailable
from chaos.load import Load
from chaos.tally import History

READY_SECONDS = 60.0
# Small, so that rolls, compactions and snapshots fall into the power loss too.
SETTINGS = {"TRIVET__STORAGE__SNAPSHOT_ENTRIES": "500"}


@dataclass
class PowerReport:
    history: History
    losses: list[dict[str, Any]] = field(default_factory=list)  # evidence of each
    acked_before: list[int] = field(default_factory=list)  # enqueues, when it struck

    @property
    def valid(self) -> bool:
        """Something was acknowledged before each loss. (Each fired, or `drill` would have raised.)"""
        return all(
            after > before for before, after in zip([0, *self.acked_before], self.acked_before, strict=False)
        )

    @property
    def clean(self) -> bool:
        return self.valid and self.history.clean


def require() -> None:
    """Raise `Unavailable` unless this machine can do it."""
    why = Disks.available()
    if why is not None:
        raise Unavailable(why)


async def drill(root: Path, losses: int = 5, load_s: float = 2.0) -> PowerReport:
    """`losses` power losses of all nodes, each `load_s` seconds into a load; then drain and judge. Raises
    `NotFired`, `Unavailable`."""
    require()
    report = PowerReport(History())
    fault = PowerLoss("power_loss_all", "all")
    cluster = DrillCluster(root, needs=OWN_DISKS, settings=SETTINGS)
    try:
        await cluster.start()
        for _ in range(losses):
            await cluster.leader(READY_SECONDS)
            load = Load(cluster.apis, "power", report.history)
            await load.prepare()
            load.start()
            await asyncio.sleep(load_s)
            report.acked_before.append(len(report.history.acknowledged))
            report.losses.append(await fault.fire(cluster, {"target": "all", "pick": 0}))
            await load.abandon()
            await fault.heal(cluster, {})
            print(
                f"power loss {len(report.losses)}: {report.acked_before[-1]} enqueues acknowledged before it",
                flush=True,
            )
        await cluster.leader(READY_SECONDS)
        await Load(cluster.apis, "power", report.history).drain(60)
        await cluster.finish()
    finally:
        await cluster.close()
    return report


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trivet-power-") as root:
        report = asyncio.run(drill(Path(root) / "run"))
    history = report.history
    print(
        f"{len(report.losses)} power losses of all nodes in {time.monotonic() - began:.0f} s · "
        f"{history.unknown} unknown · {sum(c - 1 for c in history.delivered.values() if c > 1)} redeliveries\n"
        f"{history.verdict()}"
    )
    if not report.valid:
        print("INVALID: nothing was acknowledged before a power loss")
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
