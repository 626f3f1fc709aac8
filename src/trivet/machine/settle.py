"""Ack, nack, release: the ends a consumer gives to its lease (R13–R15, R19, R20, R22, R27)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trivet.limits import ERROR_BYTES_MAX, SETTLE_WINDOW_MS
from trivet.machine import bulk, flow_steps, intake, ledger, transitions
from trivet.machine.commands import (
    Ack,
    AckItem,
    AckLeases,
    AckTokens,
    Nack,
    NackItem,
    Release,
    ReleaseLeases,
)
from trivet.machine.ids import join_tokens
from trivet.machine.replies import ACKED, EnqueuedOne, Refusal, Settled, SettledAll, all_settled
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
from trivet.machine.tokens import fence_of, judged, live_message

if TYPE_CHECKING:
    from trivet.machine.core import Machine

RELEASED = Settled("released")
NOTHING_MORE = AckItem(None)
STALE = Settled("stale_lease")
NOT_FOUND = Settled("not_found")

_VERBS = {"acked": "ack", "nacked": "nack", "dead": "nack", "released": "release"}


def answer_ended(m: Machine, fence: int, verb: str) -> Settled:
    """What a fence gets under which nothing is leased: its first answer again, `stale_lease`, or `not_found` (R14)."""
    settled = m.settled.get(fence)
    if settled is not None and settled.at_ms + SETTLE_WINDOW_MS > m.clock_ms:
        return replace(settled.answer, repeated=True) if _VERBS[settled.answer.status] == verb else STALE
    message = m.expired.get(fence)
    return STALE if message is not None and not is_gone(message) else NOT_FOUND


def _remember(m: Machine, fence: int, message: Message, answer: Settled) -> None:
    m.remember_settled((fence,), (message.number,), answer)


# --- ack ----------------------------------------------------------------------------------------------


def ack(m: Machine, command: Ack) -> SettledAll | Refusal:
    """Finish leased messages as done. With `enqueue` all or nothing, otherwise item by item (R15)."""
    if command.enqueue:
        return _ack_and_enqueue(m, command)
    items = command.items
    return _ack_each(m, judged(m, join_tokens([item.token for item in items])), items)


def ack_tokens(m: Machine, command: AckTokens) -> SettledAll:
    """`ack` of nothing but tokens, which the leader could not check."""
    return _ack_each(m, judged(m, command.tokens))


def ack_leases(m: Machine, command: AckLeases) -> SettledAll:
    """`ack` of nothing but tokens, which the leader has checked."""
    return _ack_each(m, command.fences)


def _ack_each(m: Machine, fences: Sequence[int], items: Sequence[AckItem] = ()) -> SettledAll:
    """`items`: where they say more than the fences."""
    found = m.leases.get_many(fences)
    for at, item in enumerate(items):
        if item.effects:
            found[at] = None  # not plain
    claimed: dict[str, int] = {}
    results = [ACKED] * bulk.ack(m, found, 0, items)
    while len(results) < len(fences):
        at = len(results)
        item = items[at] if items else NOTHING_MORE
        message = m.live_lease(fences[at])
        code = None if message is None else ledger.check_ack(m, message, item.effects, claimed)
        if message is None:
            results.append(answer_ended(m, fences[at], "ack"))
        elif code is not None:
            results.append(Settled(code))
        else:
            _ack_one(m, message, item)
            results.append(ACKED)
        results += [ACKED] * bulk.ack(m, found, len(results), items)
    return all_settled(results)


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
        fence = fence_of(m, item.token)
        message = m.live_lease(fence)
        if message is None:  # the same token twice in one request
            results.append(answer_ended(m, fence, "ack"))
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
        fence = fence_of(m, item.token)
        message = m.live_lease(fence)
        if message is None:
            results.append(answer_ended(m, fence, "nack"))
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
    return _release_each(m, [fence_of(m, token) for token in command.tokens])


def release_leases(m: Machine, command: ReleaseLeases) -> SettledAll:
    """`release` of the leader's own leases."""
    return _release_each(m, command.fences)


def _release_each(m: Machine, fences: Sequence[int]) -> SettledAll:
    results: list[Settled] = []
    for fence in fences:
        message = m.live_lease(fence)
        if message is None:
            results.append(answer_ended(m, fence, "release"))
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
