"""The damage that drills do: it is where it says, it is noticed by a node's storage, and nothing worse follows.

The last of these is Jepsen's NATS case on the files themselves: flips, zeroed and cut places over the whole
length of every log, snapshot, hard state and identity file, each opened by the real storage.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos.damage import place
from chaos.faults import damage
from chaos.faults.port import NotFired

from tests.long import pick
from tests.unit.storage.support import FakeClock
from trivet.storage.real_disk import RealDisk
from trivet.storage.storage import Identity, SnapshotMeta, Storage, StorageRefused, StorageSettings

SETTINGS = StorageSettings(segment_bytes=4096 + 4096)
IDENTITY = Identity("c1", ("n1", "n2", "n3"))
ENTRIES = 40
TERM = 3


@contextmanager
def opened(directory: Path) -> Iterator[Storage]:
    disk = RealDisk(directory)
    try:
        storage = Storage.open(disk, "n1", FakeClock(), SETTINGS)
        try:
            yield storage
        finally:
            storage.close()
    finally:
        disk.close()


def body(index: int) -> bytes:
    return b"%d:" % index + bytes([index % 251 + 1]) * 300


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several segments, two snapshots; stopped cleanly."""
    directory = tmp_path_factory.mktemp("pristine") / "data"
    with opened(directory) as storage:
        storage.set_identity(IDENTITY)
        storage.set_vote(TERM, "n2")
        for index in range(1, ENTRIES + 1):
            storage.append(index, TERM, body(index))
            sync(storage)
            if index in (10, 20):
                writer = storage.snapshots.writer(SnapshotMeta(index, TERM, IDENTITY.members))
                writer.write(b"state of %d " % index * 400)
                job = writer.commit(b"digest")
                job.run()
                job.finish()
    return directory


def sync(storage: Storage) -> None:
    job = storage.begin_sync()
    if job is not None:
        job.run()
        storage.end_sync(job)


def parameters(rng: random.Random, kind: str) -> dict[str, Any]:
    return {"kind": kind, "which": rng.random(), "where": rng.random(), "bit": rng.randrange(8)}


def judge(directory: Path) -> str:
    """How storage ends with this directory; whatever it shows is what was written, or the node cannot vote."""
    try:
        with opened(directory) as storage:
            shown = [(i, data) for i, _, data in storage.entries(storage.base_index + 1, 1 << 40, 1 << 40)]
            assert all(data == body(i) for i, data in shown)
            if storage.recovering is not None:
                return "recovering"
            assert storage.last_index == ENTRIES and (storage.term, storage.voted_for) == (TERM, "n2")
            assert storage.identity == IDENTITY and storage.snapshots.latest is not None
            assert storage.base_index <= storage.snapshots.latest.index
            return "noted" if storage.notes else "silent"
    except StorageRefused:
        return "refused"


def test_the_pristine_directory_is_whole(pristine: Path, tmp_path: Path) -> None:
    shutil.copytree(pristine, tmp_path / "data")
    assert judge(tmp_path / "data") == "silent"
    names = [one.name for one in pristine.iterdir()]
    assert sum(name.startswith("log-") for name in names) >= 3
    assert sum(name.startswith("snap-") for name in names) == 2


@pytest.mark.parametrize("kind", damage.KINDS)
@pytest.mark.parametrize("family", damage.FAMILIES)
def test_every_place_is_noticed_or_mended_from_the_twin(
    pristine: Path, tmp_path: Path, family: str, kind: str
) -> None:
    rng = random.Random(f"{family} {kind}")
    ends: Counter[str] = Counter()
    for number in range(pick(40, 2000)):
        directory = tmp_path / f"{number}" / "data"
        shutil.copytree(pristine, directory)
        what = damage.damage_bytes(directory, directory.parent / "kept", family, parameters(rng, kind))
        end = judge(directory)
        if end == "silent":
            assert damage.is_healed(directory, what), what
            end = "twin"
        ends[end] += 1
        shutil.rmtree(directory.parent)
    allowed = {"log": {"recovering"}, "snapshot": {"noted"}, "hard": {"noted"}, "identity": {"twin"}}
    assert set(ends) == allowed[family]


def test_only_one_file_changes_and_the_archives_link_keeps_the_old_one(
    pristine: Path, tmp_path: Path
) -> None:
    directory, keep = tmp_path / "data", tmp_path / "kept"
    shutil.copytree(pristine, directory)
    for path in directory.iterdir():
        os.link(path, tmp_path / f"archived-{path.name}")
    rng = random.Random(5)
    what = damage.damage_bytes(directory, keep, "log", parameters(rng, "flip"))
    name, offset = what.split()[1], int(what.split()[3])
    for path in pristine.iterdir():
        assert (tmp_path / f"archived-{path.name}").read_bytes() == path.read_bytes()
        now = (directory / path.name).read_bytes()
        wrong = [at for at, (new, old) in enumerate(zip(now, path.read_bytes(), strict=True)) if new != old]
        assert wrong == ([offset] if path.name == name else [])
    assert (keep / name).read_bytes() == (pristine / name).read_bytes()
    damage.give_back(directory, keep)
    assert judge(directory) == "silent"


def test_both_copies_of_the_identity_gone_bad_are_refused(pristine: Path, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(pristine, directory)
    for which in (0.0, 0.5):
        flip = {"kind": "flip", "which": which, "where": 0.5, "bit": 1}
        damage.damage_bytes(directory, tmp_path / "kept", "identity", flip)
    assert judge(directory) == "refused"


def test_an_old_log_below_a_new_hard_state_is_damage(pristine: Path, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(pristine, directory)
    damage.copy_of_log(directory, tmp_path / "kept")
    with opened(directory) as storage:
        storage.append(ENTRIES + 1, TERM, body(ENTRIES + 1))
        sync(storage)
    for path in damage.log_files(directory):
        path.unlink()
    for path in damage.log_files(tmp_path / "kept"):
        shutil.copy2(path, directory / path.name)
    assert judge(directory) == "recovering"


def test_a_file_that_is_not_there_cannot_be_damaged(tmp_path: Path) -> None:
    with pytest.raises(NotFired, match="no snap- file"):
        damage.damage_bytes(tmp_path, tmp_path / "kept", "snapshot", parameters(random.Random(1), "flip"))


@pytest.mark.parametrize(
    ("end", "said", "right"),
    [("refused", ["belongs to node 'n2'"], True), ("refused", [], False), ("repaired", ["n2"], False)],
)
def test_an_end_that_was_not_expected_is_said(end: str, said: list[str], right: bool) -> None:
    evidence = {"ends": {"n1": {"end": end, "said": said}}}
    if right:
        damage.expect(evidence, "refused", "belongs to node 'n2'")
    else:
        with pytest.raises(NotFired, match="n1 should have refused"):
            damage.expect(evidence, "refused", "belongs to node 'n2'")


def test_the_places_of_a_sweep_spread_over_files_and_offsets() -> None:
    rng = random.Random(3)
    places = [place(rng, number, 0.25) for number in range(200)]
    assert {fault.family for fault, _ in places} == set(damage.FAMILIES)
    logs = [found for fault, found in places if fault.family == "log"]
    for key in ("which", "where"):
        assert {int(found[key] * 10) for found in logs} == set(range(10)), key


def test_a_node_with_a_damaged_majority_beside_it_is_not_touched() -> None:
    """Damage beyond a minority is beyond every promise: such a fault is not fired."""

    class Node:
        def __init__(self, name: str) -> None:
            self.id = name

    class Cluster:
        nodes = (Node("n1"), Node("n2"), Node("n3"))

        async def ask(self, node: Node, path: str) -> tuple[int, dict[str, Any]]:
            return (503 if node.id == "n3" else 200), {}

    cluster: Any = Cluster()
    with pytest.raises(NotFired, match="n3 is not whole"):
        asyncio.run(damage.others_are_whole(cluster, list(cluster.nodes[:1])))
