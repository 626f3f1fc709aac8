"""Rules of the queue taken out one at a time, on all nodes alike: no two states differ, so only the laws of
`queue_laws.py` and the model can notice. Run by `mutants.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trivet.machine import expiry, keys, ledger, settle, transitions
from trivet.machine.core import Machine

Patch = tuple[Any, str, Any]


def repeats_forgotten() -> Patch:
    """A repeated request is done again (R12)."""
    return Machine, "_repeat", lambda self, request, seq: None


def leases_end_early() -> Patch:
    """A lease ends 700 ms before its time (R13)."""
    run = expiry._run_due

    def early(m: Machine, budget: int, leases: bool) -> int:
        m.clock_ms += 700
        try:
            return run(m, budget, leases)
        finally:
            m.clock_ms -= 700

    return expiry, "_run_due", early


def never_dead() -> Patch:
    """Attempts are not counted against their limit (R20)."""
    return transitions, "max_attempts_of", lambda message: 0


def release_costs_an_attempt() -> Patch:
    """A release does not take the attempt back (R20)."""
    release = settle._release_one

    def costly(m: Machine, message: Any) -> Any:
        answer = release(m, message)
        message.attempt += 1
        return answer

    return settle, "_release_one", costly


def keys_forgotten() -> Patch:
    """A message key is never found again (R16)."""
    return keys, "lookup", lambda m, queue, key: None


def delays_forgotten() -> Patch:
    """Whatever should wait is ready at once."""
    wait = transitions.make_waiting
    return transitions, "make_waiting", lambda m, message, due_at_ms: wait(m, message, m.clock_ms)


def effects_of_others() -> Patch:
    """An ack commits an effect whoever holds it (R27)."""
    return ledger, "_check_one", lambda m, message, effect: None


QUEUE_MUTANTS: tuple[Callable[[], Patch], ...] = (
    repeats_forgotten, leases_end_early, never_dead, release_costs_an_attempt, keys_forgotten, delays_forgotten,
    effects_of_others,
)  # fmt: skip
