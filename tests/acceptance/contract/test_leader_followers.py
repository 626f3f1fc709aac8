"""api.md, "Leader and followers"."""

from __future__ import annotations

import http.client

import pytest

from tests.acceptance.contract.helper import Api, Cluster, eventually


@pytest.fixture
def follower(cluster: Cluster) -> Api:
    return cluster.followers()[0]


def writes(name: str) -> list[tuple[str, str, object]]:
    return [
        ("PUT", f"/v1/queues/{name}", {}),
        ("PATCH", f"/v1/queues/{name}", {}),
        ("DELETE", f"/v1/queues/{name}", None),
        ("POST", f"/v1/queues/{name}/messages", {"body": 1}),
        ("POST", f"/v1/queues/{name}/lease", {"consumer": "c", "wait_ms": 5000}),
        ("POST", "/v1/lease", {"consumer": "c", "queues": [name]}),
        ("POST", "/v1/ack", {"acks": [{"lease_token": "t"}]}),
        ("POST", "/v1/nack", {"nacks": [{"lease_token": "t"}]}),
        ("POST", "/v1/extend", {"extensions": [{"lease_token": "t", "lease_ms": 1}]}),
        ("POST", "/v1/release", {"leases": [{"lease_token": "t"}]}),
        ("DELETE", "/v1/messages/m000000000001", None),
        ("POST", f"/v1/queues/{name}/dead/redrive", {}),
        ("POST", "/v1/effects/begin", {"effect_id": "e", "owner": "o"}),
        ("GET", "/v1/queues", None),
        ("GET", f"/v1/queues/{name}", None),
        ("GET", f"/v1/queues/{name}/messages?limit=3&state=ready", None),
        ("GET", f"/v1/queues/{name}/dead", None),
        ("GET", "/v1/messages/m000000000001?wait_ms=4000", None),
        ("GET", "/v1/effects/a:b%2Fc", None),
    ]


def test_writes_and_linearizable_reads_are_sent_to_the_leader(
    cluster: Cluster, follower: Api, name: str
) -> None:
    leader = cluster.leader()
    for method, path, body in writes(name):
        more = {} if body is None else {"body": body}
        reply = follower.call(method, path, **more)
        assert reply.status == 307, reply
        assert reply.raw == b""
        assert reply.headers["Location"] == leader.url + path, "the same path, its query and escapes with it"
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Trivet-Leader"] == leader.url
        assert reply.headers["Trivet-Role"] == "follower"
        assert reply.headers.get("Content-Length") == "0"


def test_forward_makes_the_follower_carry_it(cluster: Cluster, follower: Api, name: str) -> None:
    forward = {"Trivet-Follower": "forward", "Trivet-Request-Id": f"{name}-f"}
    reply = follower.post(f"/v1/queues/{name}/messages", {"body": {"z": 1}}, headers=forward)
    answer = reply.ok(201)
    assert reply.headers["Trivet-Request-Id"] == f"{name}-f", "same request id"
    number = answer["messages"][0]["id"]
    assert cluster.leader().message(number)["body"] == {"z": 1}
    read = follower.get(f"/v1/messages/{number}", headers=forward).ok()
    assert read["body"] == {"z": 1} and read["as_of"] >= answer["index"]
    follower.get("/v1/messages/none", headers=forward).refused(404, "message_not_found")
    leased = follower.post(f"/v1/queues/{name}/lease", {"consumer": "c"}, headers=forward).ok()["messages"]
    assert [m["id"] for m in leased] == [number]
    empty = follower.post(f"/v1/queues/{name}/lease", {"consumer": "c", "wait_ms": 300}, headers=forward).ok()
    assert empty["messages"] == []


def test_a_forwarded_write_repeats_with_the_same_key(cluster: Cluster, follower: Api, name: str) -> None:
    path, key = f"/v1/queues/{name}/messages", {"Idempotency-Key": f"{name}-k"}
    first = follower.post(path, {"body": 1}, headers={**key, "Trivet-Follower": "forward"}).ok(201)
    again = cluster.leader().post(path, {"body": 1}, headers=key).ok(201)
    assert again["repeated"] is True and again["messages"] == first["messages"]


def test_an_unknown_follower_mode_is_refused_or_redirected(follower: Api) -> None:
    assert follower.get("/v1/queues", headers={"Trivet-Follower": "sideways"}).status in (307, 400)
    assert follower.get("/v1/queues", headers={"Trivet-Follower": "redirect"}).status == 307


def test_the_leader_takes_forward_and_redirect_alike(api: Api) -> None:
    for mode in ("forward", "redirect"):
        api.get("/v1/queues", headers={"Trivet-Follower": mode}).ok()


def test_local_reads_are_answered_by_any_node(cluster: Cluster, name: str) -> None:
    leader = cluster.leader()
    number = leader.enqueue(name, body="here")
    index = int(leader.get(f"/v1/queues/{name}").ok()["as_of"])
    for node in cluster.nodes:
        eventually(lambda node=node: node.get("/v1/queues?consistency=local").ok()["as_of"] >= index)
        message = node.get(f"/v1/messages/{number}?consistency=local").ok()
        assert message["body"] == "here" and message["as_of"] >= index
        assert node.get(f"/v1/queues/{name}?consistency=local").ok()["ready"] == 1
        assert node.get(f"/v1/queues/{name}/messages?consistency=local").ok()["messages"][0]["id"] == number
        assert node.get(f"/v1/queues/{name}/dead?consistency=local").ok()["messages"] == []
        ages = [value for key, value in message.items() if "contact" in key]
        assert len(ages) == 1 and 0 <= ages[0] < 5000, f"the age of its last leader contact: {message}"
    cluster.followers()[0].get(f"/v1/queues/{name}?consistency=leader")
    leader.get(f"/v1/queues/{name}?consistency=leader").ok()
    leader.get(f"/v1/queues/{name}?consistency=maybe").refused(400, "invalid_argument")


def test_a_redirect_followed_with_the_same_body_works(follower: Api, name: str) -> None:
    reply = follower.post(f"/v1/queues/{name}/messages", {"body": 1})
    location = reply.headers["Location"]
    host, _, path = location.removeprefix("http://").partition("/")
    Api(f"http://{host}").post(f"/{path}", {"body": 1}).ok(201)


def test_a_redirect_keeps_the_connection_usable(follower: Api, name: str) -> None:
    """A client that reuses the connection after a 307 to a request with a body finds it in step."""
    connection = http.client.HTTPConnection(follower.host, follower.port, timeout=5)
    for size in (10, 200_000):
        body = b'{"body":"' + b"x" * size + b'"}'
        for _ in range(2):
            connection.request(
                "POST", f"/v1/queues/{name}/messages", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            assert answer.status == 307 and answer.read() == b""
    connection.close()


def test_head_of_the_role_pages(cluster: Cluster) -> None:
    for node in cluster.nodes:
        leads = node is cluster.leader()
        assert node.call("HEAD", "/leader").status == (200 if leads else 503)
        assert node.call("HEAD", "/follower").status == (503 if leads else 200)
        assert node.call("GET", "/leader").status == (200 if leads else 503)
        assert node.call("GET", "/follower").status == (503 if leads else 200)
