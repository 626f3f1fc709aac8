"""kill -9 of the leader in the middle of things: api.md's promises go on (issue 2, "Shows")."""

from __future__ import annotations

import http.client
import os
import signal
import time
from typing import Any

from tests.acceptance.contract.helper import Api, Cluster, Reply, eventually, later


def insist(cluster: Cluster, method: str, path: str, body: Any, timeout_s: float = 20.0) -> Reply:
    """The same request, with its request id, until it has an answer that is not `retry`: what a client does."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        for node in cluster.nodes:
            try:
                reply = node.call(method, path, body, headers={"Trivet-Follower": "forward"}, timeout=8)
            except (OSError, http.client.HTTPException) as error:
                last = error
                continue
            if reply.status < 500 and reply.status != 307:
                return reply
            last = reply
        time.sleep(0.02)
    raise AssertionError(last)


def test_transfer_is_visible_and_loses_nothing(mortal: Cluster) -> None:
    old = mortal.leader()
    number = old.enqueue("transfer", body="kept")
    target = mortal.followers()[0]
    old.queue("transfer-wait")
    parked = later(old.post, "/v1/queues/transfer-wait/lease", {"consumer": "c", "wait_ms": 9000})
    time.sleep(0.2)
    reply = old.post("/v1/cluster/transfer", {"to": target.name})
    assert reply.status == 202, reply
    eventually(lambda: mortal.leader() is target)
    assert target.message(number)["body"] == "kept"
    ended = parked.result(12)
    assert ended.status in (307, 503), ended
    if ended.status == 503:
        assert ended["retry"] == "elsewhere", "on losing leadership a parked poll ends at once"
    eventually(lambda: old.get("/v1/cluster")["leader"] == target.name)
    assert any(e["leader"] == target.name for e in target.get("/v1/cluster")["elections"])
    anywhere = target.post("/v1/cluster/transfer")
    assert anywhere.status == 202, anywhere
    eventually(lambda: mortal.leader() is not target)
    mortal.leader().post("/v1/cluster/transfer", {"to": "nobody"}).refused(409, "no_eligible_member")


def test_kill_the_leader_in_the_middle_of_everything(mortal: Cluster) -> None:
    leader = mortal.leader()
    leader.queue("work", lease_ms=60_000)
    ids = leader.enqueue_all("work", [{"body": n, "retention_ms": 600_000} for n in range(12)])
    first_lease = {"consumer": "c", "max_messages": 6, "request_id": "lease-1"}
    leases = leader.post("/v1/queues/work/lease", first_lease).ok()["messages"]
    tokens = [m["lease_token"] for m in leases]
    ack = {"acks": [{"lease_token": tokens[0], "result": {"n": 0}}], "request_id": "ack-1"}
    assert leader.post("/v1/ack", ack).ok()["results"] == [{"status": "acked"}]
    assert leader.nack(tokens[1], delay_ms=600_000, error="later")["status"] == "nacked"
    granted = leader.post(
        "/v1/effects/begin", {"effect_id": "pay", "owner": "w", "lease_token": tokens[2], "request_id": "b-1"}
    ).ok()
    new = {"body": {"x": 1}, "idempotency_key": "once", "request_id": "enq-1"}
    born = leader.post("/v1/queues/work/messages", new).ok(201)
    term = born["term"]
    waiting = later(leader.post, "/v1/queues/idle/lease", {"consumer": "c", "wait_ms": 30_000}, timeout=40)
    del waiting
    start = time.monotonic()
    os.kill(leader.pid, signal.SIGKILL)
    mortal.nodes.remove(leader)

    # repeats give the same answers, through the fail-over
    again = insist(mortal, "POST", "/v1/queues/work/messages", new)
    took = time.monotonic() - start
    assert again.status == 201 and again["repeated"] is True and again["messages"] == born["messages"]
    assert took < 3.0, f"{took:.2f} s until the next acknowledged answer"
    fresh = insist(mortal, "POST", "/v1/queues/work/messages", {"body": 13, "request_id": "enq-2"})
    assert fresh.ok(201)["term"] > term
    repeat = insist(mortal, "POST", "/v1/queues/work/lease", first_lease).ok()
    assert repeat["repeated"] is True and repeat["lost"] == 2
    assert [m["lease_token"] for m in repeat["messages"]] == tokens[2:]
    acked = insist(mortal, "POST", "/v1/ack", ack).ok()
    assert acked["repeated"] is True and acked["results"][0]["status"] == "acked"
    by_token = insist(mortal, "POST", "/v1/ack", {"acks": [{"lease_token": tokens[0]}]}).ok()["results"]
    assert by_token == [{"status": "acked", "repeated": True}]
    stale = insist(mortal, "POST", "/v1/ack", {"acks": [{"lease_token": tokens[1]}]}).ok()["results"]
    assert stale == [{"status": "stale_lease"}]
    regrant = insist(
        mortal,
        "POST",
        "/v1/effects/begin",
        {"effect_id": "pay", "owner": "w", "lease_token": tokens[2], "request_id": "b-1"},
    )
    assert regrant.ok()["effect_token"] == granted["effect_token"]
    with_effect = {"acks": [{"lease_token": tokens[2], "effects": [{"effect_id": "pay", "result": "ok"}]}]}
    assert insist(mortal, "POST", "/v1/ack", with_effect).ok()["results"] == [{"status": "acked"}]

    # and the state is what it was
    now = mortal.leader()
    assert now.message(ids[0])["state"] == "done" and now.message(ids[0])["result"] == {"n": 0}
    assert (
        now.message(ids[1])["state"] == "delayed" and now.message(ids[1])["attempts"][0]["error"] == "later"
    )
    assert [now.message(i)["state"] for i in ids[3:6]] == ["leased"] * 3
    assert now.get("/v1/effects/pay").ok()["result"] == "ok"
    counts = now.counts("work")
    assert counts["leased"] == 3 and counts["delayed"] == 1 and counts["ready"] == 8
    for node in mortal.nodes:
        seen = node.get("/v1/cluster").ok()
        assert seen["leader"] == now.name
        assert not {m["id"]: m for m in seen["members"]}[leader.name]["reachable"] or node is not now
        assert node.get("/quorum-critical").status == 503, "two of three: one more and the quorum is gone"
    assert now.get("/leader").status == 200
    order = [now.one("work")["id"] for _ in range(6)]
    assert order == ids[6:], "the order goes on"


def test_no_quorum_no_answer_then_no_leader(mortal: Cluster) -> None:
    leader = mortal.leader()
    (follower,) = mortal.followers()
    number = leader.enqueue("last", body="x")
    eventually(lambda: follower.get(f"/v1/messages/{number}?consistency=local").status == 200)
    os.kill(leader.pid, signal.SIGKILL)
    eventually(lambda: follower.get("/v1/cluster")["leader"] is None)
    start = time.monotonic()
    reply = follower.post("/v1/queues/last/messages", {"body": 1})
    took = time.monotonic() - start
    problem = reply.refused(503, "no_leader")
    assert reply.headers["Retry-After"] == "1"
    assert problem["retry"] in ("elsewhere", "later")
    assert 3 <= took <= 8, f"parked up to election_wait_ms (5 s): {took:.1f} s"
    assert follower.get("/leader").status == 503
    assert follower.get("/readyz").status == 503
    assert follower.get("/livez").status == 200
    assert follower.get("/quorum-critical").status == 503
    local = follower.get(f"/v1/messages/{number}?consistency=local").ok()
    assert local["body"] == "x"
    ages: list[Any] = [value for key, value in local.items() if "contact" in key]
    assert ages and ages[0] > 1000
    cluster = follower.get("/v1/cluster").ok()
    assert cluster["leader"] is None and cluster["quorum"]["have"] == 1
    assert not reply.headers.get("Trivet-Leader")


def test_the_last_node_ends_cleanly(mortal: Cluster) -> None:
    """Silent on what a signal does without a quorum: it must still end."""
    alive: list[Api] = [node for node in mortal.nodes if _alive(node.pid)]
    assert len(alive) == 1
    os.kill(alive[0].pid, signal.SIGTERM)
    eventually(lambda: not _alive(alive[0].pid), 10)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
