"""The real file system: private, locked, no symbolic links; and the whole storage on it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.storage.support import IDENTITY, FakeClock
from trivet.storage import real_disk
from trivet.storage.real_disk import RealDisk
from trivet.storage.storage import SnapshotMeta, Storage, StorageFailed, StorageRefused, StorageSettings

SETTINGS = StorageSettings(segment_bytes=64 * 1024)


def test_directory_and_files_are_private(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "a" / "b")
    file = disk.create("f")
    file.write_at(3, b"xyz")
    assert (file.size, file.read_at(0, 99), file.read_at(4, 1)) == (6, b"\0\0\0xyz", b"y")
    file.allocate(100)
    file.allocate(50)
    assert file.size == 100 and file.read_at(6, 200) == bytes(94)
    file.truncate(4)
    file.sync()
    file.close()
    file.close()
    assert stat.S_IMODE(os.stat(disk.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(disk.path / "f").st_mode) == 0o600
    (disk.path / "lost+found").mkdir()
    assert disk.names() == ["f"] and disk.exists("f") and not disk.exists("g")
    with pytest.raises(FileExistsError):
        disk.create("f")
    with pytest.raises(FileNotFoundError):
        disk.open("g")
    disk.rename("f", "g")
    disk.sync_dir()
    assert disk.names() == ["g"]
    disk.unlink("g")
    assert disk.free_bytes() > 0
    for name in ("", ".", "..", "a/b", "a\0b", "lock"):
        with pytest.raises(ValueError):
            disk.create(name)
    disk.close()
    disk.close()
    os.chmod(disk.path, 0o755)
    RealDisk(disk.path).close()
    assert stat.S_IMODE(os.stat(disk.path).st_mode) == 0o700


def test_a_second_process_is_refused_and_told_who(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "d")
    code = (
        "import sys; from trivet.storage.real_disk import RealDisk; from trivet.storage.errors import StorageRefused\n"
        "try: RealDisk(sys.argv[1])\nexcept StorageRefused as e: print(e); sys.exit(3)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3, done
    assert f"in use by process {os.getpid()}" in done.stdout
    disk.close()
    assert subprocess.run(command, timeout=30, check=False).returncode == 0
    other = RealDisk(tmp_path / "d")
    (tmp_path / "d" / "lock").write_text("")
    with pytest.raises(StorageRefused, match="another process"):
        RealDisk(tmp_path / "d")
    other.close()


def test_symbolic_links_and_strange_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "dangling", "file"):
        with pytest.raises(StorageRefused, match="cannot be used"):
            RealDisk(tmp_path / name)
    disk = RealDisk(tmp_path / "real")
    (tmp_path / "real" / "evil").symlink_to(tmp_path / "file")
    with pytest.raises(OSError):
        disk.open("evil")
    os.mkfifo(tmp_path / "real" / "pipe")
    with pytest.raises(StorageRefused, match="plain file"):
        disk.open("pipe")
    disk.close()
    (tmp_path / "real" / "lock").unlink()
    (tmp_path / "real" / "lock").symlink_to(tmp_path / "file")
    with pytest.raises(StorageRefused, match="cannot open"):
        RealDisk(tmp_path / "real")
    monkeypatch.setattr(real_disk.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StorageRefused, match="another user"):
        RealDisk(tmp_path / "other")


def test_short_reads_and_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path / "d")
    file = disk.create("f")
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(real_disk.os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:3], at))
    file.write_at(1, b"abcdefgh")
    monkeypatch.setattr(real_disk.os, "pread", lambda fd, n, at: pread(fd, min(n, 2), at))
    assert file.read_at(0, 9) == b"\0abcdefgh"
    assert file.read_at(0, 99) == b"\0abcdefgh"
    file.close()
    disk.close()


def test_the_whole_storage_with_the_job_in_a_thread(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "d")
    storage = Storage.open(disk, "n1", FakeClock(), SETTINGS)
    storage.set_identity(IDENTITY)
    for round_ in range(60):
        for _ in range(3):
            storage.append(storage.last_index + 1, 1, os.urandom(1500))
        job = storage.begin_sync()
        assert job is not None
        thread = threading.Thread(target=job.run)
        thread.start()
        storage.append(storage.last_index + 1, 1, b"while it runs")
        if round_ % 7 == 0:
            storage.truncate_from(storage.last_index - 1)
        assert storage.entry(storage.base_index + 1)
        thread.join()
        storage.end_sync(job)
        if round_ % 20 == 19:
            writer = storage.snapshots.writer(SnapshotMeta(storage.durable_index, 1, IDENTITY.members))
            writer.write(b"x" * 5000)
            commit = writer.commit(b"digest")
            commit.run()
            storage.compact(commit.finish().index)
    assert storage.base_index > 0
    expected = storage.entries(storage.base_index + 1, 1 << 40, 1 << 40)
    base = storage.base_index
    storage.close()
    disk.close()
    disk = RealDisk(tmp_path / "d")
    storage = Storage.open(disk, "n1", FakeClock(), SETTINGS)
    assert storage.recovering is None and not storage.notes
    assert storage.base_index == base and storage.entries(base + 1, 1 << 40, 1 << 40) == expected
    assert all(mode == 0o600 for mode in (stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "d").iterdir()))
    storage.close()
    disk.close()


def test_a_full_file_system_and_a_failing_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path / "d")
    storage = Storage.open(disk, "n1", FakeClock(), SETTINGS)
    storage.set_identity(IDENTITY)
    storage.append(1, 1, b"x")
    job = storage.begin_sync()
    assert job is not None

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(real_disk.os, "fdatasync", broken)
    with pytest.raises(StorageFailed):
        job.run()
    storage.close()
    disk.close()
