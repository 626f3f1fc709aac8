"""Request bytes to typed structs, and what is wrong with them told as a JSON pointer."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Generic, TypeVar

import msgspec

from trivet.errors import TrivetError, invalid
from trivet.limits import JSON_DEPTH_MAX
from trivet.units import KIB, MIB

JSON = "application/json"
MSGPACK = "application/msgpack"
MEDIA = {JSON: JSON, MSGPACK: MSGPACK, "application/x-msgpack": MSGPACK, "application/vnd.msgpack": MSGPACK}

T = TypeVar("T")

BIG_BYTES = 256 * KIB
"""Requests above this are taken apart in pieces: the loop must not stand still (design 2, "One owner")."""

NULLS_BYTES_MAX = 1 * MIB  # a larger request with a null in a field's place is refused as it stands
_HOLD_FIELDS = frozenset(
    {
        "messages",
        "enqueue",
        "acks",
        "nacks",
        "extensions",
        "leases",
        "effects",
        "events",
        "backoff",
        "compensate",
        "message",
    }
)
_NULL_IS_A_VALUE = frozenset({"body", "data", "result"})
_NULL_IS_WRONG = frozenset({"messages", "acks", "nacks", "extensions", "leases", "events"})

_NULL = re.compile(r"got `(?:null|None)`")
_PLACE = re.compile(r" - at (?:`key` in )?`\$(.*?)`$")
_BOUND = re.compile(r"(?:<=|>=|<|>|length) (?:<= |>= )?(-?\d+)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_NAMED = re.compile(r"^Object (?:contains unknown|missing required) field `(.*)`$")


class Codec(Generic[T]):
    """Decoders of one request type for both media: the same fields in both."""

    def __init__(self, kind: type[T], *, null_is_absent: bool = True) -> None:
        """`null_is_absent`: null for an optional field means that it is not given. A queue's configuration
        says no: there null is a value."""
        self._null_is_absent = null_is_absent
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, data: bytes, media: str) -> T:
        """Raises `invalid_argument` with the field for anything that is not a whole valid `T`."""
        try:
            return self._take(data, media)
        except msgspec.ValidationError as error:
            if self._null_is_absent and _NULL.search(str(error)) and len(data) <= NULLS_BYTES_MAX:
                return self._without_nulls(data, media, error)
            raise _not_valid(str(error)) from None
        except RecursionError:
            raise _too_deep("") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _malformed(data, media, error) from None

    def _take(self, data: bytes, media: str) -> T:
        return self._msgpack.decode(data) if media == MSGPACK else self._json.decode(data)

    def _without_nulls(self, data: bytes, media: str, first: msgspec.ValidationError) -> T:
        """The slow way, only for requests that hold a null: the same with the null fields left out."""
        try:
            if media == MSGPACK:
                given = msgspec.msgpack.encode(_leave_out_nulls(msgspec.msgpack.decode(data)))
            else:
                given = msgspec.json.encode(_leave_out_nulls(msgspec.json.decode(data)))
            return self._take(given, media)
        except msgspec.ValidationError as error:
            raise _not_valid(str(error)) from None
        except (msgspec.MsgspecError, RecursionError, UnicodeError, TypeError):
            raise _not_valid(str(first)) from None


def _leave_out_nulls(value: Any) -> Any:
    """Of the request's own objects, never inside a body, a result or an effect's result."""
    if isinstance(value, list):
        return [_leave_out_nulls(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _leave_out_nulls(inner) if key in _HOLD_FIELDS else inner
        for key, inner in value.items()
        if inner is not None or key in _NULL_IS_A_VALUE or key in _NULL_IS_WRONG
    }


def pointer(*steps: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def _not_valid(message: str) -> TrivetError:
    place = _PLACE.search(message)
    path = place.group(1) if place else ""
    what = message[: place.start()] if place else message
    steps: list[str | int] = [m.group(1) or m.group(2) for m in _STEP.finditer(path) if m.lastindex]
    named = _NAMED.match(what)
    if named:
        steps.append(named.group(1))
        what = "unknown field" if "unknown" in what else "this field is required"
    bound = _BOUND.search(what)
    return invalid(what, pointer(*steps), int(bound.group(1)) if bound else None)


def _too_deep(field: str) -> TrivetError:
    return invalid(f"nested deeper than {JSON_DEPTH_MAX} levels", field, JSON_DEPTH_MAX)


def _malformed(data: bytes, media: str, error: Exception) -> TrivetError:
    """Say where the text is no JSON: NaN and lone surrogates are found by a reader that lets them pass."""
    if media == MSGPACK:
        return invalid(f"not MessagePack: {error}", "")
    if len(data) > BIG_BYTES:  # looking for the place would hold the loop for seconds
        return invalid(f"not JSON: {error}", "")
    try:
        found = _find_unfit(json.loads(data))
    except RecursionError:
        return _too_deep("")
    except ValueError as reason:
        return invalid(f"not JSON: {reason}", "")
    if found is None:
        return invalid(f"not JSON: {error}", "")
    return invalid(found[1], found[0])


def _find_unfit(root: Any) -> tuple[str, str] | None:
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        at, value = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if not _encodable(key):
                    return at, "a key holds a lone surrogate"
                stack.append((at + pointer(key), inner))
        elif isinstance(value, list):
            stack.extend((f"{at}/{index}", inner) for index, inner in enumerate(value))
        elif isinstance(value, str) and not _encodable(value):
            return at, "a lone surrogate is no text"
        elif isinstance(value, float) and not math.isfinite(value):
            return at, "NaN and infinities are no JSON"
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
