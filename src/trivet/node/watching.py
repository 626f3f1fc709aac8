"""What a node shows of itself: role changes, metrics, log lines, and the body of `/v1/cluster`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from heapq import nsmallest
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import msgspec

from trivet import __version__
from trivet.consensus.port import Applied, Outcome, OutOfTime
from trivet.consensus.status import MemberStatus, ReplicaStatus
from trivet.machine import views
from trivet.machine.commands import MACHINE_VERSION
from trivet.machine.persistent import Totals
from trivet.node.applier import Applier, OnEffects
from trivet.observability import metrics as m
from trivet.observability.logs import Events, Log
from trivet.observability.metrics import Metrics
from trivet.units import Clock

if TYPE_CHECKING:
    from trivet.node.runtime import Node

LOOP_HELD_LOGGED_SECONDS = 0.1
REFUSAL_LOG_SECONDS = 5.0  # the same kind of line at most so often
CAUGHT_UP_ENTRIES = (
    100  # under load a healthy follower is some twenty behind; this many are applied in a moment
)
CONTACT_FRESH_MS = 2_000

Done = Callable[[Outcome], None]


class NodeObserver:
    """`driver.Observer` into metrics."""

    def __init__(self, meters: Metrics, log: Log, clock: Clock) -> None:
        self._meters = meters
        self._log = log
        self._clock = clock
        self._logged_at = float("-inf")

    def turned(self, held_s: float) -> None:
        self._meters.observe(m.LOOP_HELD_SECONDS, held_s)
        if held_s >= LOOP_HELD_LOGGED_SECONDS:
            now = self._clock.monotonic()
            if now - self._logged_at >= REFUSAL_LOG_SECONDS:
                self._logged_at = now
                self._log(Events.LOOP_HELD, held_ms=round(held_s * 1000), phase="turn")

    def synced(self, took_s: float) -> None:
        self._meters.observe(m.FSYNC_SECONDS, took_s)

    def proposed(self, size: int) -> None:
        self._meters.inc(m.PROPOSALS)


class TimedApplier(Applier):
    """The applier with the time of each entry measured, over all its slices."""

    def __init__(self, on_effects: OnEffects, meters: Metrics) -> None:
        super().__init__(on_effects)
        self._meters = meters
        self._spent_s = 0.0

    def start(self, index: int, term: int, data: bytes) -> None:
        super().start(index, term, data)
        self._spent_s = 0.0

    def step(self, out_of_time: OutOfTime) -> bool:
        started = time.perf_counter()
        done = super().step(out_of_time)
        self._spent_s += time.perf_counter() - started
        if done:
            self._meters.observe(m.APPLY_SECONDS, self._spent_s)
        return done


class Watcher:
    """Looks at the node once a turn, and when somebody scrapes or asks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: tuple[str, str | None, int, bool] = ("follower", None, 0, False)
        self._leader_heard_at: float | None = None  # when any leader was last heard of, this node included
        self._first_target: int | None = (
            None  # what the leader had committed when it was first heard: not nothing
        )
        self._office: int | None = None  # the term in which this node leads and has caught up
        self._refusals: dict[str, float] = {}
        self._totals: dict[int, tuple[int, ...]] = {}  # by queue uid, as of the last scrape
        self._forgotten: dict[str, int] = {}
        node.meters.on_scrape(self._refresh)

    # --- turns ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """`driver.on_turn`: tells broker and duties when role, leader, term or office changed."""
        node, replica = self._node, self._node.replica
        self.leader_contact_age_ms()
        if self._first_target is None:
            self._first_target = replica.leader_commit or None
        # Office, not `can_propose`: a full line or a hand-over that failed does not begin a new one (R1).
        office = replica.term if replica.caught_up else None
        if office is not None and office != self._office:
            node.duties.take_office()
        self._office = office
        now = (replica.role, replica.leader, replica.term, office is not None)
        if now == self._seen:
            return
        before, self._seen = self._seen, now
        if now[1] is not None and now[1:3] != before[1:3]:
            node.meters.inc(m.LEADER_CHANGES)
        if now[:3] != before[:3]:
            node.log(Events.ROLE_CHANGED, role=now[0], term=now[2], leader=now[1])
        node.broker.role_changed()

    def timed(self, batch: tuple[bytes, Done]) -> tuple[bytes, Done]:
        """The batch with its time to commit measured."""
        data, done = batch
        node, proposed_at = self._node, self._node.clock.monotonic()

        def ended(outcome: Outcome) -> None:
            if isinstance(outcome, Applied):
                node.meters.observe(m.COMMIT_SECONDS, node.clock.monotonic() - proposed_at)
                node.meters.observe(m.BATCH_REQUESTS, len(outcome.result))
            done(outcome)

        return data, ended

    # --- events -----------------------------------------------------------------------------------------

    def refused(self, peer: str | None, address: str, reason: str) -> None:
        """A connection was turned away. One line in five seconds for each reason, however often it comes."""
        kind = f"{peer} {reason.split(':')[0]}"
        if self._quiet(kind):
            return
        self._node.log(Events.PEER_REFUSED, peer=peer or "", address=address, reason=reason)

    def _quiet(self, kind: str) -> bool:
        now = self._node.clock.monotonic()
        if now - self._refusals.get(kind, float("-inf")) < REFUSAL_LOG_SECONDS:
            return True
        if len(self._refusals) > 100:
            self._refusals.clear()
        self._refusals[kind] = now
        return False

    def consensus(self, what: str, fields: dict[str, Any]) -> None:
        """An event of the replica."""
        node = self._node
        if what == "snapshot_taken":
            node.meters.inc(m.SNAPSHOTS)
        if not self._quiet(f"consensus {what}"):
            node.log(Events.CONSENSUS, what=what, detail=fields)

    # --- health -----------------------------------------------------------------------------------------

    def leader_contact_age_ms(self) -> int | None:
        """Since a leader was last heard of, also when none is known now; None: never in this run."""
        now = self._node.clock.monotonic()
        age_ms = self._node.replica.leader_contact_ms
        if age_ms is not None:
            self._leader_heard_at = now - age_ms / 1000
        return None if self._leader_heard_at is None else round((now - self._leader_heard_at) * 1000)

    def quorum_critical(self) -> bool:
        """Whether the members without this one, as far as it can see, are fewer than a quorum. A leader sees more: who
        lacks much of its log does not count, since no write would end before that one has it."""
        node = self._node
        others = [one for one in node.replica.status().members if one.node_id != node.node_id]
        whole = sum(
            1
            for one in others
            if one.reachable and not one.recovering and (one.lag is None or one.lag <= CAUGHT_UP_ENTRIES)
        )
        return whole < len(node.members) // 2 + 1

    def caught_up(self) -> bool:
        """Knows a leader, has heard of it lately, and has applied about what the leader said was committed: all of what
        that was when this node first heard of it."""
        replica = self._node.replica
        committed = replica.leader_commit
        if replica.recovering or committed is None or self._first_target is None:
            return False
        if replica.applied_index < max(self._first_target, committed - CAUGHT_UP_ENTRIES):
            return False
        if replica.is_leader:
            return replica.caught_up
        age_ms = replica.leader_contact_ms
        return age_ms is not None and age_ms < CONTACT_FRESH_MS

    def cluster(self) -> dict[str, Any]:
        """`GET /v1/cluster` as this node sees it; built from what is at hand."""
        node, status = self._node, self._node.replica.status()
        have = sum(1 for one in status.members if one.reachable and not one.recovering)
        return {
            "cluster_id": status.cluster_id or None,
            "phase": status.phase,
            "waiting_for": status.waiting_for or None,
            "node": node.node_id,
            "leader": status.leader,
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "snapshot_index": status.snapshot_index,
            "quorum": {"size": len(node.members) // 2 + 1, "have": have},
            "members": [self._member(one) for one in status.members],
            "elections": [
                {"term": one.term, "leader": one.leader, "at_ms": one.at_ms, "reason": one.reason}
                for one in status.elections
            ],
            "versions": {"trivet": __version__, "machine": MACHINE_VERSION, "tzdata": _tzdata_version()},
            "alarms": self.alarms(status),
        }

    def alarms(self, status: ReplicaStatus) -> list[str]:
        """Each begins with its name; after a colon, if at all, come details."""
        found = [*self._node.duties.alarms, *status.alarms]
        pressure = self._node.duties.pressure
        if pressure.disk or pressure.floor:
            found.append("disk_full: below the reserve, enqueues are refused")
        if pressure.memory:
            found.append("memory_pressure: over the limit, enqueues are refused")
        return found

    def _member(self, one: MemberStatus) -> dict[str, Any]:
        node = self._node
        addresses = node.config.members
        return {
            "id": one.node_id,
            "api": node.urls.get(one.node_id),
            "raft": str(addresses[one.node_id]) if one.node_id in addresses else None,
            "role": one.role,
            "recovering": one.recovering,
            "version": one.software or None,
            "machine_version": one.machine_version,
            "term": one.term,
            "commit_index": one.commit,
            "applied_index": one.applied,
            "match_index": one.match,
            "lag": one.lag,
            "last_contact_ms": self._contact_ms(one),
            "reachable": one.reachable,
            "disk_free_bytes": one.free_bytes,
            "memory_pressure": one.memory_pressure,
        }

    def _contact_ms(self, one: MemberStatus) -> int | None:
        """Two followers say nothing to each other but that they are there."""
        quiet_s = self._node.links.quiet_for(one.node_id)
        if quiet_s is None:
            return one.last_contact_ms
        return (
            round(quiet_s * 1000)
            if one.last_contact_ms is None
            else min(round(quiet_s * 1000), one.last_contact_ms)
        )

    # --- metrics ----------------------------------------------------------------------------------------

    def _refresh(self, meters: Metrics) -> None:
        node, replica = self._node, self._node.replica
        pressure, links = node.duties.pressure, node.links
        latest = node.storage.snapshots.latest
        for metric, value in (
            (m.IS_LEADER, replica.is_leader),
            (m.HAS_LEADER, replica.leader is not None),
            (m.TERM, replica.term),
            (m.COMMIT_INDEX, replica.commit_index),
            (m.APPLIED_INDEX, replica.applied_index),
            (m.LOG_ENTRIES, node.storage.last_index - node.storage.base_index),
            (m.RECOVERING, bool(replica.recovering)),
            (m.PEERS_UP, len(links.connected)),
            (m.DISK_FREE_BYTES, pressure.free_bytes),
            (m.MEMORY_BYTES, pressure.memory_bytes),
            (m.MEMORY_LIMIT_BYTES, pressure.memory_limit_bytes),
            (m.SNAPSHOT_INDEX, 0 if latest is None else latest.index),
            (m.FRAMES_IN, links.traffic.frames_in),
            (m.FRAMES_OUT, links.traffic.frames_out),
            (m.BYTES_IN, links.traffic.bytes_in),
            (m.BYTES_OUT, links.traffic.bytes_out),
            (m.PEER_DROPS, links.traffic.drops),
            (m.EXPIRED, node.duties.expired),
            (m.SLOTS_FIRED, node.duties.fired),
        ):
            meters.set(metric, float(value))
        meters.set(m.PRESSURE, float(pressure.disk or pressure.floor), reason="disk")
        meters.set(m.PRESSURE, float(pressure.memory), reason="memory")
        meters.set(m.BUILD, 1, version=__version__, python=platform.python_version())
        for peer in node.members:
            if peer != node.node_id:
                meters.set(m.PEER_UP, float(peer in links.connected), peer=peer)
        meters.clear(m.ALARM)
        for alarm in self.alarms(replica.status()):
            meters.set(m.ALARM, 1, alarm=alarm.split(":")[0])
        self._refresh_totals(meters)
        self._refresh_queues(meters)
        self._refresh_topics(meters)
        schedules = self._node.machine.schedules.by_name
        meters.set(m.SCHEDULES, len(schedules))
        meters.set(m.SCHEDULES_BLOCKED, sum(one.blocked is not None for one in schedules.values()))

    def _refresh_totals(self, meters: Metrics) -> None:
        """Differences since the last scrape, so that a deleted queue does not make a counter fall."""
        seen: dict[int, tuple[int, ...]] = {}
        sums = [0] * len(Totals.__struct_fields__)
        nothing = (0,) * len(sums)
        for queue in self._node.machine.queues.values():
            now = msgspec.structs.astuple(queue.totals)
            before = self._totals.get(queue.uid, nothing)
            seen[queue.uid] = now
            for place, (new, old) in enumerate(zip(now, before, strict=True)):
                sums[place] += new - old
        self._totals = seen
        for event, count in zip(Totals.__struct_fields__, sums, strict=True):
            meters.inc(m.MESSAGES, max(0, count), event=event)
        machine = self._node.machine
        for what in ("settled", "retained", "dead", "runs"):
            count = getattr(machine, what + "_forgotten")
            meters.inc(m.FORGOTTEN, max(0, count - self._forgotten.get(what, 0)), what=what)
            self._forgotten[what] = count
        meters.set(m.RUNS, len(machine.runs))
        meters.set(m.RUN_EVENT_BYTES, machine.run_bytes)

    def _refresh_queues(self, meters: Metrics) -> None:
        """The first `QUEUE_LABELS_MAX` queues by name: a label for each of ten thousand would drown a scrape."""
        machine = self._node.machine
        for metric in (m.QUEUE_MESSAGES, m.QUEUE_BYTES, m.QUEUE_OLDEST_SECONDS):
            meters.clear(metric)
        now_ms = self._node.broker.now_ms
        found, _ = views.queues(machine, m.QUEUE_LABELS_MAX, None, now_ms)
        meters.set(m.QUEUES, len(machine.queues))
        for queue in found:
            name = queue["queue"]
            for state in ("ready", "delayed", "leased", "dead", "blocked"):
                meters.set(m.QUEUE_MESSAGES, queue[state], queue=name, state=state)
            meters.set(m.QUEUE_BYTES, queue["bytes"], queue=name)
            age_ms = queue.get("oldest_ready_age_ms")
            meters.set(m.QUEUE_OLDEST_SECONDS, 0 if age_ms is None else age_ms / 1000, queue=name)

    def _refresh_topics(self, meters: Metrics) -> None:
        """The first so many by name, as of queues. Their groups are queues."""
        topics = self._node.machine.topics
        meters.set(m.TOPICS, len(topics))
        for metric in (m.TOPIC_MESSAGES, m.TOPIC_BYTES):
            meters.clear(metric)
        for name in nsmallest(m.QUEUE_LABELS_MAX, topics):
            meters.set(m.TOPIC_MESSAGES, topics[name].entries.live, topic=name)
            meters.set(m.TOPIC_BYTES, topics[name].bytes, topic=name)


def _tzdata_version() -> str | None:
    try:
        return version("tzdata")
    except PackageNotFoundError:
        return None
