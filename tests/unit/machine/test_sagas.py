"""Flows with compensations: nothing new starts, what is leased runs out, what is done is undone backwards."""

from __future__ import annotations

import pytest

from tests.unit.machine.flowkit import FlowKit
from tests.unit.machine.test_flows import leased, make
from trivet.machine import commands as c
from trivet.machine import views
from trivet.machine.commands import Draft, EnqueueTo, Extras, FlowStepDraft

CHAIN = "a b:a c:b d:c e:d f:e"
ALL = "a b c d e f"


def test_the_failure_of_a_chain_and_its_compensation_are_one_entry() -> None:
    kit = make()
    made = kit.flow("a b:a c:b", undo="a b c")
    kit.ack(kit.next(), result=b'"paid"')
    kit.nack(kit.next(), dead_letter=True)
    assert kit.states(made) == {"a": "done", "b": "dead", "c": "dead", "-a": "ready"}
    assert kit.m.messages[made.steps[2].message].dead_reason == "dependency_failed"
    assert kit.state_of(made) == "compensating"
    shown = leased(kit)
    assert shown["body"].data == b'"undo a"' and shown["parents"] == {"a": views.Result(b'"paid"')}
    assert (shown["run_id"], shown["step_id"]) == (made.run_id, "a")
    assert shown["origin"] == {"type": "compensation", "flow_id": made.run_id}


@pytest.mark.parametrize("fails", range(6))
def test_whichever_step_of_a_chain_fails_the_others_are_undone_backwards(fails: int) -> None:
    kit = make()
    made = kit.flow(CHAIN, undo=ALL)
    names = ALL.split()
    done = names[:fails]
    assert kit.finish(fail=names[fails]) == [*done, names[fails], *("-" + name for name in reversed(done))]
    assert kit.state_of(made) == ("compensated" if fails else "failed")
    assert kit.states(made)[names[-1]] == "dead"


def test_steps_are_undone_in_the_reverse_order_of_their_ends_not_of_their_making() -> None:
    kit = make()
    kit.flow("a b c d:a,b,c", undo="a b c")
    a, b, c_ = kit.lease(3)
    kit.ack(b)
    kit.ack(c_, a)
    kit.nack(kit.next(), dead_letter=True)
    assert kit.finish() == ["-a", "-c", "-b"]


def test_each_compensation_waits_for_the_one_before_however_that_ends() -> None:
    kit = make()
    made = kit.flow("a b:a c:b d:c", undo="a b c")
    for _ in range(3):
        kit.ack(kit.next())
    kit.nack(kit.next(), dead_letter=True)
    assert kit.states(made) | {"-c": "ready", "-b": "blocked", "-a": "blocked"} == kit.states(made)
    assert kit.finish(fail="-b") == ["-c", "-b", "-a"]
    assert kit.state_of(made) == "failed"
    assert len(kit(c.Redrive("q")).ids) == 1  # the compensation; d is of a saga
    assert kit.state_of(made) == "compensating"
    assert kit.finish() == ["-b"] and kit.state_of(made) == "compensated"


def test_nothing_new_starts_and_what_is_leased_runs_out() -> None:
    kit = make(backoff=c.Backoff("list", delays_ms=(5,)))
    made = kit.flow("a b c d e f g:e h", undo="a b c d e f g h")
    a, b, d, e, _last = kit.lease(5)
    kit.nack(a, dead_letter=True)
    assert kit.state_of(made) == "compensating"
    assert kit.states(made)["f"] == "cancelled" and kit.states(made)["h"] == "cancelled"
    assert kit.states(made)["g"] == "cancelled" and kit.lease() == []
    assert kit.nack(b)[0].state == "cancelled"
    assert kit.release(d)[0].state == "cancelled"
    assert not any(name.startswith("-") for name in kit.states(made))
    kit.ack(e)
    assert kit.states(made)["d"] == "done" and kit.state_of(made) == "compensating"
    kit.pass_ms(30_000)  # the last lease ends by itself
    states = kit.states(made)
    assert states["e"] == "cancelled" and states["-d"] == "ready"
    assert kit.finish() == ["-d"] and kit.state_of(made) == "compensated"


def test_a_delayed_step_and_one_that_would_run_after_a_failure_do_not_start() -> None:
    kit = make()
    steps = (
        FlowStepDraft("a", "q", Draft(), (), EnqueueTo("q", Draft())),
        FlowStepDraft("late", "q", Draft(delay_ms=5)),
        FlowStepDraft("any", "q", Draft(extras=Extras(on_dependency_failure="run")), (0,)),
        FlowStepDraft("after", "q", Draft(), (2,)),
    )
    made = kit(c.CreateFlow(steps, (0, 1, 2, 3)))
    kit.nack(kit.next(), dead_letter=True)
    assert kit.states(made) == {"a": "dead", "late": "cancelled", "any": "cancelled", "after": "dead"}
    assert kit.state_of(made) == "failed"


def test_cancelling_a_step_turns_the_saga_round() -> None:
    kit = make()
    made = kit.flow("a b:a c:b", undo="a")
    kit.ack(kit.next())
    kit(c.Cancel(made.steps[1].message))
    assert kit.states(made) == {"a": "done", "b": "cancelled", "c": "dead", "-a": "ready"}
    kit.finish()
    assert kit.state_of(made) == "compensated"


def test_a_marked_step_that_is_acked_is_done_and_undone() -> None:
    kit = make()
    made = kit.flow("a b", undo="a b")
    a, b = kit.lease(2)
    kit(c.Cancel(a.message))
    kit.ack(a)
    assert kit.state_of(made) == "running"
    kit.nack(b, dead_letter=True)
    assert kit.finish() == ["-a"]


def test_a_purge_turns_the_saga_round_when_its_sweep_comes_by() -> None:
    kit = make()
    made = kit.flow("a b:a", undo="a", queue="q")
    kit.ack(kit.next())
    kit(c.PurgeQueue("q"))
    kit.pass_ms(0)
    assert kit.states(made) == {"a": "done", "b": "cancelled", "-a": "ready"}


def test_compensations_come_although_their_queue_is_gone_full_or_paused() -> None:
    kit = make()
    kit.queue("undo", max_messages=0)
    steps = (
        FlowStepDraft("a", "q", Draft(), (), EnqueueTo("undo", Draft())),
        FlowStepDraft("b", "q", Draft(), (0,)),
    )
    first, second = kit(c.CreateFlow(steps, (0, 1))), kit(c.CreateFlow(steps, (0, 1)))
    kit(c.PauseQueue("undo", enqueue=True))
    kit.ack(*kit.lease(2))
    one, two = kit.lease(2)
    kit.nack(one, dead_letter=True)
    assert kit.counts("undo") == {"ready": 1}
    kit(c.DeleteQueue("undo"))
    kit.nack(two, dead_letter=True)
    assert kit.counts("undo") == {"ready": 1}
    kit.pass_ms(0)
    assert (kit.state_of(first), kit.states(first)["-a"]) == ("failed", "cancelled")
    assert kit.finish(queue="undo") == ["-a"] and kit.state_of(second) == "compensated"


def test_r25_many_cancellations_and_compensations_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 4)
    kit = make()
    early = [f"a{n}" for n in range(10)]
    late = [f"z{n}" for n in range(10)]
    made = kit.flow(" ".join([*early, "bad", *late]), undo=" ".join([*early, *late]))
    kit.ack(*kit.lease(10))
    bad = kit.next()
    waiting = kit.lease(1)
    kit.nack(bad, dead_letter=True)
    assert list(kit.states(made).values()).count("ready") == 9  # nobody has come to these yet
    kit.nack(*waiting)
    assert kit.lease(3) == []
    assert [name for name, state in kit.states(made).items() if state == "ready"] == ["-a9"]
    pieces = 0
    while kit.m.flow_work.live:
        before = list(kit.states(made))
        kit(c.Expire(1))
        pieces += 1
        assert len(kit.states(made)) - len(before) <= 6  # 1 before what is due, 1 after it, and 4 of `INLINE`
    assert pieces > 1
    assert kit.finish() == ["-" + name for name in reversed(early)]
    assert kit.state_of(made) == "compensated"


def test_compensations_that_are_quicker_than_their_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 0)
    kit = make()
    names = [f"s{n}" for n in range(6)]
    made = kit.flow(" ".join([*names, "bad"]), undo=" ".join(names))
    kit.ack(*kit.lease(6))
    kit.nack(kit.next(), dead_letter=True)
    order = []
    while kit.state_of(made) == "compensating":
        order += kit.finish()
        kit(c.Expire(1))
    assert order == ["-" + name for name in reversed(names)] and kit.state_of(made) == "compensated"


def test_a_lease_stops_only_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 1)
    monkeypatch.setattr("trivet.machine.delivery.EXPIRE_BATCH_MAX", 3)
    kit = make()
    made = kit.flow("bad a b c d e", undo="bad")
    kit.nack(kit.next(), dead_letter=True)
    kit.put("plain")
    assert kit.lease() == [] and list(kit.states(made).values()).count("cancelled") >= 3
    while kit.m.flow_work.live:
        kit.pass_ms(0)
    assert len(kit.lease()) == 1 and kit.state_of(made) == "failed"


def test_the_dead_of_a_saga_are_not_redriven_not_even_when_it_is_forgotten() -> None:
    kit = make()
    kit.flow("a b:a", undo="a")
    kit.ack(kit.next())
    kit.nack(kit.next(), dead_letter=True)
    assert kit(c.Redrive("q")).ids == () and views.redrive_candidates(kit.m, "q", None, None, 10) == (
        [],
        None,
    )
    kit.finish()
    kit.pass_ms(7_200_000)
    assert not kit.m.flow_index.live and kit.counts() == {"dead": 1}
    assert kit(c.Redrive("q")).ids == ()


def test_a_compensation_that_is_redriven_among_others_is_waited_for() -> None:
    kit = make()
    made = kit.flow("a b bad:a,b", undo="a b")
    kit.ack(*kit.lease(2))
    kit.nack(kit.next(), dead_letter=True)
    kit.nack(kit.next(), dead_letter=True)
    assert len(kit(c.Redrive("q")).ids) == 1
    assert kit.finish() == ["-a", "-b"] and kit.state_of(made) == "compensated"


def test_kits_notice_a_broken_law() -> None:
    kit = FlowKit()
    made = kit.flow("a", undo="a")
    kit.m.flow_index.slice_after(made.flow - 1, 1)[0].left = 7
    with pytest.raises(AssertionError, match="counts what is left"):
        kit.pass_ms(0)
