"""First judge: topics. Each group's message is judged as any message (`by_message`: acknowledged ones are not lost,
none is there twice); here its offset: one entry each, in the order of the log, the same in every group."""

from __future__ import annotations

from chaos.checker.facts import Facts
from chaos.checker.verdict import Findings


def check(facts: Facts, found: Findings) -> None:
    for topic, offsets in facts.offsets.items():
        _one_entry_each(facts, topic, found)
        _in_the_order_of_the_log(facts, topic, found)
        if facts.resolved:
            _every_group(facts, topic, max(offsets, default=-1), found)


def _one_entry_each(facts: Facts, topic: str, found: Findings) -> None:
    for offset, bodies in facts.offsets[topic].items():
        if len(bodies) > 1:
            ops = [call.op for call in bodies.values()]
            found.add("S3", f"offset {offset} of {topic} was given to {len(bodies)} messages", ops)


def _in_the_order_of_the_log(facts: Facts, topic: str, found: Findings) -> None:
    """A later offset was not answered at an earlier place; a duplicate's answer says nothing of its first."""
    last = None
    for offset, bodies in sorted(facts.offsets[topic].items()):
        call = next(iter(bodies.values()))
        places = [place for one in _born(facts, call.op, topic) for place, _, _ in one.born]
        if not places:
            continue
        if last is not None and min(places) < last[0]:
            text = f"offset {offset} of {topic} is at {min(places)}, one before it at {last[0]}"
            found.add("S3", text, (last[1], call.op))
        last = (min(places), call.op)


def _born(facts: Facts, op: int, topic: str) -> list:  # type: ignore[type-arg]
    return [one for one in facts.births[op] if one.queue.startswith(topic + ":")]


def _every_group(facts: Facts, topic: str, last: int, found: Findings) -> None:
    """Every group has had every offset up to the last one known, each as one message."""
    for queue in facts.groups[topic]:
        for offset in range(last + 1):
            ids = facts.shown.get((queue, offset), {})
            if len(ids) > 1:
                found.doubled.update(list(ids)[1:])
                found.add("S3", f"offset {offset} came to {queue} as {sorted(ids)}", ids.values())
            if not ids:
                found.add("S1", f"offset {offset} never came to {queue}")
