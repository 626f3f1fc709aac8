"""Answers as bytes: JSON by default, MessagePack when accepted, the same fields in both.

A stored JSON body goes out as it lies in the log (`msgspec.Raw`), without being parsed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import msgspec

from trivet.http.codec import JSON, MSGPACK
from trivet.machine.commands import CODEC_BYTES
from trivet.machine.ids import encode_token, message_id
from trivet.machine.replies import EffectState, EnqueuedOne, MessageChanged, Settled

_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode
_from_json = msgspec.json.Decoder().decode


def encode(value: Any, media: str) -> bytes:
    return _to_msgpack(value) if media == MSGPACK else _to_json(value)


def json_value(data: bytes, media: str) -> Any:
    """Stored compact JSON as a value of the answer."""
    return _from_json(data) if media == MSGPACK else msgspec.Raw(data)


def message(shown: dict[str, Any], media: str) -> dict[str, Any]:
    """A view of a message made ready to encode, in place: its body and result take their outer form."""
    body = shown.get("body")
    if body is not None:
        if body.codec != CODEC_BYTES:
            shown["body"] = json_value(body.data, media)
        elif media == MSGPACK:
            shown["body"] = body.data
        else:
            del shown["body"]
            shown["body_base64"] = base64.b64encode(body.data).decode("ascii")
    result = shown.get("result")
    if result is not None:
        shown["result"] = json_value(result.data, media)
    parents = shown.get("parents")
    if parents is not None:
        shown["parents"] = {
            step: None if given is None else json_value(given.data, media) for step, given in parents.items()
        }
    return shown


def messages(shown: Iterable[dict[str, Any]], media: str) -> list[dict[str, Any]]:
    return [message(one, media) for one in shown]


def enqueued(one: EnqueuedOne, media: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": message_id(one.message),
        "state": one.state,
        "duplicate": one.duplicate,
    }
    if one.result is not None:
        made["result"] = json_value(one.result, media)
    return made


def settled(one: Settled) -> dict[str, Any]:
    made: dict[str, Any] = {"status": one.status}
    if one.repeated:
        made["repeated"] = True
    if one.state is not None:
        made["state"] = one.state
    if one.deliver_at_ms is not None:
        made["deliver_at_ms"] = one.deliver_at_ms
    if one.lease_expires_at_ms is not None:
        made["lease_expires_at_ms"] = one.lease_expires_at_ms
    if one.cancelled:
        made["cancelled"] = True
    return made


def changed(one: MessageChanged) -> dict[str, Any]:
    made: dict[str, Any] = {"id": message_id(one.message), "state": one.state}
    if one.cancelled:
        made["cancelled"] = True
    if one.lease_expires_at_ms is not None:
        made["lease_expires_at_ms"] = one.lease_expires_at_ms
    return made


def effect_state(one: EffectState, media: str) -> dict[str, Any]:
    made: dict[str, Any] = {"state": one.state}
    if one.state == "granted":
        assert one.fence is not None and one.mac is not None
        made["effect_token"] = encode_token(one.fence, one.mac)
        made["uncertain"] = one.uncertain
        made["expires_at_ms"] = one.expires_at_ms
    elif one.state == "done":
        made["result"] = None if one.result is None else json_value(one.result, media)
    if one.repeated:
        made["repeated"] = True
    return made


__all__ = [
    "JSON",
    "MSGPACK",
    "changed",
    "effect_state",
    "encode",
    "enqueued",
    "json_value",
    "message",
    "messages",
    "settled",
]
