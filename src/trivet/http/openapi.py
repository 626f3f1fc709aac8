"""The API description (OpenAPI 3.1), made from the router: its routes, their operations and the structs they name.

Built once, when somebody asks for it. The conformance tests hold every answer they get against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from trivet import __version__
from trivet.errors import CODES
from trivet.http import shapes, words
from trivet.http.codec import JSON, MSGPACK
from trivet.http.describing import Operation, Stream, Text
from trivet.http.problems import PROBLEM
from trivet.http.routing import Kind, Route, Router
from trivet.http.streaming import EVENT_STREAM

Schema = dict[str, Any]

_REF = "#/components/schemas/"
_ABOUT = """\
A durable, leased work queue. JSON by default, MessagePack (`application/msgpack`) by `Content-Type` and `Accept`, \
the same fields in both. Instants are `*_at_ms` (Unix milliseconds), lengths `*_ms`. Unknown fields and query \
parameters are refused; null for an optional field means that it is not given, except where null is a value.

Every write takes a request id (`Idempotency-Key` or `request_id`) and tells its place in the log. A write or a read \
sent to a follower is answered 307 with the leader's address. Lengths of texts are bounds in bytes of UTF-8."""

_WRITE_PROBLEMS = ("idempotency_conflict", "overloaded", "outcome_unknown")
_LEADER_PROBLEMS = ("no_leader", "lost_leadership", "draining", "recovering")
_BODY_PROBLEMS = ("request_timeout", "payload_too_large", "unsupported_media_type")
_TOLD = ("Trivet-Node", "Trivet-Role", "Trivet-Leader", "Trivet-Term", "Trivet-Index", "Trivet-Request-Id")
_HEADERS = {name: {"$ref": f"#/components/headers/{name}"} for name in _TOLD}


def document(router: Router) -> Schema:
    """The whole description; the same for the same code."""
    paths: dict[str, Schema] = {}
    refusals: Schema = {}
    for route in router.routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, refusals)
    used = {_said(route).module for route in router.routes}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Trivet",
            "version": __version__,
            "summary": "Work queue, HTTP API version 1",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The node that answers"}],
        "tags": [
            {"name": name, "description": about}
            for module, (name, about) in words.SECTIONS.items()
            if module in used
        ],
        "paths": paths,
        "components": {
            "schemas": _components(router.routes),
            "headers": {
                name: {"description": words.HEADERS[name], "schema": {"type": "string"}} for name in _TOLD
            },
            "responses": {
                "Redirect": {
                    "description": "This node does not lead: the same at the leader. The answer is empty.",
                    "headers": {
                        "Location": {
                            "description": "The same path at the leader.",
                            "schema": {"type": "string"},
                        }
                    },
                },
                **dict(sorted(refusals.items())),
            },
        },
    }


# --- operations ---------------------------------------------------------------------------------------


def _said(route: Route) -> Operation:
    assert route.operation is not None, (
        f"{route.method} {route.template}: describe its handler with @operation"
    )
    return route.operation


def _operation(route: Route, refusals: Schema) -> Schema:
    told = _said(route)
    made: Schema = {
        "operationId": f"{told.module}_{getattr(route.handler, '__name__', 'call')}",
        "summary": told.summary,
        "tags": [words.SECTIONS[told.module][0]],
    }
    if told.note:
        made["description"] = told.note
    parameters = [
        *_path_parameters(route.template),
        *_query_parameters(route),
        *_header_parameters(route, told),
    ]
    if parameters:
        made["parameters"] = parameters
    if told.takes is not None:
        media: Schema = {"schema": _ref(told.takes)}
        if told.example is not None:
            media["example"] = told.example
        made["requestBody"] = {
            "required": told.body_required,
            "content": {JSON: media, MSGPACK: {"schema": media["schema"]}},
        }
    made["responses"] = _responses(route, told, refusals)
    return made


def _path_parameters(template: str) -> Iterator[Schema]:
    for before, name in re.findall(r"([^/{}]+)/\{(\w+)\}", template):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": words.PATHS[f"{before}/{{{name}}}"],
            "schema": {"type": "string"},
        }


def _query_parameters(route: Route) -> Iterator[Schema]:
    for one in route.parameters:
        yield {"name": one.name, "in": "query", "description": one.about, "schema": one.schema()}


def _header_parameters(route: Route, told: Operation) -> Iterator[Schema]:
    names = [*told.headers]
    if route.kind is Kind.WRITE:
        names.append("Idempotency-Key")
    if route.kind is not Kind.NODE:
        names.append("Trivet-Follower")
    for name in names:
        yield {
            "name": name,
            "in": "header",
            "description": words.HEADERS[name],
            "schema": {"type": "string", "enum": ["redirect", "forward"]}
            if name == "Trivet-Follower"
            else {"type": "string"},
        }


def _responses(route: Route, told: Operation, refusals: Schema) -> Schema:
    made: Schema = {}
    for status, given in told.gives.items():
        one: Schema = {"description": _reason(status, given), "headers": _HEADERS}
        if isinstance(given, Text):
            kind = "object" if given.media == JSON else "string"
            one["content"] = {given.media: {"schema": {"type": kind}}}
        elif isinstance(given, Stream):
            schema = _answer(route, told, given.page)
            one["content"] = {
                EVENT_STREAM: {"schema": {"type": "string"}},
                JSON: {"schema": schema},
                MSGPACK: {"schema": schema},
            }
        elif route.lax:
            one["content"] = {JSON: {"schema": _ref(given)}}
        else:
            schema = _answer(route, told, given)
            one["content"] = {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}
        made[str(status)] = one
    if route.kind is not Kind.NODE:
        made["307"] = {"$ref": "#/components/responses/Redirect"}
    for status, codes in _by_status(problems_of(route)).items():
        name = ".".join(codes)
        schema = {"$ref": _REF + "Problem", "properties": {"code": {"enum": codes}}}
        refusals[name] = {
            "description": ", ".join(f"`{code}`" for code in codes),
            "headers": _HEADERS,
            "content": {PROBLEM: {"schema": schema}},
        }
        made[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return dict(sorted(made.items()))


def _reason(status: int, given: Any) -> str:
    if isinstance(given, Text | Stream):
        return given.about
    return {201: "Created", 202: "Accepted", 503: "Not now"}.get(status, "Done")


def _answer(route: Route, told: Operation, given: Any) -> Schema:
    """What the call answers with its place in the log, or what it saw of it."""
    if route.kind is Kind.NODE:
        return _ref(given)
    around: Schema = _ref(shapes.Written if route.kind is Kind.WRITE else shapes.Seen)
    if told.takes is not None and "dry_run" in told.takes.__struct_fields__:
        around = {"anyOf": [around, _ref(shapes.Seen)]}
    return {"allOf": [_ref(given), around]}


def problems_of(route: Route) -> tuple[str, ...]:
    """The codes that a call of this route may be refused with."""
    told = _said(route)
    codes = [*told.problems, "internal"]
    if not route.lax:
        codes += ["invalid_argument", "not_acceptable"]
    elif route.parameters:
        codes.append("invalid_argument")
    if route.method != "GET":
        codes += _BODY_PROBLEMS
    if route.kind is not Kind.NODE:
        codes += _LEADER_PROBLEMS
    if route.kind is Kind.WRITE:
        codes += _WRITE_PROBLEMS
    return tuple(dict.fromkeys(codes))


def _by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for code in sorted(codes):
        found.setdefault(CODES[code].status, []).append(code)
    return found


# --- schemas ------------------------------------------------------------------------------------------


def _ref(kind: Any) -> Schema:
    return {"$ref": _REF + kind.__name__}


def _kinds(routes: Iterable[Route]) -> list[Any]:
    named: list[Any] = [shapes.Problem, shapes.Written, shapes.Seen]
    for route in routes:
        told = _said(route)
        given = [one.page if isinstance(one, Stream) else one for one in told.gives.values()]
        named += [one for one in (told.takes, *given) if isinstance(one, type)]
    return list(dict.fromkeys(named))


def _components(routes: Iterable[Route]) -> Schema:
    kinds = _kinds(routes)
    _, made = msgspec.json.schema_components(kinds, ref_template=_REF + "{name}")
    for kind in _with_inner(kinds):
        _merge(made[kind.__name__], getattr(kind, "extra_schema", {}))
    for name, schema in made.items():
        if not schema.get("required", True):
            del schema["required"]
        for field, told in schema.get("properties", {}).items():
            about = words.FIELDS.get(f"{name}.{field}", words.FIELDS.get(field))
            if about is not None:
                told.setdefault("description", about)
    return dict(sorted(made.items()))


def _with_inner(kinds: list[Any]) -> list[Any]:
    """These structs and those of their fields."""
    found: dict[Any, None] = {}
    todo: list[Any] = [msgspec.inspect.type_info(kind) for kind in kinds]
    while todo:
        one = todo.pop()
        if isinstance(one, msgspec.inspect.StructType):
            if one.cls in found:
                continue
            found[one.cls] = None
            todo += [field.type for field in one.fields]
        for name in ("type", "item_type", "value_type", "types", "item_types"):
            inner = getattr(one, name, None)
            todo += inner if isinstance(inner, tuple) else [] if inner is None else [inner]
    return list(found)


def _merge(into: Schema, more: Schema) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
