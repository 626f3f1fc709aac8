"""Which handler a path and method mean. One small trie over path segments; `{}` takes any segment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import unquote

from trivet.errors import TrivetError, invalid
from trivet.http.describing import CONSISTENCY, Operation, Query, operation_of

if TYPE_CHECKING:
    from trivet.http.call import Call, Plain, Reply

Handler = Callable[["Call"], Awaitable["Reply"]]


class Kind(Enum):
    """Who answers a call."""

    WRITE = "write"  # the leader, through the log
    READ = "read"  # the leader, linearizable; with ?consistency=local the node asked
    NODE = "node"  # the node asked
    STREAM = "stream"  # the node asked once it knows enough, else the leader


@dataclass(frozen=True, slots=True)
class Route:
    template: str  # for logs and metrics: never a raw path
    method: str
    kind: Kind
    handler: Handler
    operation: Operation | None  # what it takes and gives; a house test wants one of each route
    parameters: tuple[Query, ...] = ()
    lax: bool = False  # any query parameter and any `Accept` pass (health checks of load balancers, browsers)
    plain: Callable[[Call], Plain | None] | None = None
    """Of a write that takes one command: what to submit if the request is of the common kind. Raises `TrivetError`."""
    query: frozenset[str] = frozenset()  # the names of `parameters`


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
        *,
        lax: bool = False,
        plain: Callable[[Call], Plain | None] | None = None,
    ) -> None:
        """What the call takes and gives, its query parameters too, is said at the handler with `@operation`."""
        told = operation_of(handler)
        parameters = () if told is None else told.query
        if kind is Kind.READ:
            parameters = (*parameters, CONSISTENCY)
        names = frozenset(one.name for one in parameters)
        route = Route(template, method, kind, handler, told, parameters, lax, plain, names)
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
