"""Long random lives of one directory against the dumb model: every operation, cuts, kills, errors, restarts."""

from __future__ import annotations

import errno
import random

import pytest

from tests.long import pick
from tests.simulation.disk import SimCrash, SimDisk
from tests.unit.storage.support import SMALL, Expected, FakeClock, LogState, Watched, check
from trivet.storage.storage import Storage


def step(w: Watched, rng: random.Random, clock: FakeClock) -> None:
    storage = w.storage
    latest = storage.snapshots.latest
    committed = max(storage.base_index, latest.index if latest else 0)
    dice = rng.random()
    clock.now += rng.choice((0.0, 0.01, 0.3))
    if dice < 0.45:
        term = max(storage.term, storage.term_at(storage.last_index) or 0, 1)
        for _ in range(rng.randint(1, 4)):
            w.append(rng.choice((0, 1, 50, 200, 600, 2500)), term=term)
    elif dice < 0.55:
        if storage.last_index > committed:
            w.truncate_from(rng.randint(committed + 1, storage.last_index))
    elif dice < 0.65:
        w.vote(storage.term + rng.randint(1, 2), rng.choice((None, "n1", "n2")))
    elif dice < 0.72:
        if storage.durable_index > committed:
            index = rng.randint(committed + 1, storage.durable_index)
            w.snapshot(index, storage.term_at(index) or 0, rng.choice((0, 10, 3000)))
            w.compact(index)
    elif dice < 0.75:
        w.sync()  # an install follows only on durable votes: term first
        w.snapshot(storage.last_index + rng.randint(1, 50), storage.term)
        newest = storage.snapshots.latest
        assert newest is not None
        w.reset_to(newest.index, newest.term)
    else:
        w.sync()


def settle(expected: Expected, storage: Storage, seen: LogState) -> None:
    """After an open the model knows exactly one state again."""
    latest = storage.snapshots.latest
    expected.logs[:] = [seen]
    expected.votes[:] = [(storage.term, storage.voted_for)]
    expected.snapshots[:] = [latest.index if latest else 0]


@pytest.mark.parametrize("seed", range(pick(30, 300)))
def test_a_long_life(seed: int) -> None:
    rng = random.Random(seed)
    disk, clock, expected = SimDisk(random.Random(seed + 1)), FakeClock(), Expected()
    lives = 0
    while lives < 12:
        lives += 1
        w = None
        try:
            w = Watched(disk, clock, expected, SMALL)
            seen = check(w.storage, expected)
            settle(expected, w.storage, seen)
            fate = rng.random()
            if fate < 0.4:
                disk.crash_at(rng.randint(1, 120))
            elif fate < 0.6:
                disk.fail("any", rng.randint(1, 120), errno.EIO)
            elif fate < 0.8:
                disk.fail("allocate", rng.randint(1, 4), errno.ENOSPC)
            for _ in range(rng.randint(1, 80)):
                step(w, rng, clock)
            if rng.random() < 0.5:
                w.storage.close()
                del expected.logs[:-1], expected.votes[:-1]
        except (SimCrash, OSError):
            pass
        disk.heal()
        if rng.random() < 0.6:
            disk.crash()
        else:
            disk.kill()
    final = Storage.open(disk, "n1", clock, SMALL)
    check(final, expected)
