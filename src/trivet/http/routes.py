"""Every path of the API and who answers it."""

from __future__ import annotations

from trivet.http import cluster, dead, effects, health, messages, queues
from trivet.http.call import Call, Reply, not_yet
from trivet.http.routing import Kind, Router


def make_router() -> Router:
    """Every path of this release; what a later one brings answers 501."""
    router = Router()
    add, write, read, node = router.add, Kind.WRITE, Kind.READ, Kind.NODE
    queue = "/v1/queues/{queue}"
    add("GET", "/v1/queues", read, queues.get_all, ("limit", "after"))
    add("PUT", queue, write, queues.put)
    add("PATCH", queue, write, queues.patch)
    add("GET", queue, read, queues.get)
    add("DELETE", queue, write, queues.delete)
    add("POST", queue + "/pause", write, queues.pause)
    add("POST", queue + "/resume", write, queues.resume)
    add("POST", queue + "/purge", write, queues.purge)
    add("POST", queue + "/messages", write, messages.enqueue, plain=messages.plain_enqueue)
    add("GET", queue + "/messages", read, messages.browse, ("state", "limit", "after", "max_bytes"))
    add("POST", queue + "/lease", write, messages.lease)
    add("GET", queue + "/dead", read, dead.get, ("limit", "after", "reason", "max_bytes"))
    add("POST", queue + "/dead/redrive", write, dead.redrive)
    add("DELETE", queue + "/dead", write, dead.purge)
    add("POST", "/v1/lease", write, messages.lease_many)
    add("POST", "/v1/ack", write, messages.ack, plain=messages.plain_ack)
    add("POST", "/v1/nack", write, messages.nack)
    add("POST", "/v1/extend", write, messages.extend)
    add("POST", "/v1/release", write, messages.release)
    message = "/v1/messages/{id}"
    add("GET", message, read, messages.get, ("wait_ms",))
    add("DELETE", message, write, messages.cancel)
    add("PATCH", message, write, messages.patch)
    add("POST", message + "/progress", write, messages.progress)
    add("POST", "/v1/effects/begin", write, effects.begin)
    add("POST", "/v1/effects/commit", write, effects.commit)
    add("POST", "/v1/effects/abort", write, effects.abort)
    add("GET", "/v1/effects/{effect_id}", read, effects.get)
    add("GET", "/v1/cluster", node, cluster.get)
    add("POST", "/v1/cluster/transfer", write, cluster.transfer)
    add("POST", "/v1/cluster/snapshot", node, cluster.snapshot)
    add("GET", "/v1/cluster/digest", node, cluster.digest, ("consistency",))
    add("POST", "/v1/cluster/members", node, cluster.members)
    add("DELETE", "/v1/cluster/members/{id}", node, cluster.members)
    _add_health(router)
    _add_later(router)
    return router


def _add_health(router: Router) -> None:
    for path, handler in (
        ("/leader", health.leader),
        ("/follower", health.follower),
        ("/livez", health.livez),
        ("/readyz", health.readyz),
        ("/quorum-critical", health.quorum_critical),
        ("/metrics", health.metrics),
    ):
        router.add("GET", path, Kind.NODE, handler, lax=True)


def _add_later(router: Router) -> None:
    """Known to the contract, not built yet: 501 tells a client more than 404."""
    run, topic, schedule = "/v1/runs/{run}", "/v1/topics/{topic}", "/v1/schedules/{name}"
    group = topic + "/groups/{group}"
    for what, paths in (
        ("runs", (f"GET {run}", f"GET {run}/events", f"POST {run}/events", f"POST {run}/replay")),
        ("topics", (f"PUT {topic}", f"GET {topic}", f"DELETE {topic}", f"POST {topic}/messages")),
        ("topics", (f"PUT {group}", f"DELETE {group}", f"POST {group}/replay")),
        ("schedules", (f"PUT {schedule}", f"GET {schedule}", f"DELETE {schedule}")),
        ("schedules", (f"POST {schedule}/pause", f"POST {schedule}/resume", f"POST {schedule}/run")),
        ("flows", ("POST /v1/flows", "GET /v1/flows/{id}")),
        ("the API description and the console", ("GET /v1/openapi.json", "GET /docs", "GET /")),
    ):

        async def later(_call: Call, what: str = what) -> Reply:
            raise not_yet(what)

        for method, template in (path.split(" ") for path in paths):
            router.add(method, template, Kind.NODE, later, lax=True)
