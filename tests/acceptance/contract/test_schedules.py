"""api.md, Schedules, and R2, against real processes: one message a slot, whoever leads, and after an outage."""

from __future__ import annotations

import http.client
import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.contract.conftest import run_dev
from tests.acceptance.contract.helper import Api, Cluster, eventually


def slots_of(api: Api, queue: str, name: str) -> dict[int, int]:
    """Of all messages of a queue, taken: slot → when its message was made."""
    found: dict[int, int] = {}
    while messages := api.lease(queue, 100):
        for one in messages:
            owner, _, slot = one["idempotency_key"].partition("@")
            assert owner == name, one
            assert int(slot) not in found, "doubled"
            found[int(slot)] = one["enqueued_at_ms"]
        api.ack(*(one["lease_token"] for one in messages))
    return found


def shown(cluster: Cluster, name: str) -> dict[str, Any]:
    """From whoever answers."""
    found: list[dict[str, Any]] = []

    def asked() -> bool:
        for node in cluster.nodes:
            try:
                reply = node.call(
                    "GET", f"/v1/schedules/{name}", headers={"Trivet-Follower": "forward"}, timeout=8
                )
            except (OSError, http.client.HTTPException):
                continue
            if reply.status == 200:
                found.append(reply.data)
                return True
        return False

    eventually(asked, 20)
    return found[0]


@pytest.mark.slow
def test_no_slot_is_lost_and_none_doubled_when_the_leader_is_killed(tmp_path: Path) -> None:
    with run_dev(3, tmp_path / "data") as cluster:
        leader = cluster.leader()
        body = {"every_ms": 250, "queue": "ticks", "misfire": "skip", "message": {"body": {"n": 1}}}
        put = leader.call("PUT", "/v1/schedules/tick", body).ok(201)
        time.sleep(1.5)
        os.kill(leader.pid, signal.SIGKILL)
        cluster.nodes.remove(leader)
        eventually(lambda: shown(cluster, "tick")["fired"] >= 16, 30)
        leader = cluster.leader()
        last = leader.post("/v1/schedules/tick/pause").ok()
        slots = slots_of(leader, "ticks", "tick")
        wanted = list(range(put["anchor_at_ms"] + 250, last["decided_at_ms"] + 1, 250))
        owed = {last["last_skip"]["slot_ms"]} if last["skipped"] else set()  # due at the moment of the pause
        assert last["skipped"] == len(owed) and list(slots) == [slot for slot in wanted if slot not in owed]


@pytest.mark.slow
@pytest.mark.parametrize("misfire", ["fire_once", "skip"])
def test_an_outage_of_all_nodes(tmp_path: Path, misfire: str) -> None:
    """Seven seconds: more than a slot may be late."""
    data = tmp_path / "data"
    with run_dev(1, data) as cluster:
        api = cluster.leader()
        body = {"every_ms": 500, "queue": "ticks", "misfire": misfire}
        put = api.call("PUT", "/v1/schedules/tick", body).ok(201)
        eventually(lambda: shown(cluster, "tick")["fired"] >= 3)
        os.kill(cluster.nodes[0].pid, signal.SIGKILL)
    down = time.time() * 1000
    time.sleep(7)
    up = time.time() * 1000
    with run_dev(1, data) as cluster:
        before = shown(cluster, "tick")["fired"]
        eventually(lambda: shown(cluster, "tick")["fired"] >= before + 4)
        api = cluster.leader()
        last = api.post("/v1/schedules/tick/pause").ok()
        made = slots_of(api, "ticks", "tick")
    anchor, slots = put["anchor_at_ms"], list(made)
    assert all((slot - anchor) % 500 == 0 for slot in slots) and slots == sorted(slots)
    assert not [slot for slot in slots if down + 1000 < slot < up - 5000], "late by more than five seconds"
    due = (last["decided_at_ms"] - anchor) // 500
    assert len(slots) == last["fired"] and last["fired"] + last["skipped"] == due, "each is accounted for"
    # The long gap, and what ends it. (A message is made a moment after the leader has looked.)
    (gap,) = [(a, b) for a, b in pairwise(slots) if b - a > 500]
    late = made[gap[1]] - gap[1]
    if misfire == "fire_once":
        assert late < 2000, "one message, for the latest slot that was missed"
    else:
        assert 4500 < late < 7000, "what is on time fires, slot by slot"
