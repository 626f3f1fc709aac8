"""api.md, "Manners"; rules R12, R30."""

from __future__ import annotations

import json
import time

import msgpack
import pytest

from tests.acceptance.contract.helper import JSON, MSGPACK, Api, Cluster


def test_json_is_the_default_without_any_header(api: Api, name: str) -> None:
    reply = api.post(f"/v1/queues/{name}/messages", {"body": {"a": [1, None, "ü"]}})
    assert reply.type == JSON
    assert reply.status == 201
    number = reply["messages"][0]["id"]
    assert isinstance(number, str) and number
    assert api.message(number)["body"] == {"a": [1, None, "ü"]}


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*", JSON, f"{MSGPACK};q=0.5, {JSON}", f"text/html, {JSON};q=0.1"]
)
def test_accept_json(api: Api, accept: str) -> None:
    assert api.get("/v1/queues", headers={"Accept": accept}).type == JSON


@pytest.mark.parametrize("accept", [MSGPACK, f"{MSGPACK}, {JSON};q=0.5"])
def test_accept_msgpack(api: Api, accept: str) -> None:
    reply = api.get("/v1/queues", headers={"Accept": accept})
    assert reply.type == MSGPACK
    assert isinstance(msgpack.unpackb(reply.raw)["queues"], list)


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/*"])
def test_an_unacceptable_accept_is_406(api: Api, accept: str) -> None:
    api.get("/v1/queues", headers={"Accept": accept}).refused(406, "not_acceptable")


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded"])
def test_an_unsupported_content_type_is_415(api: Api, name: str, kind: str) -> None:
    reply = api.post(f"/v1/queues/{name}/messages", raw=b'{"body": 1}', headers={"Content-Type": kind})
    reply.refused(415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
)
def test_content_type_parameters_and_case(api: Api, name: str, kind: str) -> None:
    api.post(f"/v1/queues/{name}/messages", raw=b'{"body": 1}', headers={"Content-Type": kind}).ok(201)


def test_errors_are_problem_json_whatever_was_accepted(api: Api) -> None:
    reply = api.get("/v1/queues/nowhere", headers={"Accept": MSGPACK})
    assert reply.type == "application/problem+json"
    reply.refused(404, "queue_not_found")


def test_messagepack_both_ways_carries_the_same_fields(api: Api, name: str) -> None:
    both = {"Content-Type": MSGPACK, "Accept": MSGPACK}
    sent = {"messages": [{"body": b"\x00\xff", "content_type": "image/png"}, {"body": {"a": 1.5}}]}
    answer = api.post(f"/v1/queues/{name}/messages", sent, headers=both)
    assert answer.type == MSGPACK
    numbers = [item["id"] for item in answer.ok(201)["messages"]]
    leased = api.post(f"/v1/queues/{name}/lease", {"consumer": "c", "max_messages": 2}, headers=both).ok()
    assert [m["body"] for m in leased["messages"]] == [b"\x00\xff", {"a": 1.5}]
    in_json = [api.message(number) for number in numbers]
    assert in_json[0]["body_base64"] == "AP8="
    assert in_json[0]["content_type"] == "image/png"
    assert "body" not in in_json[0]
    assert in_json[1]["body"] == {"a": 1.5}
    in_msgpack = api.get(f"/v1/messages/{numbers[1]}", headers=both).ok()
    del in_msgpack["as_of"], in_json[1]["as_of"]
    assert in_msgpack == in_json[1]


def test_unknown_fields_are_refused_and_pointed_at(api: Api, name: str) -> None:
    api.queue(name)
    api.post(f"/v1/queues/{name}/messages", {"bodi": 1}).refused(400, "invalid_argument", "/bodi")
    several = {"messages": [{"body": 1}, {"body": 1, "x": 2}]}
    api.post(f"/v1/queues/{name}/messages", several).refused(400, "invalid_argument", "/messages/1/x")
    api.put(f"/v1/queues/{name}", {"leese_ms": 1}).refused(400, "invalid_argument", "/leese_ms")
    odd = {"backoff": {"typ": "fixed"}}
    api.put(f"/v1/queues/{name}", odd).refused(400, "invalid_argument", "/backoff/typ")
    api.patch(f"/v1/queues/{name}", odd).refused(400, "invalid_argument", "/backoff/typ")
    api.post(f"/v1/queues/{name}/lease", {"consumer": "c", "n": 1}).refused(400, "invalid_argument", "/n")
    api.post("/v1/ack", {"acks": [{"lease_token": "x", "y": 1}]}).refused(
        400, "invalid_argument", "/acks/0/y"
    )
    slash = api.post(f"/v1/queues/{name}/messages", {"a/b~c": 1}).refused(400, "invalid_argument")
    assert slash["field"] == "/a~1b~0c"
    assert api.counts(name)["ready"] == 0


def test_unknown_query_parameters_are_refused(api: Api) -> None:
    # "Unknown fields are refused (400)": a misspelt filter that is ignored would answer the wrong question
    api.get("/v1/queues?limti=1").refused(400, "invalid_argument")


def test_absent_and_null_are_different_from_zero(api: Api, name: str) -> None:
    api.queue(name, max_attempts=0, ttl_ms=None)
    answer = api.get(f"/v1/queues/{name}").ok()
    assert answer["max_attempts"] == 0 and answer["ttl_ms"] is None and answer["retention_ms"] == 0
    number = api.enqueue(name)
    message = api.message(number)
    assert message["body"] is None, "an absent body is null"
    api.put(f"/v1/queues/{name}", {"ttl_ms": 0}).refused(400, "invalid_argument", "/ttl_ms")


def test_a_wrong_method_is_405_with_allow(api: Api, name: str) -> None:
    for method, path, allowed in [
        ("POST", "/v1/queues", {"GET"}),
        ("POST", f"/v1/queues/{name}", {"GET", "PUT", "PATCH", "DELETE"}),
        ("GET", f"/v1/queues/{name}/pause", {"POST"}),
        ("GET", f"/v1/queues/{name}/lease", {"POST"}),
        ("PUT", f"/v1/queues/{name}/messages", {"GET", "POST"}),
        ("GET", "/v1/lease", {"POST"}),
        ("GET", "/v1/ack", {"POST"}),
        ("DELETE", "/v1/nack", {"POST"}),
        ("PUT", "/v1/extend", {"POST"}),
        ("PATCH", "/v1/release", {"POST"}),
        ("POST", "/v1/messages/m1", {"GET", "PATCH", "DELETE"}),
        ("GET", "/v1/messages/m1/progress", {"POST"}),
        ("POST", f"/v1/queues/{name}/dead", {"GET", "DELETE"}),
        ("GET", f"/v1/queues/{name}/dead/redrive", {"POST"}),
        ("PUT", "/v1/effects/e", {"GET"}),
        ("POST", "/v1/cluster", {"GET"}),
        ("GET", "/v1/cluster/transfer", {"POST"}),
        ("POST", "/v1/cluster/digest", {"GET"}),
        ("POST", "/leader", {"GET", "HEAD"}),
        ("POST", "/livez", {"GET"}),
        ("DELETE", "/metrics", {"GET"}),
    ]:
        reply = api.call(method, path)
        assert reply.status == 405, reply
        assert reply.type == "application/problem+json"
        allow = {item.strip() for item in reply.headers["Allow"].split(",")}
        assert allowed <= allow, (reply, allow)
        assert method not in allow
        reply.refused(405, "method_not_allowed")


def test_an_unknown_path_is_404(api: Api) -> None:
    reply = api.get("/v1/nothing/here")
    assert reply.refused(404, "not_found")["retry"] == "never"
    assert api.get("/nothing").status == 404


def test_the_headers_of_every_answer(cluster: Cluster) -> None:
    leader, (one, _) = cluster.leader(), cluster.followers()
    for node, role in ((leader, "leader"), (one, "follower")):
        reply = node.get("/v1/cluster")
        assert reply.headers["Trivet-Role"] == role
        assert reply.headers["Trivet-Node"] == node.name
        assert reply.headers["Trivet-Leader"] == leader.url
        assert int(reply.headers["Trivet-Index"]) <= reply["applied_index"]


@pytest.mark.parametrize("status", [200, 307, 404, 405])
def test_the_request_id_is_echoed_or_made(cluster: Cluster, status: int) -> None:
    node = cluster.followers()[0] if status == 307 else cluster.leader()
    method, path = {
        200: ("GET", "/v1/queues"),
        307: ("GET", "/v1/queues"),
        404: ("GET", "/v1/none"),
        405: ("GET", "/v1/ack"),
    }[status]
    mine = node.call(method, path, headers={"Trivet-Request-Id": "mine-1"})
    assert mine.status == status and mine.headers["Trivet-Request-Id"] == "mine-1"
    made = {node.call(method, path).headers["Trivet-Request-Id"] for _ in range(3)}
    assert len(made) == 3


def test_every_write_says_where_it_took_effect(api: Api, name: str) -> None:
    places = []
    places.append(api.put(f"/v1/queues/{name}", {}).ok(201))
    places.append(api.patch(f"/v1/queues/{name}", {"lease_ms": 60_000}).ok())
    enqueued = api.post(f"/v1/queues/{name}/messages", {"messages": [{"body": n} for n in range(5)]}).ok(201)
    places.append(enqueued)
    leases = api.post(f"/v1/queues/{name}/lease", {"consumer": "c", "max_messages": 5}).ok()
    places.append(leases)
    tokens = [m["lease_token"] for m in leases["messages"]]
    places.append(api.post("/v1/extend", {"extensions": [{"lease_token": tokens[0], "lease_ms": 9000}]}).ok())
    places.append(
        api.post(
            f"/v1/messages/{enqueued['messages'][0]['id']}/progress", {"lease_token": tokens[0], "percent": 5}
        ).ok()
    )
    places.append(api.post("/v1/ack", {"acks": [{"lease_token": tokens[0]}]}).ok())
    places.append(api.post("/v1/nack", {"nacks": [{"lease_token": tokens[1]}]}).ok())
    places.append(api.post("/v1/release", {"leases": [{"lease_token": tokens[2]}]}).ok())
    places.append(api.patch(f"/v1/messages/{enqueued['messages'][2]['id']}", {"priority": 4}).ok())
    places.append(api.delete(f"/v1/messages/{enqueued['messages'][2]['id']}").ok())
    places.append(api.post(f"/v1/queues/{name}/pause").ok())
    places.append(api.post(f"/v1/queues/{name}/resume").ok())
    places.append(api.post(f"/v1/queues/{name}/purge").ok())
    places.append(api.post(f"/v1/queues/{name}/dead/redrive", {}).ok())
    places.append(api.delete(f"/v1/queues/{name}/dead").ok())
    places.append(api.delete(f"/v1/queues/{name}").ok())
    positions = [(place["index"], place["seq"]) for place in places]
    assert positions == sorted(set(positions)), "later writes have later positions"
    assert len({place["term"] for place in places}) == 1
    assert api.get("/v1/queues").ok()["as_of"] >= positions[-1][0]


@pytest.mark.parametrize("way", ["header", "body"])
def test_a_request_id_repeats_the_answer(api: Api, name: str, way: str) -> None:
    key = f"{name}-{way}"

    def send(body: dict[str, object]) -> object:
        if way == "body":
            return api.post(f"/v1/queues/{name}/messages", {**body, "request_id": key})
        return api.post(f"/v1/queues/{name}/messages", body, headers={"Idempotency-Key": key})

    first = send({"body": {"x": 1}})
    assert "repeated" not in first.ok(201) or first["repeated"] is False
    again = send({"body": {"x": 1}})
    assert again.status == 201
    assert again["repeated"] is True
    for field in ("messages", "index", "seq", "term"):
        assert again[field] == first[field]
    problem = send({"body": {"x": 2}}).refused(409, "idempotency_conflict")
    assert problem["retry"] == "never"
    assert api.counts(name)["ready"] == 1


def test_the_header_and_the_field_are_the_same_request_id(api: Api, name: str) -> None:
    first = api.post(f"/v1/queues/{name}/messages", {"body": 1, "request_id": name}).ok(201)
    again = api.post(f"/v1/queues/{name}/messages", {"body": 1}, headers={"Idempotency-Key": name}).ok(201)
    assert again["repeated"] is True and again["messages"] == first["messages"]


def test_codec_and_whitespace_do_not_make_other_content(api: Api, name: str) -> None:
    path, key = f"/v1/queues/{name}/messages", {"Idempotency-Key": f"{name}-ws"}
    first = api.post(path, raw=b'{"body": {"a": 1, "b": [2]}}', headers=key).ok(201)
    spaced = api.post(path, raw=b'{ "body":\n {"a":1,"b":[ 2 ]} }', headers=key).ok(201)
    packed = api.post(path, {"body": {"a": 1, "b": [2]}}, headers={**key, "Content-Type": MSGPACK}).ok(201)
    assert spaced["messages"] == packed["messages"] == first["messages"]
    assert spaced["repeated"] is True and packed["repeated"] is True


def test_the_same_id_on_another_call_is_a_conflict(api: Api, name: str) -> None:
    key = {"Idempotency-Key": f"{name}-other"}
    api.post(f"/v1/queues/{name}/messages", {"body": 1}, headers=key).ok(201)
    other = api.post(f"/v1/queues/{name}x/messages", {"body": 1}, headers=key)
    other.refused(409, "idempotency_conflict")
    api.get(f"/v1/queues/{name}x").refused(404, "queue_not_found")


def test_every_verb_takes_a_request_id(api: Api, name: str) -> None:
    calls = 0

    def twice(method: str, path: str, body: object = None, status: int = 200) -> dict[str, object]:
        nonlocal calls
        calls += 1
        key = {"Idempotency-Key": f"{name}-v{calls}"}
        arguments = {} if body is None else {"body": body}
        first = api.call(method, path, headers=key, **arguments)
        again = api.call(method, path, headers=key, **arguments)
        assert first.status == again.status == status, (first, again)
        answer, repeat = first.data, again.data
        assert repeat.get("repeated") is True, again
        for volatile in ("now_ms", "repeated", "lost", "oldest_ready_age_ms"):
            answer.pop(volatile, None)
            repeat.pop(volatile, None)
        assert repeat == answer
        return dict(first.data)

    queue = f"/v1/queues/{name}"
    twice("PUT", queue, {"lease_ms": 50_000}, 201)
    twice("PATCH", queue, {"max_attempts": 3})
    ids = [
        m["id"]
        for m in twice("POST", f"{queue}/messages", {"messages": [{"body": n} for n in range(6)]}, 201)[
            "messages"
        ]
    ]
    leases = [twice("POST", f"{queue}/lease", {"consumer": "c"})["messages"][0] for _ in range(5)]
    tokens = [lease["lease_token"] for lease in leases]
    twice("POST", "/v1/extend", {"extensions": [{"lease_token": tokens[0], "lease_ms": 5000}]})
    twice("POST", f"/v1/messages/{ids[0]}/progress", {"lease_token": tokens[0], "percent": 50})
    twice("POST", "/v1/ack", {"acks": [{"lease_token": tokens[0]}]})
    twice("POST", "/v1/nack", {"nacks": [{"lease_token": tokens[1]}]})
    twice("POST", "/v1/release", {"leases": [{"lease_token": tokens[2]}]})
    twice("POST", "/v1/nack", {"nacks": [{"lease_token": tokens[3], "dead_letter": True}]})
    twice("POST", f"{queue}/dead/redrive", {})
    twice("PATCH", f"/v1/messages/{ids[5]}", {"priority": 3})
    twice("DELETE", f"/v1/messages/{ids[5]}")
    twice("POST", f"{queue}/pause", {"enqueue": True})
    twice("POST", f"{queue}/resume")
    twice("POST", f"{queue}/purge")
    twice("DELETE", f"{queue}/dead")
    granted = twice("POST", "/v1/effects/begin", {"effect_id": f"{name}:e", "owner": "me"})
    twice("POST", "/v1/effects/abort", {"effect_token": granted["effect_token"]})
    twice("DELETE", queue)


def test_a_repeat_gives_the_stored_reply_of_its_own_time(api: Api, name: str) -> None:
    key = {"Idempotency-Key": f"{name}-own"}
    first = api.put(f"/v1/queues/{name}", {"lease_ms": 5000}, headers=key).ok(201)
    api.patch(f"/v1/queues/{name}", {"lease_ms": 7000}).ok()
    again = api.put(f"/v1/queues/{name}", {"lease_ms": 5000}, headers=key).ok(201)
    assert again["revision"] == first["revision"]
    guarded = {"If-Match": str(again["revision"])}
    api.patch(f"/v1/queues/{name}", {"lease_ms": 1}, headers=guarded).refused(412, "revision_changed")


def test_refusals_are_not_remembered(api: Api, name: str) -> None:
    api.queue(name)
    api.post(f"/v1/queues/{name}/pause", {"enqueue": True}).ok()
    key = {"Idempotency-Key": f"{name}-r"}
    for _ in range(2):
        refusal = api.post(f"/v1/queues/{name}/messages", {"body": 1}, headers=key)
        assert refusal.refused(409, "queue_paused")["retry"] == "later"
    api.post(f"/v1/queues/{name}/resume").ok()
    answer = api.post(f"/v1/queues/{name}/messages", {"body": 1}, headers=key).ok(201)
    assert not answer.get("repeated")


def test_look_ups_come_before_every_refusal(api: Api, name: str) -> None:
    api.queue(name, max_messages=1)
    path, key = f"/v1/queues/{name}/messages", {"Idempotency-Key": f"{name}-l"}
    first = api.post(path, {"body": 1}, headers=key).ok(201)
    api.post(path, {"body": 2}).refused(429, "queue_full")
    assert api.post(path, {"body": 1}, headers=key).ok(201)["messages"] == first["messages"]
    api.post(f"/v1/queues/{name}/pause", {"enqueue": True}).ok()
    assert api.post(path, {"body": 1}, headers=key).ok(201)["repeated"] is True
    api.delete(f"/v1/queues/{name}").ok()
    assert api.post(path, {"body": 1}, headers=key).ok(201)["repeated"] is True
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")


def test_instants_are_milliseconds_of_now(api: Api, name: str) -> None:
    before = int(time.time() * 1000)
    number = api.enqueue(name)
    lease = api.one(name, lease_ms=10_000)
    after = int(time.time() * 1000)
    assert before - 1000 <= lease["enqueued_at_ms"] <= after + 1000
    assert 9_000 <= lease["lease_expires_at_ms"] - before <= 12_000
    assert lease["id"] == number


def test_the_body_needs_no_content_type(api: Api, name: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(api.host, api.port, timeout=5)
    connection.putrequest("POST", f"/v1/queues/{name}/messages")
    connection.putheader("Content-Length", "10")
    connection.endheaders(b'{"body":7}')
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    assert json.loads(answer.read())["messages"][0]["state"] == "ready"
    connection.close()
