"""First judge: schedules. A slot's message is judged as any message (`by_message`); here the slots themselves.

`schedule` of a body names the schedule, the message's idempotency key its slot. At the end every schedule is paused
and read once more: slots that gave no message must be as many as it says were skipped.
"""

from __future__ import annotations

from chaos.checker.facts import Facts
from chaos.checker.verdict import Findings


def check(facts: Facts, found: Findings) -> None:
    for name in sorted(facts.schedules):
        _slots(facts, name, found)
        _rising(facts, name, found)
        if facts.resolved:
            _accounted(facts, name, found)


def _slots(facts: Facts, name: str, found: Findings) -> None:
    """Each is one of the timetable, and one message; that one came when it was due, not before."""
    timetable = facts.schedules[name]
    for slot, ids in facts.slots[name].items():
        if timetable.anchor is not None and (slot - timetable.anchor) % timetable.every:
            found.add("S13", f"{name} fired at {slot}, which is none of its slots", ids.values())
        if len(ids) > 1:
            found.doubled.update(list(ids)[1:])
            found.add("S3", f"slot {slot} of {name} became {sorted(ids)}", ids.values())
        for message in ids:
            for grant in facts.grants.get(message, ()):
                if grant.enqueued < slot:
                    text = f"slot {slot} of {name} had its message {slot - grant.enqueued} ms before"
                    found.add("S13", text, (grant.call.op,))


def _rising(facts: Facts, name: str, found: Findings) -> None:
    """What is decided stays decided."""
    last = (0, 0, 0)
    for _, told, op in sorted(facts.schedule_reads[name], key=lambda read: read[0]):
        now = (told["decided_at_ms"], told["fired"], told["skipped"])
        if any(a > b for a, b in zip(last, now, strict=True)):
            found.add("S16", f"{name} went from {last} back to {now}", (op,))
        last = now


def _accounted(facts: Facts, name: str, found: Findings) -> None:
    """No slot lost: each has its message, or is among those that were said to be skipped."""
    reads = [read for read in facts.schedule_reads[name] if read[1]["paused"]]
    if not reads:
        found.add("S1", f"{name} was never seen at rest")
        return
    _, told, op = max(reads, key=lambda read: read[0])
    slots = facts.slots[name]
    due = (told["decided_at_ms"] - told["anchor_at_ms"]) // facts.schedules[name].every
    if told["fired"] != len(slots):
        found.lost.update(
            () if told["fired"] < len(slots) else (f"{name}: {told['fired'] - len(slots)} slots",)
        )
        found.add("S1", f"{name} fired {told['fired']} slots, {len(slots)} messages were seen", (op,))
    if due != told["fired"] + told["skipped"]:
        text = f"{name} had {due} slots, {told['fired']} fired, {told['skipped']} skipped"
        found.add("S1", text, (op,))
