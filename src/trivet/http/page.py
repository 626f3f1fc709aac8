"""The pages a person sees: the API description and the root. Written on the server, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from typing import Any

from trivet.errors import CODES

_STATIC = files("trivet.http") / "static"
_STYLE = (_STATIC / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_STATIC / "docs.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


STYLE_HASH = _hash(_STYLE)
SCRIPT_HASH = _hash(_SCRIPT)

Schema = dict[str, Any]
# A stool with three legs.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 4h12M4 4 2 14"
    "M8 4v10M12 4l2 10' stroke='%23b8622a' stroke-width='2' stroke-linecap='round' fill='none'/%3E%3C/svg%3E"
)


def _page(title: str, body: str, script: str = "") -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="{_ICON}">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n{f'<script>{script}</script>' if script else ''}\n</body>\n</html>\n"
    )


def home() -> str:
    """The page at `/`: where to go."""
    links = (
        ("/docs", "The HTTP API", "every call, its fields, limits and errors"),
        ("/v1/openapi.json", "OpenAPI 3.1", "the same, for programs"),
        ("/v1/cluster", "The cluster", "members, leader, alarms, as this node sees them"),
        ("/v1/queues", "The queues", "with their counts"),
        ("/readyz?verbose", "Ready?", "this node's checks"),
        ("/metrics", "Metrics", "for Prometheus"),
    )
    items = "".join(
        f'<li><a href="{escape(url)}">{escape(name)}</a> <span class="soft">— {escape(about)}</span></li>'
        for url, name, about in links
    )
    return _page(
        "Trivet",
        '<main class="home"><h1>Trivet</h1><p class="soft">A durable, leased work queue. This node is up.</p>'
        f"<ul>{items}</ul></main>",
    )


def docs(document: Schema) -> str:
    """The page at `/docs`."""
    return _page(f"{document['info']['title']} API", _Docs(document).body(), _SCRIPT)


class _Docs:
    def __init__(self, document: Schema) -> None:
        self._document = document
        self._schemas: dict[str, Schema] = document["components"]["schemas"]
        self._operations = [
            (method.upper(), path, told)
            for path, methods in document["paths"].items()
            for method, told in methods.items()
        ]

    def body(self) -> str:
        info = self._document["info"]
        return (
            '<a class="skip" href="#calls">To the calls</a>\n<header><h1>Trivet API</h1>'
            f'<small>{escape(info["version"])} · <a href="/v1/openapi.json">OpenAPI 3.1</a> · '
            '<a href="/">this node</a></small>'
            '<search><input type="search" aria-label="Search calls, fields, errors" '
            'placeholder="Search calls, fields, errors ( / )"></search>'
            '<small id="found" role="status"></small></header>\n'
            f'<div class="page"><nav aria-label="Calls"><div>{self._menu()}</div>'
            f"<details><summary>All calls</summary>{self._menu()}</details></nav>\n"
            f'<main id="calls"><section>{_paragraphs(info["description"])}</section>\n'
            f"{''.join(self._sections())}{self._errors()}{self._objects()}</main></div>"
        )

    def _menu(self) -> str:
        parts = []
        for tag in self._document["tags"]:
            items = "".join(
                f'<li data-text="{self._searched(method, path, told)}"><a href="#{told["operationId"]}">'
                f"{escape(told['summary'])}</a></li>"
                for method, path, told in self._of(tag["name"])
            )
            parts.append(f"<div data-group><h2>{escape(tag['name'])}</h2><ul>{items}</ul></div>")
        more = '<li><a href="#errors">Errors</a></li><li><a href="#objects">Objects</a></li>'
        return "".join(parts) + f"<div><h2>Reference</h2><ul>{more}</ul></div>"

    def _of(self, tag: str) -> Iterator[tuple[str, str, Schema]]:
        return (one for one in self._operations if tag in one[2]["tags"])

    def _sections(self) -> Iterator[str]:
        for tag in self._document["tags"]:
            calls = "".join(self._call(*one) for one in self._of(tag["name"]))
            yield (
                f"<section data-group><h2>{escape(tag['name'])}</h2><p class=soft>{_inline(tag['description'])}</p>"
                f"{calls}</section>\n"
            )

    def _searched(self, method: str, path: str, told: Schema) -> str:
        """What the search box looks at."""
        names = [one["$ref"].rpartition("/")[2] for one in told["responses"].values() if "$ref" in one]
        names += [one["name"] for one in told.get("parameters", ())]
        if "requestBody" in told:
            schema = told["requestBody"]["content"]["application/json"]["schema"]
            names += [name for name, _, _ in self._properties(schema)]
        text = f"{method} {path} {told['summary']} {told.get('description', '')} {' '.join(names)}"
        return escape(text.lower(), quote=True)

    # --- one call -------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, told: Schema) -> str:
        parts = []
        if "description" in told:
            parts.append(_paragraphs(told["description"]))
        parts.append(self._parameters(told.get("parameters", [])))
        body = told.get("requestBody")
        if body is not None:
            parts.append(self._request(method, path, body))
        parts += self._answers(told["responses"])
        parts.append(self._refusals(told["responses"]))
        later = " later" if set(told["responses"]) >= {"501"} else ""
        return (
            f'<details class="op{later}" id="{told["operationId"]}" data-text="{self._searched(method, path, told)}">'
            f'<summary><span class="method {method.lower()}">{method}</span><code>{escape(path)}</code>'
            f"<span>{_inline(told['summary'])}</span></summary><div>{''.join(parts)}</div></details>\n"
        )

    def _parameters(self, parameters: list[Schema]) -> str:
        if not parameters:
            return ""
        rows = [
            _row(
                one["name"],
                self._kind(one["schema"]),
                _sentence(one["description"]),
                one["schema"],
                one["in"],
            )
            for one in parameters
        ]
        return f"<h3>Parameters</h3>{_table('name', rows)}"

    def _request(self, method: str, path: str, body: Schema) -> str:
        media = body["content"]["application/json"]
        must = "" if body["required"] else " <small>(optional)</small>"
        text = f"<h3>Request{must}</h3>{self._fields(media['schema'])}"
        if "example" in media:
            sent = json.dumps(media["example"])
            command = f"curl -X {method} $TRIVET{path} -H 'Content-Type: application/json' \\\n  -d '{sent}'"
            text += f"<pre><code>{escape(command)}</code></pre>"
        return text

    def _answers(self, responses: Schema) -> Iterator[str]:
        """Those that are no refusals; statuses with the same answer together."""
        alike: dict[str, list[str]] = {}
        for status, one in responses.items():
            if "$ref" not in one:
                alike.setdefault(json.dumps(one.get("content")), []).append(status)
        for statuses in alike.values():
            first = responses[statuses[0]]
            names = ", ".join(
                f"{one} <small>{_inline(responses[one]['description'])}</small>" for one in statuses
            )
            schema = first.get("content", {}).get("application/json", {}).get("schema", {"type": "string"})
            fields = "" if schema.get("type") == "string" else self._fields(schema, answer=True)
            yield f"<h3>{names}</h3>{fields}"

    def _refusals(self, responses: Schema) -> str:
        codes = []
        for status, one in responses.items():
            if status[0] in "45" and "$ref" in one:
                name = one["$ref"].rpartition("/")[2]
                codes += [(status, code) for code in name.split(".")]
        if not codes:
            return ""
        items = ", ".join(
            f'<a href="#error-{code}"><code>{code}</code></a> {status}' for status, code in codes
        )
        return f"<h3>Errors</h3><p>{items}</p>"

    # --- schemas --------------------------------------------------------------------------------------

    def _fields(self, schema: Schema, *, answer: bool = False) -> str:
        """Of a request the fields that must be there are marked, of an answer those that may be absent."""
        mark = "at times" if answer else "required"
        rows = [
            _row(name, self._kind(one), one.get("description", ""), one, mark if must is not answer else "")
            for name, one, must in self._properties(schema)
        ]
        about = self._about(schema)
        return (f"<p>{_inline(about)}</p>" if about else "") + (_table("field", rows) if rows else "")

    def _about(self, schema: Schema) -> str:
        if "allOf" in schema:
            return self._about(schema["allOf"][0])
        text: str = self._resolved(schema).get("description", "")
        return text

    def _resolved(self, schema: Schema) -> Schema:
        return self._schemas[_name(schema)] if "$ref" in schema else schema

    def _properties(self, schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
        """Name, schema and whether it must be there, of an object put together from several."""
        whole = self._resolved(schema)
        must = whole.get("required", ())
        for name, one in whole.get("properties", {}).items():
            yield name, one, name in must
        if "$ref" not in schema:
            for part in schema.get("allOf", ()):
                if "anyOf" in part:
                    for choice in part["anyOf"]:
                        for name, one, _ in self._properties(choice):
                            yield name, one, False
                elif "not" not in part:
                    yield from self._properties(part)

    def _kind(self, schema: Schema) -> str:
        """The type in words, with a link where it has a table of its own. HTML."""
        if "$ref" in schema:
            name = _name(schema)
            return f'<a href="#object-{name}">{name}</a>'
        if "anyOf" in schema:
            return " or ".join(self._kind(one) for one in schema["anyOf"])
        if "enum" in schema:
            return " | ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
        if schema.get("type") == "array":
            return f"list of {self._kind(schema['items'])}"
        if schema.get("type") == "object":
            inner = schema.get("additionalProperties")
            return f"map to {self._kind(inner)}" if isinstance(inner, dict) else "object"
        if "const" in schema:
            return f"<code>{escape(json.dumps(schema['const']))}</code>"
        return escape(schema.get("type", "any value"))

    def _objects(self) -> str:
        items = []
        for name, schema in self._schemas.items():
            words = escape(f"{name} {' '.join(schema.get('properties', ()))}".lower(), quote=True)
            # Its text stands in the line that opens it.
            fields = self._fields({**schema, "description": ""}, answer=not name.endswith("In"))
            items.append(
                f'<details class="op" id="object-{name}" data-text="{words}"><summary><code>{name}</code>'
                f"<span>{_inline(schema.get('description', ''))}</span></summary><div>{fields}</div></details>\n"
            )
        return f'<section data-group id="objects"><h2>Objects</h2>{"".join(items)}</section>'

    def _errors(self) -> str:
        rows = "".join(
            f'<tr id="error-{code}" data-text="{code} {kind.status} {kind.retry}"><td><code>{code}</code></td>'
            f"<td>{kind.status} · <code>{kind.retry}</code></td><td>{escape(kind.title)}</td></tr>"
            for code, kind in CODES.items()
        )
        return (
            '<section data-group id="errors"><h2>Errors</h2><p>Problem details (RFC 9457). The code is the API, the text '
            'is not. <a href="#object-Problem">Its fields</a>.</p><div class="wide"><table><thead><tr><th>code</th>'
            f"<th>status, retry</th><th>meaning</th></tr></thead><tbody>{rows}</tbody></table></div></section>\n"
        )


def _name(schema: Schema) -> str:
    name: str = schema["$ref"].rpartition("/")[2]
    return name


def _table(first: str, rows: Iterable[str]) -> str:
    head = f"<thead><tr><th>{first}</th><th>type</th><th>meaning</th></tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, kind: str, about: str, schema: Schema, mark: str) -> str:
    marked = f' <span class="must">{mark}</span>' if mark else ""
    bounds = _bounds(schema, name.endswith("_ms") and not name.endswith("_at_ms"))
    more = f'<span class="bounds">{escape(bounds)}</span>' if bounds else ""
    return (
        f"<tr><td><code>{escape(name)}</code>{marked}</td><td>{kind}{more}</td><td>{_inline(about)}</td></tr>"
    )


def _bounds(schema: Schema, length: bool) -> str:
    """Limits and default in words. `length`: it is one of time, in milliseconds."""
    told = []
    for one in (schema, *schema.get("anyOf", ())):
        low, high = one.get("minimum"), one.get("maximum")
        if low is not None and high == _INT64_MAX:
            told.append(f"from {_number(low)}")
        elif low is not None or high is not None:
            told.append(f"{_number(low)} … {_number(high)}{_long(high) if length else ''}")
        if "maxLength" in one:
            told.append(f"{'1 to' if 'minLength' in one else 'at most'} {_number(one['maxLength'])} bytes")
        for bound, what in (("maxItems", "items"), ("maxProperties", "entries")):
            if bound in one:
                told.append(f"{'1 to' if 'minItems' in one else 'at most'} {_number(one[bound])} {what}")
    if "default" in schema:
        value = schema["default"]
        plain = isinstance(value, int) and not isinstance(value, bool)
        text = f"{_number(value)}{_long(value) if length else ''}" if plain else json.dumps(value)
        told.append(f"default {text}")
    return " · ".join(told)


_INT64_MAX = 2**63 - 1
_SPANS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))


def _long(value: int | None) -> str:
    """How long that is, if a larger unit says it shorter."""
    for length, unit in _SPANS:
        if value and value % length == 0:
            return f" ({value // length} {unit})"
    return ""


def _number(value: float | None) -> str:
    """Digits in threes."""
    return "" if value is None else f"{value:,}".replace(",", "\u202f").replace("-", "−")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n"))


def _inline(text: str) -> str:
    """`code` in backticks, the rest as it is."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
