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
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", int, str)
R = TypeVar("R")

BLOCK_BITS = 6
BLOCK = 1 << BLOCK_BITS
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
    """Records by numbers of a counter. Blocks of neighbours lie in one shard, so that what comes and goes
    together costs one look-up; the number of the block spreads the blocks evenly."""

    __slots__ = ()

    def _shard(self, key: int) -> dict[int, R]:
        block = key >> BLOCK_BITS
        at = block & self._mask
        return self._shards[block & (self._mask << 1 | 1) if at < self._split else at]

    def _grow(self) -> None:
        shards, mask, at = self._shards, self._mask, self._split
        wide = mask << 1 | 1
        old = shards[at]
        shards[at] = {key: old[key] for key in old if key >> BLOCK_BITS & wide == at}
        shards.append({key: old[key] for key in old if key >> BLOCK_BITS & wide != at})
        self._split = at + 1
        if self._split > mask:
            self._mask, self._split = wide, 0

    def get(self, key: int, default: R | None = None) -> R | None:  # type: ignore[override]
        block = key >> BLOCK_BITS
        at = block & self._mask
        return self._shards[block & (self._mask << 1 | 1) if at < self._split else at].get(key, default)

    def get_many(self, keys: Sequence[int]) -> list[R | None]:
        """`get` of each; cheapest when they follow each other."""
        found: list[R | None] = []
        block = -1
        shard: dict[int, R] = {}
        for key in keys:
            if key >> BLOCK_BITS != block:
                block = key >> BLOCK_BITS
                shard = self._shard(key)
            found.append(shard.get(key))
        return found

    def add_many(self, keys: Sequence[int], records: Sequence[R]) -> None:
        """Add records under keys that are not in use; cheapest when they follow each other."""
        done, count = 0, len(keys)
        while done < count:
            first = keys[done]
            end = done + BLOCK - (first & (BLOCK - 1))  # of the block, if they do
            part = keys[done:end]
            if min(part) >> BLOCK_BITS == max(part) >> BLOCK_BITS:
                self._shard(first).update(zip(part, records[done:end], strict=True))
                done += len(part)
            else:
                self._shard(first)[first] = records[done]
                done += 1
        self._count += count
        while self._count > len(self._shards) * SHARD_RECORDS:
            self._grow()

    def remove_many(self, keys: Sequence[int]) -> None:
        """Remove what is there under each key. Raises `KeyError`."""
        shards, mask, split = self._shards, self._mask, self._split
        wide = mask << 1 | 1
        for key in keys:
            block = key >> BLOCK_BITS
            at = block & mask
            del shards[block & wide if at < split else at][key]
        self._count -= len(keys)


class TextTable(Table[str, R]):
    """Records by text. CRC-32, because Python's own hash differs from process to process."""

    __slots__ = ()

    @staticmethod
    def _hash(key: str) -> int:
        return crc32(key.encode())
