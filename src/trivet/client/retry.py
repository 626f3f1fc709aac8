"""When to try again, how long one attempt may take, and what an answer means for the call (R12, R35)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trivet.client.errors import ApiError, BadAnswer, error_of
from trivet.errors import CODES, ErrorKind, Retry
from trivet.limits import REQUEST_WINDOW_MS

RETRY_S_MAX = 50.0
"""The whole retry time. Must stay below the cluster's request window, or a late repeat would be taken
for a new request (R12)."""
assert RETRY_S_MAX * 1000 < REQUEST_WINDOW_MS

WAITED_OUT = frozenset({"overloaded", "rate_limited", "request_timeout"})
"""Refusals that pass by themselves in moments. A full queue, a full disk or a held effect is news for
the caller, and raised at once."""


class Verdict(Enum):
    """What one attempt tells of the call."""

    DONE = "done"  # applied, or read
    REDIRECT = "redirect"  # not applied here; another node is named
    NOT_SENT = "not_sent"  # the request never left this machine
    ELSEWHERE = "elsewhere"  # refused, not applied; another node may take it
    LATER = "later"  # refused, not applied; the same may succeed after a pause
    REFUSED = "refused"  # refused for good
    UNKNOWN = "unknown"  # sent, and no word whether it was applied


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """All lengths are seconds.

    `total_s`: from the first attempt to the last answer, 0 … 50 (0: one attempt).
    `attempt_s`: how long one attempt may take, a long poll's wait on top; doubles after each attempt that
    ran out (a slow cluster is not made slower by giving up too early), up to `attempt_max_s`. Where answers have
    been quick, the first attempt of a call gets less (`Pace`), but not below `attempt_min_s`.
    `connect_s`: how long a connection may take to open: what finds a lost machine.
    `backoff_s` … `backoff_max_s`: the ceiling of the random pause once every node was tried.
    """

    total_s: float = 30.0
    attempt_s: float = 1.5
    attempt_min_s: float = 0.75
    attempt_max_s: float = 10.0
    connect_s: float = 0.75
    backoff_s: float = 0.02
    backoff_max_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.total_s <= RETRY_S_MAX:
            raise ValueError(f"total_s is {self.total_s}; it must be 0 … {RETRY_S_MAX:g} seconds (R12)")
        if not 0 < self.attempt_s <= self.attempt_max_s or self.attempt_min_s <= 0:
            raise ValueError("attempt_s and attempt_min_s must be above 0, attempt_s at most attempt_max_s")
        if self.connect_s <= 0 or not 0 < self.backoff_s <= self.backoff_max_s:
            raise ValueError("connect_s and backoff_s must be above 0, backoff_s at most backoff_max_s")

    def attempt_timeout_s(self, timeouts: int, pace: Pace) -> float:
        """For the attempt after `timeouts` attempts of this call have run out, without a long poll's wait."""
        if timeouts == 0:
            return min(self.attempt_s, max(self.attempt_min_s, pace.patience_s))
        return min(self.attempt_max_s, self.attempt_s * 2.0 ** min(timeouts, 10))

    def pause_s(self, rounds: int, rng: random.Random) -> float:
        """Full jitter: anything from 0 to the ceiling of this round."""
        return rng.uniform(0, min(self.backoff_max_s, self.backoff_s * 2.0 ** min(rounds, 16)))


class Pace:
    """How long answers take, as TCP estimates it (RFC 6298): smoothed time plus four times its deviation.

    A lost or stopped machine says nothing (R34): of a cluster that answers in milliseconds a second of silence is
    news, of one that takes half a second it is not. A time that ran out tells only that it was too short.
    """

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    @property
    def patience_s(self) -> float:
        """Beyond it silence is unusual; endless before the first answer."""
        return float("inf") if self._mean_s is None else self._mean_s + 4 * self._deviation_s

    def answered(self, took_s: float) -> None:
        """An answer came, after so long."""
        if self._mean_s is None:
            self._mean_s, self._deviation_s = took_s, took_s / 2
            return
        self._deviation_s += (abs(took_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (took_s - self._mean_s) / 8

    def ran_out(self, after_s: float) -> None:
        """No answer came for so long. It counts as one that took as long."""
        self.answered(after_s)


def judge(status: int, data: Any, *, ours: bool) -> tuple[Verdict, ApiError | None]:
    """What an answer of `status` with the decoded body `data` means. `ours`: it carries `Trivet-Node`."""
    if 200 <= status < 300:
        return Verdict.DONE, None
    if status in (301, 302, 303, 307, 308):
        return Verdict.REDIRECT, None
    error = problem(status, data)
    if error is None:
        return _foreign(status, ours)
    match error.retry:
        case Retry.SAME_KEY:
            return Verdict.UNKNOWN, error
        case Retry.ELSEWHERE:
            return Verdict.ELSEWHERE, error
        case Retry.LATER if error.code in WAITED_OUT:
            return Verdict.LATER, error
        case _:
            return Verdict.REFUSED, error


def problem(status: int, data: Any) -> ApiError | None:
    """The exception of a problem document, None if `data` is none."""
    if not isinstance(data, dict) or not isinstance(data.get("code"), str):
        return None
    code: str = data["code"]
    known = CODES.get(code)
    try:
        retry = Retry(data.get("retry", known.retry if known else Retry.NEVER))
    except ValueError:
        retry = known.retry if known else Retry.NEVER
    title = data.get("title") or (known.title if known else code)
    named = {"type", "title", "status", "detail", "code", "retry", "field", "limit", "retry_after_ms"}
    return error_of(
        code,
        str(data.get("detail") or title),
        kind=ErrorKind(status, retry, str(title)),
        field=data.get("field"),
        limit=data.get("limit"),
        retry_after_ms=data.get("retry_after_ms"),
        extra={name: value for name, value in data.items() if name not in named},
    )


def _foreign(status: int, ours: bool) -> tuple[Verdict, ApiError]:
    """An answer without a code: of a proxy in between, or of something that is no Trivet at all."""
    error = BadAnswer(f"an answer with status {status} and no error code; is this a Trivet node?")
    if status == 503 and not ours:
        return Verdict.ELSEWHERE, error  # a load balancer without a backend sent nothing on
    if status >= 500:
        return Verdict.UNKNOWN, error
    return Verdict.REFUSED, error
