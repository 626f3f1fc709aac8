"""What the calls about the cluster and its health answer: see `shapes`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Role = Literal["leader", "follower", "candidate", "unknown"]


class Quorum(Struct):
    size: int
    have: int


class Member(Struct, kw_only=True):
    """As the node asked sees it; null is unknown."""

    id: str
    api: str | None
    raft: str | None
    role: Role
    recovering: bool
    version: str | None
    machine_version: int | None
    term: int | None
    commit_index: int | None
    applied_index: int | None
    match_index: int | None
    lag: int | None
    last_contact_ms: int | None
    reachable: bool
    disk_free_bytes: int | None
    memory_pressure: bool


class Election(Struct):
    term: int
    leader: str
    at_ms: int
    reason: str


class Versions(Struct):
    trivet: str
    machine: int
    tzdata: str | None


class Cluster(Struct, kw_only=True):
    cluster_id: str | None
    phase: str
    waiting_for: str | None
    node: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    quorum: Quorum
    members: list[Member]
    elections: list[Election]
    versions: Versions
    alarms: list[str]
    as_of: int


class Transferring(Struct):
    """Accepted: whether it came to pass is visible in the cluster's state."""

    to: str | None


class Accepted(Struct):
    index: int
    seq: int
    term: int


class Digest(Struct):
    """Equal indices have equal digests, on any node."""

    index: int
    digest: str
    as_of: int


class RoleTold(Struct):
    role: Role
    leader: str | None
    term: int
    lag: int


class Alive(Struct):
    status: Literal["alive"]


class Checks(Struct):
    leader: bool
    caught_up: bool
    not_draining: bool
    not_recovering: bool


class Readiness(Struct, kw_only=True):
    status: Literal["ready", "not_ready"]
    checks: Checks | UnsetType = UNSET
    applied_index: int | UnsetType = UNSET
    commit_index: int | UnsetType = UNSET


class Critical(Struct):
    critical: bool
