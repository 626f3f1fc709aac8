"""kill -9 of every node, and a new start on the same directories: the promises outlive the processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.contract.conftest import run_dev
from tests.acceptance.contract.helper import eventually


@pytest.mark.parametrize("nodes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_everything_acknowledged_is_there_after_all_were_killed(tmp_path: Path, nodes: int) -> None:
    data = tmp_path / "data"
    enqueue = {"body": {"x": 1}, "idempotency_key": "k", "request_id": "enqueue-1"}
    lease = {"consumer": "c", "max_messages": 2, "lease_ms": 60_000, "request_id": "lease-1"}
    begin = {"effect_id": "pay", "owner": "w", "ttl_ms": 60_000, "request_id": "begin-1"}
    with run_dev(nodes, data) as cluster:
        api = cluster.leader()
        api.queue("q", max_attempts=7)
        ids = api.enqueue_all("q", [{"body": n, "retention_ms": 600_000} for n in range(4)])
        born = api.post("/v1/queues/q/messages", enqueue).ok(201)
        leases = api.post("/v1/queues/q/lease", lease).ok()["messages"]
        tokens = [m["lease_token"] for m in leases]
        assert api.ack(tokens[0])[0]["status"] == "acked"
        granted = api.post("/v1/effects/begin", begin).ok()
        api.post("/v1/cluster/snapshot").ok(202)
        dead = api.kill_message("other")
        identity = api.get("/v1/cluster")["cluster_id"]
        for node in cluster.nodes:
            os.kill(node.pid, signal.SIGKILL)
    with run_dev(nodes, data) as cluster:
        api = cluster.leader()
        answer = api.get("/v1/cluster").ok()
        assert answer["cluster_id"] == identity and answer["term"] > born["term"]
        assert api.get("/v1/queues/q").ok()["max_attempts"] == 7
        again = api.post("/v1/queues/q/messages", enqueue).ok(201)
        assert again["repeated"] is True and again["messages"] == born["messages"]
        assert [m["lease_token"] for m in api.post("/v1/queues/q/lease", lease).ok()["messages"]] == tokens[
            1:
        ]
        assert api.ack(*tokens) == [{"status": "acked", "repeated": True}, {"status": "acked"}]
        assert api.post("/v1/effects/begin", begin).ok()["effect_token"] == granted["effect_token"]
        api.post("/v1/effects/commit", {"effect_token": granted["effect_token"]}).ok()
        assert api.message(ids[0])["state"] == "done" and api.message(dead)["dead_reason"] == "rejected"
        assert [m["id"] for m in api.lease("q", 10)] == [*ids[2:], born["messages"][0]["id"]]


def test_sigterm_of_the_leader_hands_over(tmp_path: Path) -> None:
    with run_dev(3, tmp_path / "data") as cluster:
        leader = cluster.leader()
        number = leader.enqueue("q")
        os.kill(leader.pid, signal.SIGTERM)
        cluster.nodes.remove(leader)
        new = cluster.leader(5)
        assert new.message(number)["state"] == "ready"
        eventually(lambda: not Path(f"/proc/{leader.pid}/stat").exists() or _zombie(leader.pid), 10)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
