"""The API description: a valid OpenAPI 3.1 document that says what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.conformance.described import Described
from trivet import limits
from trivet.errors import CODES
from trivet.http.openapi import document
from trivet.http.routes import make_router
from trivet.machine.commands import Backoff, Draft, Extras, QueueConfig

DOCUMENT = document(make_router())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, told in methods.items():
            yield method, path, told


def every(value: Any, key: str) -> Iterator[Any]:
    """All values under `key`, wherever."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from every(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from every(inner, key)


def test_it_holds_every_route_and_nothing_else() -> None:
    routes = {(route.method.lower(), route.template) for route in make_router().routes}
    assert {(method, path) for method, path, _ in operations()} == routes


def test_it_is_the_same_each_time() -> None:
    assert document(make_router()) == DOCUMENT
    assert list(document(make_router())["paths"]) == list(DOCUMENT["paths"])


def test_its_skeleton() -> None:
    """The required parts of OpenAPI 3.1, which the JSON schema below does not see."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert DOCUMENT.keys() <= {"openapi", "info", "servers", "tags", "paths", "components"}
    assert DOCUMENT["components"].keys() <= {"schemas", "headers", "responses"}
    tags = [tag["name"] for tag in DOCUMENT["tags"]]
    assert len(set(tags)) == len(tags)
    names = [told["operationId"] for _, _, told in operations()]
    assert len(set(names)) == len(names), "operation ids are unique"
    for method, path, told in operations():
        assert path.startswith("/")
        assert method in ("get", "put", "post", "delete", "patch")
        assert set(told["tags"]) <= set(tags)
        assert told["responses"], path
        for status, response in told["responses"].items():
            assert re.fullmatch("[1-5][0-9][0-9]", status)
            assert "$ref" in response or response["description"]
        if "requestBody" in told:
            assert method != "get" and told["requestBody"]["content"]


def test_path_parameters_are_those_of_the_path() -> None:
    for _, path, told in operations():
        given = [(one["in"], one["name"]) for one in told.get("parameters", ())]
        assert len(set(given)) == len(given)
        assert {name for where, name in given if where == "path"} == set(re.findall(r"\{(\w+)\}", path))
        for one in told.get("parameters", ()):
            assert one["in"] in ("path", "query", "header") and "schema" in one and one["description"]
            assert one["in"] != "path" or one["required"] is True


def test_references_lead_somewhere() -> None:
    for ref in every(DOCUMENT, "$ref"):
        node: Any = DOCUMENT
        assert ref.startswith("#/")
        for step in ref[2:].split("/"):
            node = node[step]
    used = {ref.rpartition("/")[2] for ref in every(DOCUMENT, "$ref") if "/schemas/" in ref}
    assert used == set(SCHEMAS), "no schema is left over"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_are_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", sorted(name for name in SCHEMAS if name.endswith("In")))
def test_requests_take_no_unknown_field(name: str) -> None:
    assert SCHEMAS[name]["additionalProperties"] is False


def test_problems_are_known_codes_at_their_status() -> None:
    for _, _, told in operations():
        for status, response in told["responses"].items():
            if "$ref" in response and not response["$ref"].endswith("/Redirect"):
                for code in response["$ref"].rpartition("/")[2].split("."):
                    assert CODES[code].status == int(status)


# --- limits and defaults ------------------------------------------------------------------------------

INT64 = limits.INT64_MAX
LIMITS: dict[str, dict[str, int]] = {
    "QueueIn.lease_ms": {"minimum": limits.LEASE_MS_MIN, "maximum": limits.LEASE_MS_MAX},
    "QueueIn.max_attempts": {"minimum": 0, "maximum": limits.MAX_ATTEMPTS_MAX},
    "QueueIn.dead_retention_ms": {"minimum": 0, "maximum": limits.RETENTION_MS_MAX},
    "QueueIn.max_dead": {"minimum": 0, "maximum": limits.MAX_DEAD_MAX},
    "QueueIn.max_leased_per_group": {"minimum": 1, "maximum": INT64},
    "BackoffIn.base_ms": {"minimum": 0, "maximum": limits.DELAY_MS_MAX},
    "BackoffIn.factor": {"minimum": 1, "maximum": limits.BACKOFF_FACTOR_MAX},
    "BackoffIn.delays_ms": {"maxItems": limits.BACKOFF_DELAYS_MAX},
    "MessageIn.priority": {"minimum": limits.PRIORITY_MIN, "maximum": limits.PRIORITY_MAX},
    "MessageIn.delay_ms": {"minimum": 0, "maximum": limits.DELAY_MS_MAX},
    "MessageIn.ttl_ms": {"minimum": 1, "maximum": limits.TTL_MS_MAX},
    "MessageIn.group": {"minLength": 1, "maxLength": limits.ID_BYTES_MAX},
    "MessageIn.content_type": {"minLength": 1, "maxLength": limits.CONTENT_TYPE_BYTES_MAX},
    "MessageIn.headers": {"maxProperties": limits.HEADERS_MAX},
    "MessageIn.depends_on": {"maxItems": limits.DEPENDS_ON_MAX},
    "EnqueueIn.messages": {"minItems": 1, "maxItems": limits.ENQUEUE_BATCH_MAX},
    "EnqueueIn.request_id": {"minLength": 1, "maxLength": limits.ID_BYTES_MAX},
    "LeaseIn.max_messages": {"minimum": 1, "maximum": limits.LEASE_BATCH_MAX},
    "LeaseIn.wait_ms": {"minimum": 0, "maximum": limits.WAIT_MS_MAX},
    "LeaseIn.max_bytes": {"minimum": 1, "maximum": limits.ANSWER_BYTES_MAX},
    "LeaseManyIn.queues": {"minItems": 1, "maxItems": limits.LEASE_QUEUES_MAX},
    "AckIn.acks": {"minItems": 1, "maxItems": limits.SETTLE_BATCH_MAX},
    "AckIn.enqueue": {"maxItems": limits.ENQUEUE_BATCH_MAX},
    "AckItemIn.effects": {"maxItems": limits.ACK_EFFECTS_MAX},
    "NackIn.nacks": {"minItems": 1, "maxItems": limits.SETTLE_BATCH_MAX},
    "ExtendIn.extensions": {"minItems": 1, "maxItems": limits.SETTLE_BATCH_MAX},
    "ReleaseIn.leases": {"minItems": 1, "maxItems": limits.SETTLE_BATCH_MAX},
    "ProgressIn.note": {"maxLength": limits.NOTE_BYTES_MAX},
    "RedriveIn.ids": {"maxItems": limits.REDRIVE_BATCH_MAX},
    "EffectBeginIn.ttl_ms": {"minimum": 1, "maximum": limits.EFFECT_TTL_MS_MAX},
}


@pytest.mark.parametrize("place", LIMITS)
def test_limits_are_those_of_the_code(place: str) -> None:
    name, _, field = place.partition(".")
    told = SCHEMAS[name]["properties"][field]
    assert {key: told[key] for key in LIMITS[place]} == LIMITS[place]


def test_defaults_are_those_of_the_machine() -> None:
    def default(place: str) -> Any:
        name, _, field = place.partition(".")
        return SCHEMAS[name]["properties"][field]["default"]

    config = QueueConfig()
    for field in config.__struct_fields__:
        if field != "backoff":
            assert default(f"QueueIn.{field}") == getattr(config, field)
    backoff = Backoff()
    for field in ("type", "base_ms", "max_ms"):
        assert default(f"BackoffIn.{field}") == getattr(backoff, field)
    assert default("BackoffIn.factor") * 1000 == backoff.factor_milli
    assert default("BackoffIn.jitter") * 1000 == backoff.jitter_milli
    assert default("BackoffIn.delays_ms") == []
    for name in ("MessageIn", "EnqueueIn", "MessageToIn"):
        assert default(f"{name}.priority") == Draft().priority
        assert default(f"{name}.delay_ms") == Draft().delay_ms
        assert default(f"{name}.on_dependency_failure") == Extras().on_dependency_failure
    assert default("EffectBeginIn.ttl_ms") == limits.EFFECT_TTL_MS_DEFAULT
    assert default("LeaseIn.max_messages") == 1
    patched = SCHEMAS["QueuePatchIn"]["properties"]
    assert not any("default" in told for told in patched.values()), (
        "a patch leaves alone what it does not name"
    )


# --- the check that the conformance tests make of every answer ------------------------------------------

GOOD = {"messages": [{"id": "m1", "state": "ready", "duplicate": False}], "index": 7, "seq": 0, "term": 1}
TOLD = dict.fromkeys(("trivet-node", "trivet-role", "trivet-term", "trivet-index", "trivet-request-id"), "1")


def check(told: Any, status: int = 201, media: str = "application/json", headers: Any = TOLD) -> None:
    raw = json.dumps(told).encode()
    Described(DOCUMENT).check(
        "POST", "/v1/queues/q/messages", status, {**headers, "content-type": media}, raw
    )


def test_a_good_answer_passes() -> None:
    check(GOOD)
    check({**GOOD, "repeated": True})


@pytest.mark.parametrize(
    "wrong",
    [
        {**GOOD, "colour": "red"},
        {**GOOD, "repeated": False},
        {**GOOD, "index": "7"},
        {"messages": GOOD["messages"], "index": 7, "term": 1},
        {**GOOD, "messages": [{"id": "m1", "state": "ready"}]},
        {**GOOD, "messages": [{"id": "m1", "state": "ready", "duplicate": False, "colour": "red"}]},
        {**GOOD, "messages": [{"id": "m1", "state": "red", "duplicate": False}]},
    ],
)
def test_an_answer_with_an_unknown_or_missing_field_does_not(wrong: Any) -> None:
    with pytest.raises(AssertionError, match="not as described"):
        check(wrong)


def test_nor_one_with_another_status_code_media_type_or_without_its_headers() -> None:
    problem = {
        "type": "t",
        "title": "t",
        "status": 409,
        "detail": "d",
        "code": "queue_paused",
        "retry": "later",
    }
    check(problem, 409, "application/problem+json")
    for wrong in (
        {**problem, "code": "effect_held"},
        {**problem, "colour": "red"},
        {**problem, "retry": "soon"},
    ):
        with pytest.raises(AssertionError, match="not as described"):
            check(wrong, 409, "application/problem+json")
    with pytest.raises(AssertionError, match="does not declare"):
        check(GOOD, 202)
    with pytest.raises(AssertionError, match="does not declare"):
        check(GOOD, 201, "text/plain")
    with pytest.raises(AssertionError, match="no header"):
        check(GOOD, headers={})
