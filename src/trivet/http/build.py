"""Request structs to machine commands: what the schema cannot say is checked here, with its field."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec import UNSET, UnsetType

from trivet.errors import TrivetError, invalid
from trivet.http import content
from trivet.http import schema as s
from trivet.http.codec import BIG_BYTES
from trivet.limits import (
    ACK_EFFECTS_MAX,
    BACKOFF_DELAYS_MAX,
    BACKOFF_FACTOR_MAX,
    BATCH_BYTES_MAX,
    CONTENT_TYPE_BYTES_MAX,
    DELAY_MS_MAX,
    DEPENDS_ON_MAX,
    ENQUEUE_BATCH_MAX,
    ERROR_BYTES_MAX,
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    NOTE_BYTES_MAX,
    SETTLE_BATCH_MAX,
)
from trivet.machine import tokens
from trivet.machine.commands import (
    CODEC_BYTES,
    CODEC_JSON,
    Ack,
    AckItem,
    AckTokens,
    Backoff,
    Draft,
    EffectDone,
    EnqueueTo,
    Extend,
    ExtendItem,
    Extras,
    Nack,
    NackItem,
    QueueConfig,
    Release,
    Token,
)
from trivet.machine.ids import decode_token, parse_message_id

BACKOFF_TYPES = ("exponential", "fixed", "list")
_DEFAULTS = Backoff()
_NO_EXTRAS = Extras()
# A malformed token where "no token" has a meaning of its own: nothing has this fence.
IMPOSSIBLE = Token(0, b"")

T = TypeVar("T")


def choice(value: str, of: tuple[str, ...], field: str) -> str:
    if value not in of:
        raise invalid(f"must be one of {', '.join(of)}", field)
    return value


def milli(value: float, field: str, low: float, high: float) -> int:
    """A number with at most 3 decimals as thousandths (R30)."""
    if not math.isfinite(value) or not low <= value <= high:
        raise invalid(f"must be {low:g} … {high:g}", field, int(high))
    thousandths = round(value * 1000)
    if abs(value * 1000 - thousandths) > 1e-6:
        raise invalid("has more than 3 decimals", field, 3)
    return thousandths


def backoff_changes(given: s.BackoffPatchIn, field: str) -> dict[str, Any]:
    """Only the fields given, named and scaled as in `commands.Backoff`."""
    changes: dict[str, Any] = {}
    if given.type is not UNSET:
        changes["type"] = choice(given.type, BACKOFF_TYPES, field + "/type")
    if given.base_ms is not UNSET:
        changes["base_ms"] = given.base_ms
    if given.factor is not UNSET:
        changes["factor_milli"] = milli(given.factor, field + "/factor", 1, BACKOFF_FACTOR_MAX)
    if given.max_ms is not UNSET:
        changes["max_ms"] = given.max_ms
    if given.jitter is not UNSET:
        changes["jitter_milli"] = milli(given.jitter, field + "/jitter", 0, 1)
    if given.delays_ms is not UNSET:
        if len(given.delays_ms) > BACKOFF_DELAYS_MAX:
            raise invalid(f"at most {BACKOFF_DELAYS_MAX} delays", field + "/delays_ms", BACKOFF_DELAYS_MAX)
        changes["delays_ms"] = tuple(given.delays_ms)
    return changes


def backoff(given: s.BackoffIn, field: str) -> Backoff:
    """A whole backoff: what is not given has its default."""
    made = Backoff(**backoff_changes(given, field))
    if made.type == "list" and not made.delays_ms:
        raise invalid("a backoff of type list needs at least one delay", field + "/delays_ms")
    return made


_PLAIN = (
    "lease_ms",
    "max_attempts",
    "ttl_ms",
    "dead_retention_ms",
    "max_dead",
    "idempotency_window_ms",
    "retention_ms",
    "result_retention_ms",
    "max_messages",
    "max_bytes",
    "max_leased",
    "max_leased_per_group",
)


def queue_changes(given: s.QueueIn | s.QueuePatchIn) -> dict[str, Any]:
    """The fields given, as in `commands.QueueConfig`; `backoff` is a map of its own given fields."""
    for later in ("rate_limit", "breaker"):
        if getattr(given, later) not in (None, UNSET):
            raise invalid(f"{later} comes with a later release; only null is taken", "/" + later)
    changes = {name: value for name in _PLAIN if (value := getattr(given, name)) is not UNSET}
    if given.on_full is not UNSET:
        changes["on_full"] = choice(given.on_full, ("reject", "dead_letter_oldest"), "/on_full")
    if given.backoff is not UNSET:
        part = changes["backoff"] = backoff_changes(given.backoff, "/backoff")
        if part.get("type") == "list" and part.get("delays_ms") == ():
            raise invalid("a backoff of type list needs at least one delay", "/backoff/delays_ms")
    return changes


def queue_config(given: s.QueueIn) -> QueueConfig:
    """A whole configuration: what is not given has its default."""
    changes = queue_changes(given)
    if given.backoff is not UNSET:
        changes["backoff"] = backoff(given.backoff, "/backoff")
    return QueueConfig(**changes)


# --- messages ---------------------------------------------------------------------------------------


def drafts(given: s.EnqueueIn | s.PublishIn, *, typed: bool, now_ms: int) -> tuple[Draft, ...]:
    """The messages of an enqueue, one or many. `typed`: the request came as MessagePack."""
    if given.messages is UNSET:
        return (draft(given, "", typed=typed, now_ms=now_ms),)
    only_messages(given)
    check_batch(given.messages)
    made = tuple(
        draft(message, f"/messages/{at}", typed=typed, now_ms=now_ms)
        for at, message in enumerate(given.messages)
    )
    bounded_batch(made, "/messages")
    return made


def only_messages(given: s.PublishedFields) -> None:
    for name in s.MessageFields.__struct_fields__:
        if getattr(given, name, UNSET) is not UNSET:
            raise invalid("a request has either messages or the fields of one message", "/" + name)


def check_batch(messages: list[Any]) -> None:
    """1 … `ENQUEUE_BATCH_MAX` of them."""
    bounded_count(messages, ENQUEUE_BATCH_MAX, "/messages")


def draft(given: s.PublishedFields, at: str, *, typed: bool, now_ms: int) -> Draft:
    """One message. Raises `invalid_argument` or `payload_too_large` with the field under `at`."""
    data, codec = _body(given, at, typed)
    deliver_at_ms = _or_none(given.deliver_at_ms)
    if deliver_at_ms is not None:
        if given.delay_ms is not UNSET:
            raise invalid("either delay_ms or deliver_at_ms", at + "/deliver_at_ms")
        check_deliver_at(deliver_at_ms, now_ms, at + "/deliver_at_ms")
    window = given.idempotency_window_ms
    if window is not UNSET and given.idempotency_key is UNSET:
        raise invalid("a window needs an idempotency_key", at + "/idempotency_window_ms")
    return Draft(
        body=data,
        codec=codec,
        content_type=_text(given.content_type, at + "/content_type", CONTENT_TYPE_BYTES_MAX),
        headers=None if given.headers is UNSET or not given.headers else _headers(given.headers, at),
        priority=0 if given.priority is UNSET else given.priority,
        delay_ms=0 if given.delay_ms is UNSET else given.delay_ms,
        deliver_at_ms=deliver_at_ms,
        ttl_ms=_or_none(given.ttl_ms),
        group=None if given.group is UNSET else _text(given.group, at + "/group"),
        key=None if given.idempotency_key is UNSET else _text(given.idempotency_key, at + "/idempotency_key"),
        key_window_ms=_or_none(window),
        extras=_extras(given, at),
    )


def _body(given: s.PublishedFields, at: str, typed: bool) -> tuple[bytes, int]:
    if given.body_base64 is not UNSET:
        if given.body is not UNSET:
            raise invalid("either body or body_base64", at + "/body_base64")
        return content.body_from_base64(given.body_base64, at + "/body_base64"), CODEC_BYTES
    if given.body is UNSET:
        return b"null", CODEC_JSON
    data, plain = content.body(given.body, at + "/body", typed=typed)
    return data, CODEC_BYTES if plain else CODEC_JSON


def _headers(headers: dict[str, str], at: str) -> dict[str, str]:
    if len(headers) > HEADERS_MAX:
        raise invalid(f"at most {HEADERS_MAX} headers", at + "/headers", HEADERS_MAX)
    size = sum(content.text_bytes(name) + content.text_bytes(value) for name, value in headers.items())
    if size > HEADERS_BYTES_MAX:
        raise TrivetError(
            "payload_too_large",
            f"headers of {size} bytes, at most {HEADERS_BYTES_MAX}",
            field=at + "/headers",
            limit=HEADERS_BYTES_MAX,
        )
    return headers


def _is_plain(given: s.PublishedFields) -> bool:
    """None of the rarer fields is given: most messages, so this is looked at first, without a loop."""
    return (
        given.run_id is UNSET
        and given.step_id is UNSET
        and given.parent_step_id is UNSET
        and given.tenant_id is UNSET
        and given.user_id is UNSET
        and given.traceparent is UNSET
        and given.max_attempts is UNSET
        and given.backoff is UNSET
        and given.lease_ms is UNSET
        and given.retention_ms is UNSET
        and not (
            isinstance(given, s.MessageFields)
            and (given.depends_on is not UNSET or given.on_dependency_failure is not UNSET)
        )
    )


def _extras(given: s.PublishedFields, at: str) -> Extras | None:
    if _is_plain(given):
        return None
    made = Extras(
        run_id=_text(given.run_id, at + "/run_id"),
        step_id=_text(given.step_id, at + "/step_id"),
        parent_step_id=_text(given.parent_step_id, at + "/parent_step_id"),
        tenant_id=_text(given.tenant_id, at + "/tenant_id"),
        user_id=_text(given.user_id, at + "/user_id"),
        traceparent=_text(given.traceparent, at + "/traceparent"),
        max_attempts=_or_none(given.max_attempts),
        backoff=None if given.backoff is UNSET else backoff(given.backoff, at + "/backoff"),
        lease_ms=_or_none(given.lease_ms),
        **(_dependencies(given, at) if isinstance(given, s.MessageFields) else {}),
        retention_ms=_or_none(given.retention_ms),
    )
    return None if made == _NO_EXTRAS else made


def _dependencies(given: s.MessageFields, at: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if given.depends_on is not UNSET:
        made["depends_on"] = _depends_on(given.depends_on, at)
    if given.on_dependency_failure is not UNSET:
        what = choice(given.on_dependency_failure, ("fail", "run"), at + "/on_dependency_failure")
        made["on_dependency_failure"] = what
    return made


def _depends_on(ids: list[str], at: str) -> tuple[int, ...]:
    if len(ids) > DEPENDS_ON_MAX:
        raise invalid(f"at most {DEPENDS_ON_MAX} dependencies", at + "/depends_on", DEPENDS_ON_MAX)
    # The same id twice is one dependency; a dict keeps the order.
    return tuple({message_number(text, f"{at}/depends_on/{i}"): None for i, text in enumerate(ids)})


def message_number(text: str, field: str | None = None) -> int:
    """A message id's number; what cannot be an id names no message."""
    number = parse_message_id(text)
    if number is None:
        raise TrivetError("message_not_found", f'there is no message "{text[:64]}"', field=field)
    return number


def check_deliver_at(at_ms: int, now_ms: int, field: str) -> None:
    if at_ms - now_ms > DELAY_MS_MAX:
        raise invalid(f"more than {DELAY_MS_MAX} ms (400 days) from now", field, DELAY_MS_MAX)


# --- settling ---------------------------------------------------------------------------------------


def ack(given: s.AckIn, *, typed: bool, now_ms: int, auto_create: bool) -> Ack | AckTokens:
    bounded_count(given.acks, SETTLE_BATCH_MAX, "/acks")
    follow: tuple[EnqueueTo, ...] = ()
    if given.enqueue is not UNSET:
        bounded_count(given.enqueue, ENQUEUE_BATCH_MAX, "/enqueue", empty=True)
        follow = tuple(
            EnqueueTo(
                content.queue_name(message.queue, f"/enqueue/{at}/queue"),
                draft(message, f"/enqueue/{at}", typed=typed, now_ms=now_ms),
            )
            for at, message in enumerate(given.enqueue)
        )
        bounded_batch(tuple(to.draft for to in follow), "/enqueue")
    items = tuple(_ack_item(item, f"/acks/{at}", typed) for at, item in enumerate(given.acks))
    _bounded_results(items)
    return tokens.plain(Ack(items, follow, auto_create))


def _ack_item(item: s.AckItemIn, at: str, typed: bool) -> AckItem:
    effects: tuple[EffectDone, ...] = ()
    if item.effects is not UNSET:
        bounded_count(item.effects, ACK_EFFECTS_MAX, at + "/effects", empty=True)
        effects = tuple(
            EffectDone(
                content.text(effect.effect_id, f"{at}/effects/{i}/effect_id"),
                result(effect.result, f"{at}/effects/{i}/result", typed=typed),
                None if effect.effect_token is UNSET else decode_token(effect.effect_token) or IMPOSSIBLE,
            )
            for i, effect in enumerate(item.effects)
        )
    return AckItem(decode_token(item.lease_token), result(item.result, at + "/result", typed=typed), effects)


def result(value: Any, field: str, *, typed: bool) -> bytes | None:
    return None if value is UNSET else content.result(value, field, typed=typed)


def nack(given: s.NackIn) -> Nack:
    bounded_count(given.nacks, SETTLE_BATCH_MAX, "/nacks")
    return Nack(
        tuple(
            NackItem(
                decode_token(item.lease_token),
                None if item.error in (None, UNSET) else cut(item.error, ERROR_BYTES_MAX),
                _or_none(item.delay_ms),
                item.dead_letter,
            )
            for item in given.nacks
        )
    )


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, no character halved (R31: an error is cut, never refused)."""
    data = text.encode()
    return text if len(data) <= limit else data[:limit].decode(errors="ignore")


def extend(given: s.ExtendIn) -> Extend:
    bounded_count(given.extensions, SETTLE_BATCH_MAX, "/extensions")
    return Extend(
        tuple(ExtendItem(decode_token(i.lease_token), _or_none(i.lease_ms)) for i in given.extensions)
    )


def release(given: s.ReleaseIn) -> Release:
    bounded_count(given.leases, SETTLE_BATCH_MAX, "/leases")
    return Release(tuple(decode_token(item.lease_token) for item in given.leases))


def note(given: str | UnsetType) -> str | None:
    if given is not UNSET and content.text_bytes(given) > NOTE_BYTES_MAX:
        raise invalid(f"at most {NOTE_BYTES_MAX} bytes", "/note", NOTE_BYTES_MAX)
    return None if given is UNSET else given


# --- small things -------------------------------------------------------------------------------------


def bounded_count(
    items: Sequence[Any], most: int, field: str, *, empty: bool = False, what: str = "items"
) -> None:
    """Refuses more than `most` things to do, and none at all unless `empty`."""
    if not items and not empty:
        raise invalid("must not be empty", field)
    if len(items) > most:
        raise TrivetError("batch_too_large", f"{len(items)} {what}, at most {most}", field=field, limit=most)


async def part_by_part(parts: Sequence[Any], make: Callable[[bytes, int], T]) -> list[T]:
    """`make` of each part's bytes and position, with a turn of the loop after each `BIG_BYTES` (R25)."""
    made: list[T] = []
    taken = 0
    for at, part in enumerate(parts):
        raw = bytes(part)
        made.append(make(raw, at))
        taken += len(raw)
        if taken > BIG_BYTES:
            taken = 0
            await asyncio.sleep(0)
    return made


def bounded_batch(made: tuple[Draft, ...], field: str) -> None:
    size = 0
    for one in made:
        size += len(one.body)
        if one.headers:
            size += sum(content.text_bytes(n) + content.text_bytes(v) for n, v in one.headers.items())
    _bounded(size, field)


def _bounded_results(items: tuple[AckItem, ...]) -> None:
    """Results are bounded together too: an entry must hold the whole request."""
    size = sum(len(i.result or b"") + sum(len(e.result or b"") for e in i.effects) for i in items)
    _bounded(size, "/acks")


def _bounded(size: int, field: str) -> None:
    if size > BATCH_BYTES_MAX:
        raise TrivetError(
            "batch_too_large",
            f"a batch of {size} bytes, at most {BATCH_BYTES_MAX}",
            field=field,
            limit=BATCH_BYTES_MAX,
        )


def _text(value: str | UnsetType, field: str, limit: int = 256) -> str | None:
    return None if value is UNSET else content.text(value, field, limit)


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value
