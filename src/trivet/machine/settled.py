"""How leases ended, for the window in which a token may come again (R14): up to a million, so kept in runs.

Leases that are given together mostly end together: a run holds those under consecutive fences that ended in one
instant with one answer. Where runs begin and end follows from the fences, instants and answers alone, so that it is
the same on every node whichever way they came in, with or without a snapshot between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct, pack
from typing import Any, NamedTuple

from trivet.machine.order import CHUNK
from trivet.machine.persistent import SettledRun
from trivet.machine.replies import Settled
from trivet.machine.tables import NumberTable

RUN_BITS = 5
RUN = 1 << RUN_BITS
"""A run lies within one block of so many fences: looking into a block must stay short."""
_NUMBER = Struct("<q")
_WIDTH = _NUMBER.size


class SettledToken(NamedTuple):
    """A lease ended by ack, nack or release, and its first answer."""

    fence: int
    message: int
    at_ms: int
    answer: Settled


class SettledTokens:
    """They leave in the order they came. Runs are never changed, only replaced: see `frozen`."""

    __slots__ = ("_blocks", "_chunks", "_cut", "_head", "_length")

    def __init__(self) -> None:
        self._chunks: list[list[SettledRun]] = []
        self._head = 0  # of the first chunk: runs that are gone
        self._cut = 0  # of the first run: tokens that are gone
        self._length = 0
        self._blocks: NumberTable[list[SettledRun]] = NumberTable()

    def __len__(self) -> int:
        return self._length

    def get(self, fence: int) -> SettledToken | None:
        for run in self._blocks.get(fence >> RUN_BITS) or ():
            at = fence - run.fence
            if at >= 0 and at < len(run.messages) // _WIDTH:
                if at < self._cut and run is self._chunks[0][self._head]:
                    return None
                return SettledToken(fence, _message(run, at), run.at_ms, run.answer)
        return None

    def extend(self, fences: Sequence[int], messages: Sequence[int], at_ms: int, answer: Settled) -> None:
        """Add as the newest. Each fence comes once, and `at_ms` never falls."""
        done, count = 0, len(fences)
        while done < count:
            first = fences[done]
            end, limit = done + 1, min(count, done + RUN - (first & (RUN - 1)))
            if end < limit and fences[end] == first + 1:
                if list(fences[done:limit]) == list(range(first, first + limit - done)):
                    end = limit
                while end < limit and fences[end] == first + end - done:
                    end += 1
            packed = (
                _NUMBER.pack(messages[done])
                if end == done + 1
                else pack(f"<{end - done}q", *messages[done:end])
            )
            self.add(SettledRun(first, packed, at_ms, answer))
            done = end

    def add(self, run: SettledRun) -> None:
        """Add a run as the newest; it becomes one with the last where it continues it."""
        self._length += _count(run)
        chunks = self._chunks
        if chunks and run.fence & (RUN - 1):
            last = chunks[-1][-1]
            if (
                last.fence + _count(last) == run.fence
                and last.at_ms == run.at_ms
                and last.answer == run.answer
            ):
                whole = SettledRun(last.fence, last.messages + run.messages, run.at_ms, run.answer)
                chunks[-1][-1] = self._blocks[run.fence >> RUN_BITS][-1] = whole
                return
        block = self._blocks.get(run.fence >> RUN_BITS)
        if block is None:
            self._blocks[run.fence >> RUN_BITS] = [run]
        else:
            block.append(run)
        if chunks and len(chunks[-1]) < CHUNK:
            chunks[-1].append(run)
        else:
            chunks.append([run])

    def oldest_at_ms(self) -> int | None:
        """When the oldest ended, None if there is none."""
        return self._chunks[0][self._head].at_ms if self._chunks else None

    def drop_oldest(self, most: int) -> int:
        """Drop at most `most`, at least 1, of those that ended together with the oldest; answers how many."""
        run = self._chunks[0][self._head]
        left = _count(run) - self._cut
        self._length -= min(left, most)
        if most < left:
            self._cut += most
            return most
        block = self._blocks[run.fence >> RUN_BITS]
        gone = block.pop(0)  # in a block, too, the oldest are in front
        assert gone is run
        if not block:
            del self._blocks[run.fence >> RUN_BITS]
        self._cut = 0
        self._head += 1
        if self._head == len(self._chunks[0]):
            del self._chunks[0]
            self._head = 0
        return left

    def drop_older(self, at_ms: int, most: int) -> int:
        """Drop at most `most` of those that ended not after `at_ms`; answers how many."""
        dropped = 0
        while dropped < most and self._chunks and self._chunks[0][self._head].at_ms <= at_ms:
            dropped += self.drop_oldest(most - dropped)
        return dropped

    def frozen(self) -> list[tuple[Sequence[SettledRun], int, int]]:
        """``(chunk, from, to)`` of all that is held now; stays true whatever comes and goes later."""
        if not self._chunks:
            return []
        chunks = [*self._chunks[:-1], self._chunks[-1][:]]  # of the last, the end may be replaced
        pieces = [(chunk, 0, len(chunk)) for chunk in chunks]
        first = chunks[0][self._head]
        rest = SettledRun(
            first.fence + self._cut, first.messages[self._cut * _WIDTH :], first.at_ms, first.answer
        )
        return [([rest], 0, 1), (chunks[0], self._head + 1, len(chunks[0])), *pieces[1:]]

    def take_storage(self) -> list[list[Any] | dict[Any, Any]]:
        """Empty it at once and hand out its parts, so that they can be freed one at a time."""
        parts: list[list[Any] | dict[Any, Any]] = [*self._blocks.take_storage(), *self._chunks]
        self._chunks, self._head, self._cut, self._length = [], 0, 0, 0
        return parts

    def __iter__(self) -> Iterator[SettledToken]:
        for chunk, start, end in self.frozen():
            for run in chunk[start:end]:
                for at in range(_count(run)):
                    yield SettledToken(run.fence + at, _message(run, at), run.at_ms, run.answer)


def _count(run: SettledRun) -> int:
    return len(run.messages) // _WIDTH


def _message(run: SettledRun, at: int) -> int:
    number: int
    (number,) = _NUMBER.unpack_from(run.messages, at * _WIDTH)
    return number
