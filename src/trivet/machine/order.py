"""The three ordered containers of the machine: a lazy heap, a chunked index and a chunked queue.

They hold what can be derived from the records, and are written so that no single call is long however
many records there are: a stale heap entry is dropped when it is met, and what would need a whole pass
is done a few entries at a time (contract 4).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from trivet.machine.tables import Table

R = TypeVar("R")
K = TypeVar("K", int, str)

SLACK = 64
MIGRATE_STEP = 4
CHUNK = 512


class LazyHeap(Generic[R]):
    """A priority queue of records by an integer key; smallest key first.

    An entry counts while ``current(record) == key``; everything else in the heap is stale. A key belongs
    to one record only (or the records have an order of their own). To move a record, give it another current key
    and `push` it again after `drop`; to remove it, give it a key that is never used (0) and `drop`.

    ``live`` counts the records that count. Stale entries are at most about as many as live ones: beyond
    that the heap moves to a new list, `MIGRATE_STEP` entries for each push.
    """

    __slots__ = ("_current", "_heap", "_old", "live")

    def __init__(self, current: Callable[[R], int]) -> None:
        self._current = current
        self._heap: list[tuple[int, R]] = []
        self._old: list[tuple[int, R]] = []
        self.live = 0

    def push(self, key: int, record: R) -> None:
        """Add `record`, whose current key is `key` already."""
        heap = self._heap
        heappush(heap, (key, record))
        self.live += 1
        if self._old:
            self._migrate()
        elif len(heap) > 2 * self.live + SLACK:
            self._old = heap
            self._heap = []

    def drop(self) -> None:
        """One record stopped counting: its current key was changed."""
        self.live -= 1

    def _migrate(self) -> None:
        # The last leaf of a heap can be taken without breaking the heap.
        old, heap, current = self._old, self._heap, self._current
        for _ in range(min(MIGRATE_STEP, len(old))):
            entry = old.pop()
            if current(entry[1]) == entry[0]:
                heappush(heap, entry)

    def _settle(self, heap: list[tuple[int, R]]) -> None:
        current = self._current
        while heap:
            key, record = heap[0]
            if current(record) == key:
                return
            heappop(heap)

    def peek(self) -> tuple[int, R] | None:
        """The smallest entry that counts. It stays."""
        heap, old = self._heap, self._old
        self._settle(heap)
        if old:
            self._settle(old)
            if old and (not heap or old[0] < heap[0]):
                return old[0]
        return heap[0] if heap else None

    def first_key(self) -> int | None:
        """The key of `peek`, or None when empty."""
        entry = self.peek()
        return None if entry is None else entry[0]

    def take_storage(self) -> list[list[tuple[int, R]]]:
        """Empty the heap at once and hand out its lists, so that they can be freed a little at a time."""
        lists = [entries for entries in (self._heap, self._old) if entries]
        self._heap, self._old, self.live = [], [], 0
        return lists

    def stored(self) -> int:
        """Entries held, stale ones too (a bound to test, not a count of anything)."""
        return len(self._heap) + len(self._old)


class Index(Generic[R]):
    """Records by a number, in ascending order, with a seek: what browsing, sweeping and walking need.

    Chunks of at most `CHUNK` numbers with their records. Adding at the end and removing anywhere are
    cheap; adding in the middle is possible (a redrive to another queue).
    """

    __slots__ = ("_lives", "_maxes", "_numbers", "_records", "live")

    def __init__(self) -> None:
        self._maxes: list[int] = []
        self._numbers: list[list[int]] = []
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
                self._numbers.append([number])
                self._records.append([record])
                self._lives.append(1)
            return
        self._insert(number, record)

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
        self.live -= 1
        self._lives[at] -= 1
        if self._lives[at] * 4 <= len(records):
            self._tidy(at)

    def _tidy(self, at: int) -> None:
        """Drop a chunk of which little is left, or pack it."""
        if not self._lives[at]:
            del self._maxes[at], self._numbers[at], self._records[at], self._lives[at]
            return
        numbers, records = self._numbers[at], self._records[at]
        kept = [i for i, record in enumerate(records) if record is not None]
        self._numbers[at] = [numbers[i] for i in kept]
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
