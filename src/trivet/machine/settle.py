"""Ack, nack, release: the ends a consumer gives to its lease (R13–R15, R19, R20, R22, R27)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from trivet.limits import ERROR_BYTES_MAX, SETTLE_WINDOW_MS
from trivet.machine import bulk, flow_steps, ids, intake, ledger, transitions
from trivet.machine.commands import Ack, AckItem, Nack, NackItem, Release, Token
from trivet.machine.persistent import SettledToken
from trivet.machine.replies import EnqueuedOne, Refusal, Settled, SettledAll
from trivet.machine.state import (
    CANCELLED,
    DEAD,
    DELAYED,
    DONE,
    READY,
    STATE_NAMES,
    Message,
    is_gone,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

ACKED = Settled("acked")
RELEASED = Settled("released")
STALE = Settled("stale_lease")
NOT_FOUND = Settled("not_found")

_VERBS = {"acked": "ack", "nacked": "nack", "dead": "nack", "released": "release"}


def live_message(m: Machine, token: Token | None) -> Message | None:
    """The message this token leases now, or None."""
    if token is None:
        return None
    message = m.live_lease(token.fence)
    if message is None or message.lease is None or message.lease.mac != token.mac:
        return None
    return message


def answer_ended(m: Machine, token: Token | None, verb: str) -> Settled:
    """What a token that is not live gets: its first answer again, `stale_lease`, or `not_found` (R14)."""
    if token is None:
        return NOT_FOUND
    settled = m.settled.get(token.fence)
    if settled is not None and settled.at_ms + SETTLE_WINDOW_MS > m.clock_ms:
        if ids.lease_mac(m.secret, token.fence, settled.message) != token.mac:
            return NOT_FOUND
        return replace(settled.answer, repeated=True) if _VERBS[settled.answer.status] == verb else STALE
    message = m.expired.get(token.fence)
    if (
        message is not None
        and not is_gone(message)
        and ids.lease_mac(m.secret, token.fence, message.number) == token.mac
    ):
        return STALE
    return NOT_FOUND


def _remember(m: Machine, fence: int, message: Message, answer: Settled) -> None:
    m.remember_settled((fence,), (SettledToken(fence, message.number, m.clock_ms, answer),))


# --- ack ----------------------------------------------------------------------------------------------


def ack(m: Machine, command: Ack) -> SettledAll | Refusal:
    """Finish leased messages as done. With `enqueue` all or nothing, otherwise item by item (R15)."""
    if command.enqueue:
        return _ack_and_enqueue(m, command)
    results: list[Settled] = []
    claimed: dict[str, int] = {}
    items = command.items
    while len(results) < len(items):
        done = bulk.ack(m, items, len(results), ACKED)
        if done:
            results += [ACKED] * done
            continue
        item = items[len(results)]
        message = live_message(m, item.token)
        if message is None:
            results.append(answer_ended(m, item.token, "ack"))
            continue
        if item.effects:
            code = ledger.check_ack(m, message, item.effects, claimed)
            if code is not None:
                results.append(Settled(code))
                continue
        _ack_one(m, message, item)
        results.append(ACKED)
    return SettledAll(tuple(results))


def _ack_one(m: Machine, message: Message, item: AckItem) -> None:
    assert message.lease is not None
    m.touch(message)
    fence = message.lease.fence
    if item.effects:
        ledger.commit_in_ack(m, message, item.effects)
    message.result = item.result
    # A message that leaves at once needs no history: nobody can read it.
    if message.history or message.number in m.flow_steps or transitions.retention_ms(m, message, DONE):
        transitions.end_lease(m, message, "acked")
    elif fence in m.lease_effects:
        ledger.on_lease_ended(m, message)
    transitions.finish(m, message, DONE)
    _remember(m, fence, message, ACKED)


def _ack_and_enqueue(m: Machine, command: Ack) -> SettledAll | Refusal:
    if not command.items:
        return Refusal("invalid_argument", "an ack with enqueue needs at least one ack", "/acks")
    acking: dict[int, Message] = {}
    claimed: dict[str, int] = {}
    for at, item in enumerate(command.items):
        message = live_message(m, item.token)
        if message is None:
            return Refusal(
                "stale_lease", "this lease is not live; nothing was done", f"/acks/{at}/lease_token"
            )
        code = ledger.check_ack(m, message, item.effects, claimed)
        if code is not None:
            return Refusal(code, "an effect of this ack was refused; nothing was done", f"/acks/{at}/effects")
        acking[message.number] = message
    entries = [(entry.queue, entry.draft) for entry in command.enqueue]
    plan = intake.plan(m, entries, command.auto_create, "/enqueue", acking)
    if isinstance(plan, Refusal):
        return plan
    results: list[Settled] = []
    for item in command.items:
        message = live_message(m, item.token)
        if message is None:  # the same token twice in one request
            results.append(answer_ended(m, item.token, "ack"))
        else:
            _ack_one(m, message, item)
            results.append(ACKED)
    messages: tuple[EnqueuedOne, ...] = intake.carry_out(m, plan)
    return SettledAll(tuple(results), messages)


# --- nack and release ---------------------------------------------------------------------------------


def nack(m: Machine, command: Nack) -> SettledAll:
    """Give messages back as failed: waiting again, or dead."""
    results: list[Settled] = []
    for item in command.items:
        message = live_message(m, item.token)
        if message is None:
            results.append(answer_ended(m, item.token, "nack"))
        else:
            results.append(_nack_one(m, message, item))
    return SettledAll(tuple(results))


def _nack_one(m: Machine, message: Message, item: NackItem) -> Settled:
    assert message.lease is not None
    fence, marked = message.lease.fence, message.lease.cancelled
    m.touch(message.queue)
    message.queue.totals.nacked += 1
    transitions.end_lease(m, message, "nacked", None if item.error is None else cut(item.error))
    if item.dead_letter and not marked:
        transitions.finish(m, message, DEAD, reason="rejected")
    else:
        transitions.fail(m, message, item.delay_ms)
    due_at_ms = {DELAYED: message.due_at_ms, READY: m.clock_ms}.get(message.state)
    answer = Settled(
        "dead" if message.state == DEAD else "nacked",
        state=STATE_NAMES[message.state],
        deliver_at_ms=due_at_ms,
        cancelled=marked,
    )
    _remember(m, fence, message, answer)
    return answer


def cut(error: str) -> str:
    """The first `ERROR_BYTES_MAX` bytes of an error, at a character's end: errors are never refused (R31)."""
    raw = error.encode("utf-8", "surrogatepass")
    if len(raw) <= ERROR_BYTES_MAX:
        return error
    return raw[:ERROR_BYTES_MAX].decode("utf-8", "ignore")


def release(m: Machine, command: Release) -> SettledAll:
    """Give messages back untouched: to their place, the attempt not counted (R20)."""
    results: list[Settled] = []
    for token in command.tokens:
        message = live_message(m, token)
        if message is None:
            results.append(answer_ended(m, token, "release"))
        else:
            results.append(_release_one(m, message))
    return SettledAll(tuple(results))


def _release_one(m: Machine, message: Message) -> Settled:
    assert message.lease is not None
    fence, marked = message.lease.fence, message.lease.cancelled
    m.touch(message.queue)
    message.queue.totals.released += 1
    transitions.end_lease(m, message, "released")
    message.attempt -= 1
    if marked:
        transitions.finish(m, message, CANCELLED)
    elif 0 < message.expires_at_ms <= m.clock_ms:
        transitions.finish(m, message, DEAD, reason="expired")
    elif flow_steps.stopped(m, message):
        transitions.finish(m, message, CANCELLED)
    else:
        transitions.make_ready(m, message, place=message.place)
    answer = RELEASED
    if message.state != READY:
        answer = Settled("released", state=STATE_NAMES[message.state], cancelled=marked)
    _remember(m, fence, message, answer)
    return answer
