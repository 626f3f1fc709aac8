"""What a route takes and gives, said at its handler with `@operation`: the router refuses unknown query parameters
by it, the API description (`openapi.py`) and the conformance tests are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trivet.errors import invalid
from trivet.limits import ANSWER_BYTES_MAX, INT64_MAX, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, WAIT_MS_MAX

if TYPE_CHECKING:
    from trivet.http.routing import Handler

H = TypeVar("H", bound="Handler")


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter: any text."""

    name: str
    about: str

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Choice(Query):
    """One of a few words."""

    of: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.of)}

    def read(self, query: Mapping[str, str]) -> str | None:
        """Raises `invalid_argument`."""
        value = query.get(self.name)
        if value is not None and value not in self.of:
            raise invalid(f"must be one of {', '.join(self.of)}", "/" + self.name)
        return value


@dataclass(frozen=True, slots=True)
class Flag(Query):
    """There or not; its value says nothing."""


@dataclass(frozen=True, slots=True)
class Whole(Query):
    """An integer `low` … `high`."""

    low: int
    high: int
    default: int | None = None

    def schema(self) -> dict[str, Any]:
        told: dict[str, Any] = {"type": "integer", "minimum": self.low, "maximum": self.high}
        if self.default is not None:
            told["default"] = self.default
        return told

    def read(self, query: Mapping[str, str]) -> Any:
        """`default` when absent. Raises `invalid_argument`."""
        text = query.get(self.name)
        if text is None:
            return self.default
        digits = text[1:] if text.startswith("-") else text
        value = int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 19 else None
        if value is None or not self.low <= value <= self.high:
            limit = self.low if value is not None and value < self.low else self.high
            raise invalid(f"must be an integer {self.low} … {self.high}", "/" + self.name, limit)
        return value


CONSISTENCY = Choice(
    "consistency",
    "`leader`: linearizable. `local`: what the node asked knows, with the age of its last contact to the leader.",
    ("leader", "local"),
)
LIMIT = Whole("limit", "at most so many", 1, LIST_LIMIT_MAX, LIST_LIMIT_DEFAULT)
MAX_BYTES = Whole(
    "max_bytes", "about as many bytes, at least one item", 1, ANSWER_BYTES_MAX, ANSWER_BYTES_MAX
)
WAIT_MS = Whole("wait_ms", "wait so long for the message to be finished", 0, WAIT_MS_MAX, 0)
AFTER_MESSAGE = Query("after", "go on after this message: the `next` of the answer before")
MAX_LAG = Whole("max_lag", "unfit with more entries to apply than this", 0, INT64_MAX)


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is no JSON: its media type, and what it is."""

    media: str
    about: str


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer as server-sent events, or as the struct of a page."""

    about: str
    page: Any


@dataclass(frozen=True, slots=True)
class Operation:
    summary: str
    note: str
    takes: Any
    body_required: bool
    gives: Mapping[int, Any]
    query: tuple[Query, ...]
    problems: tuple[str, ...]
    headers: tuple[str, ...]
    example: Any
    module: str  # of the handler: its section in the description

    @property
    def media(self) -> str | None:
        """The one media type of a good answer that is no JSON."""
        return next((one.media for one in self.gives.values() if isinstance(one, Text)), None)

    @property
    def streams(self) -> bool:
        return any(isinstance(one, Stream) for one in self.gives.values())


def operation(
    summary: str,
    *,
    takes: Any = None,
    optional: bool = False,
    gives: Any = None,
    query: tuple[Query, ...] = (),
    problems: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    note: str = "",
    example: Any = None,
) -> Callable[[H], H]:
    """Describe the handler of one route.

    `takes`: the struct of the request; `optional`: it may have no body at all. `gives`: the struct of the answer
    (`Text` for what is no JSON), or a map from status to it; index, seq and term of a write and `as_of` of a read
    are added. `problems`: codes beyond those that every call of its kind may answer. `headers`: names of request
    headers with a meaning for this call. `example`: a request.
    """
    by_status = gives if isinstance(gives, dict) else {} if gives is None else {200: gives}

    def keep(handler: H) -> H:
        module = handler.__module__.rpartition(".")[2]
        told = Operation(
            summary, note, takes, not optional, by_status, query, problems, headers, example, module
        )
        handler.operation = told  # type: ignore[attr-defined]
        return handler

    return keep


def operation_of(handler: Handler) -> Operation | None:
    return getattr(handler, "operation", None)
