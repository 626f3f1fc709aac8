"""api.md, Manners. One test for each sentence that a client can see."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.conformance.client import JSON, MSGPACK, Answer, Api, Queue


def test_json_is_the_default(api: Api, q: Queue) -> None:
    assert api.get(q.path).ok().headers["content-type"] == JSON
    assert api.post(q.path + "/messages", data=b'{"body": 1}').ok(201).headers["content-type"] == JSON


def test_messagepack_has_the_same_fields(api: Api, q: Queue) -> None:
    sent = api.packed("POST", q.path + "/messages", {"body": {"a": [1, 2.5, None, "ü"]}, "priority": 3}).ok(
        201
    )
    assert sent.headers["content-type"] == MSGPACK
    assert set(sent.told) == {"messages", "index", "seq", "term"}
    leased = api.packed("POST", q.path + "/lease", {"consumer": "c"}).ok()["messages"][0]
    assert leased["body"] == {"a": [1, 2.5, None, "ü"]}
    assert leased["priority"] == 3


def test_codecs_mix(api: Api, q: Queue) -> None:
    api.packed("POST", q.path + "/messages", {"body": {"a": 1}}).ok(201)
    assert q.lease()[0]["body"] == {"a": 1}
    answer = api.post(q.path + "/messages", {"body": 2}, headers={"Accept": MSGPACK}).ok(201)
    assert answer.headers["content-type"] == MSGPACK


def test_binary_bodies(api: Api, q: Queue) -> None:
    api.packed("POST", q.path + "/messages", {"body": b"\x00\xff", "content_type": "image/png"}).ok(201)
    in_json = q.lease(lease_ms=1, consumer="j")[0]
    assert in_json["body_base64"] == "AP8="
    assert in_json["content_type"] == "image/png"
    assert "body" not in in_json
    q.send_all([{"body_base64": "AP8="}])
    again = api.packed("POST", q.path + "/lease", {"consumer": "c", "wait_ms": 2000}).ok()["messages"][0]
    assert again["body"] == b"\x00\xff"


@pytest.mark.parametrize("where", ["", "messages"])
def test_unknown_fields_are_refused(api: Api, q: Queue, where: str) -> None:
    wrong = {"body": 1, "colour": "red"}
    sent = {"messages": [{"body": 0}, wrong]} if where else wrong
    field = "/messages/1/colour" if where else "/colour"
    api.post(q.path + "/messages", sent).refused(400, "invalid_argument", field)
    assert q.state()["ready"] == 0


def test_null_is_not_absent_and_not_zero(api: Api, q: Queue) -> None:
    api.patch(q.path, {"ttl_ms": 5000}).ok()
    assert api.patch(q.path, {}).ok()["ttl_ms"] == 5000
    assert api.patch(q.path, {"ttl_ms": None}).ok()["ttl_ms"] is None
    api.patch(q.path, {"lease_ms": None}).refused(400, "invalid_argument", "/lease_ms")
    assert api.patch(q.path, {"max_attempts": 0}).ok()["max_attempts"] == 0


def test_every_write_tells_its_place(api: Api, q: Queue) -> None:
    sent = api.post(q.path + "/messages", {"body": 1}).ok(201)
    token = q.take()["lease_token"]
    writes = [
        sent,
        api.post("/v1/extend", {"extensions": [{"lease_token": token}]}),
        api.post("/v1/release", {"leases": [{"lease_token": token}]}),
        api.post("/v1/nack", {"nacks": [{"lease_token": "x"}]}),
        api.post("/v1/ack", {"acks": [{"lease_token": "x"}]}),
        api.patch(f"/v1/messages/{sent['messages'][0]['id']}", {"priority": 1}),
        api.delete(f"/v1/messages/{sent['messages'][0]['id']}"),
        api.post(q.path + "/pause"),
        api.post(q.path + "/resume"),
        api.post(q.path + "/purge"),
        api.post(q.path + "/dead/redrive"),
        api.delete(q.path + "/dead"),
        api.put(q.path, {}),
        api.patch(q.path, {}),
        api.post(q.path + "/lease", {"consumer": "c"}),
        api.delete(q.path),
    ]
    places = []
    for answer in writes:
        assert answer.status in (200, 201), answer.raw
        assert all(isinstance(answer[field], int) for field in ("index", "seq", "term"))
        places.append((answer["index"], answer["seq"]))
    assert places == sorted(places)


def test_every_read_tells_what_it_saw(api: Api, q: Queue) -> None:
    message = q.send()
    last = api.post(q.path + "/messages", {"body": 1}).ok(201)["index"]
    for path in (q.path, "/v1/queues", q.path + "/messages", q.path + "/dead", f"/v1/messages/{message}"):
        assert api.get(path).ok()["as_of"] >= last


def test_headers_of_every_response(api: Api, q: Queue) -> None:
    for answer in (
        api.get(q.path),
        api.get("/v1/queues/no-such-queue"),
        api.get("/nowhere"),
        api.post(q.path + "/messages", data=b"{"),
        api.get("/livez"),
    ):
        assert answer.headers["trivet-node"]
        assert answer.headers["trivet-role"] in ("leader", "follower")
        assert answer.headers["trivet-leader"].startswith("http://")
        assert int(answer.headers["trivet-term"]) >= 1
        assert int(answer.headers["trivet-index"]) >= 1
        assert answer.headers["trivet-request-id"]


def test_request_id_is_echoed_or_made(api: Api, q: Queue) -> None:
    assert api.get(q.path, headers={"Trivet-Request-Id": "mine"}).headers["trivet-request-id"] == "mine"
    sent = api.post(q.path + "/messages", {"body": 1}, headers={"Idempotency-Key": "k-" + q.name})
    assert sent.headers["trivet-request-id"] == "k-" + q.name
    in_body = api.post(q.path + "/messages", {"body": 1, "request_id": "b-" + q.name})
    assert in_body.headers["trivet-request-id"] == "b-" + q.name
    first, second = (api.get(q.path).headers["trivet-request-id"] for _ in range(2))
    assert first != second


def test_errors_are_problem_details(api: Api) -> None:
    told = api.get("/v1/queues/no-such-queue").refused(404, "queue_not_found").told
    assert told["retry"] == "never"
    assert (
        isinstance(told["title"], str) and isinstance(told["detail"], str) and isinstance(told["type"], str)
    )


def test_errors_are_json_whatever_was_accepted(api: Api) -> None:
    api.get("/v1/queues/no-such-queue", headers={"Accept": MSGPACK}).refused(404, "queue_not_found")


def test_a_wrong_method_names_the_right_ones(api: Api, q: Queue) -> None:
    answer = api.post(q.path, {}).refused(405, "method_not_allowed")
    assert {"GET", "PUT", "PATCH", "DELETE"} <= set(answer.headers["allow"].split(", "))


def test_unknown_paths_are_problems_too(api: Api) -> None:
    for path in ("/v2/queues", "/v1/queues/a/b/c", "/v1", "/favicon.ico"):
        api.get(path).refused(404, "not_found")


def test_what_comes_later_says_so(api: Api) -> None:
    for method, path in (("POST", "/v1/cluster/members"), ("DELETE", "/v1/cluster/members/n3")):
        api.call(method, path).refused(501, "not_implemented")


def test_unsupported_content_type(api: Api, q: Queue) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        api.post(q.path + "/messages", data=b"{}", headers={"Content-Type": media}).refused(
            415, "unsupported_media_type"
        )
    sent = api.post(
        q.path + "/messages", data=b"{}", headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert sent.status == 201


def test_unacceptable_accept(api: Api, q: Queue) -> None:
    for accept in ("text/html", "application/json;q=0", "image/*"):
        api.get(q.path, headers={"Accept": accept}).refused(406, "not_acceptable")
    for accept, media in (
        ("*/*", JSON),
        ("text/html, */*;q=0.1", JSON),
        ("application/*", JSON),
        ("application/json;q=0.1, application/msgpack", MSGPACK),
        ("application/msgpack;q=0.5, application/json;q=0.9", JSON),
    ):
        assert api.get(q.path, headers={"Accept": accept}).ok().headers["content-type"] == media


def test_unknown_query_parameters_are_refused(api: Api, q: Queue) -> None:
    api.get(q.path + "?colour=red").refused(400, "invalid_argument", "/colour")
    api.get("/v1/queues?limit=1&limit=2").refused(400, "invalid_argument", "/limit")


# --- request ids (R12) ------------------------------------------------------------------------------


def test_a_repeat_gives_the_stored_reply(api: Api, q: Queue) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = api.post(q.path + "/messages", {"body": 1}, headers=key).ok(201)
    again = api.post(q.path + "/messages", {"body": 1}, headers=key).ok(201)
    assert "repeated" not in first.told
    assert again.told == {**first.told, "repeated": True}
    assert q.state()["ready"] == 1


def test_header_and_body_name_the_same_request(api: Api, q: Queue) -> None:
    key = uuid.uuid4().hex
    first = api.post(q.path + "/messages", {"body": 1}, headers={"Idempotency-Key": key}).ok(201)
    again = api.post(q.path + "/messages", {"request_id": key, "body": 1}).ok(201)
    assert again["repeated"] is True
    assert again["messages"] == first["messages"]
    both = {"body": 1, "request_id": key}
    assert api.post(q.path + "/messages", both, headers={"Idempotency-Key": key}).ok(201)["repeated"] is True


def test_two_different_request_ids_are_refused(api: Api, q: Queue) -> None:
    api.post(q.path + "/messages", {"request_id": "a"}, headers={"Idempotency-Key": "b"}).refused(
        400, "invalid_argument", "/request_id"
    )


def test_codec_and_whitespace_are_no_other_content(api: Api, q: Queue) -> None:
    key = uuid.uuid4().hex
    api.post(q.path + "/messages", {"body": {"a": 1}, "request_id": key}).ok(201)
    spaced = b'{ "body" : {"a" :  1},\n"request_id":"%s"}' % key.encode()
    assert api.post(q.path + "/messages", data=spaced).ok(201)["repeated"] is True
    packed = api.packed("POST", q.path + "/messages", {"body": {"a": 1}, "request_id": key}).ok(201)
    assert packed["repeated"] is True


def test_the_same_id_with_other_content_conflicts(api: Api, q: Queue) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    api.post(q.path + "/messages", {"body": 1}, headers=key).ok(201)
    api.post(q.path + "/messages", {"body": 2}, headers=key).refused(409, "idempotency_conflict")
    api.post(q.path + "/pause", headers=key).refused(409, "idempotency_conflict")
    assert q.state()["ready"] == 1


def test_refusals_are_not_remembered(api: Api, q: Queue) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    q.api.post(q.path + "/pause", {"enqueue": True}).ok()
    api.post(q.path + "/messages", {"body": 1}, headers=key).refused(409, "queue_paused")
    api.post(q.path + "/resume").ok()
    assert "repeated" not in api.post(q.path + "/messages", {"body": 1}, headers=key).ok(201).told


def test_a_repeat_comes_before_every_refusal(api: Api, q: Queue) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = api.post(q.path + "/messages", {"body": 1, "idempotency_key": "k"}, headers=key).ok(201)
    api.post(q.path + "/pause", {"enqueue": True}).ok()
    api.patch(q.path, {"max_messages": 1}).ok()
    again = api.post(q.path + "/messages", {"body": 1, "idempotency_key": "k"}, headers=key).ok(201)
    assert again["messages"] == first["messages"]
    by_key = api.post(q.path + "/messages", {"body": 1, "idempotency_key": "k"}).ok(201)
    assert by_key["messages"][0]["duplicate"] is True
    api.delete(q.path).ok()
    assert (
        api.post(q.path + "/messages", {"body": 1, "idempotency_key": "k"}, headers=key).ok(201)["repeated"]
        is True
    )


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_every_method_takes_a_request_id(api: Api, q: Queue, method: str) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = None if method == "DELETE" else {"lease_ms": 1234}
    first = api.call(method, q.path, body, headers=key).ok()
    again = api.call(method, q.path, body, headers=key).ok()
    assert again["repeated"] is True
    assert (again["index"], again["seq"]) == (first["index"], first["seq"])


def test_request_ids_have_256_bytes(api: Api, q: Queue) -> None:
    api.post(q.path + "/messages", {"request_id": uuid.uuid4().hex + "x" * 224}).ok(201)
    for wrong in ("", "x" * 257, "ü" * 129):
        api.post(q.path + "/messages", {"request_id": wrong}).refused(
            400, "invalid_argument", "/request_id", 256
        )
    api.post(q.path + "/messages", {}, headers={"Idempotency-Key": "x" * 257}).refused(
        400, "invalid_argument"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_null_for_an_optional_field_means_that_it_is_not_given(api: Api, q: Queue, packed: bool) -> None:
    """Many clients send null for what they do not set; null is not zero, and inside a body it is a value."""

    def post(path: str, value: dict[str, Any]) -> Answer:
        return api.packed("POST", path, value) if packed else api.post(path, value)

    given = {"body": {"keep": None}, "ttl_ms": None, "group": None, "headers": None, "idempotency_key": None}
    post(q.path + "/messages", {"messages": [given, {"body": None, "delay_ms": None}]}).ok(201)
    ask = {"consumer": "c", "max_messages": 2, "lease_ms": None, "request_id": None}
    first, second = post(q.path + "/lease", ask).ok()["messages"]
    assert (first["body"], second["body"]) == ({"keep": None}, None)
    nack = {"lease_token": first["lease_token"], "delay_ms": None, "error": None}
    assert post("/v1/nack", {"nacks": [nack]}).ok()["results"][0]["status"] == "nacked"
    post(q.path + "/lease", {"consumer": None}).refused(400, "invalid_argument", "/consumer")
    post(q.path + "/messages", {"messages": None}).refused(400, "invalid_argument", "/messages")
