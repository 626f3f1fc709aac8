"""Every snapshot cut of every log gives the same state, also when the walk is open while the log goes on;
and a log gives the same digests under any hash seed (contract 6, R9, R11, R37)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.long import pick
from tests.machine import logs
from tests.machine.harness import START_MS, new_machine, records, run, state_of
from trivet.machine import invariants
from trivet.machine.commands import MACHINE_VERSION
from trivet.machine.core import Machine
from trivet.machine.snapshotting import NOTHING_YET, Builder, Walk, state_digest
from trivet.node.applier import Applier
from trivet.wire.entry import encode_entry

SEEDS = range(pick(3, 40))
ENTRIES = 60


def build(items: list[tuple[int, bytes]]) -> Machine:
    builder = Builder()
    for table, data in items:
        builder.add(table, data)
    return builder.finish()


def after(machine: Machine, log: list[logs.Entry]) -> Machine:
    for now_ms, requests in log:
        run(machine, now_ms, *requests)
    return machine


@pytest.mark.parametrize("seed", SEEDS)
def test_every_cut_of_a_log_ends_in_the_same_state(seed: int) -> None:
    log = logs.make(seed, ENTRIES)
    whole = after(new_machine(), log)
    expected = state_of(whole)
    machine = new_machine()
    for cut, (now_ms, requests) in enumerate(log):
        run(machine, now_ms, *requests)
        copy = build(records(machine))
        assert not invariants.check(copy), f"cut {cut}"
        after(copy, log[cut + 1 :])
        assert copy.digest() == whole.digest(), f"cut {cut}"
        assert state_of(copy) == expected, f"cut {cut}"
        assert state_digest(copy) == state_digest(whole), f"cut {cut}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pace", [0, 1, 3, 20])
def test_a_walk_that_is_overtaken_gives_the_state_at_its_open(seed: int, pace: int) -> None:
    """The log goes on while the walk is read `pace` records an entry; 0: not at all until the log's end."""
    log = logs.make(seed, 3 * ENTRIES)
    machine = new_machine()
    for cut in (20, 75, 130):
        while machine.applied_index - 1 < cut:
            run(machine, log[machine.applied_index - 1][0], *log[machine.applied_index - 1][1])
        expected = sorted(records(machine))
        digest = machine.digest()
        walk = Walk(machine)
        given: list[tuple[int, bytes]] = []

        def read(most: int, walk: Walk = walk, given: list[tuple[int, bytes]] = given) -> bool:
            for _ in range(most):
                item = walk.next()
                if item is None:
                    return False
                if item is not NOTHING_YET:
                    given.append(item)
            return True

        for now_ms, requests in log[cut : cut + 50]:
            run(machine, now_ms, *requests)
            read(pace)
        while read(1000):
            pass
        walk.close()
        walk.close()
        assert sorted(given) == expected
        assert walk.index == cut + 1 and walk.chain_digest == digest
        copy = build(given)
        assert not invariants.check(copy)
        after(copy, log[cut : cut + 50])
        assert state_of(copy) == state_of(machine)


def test_only_one_walk_at_a_time_and_a_closed_one_leaves_no_trace() -> None:
    machine = after(new_machine(), logs.make(1, 20))
    expected = records(machine)
    walk = Walk(machine)
    with pytest.raises(RuntimeError, match="open already"):
        Walk(machine)
    walk.next()
    walk.close()
    assert records(machine) == expected


def sliced(step: Callable[[Callable[[], bool]], Any], budget: int) -> Callable[[], bool]:
    """`out_of_time` that comes true after `budget` questions."""
    left = [budget]

    def out_of_time() -> bool:
        left[0] -= 1
        return left[0] <= 0

    return out_of_time


@pytest.mark.parametrize("seed", SEEDS)
def test_appliers_exchange_snapshots_in_slices_while_entries_go_on(seed: int) -> None:
    """What a leader does for a joiner: bytes out of one applier, into another, then the rest of the log."""
    rng = random.Random(seed)
    log = [encode_entry(MACHINE_VERSION, START_MS, logs.genesis())]
    log += [
        encode_entry(MACHINE_VERSION, now_ms, requests) for now_ms, requests in logs.make(seed, 2 * ENTRIES)
    ]
    told: list[int] = []
    leader = Applier(lambda index, effects: told.append(index))

    def feed(applier: Applier, data: bytes) -> list[Any]:
        applier.start(applier.applied_index + 1, 1, data)
        while not applier.step(sliced(applier.step, rng.randint(1, 3))):
            assert applier.busy
        return list(applier.result)

    for data in log[:ENTRIES]:
        feed(leader, data)
    source = leader.open_snapshot()
    follower = Applier(lambda index, effects: None)
    feed(follower, log[0])  # it has a state already: the install replaces it
    old = follower.machine
    sink = follower.begin_install()
    answers = {}
    for number, data in enumerate(log[ENTRIES:]):
        answers[number] = feed(leader, data)
        piece = source.read(sliced(leader.step, rng.randint(1, 40)))
        while piece:
            piece = sink.write(piece, sliced(leader.step, rng.randint(1, 9)))
    while (piece := source.read(lambda: False)) is not None:
        while piece:
            piece = sink.write(piece, sliced(leader.step, 3))
    source.close()
    assert follower.machine is old
    while not sink.check(ENTRIES, sliced(leader.step, 2)):
        assert follower.machine is old
    assert follower.machine is old
    sink.finish()
    assert follower.applied_index == ENTRIES
    for number, data in enumerate(log[ENTRIES:]):
        assert feed(follower, data) == answers[number]
    assert follower.machine.digest() == leader.machine.digest()
    assert state_of(follower.machine) == state_of(leader.machine)
    assert told == list(range(1, len(log) + 1))


@pytest.mark.parametrize("seed", [3, 4])
def test_equal_logs_give_equal_digests_under_any_hash_seed(seed: int) -> None:
    """In processes of their own, because a process cannot change its hash seed."""
    seen = set()
    for hash_seed in ("0", "1", "4242"):
        program = f"from tests.machine import logs; print(logs.digests({seed}, {3 * ENTRIES}))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert seen == {str(logs.digests(seed, 3 * ENTRIES)) + "\n"}
