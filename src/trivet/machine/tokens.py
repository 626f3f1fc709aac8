"""Lease tokens against the state: whose they are, and what the leader says of them in its log (R13).

The mac of a token follows from the cluster's secret, the fence and the message, so it need not be in the state nor in
the log: the leader computes it when it answers a lease, checks it when the token comes back, and proposes the fence
alone (ADR 0019). A fence is given once and to one message, so what was checked stays true until it is applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine.commands import Ack, AckLeases, AckTokens, Token
from trivet.machine.ids import (
    TOKEN_BYTES,
    claimed_fences,
    join_tokens,
    lease_mac,
    lease_tokens,
    split_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trivet.machine.core import Machine
    from trivet.machine.state import Message

NO_FENCE = 0
"""No lease ever has it: what stands for a token that is none."""


def fence_of(m: Machine, token: Token | None) -> int:
    """The fence of a lease the state remembers, live or ended, if this is its token; else `NO_FENCE`."""
    if token is None:
        return NO_FENCE
    fence = token.fence
    known = m.leases.get(fence) or m.expired.get(fence)
    if known is not None:
        message = known.number
    else:
        settled = m.settled.get(fence)
        if settled is None:
            return NO_FENCE
        message = settled.message
    return fence if lease_mac(m.secret, fence, message) == token.mac else NO_FENCE


def judged(m: Machine, joined: bytes) -> list[int]:
    """`fence_of` each of the joined tokens; a node that has answered the lease need not compute."""
    fences = claimed_fences(joined)
    found = m.leases.get_many(fences)
    own = [b"" if message is None or message.lease is None else message.lease.token for message in found]
    if b"".join(own) == joined:
        return fences
    return [
        token.fence if joined[at * TOKEN_BYTES : (at + 1) * TOKEN_BYTES] == known else fence_of(m, token)
        for at, (token, known) in enumerate(zip(split_tokens(joined), own, strict=True))
    ]


def live_message(m: Machine, token: Token | None) -> Message | None:
    """The message this token leases now, or None."""
    return m.live_lease(fence_of(m, token))


def plain(command: Ack) -> Ack | AckTokens:
    """An ack of nothing but tokens in its one form."""
    items = command.items
    if command.enqueue or not items or any(item.result is not None or item.effects for item in items):
        return command
    return AckTokens(join_tokens([item.token for item in items]))


def fill_in(m: Machine, leased: Sequence[Message]) -> None:
    """Give the leases of these messages their tokens, for the answer and for what comes back."""
    leases = [message.lease for message in leased if message.lease is not None]
    fences = [lease.fence for lease in leases]
    made = lease_tokens(m.secret, zip(fences, [message.number for message in leased], strict=True))
    for lease, token in zip(leases, made, strict=True):
        lease.token = token


def checked(m: Machine, command: AckTokens) -> AckTokens | AckLeases:
    """What the leader writes for an ack: the fences alone, unless one is of a lease that this node has not applied
    yet, or of none: then the log will tell."""
    fences = judged(m, command.tokens)
    if NO_FENCE in fences and max(claimed_fences(command.tokens)) >= m.next_fence:
        return command
    return AckLeases(tuple(fences))
