"""The archive of segments against a real storage that rolls, compacts, is wiped, damaged, replaced."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from chaos.archive import Archive
from chaos.checker.committed import read_log
from chaos.checker.verdict import Findings

from trivet.storage.real_disk import RealDisk
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import Identity, SnapshotMeta, Storage


class StillClock:
    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 0


def opened(path: Path) -> Storage:
    path.mkdir(parents=True, exist_ok=True)
    storage = Storage.open(RealDisk(path), "n1", StillClock(), StorageSettings(segment_bytes=64 * 1024))
    if storage.identity is None:
        storage.set_identity(Identity("c" * 16, ("n1",), "born"))
    return storage


def write(storage: Storage, first: int, last: int) -> None:
    for index in range(first, last + 1):
        storage.append(index, 1, b"\0entry %d " % index + bytes(300))
        if index % 20 == 0:
            storage.flush()
    storage.flush()


def chain_of(directory: Path) -> list[int]:
    found = Findings("log")
    log = read_log(directory, None, found)
    assert not found.violations
    assert all(data.startswith(b"\0entry %d " % index) for index, _, data in log.read())
    return [index for index, _ in log.chain]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data" / "n1"


def test_keeps_what_compaction_deletes(tmp_path: Path, data: Path) -> None:
    archive = Archive(tmp_path, {"n1": data})
    assert archive.look() == 0 and archive.missed == 1  # not there yet
    storage = opened(data)
    for part in range(5):
        write(storage, part * 200 + 1, part * 200 + 200)
        assert archive.look() > 0
    before = len(list(data.glob("*.seg")))
    for index in (800, 900):  # the log since the older snapshot stays (R7)
        writer = storage.snapshots.writer(SnapshotMeta(index, 1, ("n1",)))
        writer.write(b"a snapshot")
        job = writer.commit(digest=bytes(16))
        job.run()
        job.finish()
    storage.compact(900)
    storage.flush()
    storage.close()
    assert len(list(data.glob("*.seg"))) < before
    archive.look()
    assert archive.collect() >= before
    assert chain_of(tmp_path) == list(range(1, 1001))


def test_a_number_used_again_is_another_file(tmp_path: Path, data: Path) -> None:
    archive = Archive(tmp_path, {"n1": data})
    storage = opened(data)
    write(storage, 1, 50)
    storage.close()
    archive.look()
    shutil.rmtree(data)
    archive.look()
    assert archive.missed == 1
    storage = opened(data)
    write(storage, 1, 80)
    storage.close()
    archive.look()
    assert archive.collect() == 2
    assert chain_of(tmp_path) == list(range(1, 81))


def test_shelf_on_the_nodes_own_file_system(tmp_path: Path) -> None:
    own = tmp_path / "mount"
    data = own / "data"
    archive = Archive(tmp_path / "run", {"n1": data}, own={"n1": own})
    storage = opened(data)
    write(storage, 1, 300)
    archive.look()
    storage.close()
    assert archive.collect() > 1
    copies = sorted((tmp_path / "run" / "log" / "n1").iterdir())
    linked = sorted((own / "archive").iterdir())
    assert [path.name for path in copies] == [path.name for path in linked]
    assert [path.read_bytes() for path in copies] == [path.read_bytes() for path in linked]
    assert chain_of(tmp_path / "run") == list(range(1, 301))


def test_a_damaged_record_is_taken_from_another_node(tmp_path: Path) -> None:
    places = {name: tmp_path / "data" / name for name in ("n1", "n2")}
    archive = Archive(tmp_path, places)
    for path in places.values():
        storage = opened(path)
        write(storage, 1, 100)
        storage.close()
    archive.look()
    segment = next(places["n1"].glob("*.seg"))
    raw = bytearray(segment.read_bytes())
    at = raw.index(b"entry 37 ")
    raw[at] ^= 1
    with segment.open("r+b") as file:  # in place: the link shows it too
        file.write(raw)
    archive.collect()
    assert chain_of(tmp_path) == list(range(1, 101))


def test_watches_by_itself(tmp_path: Path, data: Path) -> None:
    async def scene() -> None:
        archive = Archive(tmp_path, {"n1": data})
        archive.start()
        storage = opened(data)
        write(storage, 1, 100)
        for _ in range(200):
            if list(archive.directory.glob("n1/*.seg*")):
                break
            await asyncio.sleep(0.01)
        storage.close()
        await archive.stop()
        assert archive.collect() == len(list(data.glob("*.seg")))

    asyncio.run(scene())


def test_another_error_is_not_swallowed(tmp_path: Path, data: Path) -> None:
    storage = opened(data)
    write(storage, 1, 20)
    storage.close()
    archive = Archive(tmp_path, {"n1": data})
    (tmp_path / "log").write_bytes(b"in the way")
    with pytest.raises(NotADirectoryError):
        archive.look()
