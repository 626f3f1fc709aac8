"""Every metric, declared once. Base units, `_total` for counters, never a label per message.

A `Metrics` belongs to one node (three may live in one test process). Counters and histograms are fed
where things happen; gauges are filled by refreshers when somebody scrapes, so that they cost nothing
between scrapes. What is counted between them is plain numbers here, and becomes the library's families when
somebody scrapes: its own objects (a lock, a child for each bucket) cost a leader 5 % of its time at 200 messages a
second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

QUEUE_LABELS_MAX = 100
CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_HELD = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)  # R9's limits
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
    "histogram", "trivet_loop_held_seconds", "How long one driver turn held the event loop.", buckets=_HELD
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

Labels = tuple[str, ...]
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _Buckets:
    """What a histogram counts for one set of labels."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)  # not cumulative; the last one is above all bounds
        self.total = 0.0


class Metrics(Collector):
    """One node's values. Runs in the loop's thread only."""

    def __init__(self, *, process: bool = False) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._numbers: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Buckets]] = {}
        self._refreshers: list[Callable[[Metrics], None]] = []
        for metric in TABLE.values():
            # What has no labels is shown from the start.
            if metric.kind == "histogram":
                self._histograms[metric.name] = {} if metric.labels else {(): _Buckets(metric.buckets)}
            else:
                self._numbers[metric.name] = {} if metric.labels else {(): 0.0}
        self._registry.register(self)
        if process:
            ProcessCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    def inc(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Counters and gauges. Raises `ValueError` for a counter that would fall."""
        if amount < 0 and metric.kind == "counter":
            raise ValueError(f"{metric.name} only rises")
        values = self._numbers[metric.name]
        key = _key(metric, labels)
        values[key] = values.get(key, 0.0) + amount

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Gauges, and counters that are counted elsewhere: those only rise."""
        values = self._numbers[metric.name]
        key = _key(metric, labels)
        values[key] = max(value, values.get(key, 0.0)) if metric.kind == "counter" else value

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Histograms."""
        held = self._histograms[metric.name]
        key = _key(metric, labels)
        buckets = held.get(key)
        if buckets is None:
            buckets = held[key] = _Buckets(metric.buckets)
        buckets.counts[bisect_left(metric.buckets, value)] += 1
        buckets.total += value

    def clear(self, metric: Metric) -> None:
        """Forget every value of a labelled gauge, before a refresher fills it anew."""
        assert metric.labels and metric.kind == "gauge", metric.name
        self._numbers[metric.name].clear()

    def value(self, metric: Metric, **labels: str) -> float:
        """The present value (of a histogram: its count), for tests and `status`."""
        key = _key(metric, labels)
        if metric.kind == "histogram":
            buckets = self._histograms[metric.name].get(key)
            return 0.0 if buckets is None else float(sum(buckets.counts))
        return self._numbers[metric.name].get(key, 0.0)

    def on_scrape(self, refresh: Callable[[Metrics], None]) -> None:
        """`refresh` runs before each rendering."""
        self._refreshers.append(refresh)

    def render(self) -> bytes:
        """The Prometheus text, to be sent with `CONTENT_TYPE`."""
        for refresh in self._refreshers:
            refresh(self)
        return bytes(generate_latest(self._registry))

    def collect(self) -> Iterator[Family]:
        """The values as the library's families (its registry asks)."""
        for metric in TABLE.values():
            if metric.kind == "histogram":
                yield self._histogram(metric)
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in self._numbers[metric.name].items():
                family.add_metric([str(each) for each in labels], value)
            yield family

    def _histogram(self, metric: Metric) -> HistogramMetricFamily:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, buckets in self._histograms[metric.name].items():
            counts = [float(count) for count in accumulate(buckets.counts)]
            named = [str(each) for each in labels]
            family.add_metric(named, list(zip(bounds, counts, strict=True)), buckets.total)
        return family


def _key(metric: Metric, labels: dict[str, str]) -> Labels:
    """The values of a metric's labels in their order. Raises `KeyError` for one that is missing."""
    return tuple([labels[name] for name in metric.labels]) if metric.labels else ()
