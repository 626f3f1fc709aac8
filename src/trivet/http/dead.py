"""Dead letters: list, redrive, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from trivet.errors import TrivetError
from trivet.http import build, content, shapes
from trivet.http import schema as s
from trivet.http.call import Call, Reply
from trivet.http.codec import Codec
from trivet.http.describing import AFTER_MESSAGE, LIMIT, MAX_BYTES, Choice, operation
from trivet.http.messages import listed
from trivet.http.queues import after_message, name_of, removed
from trivet.limits import REDRIVE_BATCH_MAX
from trivet.machine import views
from trivet.machine.commands import PurgeDead, Redrive
from trivet.machine.ids import message_id
from trivet.machine.replies import Redriven
from trivet.node.broker import Committed, leasable
from trivet.node.waiters import queue_not_found

if TYPE_CHECKING:
    from trivet.machine.core import Machine

REASON = Choice("reason", "only those with this `dead_reason`", s.DEAD_REASONS)

_REDRIVE = Codec(s.RedriveIn)
_NOTHING = Codec(s.In)


@operation(
    "Look at a queue's dead letters, oldest first",
    gives=shapes.Messages,
    query=(LIMIT, AFTER_MESSAGE, REASON, MAX_BYTES),
    problems=("queue_not_found",),
)
async def get(call: Call) -> Reply:
    name = name_of(call)
    reason, limit = REASON.read(call.query), LIMIT.read(call.query)
    after, max_bytes = after_message(call), MAX_BYTES.read(call.query)
    as_of, page = await call.look(
        lambda m: (m.applied_index, views.dead(m, name, limit, after, reason, max_bytes))
    )
    return listed(call, name, as_of, page)


@operation(
    "Remove a queue's dead letters",
    takes=s.In,
    optional=True,
    gives=shapes.Removed,
    problems=("queue_not_found",),
)
async def purge(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(PurgeDead(name))
    return call.written(committed, {"removed": removed(committed.answer)})


@operation(
    "Make dead letters ready again, their attempts counted anew",
    note="Without a field: all of them. Their history is kept. `dry_run` changes nothing and answers as a read.",
    takes=s.RedriveIn,
    optional=True,
    gives=shapes.Redriven,
    problems=("queue_not_found", "message_not_found", "batch_too_large", "queue_full"),
    example={"reason": "max_attempts", "limit": 100},
)
async def redrive(call: Call) -> Reply:
    name = name_of(call)
    given = call.decode(_REDRIVE, optional=True)
    ids: tuple[int, ...] | None = None
    if given.ids is not UNSET:
        build.bounded_count(given.ids, REDRIVE_BATCH_MAX, "/ids", empty=True, what="ids")
        ids = tuple(build.message_number(text, f"/ids/{at}") for at, text in enumerate(given.ids))
    reason = None if given.reason is UNSET else build.choice(given.reason, s.DEAD_REASONS, "/reason")
    limit = None if given.limit is UNSET else given.limit
    to = None if given.to is UNSET else content.any_queue_name(given.to, "/to")
    if given.dry_run:
        return await _dry_run(call, name, ids, reason, limit, to)
    done, last = await _redrive(call, name, ids, reason, limit, to)
    return call.written(last, {"redriven": len(done), "ids": [message_id(number) for number in done]})


async def _redrive(
    call: Call,
    name: str,
    ids: tuple[int, ...] | None,
    reason: str | None,
    limit: int | None,
    to: str | None,
) -> tuple[list[int], Committed]:
    """Bounded commands until all is redriven (R25).

    What dies meanwhile is left alone: `upto` is fixed by the first step.
    """
    done: list[int] = []
    last: Committed | None = None
    after, upto, step = 0, None, 0
    whole = call.fingerprint(Redrive(name, ids, reason, limit or 0, to))
    while True:
        left = REDRIVE_BATCH_MAX if limit is None else min(REDRIVE_BATCH_MAX, limit - len(done))
        command = Redrive(name, ids, reason, left, to, after, upto)
        try:
            committed = await call.submit_step(command, whole, step)
        except TrivetError as error:
            if error.code != "queue_full" or last is None:
                raise
            return done, last  # as many as there was room for, as one full step would have said
        last = committed
        reply = committed.answer.reply
        assert isinstance(reply, Redriven)
        done.extend(reply.ids)
        if reply.next is None or (limit is not None and len(done) >= limit):
            return done, committed
        after, upto, step = reply.next, reply.upto, step + 1


async def _dry_run(
    call: Call,
    name: str,
    ids: tuple[int, ...] | None,
    reason: str | None,
    limit: int | None,
    to: str | None,
) -> Reply:
    """What a redrive would take, in slices as bounded as its commands; changes nothing."""
    found: list[int] = []
    after, as_of = 0, 0
    while True:
        left = REDRIVE_BATCH_MAX if limit is None else min(REDRIVE_BATCH_MAX, limit - len(found))

        def view(machine: Machine, after: int = after, left: int = left) -> tuple[int, list[int], int | None]:
            for queue in (name, to):
                if queue is not None and leasable(machine, queue) is None:
                    raise queue_not_found(queue, "/to" if queue is to else None)
            return machine.applied_index, *views.redrive_candidates(machine, name, ids, reason, left, after)

        as_of, some, following = await call.look(view)
        found.extend(some)
        if following is None or (limit is not None and len(found) >= limit):
            break
        after = following
    return call.seen(as_of, {"redriven": len(found), "ids": [message_id(number) for number in found]})
