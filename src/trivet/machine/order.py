"""The three ordered containers of the machine: a lazy heap, a chunked index and a chunked queue.

They hold what can be derived from the records, and are written so that no single call is long however
many records there are: a stale heap entry is dropped when it is met, and what would need a whole pass
is done a few entries at a time (contract 4).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from trivet.machine.tables import Table

R = TypeVar("R")
K = TypeVar("K", int, str)

Storage = list[Any] | deque[Any]

SLACK = 64
MIGRATE_STEP = 4
SPILL = 8
CHUNK = 512


class LazyHeap(Generic[R]):
    """A priority queue of records by an integer key; smallest key first.

    An entry counts while ``current(record) == key``; everything else in here is stale. A key belongs
    to one record only (or the records have an order of their own). To move a record, give it another current key
    and `push` it again after `drop`; to remove it, give it a key that is never used (0) and `drop`.

    Most keys come in ascending order (places, deadlines of equal leases): those wait in `run_keys` and `run`, two
    plain queues side by side (a pair for each would be 80 bytes of every waiting message), and only the others
    need the heap. ``live`` counts the records that count. What is stale at the front of the
    run leaves as records are dropped; in all, stale entries are at most about as many as live ones: beyond that
    all of it becomes old and moves to a new run and heap, `MIGRATE_STEP` entries for each push.
    """

    __slots__ = ("_current", "_heap", "_old", "_old_keys", "_old_run", "live", "run", "run_keys", "slack")

    def __init__(self, current: Callable[[R], int], slack: int = SLACK) -> None:
        """`slack`: stale entries that are always allowed. A heap of which there is one may have many."""
        self._current = current
        self.slack = slack
        self.run_keys: deque[int] = deque()  # ascending; use the key's own object, not an equal one
        self.run: deque[R] = deque()  # whose they are
        self._heap: list[tuple[int, R]] = []
        self._old: list[tuple[int, R]] = []
        self._old_keys: deque[int] = deque()
        self._old_run: deque[R] = deque()
        self.live = 0

    @property
    def only_run(self) -> bool:
        """Everything that counts is in `run`."""
        return not (self._heap or self._old or self._old_run)

    def push(self, key: int, record: R) -> None:
        """Add `record`, whose current key is `key` already."""
        self.live += 1
        keys, run = self.run_keys, self.run
        if keys and key <= keys[-1] and len(keys) <= SPILL:
            self._spill()
        if not keys or key > keys[-1]:
            keys.append(key)
            run.append(record)
        else:
            heappush(self._heap, (key, record))
        if self._old or self._old_run:
            self._migrate()

    def _spill(self) -> None:
        """A few high keys do not keep all later ones from the run: they go into the heap."""
        while self.run:
            heappush(self._heap, (self.run_keys.popleft(), self.run.popleft()))

    def push_run(self, keys: Sequence[int], records: Sequence[R]) -> None:
        """`push` each; the keys, at least one, ascend."""
        run, run_keys = self.run, self.run_keys
        if self._old or self._old_run or (run and keys[0] <= run_keys[-1]):
            for key, record in zip(keys, records, strict=True):
                self.push(key, record)
            return
        run_keys.extend(keys)
        run.extend(records)
        self.live += len(keys)

    def push_many(self, keys: list[int], records: Sequence[R]) -> None:
        """`push` each, in any order; at least one."""
        if sorted(keys) == keys:
            self.push_run(keys, records)
        else:
            for key, record in zip(keys, records, strict=True):
                self.push(key, record)

    def drop(self, count: int = 1) -> None:
        """So many records stopped counting: their current key was changed."""
        self.live -= count
        keys, run, current = self.run_keys, self.run, self._current
        for _ in range(2 * count):
            if not run or current(run[0]) == keys[0]:
                break
            keys.popleft()
            run.popleft()
        # What does not count any more keeps its record alive: one old entry in front must not hold all behind it.
        if self._old or self._old_run:
            self._migrate(count)
        elif len(run) + len(self._heap) > 2 * self.live + self.slack:
            self._renew()

    def _renew(self) -> None:
        self._old, self._old_keys, self._old_run = self._heap, self.run_keys, self.run
        self._heap, self.run_keys, self.run = [], deque(), deque()

    def _migrate(self, times: int = 1) -> None:
        # The last leaf of a heap, and the first entry of a run, can be taken without breaking it.
        old, old_run, heap, current = self._old, self._old_run, self._heap, self._current
        for _ in range(MIGRATE_STEP * times):
            if old:
                entry = old.pop()
            elif old_run:
                entry = self._old_keys.popleft(), old_run.popleft()
            else:
                return
            if current(entry[1]) == entry[0]:
                heappush(heap, entry)

    def peek(self) -> tuple[int, R] | None:
        """The smallest entry that counts. It stays."""
        current = self._current
        best: tuple[int, R] | None = None
        for keys, run in ((self.run_keys, self.run), (self._old_keys, self._old_run)):
            while run:
                key, record = keys[0], run[0]
                if current(record) == key:
                    if best is None or (key, record) < best:
                        best = key, record
                    break
                keys.popleft()
                run.popleft()
        for heap in (self._heap, self._old):
            while heap:
                key, record = entry = heap[0]
                if current(record) == key:
                    if best is None or entry < best:
                        best = entry
                    break
                heappop(heap)
        return best

    def first_key(self) -> int | None:
        """The key of `peek`, or None when empty."""
        entry = self.peek()
        return None if entry is None else entry[0]

    def take_storage(self) -> list[Storage]:
        """Empty the heap at once and hand out its parts, so that they can be freed a little at a time."""
        runs = (self.run_keys, self.run, self._old_keys, self._old_run)
        parts: list[Storage] = [part for part in (*runs, self._heap, self._old) if part]
        self._heap, self._old, self.live = [], [], 0
        self.run_keys, self.run, self._old_keys, self._old_run = deque(), deque(), deque(), deque()
        return parts

    def entries(self) -> Iterator[tuple[int, R]]:
        """All that is held, stale or not, in no order: for checks."""
        yield from zip(self.run_keys, self.run, strict=True)
        yield from zip(self._old_keys, self._old_run, strict=True)
        yield from self._heap
        yield from self._old

    def stored(self) -> int:
        """Entries held, stale ones too (a bound to test, not a count of anything)."""
        return len(self.run) + len(self._heap) + len(self._old) + len(self._old_run)


class Index(Generic[R]):
    """Records by a number, in ascending order, with a seek: what browsing, sweeping and walking need.

    Chunks of at most `CHUNK` numbers (packed: below 2**63) with their records. Adding at the end and removing anywhere are
    cheap; adding in the middle is possible (a redrive to another queue).
    """

    __slots__ = ("_lives", "_maxes", "_numbers", "_records", "live")

    def __init__(self) -> None:
        self._maxes: list[int] = []
        self._numbers: list[array[int]] = []
        self._records: list[list[R | None]] = []
        self._lives: list[int] = []
        self.live = 0

    def add(self, number: int, record: R) -> None:
        """Add a record under a number that is not in use."""
        self.live += 1
        maxes = self._maxes
        if not maxes or number > maxes[-1]:
            if maxes and len(self._numbers[-1]) < CHUNK:
                self._numbers[-1].append(number)
                self._records[-1].append(record)
                self._lives[-1] += 1
                maxes[-1] = number
            else:
                maxes.append(number)
                self._numbers.append(array("q", (number,)))
                self._records.append([record])
                self._lives.append(1)
            return
        self._insert(number, record)

    def add_many(self, numbers: list[int], records: Sequence[R]) -> None:
        """`add` each, at least one; in one step where they ascend behind the last and its chunk has room."""
        maxes = self._maxes
        room = CHUNK - len(self._numbers[-1]) if maxes else 0
        if room < len(numbers) or numbers[0] < maxes[-1] or numbers != sorted(numbers):
            for number, record in zip(numbers, records, strict=True):
                self.add(number, record)
            return
        self._numbers[-1].extend(numbers)
        self._records[-1].extend(records)
        self._lives[-1] += len(numbers)
        maxes[-1] = numbers[-1]
        self.live += len(numbers)

    def add_run(self, first: int, records: Sequence[R]) -> None:
        """Add records under consecutive numbers from `first`, above all that are or were in use."""
        assert not self._maxes or first > self._maxes[-1]
        self.live += len(records)
        done = 0
        while done < len(records):
            if not self._maxes or len(self._numbers[-1]) >= CHUNK:
                self._maxes.append(0)
                self._numbers.append(array("q"))
                self._records.append([])
                self._lives.append(0)
            part = records[done : done + CHUNK - len(self._numbers[-1])]
            above = first + done + len(part)
            self._numbers[-1].extend(range(first + done, above))
            self._records[-1].extend(part)
            self._lives[-1] += len(part)
            self._maxes[-1] = above - 1
            done += len(part)

    def _insert(self, number: int, record: R) -> None:
        at = bisect_left(self._maxes, number)
        numbers, records = self._numbers[at], self._records[at]
        inside = bisect_left(numbers, number)
        self._lives[at] += 1
        if numbers[inside] == number:
            records[inside] = record
            return
        numbers.insert(inside, number)
        records.insert(inside, record)
        if len(numbers) > CHUNK:
            self._split(at)

    def _split(self, at: int) -> None:
        numbers, records = self._numbers[at], self._records[at]
        half = len(numbers) // 2
        self._numbers[at : at + 1] = [numbers[:half], numbers[half:]]
        self._records[at : at + 1] = [records[:half], records[half:]]
        self._maxes[at : at + 1] = [numbers[half - 1], numbers[-1]]
        lower = sum(1 for record in records[:half] if record is not None)
        self._lives[at : at + 1] = [lower, self._lives[at] - lower]
        for part in (at + 1, at):
            self._tidy(part)

    def discard(self, number: int) -> None:
        """Remove the record under `number`, which must be there."""
        at = bisect_left(self._maxes, number)
        records = self._records[at]
        inside = bisect_left(self._numbers[at], number)
        assert self._numbers[at][inside] == number and records[inside] is not None
        records[inside] = None
        self._lose(at, 1)

    def discard_many(self, numbers: Iterable[int]) -> None:
        """`discard` each; cheapest when they ascend."""
        below = above = -1  # the numbers of the chunk at hand are above `below` and at most `above`
        at = inside = count = 0
        chunk = array("q")
        records: list[R | None] = []
        for number in numbers:
            if not below < number <= above:
                if count:
                    self._lose(at, count)
                    count = 0
                at = bisect_left(self._maxes, number)
                below, above = self._maxes[at - 1] if at else -1, self._maxes[at]
                chunk, records = self._numbers[at], self._records[at]
                inside = bisect_left(chunk, number)
            else:
                inside += 1
                if inside >= len(chunk) or chunk[inside] != number:
                    inside = bisect_left(chunk, number)
            assert chunk[inside] == number and records[inside] is not None
            records[inside] = None
            count += 1
        if count:
            self._lose(at, count)

    def _lose(self, at: int, count: int) -> None:
        self.live -= count
        self._lives[at] -= count
        if self._lives[at] * 4 <= len(self._records[at]):
            self._tidy(at)

    def _tidy(self, at: int) -> None:
        """Drop a chunk of which little is left, or pack it."""
        if not self._lives[at]:
            del self._maxes[at], self._numbers[at], self._records[at], self._lives[at]
            return
        numbers, records = self._numbers[at], self._records[at]
        kept = [i for i, record in enumerate(records) if record is not None]
        self._numbers[at] = array("q", [numbers[i] for i in kept])
        self._records[at] = [records[i] for i in kept]
        self._maxes[at] = self._numbers[at][-1]

    def take_storage(self) -> list[list[R | None]]:
        """Empty the index at once and hand out its chunks, so that they can be freed one at a time."""
        chunks = self._records
        self._maxes, self._numbers, self._records, self._lives, self.live = [], [], [], [], 0
        return chunks

    def after(self, number: int) -> Iterator[R]:
        """The records above `number`, ascending. Do not change the index while iterating."""
        at = bisect_right(self._maxes, number)
        if at == len(self._maxes):
            return
        inside = bisect_right(self._numbers[at], number)
        for record in self._records[at][inside:]:
            if record is not None:
                yield record
        for later in range(at + 1, len(self._records)):
            for record in self._records[later]:
                if record is not None:
                    yield record

    def first(self) -> R | None:
        """The record with the lowest number."""
        return next(self.after(-1), None)

    def slice_after(self, number: int, most: int) -> list[R]:
        """At most `most` records above `number`, as a list: safe to change the index afterwards."""
        found: list[R] = []
        if most > 0:
            for record in self.after(number):
                found.append(record)
                if len(found) == most:
                    break
        return found


class Fifo(Generic[K, R]):
    """Immutable records that leave in the order they came, with a look-up by key (the newest of a key).

    The chunks are append-only and dropped whole, so a snapshot walk only has to keep hold of them:
    `chunks()` at its start is all it needs.
    """

    __slots__ = ("_by_key", "_chunks", "_head", "_key", "_length")

    def __init__(self, key: Callable[[R], K], by_key: Table[K, R]) -> None:
        self._key: Callable[[R], K] = key
        self._by_key: Table[K, R] = by_key  # empty
        self._chunks: list[list[R]] = []
        self._head = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def get(self, key: K) -> R | None:
        return self._by_key.get(key)

    def append(self, record: R) -> None:
        """Add as the newest; an older record of the same key is not found any more."""
        self._by_key[self._key(record)] = record
        self._length += 1
        chunks = self._chunks
        if chunks and len(chunks[-1]) < CHUNK:
            chunks[-1].append(record)
        else:
            chunks.append([record])

    def oldest(self) -> R | None:
        return self._chunks[0][self._head] if self._chunks else None

    def drop_oldest(self) -> R:
        """Remove and answer the oldest; there must be one."""
        chunk = self._chunks[0]
        record = chunk[self._head]
        key = self._key(record)
        if self._by_key[key] is record:
            del self._by_key[key]
        self._head += 1
        self._length -= 1
        if self._head == len(chunk):
            del self._chunks[0]
            self._head = 0
        return record

    def take_storage(self) -> list[list[Any] | dict[Any, Any]]:
        """Empty the queue at once and hand out its parts, so that they can be freed one at a time."""
        parts: list[list[Any] | dict[Any, Any]] = [*self._by_key.take_storage(), *self._chunks]
        self._chunks, self._head, self._length = [], 0, 0
        return parts

    def chunks(self) -> list[tuple[list[R], int, int]]:
        """``(chunk, from, to)`` of all that is held now; stays true whatever is added or dropped later."""
        bounds = [(chunk, 0, len(chunk)) for chunk in self._chunks]
        if bounds:
            bounds[0] = (bounds[0][0], self._head, bounds[0][2])
        return bounds

    def __iter__(self) -> Iterator[R]:
        for chunk, start, end in self.chunks():
            yield from chunk[start:end]
