"""What a batch of seeds must have met somewhere: rare states that no seed meets for sure, each a counter.

A list that is never reached proves that a fault, a guard or a workload does nothing. `run.py` prints those not
reached; with 1,000 seeds and more that is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.simulation.nemesis import AIMS
from tests.simulation.options import FAULTS

SEEDS_TO_TELL = 200
SEEDS_TO_FAIL = 1000

BOTH = (
    *(f"fault {kind}" for kind in FAULTS),
    *(f"nodes: {count}" for count in (1, 3, 5)),
    *(f"rot: {kind} of log" for kind in ("flip", "zero", "cut", "stale", "misdirect")),
    *(f"rot: {kind} of hard" for kind in ("flip", "zero", "cut", "remove", "stale")),
    *(f"rot: {kind} of snap" for kind in ("flip", "zero", "cut", "remove", "misdirect")),
    "elections won", "event stepped_down", "event birth", "log truncated", "recovering at boot", "event recovered",
    "event member_whole", "event snapshot_taken", "event snapshot_sending", "event snapshot_installed",
    "event transfer_started", "link found dead", "sent TimeoutNow", "sent StaleTerm", "datagram doubled",
    "datagram late", "died: power cut in a disk call", "died: crash at boot", "died: disk error at boot",
    "died of EIO", "sync job waits for space", "damage without effect", "boot refused after damage",
    "died of damage found while running", "old answer again",
    *(f"aimed at {operation} of {prefix}" for operation, prefix, _ in AIMS),
    "power lost after an ack", "reads served", "reads refused",
    "reads at a deposed leader", "reads at a leader that was paused", "unknown: node died",
    "entries left to the timer", "core smaller than the cluster", "core without a recovering member",
)  # fmt: skip

ONLY = {
    "list": ("acked", "not proposed: not_leader", "unknown: deadline", "unknown: lost_leadership"),
    "queue": (
        "seeds judged by the model", "requests repeated", "answered with the first answer", "repeats in the log",
        "client gave up", "redeliveries", "stale tokens refused", "settled repeats", "ack said stale_lease",
        "dead by nack", "redriven", "dependents delivered", "acks with enqueue", "duplicates by key",
        "cancelled while leased", "cancelled", "effects committed", "effects aborted", "effects uncertain",
        "slots fired", "slots blocked", "slots stale", "slots skipped", "slots missed", "slots decided late",
        "schedules run by hand", "steady schedules seen to the end",
        "several wrong clocks", "one wrong clock", "flows done", "flows failed", "sagas undone",
        "events read", "readers went on at another node", "nodes behind their reader", "repeated events dropped",
        "steps replayed",
        "messages published", "replayed", "caught up", "publishes while a group caught up",
        "duplicates by a topic's key", "compensations delivered",
    ),
}  # fmt: skip


def unreached(counts: Mapping[str, int] | Counter[str], machine: str) -> list[str]:
    """Those of the machine's list that no seed has counted."""
    return [name for name in (*BOTH, *ONLY[machine]) if not counts.get(name, 0)]
