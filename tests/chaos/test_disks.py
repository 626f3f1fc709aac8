"""The file systems of a drill: what was not synced is gone, a full disk is full, nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos.ground.disks import Disks
from chaos.ground.tools import Unavailable


@contextlib.contextmanager
def disks(directory: Path, count: int, size_mb: int = 24) -> Iterator[Disks]:
    try:
        made = Disks(directory, count, size_mb)
    except Unavailable as why:
        pytest.skip(f"power loss: {why}")
    try:
        yield made
    finally:
        made.close()


def mounted(directory: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line]


def loops(directory: Path) -> list[str]:
    """Loop devices over images in `directory`."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(FileNotFoundError):  # taken away between the look and the reading
            found.append(backing.read_text())
    return [text for text in found if str(directory) in text]


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


def test_power_loss_takes_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    with disks(tmp_path, 2) as made:
        mine, other = made.path(1), made.path(2)
        for path in (mine, other):
            path.mkdir()
            with (path / "kept").open("wb", buffering=0) as file:
                file.write(b"synced")
                os.fsync(file.fileno())
        made.cut_power([1])
        with pytest.raises(OSError) as failed:
            (mine / "after").write_bytes(b"x")
        assert failed.value.errno == errno.EIO
        (other / "after").write_bytes(b"has power")
        (loss,) = made.remount([1])
        assert loss.fired and loss.node == 1
        assert (mine / "kept").read_bytes() == b"synced" and not (mine / "after").exists()
        assert (other / "after").read_bytes() == b"has power"


def test_the_control_tells_a_power_loss_from_a_mere_kill(tmp_path: Path) -> None:
    """Without the loss the unsynced control is still there: then the fault did not fire."""
    with disks(tmp_path, 1) as made:
        made._volume(1).lay_controls()
        (loss,) = made.remount([1])
        assert not loss.unsynced_gone and not loss.fired


def test_a_full_disk_takes_no_byte_more_until_it_is_freed(tmp_path: Path) -> None:
    with disks(tmp_path, 1) as made:
        made.path(1).mkdir()
        before = made.free_bytes(1)
        assert made.fill(1) > before // 2
        assert made.free_bytes(1) == 0
        file = os.open(made.path(1) / "one", os.O_RDWR | os.O_CREAT)
        try:
            with pytest.raises(OSError) as failed:
                os.pwrite(file, bytes(4096), 0)
            assert failed.value.errno == errno.ENOSPC
            made.free(1)
            assert os.pwrite(file, bytes(4096), 0) == 4096
        finally:
            os.close(file)


def test_closing_leaves_no_mount_and_no_loop_device(tmp_path: Path) -> None:
    with disks(tmp_path, 2) as made:
        assert len(mounted(tmp_path)) == 2 and len(loops(tmp_path)) == 2
        made.cut_power([2])
    assert not mounted(tmp_path)
    until(lambda: not loops(tmp_path))
    made.close()


HOLDER = """
import sys, time
from pathlib import Path
from chaos.ground.disks import Disks
disks = Disks(Path(sys.argv[1]), 2, 24)
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_drill_that_is_killed_leaves_no_mount_and_no_loop_device(
    tmp_path: Path, number: signal.Signals
) -> None:
    why = Disks.available()
    if why is not None:
        pytest.skip(f"power loss: {why}")
    drill = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with drill:
        assert drill.stdout is not None and drill.stdout.readline() == b"up\n"
        assert len(mounted(tmp_path)) == 2
        drill.send_signal(number)
    until(lambda: not mounted(tmp_path) and not loops(tmp_path))
