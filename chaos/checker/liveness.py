"""The judge of liveness (L1–L4, L8): a drill that got stuck has failed; one that hit nothing proves nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from chaos.checker.facts import Facts
from chaos.checker.records import FOREVER
from chaos.checker.verdict import Findings
from chaos.history import OK, lines

SECOND = 1_000_000_000
SERVICE_SECONDS = 5.0  # L1
GAP_SECONDS = 10.0  # L4: the longest that no write is acknowledged while only a minority is struck
NEEDED = ("lease", "ack")
PRODUCING = ("enqueue", "publish", "create_flow")  # at least one of them


@dataclass
class Alive:
    found: Findings = field(default_factory=lambda: Findings("liveness"))
    problems: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


def judge(
    directory: Path,
    plan: dict[str, Any],
    faults: list[dict[str, Any]],
    final: dict[str, Any],
    types: Counter[str],
    facts: Facts,
) -> Alive:
    alive = Alive()
    _fired(alive, plan, faults)
    _every_kind_succeeded(alive, types)
    _served_after_heals(alive, faults, facts)
    _minority_gaps(alive, plan, faults, facts)
    if facts.undrained:
        alive.found.add("L2", f"not drained: {facts.undrained}")
    elif not facts.resolved:
        alive.problems.append("the history does not say that everything was asked about (no `resolved`)")
    _at_rest(alive, plan, final)
    path = directory / "nodes.jsonl"
    if path.exists():
        _terms(alive, path, faults)
    return alive


def _fired(alive: Alive, plan: dict[str, Any], faults: list[dict[str, Any]]) -> None:
    fired = {line["n"] for line in faults if line.get("e") == "fired"}
    for n, planned in enumerate(plan.get("faults", ())):
        if n not in fired:
            alive.problems.append(f"planned fault {n} ({planned['fault']}) never fired (L8)")


def _every_kind_succeeded(alive: Alive, types: Counter[str]) -> None:
    kinds = {name.split()[0] for name in types}
    for kind in sorted(kinds | set(NEEDED)):
        if not types[f"{kind} ok"]:
            alive.problems.append(f"no {kind} ever succeeded (L8)")
    if not kinds.intersection(PRODUCING):
        alive.problems.append("nothing was ever enqueued (L8)")


def _served_after_heals(alive: Alive, faults: list[dict[str, Any]], facts: Facts) -> None:
    """L1: soon after each heal somebody is served; after the last one every client that still calls is."""
    oks = sorted(call.ret for call in facts.calls if call.type == OK)
    starved = {line["n"]: line.get("starved_s", 0.0) for line in faults if line.get("e") == "back"}
    quiet = next((line["t"] for line in faults if line.get("e") == "quiet"), None)
    for line in faults:
        if line.get("e") != "healed" or (quiet is not None and line["t"] > quiet):
            continue
        after = next((t for t in _from(oks, line["t"])), None)
        bound = SERVICE_SECONDS + starved.get(line.get("n"), 0.0)
        if after is None or after - line["t"] > bound * SECOND:
            took = "ever" if after is None else f"for {(after - line['t']) / SECOND:.1f} s"
            alive.found.add("L1", f"after fault {line.get('n')} was healed nothing succeeded {took}")
    last = max((line["t"] for line in faults if line.get("e") == "healed"), default=None)
    if last is None:
        return
    calls: dict[str, list[Any]] = defaultdict(list)
    for call in facts.calls:
        if call.inv > last + SERVICE_SECONDS * SECOND:
            calls[call.proc.rpartition(".")[0]].append(call)
    for client, many in sorted(calls.items()):
        over = [call for call in many if call.ret != FOREVER]
        if len(over) >= 3 and not any(call.type == OK or call.code in _EXPECTED for call in over):
            alive.found.add(
                "L1", f"{client} was never served after the last heal", [call.op for call in over]
            )


_EXPECTED = frozenset(("stale_lease", "not_found", "message_not_found", "message_finished", "effect_held",
                       "idempotency_conflict", "stale_effect", "effect_not_found"))  # fmt: skip


def _from(times: list[int], start: int) -> list[int]:
    from bisect import bisect_left

    at = bisect_left(times, start)
    return times[at : at + 1]


def _minority_gaps(alive: Alive, plan: dict[str, Any], faults: list[dict[str, Any]], facts: Facts) -> None:
    """L4: while a minority is struck, writes go on. The longest gap is told, too long a one is a violation."""
    size = int(plan.get("nodes", 3))
    writes = sorted(call.ret for call in facts.calls if call.type == OK and call.place is not None)
    struck = {line["n"]: line for line in faults if line.get("e") == "fired"}
    healed = {line["n"]: line["t"] for line in faults if line.get("e") == "healed"}
    longest = 0.0
    for n, line in struck.items():
        nodes = line.get("evidence", {}).get("nodes", [])
        if not nodes or 2 * len(nodes) >= size or n not in healed:
            continue
        start, end = line.get("struck", line["t"]), healed[n]
        inside = [start, *(t for t in writes if start < t < end), end]
        gap = max((b - a for a, b in pairwise(inside)), default=0) / SECOND
        longest = max(longest, gap)
        if gap > GAP_SECONDS:
            alive.found.add("L4", f"fault {n} struck only {nodes}, and no write succeeded for {gap:.1f} s")
    alive.counts["longest_minority_gap_s"] = round(longest, 3)


def _at_rest(alive: Alive, plan: dict[str, Any], final: dict[str, Any]) -> None:
    nodes = final.get("nodes", {})
    if nodes and len(nodes) < int(plan.get("nodes", len(nodes))):
        alive.found.add("L3", f"only {', '.join(sorted(nodes))} answered at the end")
    if len({one["index"] for one in nodes.values()}) > 1:
        alive.found.add("L3", f"the nodes did not come to one index: {nodes}")


def _terms(alive: Alive, path: Path, faults: list[dict[str, Any]]) -> None:
    """S18 as the nodes tell it: one leader a term, and no node's term falls (unless its disk was harmed)."""
    leaders: dict[int, str] = {}
    last: dict[str, int] = {}
    harmed = any(word in line.get("fault", "") for line in faults for word in _HARM)
    samples = 0
    for line in lines(path):
        if not line.get("up"):
            continue
        samples += 1
        node, term = line["node"], line["term"]
        if line["role"] == "leader" and leaders.setdefault(term, node) != node:
            alive.found.add("S18", f"{leaders[term]} and {node} both led term {term}")
        if term < last.get(node, 0) and not harmed:
            alive.found.add("S18", f"the term of {node} fell from {last[node]} to {term}")
        last[node] = max(term, last.get(node, 0))
    alive.counts["terms"] = max(last.values(), default=0)
    alive.counts["samples"] = samples


_HARM = ("wipe", "stale", "swap", "damage", "flip", "truncat", "copy", "power")
