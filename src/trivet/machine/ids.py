"""Names that go outside: message ids, lease tokens, effect tokens (R13).

A token is ``base64url(fence ‖ mac)``, 8 + 16 bytes, so always 32 characters. The mac is keyed with the
cluster's secret, so a token cannot be guessed from the fence of another one.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import Struct

from trivet.machine.commands import Token

MESSAGE_NUMBER_MAX = 2**48 - 1
FENCE_MAX = 2**63 - 1
MAC_BYTES = 16
TOKEN_BYTES = 8 + MAC_BYTES
TOKEN_CHARS = 32

_TOKEN = Struct(">Q16s")
_FENCE = Struct(">Q16x")
_NO_TOKEN = bytes(TOKEN_BYTES)
_LEASE = Struct(">cQQ")
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


def flow_id(number: int) -> str:
    """The text of a flow's number: `f` and 12 lower-case hex digits."""
    return f"f{number:012x}"


def parse_flow_id(text: str) -> int | None:
    """The number of a flow id, or None if no flow can have that id."""
    return parse_message_id("m" + text[1:]) if text[:1] == "f" else None


def token_text(raw: bytes) -> str:
    """The text of a token's bytes (or of several, joined)."""
    return urlsafe_b64encode(raw).decode("ascii")


def encode_token(fence: int, mac: bytes) -> str:
    """The text of a lease or effect token."""
    return token_text(fence.to_bytes(8, "big") + mac)


def decode_token(text: str) -> Token | None:
    """A token taken apart, or None if it is malformed. Only the canonical text of a token is taken."""
    if len(text) != TOKEN_CHARS or not text.isascii():
        return None
    try:
        raw = urlsafe_b64decode(text)
    except Base64Error:
        return None
    if len(raw) != TOKEN_BYTES or token_text(raw) != text:
        return None
    fence = int.from_bytes(raw[:8], "big")
    return Token(fence, raw[8:]) if fence <= FENCE_MAX else None


def join_tokens(tokens: Sequence[Token | None]) -> bytes:
    """The bytes of tokens, `TOKEN_BYTES` each; zeros for None, which no lease has (fences begin at 1)."""
    return b"".join([_NO_TOKEN if token is None else _TOKEN.pack(token.fence, token.mac) for token in tokens])


def split_tokens(joined: bytes) -> list[Token]:
    """What `join_tokens` has joined, with a fence of 0 for None."""
    return [Token(fence, mac) for fence, mac in _TOKEN.iter_unpack(joined)]


def claimed_fences(joined: bytes) -> list[int]:
    """The fences that joined tokens name; whether they are theirs is for `tokens.judged` to say."""
    return [fence for (fence,) in _FENCE.iter_unpack(joined)]


def decode_tokens(texts: Sequence[str]) -> bytes:
    """`join_tokens` of each one's `decode_token`, quickly if all are well-formed."""
    joined = "".join(texts)
    if texts and joined.isascii() and set(map(len, texts)) == {TOKEN_CHARS}:
        try:
            raw = urlsafe_b64decode(joined)  # what is not of the alphabet is left out, and then missing
        except Base64Error:
            raw = b""
        if len(raw) == TOKEN_BYTES * len(texts) and token_text(raw) == joined:
            if max(raw[::TOKEN_BYTES]) < 0x80:  # none above `FENCE_MAX`
                return raw
    return join_tokens([decode_token(text) for text in texts])


def lease_mac(secret: bytes, fence: int, message: int) -> bytes:
    """The 16 bytes that make a lease token unguessable. `secret` has at most 64 bytes."""
    keyed = _keyed(secret).copy()
    keyed.update(_LEASE.pack(b"L", fence, message))
    return keyed.digest()


def lease_tokens(secret: bytes, leases: Iterable[tuple[int, int]]) -> list[bytes]:
    """The bytes of the token of each fence and message."""
    copy, pack = _keyed(secret).copy, _LEASE.pack
    made: list[bytes] = []
    for fence, message in leases:
        packed = pack(b"L", fence, message)
        keyed = copy()
        keyed.update(packed)
        made.append(packed[1:9] + keyed.digest())
    return made


@lru_cache(maxsize=4)
def _keyed(secret: bytes) -> blake2b:
    """Taking in the key is half of the work; a copy has it done."""
    return blake2b(digest_size=MAC_BYTES, key=secret)


def effect_mac(secret: bytes, fence: int, effect_id: str) -> bytes:
    """As `lease_mac`, for the token of an effect's grant."""
    data = b"E" + fence.to_bytes(8, "big") + effect_id.encode()
    return blake2b(data, digest_size=MAC_BYTES, key=secret).digest()
