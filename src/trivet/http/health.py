"""Health and role, for load balancers and supervisors. GET and HEAD; answered by the node asked."""

from __future__ import annotations

from trivet.http.call import Call, Reply
from trivet.http.codec import JSON
from trivet.http.render import encode
from trivet.http.routing import query_int
from trivet.limits import INT64_MAX


async def leader(call: Call) -> Reply:
    """200 only on a leader that a quorum heard of lately."""
    consensus = call.services.broker.consensus
    return _told(call, consensus.is_leader and consensus.can_propose and consensus.has_quorum)


async def follower(call: Call) -> Reply:
    """200 on a follower of a known leader that has applied all but `max_lag` entries."""
    most = query_int(call.query, "max_lag", None, 0, INT64_MAX)
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


async def livez(call: Call) -> Reply:
    return Reply(200, b'{"status":"alive"}', JSON, {"Cache-Control": "no-store"})


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


async def quorum_critical(call: Call) -> Reply:
    """503 if stopping this node would lose the quorum: ask before a restart."""
    critical = call.services.broker.host.quorum_critical()
    told = {"critical": critical}
    return Reply(503 if critical else 200, encode(told, JSON), JSON, {"Cache-Control": "no-store"})


async def metrics(call: Call) -> Reply:
    text = call.services.broker.host.metrics()
    return Reply(200, text, "text/plain; version=0.0.4; charset=utf-8")
