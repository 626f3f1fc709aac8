"""`depends_on`: a blocked message waits until each message it names has ended.

A dependency that is done satisfies; one that is dead or cancelled fails its dependents, unless they said
`run`. However many wait for one message, the work is done in bounded pieces: what a command does not
finish is left to `Expire` (R25).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine import transitions
from trivet.machine.order import Index
from trivet.machine.state import (
    DEAD,
    SWEEP_DEPENDENTS,
    Message,
    Sweep,
    extras_of,
    is_gone,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

INLINE = 100  # dependents told within the command that ended their dependency


def watch(m: Machine, message: Message) -> None:
    """The message is blocked: it wants to hear of each of its `pending`."""
    for dependency in message.pending:
        waiting = m.dependents.get(dependency)
        if waiting is None:
            waiting = m.dependents[dependency] = Index()
        waiting.add(message.number, message)


def unwatch(m: Machine, message: Message) -> None:
    """The message is no longer blocked. It was touched by the caller."""
    for dependency in message.pending:
        _unwatch_one(m, message, dependency)
    message.pending = ()


def _unwatch_one(m: Machine, message: Message, dependency: int) -> None:
    waiting = m.dependents[dependency]
    waiting.discard(message.number)
    if not waiting.live:
        del m.dependents[dependency]


def ended(m: Machine, number: int, *, failed: bool) -> None:
    """Owe the dependents of `number` the news of its end."""
    serial = m.new_number()  # above every message there is: later dependents are not told of this end
    sweep = Sweep(serial, SWEEP_DEPENDENTS, 0, 0, serial, m.walk_mark, message=number, failed=failed)
    m.resolving.add(sweep.number, sweep)


def resolve(m: Machine, budget: int) -> int:
    """Tell at most `budget` dependents; answers how many. What they cause in turn is owed likewise."""
    handled = 0
    while handled < budget:
        sweep = m.resolving.first()
        if sweep is None:
            break
        m.touch(sweep)
        waiting = m.dependents.get(sweep.message)
        told = [] if waiting is None else waiting.slice_after(sweep.cursor, budget - handled)
        for message in told:
            if message.number > sweep.upto:
                break
            sweep.cursor = message.number
            if not is_gone(message):
                _tell(m, message, sweep)
        handled += len(told)
        if not told or told[-1].number > sweep.upto:
            handled += 1  # an ended sweep is a piece of work too: chains of them stay bounded
            m.resolving.discard(sweep.number)
    return handled


def _tell(m: Machine, message: Message, sweep: Sweep) -> None:
    m.touch(message)
    if sweep.failed and extras_of(message.draft).on_dependency_failure == "fail":
        transitions.finish(m, message, DEAD, reason="dependency_failed")
        return
    _unwatch_one(m, message, sweep.message)
    message.pending = tuple(number for number in message.pending if number != sweep.message)
    if not message.pending:
        transitions.make_waiting(m, message, message.due_at_ms)
