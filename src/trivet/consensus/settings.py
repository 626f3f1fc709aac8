"""The numbers of consensus. Times are milliseconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass

from trivet.units import KIB, MIB


@dataclass(frozen=True, slots=True)
class ConsensusSettings:
    """Every field has a sound default; the configuration offers only a few of them.

    Raises `ValueError` where a combination cannot work.
    """

    heartbeat_ms: int = 100
    election_min_ms: int = 400
    election_max_ms: int = 800
    failover_min_ms: int = 10
    """Shortest wait between a lost leader connection and the pre-vote (R34)."""
    failover_spread_ms: int = 50
    """The members' waits are spread over this much, one slot each, so that they do not split the vote."""
    failover_hurry_ms: int = 1_000
    """For so long after a lost leader connection rounds repeat quickly instead of at the election timeout."""
    stall_ms: int = 1_000
    """A leader whose oldest write is not durable for so long hands over (R34)."""
    transfer_ms: int = 2_000
    """A hand-over that has not happened by then is given up and the leader goes on."""
    slice_ms: float = 2.5
    """One turn of applying, snapshotting or installing: half of what R9 and R25 allow, for a turn waits for its core,
    too, where members share one."""
    append_bytes: int = 1 * MIB
    """Entries in one message; one longer entry travels alone."""
    window_bytes: int = 8 * MIB
    window_frames: int = 64
    """What may be on the way to one member, unanswered."""
    snapshot_chunk_bytes: int = 512 * KIB
    snapshot_window: int = 4
    """Chunks on the way to one member, unanswered."""
    pending_max: int = 256
    pending_bytes_max: int = 64 * MIB
    """Own proposals not yet applied; above it `propose` answers `overloaded`."""
    bootstrap: bool = False
    """This member wishes the cluster to be born (R5)."""
    disk_floor_bytes: int = 0
    """Below so many free bytes a follower takes no entries (R10). 0: no floor."""
    api_url: str = ""
    software: str = ""
    machine_version: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ms * 3 < self.election_min_ms < self.election_max_ms:
            raise ValueError(
                f"heartbeat {self.heartbeat_ms} ms must be less than a third of the election timeout "
                f"{self.election_min_ms}..{self.election_max_ms} ms"
            )
        if min(self.append_bytes, self.window_bytes, self.window_frames, self.snapshot_chunk_bytes) <= 0:
            raise ValueError("sizes and windows must be positive")
