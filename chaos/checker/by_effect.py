"""First judge: effects and the outside world (S8, S9)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

from chaos.checker.facts import Facts
from chaos.checker.records import Place, Step, fence_of
from chaos.checker.verdict import Findings

NOWHERE: Place = (-1, -1)


def check(facts: Facts, sink: list[dict[str, Any]], found: Findings) -> None:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sink:
        rows[row["effect_id"]].append(row)
    for effect in sorted({*facts.effects, *rows, *facts.effect_reads}):
        steps = facts.effects.get(effect, [])
        _world(facts, effect, steps, rows.get(effect, []), found)
        _commits(effect, steps, found)
        _grants(facts, effect, steps, found)
        _reads(facts, effect, steps, found)


def _place(step: Step) -> Place:
    return step.call.place or NOWHERE


def _world(facts: Facts, effect: str, steps: list[Step], rows: list[dict[str, Any]], found: Findings) -> None:
    if len(rows) > 1:
        found.doubled.add(effect)
        found.add("S8", f"{effect} was executed {len(rows)} times", [step.call.op for step in steps])
    for row in rows:
        mine = [
            s for s in steps if s.kind == "begin" and s.lease == row["lease_token"] and s.state != "refused"
        ]
        if not mine or row["t"] < min(step.call.inv for step in mine):
            found.add("S9", f"{effect} was executed without a grant", [step.call.op for step in steps])
    done = [s for s in steps if s.kind in ("commit", "ack") and s.state == "done"]
    if done and not rows:
        found.add("S9", f"{effect} is committed, and was never executed", [step.call.op for step in done])


def _commits(effect: str, steps: list[Step], found: Findings) -> None:
    firsts: dict[Place, Step] = {}
    for step in steps:
        if step.kind in ("commit", "ack") and step.state == "done" and not step.repeated and step.call.place:
            firsts[step.call.place] = step
    tokens = {step.token for step in firsts.values() if step.token is not None}
    commits = [step for step in firsts.values() if step.kind == "commit"]
    # A commit, and then the ack that names the same grant again, is one commit (R27).
    if len(commits) > 1 or len(tokens) > 1 or sum(step.kind == "ack" for step in firsts.values()) > 1:
        found.doubled.add(effect)
        found.add("S8", f"{effect} was committed {len(firsts)} times", [s.call.op for s in firsts.values()])
    if not firsts:
        return
    first = min(firsts)
    for step in steps:
        if step.kind == "begin" and step.state == "granted" and not step.repeated and _place(step) > first:
            found.add("S8", f"{effect} was granted after its commit", (firsts[first].call.op, step.call.op))


def _grants(facts: Facts, effect: str, steps: list[Step], found: Findings) -> None:
    granted = {s.token: s for s in steps if s.kind == "begin" and s.state == "granted" and not s.repeated}
    ordered = sorted((s for s in granted.values() if fence_of(s.token)), key=lambda s: fence_of(s.token) or 0)
    for before, after in pairwise(ordered):
        if _place(before) > _place(after):
            found.add("S5", f"the fences of {effect} fell", (before.call.op, after.call.op))
        aborted = any(s.kind == "abort" and s.token == before.token and s.state != "refused" for s in steps)
        if aborted:
            continue
        if not after.uncertain:
            text = f"{effect} was granted again as certain, and its first holder had not said that it did not happen"
            found.add("S8", text, (before.call.op, after.call.op))
        for end in facts.ends.get(before.lease or "", ()):
            if end.counted and end.call.place is not None and end.call.place > _place(after):
                text = f"{effect} was granted to another while the lease of its holder was live"
                found.add("S8", text, (before.call.op, after.call.op, end.call.op))
    for step in steps:
        if step.kind != "commit" or step.state != "done" or step.repeated or not step.call.place:
            continue
        newer = [s for s in ordered if (fence_of(s.token) or 0) > (fence_of(step.token) or 0)]
        if newer and _place(newer[0]) < step.call.place:
            text = f"{effect} was committed with a token that had been superseded"
            found.add("S8", text, (newer[0].call.op, step.call.op))


def _reads(facts: Facts, effect: str, steps: list[Step], found: Findings) -> None:
    """What is committed stays so; what nobody committed is not (S9, S16)."""
    ends = [s for s in steps if s.kind in ("commit", "ack")]
    for seen in facts.effect_reads.get(effect, ()):
        before = [s for s in ends if s.state == "done" and s.call.ret < seen.call.inv]
        if before and seen.state != "done" and not seen.local:
            ops = (before[0].call.op, seen.call.op)
            found.add("S9", f"{effect} was committed, and read as {seen.state} later", ops)
        if seen.state == "done" and not any(s.state in ("done", None) for s in ends):
            found.add("S9", f"{effect} is done, but nobody committed it", (seen.call.op,))
