"""Values as the log keeps them (R30): compact JSON text, or plain bytes.

Codec and whitespace do not change what is stored, so they change no fingerprint and no size: a JSON
value counts as the bytes of its compact form.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any

import msgspec

from trivet.errors import TrivetError, invalid
from trivet.limits import (
    BODY_BYTES_MAX,
    ID_BYTES_MAX,
    INT64_MAX,
    INT64_MIN,
    JSON_DEPTH_MAX,
    RESULT_BYTES_MAX,
)

_encode = msgspec.json.Encoder().encode
# A number that may leave 64 bits has at least 19 digits; most texts hold none and need no walk.
# Every digit made a zero, the search is a plain substring search: 20 times faster than a pattern.
_DIGITS_TO_ZERO = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 19
_VALUES_MAX = BODY_BYTES_MAX // 2  # each value inside another takes a byte and a separator at least


def compact_json(value: Any, field: str, *, typed: bool) -> bytes:
    """`value` as compact JSON. `typed`: it came as MessagePack, which can hold what JSON cannot.

    Raises `invalid_argument` at `field` for non-finite numbers, integers outside 64 bits, non-string
    keys, binary, extension types, and nesting beyond `JSON_DEPTH_MAX`.
    """
    if typed:
        _walk(value, field)
        return _encode(value)
    data = _encode(value)
    if data.count(b"[") + data.count(b"{") > JSON_DEPTH_MAX or _LONG_NUMBER in data.translate(
        _DIGITS_TO_ZERO
    ):
        _walk(value, field)
    return data


def check_weight(raw: bytes, field: str, *, typed: bool) -> None:
    """Refuse at once a body whose compact JSON cannot but be over the limit, before it is taken apart.

    Each comma and bracket, in a text or not, is a byte of it; and MessagePack spends at most nine bytes on what
    JSON says in two (a value and its separator). Raises `payload_too_large`.
    """
    if typed:
        heavy = len(raw) * 2 > BODY_BYTES_MAX * 9 + 64
    else:
        heavy = raw.count(b",") + raw.count(b"[") + raw.count(b"{") > BODY_BYTES_MAX
    if heavy:
        raise _too_heavy(field)


def _too_heavy(field: str) -> TrivetError:
    return TrivetError(
        "payload_too_large", f"more than {BODY_BYTES_MAX} bytes of JSON", field=field, limit=BODY_BYTES_MAX
    )


def _walk(root: Any, field: str) -> None:
    """Level by level, so that hostile nesting costs no stack. A scalar is at depth 0."""
    level: list[Any] = [root]
    depth = 0
    seen = 0
    while level:
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                for key in value:
                    if type(key) is not str:
                        raise invalid("an object's keys must be strings", field)
                below.extend(value.values())
            elif kind is list:
                below.extend(value)
            else:
                _check_scalar(value, kind, field)
            if seen + len(below) > _VALUES_MAX:
                raise _too_heavy(field)
        seen += len(below)
        if below or any(type(value) in (dict, list) for value in level):
            depth += 1
        if depth > JSON_DEPTH_MAX:
            raise invalid(f"nested deeper than {JSON_DEPTH_MAX} levels", field, JSON_DEPTH_MAX)
        level = below


def _check_scalar(value: Any, kind: type, field: str) -> None:
    if kind is int:
        if not INT64_MIN <= value <= INT64_MAX:
            raise invalid(
                f"an integer outside 64 bits ({INT64_MIN} … {INT64_MAX}); send it as a string",
                field,
                INT64_MAX if value > 0 else INT64_MIN,
            )
    elif kind is float:
        if not math.isfinite(value):
            raise invalid("NaN and infinities are no JSON", field)
    elif kind is bytes:
        raise invalid("binary is taken only as the whole body, not inside a value", field)
    elif kind is not str and kind is not bool and value is not None:
        raise invalid("MessagePack extension types are not taken", field)


def body(value: Any, field: str, *, typed: bool) -> tuple[bytes, bool]:
    """A message body and whether it is plain bytes. Raises also `payload_too_large`."""
    plain = type(value) is bytes
    data = value if plain else compact_json(value, field, typed=typed)
    return _bounded_body(data, field), plain


def body_from_base64(text: str, field: str) -> bytes:
    """The bytes of `body_base64` (standard alphabet, padded)."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise invalid(f"not base64: {error}", field) from None
    return _bounded_body(data, field)


def _bounded_body(data: bytes, field: str) -> bytes:
    if len(data) > BODY_BYTES_MAX:
        raise TrivetError(
            "payload_too_large",
            f"a body of {len(data)} bytes, at most {BODY_BYTES_MAX}",
            field=field,
            limit=BODY_BYTES_MAX,
        )
    return data


def result(value: Any, field: str, *, typed: bool) -> bytes:
    """A result: any JSON value of at most `RESULT_BYTES_MAX` bytes."""
    data = compact_json(value, field, typed=typed)
    if len(data) > RESULT_BYTES_MAX:
        raise TrivetError(
            "payload_too_large",
            f"a result of {len(data)} bytes, at most {RESULT_BYTES_MAX}",
            field=field,
            limit=RESULT_BYTES_MAX,
        )
    return data


def text_bytes(value: str) -> int:
    """Bytes of UTF-8 without building them for the common ASCII text."""
    return len(value) if value.isascii() else len(value.encode())


def text(value: str, field: str, limit: int = ID_BYTES_MAX) -> str:
    """A text of 1 … `limit` bytes."""
    if not value or text_bytes(value) > limit:
        raise invalid(f"must have 1 … {limit} bytes of UTF-8", field, limit)
    return value


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
_ANY_QUEUE = re.compile(rf"{_NAME.pattern}(:{_NAME.pattern})?")


def queue_name(value: str, field: str, what: str = "a queue's") -> str:
    """1 … 256 of letters, digits, `.`, `_`, `-`, the first a letter or digit (R28 reserves `:`)."""
    if _NAME.fullmatch(value) is None:
        if _ANY_QUEUE.fullmatch(value) is not None:
            raise invalid(
                f"{value!r} is the queue of a topic's consumer group: publish to the topic, and make or delete the "
                "group under /v1/topics",
                field,
            )
        raise invalid(
            f"{what} name has 1 … 256 of A–Z a–z 0–9 . _ -, the first a letter or digit",
            field,
            ID_BYTES_MAX,
        )
    return value


def any_queue_name(value: str, field: str) -> str:
    """A queue's name, or `{topic}:{group}`: for all that is done with the messages a queue holds already."""
    return value if _ANY_QUEUE.fullmatch(value) is not None else queue_name(value, field)
