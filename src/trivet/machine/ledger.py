"""The effects ledger (R27): who may perform an effect, and whether it may have happened already.

An effect id is *granted* to one holder at a time, *done* for good once committed, and *open* when its
holder's grant ended. A grant ends by commit, by abort, with the lease it is bound to, or by its ttl; the
last two leave it `uncertain`: the holder may have performed the effect and died before the commit.

Only an applied command ends a grant, as with leases (R13): a commit that comes after the ttl but before
the expiry counts, and a begin never ends another's grant. Only the same request id repeats a live grant,
so the same owner asking again is `effect_held` like anybody else (`repeat_begin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.limits import EFFECT_RETENTION_MS, EFFECT_TOKENS_KEPT, EFFECT_TTL_MS_DEFAULT, LEASE_EFFECTS_MAX
from trivet.machine.commands import EffectAbort, EffectBegin, EffectCommit, EffectDone, Token
from trivet.machine.ids import effect_mac
from trivet.machine.persistent import EffectData
from trivet.machine.replies import EffectState, Refusal
from trivet.machine.state import (
    LEASED,
    EffectRecord,
    Message,
)
from trivet.machine.tokens import live_message
from trivet.units import DAY_MS

if TYPE_CHECKING:
    from trivet.machine.core import Machine

GRANTED = "granted"
OPEN = "open"
DONE = "done"

_NOT_FOUND = Refusal("effect_not_found", "this effect token was never issued, or its record is gone")
_STALE = Refusal("stale_effect", "this effect token is not the live one")


# --- commands -----------------------------------------------------------------------------------------


def effect_begin(m: Machine, command: EffectBegin) -> EffectState | Refusal:
    """Grant the effect, or say that it is done. Refuses `stale_lease`, `effect_held`, `invalid_argument`."""
    message: Message | None = None
    if command.has_lease:
        message = live_message(m, command.lease)
        if message is None:
            return Refusal("stale_lease", "the lease token is not live", "/lease_token")
    record = m.effects_by_id.get(command.effect_id)
    if record is not None:
        if record.state == DONE:
            return EffectState(DONE, result=record.result)
        if is_held(m, record):
            wait_ms = max(1, grant_ends_at_ms(m, record) - m.clock_ms)
            return Refusal("effect_held", f"held by {record.owner}", retry_after_ms=wait_ms)
    if message is not None and len(m.lease_effects.get(_fence_of(message)) or ()) >= LEASE_EFFECTS_MAX:
        limit = LEASE_EFFECTS_MAX
        return Refusal("invalid_argument", "too many effects under one lease", "/lease_token", limit)

    if record is None:
        record = EffectRecord(m.new_number(), command.effect_id, OPEN, "", 0, m.walk_mark)
        _file(m, record)
    else:
        m.touch(record)
        if record.state == GRANTED:  # its lease ended with its queue, the sweep has not come by yet (R25)
            _end(m, record, OPEN)
            record.uncertain = True
    return _grant(m, record, command, message)


def _grant(m: Machine, record: EffectRecord, command: EffectBegin, message: Message | None) -> EffectState:
    m.disarm(record)
    if record.fence:
        record.older = (*record.older, record.fence)
        for fence in record.older[:-EFFECT_TOKENS_KEPT]:
            del m.effect_fences[fence]
        record.older = record.older[-EFFECT_TOKENS_KEPT:]
    record.state = GRANTED
    record.owner = command.owner
    record.fence = m.new_fence()
    record.result = None
    record.aborted = False
    m.effect_fences[record.fence] = record
    if message is not None:
        record.lease_fence = _fence_of(message)
        record.message = message.number
        record.expires_at_ms = 0
        m.lease_effects.setdefault(record.lease_fence, {})[record.number] = record
    else:
        ttl_ms = EFFECT_TTL_MS_DEFAULT if command.ttl_ms is None else command.ttl_ms
        record.lease_fence = 0
        record.expires_at_ms = m.clock_ms + ttl_ms
        m.arm_effect(record, record.expires_at_ms, grant=True)
    return EffectState(
        GRANTED,
        uncertain=record.uncertain,
        fence=record.fence,
        mac=effect_mac(m.secret, record.fence, record.effect_id),
        expires_at_ms=grant_ends_at_ms(m, record),
    )


def effect_commit(m: Machine, command: EffectCommit) -> EffectState | Refusal:
    """The effect happened. The same token again gives the same answer, `repeated`."""
    record = _issued(m, command.token)
    if record is None or command.token is None:
        return _NOT_FOUND
    if record.fence == command.token.fence:
        if record.state == DONE:
            return EffectState(DONE, result=record.result, repeated=True)
        if is_held(m, record):
            m.touch(record)
            _finish(m, record, command.result)
            return EffectState(DONE, result=record.result)
    return _STALE


def effect_abort(m: Machine, command: EffectAbort) -> EffectState | Refusal:
    """The effect did not happen: open again, `uncertain` as it was at the grant."""
    record = _issued(m, command.token)
    if record is None or command.token is None:
        return _NOT_FOUND
    if record.fence == command.token.fence:
        if record.aborted:
            return EffectState("aborted", uncertain=record.uncertain, repeated=True)
        if is_held(m, record):
            m.touch(record)
            _end(m, record, OPEN)
            record.aborted = True
            return EffectState("aborted", uncertain=record.uncertain)
    return _STALE


def repeat_begin(m: Machine, stored: EffectState) -> EffectState | None:
    """What a repeated begin (same request id) gets: its grant while that is live, else None: begin anew."""
    if stored.state != GRANTED:
        return stored
    record = m.effect_fences.get(stored.fence or 0)
    if record is None or record.fence != stored.fence or not is_held(m, record):
        return None
    return EffectState(
        GRANTED,
        uncertain=stored.uncertain,
        fence=stored.fence,
        mac=stored.mac,
        expires_at_ms=grant_ends_at_ms(m, record),
    )


# --- effects inside an ack ----------------------------------------------------------------------------


def check_ack(
    m: Machine, message: Message, effects: tuple[EffectDone, ...], claimed: dict[str, int]
) -> str | None:
    """The code that refuses this ack's effects, or None. Changes nothing in the machine.

    `claimed` (effect id → message number) is one dict for the whole command: with all or nothing (R15) every
    item is checked before any commits, and two of them must not both commit the same effect.
    """
    for effect in effects:
        code = _check_one(m, message, effect)
        if code is None and claimed.get(effect.effect_id, message.number) != message.number:
            code = "stale_effect"
        if code is not None:
            return code
    for effect in effects:
        claimed[effect.effect_id] = message.number
    return None


def _check_one(m: Machine, message: Message, effect: EffectDone) -> str | None:
    record = m.effects_by_id.get(effect.effect_id)
    if effect.token is not None:
        if record is None or _issued(m, effect.token) is not record:
            return "effect_not_found"
        mine = record.fence == effect.token.fence
        return None if mine and (record.state == DONE or is_held(m, record)) else "stale_effect"
    if record is None:
        return None
    if record.lease_fence == _fence_of(message) and record.state != OPEN:
        return None
    return "effect_held" if is_held(m, record) else "stale_effect"


def commit_in_ack(m: Machine, message: Message, effects: tuple[EffectDone, ...]) -> None:
    """Commit what `check_ack` has let pass, while the lease still stands."""
    for effect in effects:
        record = m.effects_by_id.get(effect.effect_id)
        if record is None:
            assert message.lease is not None
            record = EffectRecord(
                m.new_number(), effect.effect_id, OPEN, message.lease.consumer, 0, m.walk_mark
            )
            record.lease_fence = message.lease.fence
            record.message = message.number
            _file(m, record)
        if record.state != DONE:
            m.touch(record)
            _finish(m, record, effect.result)


# --- ends ---------------------------------------------------------------------------------------------


def on_lease_ended(m: Machine, message: Message) -> None:
    """Every grant still bound to the message's lease ends uncertain. Called while the lease still stands."""
    for record in list((m.lease_effects.get(_fence_of(message)) or {}).values()):
        m.touch(record)
        _end(m, record, OPEN)
        record.uncertain = True


def on_deadline(m: Machine, record: EffectRecord) -> None:
    """A grant's ttl is over, or an ended record has been kept for its time."""
    m.touch(record)
    if record.state == GRANTED:
        _end(m, record, OPEN)
        record.uncertain = True
        return
    message = m.find(record.message) if record.message else None
    if message is not None and message.state <= LEASED:
        record.expires_at_ms = m.clock_ms + DAY_MS  # its message is unfinished: look again in a day
        m.arm_effect(record, record.expires_at_ms, grant=False)
        return
    del m.effects_by_id[record.effect_id]
    m.effect_index.discard(record.number)
    for fence in record.older:
        del m.effect_fences[fence]
    m.effect_fences.pop(record.fence, None)  # 0 of a record that was never granted is not there


def _finish(m: Machine, record: EffectRecord, result: bytes | None) -> None:
    _end(m, record, DONE)
    record.result = result
    record.uncertain = False


def _end(m: Machine, record: EffectRecord, state: str) -> None:
    """The grant, if there is one, is over; from here on the record is kept for its retention time."""
    if record.state == GRANTED and record.lease_fence:
        bound = m.lease_effects[record.lease_fence]
        del bound[record.number]
        if not bound:
            del m.lease_effects[record.lease_fence]
    m.disarm(record)
    record.state = state
    record.expires_at_ms = m.clock_ms + EFFECT_RETENTION_MS
    m.arm_effect(record, record.expires_at_ms, grant=False)


# --- looking ------------------------------------------------------------------------------------------


def is_held(m: Machine, record: EffectRecord) -> bool:
    """Whether the newest grant is live. One bound to a lease is live exactly as long as the lease."""
    return record.state == GRANTED and (
        not record.lease_fence or m.live_lease(record.lease_fence) is not None
    )


def grant_ends_at_ms(m: Machine, record: EffectRecord) -> int:
    """When a held grant ends, as far as known now: an extended lease moves it."""
    if not record.lease_fence:
        return record.expires_at_ms
    message = m.live_lease(record.lease_fence)
    assert message is not None and message.lease is not None
    return message.lease.expires_at_ms


def _issued(m: Machine, token: Token | None) -> EffectRecord | None:
    """The record a token was issued for, whether or not it is still the newest."""
    if token is None:
        return None
    record = m.effect_fences.get(token.fence)
    if record is None or effect_mac(m.secret, token.fence, record.effect_id) != token.mac:
        return None
    return record


def _fence_of(message: Message) -> int:
    assert message.lease is not None
    return message.lease.fence


def _file(m: Machine, record: EffectRecord) -> None:
    m.effects_by_id[record.effect_id] = record
    m.effect_index.add(record.number, record)


# --- snapshots ----------------------------------------------------------------------------------------


def load_effect(m: Machine, data: EffectData) -> None:
    """A record of a snapshot, with its indices and its deadline."""
    record = EffectRecord(
        data.number,
        data.effect_id,
        data.state,
        data.owner,
        data.fence,
        0,
        data.lease_fence,
        data.message,
        data.expires_at_ms,
        data.uncertain,
        data.aborted,
        data.result,
        data.older,
    )
    _file(m, record)
    for fence in (*data.older, data.fence):
        if fence:
            m.effect_fences[fence] = record
    if record.state == GRANTED and record.lease_fence:
        m.lease_effects.setdefault(record.lease_fence, {})[record.number] = record
    else:
        m.arm_effect(record, record.expires_at_ms, grant=record.state == GRANTED)
