"""Mutants of flows: S3, S9, S10, S16."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker.mutant import mutant
from chaos.checker.scene import Line
from chaos.checker.script import FLOW, UNDO
from chaos.checker.spoil import Op, Spoiler
from chaos.history import OK


def undone(s: Spoiler) -> Iterator[tuple[Op, Line]]:
    """Deliveries of compensations of flows whose creation was answered."""
    known = {op.op for op in s.ops if op.f == "create_flow" and op.ret["type"] == OK}
    for op, one in s.deliveries():
        if one["queue"] == UNDO and one["body"]["op"] in known:
            yield op, one


@mutant("S9")
def finished_step_never_undone(s: Spoiler) -> None:
    _, one = s.one(undone(s))
    s.hide(one["id"])


@mutant("S3")
def step_undone_twice(s: Spoiler) -> None:
    """By two messages of different ids."""
    op, one = s.one(undone(s))

    def another(again: Op) -> None:
        again.result["messages"] = [{**one, "id": "mfffffffffff1", "lease_token": "B" * 32}]

    s.again(op, s.end_place(), another)


@mutant("S9")
def child_given_another_result(s: Spoiler) -> None:
    one = s.one(one for _, one in s.deliveries() if one["queue"] == FLOW and one.get("parents"))
    name = next(iter(one["parents"]))
    one["parents"][name] = {"op": one["body"]["op"], "i": 99}


@mutant("S9")
def compensation_given_nothing(s: Spoiler) -> None:
    _, one = s.one(undone(s))
    one["parents"] = dict.fromkeys(one["parents"])


@mutant("S10")
def step_answered_as_ready_that_waits(s: Spoiler) -> None:
    step = s.one(
        step for op in s.all("create_flow") for step in op.result["steps"] if step["state"] == "blocked"
    )
    step["state"] = "ready"


@mutant("S16")
def flow_read_as_over_that_is_not(s: Spoiler) -> None:
    op = s.one(
        op for op in s.ops if op.f == "read_flow" and op.ret["type"] == OK and op.result["state"] == "running"
    )
    op.result["state"] = "done"
