"""Own proposals between their append and their end. Each ends exactly once (R35), with our own deadline (r15c)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trivet.consensus.contained import REGULAR
from trivet.consensus.port import Applied, NotProposed, Outcome, Unknown
from trivet.limits import ENTRY_BYTES_MAX

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class _Pending:
    term: int
    size: int
    deadline: float
    done: Done


class Proposals:
    """By index. On losing leadership all that wait end at once as unknown: the next leader may commit them (R26)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: OrderedDict[int, _Pending] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        settings = self._engine.settings
        return len(self._waiting) >= settings.pending_max or self._bytes >= settings.pending_bytes_max

    def propose(self, data: bytes, done: Done, deadline_s: float) -> None:
        """Appends the entry and sends it, or answers why not. Raises `ValueError` for an entry over the limit."""
        engine = self._engine
        if len(data) > ENTRY_BYTES_MAX:
            raise ValueError(f"an entry of {len(data)} bytes is over {ENTRY_BYTES_MAX}")
        refusal = engine.why_not_propose()
        if refusal is not None:
            engine.call(done, NotProposed(refusal))
            return
        index = engine.append_own(REGULAR + data)
        self._waiting[index] = _Pending(engine.term, len(data), engine.now() + deadline_s, done)
        self._bytes += len(data)
        engine.replication.pump_all()

    def _take(self, index: int) -> _Pending | None:
        pending = self._waiting.pop(index, None)
        if pending is not None:
            self._bytes -= pending.size
        return pending

    def applied(self, index: int, term: int, result: Any) -> None:
        pending = self._take(index)
        if pending is None:
            return
        if pending.term == term:
            self._engine.call(pending.done, Applied(index, term, result))
        else:  # another leader's entry is committed in this place: ours never will be
            self._engine.call(pending.done, NotProposed("discarded"))

    def expire(self) -> None:
        """Deadlines are not in order of index: callers choose them."""
        if not self._waiting:
            return
        now = self._engine.now()
        for index in [i for i, pending in self._waiting.items() if pending.deadline <= now]:
            self._end(index, Unknown("deadline"))

    def end_all(self, reason: str, through: int | None = None) -> None:
        """All that wait, or those at or below `through`, end unknown."""
        for index in list(self._waiting):
            if through is None or index <= through:
                self._end(index, Unknown(reason))

    def _end(self, index: int, outcome: Outcome) -> None:
        pending = self._take(index)
        if pending is not None:
            self._engine.call(pending.done, outcome)
