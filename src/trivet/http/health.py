"""Health and role, for load balancers and supervisors. GET and HEAD; answered by the node asked."""

from __future__ import annotations

from trivet.http import cluster_shapes
from trivet.http.call import Call, Reply
from trivet.http.codec import JSON
from trivet.http.describing import MAX_LAG, Flag, Text, operation
from trivet.http.render import encode


@operation(
    "200 on a leader with a live quorum", gives={200: cluster_shapes.RoleTold, 503: cluster_shapes.RoleTold}
)
async def leader(call: Call) -> Reply:
    """200 only on a leader that a quorum heard of lately."""
    consensus = call.services.broker.consensus
    return _told(call, consensus.is_leader and consensus.can_propose and consensus.has_quorum)


@operation(
    "200 on a follower that is not behind",
    gives={200: cluster_shapes.RoleTold, 503: cluster_shapes.RoleTold},
    query=(MAX_LAG,),
)
async def follower(call: Call) -> Reply:
    """200 on a follower of a known leader that has applied all but `max_lag` entries."""
    most = MAX_LAG.read(call.query)
    broker = call.services.broker
    consensus = broker.consensus
    fit = (
        not consensus.is_leader
        and consensus.leader is not None
        and consensus.recovering is None
        and not broker.host.draining
    )
    if most is not None and consensus.commit_index - consensus.applied_index > most:
        fit = False
    return _told(call, fit)


def _told(call: Call, fit: bool) -> Reply:
    consensus = call.services.broker.consensus
    told = {
        "role": consensus.role,
        "leader": consensus.leader,
        "term": consensus.term,
        "lag": consensus.commit_index - consensus.applied_index,
    }
    return Reply(200 if fit else 503, encode(told, JSON), JSON, {"Cache-Control": "no-store"})


@operation("200 while the process runs", gives=cluster_shapes.Alive)
async def livez(call: Call) -> Reply:
    return Reply(200, b'{"status":"alive"}', JSON, {"Cache-Control": "no-store"})


@operation(
    "200 when the node knows a leader, is caught up and does not drain",
    gives={200: cluster_shapes.Readiness, 503: cluster_shapes.Readiness},
    query=(Flag("verbose", "each check by name"),),
)
async def readyz(call: Call) -> Reply:
    """Knows a leader, is caught up, is not draining, is not recovering."""
    broker = call.services.broker
    consensus = broker.consensus
    checks = {
        "leader": consensus.leader is not None and (not consensus.is_leader or consensus.can_propose),
        "caught_up": broker.host.caught_up(),
        "not_draining": not broker.host.draining,
        "not_recovering": consensus.recovering is None,
    }
    ready = all(checks.values())
    told: dict[str, object] = {"status": "ready" if ready else "not_ready"}
    if "verbose" in call.query:
        told["checks"] = checks
        told["applied_index"] = consensus.applied_index
        told["commit_index"] = consensus.commit_index
    return Reply(200 if ready else 503, encode(told, JSON), JSON, {"Cache-Control": "no-store"})


@operation(
    "503 if stopping this node would lose the quorum: ask before a restart",
    gives={200: cluster_shapes.Critical, 503: cluster_shapes.Critical},
)
async def quorum_critical(call: Call) -> Reply:
    """503 if stopping this node would lose the quorum: ask before a restart."""
    critical = call.services.broker.host.quorum_critical()
    told = {"critical": critical}
    return Reply(503 if critical else 200, encode(told, JSON), JSON, {"Cache-Control": "no-store"})


@operation("Metrics of this node", gives=Text("text/plain", "Prometheus text format"))
async def metrics(call: Call) -> Reply:
    text = call.services.broker.host.metrics()
    return Reply(200, text, "text/plain; version=0.0.4; charset=utf-8")
