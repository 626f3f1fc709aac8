"""What a report tells, gathered from the files of a run in one pass over each; a file that is missing
leaves its part empty and is named in `missing`."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from chaos.history import OK, Operation, lines, notes, operations
from chaos.report.histogram import Histogram

BINS = 160
BIN_S_MIN = 0.5
SHOWN_OPS = 200  # operations of violations that are shown in full
SAMPLE_S = 1.0  # two samples of a node that are further apart are not joined


@dataclass
class Bin:
    """A piece of the run: calls by how they ended, and how long those took that were ok."""

    ended: Counter[str] = field(default_factory=Counter)
    took: Histogram = field(default_factory=Histogram)


@dataclass
class Calls:
    """All calls of one operation."""

    ended: Counter[str] = field(default_factory=Counter)
    took: Histogram = field(default_factory=Histogram)
    attempts: int = 0
    unknown_attempts: int = 0
    repeated: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    bins: dict[int, Bin] = field(default_factory=lambda: defaultdict(Bin))


@dataclass
class Struck:
    """One fault; instants in seconds of the run, None for what did not come."""

    n: int
    fault: str
    parameters: dict[str, Any]
    fire_s: float
    struck_s: float | None = None
    healed_s: float | None = None
    back_s: float | None = None
    evidence: dict[str, Any] | None = None
    not_fired: str | None = None
    leader: str | None = None
    failover_s: float | None = None
    service_s: float | None = None
    ready_s: float | None = None
    gap_s: float | None = None  # longest time without an acknowledged write between fire and back


@dataclass
class Stretch:
    """A node said the same of itself from `from_s` to `to_s`."""

    from_s: float
    to_s: float
    role: str  # leader, follower, candidate …, recovering, down
    term: int | None


@dataclass
class Run:
    directory: Path
    plan: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    start_ns: int = 0  # of the load, on the host's monotonic clock
    length_s: float = 0.0
    bin_s: float = BIN_S_MIN
    calls: dict[str, Calls] = field(default_factory=lambda: defaultdict(Calls))
    faults: list[Struck] = field(default_factory=list)
    nodes: dict[str, list[Stretch]] = field(default_factory=dict)
    phases: list[tuple[str, float]] = field(default_factory=list)
    executions: int = 0
    shown: dict[int, Operation] = field(default_factory=dict)  # operations that violations name
    writes: array[int] = field(default_factory=lambda: array("q"))  # when each was acknowledged

    def seconds(self, t_ns: int) -> float:
        return (t_ns - self.start_ns) / 1e9

    def gap_s(self, from_s: float, to_s: float) -> float | None:
        """The longest time without an acknowledged write that touches the window, cut to what lies between
        the last write before it and the first after it; None if there was no write at all."""
        if not self.writes:
            return None
        low = max(0, bisect_right(self.writes, self.start_ns + int(from_s * 1e9)) - 1)
        high = min(len(self.writes) - 1, bisect_left(self.writes, self.start_ns + int(to_s * 1e9)))
        near = self.writes[low : high + 1]
        gaps = [(later - sooner) / 1e9 for sooner, later in pairwise(near)]
        return max(gaps, default=None)


def gather(directory: Path) -> Run:
    """Raises ValueError if a file is there and is not what it should be."""
    run = Run(directory)
    run.plan = _object(run, "plan.json")
    run.verdict = _object(run, "verdict.json")
    wanted = {op for one in run.verdict.get("violations", ()) for op in one.get("ops", ())}
    _history(run, set(sorted(wanted)[:SHOWN_OPS]))
    run.executions = sum(1 for _ in _lines(run, "sink.jsonl"))
    _faults(run)
    _nodes(run)
    return run


def _object(run: Run, name: str) -> dict[str, Any]:
    path = run.directory / name
    if not path.exists():
        run.missing.append(name)
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not an object")
    return found


def _lines(run: Run, name: str) -> Iterator[dict[str, Any]]:
    path = run.directory / name
    if not path.exists():
        run.missing.append(name)
        return iter(())
    return lines(path)


# --- history ------------------------------------------------------------------------------------------


def _history(run: Run, wanted: set[int]) -> None:
    path = run.directory / "history.jsonl"
    if not path.exists():
        run.missing.append(path.name)
        return
    run.start_ns = _load_began(path)
    run.length_s = max(run.seconds(_last_instant(path)), BIN_S_MIN)
    run.bin_s = max(BIN_S_MIN, run.length_s / BINS)
    for call in operations(path):
        _count(run, call)
        if call.op in wanted:
            run.shown[call.op] = call
    for line in notes(path):
        if line.get("what") == "phase":
            run.phases.append((str(line.get("phase")), run.seconds(line["t"])))


def _load_began(path: Path) -> int:
    """When the plan's time began; of a run that did not come so far, when its history did."""
    began = (line["t"] for line in notes(path) if line.get("phase") == "load")
    return int(next(began, next(lines(path), {}).get("t", 0)))


def _last_instant(path: Path) -> int:
    """Of the last whole line, without reading the file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        back = 1 << 16
        while True:
            file.seek(max(0, size - back))
            whole = [
                one for one in file.read().split(b"\n")[:-1] if one.startswith(b"{") and one.endswith(b"}")
            ]
            if whole:
                return int(json.loads(whole[-1])["t"])
            if back >= size:
                return 0
            back *= 8


def _count(run: Run, call: Operation) -> None:
    calls = run.calls[call.f]
    calls.ended[call.type] += 1
    calls.attempts += call.attempts
    calls.unknown_attempts += call.unknown_attempts
    calls.repeated += call.repeated
    if call.code is not None:
        calls.codes[call.code] += 1
    if call.ret_ns is None or call.ret_ns < run.start_ns:
        return
    at = calls.bins[int(run.seconds(call.ret_ns) / run.bin_s)]
    at.ended[call.type] += 1
    if call.type != OK:
        return
    if call.f == "lease" and not call.result["messages"]:
        return  # it waited for nothing
    took_s = (call.ret_ns - call.inv_ns) / 1e9
    calls.took.add(took_s)
    at.took.add(took_s)
    if call.index is not None:
        run.writes.append(call.ret_ns)


# --- faults and nodes ---------------------------------------------------------------------------------


def _faults(run: Run) -> None:
    by_n: dict[int, Struck] = {}
    for line in _lines(run, "faults.jsonl"):
        at_s = run.seconds(line["t"])
        event = line["e"]
        if event == "fire":
            found = Struck(
                line["n"], line["fault"], line.get("parameters", {}), at_s, leader=line.get("leader")
            )
            by_n[found.n] = found
            run.faults.append(found)
            continue
        one = by_n.get(line.get("n", -1))
        if one is None:
            continue
        if event == "fired":
            one.struck_s = run.seconds(line.get("struck") or line["t"])
            one.evidence = line.get("evidence")
        elif event == "not_fired":
            one.not_fired = str(line.get("why"))
        elif event == "healed":
            one.healed_s = at_s
        elif event == "back":
            one.back_s = at_s
            one.failover_s = line.get("failover_s")
            one.service_s, one.ready_s = line.get("service_s"), line.get("ready_s")
    for one in run.faults:
        one.gap_s = run.gap_s(one.fire_s, end_of(one, run))


def end_of(one: Struck, run: Run) -> float:
    """When the cluster was whole again, as far as is known."""
    return next((at_s for at_s in (one.back_s, one.healed_s) if at_s is not None), run.length_s)


def _nodes(run: Run) -> None:
    for line in _lines(run, "nodes.jsonl"):
        at_s = run.seconds(line["t"])
        role, term = "down", None
        if line.get("up"):
            role, term = str(line.get("role")), line.get("term")
            if line.get("recovering"):
                role = "recovering"
        of_node = run.nodes.setdefault(str(line["node"]), [])
        last = of_node[-1] if of_node else None
        if last is not None and at_s - last.to_s < SAMPLE_S:
            last.to_s = at_s
            if (last.role, last.term) == (role, term):
                continue
        of_node.append(Stretch(at_s, at_s, role, term))
