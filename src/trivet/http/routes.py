"""Every path of the API and who answers it."""

from __future__ import annotations

from trivet.http import cluster, dead, effects, flows, health, messages, queues, runs, schedules, site, topics
from trivet.http.routing import Kind, Router


def make_router() -> Router:
    """Every path of the API."""
    router = Router()
    add, write, read, node = router.add, Kind.WRITE, Kind.READ, Kind.NODE
    queue = "/v1/queues/{queue}"
    add("GET", "/v1/queues", read, queues.get_all)
    add("PUT", queue, write, queues.put)
    add("PATCH", queue, write, queues.patch)
    add("GET", queue, read, queues.get)
    add("DELETE", queue, write, queues.delete)
    add("POST", queue + "/pause", write, queues.pause)
    add("POST", queue + "/resume", write, queues.resume)
    add("POST", queue + "/purge", write, queues.purge)
    add("POST", queue + "/messages", write, messages.enqueue, plain=messages.plain_enqueue)
    add("GET", queue + "/messages", read, messages.browse)
    add("POST", queue + "/lease", write, messages.lease)
    add("GET", queue + "/dead", read, dead.get)
    add("POST", queue + "/dead/redrive", write, dead.redrive)
    add("DELETE", queue + "/dead", write, dead.purge)
    add("POST", "/v1/lease", write, messages.lease_many)
    add("POST", "/v1/ack", write, messages.ack, plain=messages.plain_ack)
    add("POST", "/v1/nack", write, messages.nack)
    add("POST", "/v1/extend", write, messages.extend)
    add("POST", "/v1/release", write, messages.release)
    message = "/v1/messages/{id}"
    add("GET", message, read, messages.get)
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
    add("GET", "/v1/cluster/digest", node, cluster.digest)
    add("POST", "/v1/cluster/members", node, cluster.add_member)
    add("DELETE", "/v1/cluster/members/{id}", node, cluster.remove_member)
    add("GET", "/v1/openapi.json", node, site.openapi)
    add("GET", "/docs", node, site.docs, lax=True)
    add("GET", "/", node, site.home, lax=True)
    add("POST", "/v1/flows", write, flows.create)
    add("GET", "/v1/flows", read, flows.get_all)
    add("GET", "/v1/flows/{id}", read, flows.get)
    run = "/v1/runs/{run_id}"
    add("GET", "/v1/runs", read, runs.get_all)
    add("GET", run, read, runs.get)
    add("GET", run + "/events", Kind.STREAM, runs.events)
    add("POST", run + "/events", write, runs.append)
    add("POST", run + "/replay", write, runs.replay)
    topic, group = "/v1/topics/{topic}", "/v1/topics/{topic}/groups/{group}"
    add("GET", "/v1/topics", read, topics.get_all)
    add("PUT", topic, write, topics.put)
    add("GET", topic, read, topics.get)
    add("DELETE", topic, write, topics.delete)
    add("POST", topic + "/messages", write, topics.publish, plain=topics.plain_publish)
    add("GET", topic + "/messages", read, topics.browse)
    add("PUT", group, write, topics.put_group)
    add("GET", group, read, topics.get_group)
    add("DELETE", group, write, topics.delete_group)
    add("POST", group + "/replay", write, topics.replay)
    schedule = "/v1/schedules/{name}"
    add("GET", "/v1/schedules", read, schedules.get_all)
    add("PUT", schedule, write, schedules.put)
    add("GET", schedule, read, schedules.get)
    add("DELETE", schedule, write, schedules.delete)
    add("POST", schedule + "/pause", write, schedules.pause)
    add("POST", schedule + "/resume", write, schedules.resume)
    add("POST", schedule + "/run", write, schedules.run)
    _add_health(router)
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
