"""api.md, Cluster and health, as far as one node shows it."""

from __future__ import annotations

import time
import uuid

from tests.conformance.client import Api, Queue


def test_digest(api: Api, q: Queue) -> None:
    first = api.get("/v1/cluster/digest").ok().told
    again = api.get("/v1/cluster/digest").ok().told
    assert isinstance(first["digest"], str)
    if first["index"] == again["index"]:
        assert first["digest"] == again["digest"]
    q.send()
    later = api.get("/v1/cluster/digest").ok().told
    assert later["index"] > first["index"]
    assert later["digest"] != first["digest"]


def test_leader_and_follower(api: Api) -> None:
    leader = api.get("/v1/queues").headers["trivet-leader"]
    assert api.get("/leader", url=leader).status == 200
    assert api.get("/follower", url=leader).status == 503
    head = api.call("HEAD", "/leader", url=leader)
    assert (head.status, head.raw) == (200, b"")


def test_health(api: Api) -> None:
    assert api.get("/livez").status == 200
    assert api.get("/readyz").status == 200
    checks = api.get("/readyz?verbose").ok()["checks"]
    assert all(checks.values())
    assert api.get("/quorum-critical").status in (200, 503)
    metrics = api.get("/metrics").ok()
    assert metrics.headers["content-type"].startswith("text/plain")
    for path in ("/livez", "/readyz", "/leader", "/metrics"):
        api.post(path).refused(405, "method_not_allowed")


def test_cluster_names_the_node(api: Api) -> None:
    told = api.get("/v1/cluster").ok()
    assert told["node"] == told.headers["trivet-node"]


def test_snapshot(api: Api) -> None:
    assert api.post("/v1/cluster/snapshot").status == 202


def test_local_reads_tell_their_age(api: Api, q: Queue) -> None:
    sent = api.post(q.path + "/messages", {}).ok(201)
    message = sent["messages"][0]["id"]
    deadline = time.monotonic() + 5
    while api.get("/v1/cluster/digest").ok()["index"] < sent["index"] and time.monotonic() < deadline:
        time.sleep(0.01)  # a follower may be behind: that is what `as_of` is for
    for path in (q.path, "/v1/queues", q.path + "/messages", q.path + "/dead", f"/v1/messages/{message}"):
        told = api.get(path + "?consistency=local").ok().told
        assert isinstance(told["as_of"], int)
        assert told["leader_contact_age_ms"] >= 0
    api.get(q.path + "?consistency=strong").refused(400, "invalid_argument", "/consistency")


def test_transfer_to_nobody(api: Api) -> None:
    api.post("/v1/cluster/transfer", {"to": f"nobody-{uuid.uuid4().hex}"}).refused(409, "no_eligible_member")
