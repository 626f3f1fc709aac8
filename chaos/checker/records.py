"""The first judge's records: calls, what was sent, given, ended and read, as the clients saw it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from chaos.history import FAIL, OK

Place = tuple[int, int]
"""(index, seq) of a command in the log, as the answer says it."""

GOOD = frozenset(("acked", "nacked", "dead", "extended", "released"))
to_json = msgspec.json.Encoder(order="sorted").encode
FOREVER = 1 << 62


def digest(body: Any) -> bytes:
    return blake2b(to_json(body), digest_size=12).digest()


def where(body: dict[str, Any], queue: str) -> tuple[Any, ...]:
    """What a body is known by: where it comes from and what it is; in a topic's groups, there each for itself."""
    at = (body.get("op"), body.get("i"), digest(body))
    return (*at, queue) if ":" in queue else at


def listed(at: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same for a body without its padding."""
    return (*at[:2], *at[3:])


def fence_of(token: str | None) -> int | None:
    """The fencing number in a token (R13), None if it is none."""
    try:
        raw = base64.urlsafe_b64decode(token or "")
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(raw[:8], "big") if len(raw) == 24 else None


@dataclass(slots=True, eq=False)
class Call:
    """An operation without its contents. `place`: None unless answered with one."""

    op: int
    proc: str
    f: str
    type: str
    inv: int
    ret: int
    place: Place | None
    repeated: bool
    code: str | None

    @property
    def may_have_happened(self) -> bool:
        return self.type != FAIL

    @property
    def is_first(self) -> bool:
        """Answered as the first application of its command (an SDK's own repeat may have fetched it)."""
        return self.type == OK and self.place is not None


@dataclass(slots=True, eq=False)
class Sent:
    """One body that somebody enqueued, once or again. `ids`: what the broker called it, and who was told."""

    op: int
    i: int
    queue: str
    group: str | None
    key: str | None
    window: int | None
    delay: int | None
    ttl: int | None
    max_attempts: int | None
    parent: str | None
    n: int | None
    size: int
    calls: list[Call] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    born: list[tuple[Place, str, Call]] = field(default_factory=list)  # answers with `duplicate: false`
    seen: bool = False


@dataclass(slots=True, eq=False)
class Grant:
    id: str
    queue: str
    token: str
    fence: int
    place: Place
    attempt: int
    now: int
    expires: int
    enqueued: int
    group: str | None
    call: Call


@dataclass(slots=True, eq=False)
class End:
    """One item of a settle: `status` None when its answer is unknown."""

    verb: str
    token: str
    id: str | None
    status: str | None
    repeated: bool
    call: Call
    deliver_at: int | None = None
    expires: int | None = None
    dead_letter: bool = False

    @property
    def counted(self) -> bool:
        """It took effect, here and for the first time."""
        return self.status in GOOD and not self.repeated


@dataclass(slots=True, eq=False)
class Step:
    """One call about an effect. `kind`: begin | commit | abort | ack. `state`: what was answered."""

    kind: str
    effect: str
    token: str | None
    lease: str | None
    state: str | None
    uncertain: bool
    repeated: bool
    call: Call


@dataclass(slots=True, eq=False)
class Seen:
    """A read of one message, effect or queue."""

    call: Call
    asof: int | None
    local: bool
    state: str | None
    told: dict[str, Any]


@dataclass(slots=True, eq=False)
class Timetable:
    """A schedule as it was put: an interval. `anchor`: where it counts from, once somebody was told."""

    op: int
    queue: str
    every: int
    calls: list[Call] = field(default_factory=list)
    anchor: int | None = None


@dataclass(slots=True, eq=False)
class FlowStep:
    """`undo`: its compensation, which exists only if it came to that."""

    id: str
    sent: Sent
    after: list[str]
    undo: Sent | None


@dataclass(slots=True, eq=False)
class Flow:
    """`is_known`: its creation was acknowledged."""

    op: int
    steps: list[FlowStep]
    is_known: bool
