"""Lease tokens read by the batch are what they are one by one."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest

from trivet.machine.ids import TOKEN_CHARS, decode_token, decode_tokens, encode_token

GOOD = [encode_token(fence, bytes(range(fence, fence + 16))) for fence in (1, 2, 200)]
NO_TOKENS = {
    "too short": GOOD[0][:-1],
    "empty": "",
    "not ascii": "é" * TOKEN_CHARS,
    "one character of no alphabet": "!" + GOOD[0][1:],
    "four characters of no alphabet": "!!!!" + GOOD[0][4:],
    "the other alphabet": "+" + GOOD[0][1:],
    "a fence beyond the limit": urlsafe_b64encode(b"\xff" * 24).decode(),
}


@pytest.mark.parametrize("bad", NO_TOKENS.values(), ids=NO_TOKENS)
def test_one_that_is_none_spoils_no_other(bad: str) -> None:
    texts = [*GOOD, bad, *GOOD]
    assert decode_tokens(texts) == [decode_token(text) for text in texts]
    assert [one is None for one in decode_tokens(texts)] == [text == bad for text in texts]


def test_all_well_formed() -> None:
    assert decode_tokens(GOOD) == [decode_token(text) for text in GOOD]
    assert all(decode_tokens(GOOD)) and decode_tokens([]) == []
