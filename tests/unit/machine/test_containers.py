"""The ordered containers against plain sorted lists, and the texts of ids and tokens."""

from __future__ import annotations

from random import Random

import pytest

from trivet.machine import ids
from trivet.machine.order import CHUNK, SLACK, Fifo, Index, LazyHeap
from trivet.machine.tables import NumberTable


class Thing:
    def __init__(self, number: int) -> None:
        self.number = number
        self.key = 0


@pytest.mark.parametrize("seed", range(5))
def test_the_lazy_heap_against_a_sorted_list(seed: int) -> None:
    rng = Random(seed)
    heap: LazyHeap[Thing] = LazyHeap(lambda thing: thing.key)
    things = [Thing(n) for n in range(200)]
    most = 0
    for _ in range(8000):
        thing = rng.choice(things[: rng.choice((5, 200))])
        if thing.key:
            thing.key = 0
            heap.drop()
        if rng.random() < 0.6:
            thing.key = rng.randrange(1, 1000) << 10 | thing.number
            heap.push(thing.key, thing)
        live = sorted(other.key for other in things if other.key)
        assert heap.live == len(live)
        if rng.random() < 0.3:
            assert heap.first_key() == (live[0] if live else None)
        most = max(most, heap.stored() - 4 * heap.live)
    assert most <= 4 * SLACK
    assert sum(len(part) for part in heap.take_storage()) >= len(live)
    assert heap.peek() is None and heap.live == 0 and heap.take_storage() == []


@pytest.mark.parametrize("seed", range(5))
def test_the_index_against_a_dict(seed: int) -> None:
    rng = Random(seed)
    index: Index[str] = Index()
    model: dict[int, str] = {}
    top = 0
    for step in range(12_000):
        roll = rng.random()
        if roll < 0.5:
            top += rng.choice((1, 1, 3))
            number = top
        elif roll < 0.6:
            number = rng.randrange(1, top + 2)
        else:
            number = -1
        if number < 0 and model:
            gone = rng.choice(list(model)[: rng.choice((1, 50))])
            index.discard(gone)
            del model[gone]
        elif number > 0 and number not in model:
            top = max(top, number)
            index.add(number, str(number))
            model[number] = str(number)
        if step % 400 == 0:
            after = rng.randrange(0, top + 2)
            expected = [str(n) for n in sorted(model) if n > after]
            assert list(index.after(after)) == expected
            assert index.slice_after(after, 7) == expected[:7]
            assert index.slice_after(after, 0) == []
            assert index.first() == (str(min(model)) if model else None)
        assert index.live == len(model)


def test_the_index_splits_a_full_chunk_when_it_must_insert() -> None:
    index: Index[int] = Index()
    for n in range(2, 2 * CHUNK + 2, 2):
        index.add(n, n)
    for n in range(4, 2 * CHUNK, 4):
        index.discard(n)
    for n in range(1, 2 * CHUNK, 4):
        index.add(n, n)
    left = [n for n in range(1, 2 * CHUNK + 1) if n % 4 in (1, 2) or n == 2 * CHUNK]
    assert list(index.after(0)) == left
    empty: Index[int] = Index()
    assert empty.first() is None and list(empty.after(0)) == []


def test_the_fifo_finds_the_newest_of_a_key_and_its_chunks_stay_true() -> None:
    fifo: Fifo[int, tuple[int, int]] = Fifo(lambda record: record[0], NumberTable())
    assert fifo.oldest() is None and fifo.chunks() == []
    for n in range(2 * CHUNK + 10):
        fifo.append((n % 900, n))
    assert fifo.get(5) == (5, 905) and len(fifo) == 2 * CHUNK + 10
    assert fifo.drop_oldest() == (0, 0) and fifo.get(0) == (0, 900)
    held = fifo.chunks()
    for _ in range(CHUNK + 3):
        fifo.drop_oldest()
    fifo.append((7, -1))
    assert [r for chunk, start, end in held for r in chunk[start:end]] == [
        (n % 900, n) for n in range(1, 2 * CHUNK + 10)
    ]
    assert next(iter(fifo)) == ((CHUNK + 4) % 900, CHUNK + 4) and fifo.oldest() == next(iter(fifo))
    while len(fifo):
        fifo.drop_oldest()
    assert fifo.get(7) is None and fifo.oldest() is None


def test_message_ids() -> None:
    assert ids.message_id(1) == "m000000000001" and ids.parse_message_id("m0000000000ff") == 255
    for bad in (
        "",
        "m",
        "x000000000001",
        "m00000000001",
        "m0000000000001",
        "m00000000000G",
        "m0000000000FF",
        "m-00000000001",
    ):
        assert ids.parse_message_id(bad) is None


def test_tokens_come_back_and_only_the_canonical_text_does() -> None:
    mac = ids.lease_mac(b"secret", 7, 9)
    text = ids.encode_token(7, mac)
    found = ids.decode_token(text)
    assert found is not None and (found.fence, found.mac) == (7, mac) and len(text) == 32
    for bad in (
        "",
        text[:-1],
        text + "A",
        text[:-1] + "=",
        text[:-1] + "é",
        "!" * 32,
        "A" * 31 + "!",
        ids.encode_token(2**63, mac),
        "=" * 32,
    ):
        assert ids.decode_token(bad) is None


def test_r13_macs_differ_by_secret_fence_message_and_kind() -> None:
    macs = {
        ids.lease_mac(b"a", 1, 1),
        ids.lease_mac(b"b", 1, 1),
        ids.lease_mac(b"a", 2, 1),
        ids.lease_mac(b"a", 1, 2),
        ids.effect_mac(b"a", 1, "\0" * 7 + "\1"),
    }
    assert len(macs) == 5 and all(len(mac) == 16 for mac in macs)


@pytest.mark.parametrize("at_once", [1, 50])
def test_one_old_entry_in_front_does_not_hold_all_that_left_behind_it(at_once: int) -> None:
    """Found by simulator seed 1795344593778: what drained without a push stayed in the heap, with its records."""
    heap: LazyHeap[Thing] = LazyHeap(lambda thing: thing.key)
    things = [Thing(n) for n in range(1, 10_001)]
    for thing in things:
        thing.key = thing.number
    heap.push_run([thing.key for thing in things], things)
    for start in range(1, len(things), at_once):
        gone = things[start : start + at_once]
        for thing in gone:
            thing.key = 0
        heap.drop(len(gone))
    assert heap.live == 1 and heap.first_key() == 1
    things[0].key = 0
    heap.drop()
    assert heap.stored() <= 2 * SLACK
