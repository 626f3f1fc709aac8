"""The swarm: which faults a seed has, how often, and how the parts are sized. Drawn from the seed, printed."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field

FAULTS: dict[str, float] = {
    "cut_one_way": 1.0,
    "cut_pair": 1.0,
    "isolate": 1.5,
    "split": 1.0,
    "reset": 1.0,
    "kill": 1.5,
    "lose_machine": 1.0,
    "kill_at_disk_call": 1.5,
    "kill_majority": 0.4,
    "power_loss": 0.5,
    "pause": 1.0,
    "wall_jump": 0.7,
    "snapshot": 2.0,
    "transfer": 1.0,
    "bit_rot": 0.8,
    "wipe": 0.5,
    "sync_error": 0.5,
    "write_error": 0.3,
    "disk_full": 0.4,
    "slow_disk": 0.8,
    "clean_stop": 0.5,
    "power_after_ack": 1.0,
    "read_error": 0.4,
}


@dataclass
class Options:
    """One seed's swarm. `weights` holds only the faults this seed has."""

    nodes: int
    datagrams: bool  # True: loss, duplication, reordering inside a connection; False: FIFO like TCP
    latency: float  # typical one-way seconds
    jitter: float  # share of messages that take much longer
    loss: float
    duplicate: float
    fault_every: float  # mean seconds between faults
    sync_seconds: float  # typical fdatasync
    turn_seconds: float  # frames that arrive within it share a turn of the loop
    op_every: float  # mean seconds between client operations
    op_bytes: int
    read_share: float
    drift: float  # clock rate is 1 ± drift
    wall_spread_ms: int  # wall clocks differ by up to this at the start
    cpu_cost: float  # seconds that pass at each look at the monotonic clock
    segment_bytes: int
    batch_bytes: int
    snapshot_chunk_bytes: int
    snapshot_entries: int
    real_birth: bool  # the cluster is born by R5 under faults, else it is there from the start
    aimed_every: float  # mean seconds between power cuts aimed at one kind of disk call; 0: none
    rivals: bool  # members draw the same election timeouts: they stand against each other
    weights: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        values = asdict(self)
        weights = values.pop("weights")
        parts = [f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()]
        return (
            " ".join(parts) + " faults: " + (" ".join(f"{k}={v:.2g}" for k, v in weights.items()) or "none")
        )


def draw(rng: random.Random, nodes: int | None = None) -> Options:
    """A swarm: each fault is in or out with its own coin, so that some worlds have one kind only."""
    keep = rng.choice((0.25, 0.5, 0.8, 1.0))
    weights = {name: w * rng.choice((0.3, 1.0, 3.0)) for name, w in FAULTS.items() if rng.random() < keep}
    count = nodes if nodes is not None else rng.choice((3, 3, 3, 5, 5, 1))
    return Options(
        nodes=count,
        datagrams=rng.random() < 0.4,
        latency=rng.choice((0.0002, 0.001, 0.005, 0.02)),
        jitter=rng.choice((0.0, 0.01, 0.05)),
        loss=rng.choice((0.0, 0.02, 0.1)),
        duplicate=rng.choice((0.0, 0.02, 0.1)),
        fault_every=rng.choice((0.15, 0.4, 1.0, 2.5)),
        sync_seconds=rng.choice((0.0003, 0.002, 0.01, 0.05)),
        turn_seconds=rng.choice((0.0, 0.001, 0.004)),
        op_every=rng.choice((0.02, 0.05, 0.2)),
        op_bytes=rng.choice((8, 60, 400, 4000)),
        read_share=rng.choice((0.05, 0.2, 0.5)),
        drift=rng.choice((0.0, 0.001, 0.02)),
        wall_spread_ms=rng.choice((0, 20, 2_000, 3_600_000)),
        cpu_cost=rng.choice((0.0, 0.0, 0.00001, 0.0005)),
        segment_bytes=rng.choice((8192, 16384, 65536, 1 << 20)),
        batch_bytes=rng.choice((64, 400, 4096, 1 << 20)),
        snapshot_chunk_bytes=rng.choice((64, 512, 8192)),
        snapshot_entries=rng.choice((20, 100, 1 << 30)),
        real_birth=rng.random() < 0.2,
        rivals=rng.random() < 0.25,
        aimed_every=rng.choice((0.0, 0.0, 0.5, 2.0)),  # drawn last: what came before it stays as it was
        weights=weights,
    )
