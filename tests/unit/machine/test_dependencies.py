"""What waits for other messages, and what is kept for them: R24."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import Kit
from trivet.machine import commands as c
from trivet.machine.commands import Draft, Extras


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"result_retention_ms": 0, "backoff": c.Backoff("list"), **config})
    return kit


def after(*numbers: int, **more: object) -> Draft:
    return Draft(extras=Extras(depends_on=numbers, **more))  # type: ignore[arg-type]


def test_r24_a_dependency_that_is_unknown_is_404_with_its_field() -> None:
    kit = make()
    (a,) = kit.put("a")
    refused = kit(c.Enqueue("q", (Draft(), after(a, 777))))
    assert (refused.code, refused.field) == ("message_not_found", "/messages/1/depends_on/1")


def test_a_blocked_message_becomes_ready_when_all_are_done() -> None:
    kit = make()
    a, b = kit.put("a", "b")
    (d,) = kit.put(after(a, b, a))
    assert kit.counts() == {"ready": 2, "blocked": 1}
    one, two = kit.lease(5)
    kit.ack(one)
    assert kit.state(d) == "blocked"
    kit.ack(two)
    assert list(kit.hints.ready) == ["q"] and kit.take() == [d]


def test_a_blocked_message_with_a_delay_waits_for_both() -> None:
    kit = make()
    (a,) = kit.put("a")
    (d,) = kit.put(Draft(delay_ms=100, extras=Extras(depends_on=(a,))))
    kit.ack(*kit.lease())
    assert kit.state(d) == "delayed"
    kit.pass_ms(100)
    assert kit.state(d) == "ready"
    (b,) = kit.put("b")
    (e,) = kit.put(after(b))
    kit(c.PatchMessage(e, deliver_at_ms=kit.now + 50))
    kit.ack(*kit.lease(2))
    assert kit.state(e) == "delayed"


@pytest.mark.parametrize("end", ["dead", "cancelled", "purged", "deleted"])
def test_a_failed_dependency_fails_its_dependents_unless_they_run(end: str) -> None:
    kit = make()
    kit.queue("r")
    (a,) = kit.put("a")
    fails, runs = kit.put(after(a), after(a, on_dependency_failure="run"), queue="r")
    (chained,) = kit.put(after(fails), queue="r")
    if end == "dead":
        kit.nack(*kit.lease(), dead_letter=True)
    elif end == "cancelled":
        kit(c.Cancel(a))
    else:
        kit(c.PurgeQueue("q") if end == "purged" else c.DeleteQueue("q"))
        assert kit.state(a) is None
        kit.pass_ms(0)
    assert kit.state(fails) == kit.state(chained) == "dead" and kit.state(runs) == "ready"
    assert kit.m.messages[fails].dead_reason == "dependency_failed"


def test_depending_on_what_has_ended_already() -> None:
    kit = make(retention_ms=1000)
    a, b = kit.put("a", "b")
    kit.ack(*kit.lease())
    kit.nack(*kit.lease(), dead_letter=True)
    states = [
        one.state
        for one in kit(
            c.Enqueue("q", (after(a), after(b), after(b, on_dependency_failure="run"), after(a, b)))
        ).messages
    ]
    assert states == ["ready", "dead", "ready", "dead"]


def test_many_dependents_are_told_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 3)
    kit = make()
    (a,) = kit.put("a")
    waiting = kit.put(*[after(a) for _ in range(10)])
    kit(c.Cancel(waiting[5]))
    kit.ack(*kit.lease())
    assert kit.counts()["ready"] == 3 and kit.m.next_deadline_ms() == kit.now
    assert kit(c.Expire(4)).more
    kit.pass_ms(0)
    assert kit.counts()["ready"] == 9 and not kit.m.resolving.live and not kit.m.dependents


def test_dependents_that_came_after_the_end_are_not_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 1)
    kit = make()
    (a,) = kit.put("a")
    old = kit.put(after(a), after(a), after(a))
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Redrive("q", ids=(a,)))
    (new,) = kit.put(after(a))
    kit.pass_ms(0)
    assert [kit.state(n) for n in old] == ["dead"] * 3 and kit.state(new) == "blocked"
    kit.ack(*kit.lease())
    assert kit.state(new) == "ready"


def test_a_purged_blocked_message_is_not_told() -> None:
    kit = make()
    kit.queue("r")
    (a,) = kit.put("a", queue="r")
    (b,) = kit.put(after(a))
    kit(c.PurgeQueue("q"))
    kit.ack(*kit.lease(queue="r"))
    assert kit.state(b) is None
    kit.pass_ms(0)
    assert b not in kit.m.messages and not kit.m.dependents


def test_a_redriven_message_waits_again_for_what_is_unfinished() -> None:
    kit = make()
    a, b = kit.put("a", "b")
    (d,) = kit.put(after(a, b))
    kit(c.Cancel(a))
    assert kit.state(d) == "dead"
    kit(c.Redrive("q"))
    assert kit.state(d) == "blocked"
    kit.ack(*kit.lease())
    assert kit.state(d) == "ready"


def test_r24_a_message_with_dependents_is_kept() -> None:
    kit = make(result_retention_ms=500)
    a, b = kit.put("a", "b")
    kit.put(after(a))
    kit.ack(*kit.lease(2))
    assert kit.state(a) == "done" and kit.state(b) is None
