"""Every metric, declared once. Base units, `_total` for counters, never a label per message.

A `Metrics` belongs to one node (three may live in one test process). Counters and histograms are fed
where things happen; gauges are filled by refreshers when somebody scrapes, so that they cost nothing
between scrapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

QUEUE_LABELS_MAX = 100
CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)


class Metric(NamedTuple):
    kind: str  # counter | gauge | histogram
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TABLE: dict[str, Metric] = {}


def _declare(
    kind: str, name: str, help: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = ()
) -> Metric:
    metric = Metric(kind, name, help, labels, buckets)
    assert name not in TABLE, f"metric {name} is declared twice"
    TABLE[name] = metric
    return metric


# --- consensus ----------------------------------------------------------------------------------------
IS_LEADER = _declare("gauge", "trivet_raft_is_leader", "1 while this node leads.")
HAS_LEADER = _declare("gauge", "trivet_raft_has_leader", "1 while this node knows a leader.")
TERM = _declare("gauge", "trivet_raft_term", "Current term.")
COMMIT_INDEX = _declare("gauge", "trivet_raft_commit_index", "Highest log index known committed.")
APPLIED_INDEX = _declare("gauge", "trivet_raft_applied_index", "Highest log index applied here.")
LOG_ENTRIES = _declare("gauge", "trivet_raft_log_entries", "Entries in the log since the last compaction.")
RECOVERING = _declare("gauge", "trivet_raft_recovering", "1 while this node may not vote (R3-R6).")
PEERS_UP = _declare("gauge", "trivet_raft_peers_up", "Peers connected to this node.")
PEER_UP = _declare("gauge", "trivet_raft_peer_reachable", "1 while the peer is connected.", ("peer",))
LEADER_CHANGES = _declare(
    "counter", "trivet_raft_leader_changes_total", "Leaders seen after another or none."
)
PROPOSALS = _declare("counter", "trivet_raft_proposals_total", "Log entries this node proposed.")
BATCH_REQUESTS = _declare(
    "histogram", "trivet_raft_batch_requests", "Requests in one proposed entry.", buckets=_SIZES
)
COMMIT_SECONDS = _declare(
    "histogram", "trivet_raft_commit_seconds", "From proposal to applied on the leader.", buckets=_SECONDS
)
FSYNC_SECONDS = _declare(
    "histogram", "trivet_raft_fsync_seconds", "One write and fdatasync.", buckets=_SECONDS
)
FRAMES_IN = _declare("counter", "trivet_peer_frames_received_total", "Peer frames received.")
FRAMES_OUT = _declare("counter", "trivet_peer_frames_sent_total", "Peer frames sent.")
BYTES_IN = _declare("counter", "trivet_peer_received_bytes_total", "Bytes received from peers.")
BYTES_OUT = _declare("counter", "trivet_peer_sent_bytes_total", "Bytes sent to peers.")
PEER_DROPS = _declare(
    "counter", "trivet_peer_drops_total", "Peer connections ended here for what came over them."
)

# --- node ---------------------------------------------------------------------------------------------
LOOP_HELD_SECONDS = _declare(
    "histogram", "trivet_loop_held_seconds", "How long one driver turn held the event loop.", buckets=_SECONDS
)
APPLY_SECONDS = _declare(
    "histogram", "trivet_apply_seconds", "Time the state machine took for one entry.", buckets=_SECONDS
)
DISK_FREE_BYTES = _declare("gauge", "trivet_disk_free_bytes", "Free space under the data directory.")
MEMORY_BYTES = _declare("gauge", "trivet_memory_bytes", "Resident memory of the process.")
MEMORY_LIMIT_BYTES = _declare("gauge", "trivet_memory_limit_bytes", "Memory this node may use.")
PRESSURE = _declare("gauge", "trivet_pressure", "1 while enqueues are refused for this reason.", ("reason",))
SNAPSHOT_INDEX = _declare("gauge", "trivet_snapshot_index", "Log index of the newest snapshot.")
SNAPSHOTS = _declare("counter", "trivet_snapshots_total", "Snapshots taken.")
ALARM = _declare("gauge", "trivet_alarm", "1 while the alarm is raised.", ("alarm",))
BUILD = _declare("gauge", "trivet_build_info", "Always 1.", ("version", "python"))

# --- queues -------------------------------------------------------------------------------------------
MESSAGES = _declare(
    "counter",
    "trivet_messages_total",
    "What happened to messages, over all queues and the whole cluster (each node counts what it applied).",
    ("event",),
)
EXPIRED = _declare("counter", "trivet_expired_total", "Things this node's expiry handled while it led.")
QUEUE_MESSAGES = _declare(
    "gauge", "trivet_queue_messages", "Messages of a queue by state.", ("queue", "state")
)
QUEUE_BYTES = _declare("gauge", "trivet_queue_bytes", "Bytes of a queue's messages.", ("queue",))
QUEUE_OLDEST_SECONDS = _declare(
    "gauge", "trivet_queue_oldest_ready_age_seconds", "Age of the oldest ready message.", ("queue",)
)
QUEUES = _declare("gauge", "trivet_queues", "Queues that exist.")
FORGOTTEN = _declare(
    "counter",
    "trivet_forgotten_total",
    "What left before its time because there was too much of it: settled tokens, kept results, dead letters, runs.",
    ("what",),
)
SCHEDULES = _declare("gauge", "trivet_schedules", "Schedules that exist.")
SCHEDULES_BLOCKED = _declare(
    "gauge", "trivet_schedules_blocked", "Schedules whose next slot could not be enqueued yet."
)
SLOTS_FIRED = _declare(
    "counter", "trivet_schedule_slots_fired_total", "Slots that got their message while this node led."
)
RUNS = _declare("gauge", "trivet_runs", "Runs that are remembered.")
RUN_EVENT_BYTES = _declare("gauge", "trivet_run_event_bytes", "Bytes of the events of all runs.")

TOPICS = _declare("gauge", "trivet_topics", "Topics that exist.")
TOPIC_MESSAGES = _declare("gauge", "trivet_topic_messages", "Messages that a topic keeps.", ("topic",))
TOPIC_BYTES = _declare("gauge", "trivet_topic_bytes", "Bytes of the messages that a topic keeps.", ("topic",))

# --- http ---------------------------------------------------------------------------------------------
REQUESTS = _declare(
    "counter", "trivet_http_requests_total", "Requests by route and status.", ("route", "method", "status")
)
REQUEST_SECONDS = _declare(
    "histogram", "trivet_http_request_seconds", "Time to answer a request.", ("route",), buckets=_SECONDS
)
REDIRECTS = _declare("counter", "trivet_http_redirected_total", "Requests sent on to the leader.")
PARKED_POLLS = _declare("gauge", "trivet_http_parked_polls", "Long polls waiting.")

disable_created_metrics()  # type: ignore[no-untyped-call] # a second sample for every counter that nobody reads
_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """One node's values. Runs in the loop's thread only."""

    def __init__(self, *, process: bool = False) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._objects: dict[str, Any] = {}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._refreshers: list[Callable[[Metrics], None]] = []
        for metric in TABLE.values():
            extra = {"buckets": metric.buckets} if metric.buckets else {}
            self._objects[metric.name] = _KINDS[metric.kind](
                metric.name, metric.help, metric.labels, registry=self._registry, **extra
            )
        if process:
            ProcessCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    def inc(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Counters and gauges."""
        self._child(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Gauges, and counters that are counted elsewhere: those only rise."""
        child = self._child(metric, labels)
        if metric.kind == "counter":
            child.inc(max(0.0, value - self.value(metric, **labels)))
        else:
            child.set(value)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Histograms."""
        self._child(metric, labels).observe(value)

    def clear(self, metric: Metric) -> None:
        """Forget every labelled value of a gauge, before a refresher fills it anew."""
        self._objects[metric.name].clear()
        for key in [key for key in self._children if key[0] == metric.name]:
            del self._children[key]

    def value(self, metric: Metric, **labels: str) -> float:
        """The present value (of a histogram: its count), for tests and `status`."""
        suffix = {"counter": "", "gauge": "", "histogram": "_count"}[metric.kind]
        found = self._registry.get_sample_value(metric.name + suffix, labels)
        return 0.0 if found is None else found

    def on_scrape(self, refresh: Callable[[Metrics], None]) -> None:
        """`refresh` runs before each rendering."""
        self._refreshers.append(refresh)

    def render(self) -> bytes:
        """The Prometheus text, to be sent with `CONTENT_TYPE`."""
        for refresh in self._refreshers:
            refresh(self)
        return bytes(generate_latest(self._registry))

    def _child(self, metric: Metric, labels: dict[str, str]) -> Any:
        if not metric.labels:
            return self._objects[metric.name]
        key = (metric.name, tuple(labels[name] for name in metric.labels))
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._objects[metric.name].labels(*key[1])
        return child
