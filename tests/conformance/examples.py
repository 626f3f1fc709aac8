"""Requests made from their schemas: right ones with each field alone and at each limit, and wrong ones, each wrong in
one place only, with the place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
WRONG_TYPES: dict[str, Any] = {
    "string": 7,
    "integer": "seven",
    "number": "seven",
    "boolean": "yes",
    "array": {},
    "object": [],
}


class Examples:
    def __init__(self, components: Schema) -> None:
        self._schemas: dict[str, Schema] = components["schemas"]

    def whole(self, schema: Schema) -> Schema:
        return self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def least(self, schema: Schema, number: int = 0) -> Any:
        """The smallest right value; another one for each `number`."""
        schema = self.whole(schema)
        if "anyOf" in schema and "properties" not in schema:
            return self.least(schema["anyOf"][0], number)
        for known in ("enum", "examples"):
            if known in schema:
                return schema[known][0]
        kind = schema.get("type")
        if kind == "object":
            choices = schema.get("anyOf", schema.get("oneOf"))
            one_of = choices[0]["required"] if choices else ()
            names = (*schema.get("required", ()), *one_of)
            return {
                name: self.least(schema["properties"][name], number if name.endswith("_id") else 0)
                for name in names
            }
        if kind == "array":
            return [self.least(schema["items"], at) for at in range(schema.get("minItems", 0))]
        if kind == "string":
            return "QUJD" if "contentEncoding" in schema else f"x{number}"
        if kind in ("integer", "number"):
            return schema.get("minimum", 0)
        return {"boolean": True, "null": None}.get(kind, {"any": ["value", 1, None]})

    def right(self, schema: Schema, name: str = "") -> Iterator[Any]:
        """Values at the limits, and with each field of an object alone."""
        schema = self.whole(schema)
        if "enum" in schema or "examples" in schema:
            yield from schema.get("enum", schema.get("examples"))
        elif "anyOf" in schema and "properties" not in schema:
            for one in schema["anyOf"]:
                yield from self.right(one, name)
        elif schema.get("type") == "object":
            yield from self._right_object(schema)
        elif schema.get("type") == "array":
            yield self.least(schema)
            for one in self.right(schema["items"]):
                yield [one]
            if "maxItems" in schema:
                yield [self.least(schema["items"], at) for at in range(schema["maxItems"])]
        elif name == "deliver_at_ms":
            yield from (0, round(time.time() * 1000) + 60_000)
        else:
            yield self.least(schema)
            if "maximum" in schema:
                yield schema["maximum"]
            if "maxLength" in schema:
                yield "x" * schema["maxLength"]

    def _right_object(self, schema: Schema) -> Iterator[Any]:
        least = self.least(schema)
        yield least
        others: dict[str, Any] = {}  # what goes with a field of another choice
        for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))[1:]:
            names = (*schema.get("required", ()), *choice["required"])
            whole = {name: self.least(schema["properties"][name]) for name in names}
            others |= dict.fromkeys(choice["required"], whole)
            yield whole
        for name, one in schema.get("properties", {}).items():
            base = others.get(name, least)
            needs = {
                other: self.least(schema["properties"][other])
                for other in schema.get("dependentRequired", {}).get(name, ())
            }
            for value in self.right(one, name):
                yield {**base, **needs, name: value}
        if schema.get("additionalProperties"):
            most = schema.get("maxProperties", 1)
            yield {f"x{at}": self.least(schema["additionalProperties"]) for at in range(most)}

    def wrong(self, schema: Schema, at: str = "", name: str = "") -> Iterator[tuple[Any, str]]:
        """Values that are wrong in one place, and its JSON pointer."""
        schema = self.whole(schema)
        if "anyOf" in schema and "properties" not in schema:
            yield from ((value, where) for value, where in self.wrong(schema["anyOf"][0], at))
            return
        if "enum" in schema:
            yield "none of them", at
        if schema.get("type") in WRONG_TYPES:
            yield WRONG_TYPES[schema["type"]], at
        if schema.get("type") == "object":
            yield from self._wrong_object(schema, at)
        elif schema.get("type") == "array":
            yield from (([value], where) for value, where in self.wrong(schema["items"], at + "/0"))
            if schema.get("minItems"):
                yield [], at
            if "maxItems" in schema:
                yield [self.least(schema["items"], number) for number in range(schema["maxItems"] + 1)], at
        if "minimum" in schema:
            yield schema["minimum"] - 1, at
        if "maximum" in schema:
            yield schema["maximum"] + 1, at
        if "maxLength" in schema:
            yield "x" * (schema["maxLength"] + 1), at
        if "minLength" in schema:
            yield "", at

    def _wrong_object(self, schema: Schema, at: str) -> Iterator[tuple[Any, str]]:
        least = self.least(schema)
        if "properties" in schema:
            yield {**least, "colour": "red"}, at + "/colour"
        for name in schema.get("required", ()):
            yield {key: value for key, value in least.items() if key != name}, f"{at}/{name}"
        for name, one in schema.get("properties", {}).items():
            yield from (
                ({**least, name: value}, where) for value, where in self.wrong(one, f"{at}/{name}", name)
            )
        if "maxProperties" in schema:
            inner = self.least(schema["additionalProperties"])
            yield {f"x{number}": inner for number in range(schema["maxProperties"] + 1)}, at
