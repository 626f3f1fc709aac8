"""The containers' steps for many records at once, against the same containers one record at a time."""

from __future__ import annotations

from random import Random

import pytest

from trivet.machine.order import CHUNK, Index, LazyHeap
from trivet.machine.tables import BLOCK, NumberTable


class Thing:
    def __init__(self, number: int, at_ms: int = 0) -> None:
        self.number = number
        self.at_ms = at_ms
        self.key = 0


@pytest.mark.parametrize("seed", range(5))
def test_a_heap_fed_in_runs_gives_out_in_order(seed: int) -> None:
    rng = Random(seed)
    heap: LazyHeap[Thing] = LazyHeap(lambda thing: thing.key, rng.choice((0, 64, 4096)))
    things: list[Thing] = []
    top = 0
    for _ in range(400):
        start = top + 1 if rng.random() < 0.8 else rng.randrange(1, 10_000)
        made = []
        for key in range(start, start + rng.randint(1, 40)):
            thing = Thing(len(things))
            thing.key = key << 20 | thing.number
            made.append(thing)
            things.append(thing)
        top = max(top, start + 40)
        heap.push_run([thing.key for thing in made], made)
        live = sorted((thing for thing in things if thing.key), key=lambda thing: thing.key)
        gone = live[: rng.randint(0, 60)] if rng.random() < 0.7 else rng.sample(live, min(20, len(live)))
        for thing in gone:
            thing.key = 0
        heap.drop(len(gone))
        left = [thing for thing in live if thing.key]
        assert heap.live == len(left)
        assert heap.peek() == ((left[0].key, left[0]) if left else None)
        assert heap.stored() <= 4 * heap.live + 256 + 2 * heap.slack
        counting = {record.number for key, record in heap.entries() if record.key == key}
        assert counting == {thing.number for thing in left}


def test_a_few_high_keys_do_not_spoil_the_run() -> None:
    heap: LazyHeap[Thing] = LazyHeap(lambda thing: thing.key)
    for key in (10**9, *range(1, 1000)):
        thing = Thing(key)
        thing.key = key
        heap.push(key, thing)
    assert len(heap.run) >= 990 and heap.first_key() == 1 and not heap.only_run


@pytest.mark.parametrize("seed", range(5))
def test_an_index_filled_and_emptied_in_runs(seed: int) -> None:
    rng = Random(seed)
    quick: Index[int] = Index()
    plain: Index[int] = Index()
    held: list[int] = []
    top = 0
    for _ in range(60):
        first = top + rng.randint(1, 5)
        numbers = range(first, first + rng.choice((1, 7, CHUNK - 1, CHUNK, CHUNK + 300)))
        top = numbers[-1]
        quick.add_run(first, numbers)
        for number in numbers:
            plain.add(number, number)
        held += numbers
        gone = held[: rng.randint(0, 900)] if rng.random() < 0.5 else rng.sample(held, len(held) // 3)
        quick.discard_many(gone)
        for number in gone:
            plain.discard(number)
        out = set(gone)
        held = [number for number in held if number not in out]
        assert list(quick.after(0)) == list(plain.after(0)) == held
        assert quick.live == len(held)
    top += 1
    quick.add_run(top, [top])
    with pytest.raises(AssertionError):
        quick.add_run(top, [1])
    with pytest.raises((AssertionError, IndexError)):
        quick.discard_many([top + 1])


@pytest.mark.parametrize("seed", range(5))
def test_an_index_takes_what_ascends_and_what_does_not(seed: int) -> None:
    rng = Random(seed)
    numbers = rng.sample(range(1, 100_000), 5000)
    for start in range(0, 3000, 100):
        numbers[start : start + 100] = sorted(numbers[start : start + 100])
    numbers[:1500] = sorted(numbers[:1500])
    many: Index[int] = Index()
    one: Index[int] = Index()
    at = 0
    while at < len(numbers):
        part = numbers[at : at + rng.choice((1, 64, 64, CHUNK, CHUNK + 1))]
        at += len(part)
        many.add_many(part, part)
        for number in part:
            one.add(number, number)
        assert list(many.after(0)) == list(one.after(0)) and many.live == one.live == at
    for number in numbers:
        many.discard(number)
    assert many.live == 0 and list(many.after(0)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_table_filled_and_emptied_in_runs(seed: int) -> None:
    rng = Random(seed)
    table: NumberTable[int] = NumberTable()
    plain: dict[int, int] = {}
    top = 1
    for _ in range(40):
        numbers = list(range(top, top + rng.choice((1, BLOCK - 1, BLOCK, 1000))))
        top = numbers[-1] + rng.choice((1, 1, 500))
        if rng.random() < 0.3:
            rng.shuffle(numbers)  # acks come in any order
        table.add_many(numbers, [-number for number in numbers])
        plain.update((number, -number) for number in numbers)
        gone = rng.sample(list(plain), len(plain) // 3)
        table.remove_many(gone)
        for number in gone:
            del plain[number]
        assert len(table) == len(plain) and dict(table.items()) == plain
        assert all(table.get(number) == -number for number in plain)
    with pytest.raises(KeyError):
        table.remove_many([top + 1])
