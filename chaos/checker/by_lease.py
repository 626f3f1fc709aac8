"""First judge: leases (S5, S6) and order in groups (S11, S12)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from chaos.checker.by_message import Config
from chaos.checker.facts import Facts
from chaos.checker.records import End, Grant, Sent
from chaos.checker.verdict import Findings
from chaos.history import OK

LATE_MS = 1000  # by so much the leader's stamp may run behind real time before it catches up (R1)
MS = 1_000_000


def check(facts: Facts, found: Findings, clocks_true: bool) -> None:
    _fences_rise(facts, found)
    for name, grants in sorted(facts.grants.items()):
        ordered = sorted(grants, key=lambda grant: grant.fence)
        _tokens(facts, name, ordered, found)
        for before, after in pairwise(ordered):
            _no_overlap(facts, before, after, found, clocks_true)
    _unknown_tokens(facts, found)
    _groups(facts, found)


def _fences_rise(facts: Facts, found: Findings) -> None:
    """One counter for the cluster: in the order of the log, every fence is above all before it."""
    grants = sorted((g for many in facts.grants.values() for g in many), key=lambda g: g.fence)
    for before, after in pairwise(grants):
        if before.fence == after.fence:
            text = f"{before.id} and {after.id} were leased under one fence, {after.fence}"
            found.add("S5", text, (before.call.op, after.call.op))
        elif before.place > after.place:
            text = f"fence {before.fence} was given at {before.place}, {after.fence} at {after.place}"
            found.add("S5", text, (before.call.op, after.call.op))


def _tokens(facts: Facts, name: str, grants: list[Grant], found: Findings) -> None:
    for at, grant in enumerate(grants):
        next_place = grants[at + 1].place if at + 1 < len(grants) else None
        counted = [end for end in facts.ends.get(grant.token, ()) if end.counted and end.call.place]
        endings = {end.call.place: end for end in counted if end.verb != "extend"}
        if len(endings) > 1 and {end.verb for end in endings.values()} != {"ack"}:  # two acks: S7
            ops = [end.call.op for end in endings.values()]
            verbs = ", ".join(sorted(end.verb for end in endings.values()))
            found.add("S5", f"one lease of {name} was ended more than once: {verbs}", ops)
        over = min(endings, default=None, key=lambda place: place or (0, 0))
        for end in counted:
            place = end.call.place
            assert place is not None
            if place < grant.place:
                found.add(
                    "S5", f"a token of {name} counted before it was given", (end.call.op, grant.call.op)
                )
            elif next_place is not None and place > next_place:
                text = f"an old token of {name} was accepted ({end.verb}) at {place}, a newer one is of {next_place}"
                found.add("S5", text, (end.call.op, grants[at + 1].call.op))
            elif end.verb == "extend" and over is not None and place > over:
                found.add("S5", f"a lease of {name} was extended after its end", (end.call.op,))


def _no_overlap(facts: Facts, before: Grant, after: Grant, found: Findings, clocks_true: bool) -> None:
    """Two leases of one message need an end between them: a nack, a release, or the time (S6)."""
    ends = facts.ends.get(before.token, [])
    if any(
        end.verb in ("nack", "release") and end.status not in ("refused", "stale_lease", "not_found")
        for end in ends
    ):
        return
    until = _lower_bound(before, after, ends)
    if after.now < until:
        text = f"{before.id} was leased again {until - after.now} ms before its lease was over"
        found.add("S6", text, (before.call.op, after.call.op))
        found.doubled.add(before.id)
    if clocks_true and not before.call.repeated:
        length = before.expires - before.now - LATE_MS
        if not any(end.verb == "extend" for end in ends) and after.call.ret - before.call.inv < length * MS:
            text = (
                f"{before.id} was leased again {(after.call.ret - before.call.inv) / MS:.0f} ms after a lease"
            )
            found.add("S6", text, (before.call.op, after.call.op))


def _lower_bound(before: Grant, after: Grant, ends: list[End]) -> int:
    """Log time before which the lease cannot have run out, as far as its holder knows."""
    known = [(before.place, before.expires)]
    unsure = False
    for end in ends:
        if end.verb == "extend" and end.call.place is not None and end.expires is not None:
            known.append((end.call.place, end.expires))
        elif end.verb == "extend" and end.status is None:
            unsure = True  # it may have shortened the lease
    if unsure:
        return min(expires for _, expires in known)
    return max([pair for pair in known if pair[0] < after.place] or known[:1])[1]


def _unknown_tokens(facts: Facts, found: Findings) -> None:
    for token, ends in facts.ends.items():
        if token in facts.tokens:
            continue
        for end in ends:
            if end.counted:
                found.add("S5", f"a token nobody was given was accepted ({end.verb})", (end.call.op,))


# --- groups -------------------------------------------------------------------------------------------

Key = tuple[int, int, int]


def _groups(facts: Facts, found: Findings) -> None:
    groups: dict[tuple[str, str], list[tuple[Key, str, Sent]]] = defaultdict(list)
    for sent in facts.sent.values():
        if sent.group is None:
            continue
        places = {(*place, sent.i): name for place, name, _ in sent.born}
        for place, name in places.items():
            groups[sent.queue, sent.group].append((place, name, sent))
    for (queue, group), members in groups.items():
        members.sort(key=lambda member: member[0])
        if Config(facts, queue).get("max_leased_per_group", 1) == 1 and queue not in facts.redriven:
            _first_in_first_out(facts, f"{queue}, group {group}", members, found)
        _producers(members, found)


def _first_in_first_out(
    facts: Facts, group: str, members: list[tuple[Key, str, Sent]], found: Findings
) -> None:
    """While a message is unfinished, none behind it in its group is leased: so all leases of it come before
    all leases of those (S11)."""
    newest: Grant | None = None
    for _, name, sent in members:
        grants = facts.grants.get(name, [])
        if not grants or name in facts.redriven:
            continue
        oldest = min(grants, key=lambda grant: grant.fence)
        if newest is not None and oldest.fence < newest.fence:
            text = f"{group}: {name} (op {sent.op}) was given before {newest.id}, which stands before it, was over"
            found.add("S11", text, (newest.call.op, oldest.call.op))
        for end in _acks_of(facts, newest):
            if end.call.place is not None and end.call.place > oldest.place:
                text = f"{group}: {name} was given at {oldest.place}, {newest and newest.id} before it was acked later"
                found.add("S11", text, (end.call.op, oldest.call.op))
        last = max(grants, key=lambda grant: grant.fence)
        newest = last if newest is None or last.fence > newest.fence else newest


def _acks_of(facts: Facts, grant: Grant | None) -> list[End]:
    if grant is None:
        return []
    return [end for end in facts.ends.get(grant.token, ()) if end.verb == "ack" and end.counted]


def _producers(members: list[tuple[Key, str, Sent]], found: Findings) -> None:
    """`n` in a body says in which order its producer sent what went into a group (S12)."""
    last: dict[str, tuple[int, Sent]] = {}
    for _, name, sent in members:
        told = [call for call in sent.calls if call.type == OK]
        if sent.n is None or not told:
            continue
        producer = told[0].proc.rpartition(".")[0]
        before = last.get(producer)
        if before is not None and sent.n <= before[0]:
            text = f"{producer} sent number {sent.n} of {sent.group} ({name}) before number {before[0]}"
            found.add("S12", text, (before[1].op, sent.op))
        last[producer] = (sent.n, sent)
