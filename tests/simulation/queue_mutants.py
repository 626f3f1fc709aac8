"""Rules of the queue taken out one at a time, on all nodes alike: no two states differ, so only the laws of
`queue_laws.py` and the model can notice. Run by `mutants.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trivet.machine import expiry, flows, keys, ledger, publishing, runs, schedules, settle, transitions
from trivet.machine.core import Machine
from trivet.node import timekeeper

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


def nothing_undone() -> Patch:
    """A saga that failed ends without its compensations."""
    return flows, "to_undo", lambda flow: []


def group_left_out() -> Patch:
    """A publish of several messages forgets one of them for the second group (R28)."""
    deliver = publishing._deliver

    def forgetful(m: Machine, queue: Any, entries: Any, room: Any, origin: Any = None) -> tuple[int, ...]:
        if queue.name.endswith(":g2") and len(entries) > 1 and origin is None:
            made = deliver(m, queue, entries[1:], room, origin)
            return (m.new_number(), *made)
        return deliver(m, queue, entries, room, origin)

    return publishing, "_deliver", forgetful


def replay_ends_early() -> Patch:
    """A replay passes over what it would give last."""
    deliver = publishing._deliver

    def short(m: Machine, queue: Any, entries: Any, room: Any, origin: Any = None) -> tuple[int, ...]:
        return deliver(m, queue, entries if origin is None else entries[:-1], room, origin)

    return publishing, "_deliver", short


def topic_keys_forgotten() -> Patch:
    """A key of a topic is never found again (R16)."""
    return publishing, "_known", lambda m, topic, drafts: {}


def slots_fire_again() -> Patch:
    """What a leader says of a slot that was decided before is done again (R2)."""
    return schedules, "is_behind", lambda schedule, fire: False


def failovers_lose_slots() -> Patch:
    """A slot is on time for 300 ms only: the policy for outages hits those of a failover."""
    return timekeeper, "SLOT_ON_TIME_MS", 300


def events_told_twice() -> Patch:
    """A run does not know the event ids it has (R29)."""
    keep = runs._keep

    def forgetful(m: Machine, run: Any, event: Any) -> None:
        keep(m, run, event)
        run.event_ids.pop(event.event_id, None)
        event.event_id = None

    return runs, "_keep", forgetful


def transition_not_told() -> Patch:
    """The lease of a message is no event of its run."""
    note = runs._note

    def quiet(m: Machine, run: Any, message: Any, more: Any) -> None:
        if message.state != 3:
            note(m, run, message, more)

    return runs, "_note", quiet


QUEUE_MUTANTS: tuple[Callable[[], Patch], ...] = (
    repeats_forgotten, leases_end_early, never_dead, release_costs_an_attempt, keys_forgotten, delays_forgotten,
    effects_of_others, nothing_undone,
    group_left_out, replay_ends_early, topic_keys_forgotten,
    slots_fire_again, failovers_lose_slots,
    events_told_twice, transition_not_told,
)  # fmt: skip
