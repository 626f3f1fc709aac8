"""Holds what a node answers against what its own description (`/v1/openapi.json`) says that it answers."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from jsonschema import Draft202012Validator

ITEMS_LOOKED_AT = 20  # of each list: more of the same shows nothing more


class Described:
    """A description; `check` raises `AssertionError` for an answer with an unknown or missing field, a status or a
    code that its call does not declare."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._components = {
            "schemas": {
                name: _strict(one, whole=False) for name, one in document["components"]["schemas"].items()
            }
        }
        self._validators: dict[tuple[str, str, str, str], Draft202012Validator] = {}
        self._paths = sorted(
            (
                (re.compile(re.sub(r"\{\w+\}", "[^/]*", path)), path, methods)
                for path, methods in document["paths"].items()
            ),
            key=lambda one: one[1].count("{"),
        )

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]] | None:
        """The path's template and the operation; of an effect called `begin` that of `{effect_id}`."""
        method = "get" if method == "HEAD" else method.lower()
        for pattern, template, methods in self._paths:
            if pattern.fullmatch(path.partition("?")[0]) and method in methods:
                return template, methods[method]
        return None

    def check(self, method: str, path: str, status: int, headers: dict[str, str], raw: bytes) -> None:
        media = headers.get("content-type", "").partition(";")[0]
        place = f"{method} {path} {status} {media}"
        found = self.operation(method, path)
        if found is None:
            assert status in (404, 405) and _told(raw, media)["code"] in (
                "not_found",
                "method_not_allowed",
            ), place
            return
        template, operation = found
        if status == 404 and _told(raw, media).get("code") == "not_found":
            return  # a path that is no UTF-8
        response = operation["responses"].get(str(status))
        assert response is not None, f"{place}: a status that {template} does not declare: {raw[:200]!r}"
        response = self._resolved(response)
        for name in response.get("headers", ()):
            assert name.lower() in headers or name == "Trivet-Leader", f"{place}: no header {name}"
        if method == "HEAD":
            return
        content = response.get("content")
        if content is None:
            assert raw == b"", place
            return
        assert media in content, f"{place}: a media type that {template} does not declare"
        if media in ("application/json", "application/msgpack", "application/problem+json"):
            self._validate(
                (template, method, str(status), media), content[media]["schema"], _told(raw, media), place
            )

    def _validate(
        self, key: tuple[str, str, str, str], schema: dict[str, Any], told: Any, place: str
    ) -> None:
        if schema.get("type") == "string":
            return
        validator = self._validators.get(key)
        if validator is None:
            whole = {**_strict(schema, whole=True), "components": self._components}
            validator = self._validators[key] = Draft202012Validator(whole)
        wrong = [f"{one.json_path}: {one.message}" for one in validator.iter_errors(_shortened(told))]
        assert not wrong, f"{place}: not as described (http/shapes.py): {wrong[:5]}"

    def _resolved(self, response: dict[str, Any]) -> dict[str, Any]:
        ref = response.get("$ref")
        if ref is None:
            return response
        found: dict[str, Any] = self.document["components"]["responses"][ref.rpartition("/")[2]]
        return found


def _told(raw: bytes, media: str) -> Any:
    return msgspec.msgpack.decode(raw) if media == "application/msgpack" else json.loads(raw)


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(one) for one in value[:ITEMS_LOOKED_AT]]
    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    return value


def _strict(schema: Any, *, whole: bool) -> Any:
    """The same with no field that is not declared, where an object stands as a `whole`.

    A description leaves answers open for fields to come; here none may come unannounced. A struct that is one part of
    an `allOf` cannot say so, hence the rule stands where the object is used.
    """
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: _strict(one, whole=True) for name, one in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            made[key] = _strict(schema[key], whole=True)
    if "allOf" in schema:
        made["allOf"] = [_strict(one, whole=False) for one in schema["allOf"]]
    if "anyOf" in schema:
        made["anyOf"] = [_strict(one, whole=whole) for one in schema["anyOf"]]
    elif whole and not schema.keys().isdisjoint(("$ref", "allOf", "properties")):
        made["unevaluatedProperties"] = False
    return made
