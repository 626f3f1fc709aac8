"""A snapshot is loaded in runs: what comes of it is what loading each message by itself makes."""

from __future__ import annotations

import random

import pytest

from tests.machine.harness import rebuilt, records
from tests.unit.machine.kit import Kit, derived, dump, rebuild
from trivet.machine import invariants, loading
from trivet.machine.commands import Draft, PurgeQueue, PutQueue, QueueConfig
from trivet.machine.snapshotting import MESSAGES, state_digest


def mixed(seed: int) -> Kit:
    """Plain messages in long and short runs, in two queues, with priorities, places out of order and others between."""
    rng = random.Random(seed)
    kit = Kit()
    kit(PutQueue("a", QueueConfig()))
    for _ in range(30):
        queue = rng.choice(("a", "a", "b"))
        priority = rng.choice((0, 0, 0, 5, -3))
        kit.put(
            *(Draft(b"x" * rng.randrange(9), priority=priority) for _ in range(rng.randrange(1, 90))),
            queue=queue,
        )
        rare = rng.choice(
            ({"group": "g"}, {"key": f"k{rng.random()}"}, {"ttl_ms": 60_000}, {"headers": {"h": "v"}})
        )
        kit.put(Draft(b"rare", **rare), queue=queue)
        kit.pass_ms(rng.randrange(3))
        grants = kit.lease(rng.randrange(6), queue=queue)
        for grant in grants:
            rng.choice((kit.ack, kit.nack, kit.release))(grant)
    if seed % 2:
        kit(PurgeQueue("b"))
        kit.put("after the purge", queue="b")
    return kit


@pytest.mark.parametrize("seed", range(6))
def test_loaded_in_runs_or_one_by_one(seed: int) -> None:
    machine = mixed(seed).m
    again = rebuilt(machine)
    assert invariants.check(again) == []
    assert state_digest(again) == state_digest(machine)
    assert derived(again) == derived(rebuild(dump(machine)))


def test_runs_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    kit.put(*(Draft(b"x") for _ in range(1000)))
    found = [item for item in records(kit.m) if item[0] == MESSAGES]
    assert len(found) == 1000
    lengths = []
    flush = loading.Loader.flush

    def noted(loader: loading.Loader) -> None:
        lengths.append(len(loader._run))
        flush(loader)

    monkeypatch.setattr(loading.Loader, "flush", noted)
    again = rebuilt(kit.m)
    assert max(lengths) == loading.RUN and len(lengths) < 40
    # the instants of a batch and the keys without a priority are one object, as after the enqueue
    first, last = again.messages[min(again.messages)], again.messages[max(again.messages)]
    assert first.enqueued_at_ms is last.enqueued_at_ms is last.ready_at_ms is last.due_at_ms
    assert last.ready_key is last.place is last.age_key
