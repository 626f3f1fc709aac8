"""Runs: replay, snapshots, views, and what they have to do with flows."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.machine.flowkit import FlowKit
from tests.unit.machine.kit import code, dump
from tests.unit.machine.runkit import HOUR, RunKit, make
from trivet.machine import commands as c
from trivet.machine import flow_steps, invariants, run_views, runs, snapshotting
from trivet.machine.commands import Draft, Extras
from trivet.machine.ids import message_id
from trivet.machine.run_commands import (
    NewRunEvent,
    ReplayRun,
)
from trivet.machine.snapshotting import NOTHING_YET, Builder, Walk

# --- replay -------------------------------------------------------------------------------------------


def finish(kit: RunKit) -> None:
    kit.ack(*kit.lease(100))


def test_replay_makes_new_messages_that_name_their_origin() -> None:
    kit = make(lease_ms=500)
    number = kit.put_step("s", key="k", group="g", delay_ms=10, priority=3)
    kit.pass_ms(10)
    finish(kit)
    kit.now += 5
    ((again, origin),) = kit.replay().items()
    assert origin == number and kit.state(again) == "ready" and kit.state(number) == "done"
    message = kit.m.messages[again]
    assert message.origin == ("replay", message_id(number))
    assert (message.draft.key, message.draft.group, message.priority) == (None, "g", 3)
    assert (message.attempt, message.enqueued_at_ms) == (0, kit.now)
    type, told = kit.told()[-1]
    assert (type, told["reason"], told["origin"]) == ("ready", "replayed", message_id(number))


def test_a_replay_stands_for_its_message_until_it_is_finished() -> None:
    kit = make()
    number = kit.put_step("s")
    assert kit.replay() == {}  # not finished
    finish(kit)
    (again,) = kit.replay()
    assert kit.replay() == {}  # its replay is under way
    kit.nack(*kit.lease(), dead_letter=True)
    assert list(kit.replay().values()) == [again]
    assert kit.state(number) == "done"


def test_replay_of_one_step() -> None:
    kit = make()
    kit.put_step("a")
    b = kit.put_step("b")
    kit.put_step()
    finish(kit)
    assert list(kit.replay("b").values()) == [b]
    reply = kit(ReplayRun("r", "nope"))
    assert (code(reply), reply.field) == ("step_not_found", "/step_id")
    assert code(kit(ReplayRun("nope"))) == "run_not_found"


def test_dependencies_among_the_replayed_map_to_the_new_ones() -> None:
    kit = make()
    a = kit.put_step("a")
    b = kit.put_step("b", depends_on=(a,))
    finish(kit)
    finish(kit)
    new = {origin: number for number, origin in kit.replay().items()}
    assert kit.m.messages[new[b]].draft.extras.depends_on == (new[a],)
    assert (kit.state(new[a]), kit.state(new[b])) == ("ready", "blocked")
    finish(kit)
    assert kit.state(new[b]) == "ready"
    assert kit.replay("a") != {}  # a replay of the replay: the next one of `b` waits for that
    finish(kit)
    (last,) = kit.replay("b")
    assert kit.m.messages[last].draft.extras.depends_on[0] > new[b]


def test_who_replays_a_step_has_decided_about_failed_dependencies() -> None:
    kit = make()
    a = kit.put_step("a")
    b = kit.put_step("b", depends_on=(a,))
    kit.nack(*kit.lease(), dead_letter=True)
    assert kit.state(b) == "dead"
    (again,) = kit.replay("b")
    assert kit.state(again) == "ready" and kit.m.messages[again].draft.extras.depends_on == ()


def test_a_redriven_replay_stays_a_replay() -> None:
    kit = make()
    number = kit.put_step()
    finish(kit)
    (again,) = kit.replay()
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Redrive("q"))
    assert kit.m.messages[again].origin == ("replay", message_id(number))
    assert kit.replay() == {}


def test_replay_respects_room_and_pause() -> None:
    kit = make(max_messages=2)
    for _ in range(2):
        kit.put_step()
    finish(kit)
    kit.put_step()
    reply = kit(ReplayRun("r"))
    assert len(reply.messages) == 1 and reply.next is not None
    assert code(kit(ReplayRun("r", after=reply.next, upto=reply.upto))) == "queue_full"
    kit(c.PauseQueue("q", enqueue=True))
    assert code(kit(ReplayRun("r", after=reply.next, upto=reply.upto))) == "queue_paused"


def test_r25_replay_goes_by_cursor_and_leaves_later_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from trivet.machine import replaying

    kit = make()
    numbers = [kit.put_step("s") for _ in range(5)]
    finish(kit)
    first = kit(ReplayRun("r", "s", limit=2))
    assert [one.origin for one in first.messages] == numbers[:2] and first.next == numbers[1]
    rest = kit(ReplayRun("r", "s", limit=100, after=first.next, upto=first.upto))
    assert [one.origin for one in rest.messages] == numbers[2:] and rest.next is None
    finish(kit)
    monkeypatch.setattr(replaying, "SCAN_MAX", 3)
    slow = kit(ReplayRun("r", "s"))
    assert slow.messages == () and slow.next == numbers[2]
    assert kit(ReplayRun("r", "nope")).messages == ()  # not all was looked at: nobody can say so yet


def test_what_a_purge_has_taken_is_not_replayed() -> None:
    kit = make()
    kit.put_step()
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.PurgeDead("q"))
    assert kit.replay() == {}


# --- snapshots and views ------------------------------------------------------------------------------


def test_r9_a_walk_gives_events_as_they_were_though_they_leave_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "RUN_EVENTS_MAX", 300)
    kit = make(result_retention_ms=0)
    kit.put_step(run="long")
    kit.append(*["t"] * 299, run="long")
    kit.put_step(run="idle")
    kit.append(*["t"] * 99, run="idle")
    kit.ack(*kit.lease(2))
    kit.put_step(run="long")
    before = dump(kit.m)
    for step in (1, 3, 50, 200, 10_000):
        walk = Walk(kit.m)
        expected = dump(kit.m)
        builder = Builder()
        taken = 0
        while (item := walk.next()) is not None:
            if item is not NOTHING_YET:
                builder.add(*item)
                taken += 1
            if taken == step:
                kit.append(*["new"] * 150, run="long")
                kit.now += HOUR
                while kit(c.Expire(7)).more:
                    pass
                taken += 1
        walk.close()
        built = builder.finish()
        assert dump(built)["run events"] == expected["run events"]
        assert dump(built)["runs"] == expected["runs"]
        assert invariants.check(built) == []
    assert "idle" not in kit.m.runs and dump(kit.m)["run events"] != before["run events"]


def test_an_event_of_a_run_that_is_not_there_makes_no_machine() -> None:
    kit = make()
    kit.put_step()
    builder = Builder()
    builder.add(snapshotting.HEADER, msgspec.msgpack.encode(kit.m.header()))
    data = msgspec.msgpack.encode(kit.run().events[0].to_data())
    with pytest.raises(ValueError, match="a record of run events cannot be read"):
        builder.add(snapshotting.RUN_EVENTS, data)


def test_a_run_shows_the_newest_of_a_long_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_views, "TIMELINE_MAX", 2)
    kit = make()
    kit.put_step()
    kit.append("t")
    (grant,) = kit.lease()
    kit.append("t")
    kit.ack(grant)
    view = run_views.run(kit.m, "r", 10)
    assert view is not None
    assert [(event.id, event.type) for event in view["timeline"]] == [
        (3, "message.leased"),
        (5, "message.done"),
    ]
    monkeypatch.setattr(run_views, "TIMELINE_BYTES_MAX", 1)
    view = run_views.run(kit.m, "r", 10)
    assert view is not None and view["timeline"] == []


def test_steps_show_what_is_special_about_them() -> None:
    kit = make()
    number = kit.put_step("a")
    draft = Draft(extras=Extras(run_id="r", step_id="b", parent_step_id="a", depends_on=(number,)))
    kit.put(draft)
    kit(c.PurgeQueue("q"))
    view = run_views.run(kit.m, "r", 10)
    assert view is not None
    first, second = view["steps"]
    assert first["state"] == "cancelled"  # though no sweep has come by
    assert (second["parent_step_id"], second["depends_on"]) == ("a", [message_id(number)])
    assert run_views.run(kit.m, "nope", 10) is None and run_views.events(kit.m, "nope", 0, 10) is None


# --- with flows ---------------------------------------------------------------------------------------


def test_a_replayed_step_of_a_flow_gets_the_results_again() -> None:
    kit = FlowKit()
    kit.queue()
    made = kit.flow("a b:a")
    for result in (b'"one"', b'"two"'):
        kit.ack(kit.next(), result=result)
    again = kit(ReplayRun(made.run_id, "b"))
    assert len(again.messages) == 1
    message = kit.m.messages[kit.next().message]
    assert flow_steps.parents(kit.m, message) == {"a": b'"one"'}
    whole = kit(ReplayRun(made.run_id, "a"))
    assert len(whole.messages) == 1
    message = kit.m.messages[kit.next().message]
    assert flow_steps.parents(kit.m, message) is None  # it waited for nothing
    assert kit.state_of(made) == "done"


def test_what_a_saga_did_or_undid_is_not_replayed() -> None:
    kit = FlowKit()
    kit.queue()
    made = kit.flow("a b:a", undo="a")
    kit.finish(fail="b")
    assert kit.state_of(made) == "compensated"
    assert kit(ReplayRun(made.run_id)).messages == ()
    kit.pass_ms(0)
    assert kit(ReplayRun(made.run_id)).messages == ()


def test_a_replayed_message_is_given_only_results_that_have_a_name() -> None:
    kit = make()
    first = kit.put_step(None)
    second = kit.put_step("b", depends_on=(first,))
    finish(kit)
    finish(kit)
    (again,) = kit.replay("b")
    assert kit.m.messages[again].draft.extras.depends_on == (first,)
    assert flow_steps.parents(kit.m, kit.m.messages[again]) == {}
    assert flow_steps.parents(kit.m, kit.m.messages[second]) is None


def test_lists_and_pages() -> None:
    kit = make()
    for run in ("a", "b", "c"):
        kit.put_step(run=run)
    found, following = run_views.runs(kit.m, 2)
    assert [one["run_id"] for one in found] == ["a", "b"] and following == kit.run("b").number
    rest, end = run_views.runs(kit.m, 2, following)
    assert [one["run_id"] for one in rest] == ["c"] and end is None
    kit.append(*[NewRunEvent("t", b"1" * 100)] * 3, run="a")
    page = run_views.events(kit.m, "a", 1, 10)
    assert page is not None
    assert ([event.id for event in page.events], page.first_id, page.next_id) == ([2, 3, 4], 1, 5)
    for most, ids in ((1, [2]), (101, [2]), (202, [2, 3]), (1000, [2, 3, 4])):
        page = run_views.events(kit.m, "a", 1, 10, most)
        assert page is not None and [event.id for event in page.events] == ids
    page = run_views.events(kit.m, "a", 4, 10)
    assert page is not None and page.events == []
