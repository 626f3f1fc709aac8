"""Flows: made at once, run in order, kept while they run (api.md, Flows; R24, R25)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.unit.machine.flowkit import FlowKit, flow
from tests.unit.machine.kit import code, derived, dump, rebuild
from trivet.machine import commands as c
from trivet.machine import flow_views, views
from trivet.machine.commands import Draft, EnqueueTo, FlowStepDraft
from trivet.machine.ids import flow_id, message_id, parse_flow_id
from trivet.machine.snapshotting import Builder, Walk, dismantle, state_digest


def make(**config: Any) -> FlowKit:
    kit = FlowKit()
    kit.queue(**config)
    return kit


def leased(kit: FlowKit, queue: str = "q") -> dict[str, Any]:
    shown = views.leased(kit.m, kit.next(queue).fence)
    assert shown is not None
    return shown


# --- making one -----------------------------------------------------------------------------------------


def test_all_messages_of_a_flow_are_made_in_one_entry() -> None:
    kit = make()
    made = kit.flow("c:a,b b:a a")
    c_, b, a = (one.message for one in made.steps)
    assert [one.state for one in made.steps] == ["blocked", "blocked", "ready"]
    assert made.run_id == flow_id(made.flow) and parse_flow_id(made.run_id) == made.flow
    extras = kit.m.messages[c_].draft.extras
    assert extras is not None
    assert (extras.run_id, extras.step_id, extras.depends_on) == (made.run_id, "c", (a, b))
    shown = kit.shown(made)
    assert shown["state"] == "running" and shown["counts"]["unfinished"] == 3
    assert [(s["step_id"], s["depends_on"], s["state"]) for s in shown["steps"]] == [
        ("c", ["a", "b"], "blocked"),
        ("b", ["a"], "blocked"),
        ("a", [], "ready"),
    ]
    assert views.message(kit.m, a)["origin"] == {"type": "flow", "flow_id": made.run_id}  # type: ignore[index]


def test_a_run_id_may_be_given_and_queues_come_as_they_are_needed() -> None:
    kit = FlowKit()
    steps = (FlowStepDraft("a", "new", Draft(), (), EnqueueTo("undo", Draft())),)
    made = kit(c.CreateFlow(steps, (0,), "run-1"))
    assert made.run_id == "run-1" and sorted(kit.m.queues) == ["new", "undo"]


@pytest.mark.parametrize(
    ("steps", "order"),
    [
        ((), ()),
        (("a", ()), (0,) * 2),
        (("a", ()), (1,)),
        (("a", ()), (-1,)),
        (("a", (0,)), (0,)),
        (("a", (1,), "b", ()), (0, 1)),
        (("a", (7,)), (0,)),
        (("a", ()), ()),
        (("a", (), "a", ()), (0, 1)),
    ],
)
def test_what_has_no_order_is_refused(steps: tuple[Any, ...], order: tuple[int, ...]) -> None:
    kit = make()
    pairs = [steps[at : at + 2] for at in range(0, len(steps), 2)]
    drafts = tuple(FlowStepDraft(name, "q", Draft(), after) for name, after in pairs)
    refused = kit(c.CreateFlow(drafts, order))
    assert (refused.code, refused.field) == ("invalid_argument", "/steps")
    assert kit.counts() == {} and not kit.m.flow_index.live


def test_a_refused_flow_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make(max_messages=3)
    kit.put(Draft(b'"a"', key="k"))
    before = dump(kit.m)
    refusals = [
        kit(flow("a b c")),
        kit(flow("a", key="k")),
        kit(flow("a b", key="new")),
        kit(flow("a", queue="nowhere", auto_create=False)),
        kit(
            c.CreateFlow((FlowStepDraft("a", "q", Draft(), (), EnqueueTo("x", Draft())),), (0,), None, False)
        ),
    ]
    assert [(r.code, r.field) for r in refusals] == [
        ("queue_full", None),
        ("idempotency_conflict", "/steps/0/idempotency_key"),
        ("idempotency_conflict", "/steps/1/idempotency_key"),
        ("queue_not_found", "/steps/0/queue"),
        ("queue_not_found", "/steps/0/compensate/queue"),
    ]
    monkeypatch.setattr("trivet.machine.flows.QUEUES_MAX", 2)
    steps = (FlowStepDraft("a", "x", Draft(), (), EnqueueTo("y", Draft())),)
    assert code(kit(c.CreateFlow(steps, (0,)))) == "too_many_queues"
    after = dump(kit.m)
    assert {name: after[name] for name in after if name != "header"} == {
        name: before[name] for name in before if name != "header"
    }
    assert kit.flow("a", undo="a").steps[0].state == "ready"


def test_a_key_of_a_step_is_known_afterwards() -> None:
    kit = make()
    made = kit.flow("a", key="k")
    again = kit(c.Enqueue("q", (Draft(b'"a"', key="k"),))).messages[0]
    assert again.duplicate and again.message == made.steps[0].message


def test_a_flow_displaces_the_oldest_where_its_queue_says_so() -> None:
    kit = make(max_messages=2, on_full="dead_letter_oldest")
    first = kit.flow("a b", undo="a")
    second = kit.flow("c")
    assert kit.states(first) == {"a": "dead", "b": "cancelled"} and kit.state_of(first) == "failed"
    assert kit.states(second) == {"c": "ready"}


def test_the_same_request_makes_one_flow() -> None:
    kit = make()
    first = kit.ask(flow("a"), "r1")
    second = kit.ask(flow("a"), "r1")
    assert second.repeated and second.reply == first.reply and kit.m.flow_index.live == 1


# --- running it -----------------------------------------------------------------------------------------


def test_a_step_is_given_the_results_of_its_parents() -> None:
    kit = make()
    kit.flow("a b c:a,b d:c")
    one, two = kit.lease(2)
    assert (views.leased(kit.m, one.fence) or {})["parents"] == {}
    kit.ack(one, result=b'{"x":1}')
    kit.ack(two)
    shown = leased(kit)
    names = {kit.step(one): views.Result(b'{"x":1}'), kit.step(two): None}
    assert shown["step_id"] == "c" and shown["parents"] == names
    kit.put("x")
    assert "parents" not in leased(kit)


def test_results_of_parents_count_in_the_size_of_a_lease_answer() -> None:
    kit = make()
    kit.flow("a b:a c:a")
    kit.ack(kit.next(), result=b'"' + b"x" * 1000 + b'"')
    assert len(kit.lease(2, max_bytes=1500)) == 1
    kit.put("small")
    assert len(kit.lease(2, max_bytes=1006)) == 1  # c, which leaves a byte
    assert len(kit.lease(2, max_bytes=1006)) == 1


def test_a_flow_is_done_when_all_its_steps_are() -> None:
    kit = make()
    made = kit.flow("a b:a c:a d:b,c", undo="a b c d")
    assert kit.finish()[-1] == "d"
    assert kit.state_of(made) == "done" and "finished_at_ms" in kit.shown(made)
    other = kit.flow("x")
    kit.ack(kit.next())
    assert kit.hints.flows == [other.flow]


def test_without_compensations_the_other_branches_go_on() -> None:
    kit = make()
    made = kit.flow("a b c:a d:b e:c")
    assert kit.finish(fail="a") == ["a", "b", "d"]
    assert kit.states(made) == {"a": "dead", "b": "done", "c": "dead", "d": "done", "e": "dead"}
    assert kit.state_of(made) == "failed"


def test_a_step_may_run_although_its_parent_failed() -> None:
    kit = make()
    made = kit.flow("a b:a", on_dependency_failure="run")
    kit.nack(kit.next(), dead_letter=True)
    shown = leased(kit)
    assert shown["step_id"] == "b" and shown["parents"] == {"a": None}
    assert kit.state_of(made) == "running"


@pytest.mark.parametrize("how", ["cancel", "purge", "delete"])
def test_cancelled_purged_and_deleted_steps_have_failed(how: str) -> None:
    kit = make()
    kit.queue("other")
    steps = (
        FlowStepDraft("a", "other", Draft()),
        FlowStepDraft("b", "q", Draft(), (0,)),
        FlowStepDraft("c", "other", Draft(delay_ms=10)),
    )
    made = kit(c.CreateFlow(steps, (0, 1, 2)))
    held = kit.next("other") if how == "delete" else None
    if how == "cancel":
        kit(c.Cancel(made.steps[0].message))
        kit(c.Cancel(made.steps[2].message))
    elif how == "purge":
        kit(c.PurgeQueue("other"))
        assert kit.states(made)["a"] == "cancelled" and kit.state_of(made) == "running"
    else:
        kit(c.DeleteQueue("other"))
    kit.pass_ms(0)
    assert kit.states(made) == {"a": "cancelled", "b": "dead", "c": "cancelled"}
    assert kit.state_of(made) == "failed"
    assert held is None or kit.ack(held)[0].status == "not_found"


def test_what_a_flow_kept_in_a_deleted_queue_goes_with_the_queue() -> None:
    kit = make()
    kit.queue("other")
    steps = (FlowStepDraft("a", "other", Draft()), FlowStepDraft("b", "q", Draft(), (0,)))
    made = kit(c.CreateFlow(steps, (0, 1)))
    kit.ack(kit.next("other"), result=b"1")
    kit(c.DeleteQueue("other"))
    assert leased(kit)["parents"] == {"a": None}
    kit.pass_ms(30_000)
    kit(c.DeleteQueue("q"))
    kit.pass_ms(0)
    assert kit.states(made) == {"a": "done", "b": "cancelled"} and not kit.m.messages


# --- what is kept -----------------------------------------------------------------------------------------


def test_r24_steps_stay_at_least_as_long_as_their_flow_runs() -> None:
    kit = make(result_retention_ms=10)
    made = kit.flow("a b:a")
    first = made.steps[0].message
    kit.ack(kit.next(), result=b"1")
    kit.pass_ms(1_000_000)
    assert kit.state(first) == "done" and kit.m.retained_bytes == 0
    assert leased(kit)["parents"] == {"a": views.Result(b"1")}
    kit.pass_ms(30_000)
    kit.ack(kit.next())
    kit.pass_ms(9)
    assert kit.state(first) == "done"
    kit.pass_ms(1)
    assert kit.state(first) is None and kit.states(made) == {"a": "done", "b": "done"}


def test_results_that_no_retention_keeps_last_as_long_as_the_flow() -> None:
    kit = make(result_retention_ms=0, dead_retention_ms=0)
    made = kit.flow("a b:a c")
    kit.ack(kit.next())
    kit.nack(kit.next(), dead_letter=True)
    kit.pass_ms(1000)
    assert kit.states(made) == {"a": "done", "b": "ready", "c": "dead"}
    kit.ack(kit.next())
    assert kit.state_of(made) == "failed" and kit.state(made.steps[0].message) is None
    assert kit.counts() == {"dead": 1}
    kit.pass_ms(0)
    assert kit.counts() == {}


def test_an_ended_flow_stays_for_an_hour() -> None:
    kit = make()
    made = kit.flow("a", undo="a")
    kit.nack(kit.next(), dead_letter=True)
    kit.pass_ms(3_599_999)
    assert kit.state_of(made) == "failed"
    kit.pass_ms(1)
    assert flow_views.flow(kit.m, made.flow) is None and not kit.m.flow_steps
    assert kit.state(made.steps[0].message) == "dead"


def test_r24_ended_flows_leave_early_when_too_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make()
    first, second = kit.flow("a"), kit.flow("b")
    kit.finish()
    size = kit.m.retained_bytes
    monkeypatch.setattr("trivet.machine.expiry.RETAINED_BYTES_MAX", size // 2)
    kit.pass_ms(0)
    assert flow_views.flow(kit.m, first.flow) is None and kit.state_of(second) == "done"
    assert kit.m.retained_forgotten == 2


def test_many_steps_cost_more_than_one_thing_to_forget() -> None:
    kit = make()
    made = kit.flow(" ".join(f"s{n}" for n in range(40)))
    kit.finish()
    while kit.m.flow_work.live:
        kit.pass_ms(0)
    kit(c.PurgeQueue("q"))
    kit.now += 3_600_000
    handled = 0
    while flow_views.flow(kit.m, made.flow) is not None:
        handled = kit(c.Expire(1)).count
    assert handled == 3  # 1 and 40 / 16


# --- redrive ------------------------------------------------------------------------------------------------


def test_a_redriven_step_takes_its_flow_back_to_running() -> None:
    kit = make()
    made = kit.flow("a b:a c")
    assert kit.finish(fail="a") == ["a", "c"]
    assert kit.state_of(made) == "failed"
    assert len(kit(c.Redrive("q")).ids) == 2
    assert kit.state_of(made) == "running" and kit.states(made)["b"] == "blocked"
    assert kit.finish() == ["a", "b"] and kit.state_of(made) == "done"


def test_a_step_redriven_while_its_flow_runs_is_waited_for() -> None:
    kit = make()
    made = kit.flow("a b")
    a, b = kit.lease(2)
    kit.nack(a, dead_letter=True)
    kit(c.Redrive("q"))
    kit.ack(b)
    assert kit.state_of(made) == "running"
    kit.ack(kit.next())
    assert kit.state_of(made) == "done"


def test_a_flow_taken_back_before_all_of_it_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 2)
    kit = make()
    made = kit.flow("a b c d e f")
    kit.finish(fail="f")
    assert kit.m.flow_work.live and kit.state_of(made) == "failed"
    kit(c.Redrive("q"))
    assert not kit.m.flow_work.live and kit.state_of(made) == "running"
    kit.finish()
    kit.pass_ms(0)
    assert kit.state_of(made) == "done" and not kit.m.flow_work.live


def test_a_dead_step_is_redriven_to_another_queue_and_still_of_its_flow() -> None:
    kit = make()
    kit.queue("other")
    made = kit.flow("a")
    kit.finish(fail="a")
    kit(c.Redrive("q", to="other"))
    assert kit.shown(made)["steps"][0]["queue"] == "other"
    assert kit.finish(queue="other") == ["a"] and kit.state_of(made) == "done"


# --- reading, snapshots -----------------------------------------------------------------------------------------


def test_flows_are_listed_by_age_and_state(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make()
    made = [kit.flow("a", queue=f"q{n}") for n in range(4)]
    kit.finish(queue="q1", fail="a")
    kit.finish(queue="q2")

    def listed(limit: int, after: int = 0, state: str | None = None) -> tuple[list[str], str | None]:
        shown, following = flow_views.flows(kit.m, limit, after, state)
        return [each["id"] for each in shown], following

    names = [flow_id(each.flow) for each in made]
    assert listed(2) == (names[:2], names[1])
    assert listed(2, made[1].flow) == (names[2:], None)
    assert listed(9, state="running") == ([names[0], names[3]], None)
    assert listed(1, state="running") == ([names[0]], names[2])
    assert listed(9, state="failed") == ([names[1]], None)
    monkeypatch.setattr(flow_views, "STEPS_MAX", 3)
    assert listed(9) == (names[:3], names[2]) and listed(9, made[2].flow) == (names[3:], None)
    monkeypatch.setattr(flow_views, "SCAN_MAX", 2)
    assert listed(9, state="done") == ([], names[1])
    assert flow_views.flow(kit.m, made[0].flow + 1) is None and flow_views.flow(kit.m, 10**9) is None


def test_a_machine_with_flows_comes_back_from_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 2)
    kit = make()
    kit.flow("a b:a c:b d", undo="a b d")
    kit.flow("x y:x")
    seen = set()
    while not seen or kit.m.flow_work.live or any(flow.state <= 2 for flow in kit.m.flow_index.after(0)):
        seen |= {(flow.state, flow.cursor >= 0) for flow in kit.m.flow_index.after(0)}
        again = rebuild(dump(kit.m))
        assert derived(again) == derived(kit.m) and dump(again) == dump(kit.m)
        walk = Walk(kit.m)
        builder = Builder()
        first = walk.next()
        assert first is not None
        builder.add(*first)
        grants = kit.lease()
        if grants and kit.step(grants[0]) == "b":
            kit.nack(*grants, dead_letter=True)
        else:
            kit.ack(*grants, result=b"1")
        while (item := walk.next()) is not None:
            if item[0] >= 0:
                builder.add(*item)
        walk.close()
        assert state_digest(builder.finish()) == state_digest(again)
    assert {state for state, _ in seen} == {0, 2, 3, 4} and (4, True) in seen and (3, False) in seen
    for _ in dismantle(again):
        pass
    assert not again.flow_index.live and not again.flow_steps


def test_ids_of_flows() -> None:
    assert flow_id(255) == "f0000000000ff" and message_id(255) == "m0000000000ff"
    assert parse_flow_id("f0000000000ff") == 255
    for bad in ("", "m0000000000ff", "f0000000000fF", "f0000000000f", "g0000000000ff"):
        assert parse_flow_id(bad) is None


def test_the_order_of_ends_is_the_order_of_the_log() -> None:
    kit = make()
    kit.flow("a b c")
    grants = kit.lease(3)
    kit.ack(*reversed(grants))
    orders = [step.order for step in next(kit.m.flow_index.after(0)).steps]
    assert all(one > other for one, other in pairwise(orders))
