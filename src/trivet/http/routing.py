"""Which handler a path and method mean. One small trie over path segments; `{}` takes any segment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from trivet.errors import TrivetError, invalid

if TYPE_CHECKING:
    from trivet.http.call import Call, Plain, Reply

Handler = Callable[["Call"], Awaitable["Reply"]]


class Kind(Enum):
    """Who answers a call."""

    WRITE = "write"  # the leader, through the log
    READ = "read"  # the leader, linearizable; with ?consistency=local the node asked
    NODE = "node"  # the node asked


@dataclass(frozen=True, slots=True)
class Route:
    template: str  # for logs and metrics: never a raw path
    method: str
    kind: Kind
    handler: Handler
    query: frozenset[str]
    lax: bool = False  # unknown query parameters pass (health checks of load balancers)
    plain: Callable[[Call], Plain | None] | None = None
    """Of a write that takes one command: what to submit if the request is of the common kind. Raises `TrivetError`."""


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class Router:
    def __init__(self) -> None:
        self._root = _Node()
        self.routes: list[Route] = []

    def add(
        self,
        method: str,
        template: str,
        kind: Kind,
        handler: Handler,
        query: tuple[str, ...] = (),
        *,
        lax: bool = False,
        plain: Callable[[Call], Plain | None] | None = None,
    ) -> None:
        names = set(query)
        if kind is Kind.READ:
            names.add("consistency")
        route = Route(template, method, kind, handler, frozenset(names), lax, plain)
        node = self._root
        for step in template.strip("/").split("/"):
            if step.startswith("{"):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.children.setdefault(step, _Node())
        assert method not in node.routes, f"{method} {template} twice"
        node.routes[method] = route
        self.routes.append(route)

    def find(self, method: str, raw_path: str) -> tuple[Route, tuple[str, ...]]:
        """The route and the decoded values of its `{}` segments.

        Raises `not_found`, or `method_not_allowed` with the allowed methods in `extra["allow"]`.
        """
        node = self._root
        above = node
        params: list[str] = []
        for step in raw_path.strip("/").split("/"):
            below = node.children.get(step)
            if below is None:
                below = node.any
                if below is None:
                    raise TrivetError("not_found", "there is nothing at this path")
                params.append(_decoded(step))
            above, node = node, below
        if method not in node.routes and above.any is not None and method in above.any.routes:
            # An effect may be called "begin": the fixed path has no such method, the named one has.
            last = _decoded(raw_path.strip("/").rpartition("/")[2])
            return above.any.routes[method], (*params, last)
        if not node.routes:
            raise TrivetError("not_found", "there is nothing at this path")
        route = node.routes.get(method)
        if route is None and method == "HEAD":
            route = node.routes.get("GET")
        if route is None:
            allowed = dict.fromkeys(node.routes)
            if "GET" in allowed:
                allowed["HEAD"] = None
            raise TrivetError(
                "method_not_allowed",
                f"{method} is not allowed here, only {', '.join(allowed)}",
                extra={"allow": list(allowed)},
            )
        return route, tuple(params)


def _decoded(step: str) -> str:
    try:
        return unquote(step, errors="strict")
    except UnicodeDecodeError:
        raise TrivetError("not_found", "the path is not UTF-8") from None


def parse_query(raw: str) -> dict[str, str]:
    """Query parameters; each at most once. Raises `invalid_argument`."""
    found: dict[str, str] = {}
    for part in raw.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        try:
            name = unquote(name.replace("+", " "), errors="strict")
            value = unquote(value.replace("+", " "), errors="strict")
        except UnicodeDecodeError:
            raise invalid("the query is not UTF-8", "") from None
        if name in found:
            raise invalid("this query parameter is given twice", "/" + name)
        found[name] = value
    return found


def query_int(query: dict[str, str], name: str, default: Any, low: int, high: int) -> Any:
    """An integer parameter in `low` … `high`; `default` when absent."""
    text = query.get(name)
    if text is None:
        return default
    digits = text[1:] if text.startswith("-") else text
    value = int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 19 else None
    if value is None or not low <= value <= high:
        limit = low if value is not None and value < low else high
        raise invalid(f"must be an integer {low} … {high}", "/" + name, limit)
    return value
