"""First judge: real time (reliability.md, B0.3 and B0.5), reads (S16) and metadata (S21)."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Any

from chaos.checker.facts import Facts
from chaos.checker.records import Call, Seen
from chaos.checker.verdict import Findings
from chaos.history import OK

_CONFIG = ("lease_ms", "max_attempts", "ttl_ms", "retention_ms", "max_leased", "max_leased_per_group")


def check(facts: Facts, found: Findings) -> None:
    writes = [call for call in facts.calls if call.is_first]
    _real_time([call for call in writes if not call.repeated], found)
    _fresh_reads(facts, writes, found)
    for queue in sorted({*facts.configs, *facts.queue_reads}):
        _metadata(facts, queue, found)


def _real_time(writes: list[Call], found: Findings) -> None:
    """An operation that was over before another began stands before it in the log."""
    ordered = sorted(writes, key=lambda call: call.place or (0, 0))
    soonest: Call | None = None  # the earliest return of all that stand behind
    for call in reversed(ordered):
        if soonest is not None and call.inv > soonest.ret:
            text = f"{call.f} at {call.place} began after {soonest.f} at {soonest.place} was answered"
            found.add("S16", text, (soonest.op, call.op))
        if soonest is None or call.ret < soonest.ret:
            soonest = call


def _fresh_reads(facts: Facts, writes: list[Call], found: Findings) -> None:
    """A linearizable read shows at least what was answered before it was asked."""
    known = [(call.ret, call.place[0], call) for call in writes if call.place is not None]
    known += [(call.ret, asof, call) for call, asof in facts.all_reads]
    known.sort(key=lambda item: item[0])
    returns = [item[0] for item in known]
    highest = list(accumulate(known, _higher))
    for call, asof in facts.all_reads:
        before = bisect_left(returns, call.inv)
        if before and highest[before - 1][1] > asof:
            other = highest[before - 1]
            text = f"{call.f} shows index {asof}; {other[2].f} had shown {other[1]} before it was asked"
            found.add("S16", text, (other[2].op, call.op))


def _higher(best: tuple[int, int, Call], item: tuple[int, int, Call]) -> tuple[int, int, Call]:
    return item if item[1] > best[1] else best


def _metadata(facts: Facts, queue: str, found: Findings) -> None:
    saved = [(call, config, revision) for call, config, revision in facts.configs.get(queue, ())]
    made = min((call.ret for call, _, revision in saved if revision is not None), default=None)
    reads = facts.queue_reads.get(queue, [])
    for call in facts.missed[queue]:
        if made is not None and call.inv > made:
            found.add("S21", f"{queue} had been acknowledged, and was not found", (saved[0][0].op, call.op))
    revisions: dict[int, tuple[Any, int]] = {}
    for call, _, revision in saved:
        if revision is not None:
            _old_revision(reads, call, revision, queue, found)
    shown = [one for one in reads if one.told and one.asof is not None]
    highest = (0, 0)
    for one in sorted(shown, key=lambda one: (one.asof or 0, one.told["revision"])):
        revision = one.told["revision"]
        shows = tuple(one.told.get(name) for name in _CONFIG)
        first = revisions.setdefault(revision, (shows, one.call.op))
        if first[0] != shows:
            text = f"{queue}: revision {revision} shows two configurations"
            found.add("S21", text, (first[1], one.call.op))
        if revision < highest[0]:
            text = f"{queue}: revision {revision} at {one.asof}, {highest[0]} before it"
            found.add("S21", text, (highest[1], one.call.op))
        highest = max(highest, (revision, one.call.op))
    for call, config, revision in saved:
        known = revisions.get(revision or -1)
        wrong = [
            name
            for at, name in enumerate(_CONFIG)
            if known and name in config and known[0][at] != config[name]
        ]
        if wrong and known:
            text = f"{queue}: revision {revision} does not show the {wrong[0]} it was saved with"
            found.add("S21", text, (call.op, known[1]))


def _old_revision(reads: list[Seen], call: Call, revision: int, queue: str, found: Findings) -> None:
    for one in reads:
        if not one.local and one.told and one.call.inv > call.ret and one.told["revision"] < revision:
            text = f"{queue}: revision {revision} was answered, a later read shows {one.told['revision']}"
            found.add("S21", text, (call.op, one.call.op))


def sent_and_told(facts: Facts) -> int:
    """How many messages were acknowledged."""
    return sum(1 for one in facts.sent.values() if any(call.type == OK for call in one.calls))
