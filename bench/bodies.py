"""What could hold the bodies of a backlog that outgrows memory (ADR 0010): an experiment, not a product.

    python -m bench.bodies [--count 200000] [--size 256] [--batch 1000]

Each candidate takes bodies in batches, gives them back in the order they came and, of half of them, at random (a
priority, a redrive), and forgets them. Told are µs a body, process CPU (wall in brackets), resident bytes a body, and
bytes on disk a body. No candidate syncs: the log has made the bodies durable already, so all a store of bodies owes
is to be found again, or rebuilt, after a restart.

* `memory`: bytes objects, as now. * `zlib`: the same, compressed one by one (level 1).
* `log`: the bodies lie in an append-only file as they lie in the log's segments; kept is (offset, length) packed in
  one integer, read back by `pread`; adjacent ones of a batch with one call.
* `sqlite`: a table by number, WAL, `synchronous=off`, one transaction a batch.
* LMDB is measured only where its package is there; otherwise that is said.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import random
import sqlite3
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.process import disk_mb, rss_mb


class Store(Protocol):
    """Bodies by consecutive numbers from 0."""

    def put(self, first: int, bodies: Sequence[bytes]) -> None: ...
    def get(self, numbers: Sequence[int]) -> list[bytes]: ...
    def forget(self, numbers: Sequence[int]) -> None: ...


class Memory:
    def __init__(self, _directory: Path) -> None:
        self._bodies: dict[int, bytes] = {}

    def put(self, first: int, bodies: Sequence[bytes]) -> None:
        for number, body in enumerate(bodies, first):
            self._bodies[number] = body

    def get(self, numbers: Sequence[int]) -> list[bytes]:
        return [self._bodies[number] for number in numbers]

    def forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self._bodies[number]


class Compressed(Memory):
    def put(self, first: int, bodies: Sequence[bytes]) -> None:
        super().put(first, [zlib.compress(body, 1) for body in bodies])

    def get(self, numbers: Sequence[int]) -> list[bytes]:
        return [zlib.decompress(body) for body in super().get(numbers)]


LENGTH_BITS = 24


class Log:
    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "bodies", os.O_CREAT | os.O_RDWR | os.O_APPEND)
        self._end = 0
        self._places: dict[int, int] = {}

    def put(self, first: int, bodies: Sequence[bytes]) -> None:
        os.write(self._file, b"".join(bodies))
        at = self._end
        for number, body in enumerate(bodies, first):
            self._places[number] = at << LENGTH_BITS | len(body)
            at += len(body)
        self._end = at

    def get(self, numbers: Sequence[int]) -> list[bytes]:
        mask = (1 << LENGTH_BITS) - 1
        found: list[bytes] = []
        run: list[int] = []
        start = end = 0
        for number in numbers:
            place = self._places[number]
            at, length = place >> LENGTH_BITS, place & mask
            if run and at != end:
                self._read(start, run, found)
                run = []
            if not run:
                start = at
            run.append(length)
            end = at + length
        self._read(start, run, found)
        return found

    def _read(self, start: int, lengths: list[int], found: list[bytes]) -> None:
        data, at = os.pread(self._file, sum(lengths), start), 0
        for length in lengths:
            found.append(data[at : at + length])
            at += length

    def forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self._places[number]  # the segment goes when its last body does


class Sqlite:
    def __init__(self, directory: Path) -> None:
        self._base = sqlite3.connect(directory / "bodies", isolation_level=None)
        self._base.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-16384;"
            "CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB)"
        )

    def put(self, first: int, bodies: Sequence[bytes]) -> None:
        self._base.execute("BEGIN")
        self._base.executemany("INSERT INTO bodies VALUES (?, ?)", enumerate(bodies, first))
        self._base.execute("COMMIT")

    def get(self, numbers: Sequence[int]) -> list[bytes]:
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            found = self._base.execute(
                "SELECT body FROM bodies WHERE number BETWEEN ? AND ? ORDER BY number",
                (numbers[0], numbers[-1]),
            )
            return [body for (body,) in found]
        one = "SELECT body FROM bodies WHERE number = ?"
        return [self._base.execute(one, (number,)).fetchone()[0] for number in numbers]

    def forget(self, numbers: Sequence[int]) -> None:
        self._base.execute("BEGIN")
        self._base.executemany("DELETE FROM bodies WHERE number = ?", ((number,) for number in numbers))
        self._base.execute("COMMIT")


class Lmdb:
    def __init__(self, directory: Path) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        self._base = lmdb.open(str(directory), map_size=1 << 36, sync=False, metasync=False, writemap=True)

    @staticmethod
    def _key(number: int) -> bytes:
        return number.to_bytes(8, "big")

    def put(self, first: int, bodies: Sequence[bytes]) -> None:
        with self._base.begin(write=True) as change:
            for number, body in enumerate(bodies, first):
                change.put(self._key(number), body, append=True)

    def get(self, numbers: Sequence[int]) -> list[bytes]:
        with self._base.begin() as look:
            return [look.get(self._key(number)) for number in numbers]

    def forget(self, numbers: Sequence[int]) -> None:
        with self._base.begin(write=True) as change:
            for number in numbers:
                change.delete(self._key(number))


STORES: dict[str, type] = {
    "memory": Memory,
    "zlib": Compressed,
    "log": Log,
    "sqlite": Sqlite,
    "lmdb": Lmdb,
}


def measure(name: str, count: int, size: int, batch: int) -> str:
    """One line of the table; in a process of its own, so that resident memory is its own."""
    with tempfile.TemporaryDirectory(prefix=f"bench-bodies-{name}-") as directory:
        store: Store = STORES[name](Path(directory))
        rng = random.Random(1)
        # Half noise, half repetition: bodies of real work compress, but not to nothing.
        bodies = [rng.randbytes(size // 2) + bytes(size - size // 2) for _ in range(batch)]
        before_mb = rss_mb(os.getpid())
        figures = []

        def timed(work: Callable[[], None], of: int) -> None:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            work()
            cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
            figures.append(f"{cpu_s / of * 1e6:7.2f} ({wall_s / of * 1e6:6.2f})")

        def fill() -> None:
            for first in range(0, count, batch):
                # new objects, as they come from a decoder
                store.put(first, [bytes(memoryview(body)) for body in bodies])

        def in_order() -> None:
            for first in range(0, count // 2, batch):
                assert store.get(range(first, first + batch))[-1] == bodies[-1]

        def at_random() -> None:
            for _ in range(count // 2 // batch):
                numbers = [rng.randrange(count) for _ in range(batch)]
                assert store.get(numbers)[0] == bodies[numbers[0] % batch]

        def forget() -> None:
            for first in range(0, count, batch):
                store.forget(range(first, first + batch))

        timed(fill, count)
        resident = (rss_mb(os.getpid()) - before_mb) * 1024 * 1024 / count
        disk = disk_mb(Path(directory)) * 1e6 / count
        timed(in_order, count // 2)
        timed(at_random, count // 2)
        timed(forget, count)
    return f"{name:<8}" + "".join(f"{text:>20}" for text in figures) + f"{resident:>10.0f}{disk:>10.0f}"


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.bodies")
    options.add_argument("--count", type=int, default=200_000)
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--batch", type=int, default=1000)
    given = options.parse_args()
    print(f"{given.count:,} bodies of {given.size} B, batches of {given.batch}; µs a body, CPU (wall)")
    print(
        f"{'':<8}{'put':>20}{'get in order':>20}{'get at random':>20}{'forget':>20}{'RSS B':>10}{'disk B':>10}"
    )
    for name in STORES:
        if name == "lmdb" and importlib.util.find_spec("lmdb") is None:
            print("lmdb is left out: its package (py-lmdb) is not installed")
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (name, given.count, given.size, given.batch)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
