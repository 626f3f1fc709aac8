"""R1's W: what time a quorum says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


def quorum_wall_ms(engine: Engine) -> int | None:
    """The lower median of the wall clocks a quorum last reported, its own included, brought to now by our own
    monotonic clock. One wrong clock among three or more never moves it upwards, and never below a right one that
    is not alone. None unless this node leads and a quorum answered within the election timeout."""
    if not engine.is_leader:
        return None
    now = engine.now()
    since = now - engine.settings.election_max_ms / 1000
    clocks = [engine.clock.wall_ms()]
    for peer in engine.replication.counted_peers():
        if peer.health is not None and peer.health_at >= since:
            clocks.append(peer.health.wall_ms + int((now - peer.health_at) * 1000))
    if len(clocks) < engine.peers.quorum:
        return None
    return sorted(clocks)[(len(clocks) - 1) // 2]
