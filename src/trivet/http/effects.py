"""Effects: the exactly-once ledger (R27)."""

from __future__ import annotations

from msgspec import UNSET

from trivet.errors import TrivetError
from trivet.http import build, content, render, shapes
from trivet.http import schema as s
from trivet.http.call import Call, Reply
from trivet.http.codec import Codec
from trivet.http.describing import operation
from trivet.machine import views
from trivet.machine.commands import Command, EffectAbort, EffectBegin, EffectCommit
from trivet.machine.ids import decode_token
from trivet.machine.replies import EffectState

_BEGIN = Codec(s.EffectBeginIn)
_COMMIT = Codec(s.EffectCommitIn)
_ABORT = Codec(s.EffectAbortIn)


@operation(
    "Ask whether a side effect may be run now",
    note="`uncertain`: an earlier holder was granted and never committed, so the effect may have happened.",
    takes=s.EffectBeginIn,
    gives=shapes.EffectBegun,
    problems=("effect_held", "stale_lease"),
    example={"effect_id": "run-7:charge:order-1", "owner": "worker-1", "ttl_ms": 60_000},
)
async def begin(call: Call) -> Reply:
    given = call.decode(_BEGIN)
    lease_token = given.lease_token
    command = EffectBegin(
        content.text(given.effect_id, "/effect_id"),
        content.text(given.owner, "/owner"),
        None if lease_token is UNSET else decode_token(lease_token),
        lease_token is not UNSET,
        None if given.ttl_ms is UNSET else given.ttl_ms,
    )
    return await _answer(call, command)


@operation(
    "Record that the effect happened",
    takes=s.EffectCommitIn,
    gives=shapes.EffectCommitted,
    problems=("effect_not_found", "stale_effect", "payload_too_large"),
    example={"effect_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s", "result": {"charge": "ch_1"}},
)
async def commit(call: Call) -> Reply:
    given = call.decode(_COMMIT)
    result = build.result(given.result, "/result", typed=call.typed)
    return await _answer(call, EffectCommit(decode_token(given.effect_token), result))


@operation(
    "Record that the effect did not happen",
    takes=s.EffectAbortIn,
    gives=shapes.EffectAborted,
    problems=("effect_not_found", "stale_effect"),
    example={"effect_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s"},
)
async def abort(call: Call) -> Reply:
    given = call.decode(_ABORT)
    return await _answer(call, EffectAbort(decode_token(given.effect_token)))


async def _answer(call: Call, command: Command) -> Reply:
    committed = await call.submit(command)
    reply = committed.answer.reply
    assert isinstance(reply, EffectState)
    return call.written(committed, render.effect_state(reply, call.accept))


@operation("What the ledger knows of an effect", gives=shapes.Effect, problems=("effect_not_found",))
async def get(call: Call) -> Reply:
    effect_id = content.text(call.params[0], "/effect_id")
    as_of, told = await call.look(lambda m: (m.applied_index, views.effect(m, effect_id)))
    if told is None:
        raise TrivetError("effect_not_found", f'no effect "{effect_id}" was ever begun')
    whole = {"result": None, "expires_at_ms": None, **told}
    return call.seen(as_of, render.message(whole, call.accept))
