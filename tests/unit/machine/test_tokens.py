"""Lease tokens: read by the batch they are what they are one by one, and what the leader checks the log need not."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from random import Random

import pytest

from tests.machine.harness import SECRET, new_machine, run
from tests.machine.logs import Author
from tests.tokens import as_proposed, token_of
from tests.unit.machine.kit import Kit, token
from trivet.machine import invariants, tokens
from trivet.machine.commands import (
    Ack,
    AckItem,
    AckLeases,
    AckTokens,
    Expire,
    ReleaseLeases,
    Request,
    Token,
)
from trivet.machine.ids import (
    TOKEN_CHARS,
    decode_token,
    decode_tokens,
    encode_token,
    join_tokens,
    split_tokens,
)
from trivet.machine.replies import SettledAll
from trivet.machine.snapshotting import state_digest

GOOD = [encode_token(fence, bytes(range(fence, fence + 16))) for fence in (1, 2, 200)]
NO_TOKENS = {
    "too short": GOOD[0][:-1],
    "empty": "",
    "not ascii": "é" * TOKEN_CHARS,
    "one character of no alphabet": "!" + GOOD[0][1:],
    "four characters of no alphabet": "!!!!" + GOOD[0][4:],
    "the other alphabet": "+" + GOOD[0][1:],
    "a fence beyond the limit": urlsafe_b64encode(b"\xff" * 24).decode(),
    "a fence just beyond the limit": urlsafe_b64encode(b"\x80" + bytes(23)).decode(),
}
NONE = Token(0, bytes(16))


@pytest.mark.parametrize("bad", NO_TOKENS.values(), ids=NO_TOKENS)
def test_one_that_is_none_spoils_no_other(bad: str) -> None:
    texts = [*GOOD, bad, *GOOD]
    assert decode_tokens(texts) == join_tokens([decode_token(text) for text in texts])
    assert split_tokens(decode_tokens(texts)) == [decode_token(text) or NONE for text in texts]
    assert [decode_token(text) is None for text in texts] == [text == bad for text in texts]


def test_all_well_formed() -> None:
    highest = encode_token(2**63 - 1, b"\xff" * 16)
    texts = [*GOOD, highest]
    assert split_tokens(decode_tokens(texts)) == [decode_token(text) for text in texts]
    assert decode_tokens([]) == b""


# --- what the leader makes of them (ADR 0019) -----------------------------------------------------------


def ack_of(*given: Token | None) -> AckTokens:
    return AckTokens(join_tokens(given))


def test_the_leader_writes_the_fences_of_what_it_can_tell() -> None:
    kit = Kit()
    kit.queue("q", lease_ms=100, retention_ms=10_000)
    kit.put(*"abcdef")
    live, acked, expired, forgotten = kit.lease(4)
    kit.ack(acked, forgotten)
    kit.now += 100
    kit(Expire())
    kit.now += 60_000
    kit.ack(*kit.lease(1))  # what was settled a minute ago is let go with the next
    kit.now += 60_000
    again = kit.lease(1)[0]
    m = kit.m
    for grant in (live, acked, expired, forgotten, again):
        remembered = grant.fence in m.leases or grant.fence in m.expired or grant.fence in m.settled
        wrong = Token(grant.fence, b"x" * 16)
        assert tokens.checked(m, ack_of(token(grant))) == AckLeases((grant.fence if remembered else 0,))
        assert tokens.checked(m, ack_of(wrong)) == AckLeases((0,))
    assert again.fence in m.leases and live.fence in m.expired
    assert acked.fence not in m.settled, "there is one that is forgotten"
    assert tokens.checked(m, ack_of(None)) == AckLeases((0,))


def test_what_the_leader_has_not_applied_goes_into_the_log_as_it_is() -> None:
    """A lease that another leader gave may not be applied here yet: only the log knows."""
    kit = Kit()
    kit.put("a")
    (grant,) = kit.lease()
    behind = ack_of(token(grant), Token(grant.fence + 1, b"m" * 16))
    assert tokens.checked(kit.m, behind) is behind
    assert kit(behind).results[0].status == "acked" and kit(behind).results[1].status == "not_found"  # type: ignore[union-attr]


def test_after_an_answer_the_leader_checks_by_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    kit.put(*"abc")
    grants = kit.lease(3)
    tokens.fill_in(kit.m, [kit.m.leases[grant.fence] for grant in grants])
    given = ack_of(*map(token, grants))

    def computed(*_: object) -> bytes:
        raise AssertionError("computed again")

    monkeypatch.setattr(tokens, "lease_mac", computed)
    assert tokens.checked(kit.m, given) == AckLeases(tuple(grant.fence for grant in grants))


def test_only_an_ack_of_nothing_but_tokens_is_plain() -> None:
    items = (AckItem(Token(1, b"m" * 16)), AckItem(None))
    assert tokens.plain(Ack(items)) == AckTokens(join_tokens([items[0].token, None]))
    for other in (Ack((AckItem(Token(1, b"m" * 16), b"null"),)), Ack(())):
        assert tokens.plain(other) is other


@pytest.mark.parametrize("seed", range(12))
def test_a_log_of_fences_does_what_one_of_tokens_does(seed: int) -> None:
    """The same requests, as clients send them and as a leader writes them, give the same answers and state."""
    rng = Random(seed)
    told, fences = new_machine(), new_machine()
    author = Author(seed)
    author.machine = told
    seen = 0
    for _ in range(250):
        author.now += rng.choice((0, 0, 10, 500, 40_000))
        request = author.request()
        if rng.random() < 0.3:
            some = [author.token() for _ in range(rng.choice((1, 4)))]
            spoilt = [one and Token(one.fence, b"x" * 16) if rng.random() < 0.1 else one for one in some]
            request = Request(Ack(tuple(map(AckItem, spoilt))))
        proposed = as_proposed(fences, request)
        seen += isinstance(proposed.command, AckLeases)
        (one,), (other,) = run(told, author.now, request), run(fences, author.now, proposed)
        if isinstance(one.reply, SettledAll) and isinstance(other.reply, SettledAll):
            assert one.reply.results == other.reply.results
        else:
            assert one == other
        for grant in getattr(one.reply, "grants", ()):
            author.tokens.append(token_of(grant, SECRET))
    told.chain = fences.chain
    told.replies.take_storage(), fences.replies.take_storage()
    assert seen > 5 and state_digest(told) == state_digest(fences)


def test_the_leader_gives_back_its_own_leases_by_fence() -> None:
    """R20, R26: as a release of their tokens does."""
    kit = Kit()
    numbers = kit.put("a", "b", "c")
    one, two, three = kit.lease(3)
    kit.ack(two)
    reply = kit(ReleaseLeases((one.fence, two.fence, three.fence, three.fence, 0, three.fence + 1)))
    assert isinstance(reply, SettledAll)
    statuses = [(one.status, one.repeated) for one in reply.results]
    assert statuses[:4] == [
        ("released", False),
        ("stale_lease", False),
        ("released", False),
        ("released", True),
    ]
    assert statuses[4:] == [("not_found", False)] * 2
    assert kit.release(one)[0].repeated, "the holder of the token hears the same"
    assert [grant.message for grant in kit.lease(3)] == [numbers[0], numbers[2]]
    assert invariants.check(kit.m) == []
