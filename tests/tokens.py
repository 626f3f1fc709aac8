"""Lease tokens as clients hold them: the machine says fences, and the mac follows (R13)."""

from __future__ import annotations

from trivet.machine.commands import Ack, AckTokens, Request, Token
from trivet.machine.core import Machine
from trivet.machine.ids import claimed_fences, lease_mac
from trivet.machine.replies import Grant
from trivet.machine.tokens import checked, fill_in, plain


def token_of(grant: Grant, secret: bytes) -> Token:
    return Token(grant.fence, lease_mac(secret, grant.fence, grant.message))


def live_tokens(machine: Machine) -> list[Token]:
    """Of every lease, by fence."""
    return [
        Token(fence, lease_mac(machine.secret, fence, message.number))
        for fence, message in sorted(machine.leases.items())
    ]


SECRET = b"s" * 32
"""Of the clusters that are simulated."""


def as_proposed(machine: Machine, request: Request) -> Request:
    """What a leader in this state would write into its log."""
    command = plain(request.command) if isinstance(request.command, Ack) else request.command
    if isinstance(command, AckTokens):
        if machine.applied_index % 3:  # as after an answer: the leader has the tokens
            found = machine.leases.get_many(claimed_fences(command.tokens))
            fill_in(machine, [message for message in found if message is not None])
        command = checked(machine, command)
    return Request(command, request.request_id, request.fingerprint)
