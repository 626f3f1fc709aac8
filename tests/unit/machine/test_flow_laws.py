"""Every law of flows notices when it is broken (R38)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.machine.flowkit import FlowKit
from trivet.machine import flow_laws
from trivet.machine.core import Machine
from trivet.machine.flow_record import Flow
from trivet.machine.state import DEAD, DONE


def of_all_kinds() -> tuple[Machine, list[Flow]]:
    """One that runs, one that turned round and waits for a lease, one that undoes, one that ended."""
    kit = FlowKit()
    kit.queue()
    kit.flow("a b:a", queue="runs")
    kit.flow("a b c", undo="a", queue="stops")
    held = kit.lease(2, queue="stops")
    kit.nack(held[0], dead_letter=True)
    kit.flow("a b c:a,b", undo="a b", queue="undoes")
    kit.ack(*kit.lease(2, queue="undoes"))
    kit.nack(kit.next("undoes"), dead_letter=True)
    kit.flow("a", queue="ended")
    kit.finish(queue="ended")
    assert flow_laws.check(kit.m) == []
    return kit.m, list(kit.m.flow_index.after(0))


def _filed(m: Machine, flows: list[Flow]) -> None:
    del m.flow_steps[flows[0].steps[0].message]


def _work(m: Machine, flows: list[Flow]) -> None:
    m.flow_work.add(flows[0].number, flows[0])


def _kept(m: Machine, flows: list[Flow]) -> None:
    m.messages[flows[3].steps[0].message].due_at_ms = 0


def _kept_by_none(m: Machine, flows: list[Flow]) -> None:
    _kept(m, flows)
    _filed(m, [flows[3]])


def _state(m: Machine, flows: list[Flow]) -> None:
    flows[0].steps[0].state = DONE


def _gone(m: Machine, flows: list[Flow]) -> None:
    del m.messages[flows[0].steps[0].message]


def _order(m: Machine, flows: list[Flow]) -> None:
    flows[0].steps[0].order = 3


def _starts(m: Machine, flows: list[Flow]) -> None:
    step = flows[1].steps[2]
    m.messages[step.message].state = 2
    step.state, step.order = -1, 0
    flows[1].left += 1


def _early(m: Machine, flows: list[Flow]) -> None:
    flows[2].state = 1


def _swapped(m: Machine, flows: list[Flow]) -> None:
    one, other = flows[2].steps[:2]
    one.compensation, other.compensation = other.compensation, one.compensation


def _ended_swapped(m: Machine, flows: list[Flow]) -> None:
    one, other = flows[2].steps[:2]
    one.compensate = other.compensate = None
    one.compensation, other.compensation = other.compensation, one.compensation


def _missing(m: Machine, flows: list[Flow]) -> None:
    flows[2].steps[0].compensation = 0


def _unchained(m: Machine, flows: list[Flow]) -> None:
    message = m.messages[flows[2].steps[0].compensation]
    message.draft = type(message.draft)()


def _failed(m: Machine, flows: list[Flow]) -> None:
    flows[3].state = 5


def _not_done(m: Machine, flows: list[Flow]) -> None:
    flows[3].steps[0].state = DEAD


DAMAGES: list[tuple[Callable[[Machine, list[Flow]], None], str]] = [
    (_filed, "steps by message"),
    (_work, "flows that owe work"),
    (_kept, "is kept by no flow"),
    (_kept_by_none, "is kept by no flow"),
    (_state, "a is recorded as"),
    (_gone, "a is recorded as"),
    (_order, "a ended as"),
    (_starts, "starts nothing new"),
    (_early, "undoes in reverse order"),
    (_swapped, "undoes in reverse order"),
    (_ended_swapped, "undoes in reverse order"),
    (_missing, "undoes in reverse order"),
    (_unchained, "undoes in reverse order"),
    (_failed, "fails for a reason"),
    (_not_done, "is done when all is"),
]


@pytest.mark.parametrize(("damage", "what"), DAMAGES)
def test_a_broken_law_is_noticed(damage: Callable[[Machine, list[Flow]], None], what: str) -> None:
    m, flows = of_all_kinds()
    damage(m, flows)
    assert any(what in line for line in flow_laws.check(m)), flow_laws.check(m)
