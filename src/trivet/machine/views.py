"""Reads for the HTTP layer: plain dicts in api.md's shapes. Nothing here changes the machine.

Everything is O(1) or bounded by `limit`, `max_bytes` and `SCAN_MAX`. Three things are not plain JSON and
left to the renderer: a body is `Body`, a result (compact JSON bytes) is `Result`, a number with decimals
is `Milli` (R30). A field that does not apply is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, NamedTuple

from trivet.limits import ANSWER_BYTES_MAX
from trivet.machine import flow_steps, ledger, tokens
from trivet.machine.commands import Backoff, Draft
from trivet.machine.ids import message_id, token_text
from trivet.machine.persistent import Attempt
from trivet.machine.replies import EnqueuedOne
from trivet.machine.runs import REPLAY
from trivet.machine.state import (
    BLOCKED,
    DEAD,
    DELAYED,
    DONE,
    LEASED,
    READY,
    STATE_CODES,
    STATE_NAMES,
    Message,
    Queue,
    extras_of,
    max_attempts_of,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

SCAN_MAX = 20_000  # records one list call looks at; then it answers what it has and a cursor to go on


class Body(NamedTuple):
    """A message's body. `codec`: `commands.CODEC_JSON` (data is compact JSON) or `CODEC_BYTES`."""

    data: bytes
    codec: int
    content_type: str | None


class Result(NamedTuple):
    """A result: compact JSON."""

    data: bytes


class Milli(NamedTuple):
    """A number kept as thousandths (R30): 1500 is 1.5."""

    thousandths: int


# --- queues -------------------------------------------------------------------------------------------


def queue(m: Machine, name: str, now_ms: int | None = None) -> dict[str, Any] | None:
    """Configuration, counts and flags; None if there is no such queue. `now_ms`: see `_counts`."""
    found = m.queues.get(name)
    if found is None:
        return None
    config = found.config
    return {
        **_counts(m, found, now_ms),
        "revision": found.revision,
        "created_at_ms": found.created_at_ms,
        "lease_ms": config.lease_ms,
        "max_attempts": config.max_attempts,
        "backoff": backoff(config.backoff),
        "ttl_ms": config.ttl_ms,
        "dead_retention_ms": config.dead_retention_ms,
        "max_dead": config.max_dead,
        "idempotency_window_ms": config.idempotency_window_ms,
        "retention_ms": config.retention_ms,
        "result_retention_ms": config.result_retention_ms,
        "max_messages": config.max_messages,
        "max_bytes": config.max_bytes,
        "on_full": config.on_full,
        "max_leased": config.max_leased,
        "max_leased_per_group": config.max_leased_per_group,
    }


def queues(
    m: Machine, limit: int, after: str | None = None, now_ms: int | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """At most `limit` queues by name, after the name `after`; and the name to go on after, None at the end."""
    names = nsmallest(limit + 1, (name for name in m.queues if after is None or name > after))
    shown = names[:limit]
    return [_counts(m, m.queues[name], now_ms) for name in shown], shown[-1] if len(names) > limit else None


def _counts(m: Machine, found: Queue, now_ms: int | None) -> dict[str, Any]:
    """`now_ms`: the reader's time, for the age; the machine's clock stands still while nothing is written."""
    oldest = found.oldest_ready()
    clock_ms = m.clock_ms if now_ms is None else max(now_ms, m.clock_ms)
    return {
        "queue": found.name,
        "ready": found.counts[READY],
        "leasable": found.leasable,
        "delayed": found.counts[DELAYED],
        "leased": found.counts[LEASED],
        "dead": found.counts[DEAD],
        "blocked": found.counts[BLOCKED],
        "bytes": found.bytes,
        "paused": {"enqueue": found.paused_enqueue, "lease": found.paused_lease},
        "oldest_ready_age_ms": None if oldest is None else clock_ms - oldest.ready_at_ms,
    }


def backoff(value: Backoff) -> dict[str, Any]:
    """A backoff in api.md's shape."""
    return {
        "type": value.type,
        "base_ms": value.base_ms,
        "factor": Milli(value.factor_milli),
        "max_ms": value.max_ms,
        "jitter": Milli(value.jitter_milli),
        "delays_ms": list(value.delays_ms),
    }


# --- messages -----------------------------------------------------------------------------------------


def message(m: Machine, number: int) -> dict[str, Any] | None:
    """A message with its attempts; None if there is none (or it was acked and not kept)."""
    found = m.find(number)
    return None if found is None else _shown(found)


def ended(m: Machine, found: Message) -> dict[str, Any] | None:
    """A message of `EntryEffects.finished` that left the tables with its end, as it was then; else None."""
    if found.state <= LEASED or m.find(found.number) is not None:
        return None
    shown = _shown(found)
    del shown["attempts"]  # of what is not kept, the last one is not written down
    shown["finished_at_ms"] = m.clock_ms
    return shown


def leased(m: Machine, fence: int) -> dict[str, Any] | None:
    """What a lease shows of its message; None if it is not live any more."""
    found = m.live_lease(fence)
    if found is None or found.lease is None:
        return None
    if not found.lease.token:
        tokens.fill_in(m, (found,))
    shown = _basics(found)
    shown["lease_token"] = token_text(found.lease.token)
    shown["lease_expires_at_ms"] = found.lease.expires_at_ms
    parents = flow_steps.parents(m, found)
    if parents is not None:
        shown["parents"] = {step: None if data is None else Result(data) for step, data in parents.items()}
    return shown


PlainLease = tuple[int, str, bytes, int, int, int, int, bytes, int, int]
"""A leased message that has none of the rarer fields: number, queue, body, codec, priority, attempt, max_attempts,
token (its 24 bytes), enqueued_at_ms, lease_expires_at_ms."""


def leases(m: Machine, fences: Sequence[int]) -> list[PlainLease | dict[str, Any]]:
    """`leased` under each fence that is live; most of them in the short form."""
    shown: list[PlainLease | dict[str, Any]] = []
    live = [found for found in m.leases.get_many(fences) if found is not None and not found.queue.deleted]
    tokens.fill_in(m, live)
    for found in live:
        draft, queue, lease = found.draft, found.queue, found.lease
        assert lease is not None
        if (
            draft.headers
            or draft.content_type is not None
            or draft.group is not None
            or draft.key is not None
            or draft.extras is not None
            or found.expires_at_ms
            or found.origin is not None
        ):
            whole = leased(m, lease.fence)
            assert whole is not None
            shown.append(whole)
            continue
        shown.append(
            (
                found.number,
                queue.name,
                draft.body,
                draft.codec,
                found.priority,
                found.attempt,
                queue.config.max_attempts,
                lease.token,
                found.enqueued_at_ms,
                lease.expires_at_ms,
            )
        )
    return shown


def enqueued(m: Machine, one: EnqueuedOne) -> dict[str, Any]:
    """One item of an enqueue's answer."""
    shown: dict[str, Any] = {
        "id": message_id(one.message),
        "state": one.state,
        "duplicate": one.duplicate,
    }
    if one.result is not None:
        shown["result"] = Result(one.result)
    return shown


def messages(
    m: Machine,
    name: str,
    state: str | None,
    limit: int,
    after: int = 0,
    max_bytes: int = ANSWER_BYTES_MAX,
) -> tuple[list[dict[str, Any]], str | None] | None:
    """Messages of a queue, oldest first, after the number `after`; and the id to go on after, None at the end.

    `state` is one of `STATE_NAMES` or None for all. None if there is no such queue.
    """
    found = m.queues.get(name)
    if found is None:
        return None
    code = None if state is None else STATE_CODES[state]
    source = found.dead if code == DEAD else found.index
    wanted = (lambda each: True) if code is None else (lambda each: each.state == code)
    return _page(m, source.after(after), wanted, limit, max_bytes)


def dead(
    m: Machine,
    name: str,
    limit: int,
    after: int = 0,
    reason: str | None = None,
    max_bytes: int = ANSWER_BYTES_MAX,
) -> tuple[list[dict[str, Any]], str | None] | None:
    """The dead messages of a queue, as `messages`; only those with the `dead_reason` if one is given."""
    found = m.queues.get(name)
    if found is None:
        return None
    wanted = (lambda each: True) if reason is None else (lambda each: each.dead_reason == reason)
    return _page(m, found.dead.after(after), wanted, limit, max_bytes)


def redrive_candidates(
    m: Machine,
    name: str,
    ids: Iterable[int] | None,
    reason: str | None,
    limit: int,
    after: int = 0,
) -> tuple[list[int], int | None]:
    """Numbers of the dead that `Redrive` would take (a dry run), at most `limit`; and the number to go on
    after, None at the end. The queue must exist."""
    found = m.queues[name]
    source: Iterator[Message]
    if ids is not None:
        picked = (m.find(number) for number in sorted(set(ids)) if number > after)
        source = (each for each in picked if each is not None and each.queue is found and each.state == DEAD)
    else:
        source = found.dead.after(after)
    numbers: list[int] = []
    last = after
    for looked, each in enumerate(source):
        if len(numbers) == limit or looked == SCAN_MAX:
            return numbers, last
        last = each.number
        if m.find(last) is each and (reason is None or each.dead_reason == reason):
            numbers += [last] if flow_steps.may_redrive(each) else []
    return numbers, None


def _page(
    m: Machine, source: Iterator[Message], wanted: Callable[[Message], bool], limit: int, max_bytes: int
) -> tuple[list[dict[str, Any]], str | None]:
    """At least one message whatever its size; stops at `limit`, `max_bytes` or `SCAN_MAX` records looked at."""
    shown: list[dict[str, Any]] = []
    size = 0
    last = 0
    for looked, each in enumerate(source):
        fits = wanted(each) and m.find(each.number) is each
        full = len(shown) == limit or bool(shown and size + _weight(each) > max_bytes)
        if looked == SCAN_MAX or (fits and full):
            return shown, message_id(last)
        last = each.number
        if fits:
            shown.append(_shown(each))
            size += _weight(each)
    return shown, None


def _weight(found: Message) -> int:
    """About the bytes that showing a message takes: what may be large is counted."""
    result = 0 if found.result is None else len(found.result)
    return found.size + result + sum(len(attempt.error or "") for attempt in found.history)


def add_optional(shown: dict[str, Any], draft: Draft) -> None:
    """What a producer may say of a message and mostly does not; `envelope` has the rarer fields."""
    if draft.content_type is not None:
        shown["content_type"] = draft.content_type
    if draft.headers:
        shown["headers"] = draft.headers
    if draft.group is not None:
        shown["group"] = draft.group
    if draft.key is not None:
        shown["idempotency_key"] = draft.key


def _basics(found: Message) -> dict[str, Any]:
    """What its producer said of a message, and where it stands."""
    draft = found.draft
    shown: dict[str, Any] = {
        "id": message_id(found.number),
        "queue": found.queue.name,
        "body": Body(draft.body, draft.codec, draft.content_type),
        "priority": found.priority,
        "attempt": found.attempt,
        "max_attempts": max_attempts_of(found),
        "enqueued_at_ms": found.enqueued_at_ms,
    }
    add_optional(shown, draft)
    if found.expires_at_ms:
        shown["expires_at_ms"] = found.expires_at_ms
    if found.origin is not None:
        shown["origin"] = _origin(*found.origin)
    if draft.extras is not None:
        shown.update(envelope(found.draft))
    return shown


def _origin(kind: str, name: str) -> dict[str, Any]:
    """Where a message comes from: of a flow's its id, of a replay's the message, else the queue."""
    if kind == REPLAY:
        return {"type": kind, "message_id": name}
    if kind in (flow_steps.SAGA, flow_steps.FLOW):
        return {"type": flow_steps.FLOW, "flow_id": name}
    return {"type": kind, "flow_id" if kind == flow_steps.COMPENSATION else "queue": name}


def envelope(draft: Draft) -> dict[str, Any]:
    """The rarer fields that a message or an entry shows."""
    extras = extras_of(draft)
    shown: dict[str, Any] = {}
    for name in _ENVELOPE:
        value = getattr(extras, name)
        if value is not None:
            shown[name] = value
    if extras.depends_on:
        shown["depends_on"] = [message_id(number) for number in extras.depends_on]
        shown["on_dependency_failure"] = extras.on_dependency_failure
    return shown


_ENVELOPE = ("run_id", "step_id", "parent_step_id", "tenant_id", "user_id", "traceparent", "topic", "offset")


def _shown(found: Message) -> dict[str, Any]:
    """All of a message but its lease's token, which nobody but the holder may see (R13)."""
    shown = _basics(found)
    shown["state"] = STATE_NAMES[found.state]
    shown["attempts"] = [_attempt(attempt) for attempt in found.history]
    if found.lease is not None:
        lease = found.lease
        shown["attempts"].append(
            {"attempt": found.attempt, "consumer": lease.consumer, "started_at_ms": lease.started_at_ms}
        )
        shown["lease_expires_at_ms"] = lease.expires_at_ms
        if lease.cancelled:
            shown["cancelled"] = True
    if found.state == DELAYED or (found.state == BLOCKED and found.due_at_ms > found.enqueued_at_ms):
        shown["deliver_at_ms"] = found.due_at_ms
    if found.progress is not None:
        progress: dict[str, Any] = {"at_ms": found.progress.at_ms}
        if found.progress.percent is not None:
            progress["percent"] = found.progress.percent
        if found.progress.note is not None:
            progress["note"] = found.progress.note
        shown["progress"] = progress
    if found.state == DONE and found.result is not None:
        shown["result"] = Result(found.result)
    if found.state > LEASED:
        shown["finished_at_ms"] = found.finished_at_ms
    if found.state == DEAD:
        shown["dead_reason"] = found.dead_reason
        shown["dead_at_ms"] = found.finished_at_ms
    return shown


def _attempt(ended: Attempt) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "attempt": ended.attempt,
        "consumer": ended.consumer,
        "started_at_ms": ended.started_at_ms,
        "ended_at_ms": ended.ended_at_ms,
        "outcome": ended.outcome,
    }
    if ended.error is not None:
        shown["error"] = ended.error
    return shown


# --- effects ------------------------------------------------------------------------------------------


def effect(m: Machine, effect_id: str) -> dict[str, Any] | None:
    """The ledger's record of an effect, without its token; None if there is none."""
    record = m.effects_by_id.get(effect_id)
    if record is None:
        return None
    held = ledger.is_held(m, record)
    lost = record.state == ledger.GRANTED and not held  # its queue was deleted, the sweep is still to come
    shown: dict[str, Any] = {
        "effect_id": effect_id,
        "state": ledger.OPEN if lost else record.state,
        "uncertain": record.uncertain or lost,
        "owner": record.owner,
    }
    if record.state == ledger.DONE:
        shown["result"] = None if record.result is None else Result(record.result)
    if held:
        shown["expires_at_ms"] = ledger.grant_ends_at_ms(m, record)
    return shown
