"""Names that go outside: message ids, lease tokens, effect tokens (R13).

A token is ``base64url(fence ‖ mac)``, 8 + 16 bytes, so always 32 characters. The mac is keyed with the
cluster's secret, so a token cannot be guessed from the fence of another one.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import blake2b

from trivet.machine.commands import Token

MESSAGE_NUMBER_MAX = 2**48 - 1
FENCE_MAX = 2**63 - 1
MAC_BYTES = 16
TOKEN_BYTES = 8 + MAC_BYTES
TOKEN_CHARS = 32

_HEX_DIGITS = "0123456789abcdef"


def message_id(number: int) -> str:
    """The text of a message number: `m` and 12 lower-case hex digits."""
    return f"m{number:012x}"


def parse_message_id(text: str) -> int | None:
    """The number of a message id, or None if no message can have that id."""
    digits = text[1:]
    if len(text) != 13 or text[0] != "m" or any(digit not in _HEX_DIGITS for digit in digits):
        return None
    return int(digits, 16)


def encode_token(fence: int, mac: bytes) -> str:
    """The text of a lease or effect token."""
    return urlsafe_b64encode(fence.to_bytes(8, "big") + mac).decode("ascii")


def decode_token(text: str) -> Token | None:
    """A token taken apart, or None if it is malformed. Only the canonical text of a token is taken."""
    if len(text) != TOKEN_CHARS or not text.isascii():
        return None
    try:
        raw = urlsafe_b64decode(text)
    except Base64Error:
        return None
    if len(raw) != TOKEN_BYTES or urlsafe_b64encode(raw).decode("ascii") != text:
        return None
    fence = int.from_bytes(raw[:8], "big")
    return Token(fence, raw[8:]) if fence <= FENCE_MAX else None


def lease_mac(secret: bytes, fence: int, message: int) -> bytes:
    """The 16 bytes that make a lease token unguessable. `secret` has at most 64 bytes."""
    data = b"L" + fence.to_bytes(8, "big") + message.to_bytes(8, "big")
    return blake2b(data, digest_size=MAC_BYTES, key=secret).digest()


def effect_mac(secret: bytes, fence: int, effect_id: str) -> bytes:
    """As `lease_mac`, for the token of an effect's grant."""
    data = b"E" + fence.to_bytes(8, "big") + effect_id.encode()
    return blake2b(data, digest_size=MAC_BYTES, key=secret).digest()
