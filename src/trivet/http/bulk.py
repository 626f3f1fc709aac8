"""The common requests of many messages, read and answered without a look at each field of each message.

Reading: a request that holds nothing but bodies, or nothing but lease tokens, is decoded straight into them. `None`
says that it is not of that kind, or wrong: then the general code reads it from its start, and tells what is wrong.
Answering: the parts of an answer that are equal for each message are written once, as a template. What these
functions write is what `render` writes, field by field (a test compares them).
"""

from __future__ import annotations

import contextlib
from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct as Layout
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from trivet.errors import TrivetError
from trivet.http import content, render
from trivet.http import schema as s
from trivet.http.codec import BIG_BYTES, MSGPACK
from trivet.limits import BATCH_BYTES_MAX, BODY_BYTES_MAX, ENQUEUE_BATCH_MAX, SETTLE_BATCH_MAX
from trivet.machine.commands import CODEC_BYTES, CODEC_JSON, AckTokens, Draft
from trivet.machine.ids import decode_tokens
from trivet.machine.replies import Enqueued, EnqueuedOne, SettledAll
from trivet.machine.views import PlainLease
from trivet.units import MIB

BYTES_MAX = 1 * MIB
"""A larger request is read in parts, so that the loop does not stand still."""


VALUES_MAX = 30_000


class _Bytes(Struct, forbid_unknown_fields=True, gc=False):
    body: bytes


class _Value(Struct, forbid_unknown_fields=True, gc=False):
    body: Any


class _EnqueueBytes(Struct, forbid_unknown_fields=True):
    messages: list[_Bytes]
    request_id: s.Id = UNSET


class _EnqueueValues(Struct, forbid_unknown_fields=True):
    messages: list[_Value]
    request_id: s.Id = UNSET


class _OneBytes(Struct, forbid_unknown_fields=True):
    body: bytes
    request_id: s.Id = UNSET


class _OneValue(Struct, forbid_unknown_fields=True):
    body: Any
    request_id: s.Id = UNSET


class _Token(Struct, forbid_unknown_fields=True, gc=False):
    lease_token: str


class _Ack(Struct, forbid_unknown_fields=True):
    acks: list[_Token]
    request_id: s.Id = UNSET


_UNFIT = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
_enqueue_bytes = msgspec.msgpack.Decoder(_EnqueueBytes).decode
_enqueue_values = msgspec.json.Decoder(_EnqueueValues).decode
_one_bytes = msgspec.msgpack.Decoder(_OneBytes).decode
_enqueue_typed = msgspec.msgpack.Decoder(_EnqueueValues).decode
_one_typed = msgspec.msgpack.Decoder(_OneValue).decode
_one_value = msgspec.json.Decoder(_OneValue).decode
_ack_json = msgspec.json.Decoder(_Ack).decode
_ack_msgpack = msgspec.msgpack.Decoder(_Ack).decode


# --- reading ------------------------------------------------------------------------------------------


def drafts(data: bytes, media: str) -> tuple[tuple[Draft, ...], s.Id] | None:
    """The messages of an enqueue that says nothing but bodies (all bytes, or all other values), and its request
    id."""
    if len(data) > BYTES_MAX or (media != MSGPACK and len(data) > BIG_BYTES and _has_many_values(data)):
        return None
    given: _EnqueueBytes | _EnqueueValues
    bodies: list[bytes] | None = None
    codec = CODEC_JSON
    try:
        if media == MSGPACK:
            with contextlib.suppress(msgspec.ValidationError):
                given = _enqueue_bytes(data)
                bodies = [one.body for one in given.messages]
                codec = CODEC_BYTES
        if bodies is None:
            typed = media == MSGPACK
            if typed and len(data) > BIG_BYTES:
                return None
            given = _enqueue_typed(data) if typed else _enqueue_values(data)
            bodies = [content.compact_json(one.body, "", typed=typed) for one in given.messages]
    except (*_UNFIT, TrivetError):
        return None
    sizes = [len(body) for body in bodies]
    if (
        not 1 <= len(sizes) <= ENQUEUE_BATCH_MAX
        or max(sizes) > BODY_BYTES_MAX
        or sum(sizes) > BATCH_BYTES_MAX
    ):
        return None
    return tuple([Draft(body, codec) for body in bodies]), given.request_id


def one_draft(data: bytes, media: str) -> tuple[tuple[Draft, ...], s.Id] | None:
    """As `drafts`, of a request that is one message and begins with its body."""
    if len(data) > BIG_BYTES or not data.startswith(_BODY_FIRST, 1):
        return None
    given: _OneBytes | _OneValue
    try:
        if media == MSGPACK and data[6:7] in _BINARY:
            given = _one_bytes(data)
            draft = Draft(given.body, CODEC_BYTES)
        else:
            typed = media == MSGPACK
            given = _one_typed(data) if typed else _one_value(data)
            draft = Draft(content.compact_json(given.body, "", typed=typed), CODEC_JSON)
    except (*_UNFIT, TrivetError):
        return None
    return ((draft,), given.request_id) if len(draft.body) <= BODY_BYTES_MAX else None


_BODY_FIRST = (b'"body"', b"\xa4body")
_BINARY = (b"\xc4", b"\xc5", b"\xc6")  # how bytes begin in MessagePack


def _has_many_values(data: bytes) -> bool:
    """Looking at each of them might hold the loop: such a text is read in parts."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") > VALUES_MAX


def acks(data: bytes, media: str) -> tuple[AckTokens, s.Id] | None:
    """An ack that says nothing but tokens, and its request id."""
    if len(data) > BYTES_MAX:
        return None
    try:
        given = _ack_msgpack(data) if media == MSGPACK else _ack_json(data)
    except _UNFIT:
        return None
    if not 1 <= len(given.acks) <= SETTLE_BATCH_MAX:
        return None
    return AckTokens(decode_tokens([one.lease_token for one in given.acks])), given.request_id


# --- answering ----------------------------------------------------------------------------------------


def _list(parts: Sequence[bytes], media: str) -> Raw:
    """Encoded values as one encoded list."""
    if media != MSGPACK:
        return Raw(b"[%b]" % b",".join(parts))
    count = len(parts)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return Raw(head + b"".join(parts))


def _short(text: bytes) -> bytes:
    """A text of at most 256 bytes as MessagePack."""
    return bytes((0xA0 | len(text),)) + text if len(text) < 32 else b"\xd9" + bytes((len(text),)) + text


def _enqueued_templates() -> dict[tuple[str, bool], bytes]:
    found: dict[tuple[str, bool], bytes] = {}
    for state in ("blocked", "delayed", "ready", "dead"):
        text = state.encode()
        found[state, False] = b'{"id":"m%%012x","state":"%b","duplicate":false}' % text
        found[state, True] = b"\x83\xa2id\xadm%%012x\xa5state%b\xa9duplicate\xc2" % _short(text)
    return found


_ENQUEUED = _enqueued_templates()


def enqueued(reply: Enqueued, media: str) -> Raw:
    """`messages` of an enqueue's answer."""
    packed = media == MSGPACK
    if reply.count:
        template = _ENQUEUED["ready", packed]
        return _list([template % number for number in range(reply.first, reply.first + reply.count)], media)
    return enqueued_each(reply.each, media)


def enqueued_each(messages: Sequence[EnqueuedOne], media: str) -> Raw:
    """The same of messages told one by one."""
    packed = media == MSGPACK
    return _list(
        [
            render.encode(render.enqueued(one, media), media)
            if one.duplicate or one.result is not None
            else _ENQUEUED[one.state, packed] % one.message
            for one in messages
        ],
        media,
    )


def settled(reply: SettledAll, media: str) -> Raw:
    """`results` of an ack's answer."""
    if reply.acked:
        one = b"\x81\xa6status\xa5acked" if media == MSGPACK else b'{"status":"acked"}'
        return _list([one] * reply.acked, media)
    return _list([render.encode(render.settled(each), media) for each in reply.each], media)


_LEASED_JSON = (
    b'{"headers":{},"group":null,"id":"m%%012x","queue":"%b",%%b,"priority":%%d,"attempt":%%d,"max_attempts":%%d,'
    b'"enqueued_at_ms":%%d,"lease_token":"%%b","lease_expires_at_ms":%%d}'
)
_LEASED_MSGPACK = (
    b"\x8b\xa7headers\x80\xa5group\xc0\xa2id\xadm%%012x\xa5queue%b\xa4body%%b%%b%%b\xablease_token\xd9\x20%%b"
)
# Numbers at full width: MessagePack allows it, and one call writes them all.
_numbers = Layout(">10sh9sI14sI16sQ21sQ").pack


def leased(shown: Sequence[PlainLease | dict[str, Any]], media: str) -> Raw:
    """`messages` of a lease's answer. `shown`: of `views.leases`."""
    packed = media == MSGPACK
    plain = [one for one in shown if isinstance(one, tuple)]
    raw = b"".join([one[7] for one in plain])
    tokens = b2a_base64(raw, newline=False).translate(_URL_SAFE)  # 24 bytes are 32 characters: no padding
    templates: dict[str, bytes] = {}
    parts: list[bytes] = []
    at = 0
    for one in shown:
        if not isinstance(one, tuple):
            # A copy: callers that share a parked poll (a repeat beside its first) share what it shows.
            whole = render.message({"headers": {}, "group": None, **one}, media)
            parts.append(render.encode(whole, media))
            continue
        number, queue, body, codec, priority, attempt, most, _token, enqueued_at, expires_at = one
        token = tokens[at : at + 32]
        at += 32
        template = templates.get(queue)
        if template is None:
            name = queue.encode()
            template = _LEASED_MSGPACK % _short(name) if packed else _LEASED_JSON % name
            templates[queue] = template
        if packed:
            if codec != CODEC_BYTES:
                body = render.encode(render.json_value(body, MSGPACK), MSGPACK)
                head = b""
            else:
                head = _bytes_head(len(body))
            numbers = _numbers(
                b"\xa8priority\xd1",
                priority,
                b"\xa7attempt\xce",
                attempt,
                b"\xacmax_attempts\xce",
                most,
                b"\xaeenqueued_at_ms\xcf",
                enqueued_at,
                b"\xb3lease_expires_at_ms\xcf",
                expires_at,
            )
            parts.append(template % (number, head, body, numbers, token))
        else:
            told = b'"body_base64":"%b"' % b64encode(body) if codec == CODEC_BYTES else b'"body":%b' % body
            parts.append(template % (number, told, priority, attempt, most, enqueued_at, token, expires_at))
    return _list(parts, media)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@lru_cache(maxsize=256)
def _bytes_head(size: int) -> bytes:
    """What stands before so many plain bytes in MessagePack."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")
