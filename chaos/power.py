"""Power loss of all nodes at once, on real file systems.

Each node's data lies on an ext4 image of its own, loop-mounted. `FS_IOC_SHUTDOWN` with NOLOGFLUSH makes
the kernel drop everything that was not fsynced, on all three while they are under load; then the
processes are killed, the images mounted again and the nodes started. A kill -9 alone would prove
nothing: the page cache survives it. The positive control writes a file without fsync beside the data:
it must be gone, or the drill is invalid (L8).

Needs root, loop devices and mkfs.ext4. Reference: reliability.md, D5.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.cluster import Cluster
from chaos.history import History
from chaos.load import Load

FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
IMAGE_BYTES = 512 * 1024 * 1024
# Small segments and snapshots, so that rolls, compactions and snapshots fall into the power loss too.
SETTINGS = {
    "TRIVET__STORAGE__SEGMENT_BYTES": str(4 << 20),
    "TRIVET__STORAGE__SNAPSHOT_ENTRIES": "500",
    "TRIVET__STORAGE__DISK_RESERVE_BYTES": str(48 << 20),
    "TRIVET__STORAGE__DISK_FLOOR_BYTES": str(16 << 20),
}


class Unavailable(Exception):
    """This machine cannot run the drill; the text says why."""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass
class Volume:
    """A loop-mounted ext4 image that can lose its power."""

    image: Path
    mount: Path
    device: str = ""

    def make(self) -> None:
        with self.image.open("wb") as out:
            out.truncate(IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount.mkdir()
        self.attach()

    def attach(self) -> None:
        self.device = _run("losetup", "-f", "--show", str(self.image))
        _run("mount", self.device, str(self.mount))

    def lose_power(self) -> None:
        """Everything not fsynced on this file system is gone from now on; all further IO fails."""
        root = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(root, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(root)

    def detach(self) -> None:
        if self.device:
            _run("umount", str(self.mount))
            _run("losetup", "-d", self.device)
            self.device = ""


def require() -> None:
    """Raise `Unavailable` unless this machine can do it."""
    if os.geteuid() != 0:
        raise Unavailable("needs root for loop mounts")
    for tool in ("mkfs.ext4", "losetup", "mount"):
        if shutil.which(tool, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin") is None:
            raise Unavailable(f"{tool} is not installed (Debian: e2fsprogs, mount)")


@dataclass
class PowerReport:
    losses: int
    controls_gone: int
    history: History
    acked_before: list[int]

    @property
    def valid(self) -> bool:
        """The fault fired at every loss, and the load did something between any two."""
        grows = all(
            after > before for before, after in zip(self.acked_before, self.acked_before[1:], strict=False)
        )
        return self.controls_gone == 3 * self.losses and grows

    @property
    def clean(self) -> bool:
        return self.valid and self.history.clean


async def drill(root: Path, losses: int = 5, load_s: float = 2.0) -> PowerReport:
    """`losses` power losses of all nodes, each `load_s` seconds into a load; then drain and judge."""
    require()
    root.mkdir(parents=True, exist_ok=True)
    volumes = [Volume(root / f"n{i}.img", root / f"m{i}") for i in (1, 2, 3)]
    history, acked_before, controls_gone = History(), [], 0
    try:
        for volume in volumes:
            volume.make()
        with Cluster(
            root / "logs", data_dirs=[v.mount / "data" for v in volumes], settings=SETTINGS
        ) as cluster:
            for round_ in range(losses):
                cluster.start_all()
                leader = cluster.wait_leader(30)
                load = Load(cluster.apis, "power", history)
                await load.prepare()
                load.start()
                await asyncio.sleep(load_s)
                acked_before.append(len(history.acknowledged))
                for volume in volumes:
                    (volume.mount / "control").write_text("never fsynced")
                for volume in volumes:
                    volume.lose_power()
                cluster.kill_all()
                load.stopping.set()
                for task in load.tasks:
                    task.cancel()
                await asyncio.gather(*load.tasks, return_exceptions=True)
                for volume in volumes:
                    volume.detach()
                    volume.attach()
                controls_gone += sum(not _holds_control(v.mount / "control") for v in volumes)
                print(
                    f"power loss {round_ + 1}: leader {leader.id}, {acked_before[-1]} enqueues acknowledged before it",
                    flush=True,
                )
            cluster.start_all()
            cluster.wait_leader(30)
            await Load(cluster.apis, "power", history).drain(60)
            for node in cluster.nodes:
                node.stop()
    finally:
        for volume in volumes:
            volume.detach()
    return PowerReport(losses, controls_gone, history, acked_before)


def _holds_control(path: Path) -> bool:
    """ext4 may bring the name back with a tail of zeros; what counts is the content."""
    return path.exists() and path.read_bytes() == b"never fsynced"


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trivet-power-") as root:
        report = asyncio.run(drill(Path(root)))
    history = report.history
    print(
        f"{report.losses} power losses of all three nodes in {time.monotonic() - began:.0f} s · "
        f"controls gone {report.controls_gone} of {3 * report.losses} · {history.unknown} unknown · "
        f"{sum(c - 1 for c in history.delivered.values() if c > 1)} redeliveries\n{history.verdict()}"
    )
    if not report.valid:
        print("INVALID: a planned fault did not fire, or nothing was acknowledged between two of them")
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
