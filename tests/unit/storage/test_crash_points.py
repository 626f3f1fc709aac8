"""Power cut, kill, EIO and ENOSPC at every single disk operation of six stories, with several random survivals."""

from __future__ import annotations

import errno
import random

import pytest

from tests.long import pick
from tests.simulation.disk import SimCrash, SimDisk
from tests.unit.storage.support import (
    SMALL,
    Expected,
    FakeClock,
    LogState,
    Scenario,
    Watched,
    check,
    reopen,
    run_until,
)
from trivet.storage.storage import Storage, StorageRefused

SURVIVALS = pick(2, 6)  # which un-synced pages survive, by chance
ROUNDS = pick(3, 6)  # a third snapshot lets the first one and its segments go
OPERATIONS_MAX = 2000


def appends(w: Watched) -> None:
    """Small and large batches, rolls, a record larger than a segment, clean close."""
    w.vote(1, "n1")
    for size in (10, 300, 0, 900):
        w.append(size)
        w.sync()
    for size in (5, 700, 700, 700, 1200, 3):  # one job through several segments
        w.append(size)
    w.sync()
    w.append(5000)
    w.sync()
    w.clock.now += 1.0
    w.sync()  # only the watermark
    w.append(1)
    w.storage.close()
    del w.expected.logs[:-1]


def truncations(w: Watched) -> None:
    """Conflicts: entries replaced by those of a newer term, while synced and while not."""
    w.vote(1, "n2")
    for _ in range(6):
        w.append(200)
    w.sync()
    w.vote(2, None)
    w.truncate_from(4)
    w.append(300, term=2)
    w.sync()
    w.append(10, term=2)
    w.append(20, term=2)
    w.truncate_from(6)
    w.append(30, term=3)
    w.sync()
    w.truncate_from(1)
    w.sync()
    w.append(2000, term=3)
    w.append(10, term=3)
    w.sync()


def votes(w: Watched) -> None:
    """Terms and votes, with and without entries in the same job."""
    for term in range(1, 6):
        w.vote(term, None)
        w.sync()
        w.append(40, term=term)
        w.vote(term, f"n{term}")
        w.sync()


def snapshots(w: Watched) -> None:
    """Local snapshots and compaction: the log since the older one stays."""
    w.vote(1, "n1")
    for round_ in range(ROUNDS):
        for _ in range(6):
            w.append(400)
            w.sync()
        w.snapshot((round_ + 1) * 6 - 1, 1)
        w.compact((round_ + 1) * 6 - 1)
        w.sync()


def compaction(w: Watched) -> None:
    """Several segments go in one job: whatever is left of them, the log is whole."""
    w.vote(1, "n1")
    for index in range(1, 13):
        w.append(700)
        w.sync()
        if index % 4 == 0:
            w.snapshot(index, 1)
    before = w.storage.base_index
    w.compact(12)
    assert w.storage.base_index - before >= 4, "no more than one segment goes"
    w.sync()


def install(w: Watched) -> None:
    """A snapshot from the leader over a log that is behind it; then the log goes on."""
    w.vote(1, "n1")
    for _ in range(4):
        w.append(300)
    w.sync()
    w.snapshot(50, 2)
    w.reset_to(50, 2)
    w.sync()
    for _ in range(8):
        w.append(500, term=2)
        w.sync()
    w.snapshot(55, 2)
    w.compact(55)
    w.sync()
    w.snapshot(57, 2)
    w.compact(57)
    w.sync()


STORIES: list[Scenario] = [appends, truncations, votes, snapshots, compaction, install]


def every_point(story: Scenario, nth_fault: object, after: object) -> int:
    """Runs the story with each operation hit, N = 1, 2, ... until it passes; answers the number of points."""
    for nth in range(1, OPERATIONS_MAX):
        passed = True
        for survival in range(SURVIVALS):
            disk, expected, through = run_until(story, nth_fault, nth, seed=nth * 1000 + survival)  # type: ignore[arg-type]
            passed = passed and through
            after(disk, expected, random.Random(nth * 1000 + survival))  # type: ignore[operator]
        if passed:
            return nth - 1
    raise AssertionError("the story never passes")


def cut_and_check(disk: SimDisk, expected: Expected, rng: random.Random) -> None:
    """Power cut; a second one somewhere inside the recovery; then everything must hold, and go on."""
    disk.crash()
    disk.crash_at(rng.randint(1, 25))
    try:
        first = check(reopen(disk, expected), expected)
        disk.heal()
    except SimCrash:
        first = None
    disk.crash()
    storage = reopen(disk, expected)
    seen = check(storage, expected)
    if first is not None:
        assert seen == first, "what one open has shown, a later one shows too"
    go_on(disk, storage, seen)


def restarted(disk: SimDisk, expected: Expected, rng: random.Random) -> None:
    """The process alone ends and is started again; the power goes at once or after it went on."""
    disk.kill()
    storage = reopen(disk, expected)
    first = check(storage, expected)
    if rng.random() < 0.5:
        disk.crash()
        storage = reopen(disk, expected)
        assert check(storage, expected) == first
    go_on(disk, storage, first)


def go_on(disk: SimDisk, storage: Storage, seen: LogState) -> None:
    """The recovered log can be written on, and what is written survives the next cut."""
    storage.set_vote(storage.term + 1, "n3")
    data = b"after the crash" * 20
    storage.append(storage.last_index + 1, 9, data)
    job = storage.begin_sync()
    assert job is not None
    job.run()
    storage.end_sync(job)
    disk.crash()
    again = Storage.open(disk, "n1", FakeClock(), SMALL)
    assert again.recovering is None
    assert again.last_index == seen.last + 1
    assert again.entry(again.last_index) == data
    assert [t for _, t, _ in again.entries(seen.base + 1, seen.last + 1, 1 << 40)] == [
        t for t, _ in seen.entries
    ]
    again.close()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_power_cut_at_every_operation(story: Scenario) -> None:
    points = every_point(story, lambda disk, nth: disk.crash_at(nth), cut_and_check)
    assert points > 40, "the story must pass many operations"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_kill_at_every_operation_then_power_cut(story: Scenario) -> None:
    """After a mere kill the page cache is what open reads: it must not call durable what is only there."""

    def after(disk: SimDisk, expected: Expected, rng: random.Random) -> None:
        restarted(disk, expected, rng)

    every_point(story, lambda disk, nth: disk.crash_at(nth), after)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_io_error_at_every_operation(story: Scenario) -> None:
    """EIO ends the process; fsyncgate: what the failed sync held may be lost although it can be read."""
    every_point(story, lambda disk, nth: disk.fail("any", nth, errno.EIO), cut_and_check)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_io_error_restart_power_cut(story: Scenario) -> None:
    """The hard fsyncgate: the failed process is started again, reads its lost pages from the cache, says
    "durable" of them, and then the power goes."""

    def after(disk: SimDisk, expected: Expected, rng: random.Random) -> None:
        restarted(disk, expected, rng)

    every_point(story, lambda disk, nth: disk.fail("any", nth, errno.EIO), after)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_no_space_at_every_operation(story: Scenario) -> None:
    every_point(story, lambda disk, nth: disk.fail("any", nth, errno.ENOSPC), cut_and_check)


def test_positive_control_a_lying_disk_is_noticed() -> None:
    """The same checks on a disk whose sync does nothing must fail, or they prove nothing."""
    caught = 0
    for seed in range(10):
        disk = SimDisk(random.Random(seed))
        disk.lying = True
        expected = Expected()
        appends(Watched(disk, FakeClock(), expected))
        disk.crash()
        try:
            check(reopen(disk, expected), expected)
        except (AssertionError, StorageRefused):
            caught += 1
    assert caught == 10
