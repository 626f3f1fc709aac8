"""Tables against a plain dict, and that no insertion moves more than one shard."""

from __future__ import annotations

import random
from typing import Any

import pytest

from trivet.machine import tables
from trivet.machine.tables import NumberTable, TextTable


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [NumberTable, TextTable])
def test_a_table_is_a_dict(kind: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SHARD_RECORDS", 4)
    rng = random.Random(seed)
    table, plain = kind(), {}
    keep = 0.9
    for step in range(3000):
        if step % 1000 == 999:
            keep = 1 - keep
        number = rng.randrange(600)
        key = number if kind is NumberTable else f"key-{number}"
        if rng.random() < keep:
            table[key] = plain[key] = step
        elif key in plain:
            assert table.pop(key) == plain.pop(key)
        else:
            with pytest.raises(KeyError):
                del table[key]
        assert len(table) == len(plain)
        assert (key in table) == (key in plain)
        assert table.get(key) == plain.get(key)
        assert table.get(key, -1) == plain.get(key, -1)
    assert dict(table.items()) == plain
    assert {key: table[key] for key in plain} == plain
    with pytest.raises(KeyError):
        table["nobody" if kind is TextTable else -1]
    taken = table.take_storage()
    assert sum(len(shard) for shard in taken) == len(plain)
    assert len(table) == 0 and list(table) == []
    table[next(iter(plain))] = 1
    assert len(table) == 1


def test_shards_stay_small() -> None:
    table: NumberTable[None] = NumberTable()
    for number in range(1, 200_000, 3):
        table[number] = None
    assert max(len(shard) for shard in table._shards) <= 3 * tables.SHARD_RECORDS
    texts: TextTable[None] = TextTable()
    for number in range(60_000):
        texts[f"request-{number}"] = None
    assert max(len(shard) for shard in texts._shards) <= 3 * tables.SHARD_RECORDS


def test_the_base_has_no_hash() -> None:
    with pytest.raises(NotImplementedError):
        tables.Table._hash(1)
