"""What the broker asks of the node it runs in. `runtime.py` is the real one; tests have a loopback.

The broker sits between HTTP and consensus and owns neither; these three protocols are all it sees of
the rest of the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Consensus(Protocol):
    """The part of `consensus.replica.Replica` that the broker reads and calls."""

    @property
    def role(self) -> str:
        """leader | follower | candidate"""
        ...

    @property
    def term(self) -> int: ...

    @property
    def leader(self) -> str | None:
        """Node id of the leader this node knows, itself included."""
        ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def can_propose(self) -> bool:
        """Leader, and an entry of its own term is committed."""
        ...

    @property
    def has_quorum(self) -> bool: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def recovering(self) -> str | None:
        """Why this node may not vote, lead or answer reads (R6); None in health."""
        ...

    def read(self, done: Callable[[bool], None], /) -> None:
        """`done(True)` once the state applied here is linearizable, `done(False)` if it cannot be."""
        ...

    def transfer(self, to: str | None = None) -> bool:
        """Begin to hand leadership over; False when no member is eligible."""
        ...

    def snapshot_now(self) -> Any: ...


class Host(Protocol):
    """The node around the broker: addresses, pressure, and what `/v1/cluster` shows."""

    node_id: str

    @property
    def draining(self) -> bool: ...

    def api_url(self, node_id: str) -> str | None:
        """Base URL of a member's API without a trailing slash; None while it is unknown."""
        ...

    def pressure(self) -> str | None:
        """None, or what forbids new messages now: `memory` (over its limit) | `disk` (under its reserve, R10)."""
        ...

    def leader_contact_age_ms(self) -> int | None:
        """Since the leader was last heard of; 0 on the leader itself; None: never."""
        ...

    def quorum_critical(self) -> bool:
        """Whether the cluster loses its quorum when this node stops."""
        ...

    def caught_up(self) -> bool:
        """Whether this node has applied about what the leader has committed."""
        ...

    def cluster(self) -> dict[str, Any]:
        """The body of `GET /v1/cluster` (api.md, Shapes). Never blocks, never asks another node."""
        ...

    def metrics(self) -> bytes:
        """Prometheus text."""
        ...
