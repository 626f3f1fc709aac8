"""A leased message as the worker holds it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from trivet.units import Clock

if TYPE_CHECKING:
    from trivet.client.runs import RunWriter


REPEATED_MS_MIN = 1000
"""As long as this a lease becomes at least that came with a repeated answer, once it is extended: by what was left of
it, it would be extended again and again."""


class Lease:
    """One message under a lease. `trusted_until_s` is on the client's monotonic clock: the send time of
    the request that granted or extended it, plus the length granted (R35). After it another worker may
    already hold the message, so nothing that must happen once may be started."""

    __slots__ = (
        "_clock",
        "cancelled",
        "data",
        "effects",
        "lease_ms",
        "lost",
        "reporter",
        "trusted_until_s",
        "writer",
    )

    def __init__(self, data: dict[str, Any], now_ms: int, sent_at_s: float, clock: Clock) -> None:
        self.data = data
        self.lease_ms = max(1, int(data["lease_expires_at_ms"]) - now_ms)
        self.trusted_until_s = sent_at_s + self.lease_ms / 1000
        self.cancelled = False
        self.lost = False
        self.effects: list[dict[str, Any]] = []  # committed together with the ack
        self.writer: RunWriter | None = None  # a worker gives it both
        self.reporter: Callable[..., Awaitable[Any]] | None = None
        self._clock = clock

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def queue(self) -> str:
        return str(self.data["queue"])

    @property
    def token(self) -> str:
        return str(self.data["lease_token"])

    @property
    def body(self) -> Any:
        """The message's body; bytes when it was enqueued as bytes."""
        data = self.data
        if "body_base64" in data:
            return base64.b64decode(data["body_base64"])
        return data.get("body")

    @property
    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = self.data.get("headers") or {}
        return headers

    @property
    def parents(self) -> dict[str, Any]:
        """Of a flow's step: the results of the steps it waited for, by their names, None where there is none; of a
        compensation: the result of its step."""
        parents: dict[str, Any] = self.data.get("parents") or {}
        return parents

    @property
    def offset(self) -> int | None:
        """Of a consumer group's message: its place in the topic."""
        offset: int | None = self.data.get("offset")
        return offset

    @property
    def attempt(self) -> int:
        """1 at the first delivery."""
        return int(self.data.get("attempt", 1))

    @property
    def run_id(self) -> str | None:
        run_id: str | None = self.data.get("run_id")
        return run_id

    async def emit(self, type: str, data: Any = None) -> None:
        """Tell an event of the message's run (a token, a step taken), from a worker's handler: see `RunWriter`. All
        of them are told before the message is acked. Raises `ValueError` for a message without a run."""
        if self.writer is None:
            raise ValueError("only a worker's handler can emit, and only for a message with a run_id")
        await self.writer.emit(type, data)

    async def progress(self, percent: int | None = None, note: str | None = None) -> None:
        """Show how far the work is, from a worker's handler. Counts as a heartbeat, and tells whether somebody
        cancelled the message: then `cancelled` is set (and the worker stops the handler)."""
        if self.reporter is None:
            raise ValueError("only a worker's handler can report; use client.progress(lease, …)")
        await self.reporter(self, percent=percent, note=note)

    def remaining_s(self) -> float:
        """How long this lease may still be trusted; 0 when not at all."""
        if self.lost:
            return 0.0
        return max(0.0, self.trusted_until_s - self._clock.monotonic())

    def extended(self, lease_ms: int, sent_at_s: float) -> None:
        """An extension that was sent at `sent_at_s` was granted."""
        self.lease_ms = lease_ms
        self.trusted_until_s = sent_at_s + lease_ms / 1000

    def __repr__(self) -> str:
        return f"<Lease {self.id} of {self.queue}, attempt {self.attempt}, {self.remaining_s():.1f} s left>"


class Leases(list[Lease]):
    """What one lease request got. `lost`: its grants that are no longer live (a repeated request, R18, or one that
    waited long)."""

    def __init__(
        self, answer: dict[str, Any], sent_at_s: float, clock: Clock, lease_ms: int | None = None
    ) -> None:
        """`lease_ms`: what was asked for."""
        now_ms = int(answer["now_ms"])
        super().__init__(Lease(one, now_ms, sent_at_s, clock) for one in answer["messages"])
        self.lost = int(answer.get("lost", 0))
        self.repeated = bool(answer.get("repeated", False))
        if self.repeated:
            # Only what is left is told. They were given after the request was sent, so at most by the time since
            # then they were longer.
            passed_ms = int((clock.monotonic() - sent_at_s) * 1000)
            for lease in self:
                lease.lease_ms = lease_ms or max(REPEATED_MS_MIN, lease.lease_ms + passed_ms)


def token_of(lease: Lease | str) -> str:
    return lease if isinstance(lease, str) else lease.token
