"""What the nemesis does to a node's disk: errors, no space, rot, a new disk."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.simulation.checks import Checker
from tests.simulation.disk import PAGE, Hit, SimDisk
from tests.simulation.options import Options
from tests.simulation.world import World
from trivet.storage.blocks import BadBlock
from trivet.storage.hard_state import SLOT_BYTES, SLOTS, read_slots
from trivet.storage.identity import COPIES
from trivet.storage.segment import HEADER_BYTES, decode_header

BOTH_IDENTITIES = 0.25  # of the damage to one copy goes to the other, too


class HarmedDisk:
    """The part of `SimNode` that harms its disk, and remembers that it did."""

    world: World
    name: str
    rng: random.Random
    disk: SimDisk
    checker: Checker
    incarnation: int
    hurt: bool  # damaged or wiped, and not yet found healthy again
    expected_errors: int  # injected disk errors that may still end the process
    gently: bool  # one slot of the hard state is stale: the process restarts, with all it wrote
    sync_factor: float
    options: Options
    _hurt_in: int  # the life in which it happened
    _hanging: tuple[float, Callable[[], None]] | None  # when the disk is done, and what then

    @property
    def running(self) -> bool:
        raise NotImplementedError

    def fail_disk(self, kind: str, nth: int) -> bool:
        if not self.running:
            return False
        if kind == "crash":
            self.disk.crash_at(nth)
        else:
            self.disk.fail(kind, nth)
            self.expected_errors += 1
        return True

    def fill_disk(self, full: bool) -> None:
        self.disk.capacity = self.disk.used_bytes() + self.rng.choice((0, 500, 5000)) if full else None

    def fail_reads(self, nth: int) -> bool:
        """A sector that cannot be read: of the running process, or of the next one while it boots."""
        self.disk.fail("read", nth)
        self.expected_errors += 1
        return True

    def disk_is_fast(self) -> None:
        self.sync_factor = 1.0

    def disk_heals(self) -> None:
        self.disk.heal()
        self.disk.capacity = None
        self.disk_is_fast()
        if self._hanging is not None:
            due, then = self._hanging
            self._disk_busy(min(due - self.world.now, 2 * self.options.sync_seconds), then)

    def _disk_busy(self, seconds: float, then: Callable[[], None]) -> None:
        """So long on a disk that is not slow. What hangs on a slow one when it is healed ends soon after."""
        hanging = self._hanging = (self.world.now + seconds * self.sync_factor, then)

        def over() -> None:
            if self._hanging is hanging:
                self._hanging = None
                then()

        self.world.at(hanging[0], over)

    def wipe(self) -> None:
        assert not self.running
        self.disk.wipe()
        self.checker.forgive_log(self.name)
        self._hurt("wiped")

    def _hurt(self, how: str) -> None:
        self.hurt = True
        self._hurt_in = self.incarnation
        self.checker.forgive(self.name)
        self.world.trace(f"{self.name} {how}")

    def rot(self) -> bool:
        """Damage something that is provably synced: what R3 promises to tell from a torn write."""
        names = [
            name
            for name in self.disk.names()
            if name.startswith(("log-", "snap", "hard-", "identity-"))
            and not name.endswith((".damaged", ".tmp"))
        ]
        if not names:
            return False
        name = self.rng.choice(names)
        if name in COPIES and not all(self.disk.exists(copy) for copy in COPIES):
            return False
        kind = self.rng.choice(("flip", "zero", "cut", "remove", "stale", "stale", "misdirect", "misdirect"))
        with self.disk.observed():
            limit = self._provable(name)
            hit = self._rot(kind, name, limit, names) if limit > 0 else None
            if hit is not None and name in COPIES and self.rng.random() < BOTH_IDENTITIES:
                other = COPIES[1 - COPIES.index(name)]
                self._rot(kind, other, self.disk.size(other), names)  # nothing says whose it is
        if hit is None:
            return False
        self.world.count(f"rot: {kind} of {name.split('-')[0]}")
        self._hurt(f"rot {kind} {name} at {hit.offset} ({len(hit.before)} bytes)")
        return True

    def _rot(self, kind: str, name: str, limit: int, names: list[str]) -> Hit | None:
        rng = self.rng
        offset = rng.randrange(limit)
        if kind == "flip":
            return self.disk.flip(name, offset)
        if kind == "zero":
            return self.disk.zero(name, offset, min(rng.choice((1, 64, 4096)), limit - offset))
        if kind == "cut":
            if name.startswith("log-") and limit <= HEADER_BYTES:
                return None  # no record of it is proven yet: cut so, a new segment looks like one being made (R3)
            return self.disk.cut(name, offset)
        if kind == "remove":  # a removed last segment cannot be told from one never made
            return None if name.startswith("log-") else self.disk.remove(name)
        pages = limit // PAGE  # whole ones: a page that is partly unproven may be lost anyway
        if not pages:
            return None
        if kind == "misdirect":
            source = rng.choice(names)
            held = max(1, self.disk.size(source) // PAGE)
            return self.disk.misdirect(name, rng.randrange(pages), source, rng.randrange(held))
        if name in SLOTS and not (self.running and self._slots_agree()):
            return None  # the only copy of the truth: forgetting it unseen is beyond what R4 promises
        known = [page for page in self.disk.changed_pages(name) if page < pages]
        hit = self.disk.stale(name, rng.choice(known)) if known else None
        self.gently = self.gently or (hit is not None and name in SLOTS)
        return hit

    def _slots_agree(self) -> bool:
        if not set(SLOTS) <= set(self.disk.names()):
            return False  # one was taken away before: the other is all there is
        first, second = (self.disk.open(name) for name in SLOTS)
        return first.read_at(0, SLOT_BYTES) == second.read_at(0, SLOT_BYTES)

    def _provable(self, name: str) -> int:
        """How many bytes of the file are covered by the durable watermark."""
        file = self.disk.open(name)
        size = file.size
        if not name.startswith("log-"):
            return size
        record, _ = read_slots(self.disk)
        if record is None:
            return 0
        try:
            header = decode_header(file.read_at(0, HEADER_BYTES), name)
        except BadBlock:
            return 0  # its head is damaged already
        return min(size, HEADER_BYTES + record.watermark - header.start)
