"""Tables that grow without a stop.

A dict of 700,000 records takes 40 to 50 ms to grow, and one that is filled and emptied at that size is
rebuilt again and again: more than the loop may be held (R9). These tables are many small dicts; when they
fill up, one of them is split in two (linear hashing, Litwin 1980), so no insertion moves more than one
small dict's worth.

The order of iteration depends on how the table has grown, which a snapshot does not keep: **no decision of
the machine may iterate over a table**. Iterating is for checks and tests.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Iterator, MutableMapping
from typing import Generic, TypeVar

K = TypeVar("K", int, str)
R = TypeVar("R")

SHARD_RECORDS = 256  # a shard is split when there are more than this on average


class Table(MutableMapping[K, R], Generic[K, R]):
    """``_shards`` are in use up to `_top`; a hash below `_split` (modulo `_round`) has one bit more."""

    __slots__ = ("_count", "_mask", "_shards", "_split")

    def __init__(self) -> None:
        self._shards: list[dict[K, R]] = [{}]
        self._mask = 0  # shards of this round, a power of two, less one
        self._split = 0  # shards of this round that are split already
        self._count = 0

    @staticmethod
    def _hash(key: K) -> int:
        raise NotImplementedError

    def _shard(self, key: K) -> dict[K, R]:
        found = self._hash(key)
        at = found & self._mask
        if at < self._split:
            at = found & (self._mask << 1 | 1)
        return self._shards[at]

    def _grow(self) -> None:
        """Split the next shard of this round; the round ends when all are split."""
        shards, mask, at = self._shards, self._mask, self._split
        wide = mask << 1 | 1
        stay: dict[K, R] = {}
        go: dict[K, R] = {}
        for key, record in shards[at].items():
            (stay if self._hash(key) & wide == at else go)[key] = record
        shards[at] = stay
        shards.append(go)
        self._split = at + 1
        if self._split > mask:
            self._mask, self._split = wide, 0

    def __getitem__(self, key: K) -> R:
        return self._shard(key)[key]

    def get(self, key: K, default: R | None = None) -> R | None:  # type: ignore[override]
        return self._shard(key).get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._shard(key)  # type: ignore[arg-type]

    def __setitem__(self, key: K, record: R) -> None:
        shard = self._shard(key)
        before = len(shard)
        shard[key] = record
        if len(shard) != before:
            self._count += 1
            if self._count > len(self._shards) * SHARD_RECORDS:
                self._grow()

    def __delitem__(self, key: K) -> None:
        del self._shard(key)[key]
        self._count -= 1

    def __len__(self) -> int:
        return self._count

    def take_storage(self) -> list[dict[K, R]]:
        """Empty the table at once and hand out its small dicts, so that they can be freed one at a time."""
        shards = self._shards
        self._shards, self._mask, self._split, self._count = [{}], 0, 0, 0
        return shards

    def __iter__(self) -> Iterator[K]:
        for shard in self._shards:
            yield from shard


class NumberTable(Table[int, R]):
    """Records by numbers of a counter: their low bits spread them evenly."""

    __slots__ = ()

    @staticmethod
    def _hash(key: int) -> int:
        return key


class TextTable(Table[str, R]):
    """Records by text. CRC-32, because Python's own hash differs from process to process."""

    __slots__ = ()

    @staticmethod
    def _hash(key: str) -> int:
        return crc32(key.encode())
