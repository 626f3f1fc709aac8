"""Every law notices when it is broken: a machine in health is damaged in one place at a time (R38)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.machine.kit import Kit, token
from trivet.machine import invariants
from trivet.machine.commands import Draft, EffectBegin, Extras, PurgeQueue
from trivet.machine.core import Machine
from trivet.machine.state import DONE, READY, Message


def healthy() -> Machine:
    """Something of everything: 2 ready in a group, 1 free, 1 blocked, 1 delayed, 1 leased, 1 dead, 1 done."""
    kit = Kit()
    kit.queue(retention_ms=10_000)
    kit.put("done", "dead", "leased")
    done, dead, leased = kit.lease(3)
    kit.ack(done, result=b"1")
    kit.nack(dead, dead_letter=True)
    kit(EffectBegin("bound", "o", token(leased), True))
    kit(EffectBegin("free", "o"))
    kit.put(Draft(group="g", key="k1"), Draft(group="g"), Draft(delay_ms=50), "ready")
    kit.put(Draft(extras=Extras(depends_on=(leased.message,))))
    kit.put("other", queue="purged")
    kit(PurgeQueue("purged"))
    assert invariants.check(kit.m) == []
    return kit.m


def one(m: Machine, state: int, **wanted: Any) -> Message:
    return next(
        x
        for x in m.messages.values()
        if x.state == state and all(getattr(x.draft, k) == v for k, v in wanted.items())
    )


def _wrong(**changes: Any) -> Callable[[Machine], None]:
    def damage(m: Machine) -> None:
        for name, value in changes.items():
            setattr(m, name, value)

    return damage


def _queue(name: str, value: Any) -> Callable[[Machine], None]:
    return lambda m: setattr(m.queues["q"], name, value)


def _total(m: Machine) -> None:
    m.queues["q"].totals.done += 1


def _lost_lease(m: Machine) -> None:
    del m.leases[next(iter(m.leases))]


def _not_offered(m: Machine) -> None:
    message = one(m, READY, group="g")
    message.ready_key = 0


def _wrong_best(m: Machine) -> None:
    one(m, READY, group=None).priority = 999


def _forgotten_key(m: Machine) -> None:
    queue = m.queues["q"]
    queue.key_index.discard(queue.keys["k1"].number)
    del queue.keys["k1"]


def _disarmed(m: Machine) -> None:
    delayed = next(x for x in m.messages.values() if x.state == 1)
    delayed.due_at_ms -= 7


def _untold(m: Machine) -> None:
    leased = next(x for x in m.messages.values() if x.state == 3)
    blocked = next(x for x in m.messages.values() if x.state == 0)
    blocked.pending = (*blocked.pending, 10**6)
    assert leased.number in blocked.pending


def _lost_bound_effect(m: Machine) -> None:
    m.effects_by_id["bound"].lease_fence = 10**6


def _refiled(m: Machine) -> None:
    m.messages[10**6] = one(m, DONE)


def _swapped_queue(m: Machine) -> None:
    m.queues["renamed"] = m.queues.pop("q")


def _without_queue(m: Machine) -> None:
    del m.queues["q"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_queue("waiting_bytes", 1), "waiting bytes"),
        (_queue("ready_bytes", 1), "ready bytes"),
        (_queue("leased_bytes", 1), "leased bytes"),
        (_queue("counts", [0] * 7), "counts"),
        (_total, "what came in is there or left"),
        (_wrong(next_number=2), "number from the counter"),
        (_wrong(next_place=1), "place from the counter"),
        (_wrong(next_fence=1), "fence from the counter"),
        (_wrong(clock_ms=0), "enqueued later than now"),
        (_wrong(reply_bytes=7), "bytes of stored replies"),
        (_wrong(retained_bytes=7), "bytes of kept messages"),
        (_lost_lease, "leases"),
        (_not_offered, "may be leased and is not offered"),
        (_wrong_best, "the best is not offered first"),
        (_forgotten_key, "its key is forgotten"),
        (_disarmed, "is armed for"),
        (_untold, "dependents"),
        (_lost_bound_effect, "outlives its lease"),
        (_refiled, "filed under its number"),
        (_swapped_queue, "filed under its name"),
        (_without_queue, "queues that are not there"),
        (lambda m: setattr(one(m, DONE), "state", READY), "counts"),
        (lambda m: setattr(one(m, READY), "result", b"1"), "a result without being done"),
        (lambda m: setattr(one(m, READY), "dead_reason", "expired"), "a reason exactly when dead"),
        (
            lambda m: setattr(one(m, READY), "lease", next(iter(m.leases.values())).lease),
            "exactly with one lease",
        ),
        (lambda m: setattr(one(m, DONE), "finished_at_ms", 0), "finished_at"),
        (lambda m: setattr(one(m, DONE), "history", one(m, DONE).history * 2), "fences must rise"),
        (lambda m: setattr(m.effects_by_id["free"], "state", "lost"), "state lost"),
        (lambda m: setattr(m.effects_by_id["free"], "result", b"1"), "a result without being done"),
        (lambda m: setattr(m.effects_by_id["free"], "wake_key", 0), "nothing ends it"),
        (lambda m: m.queues["q"].groups["g"].waiting.drop(), "group g waiting"),
    ],
)
def test_a_broken_law_is_said(damage: Callable[[Machine], None], said: str) -> None:
    m = healthy()
    damage(m)
    report = invariants.check(m)
    assert any(said in line for line in report), report
