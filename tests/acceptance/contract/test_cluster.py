"""api.md, "Cluster and health"; rules R11, R32, R36."""

from __future__ import annotations

import re
import socket

from tests.acceptance.contract.helper import Api, Cluster, eventually


def test_cluster_is_answered_by_the_node_asked(cluster: Cluster) -> None:
    leader = cluster.leader()
    ids = set()
    for node in cluster.nodes:
        answer = node.get("/v1/cluster").ok()
        ids.add(answer["cluster_id"])
        assert answer["node"] == node.name and answer["leader"] == leader.name
        assert answer["quorum"]["size"] == 2 and answer["quorum"]["have"] >= 2
        assert type(answer["term"]) is int and answer["commit_index"] >= answer["applied_index"] - 0 >= 1
        assert {m["id"] for m in answer["members"]} == {n.name for n in cluster.nodes}
        assert set(answer["versions"]) >= {"trivet", "machine", "tzdata"}
        assert isinstance(answer["alarms"], list) and isinstance(answer["elections"], list)
        assert answer["elections"]
        by_id = {m["id"]: m for m in answer["members"]}
        for other in cluster.nodes:
            assert by_id[other.name]["api"] == other.url
        assert by_id[leader.name]["role"] == "leader"
        fields = {
            "id",
            "api",
            "raft",
            "role",
            "version",
            "term",
            "commit_index",
            "applied_index",
            "match_index",
            "lag",
            "reachable",
        }
        assert fields <= set(by_id[node.name]), by_id[node.name]
        assert all(type(by_id[leader.name][f]) is int for f in ("term", "commit_index", "applied_index"))
        assert any("contact" in field for field in by_id[node.name])
        assert any("disk" in field for field in by_id[node.name])
    assert len(ids) == 1
    members = leader.get("/v1/cluster")["members"]
    numbers = (
        "term",
        "commit_index",
        "applied_index",
        "match_index",
        "lag",
        "last_contact_ms",
        "disk_free_bytes",
    )
    assert all(type(member[field]) is int for member in members for field in numbers), members
    assert all(m["reachable"] for m in members)
    assert sorted(m["role"] for m in members) == ["follower", "follower", "leader"]


def test_digests_are_equal_at_equal_indices(cluster: Cluster, name: str) -> None:
    cluster.leader().enqueue_all(name, [{"body": n} for n in range(20)])

    def look() -> bool:
        seen = [node.get("/v1/cluster/digest").ok() for node in cluster.nodes]
        same = len({d["index"] for d in seen}) == 1
        if same:
            assert len({d["digest"] for d in seen}) == 1, seen
            assert re.fullmatch(r"[0-9a-zA-Z_\-+/=]{16,}", seen[0]["digest"])
        return same

    eventually(look)


def test_a_digest_moves_with_the_state(api: Api, name: str) -> None:
    before = api.get("/v1/cluster/digest").ok()
    api.enqueue(name)
    after = api.get("/v1/cluster/digest").ok()
    assert after["index"] > before["index"] and after["digest"] != before["digest"]


def test_snapshot(single: Api, name: str) -> None:
    number = single.enqueue(name)
    reply = single.post("/v1/cluster/snapshot")
    assert reply.status in (200, 201, 202), reply
    cluster = eventually(lambda: (c := single.get("/v1/cluster").ok())["snapshot_index"] > 0 and c)
    assert cluster["snapshot_index"] <= cluster["applied_index"]
    assert single.message(number)["state"] == "ready"


def test_transfer_with_nobody_to_go_to(single: Api) -> None:
    single.post("/v1/cluster/transfer").refused(409, "no_eligible_member")
    reply = single.post("/v1/cluster/transfer", {"to": "n9"})
    assert reply.status in (400, 404, 409), reply
    single.post("/v1/cluster/transfer", {"x": 1}).refused(400, "invalid_argument", "/x")


def test_health(cluster: Cluster) -> None:
    for node in cluster.nodes:
        for method in ("GET", "HEAD"):
            assert node.call(method, "/livez").status == 200
            assert node.call(method, "/readyz").status == 200
            assert node.call(method, "/readyz?verbose").status == 200
            assert node.call(method, "/quorum-critical").status == 200
        verbose = node.get("/readyz?verbose")
        assert len(verbose.raw) > len(node.get("/readyz").raw) - 1
        assert node.get("/follower?max_lag=1000000").status == (503 if node is cluster.leader() else 200)
        assert node.get("/follower?max_lag=-1").status in (400, 503)
        assert node.get("/follower?max_lag=x").status in (400, 503)


def test_a_single_node(single: Api) -> None:
    assert single.get("/leader").status == 200
    assert single.get("/follower").status == 503
    assert single.get("/readyz").status == 200
    assert single.get("/quorum-critical").status == 503, "stopping the only node loses the quorum"
    cluster = single.get("/v1/cluster").ok()
    assert cluster["quorum"] == {"size": 1, "have": 1} and len(cluster["members"]) == 1


def test_metrics_are_valid_prometheus_text(cluster: Cluster, name: str) -> None:
    leader = cluster.leader()
    leader.enqueue_all(name, [{}] * 7)
    for node in cluster.nodes:
        reply = node.get("/metrics")
        assert reply.status == 200 and reply.type in ("text/plain", "application/openmetrics-text")
        text = reply.raw.decode()
        assert text.endswith("\n")
        sample = re.compile(
            r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\.)*",?)*\})? '
            r"(NaN|[+-]Inf|[-+]?[0-9.]+([eE][-+]?[0-9]+)?)( [0-9]+)?$"
        )
        typed, seen = set(), set()
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, metric, kind = line.split(" ")
                assert kind in ("counter", "gauge", "histogram", "summary", "untyped")
                assert metric not in typed, f"{metric} declared twice"
                typed.add(metric)
            elif line and not line.startswith("#"):
                assert sample.match(line), line
                series = line.rpartition(" ")[0]
                assert series not in seen, f"{series} twice"
                seen.add(series)
        assert all(metric.startswith(("trivet_", "process_", "python_")) for metric in typed)
    text = leader.get("/metrics").raw.decode()
    assert re.search(rf'^trivet_\w+\{{.*queue="{name}".*\}} 7(\.0)?$', text, re.M), (
        "the queue's depth is there"
    )


def test_bound_to_loopback_only(single: Api) -> None:
    own = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {str(each) for each in own if not str(each).startswith("127.")}:
        with socket.socket() as probe:
            probe.settimeout(1)
            assert probe.connect_ex((address, single.port)) != 0


def test_what_later_issues_bring_is_an_honest_answer(api: Api) -> None:
    for path in ("/v1/runs/r", "/v1/topics/t", "/v1/schedules/s", "/v1/flows/f"):
        assert api.get(path).status in (404, 501), path
