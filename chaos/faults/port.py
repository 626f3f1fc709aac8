"""What a fault is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from chaos.cluster import DrillCluster


class NotFired(Exception):
    """The fault did not take effect, and the text says why: the drill proves nothing of it and is invalid."""


class Fault(Protocol):
    """One way to hurt a cluster. Objects have no state of their own: one serves many strokes."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]:
        """What must be there, of `root strace nft gcc own_disks`."""
        ...

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        """Parameters as JSON for a cluster of `size` nodes: nothing but `rng` decides them.

        `hold_s`: seconds that the runner waits between the end of `fire` and `heal` (0 if absent).
        """
        ...

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        """Do it, wait until it has taken effect, and return the evidence (JSON) that it has.

        `nodes` in the evidence: ids of the nodes struck; `t`: `time.monotonic_ns()` of the stroke.
        Raises `NotFired`.
        """
        ...

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        """Undo it, also after `NotFired`. Starts what is down; does not wait until it is ready."""
        ...
