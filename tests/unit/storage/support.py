"""A dumb model of what a data directory has to hold after a crash, and a storage that is watched by it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.disk import SimCrash, SimDisk
from trivet.storage.hard_state import read_slots
from trivet.storage.storage import DiskFull, Identity, SnapshotMeta, Storage, StorageSettings

SMALL = StorageSettings(segment_bytes=4096 + 2048, cache_bytes=3000)
IDENTITY = Identity("c1", ("n1", "n2", "n3"))


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


@dataclass(frozen=True)
class LogState:
    """`entries[0]` is the entry behind `base`."""

    base: int = 0
    base_term: int = 0
    entries: tuple[tuple[int, bytes], ...] = ()

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def tail(self, above: int) -> tuple[tuple[int, bytes], ...]:
        return self.entries[max(0, above - self.base) :]


@dataclass
class Expected:
    """Every state since the last finished sync; the first of each list is durable."""

    logs: list[LogState] = field(default_factory=lambda: [LogState()])
    votes: list[tuple[int, str | None]] = field(default_factory=lambda: [(0, None)])
    snapshots: list[int] = field(default_factory=lambda: [0])
    born: bool = False
    term_of: dict[int, int] = field(default_factory=dict)


class Watched:
    """The calls of a scenario, each told to the model first."""

    def __init__(
        self, disk: SimDisk, clock: FakeClock, expected: Expected, settings: StorageSettings = SMALL
    ) -> None:
        self.disk, self.clock, self.expected = disk, clock, expected
        self.storage = Storage.open(disk, "n1", clock, settings)
        if self.storage.identity is None:
            self.storage.set_identity(IDENTITY)
        expected.born = True

    def append(self, size: int, term: int = 1) -> None:
        log = self.expected.logs[-1]
        index = log.last + 1
        data = bytes([index % 251]) * size + b"%d/%d" % (index, term)
        self.expected.logs.append(LogState(log.base, log.base_term, (*log.entries, (term, data))))
        self.storage.append(index, term, data)

    def truncate_from(self, index: int) -> None:
        log = self.expected.logs[-1]
        self.expected.logs.append(LogState(log.base, log.base_term, log.entries[: index - log.base - 1]))
        self.storage.truncate_from(index)

    def reset_to(self, index: int, term: int) -> None:
        self.expected.logs.append(LogState(index, term))
        self.storage.reset_to(index, term)

    def vote(self, term: int, voted_for: str | None) -> None:
        self.expected.votes.append((term, voted_for))
        self.storage.set_vote(term, voted_for)

    def sync(self) -> None:
        job = self.storage.begin_sync()
        if job is None:
            return
        logs, votes = len(self.expected.logs), len(self.expected.votes)
        try:
            job.run()
        except DiskFull:
            job.run()  # R10: nothing was written, the same job may run again
        self.storage.end_sync(job)
        del self.expected.logs[: logs - 1], self.expected.votes[: votes - 1]

    def snapshot(self, index: int, term: int, size: int = 700) -> None:
        self.expected.snapshots.append(index)
        writer = self.storage.snapshots.writer(SnapshotMeta(index, term, IDENTITY.members))
        for start in range(0, size, 256):
            writer.write(bytes([index % 256]) * min(256, size - start))
        job = writer.commit(b"digest %d" % index)
        job.run()
        assert job.finish().index == index
        del self.expected.snapshots[:-1]

    def compact(self, index: int) -> None:
        self.storage.compact(index)


def check(storage: Storage, expected: Expected) -> LogState:
    """Everything that was reported durable is there, and nothing but one consistent later state of it."""
    assert storage.recovering is None, storage.recovering
    seen = LogState(
        storage.base_index,
        storage.base_term,
        tuple((term, data) for _, term, data in storage.entries(storage.base_index + 1, 1 << 40, 1 << 40)),
    )
    assert seen.last == storage.last_index == storage.durable_index
    fits = [log for log in expected.logs if matches(seen, log)]
    latest = storage.snapshots.latest
    snapshot = latest.index if latest else 0
    assert snapshot in expected.snapshots, (snapshot, expected.snapshots)
    if not fits:
        # The snapshot of an install is durable before its RESET: the log may already start behind it.
        assert seen.base == snapshot and not seen.entries, (seen, expected.logs[0])
    assert seen.base <= snapshot
    assert (storage.term, storage.voted_for) in expected.votes, (
        storage.term,
        storage.voted_for,
        expected.votes,
    )
    if latest is not None:
        reader = storage.snapshots.reader(latest)
        assert reader.read_at(0, 1 << 20) == bytes([latest.index % 256]) * latest.size
        reader.close()
        assert latest.digest == b"digest %d" % latest.index
    return seen


def matches(seen: LogState, log: LogState) -> bool:
    """Equal from the higher base on; compaction may have moved the base, a crash may have moved it back."""
    above = max(seen.base, log.base)
    return seen.last == log.last and seen.tail(above) == log.tail(above)


Scenario = Callable[[Watched], None]
Fault = Callable[[SimDisk, int], None]


def run_until(scenario: Scenario, fault: Fault, nth: int, seed: int) -> tuple[SimDisk, Expected, bool]:
    """Runs with the `nth` operation failing; the bool says whether the scenario got through."""
    disk = SimDisk(random.Random(seed))
    expected = Expected()
    fault(disk, nth)
    try:
        watched = Watched(disk, FakeClock(), expected)
        scenario(watched)
    except (SimCrash, OSError):
        return disk, expected, False
    return disk, expected, not disk.fired


def reopen(disk: SimDisk, expected: Expected) -> Storage:
    """Opens and, if birth had not finished, is content with an empty directory."""
    storage = Storage.open(disk, "n1", FakeClock(), SMALL)
    if storage.identity is None:
        assert not expected.born, "a born directory is never empty again"
        assert storage.recovering is None
        storage.set_identity(IDENTITY)
    return storage


# --- a directory that works -------------------------------------------------------------------------------
def fresh(
    settings: StorageSettings = SMALL, capacity: int | None = None
) -> tuple[SimDisk, FakeClock, Storage]:
    disk, clock = SimDisk(random.Random(1), capacity), FakeClock()
    storage = Storage.open(disk, "n1", clock, settings)
    storage.set_identity(IDENTITY)
    return disk, clock, storage


def sync(storage: Storage) -> None:
    job = storage.begin_sync()
    assert job is not None
    job.run()
    storage.end_sync(job)


def snapshot(storage: Storage, index: int, term: int = 1, data: bytes = b"s") -> SnapshotMeta:
    writer = storage.snapshots.writer(SnapshotMeta(index, term, IDENTITY.members))
    writer.write(data)
    job = writer.commit(b"d")
    job.run()
    return job.finish()


def watermark(disk: SimDisk) -> int:
    record, wrong = read_slots(disk)
    assert record is not None and not wrong
    return record.watermark
