"""Settled tokens against a plain list: what is found, what leaves, what a walk keeps, and where runs begin (R14)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from tests.long import pick
from trivet.machine.persistent import SettledRun
from trivet.machine.replies import ACKED, Settled
from trivet.machine.settled import RUN, SettledToken, SettledTokens

ANSWERS = (ACKED, Settled("nacked", state="delayed", deliver_at_ms=7))


def told(pieces: list[tuple[Sequence[SettledRun], int, int]]) -> list[tuple[int, bytes, int, Settled]]:
    """The runs, as they would be written."""
    runs = [run for chunk, start, end in pieces for run in chunk[start:end]]
    return [(run.fence, run.messages, run.at_ms, run.answer) for run in runs]


def loaded(pieces: list[tuple[Sequence[SettledRun], int, int]]) -> SettledTokens:
    """The same again from a snapshot: every object is another one."""
    again = SettledTokens()
    for fence, messages, at_ms, answer in told(pieces):
        again.add(SettledRun(fence, bytes(bytearray(messages)), at_ms, Settled(*answer.__reduce__()[1])))
    return again


def test_a_run_ends_at_its_block_its_instant_its_answer_and_a_gap() -> None:
    settled = SettledTokens()
    settled.extend(range(RUN - 2, RUN + 2), range(100, 104), 5, ANSWERS[0])  # two blocks
    settled.extend([RUN + 2], [104], 5, ANSWERS[0])  # goes on
    settled.extend([RUN + 3], [105], 5, ANSWERS[1])
    settled.extend([RUN + 4], [106], 6, ANSWERS[1])
    settled.extend([RUN + 6, RUN + 5], [107, 108], 6, ANSWERS[1])
    sizes = [(fence, len(messages) // 8) for fence, messages, _, _ in told(settled.frozen())]
    assert sizes == [
        (RUN - 2, 2),
        (RUN, 3),
        (RUN + 3, 1),
        (RUN + 4, 1),
        (RUN + 6, 1),
        (RUN + 5, 1),
    ]
    assert [one.message for one in settled] == list(range(100, 109)) and len(settled) == 9


def test_numbers_of_any_size_come_back() -> None:
    settled = SettledTokens()
    for fence, number in ((1, 1), (2**62, 2**48 - 1), (2**63 - 1, 2**62)):
        settled.extend([fence], [number], 1, ACKED)
        assert settled.get(fence) == SettledToken(fence, number, 1, ACKED)
    assert settled.get(2) is None and settled.get(0) is None


@pytest.mark.parametrize("seed", range(int(pick("20", "400"))))
def test_it_is_a_list_of_tokens(seed: int) -> None:
    rng = Random(seed)
    settled, by_ones = SettledTokens(), SettledTokens()
    plain: list[SettledToken] = []
    forgotten: list[int] = []
    at_ms, fence = 0, 1
    walks = []
    for _ in range(150):
        roll = rng.random()
        if roll < 0.7:
            at_ms += rng.choice((0, 0, 3))
            count = rng.choice((1, 2, 5, RUN, 3 * RUN))
            fences = list(range(fence, fence + count))
            fence += count + rng.choice((0, 0, 0, 5))
            if rng.random() < 0.3:
                rng.shuffle(fences)
            new = [
                SettledToken(each, 1000 + each, at_ms, rng.choice(ANSWERS[:1] * 4 + ANSWERS))
                for each in fences
            ]
            answer = new[0].answer
            new = [one._replace(answer=answer) for one in new]
            settled.extend(fences, [one.message for one in new], at_ms, answer)
            for one in new:
                by_ones.extend([one.fence], [one.message], at_ms, answer)
            plain += new
        elif roll < 0.8 and plain:
            most = rng.choice((1, 7, RUN, 1000))
            together = sum(one.at_ms == plain[0].at_ms for one in plain)
            dropped = settled.drop_oldest(most)
            assert 1 <= dropped <= min(most, together)
            left = dropped
            while left:
                left -= by_ones.drop_oldest(left)
            forgotten += [one.fence for one in plain[:dropped]]
            del plain[:dropped]
        elif roll < 0.9:
            until, most = at_ms - rng.choice((0, 5, 9)), rng.choice((0, 1, 100, 10_000))
            due = min(most, sum(one.at_ms <= until for one in plain))
            assert settled.drop_older(until, most) == due == by_ones.drop_older(until, most)
            forgotten += [one.fence for one in plain[:due]]
            del plain[:due]
        elif roll < 0.95:
            walks.append((settled.frozen(), told(settled.frozen())))
        else:
            settled = loaded(settled.frozen())
        assert len(settled) == len(plain) and settled.oldest_at_ms() == (plain[0].at_ms if plain else None)
    assert list(settled) == plain
    assert all(settled.get(one.fence) == one for one in plain)
    assert all(settled.get(each) is None for each in forgotten[-500:])
    # The same records on every node: added one by one or many at once, loaded in between or not.
    assert told(settled.frozen()) == told(by_ones.frozen())
    for pieces, then in walks:
        assert told(pieces) == then, "what a walk holds has changed"
    for part in settled.take_storage():
        part.clear()
    assert len(settled) == 0 and settled.oldest_at_ms() is None and settled.get(fence) is None
