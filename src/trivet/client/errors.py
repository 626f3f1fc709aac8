"""What a call may raise: one class per code of `trivet.errors.CODES`, all of them `TrivetError`.

Three ends of a call (design 1.6): it returns (applied), it raises `OutcomeUnknown` (repeat it with the
same request id), or it raises anything else (not applied; `error.retry` says what is worth trying).
"""

from __future__ import annotations

import re
from typing import Any

from trivet.errors import CODES, ErrorKind, Retry, TrivetError


class ApiError(TrivetError):
    """The cluster refused. `status` is the answer's; a code this version does not know is kept as it is."""

    def __init__(self, code: str, detail: str, *, kind: ErrorKind | None = None, **known: Any) -> None:
        super().__init__(code, detail, **known)
        self._kind = kind or CODES.get(code) or ErrorKind(0, Retry.NEVER, "An error of an unknown kind")

    @property
    def kind(self) -> ErrorKind:
        return self._kind


class InvalidArgument(ApiError):
    """The request is wrong at `field`."""


class Unencodable(InvalidArgument, TypeError):
    """The request was not sent: something in it is nothing that MessagePack or JSON has a form for."""

    def __init__(self, why: str) -> None:
        super().__init__("invalid_argument", f"the request cannot be encoded: {why}")


class Unauthenticated(ApiError):
    """No valid credentials. To a leader that is not among the client's nodes none are sent."""


class Forbidden(ApiError):
    pass


class NotFound(ApiError):
    pass


class QueueNotFound(NotFound):
    pass


class MessageNotFound(NotFound):
    pass


class RunNotFound(NotFound):
    pass


class ScheduleNotFound(NotFound):
    pass


class FlowNotFound(NotFound):
    pass


class StepNotFound(NotFound):
    pass


class TopicNotFound(NotFound):
    pass


class GroupNotFound(NotFound):
    pass


class EffectNotFound(NotFound):
    pass


class MethodNotAllowed(ApiError):
    pass


class NotAcceptable(ApiError):
    pass


class RequestTimeout(ApiError):
    pass


class StaleLease(ApiError):
    """The lease is not live and nothing was changed by it. `results`: every item's answer, aligned."""

    @property
    def results(self) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = self.extra.get("results", [])
        return results


class StaleEffect(ApiError):
    pass


class EffectHeld(ApiError):
    pass


class IdempotencyConflict(ApiError):
    pass


class MessageFinished(ApiError):
    pass


class QueuePaused(ApiError):
    pass


class NoEligibleMember(ApiError):
    pass


class RevisionChanged(ApiError):
    pass


class PayloadTooLarge(ApiError):
    pass


class BatchTooLarge(ApiError):
    pass


class UnsupportedMediaType(ApiError):
    pass


class QueueFull(ApiError):
    pass


class RateLimited(ApiError):
    pass


class Overloaded(ApiError):
    pass


class MemoryPressure(ApiError):
    pass


class TooManyQueues(ApiError):
    pass


class TooManyTopics(ApiError):
    pass


class TooManyGroups(ApiError):
    pass


class TooManySchedules(ApiError):
    pass


class Internal(ApiError):
    pass


class NotImplementedYet(ApiError):
    pass


class NoLeader(ApiError):
    """No leader was known for the whole retry time. Definitely not applied."""


class LostLeadership(NoLeader):
    pass


class Draining(NoLeader):
    pass


class Recovering(NoLeader):
    pass


class DiskFull(ApiError):
    pass


class OutcomeUnknown(ApiError):
    """It may or may not have happened. Repeat the call with `request_id=error.request_id` inside the
    request window (60 s) to learn which. `__cause__` is what ended the last attempt (R35)."""

    @property
    def request_id(self) -> str | None:
        value: str | None = self.extra.get("request_id")
        return value


class Unreachable(ApiError):
    """No node could be reached for the whole retry time. Definitely not applied."""

    def __init__(self, detail: str, **known: Any) -> None:
        super().__init__("unreachable", detail, kind=ErrorKind(0, Retry.LATER, "No node answers"), **known)


class BadAnswer(ApiError):
    """Something answered, but not as a Trivet node does (a proxy, another service)."""

    def __init__(self, detail: str, **known: Any) -> None:
        super().__init__(
            "bad_answer", detail, kind=ErrorKind(0, Retry.NEVER, "Not an answer of Trivet"), **known
        )


class EffectUncertain(ApiError):
    """An earlier holder of the effect never committed: it may have happened (R27). Nothing was run.

    Give the guard a `reconcile=` that finds out; without one a Worker dead-letters the message."""

    def __init__(self, detail: str, **known: Any) -> None:
        super().__init__(
            "effect_uncertain", detail, kind=ErrorKind(0, Retry.NEVER, "The effect is uncertain"), **known
        )


class MessageFailed(ApiError):
    """The message whose result was waited for is dead or cancelled: `message` has all of it."""

    def __init__(self, message: dict[str, Any]) -> None:
        said = message.get("dead_reason") or message["state"]
        detail = f"message {message['id']} is {message['state']}: {said}"
        super().__init__("message_failed", detail, kind=ErrorKind(0, Retry.NEVER, "The message failed"))
        self.message = message


class LeaseLost(ApiError):
    """This client may no longer trust the lease: not extended in time, stale, or cancelled."""

    def __init__(self, detail: str, **known: Any) -> None:
        super().__init__("lease_lost", detail, kind=ErrorKind(0, Retry.NEVER, "The lease is lost"), **known)


def _code_of(cls: type[ApiError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def _subclasses(cls: type[ApiError]) -> list[type[ApiError]]:
    direct = cls.__subclasses__()
    return direct + [deeper for one in direct for deeper in _subclasses(one)]


BY_CODE: dict[str, type[ApiError]] = {
    code: cls for cls in _subclasses(ApiError) if (code := _code_of(cls)) in CODES
}
BY_CODE["not_implemented"] = NotImplementedYet


def error_of(code: str, detail: str, *, kind: ErrorKind | None = None, **known: Any) -> ApiError:
    """The exception of `code`; `ApiError` itself for a code this version does not know."""
    return BY_CODE.get(code, ApiError)(code, detail, kind=kind, **known)
