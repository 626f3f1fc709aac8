"""What a replica says of itself to operators. Built on demand from fields at hand; never blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trivet.consensus.contained import ROLES

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

ELECTIONS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Election:
    """A change of leadership as this node saw it. `at_ms`: wall clock of this node."""

    term: int
    leader: str
    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """`match`, `lag` (entries) and `counts` are known on the leader only; None elsewhere. `last_contact_ms`: since
    its last message here, None if there was none. `wall_ms`, `free_bytes`, `term`, `commit`, `applied`: as it last
    said (two followers say them to each other only when they connect)."""

    node_id: str
    role: str
    """leader | follower | candidate | unknown"""
    reachable: bool
    recovering: bool
    match: int | None
    lag: int | None
    counts: bool | None
    last_contact_ms: int | None
    api_url: str
    software: str
    machine_version: int | None
    wall_ms: int | None
    free_bytes: int | None
    memory_pressure: bool
    term: int | None
    commit: int | None
    applied: int | None


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    node_id: str
    cluster_id: str
    phase: str
    role: str
    term: int
    leader: str | None
    commit_index: int
    applied_index: int
    last_index: int
    durable_index: int
    base_index: int
    snapshot_index: int
    has_quorum: bool
    recovering: str | None
    transfer_to: str | None
    stalled_ms: int
    waiting_for: str
    """Why the cluster is not born yet; empty once it is."""
    members: tuple[MemberStatus, ...]
    elections: tuple[Election, ...]
    """The newest last, at most `ELECTIONS_KEPT`."""
    alarms: tuple[str, ...]


def build(engine: Engine) -> ReplicaStatus:
    storage = engine.storage
    latest = storage.snapshots.latest
    return ReplicaStatus(
        node_id=engine.me.id,
        cluster_id=engine.cluster_id,
        phase=engine.phase,
        role=ROLES[engine.state],
        term=engine.term,
        leader=engine.leader,
        commit_index=engine.commit_index,
        applied_index=engine.applied_index,
        last_index=storage.last_index,
        durable_index=storage.durable_index,
        base_index=storage.base_index,
        snapshot_index=latest.index if latest is not None else 0,
        has_quorum=engine.has_quorum,
        recovering=storage.recovering,
        transfer_to=engine.handover.target,
        stalled_ms=int(engine.handover.stalled_s * 1000),
        waiting_for=engine.waiting_for,
        members=tuple(_members(engine)),
        elections=tuple(engine.elections_seen),
        alarms=tuple(_alarms(engine)),
    )


def _members(engine: Engine) -> list[MemberStatus]:
    """All of them, this node included, in order of their ids."""
    rows = [_myself(engine)]
    now, last = engine.now(), engine.storage.last_index
    for peer in engine.peers:
        hello, health = peer.hello, peer.health
        leads = engine.is_leader
        role = "leader" if engine.leader == peer.name else "follower" if peer.connected else "unknown"
        rows.append(
            MemberStatus(
                node_id=peer.name,
                role=role,
                reachable=peer.connected,
                recovering=peer.recovering,
                match=peer.match if leads else None,
                lag=max(0, last - peer.match) if leads else None,
                counts=engine.replication.counts(peer) if leads else None,
                last_contact_ms=int((now - peer.heard_at) * 1000) if peer.heard_at >= 0 else None,
                api_url=hello.api_url if hello is not None else "",
                software=hello.software if hello is not None else "",
                machine_version=hello.machine_version if hello is not None else None,
                wall_ms=health.wall_ms if health is not None else None,
                free_bytes=health.free_bytes if health is not None else None,
                memory_pressure=health.memory_pressure if health is not None else False,
                term=peer.health_term if health is not None else None,
                commit=health.commit if health is not None else None,
                applied=health.applied if health is not None else None,
            )
        )
    return sorted(rows, key=lambda row: row.node_id)


def _myself(engine: Engine) -> MemberStatus:
    health, leads, settings = engine.health(), engine.is_leader, engine.settings
    return MemberStatus(
        node_id=engine.me.id,
        role=ROLES[engine.state],
        reachable=True,
        recovering=engine.recovery.active,
        match=engine.storage.durable_index if leads else None,
        lag=engine.storage.last_index - engine.storage.durable_index if leads else None,
        counts=True if leads else None,
        last_contact_ms=0,
        api_url=settings.api_url,
        software=settings.software,
        machine_version=settings.machine_version,
        wall_ms=health.wall_ms,
        free_bytes=health.free_bytes,
        memory_pressure=health.memory_pressure,
        term=engine.term,
        commit=engine.commit_index,
        applied=engine.applied_index,
    )


def _alarms(engine: Engine) -> list[str]:
    alarms = []
    if engine.storage.recovering is not None:
        alarms.append(f"recovering: {engine.storage.recovering}")
    if engine.refusal:
        alarms.append(f"birth: {engine.refusal}")
    if engine.disk_full:
        alarms.append("disk_full: below the floor, no entries are taken")
    stalled = engine.handover.stalled_s
    if stalled * 1000 >= engine.settings.stall_ms:
        alarms.append(f"disk_stalled: the oldest write waits for {stalled:.1f} s")
    alarms.extend(engine.standing_alarms)
    return alarms
