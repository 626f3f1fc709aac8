"""What consensus asks of the state machine's side, and what it answers to those who propose.

The machine behind `StateMachine` is a black box of entries; `node/applier.py` is the real one and the
simulator's first machine a trivial one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

OutOfTime = Callable[[], bool]
"""True when the slice is used up and the callee must return to the loop (R9, R25: 5 ms)."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The entry is committed and applied here; `result` is what the machine answered."""

    index: int
    term: int
    result: Any


@dataclass(frozen=True, slots=True)
class NotProposed:
    """Definitely not applied, and never will be. `reason`: not_leader | overloaded | stopped | discarded | draining"""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may or may not take effect later. `reason`: deadline | lost_leadership | snapshot | stopped"""

    reason: str


Outcome = Applied | NotProposed | Unknown
"""The only three ends of a proposal. Every proposal gets exactly one."""


class SnapshotSource(Protocol):
    """A frozen view of the machine at `index`, written out in slices while the machine goes on (R9)."""

    index: int

    def read(self, out_of_time: OutOfTime) -> bytes | None:
        """The next piece (may be empty when time ran out), or None when all has been given."""
        ...

    def close(self) -> None: ...


class SnapshotSink(Protocol):
    """A machine being rebuilt beside the old one."""

    def write(self, piece: bytes, out_of_time: OutOfTime) -> bytes:
        """Take the bytes; answers the part not yet consumed when time ran out (empty: all taken)."""
        ...

    def check(self, index: int, out_of_time: OutOfTime) -> bool:
        """After the last byte: call until True; then the new state is whole, of `index`, and may replace the old one,
        which stays for now. Raises `ValueError` if the bytes are not a whole valid snapshot."""
        ...

    def finish(self) -> None:
        """After `check` has said True: the new state replaces the old one and `applied_index` is its index."""
        ...

    def abort(self) -> None: ...


class StateMachine(Protocol):
    """Applies entries one after the other, in slices."""

    @property
    def applied_index(self) -> int: ...

    def start(self, index: int, term: int, data: bytes) -> None:
        """Begin the entry at `index` (= applied_index + 1). Raises only on a broken invariant: fatal.

        Empty `data` is a leader's no-op: nothing changes but `applied_index`."""
        ...

    def step(self, out_of_time: OutOfTime) -> bool:
        """Go on with the entry; True when done: `applied_index` has moved and `result` is set."""
        ...

    result: Any

    def open_snapshot(self) -> SnapshotSource: ...

    def begin_install(self) -> SnapshotSink: ...


class Fatal(Exception):
    """Safety can no longer be vouched for: the process must end without sending anything more."""
