"""Cancel and patch: changing a message by its id (R22)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine import transitions
from trivet.machine.commands import Cancel, PatchMessage
from trivet.machine.replies import MessageChanged, Refusal
from trivet.machine.state import (
    BLOCKED,
    CANCELLED,
    DELAYED,
    LEASED,
    READY,
    STATE_NAMES,
    Message,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine


def _unfinished(m: Machine, number: int) -> Message | Refusal:
    message = m.find(number)
    if message is None:
        return Refusal("message_not_found", "no such message")
    if message.state > LEASED:
        return Refusal("message_finished", f"the message is {STATE_NAMES[message.state]}")
    return message


def cancel(m: Machine, command: Cancel) -> MessageChanged | Refusal:
    """A waiting message is cancelled at once; a leased one is marked, and its holder is told (R22)."""
    message = _unfinished(m, command.message)
    if isinstance(message, Refusal):
        return message
    if message.lease is not None:
        m.touch(message)
        message.lease.cancelled = True
        return MessageChanged(message.number, STATE_NAMES[LEASED], True, message.lease.expires_at_ms)
    transitions.finish(m, message, CANCELLED)
    return MessageChanged(command.message, STATE_NAMES[CANCELLED])


def patch_message(m: Machine, command: PatchMessage) -> MessageChanged | Refusal:
    """Change priority or delivery time of an unfinished message.

    The time of a leased message cannot be set: a nack decides it (`invalid_argument`).
    """
    message = _unfinished(m, command.message)
    if isinstance(message, Refusal):
        return message
    due_at = command.deliver_at_ms
    if due_at is not None and message.state == LEASED:
        return Refusal("invalid_argument", "the message is leased", "/deliver_at_ms")
    m.touch(message)
    if command.priority is not None and command.priority != message.priority:
        transitions.set_priority(m, message, command.priority)
    if due_at is not None:
        _reschedule(m, message, due_at)
    return MessageChanged(
        message.number, STATE_NAMES[message.state], message.lease is not None and message.lease.cancelled
    )


def _reschedule(m: Machine, message: Message, due_at_ms: int) -> None:
    if message.state == BLOCKED:
        message.due_at_ms = due_at_ms
    elif message.state == DELAYED:
        if due_at_ms > m.clock_ms:
            transitions.set_due(m, message, due_at_ms)
        else:
            transitions.make_waiting(m, message, due_at_ms)
    elif due_at_ms > m.clock_ms:
        assert message.state == READY
        transitions.make_waiting(m, message, due_at_ms)
