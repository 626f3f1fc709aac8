"""Every route says what it takes and gives, in words: the API description is made of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from trivet.errors import CODES
from trivet.http import words
from trivet.http.openapi import document
from trivet.http.routes import make_router
from trivet.http.routing import Route

ROUTES = make_router().routes
DOCUMENT = document(make_router())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def named(route: Route) -> str:
    return f"{route.method} {route.template}"


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_every_route_is_described(route: Route) -> None:
    told = route.operation
    assert told is not None, "put @operation(summary, takes=…, gives=…) at its handler (http/describing.py)"
    assert 3 <= len(told.summary) <= 100 and not told.summary.endswith(".")
    assert told.module in words.SECTIONS, "say in http/words.py what this module's calls are about"
    assert told.gives or "not_implemented" in told.problems, "what does it answer?"
    assert set(told.problems) <= CODES.keys()
    if told.takes is not None:
        assert route.method != "GET"
        assert "request_id" in told.takes.__struct_fields__, "every write takes a request id (R12)"
    for before, name in re.findall(r"([^/{}]+)/\{(\w+)\}", route.template):
        assert f"{before}/{{{name}}}" in words.PATHS


def test_every_field_is_explained() -> None:
    silent = [
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        for field, told in schema.get("properties", {}).items()
        if "description" not in told
    ]
    assert not silent, f"say in http/words.py what they mean: {silent}"


def test_no_word_is_left_over() -> None:
    told = {field for schema in SCHEMAS.values() for field in schema.get("properties", ())}
    told |= {f"{name}.{field}" for name, schema in SCHEMAS.items() for field in schema.get("properties", ())}
    assert not words.FIELDS.keys() - told


def test_examples_are_what_the_schemas_say() -> None:
    found = 0
    for path, methods in DOCUMENT["paths"].items():
        for method, told in methods.items():
            media = told.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in media:
                found += 1
                whole = {**media["schema"], "components": DOCUMENT["components"]}
                wrong = [one.message for one in Draft202012Validator(whole).iter_errors(media["example"])]
                assert not wrong, f"{method} {path}: {wrong}"
            elif "requestBody" in told:
                schema = SCHEMAS[media["schema"]["$ref"].rpartition("/")[2]]
                assert not schema.get("required"), f"{method} {path} needs an example: it has required fields"
    assert found > 10
