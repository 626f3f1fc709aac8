"""What the model remembers: messages, queues, groups, keys, effects; and the constants of the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

BLOCKED, DELAYED, READY, LEASED = "blocked", "delayed", "ready", "leased"
DONE, DEAD, CANCELLED = "done", "dead", "cancelled"
STATES = (BLOCKED, DELAYED, READY, LEASED, DONE, DEAD, CANCELLED)
WAITING = frozenset((BLOCKED, DELAYED, READY))
UNFINISHED = frozenset((*WAITING, LEASED))

MINUTE, DAY = 60_000, 86_400_000
REQUEST_WINDOW = SETTLE_WINDOW = MINUTE  # R12, R14
EFFECT_TTL, EFFECT_RETENTION = 5 * MINUTE, 7 * DAY
EFFECT_TOKENS_KEPT = 100
ATTEMPTS_KEPT = 20
RETAINED_BYTES_MAX, RETAINED_OVERHEAD = 256 << 20, 512  # R24
OVERDUE_PER_LEASE = 1000

# Kinds of deadlines, in the order in which those of one instant and one record come.
WAKE_MESSAGE, WAKE_LEASE, WAKE_KEY, WAKE_EFFECT, WAKE_GRANT = range(5)

CONFIG: dict[str, Any] = {
    "lease_ms": 30_000,
    "max_attempts": 5,
    "backoff": {
        "type": "exponential",
        "base_ms": 1000,
        "factor_milli": 2000,
        "max_ms": 300_000,
        "jitter_milli": 500,
        "delays_ms": (),
    },
    "ttl_ms": None,
    "dead_retention_ms": 14 * DAY,
    "max_dead": 100_000,
    "idempotency_window_ms": 60 * MINUTE,
    "retention_ms": 0,
    "result_retention_ms": 60 * MINUTE,
    "max_messages": None,
    "max_bytes": None,
    "on_full": "reject",
    "max_leased": None,
    "max_leased_per_group": 1,
}


class Refused(Exception):
    """The command is refused with this code, and nothing was changed."""


@dataclass(slots=True, eq=False)
class Lease:
    fence: int
    consumer: str
    started: int
    length: int
    expires: int
    cancelled: bool = False
    effects: dict[str, Effect] = field(default_factory=dict)  # granted under it and not ended


@dataclass(slots=True, eq=False)
class Message:
    """`serial`: the order of birth. `number`: the broker's id for it, once somebody was told.
    `body`: a digest, so that a drill's bodies need not be held; `print`: what a key is compared by."""

    serial: int
    queue: Queue
    body: bytes
    print: bytes
    size: int
    priority: int
    enqueued: int
    due: int
    expires: int | None
    group: str | None
    key: str | None
    ttl: int | None
    run: bool
    max_attempts: int | None
    backoff: dict[str, Any] | None
    lease_ms: int | None
    retention: int | None
    depends_on: tuple[int, ...]
    runs_anyway: bool
    state: str = BLOCKED
    number: int | None = None
    place: int = 0
    ready_at: int = 0
    group_order: int = 0
    attempt: int = 0
    pending: list[int] = field(default_factory=list)  # numbers
    lease: Lease | None = None
    history: list[tuple[str, int]] = field(default_factory=list)  # (outcome, fence), the last ones
    result: bytes | None = None
    reason: str | None = None
    gone: bool = False
    held: bool = False  # finished, and kept by its flow
    origin: str = ""  # saga | flow | compensation
    run_id: str | None = None
    ticket: int = 0  # of the entry of the ready heap that counts
    wake: tuple[int, int, int] | None = None


@dataclass(slots=True, eq=False)
class Key:
    serial: int
    name: str
    queue: Queue
    message: Message
    print: bytes
    expires: int
    final: str | None = None
    wake: tuple[int, int, int] | None = None


@dataclass(slots=True, eq=False)
class Group:
    name: str
    waiting: list[tuple[int, int, Message]] = field(default_factory=list)  # heap by group order, lazy
    leased: int = 0
    offered: Message | None = None


@dataclass(slots=True, eq=False)
class Queue:
    name: str
    config: dict[str, Any]
    revision: int
    paused_enqueue: bool = False
    paused_lease: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    bytes: int = 0  # of what is unfinished
    members: dict[int, Message] = field(default_factory=dict)  # by serial
    ready: list[tuple[int, int, int, Message]] = field(default_factory=list)  # heap, lazy
    dead: dict[int, Message] = field(default_factory=dict)  # by serial
    dead_order: list[tuple[int, int, Message]] = field(default_factory=list)  # heap, lazy
    groups: dict[str, Group] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    # what S15 is recounted from
    enqueued: int = 0
    ended: int = 0  # left the unfinished states for good: done, dead, cancelled
    vanished: int = 0  # purged
    revived: int = 0  # came (back) by a redrive

    @property
    def live(self) -> int:
        return sum(self.counts[state] for state in UNFINISHED)


@dataclass(slots=True, eq=False)
class Effect:
    serial: int
    id: str
    state: str = "open"
    owner: str = ""
    fence: int = 0
    holder: Message | None = None  # of a grant bound to a lease
    lease_fence: int = 0
    ends: int = 0
    uncertain: bool = False
    aborted: bool = False
    result: bytes | None = None
    message: Message | None = None
    older: list[int] = field(default_factory=list)
    forget: int = 0
    wake: tuple[int, int, int] | None = None


def lease_mac(secret: bytes, fence: int, number: int) -> bytes:
    """R13, from the rule's text: BLAKE2b-128(key = cluster secret, fence, message id)."""
    data = b"L" + fence.to_bytes(8, "big") + number.to_bytes(8, "big")
    return blake2b(data, digest_size=16, key=secret).digest()


def effect_mac(secret: bytes, fence: int, effect_id: str) -> bytes:
    data = b"E" + fence.to_bytes(8, "big") + effect_id.encode()
    return blake2b(data, digest_size=16, key=secret).digest()


def longest_backoff(value: dict[str, Any], attempt: int) -> int:
    """The delay before jitter, after failed delivery `attempt`."""
    if value["type"] == "fixed":
        return int(value["base_ms"])
    if value["type"] == "list":
        delays = value["delays_ms"]
        return int(delays[min(attempt, len(delays)) - 1]) if delays else 0
    delay = int(value["base_ms"]) << 40
    for _ in range(attempt - 1):
        delay = delay * value["factor_milli"] // 1000
        if delay >> 40 >= value["max_ms"]:
            break  # more factors of at least 1 change nothing
        if value["factor_milli"] < 1000 and delay >> 40 == 0:
            break
    return int(min(delay >> 40, value["max_ms"]))


def drawn_share(secret: bytes, number: int, attempt: int) -> int:
    """The keyed hash that decides a backoff's jitter, of 2**32 (contract 3)."""
    data = b"J" + number.to_bytes(8, "big") + attempt.to_bytes(8, "big")
    return int.from_bytes(blake2b(data, digest_size=4, key=secret).digest(), "big")
