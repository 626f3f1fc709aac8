"""The API description is true: what it says is right is taken, what it says is wrong is refused at that place.

That answers are as described is checked with every call of every test here (`described.Described`).
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.conformance.client import Api, Queue
from tests.conformance.examples import Examples
from trivet.http.routes import make_router

TAKING = [
    (route.method, route.template)
    for route in make_router().routes
    if route.operation is not None and route.operation.takes is not None
]


def prepared(api: Api, method: str, template: str) -> tuple[Any, Draft202012Validator, Examples]:
    document = api.described.document
    schema = document["paths"][template][method.lower()]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    examples = Examples(document["components"])
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return schema, validator, examples


def filled(api: Api, template: str) -> str:
    """A path of the template, of a queue that has a message to lease."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    if "{queue}" in template:
        Queue(api, name).send()
    return at(template, name)


def at(template: str, name: str) -> str:
    """A path: ids that name nothing, and one name for all the rest."""
    path = template.replace("messages/{id}", "messages/m000000000000").replace(
        "flows/{id}", "flows/f000000000000"
    )
    return re.sub(r"\{\w+\}", name, path)


@pytest.mark.parametrize(("method", "template"), TAKING)
def test_what_a_schema_allows_is_taken(api: Api, method: str, template: str) -> None:
    schema, validator, examples = prepared(api, method, template)
    fields = set()
    for example in examples.right(schema):
        if not validator.is_valid(example):
            continue
        fields |= example.keys()
        path = filled(api, template)
        answer = api.call(method, path, example)
        assert answer.status not in (400, 413, 500), (example, answer.raw)
        if method == "PUT":
            api.delete(path)  # a schedule would go on writing
    assert fields == examples.whole(schema)["properties"].keys(), "each field was tried"


@pytest.mark.parametrize(("method", "template"), TAKING)
def test_what_a_schema_forbids_is_refused_at_its_place(api: Api, method: str, template: str) -> None:
    schema, validator, examples = prepared(api, method, template)
    path = filled(api, template)
    count = 0
    for example, where in examples.wrong(schema):
        assert not validator.is_valid(example), example
        answer = api.call(method, path, example)
        assert answer.status in (400, 413), (example, answer.status, answer.raw)
        assert answer.told["field"] == where, (example, answer.told)
        count += 1
    assert count >= 3


def test_query_parameters_have_the_limits_they_say(api: Api, q: Queue) -> None:
    tried = 0
    for template, methods in api.described.document["paths"].items():
        for method, told in methods.items():
            path = at(template, q.name)
            for one in told.get("parameters", ()):
                schema = one["schema"]
                if one["in"] != "query" or "minimum" not in schema:
                    continue
                name = one["name"]
                for value in (schema["minimum"], schema["maximum"]):
                    assert api.call(method.upper(), f"{path}?{name}={value}").status != 400
                for value in (schema["minimum"] - 1, schema["maximum"] + 1, "x", ""):
                    api.call(method.upper(), f"{path}?{name}={value}").refused(
                        400, "invalid_argument", "/" + name
                    )
                tried += 1
    assert tried >= 6


def test_words_of_query_parameters(api: Api, q: Queue) -> None:
    for path, name, words in (
        (
            q.path + "/messages",
            "state",
            ("blocked", "delayed", "ready", "leased", "done", "dead", "cancelled"),
        ),
        (
            q.path + "/dead",
            "reason",
            ("max_attempts", "expired", "rejected", "dependency_failed", "queue_full"),
        ),
        (q.path, "consistency", ("leader", "local")),
    ):
        for word in words:
            api.get(f"{path}?{name}={word}").ok()
        api.get(f"{path}?{name}=none").refused(400, "invalid_argument", "/" + name)


# --- the pages ----------------------------------------------------------------------------------------


def test_the_description_is_json_whatever_the_browser_would_rather_have(api: Api) -> None:
    answer = api.get("/v1/openapi.json", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}).ok()
    assert answer.headers["content-type"] == "application/json"
    assert answer["openapi"].startswith("3.1")
    api.get("/v1/openapi.json", headers={"Accept": "text/html"}).refused(406, "not_acceptable")
    api.get("/v1/openapi.json?colour=red").refused(400, "invalid_argument", "/colour")


@pytest.mark.parametrize("path", ["/docs", "/"])
def test_pages_load_nothing_from_elsewhere(api: Api, path: str) -> None:
    answer = api.get(path, headers={"Accept": "text/html"}).ok()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    text = answer.raw.decode()
    assert text.startswith("<!doctype html>")
    links = re.findall(r"""(?:href|src)=["']?([^"' >]+)""", text)
    assert links and all(link.startswith(("/", "#", "data:")) for link in links), links
    assert not re.findall(r"url\(|@import|<link [^>]*stylesheet", text)


def test_the_page_shows_every_call_and_code(api: Api) -> None:
    text = api.get("/docs").ok().raw.decode()
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    targets = {link[1:] for link in re.findall(r'href="(#[^"]+)"', text)}
    assert targets <= set(ids), targets - set(ids)
    for path, methods in api.described.document["paths"].items():
        for told in methods.values():
            assert told["operationId"] in ids
        assert path in text


def test_the_root_leads_on(api: Api) -> None:
    text = api.get("/").ok().raw.decode()
    for link in re.findall(r'href="(/[^"]*)"', text):
        api.get(link.replace("&amp;", "&")).ok()


def test_checks_answer_whatever_is_accepted(api: Api) -> None:
    """Load balancers and scrapers send what they like."""
    for path, media in (
        ("/livez", "application/json"),
        ("/readyz", "application/json"),
        ("/metrics", "text/plain"),
    ):
        for accept in ("text/plain", "application/openmetrics-text;version=1.0.0", "image/*"):
            answer = api.get(path, headers={"Accept": accept}).ok()
            assert answer.headers["content-type"].partition(";")[0] == media


def test_pages_answer_head(api: Api) -> None:
    for path in ("/docs", "/", "/v1/openapi.json"):
        answer = api.call("HEAD", path)
        assert answer.status == 200 and answer.raw == b""
