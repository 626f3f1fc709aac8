"""One verdict from everything a run left behind: the checker's, the runner's own findings, what was fired."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos.checker import check
from chaos.history import lines, operations
from chaos.plan import Plan

CLEAN, VIOLATION, INVALID = 0, 1, 2


@dataclass
class Story:
    """What `faults.jsonl` tells."""

    fired: Counter[str] = field(default_factory=Counter)  # by kind
    kills: list[int] = field(default_factory=list)  # when a process was ended by SIGKILL, one each
    failovers_s: list[float] = field(default_factory=list)
    services_s: list[float] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # why the run proves nothing

    @staticmethod
    def read(directory: Path) -> Story:
        story = Story()
        kinds: dict[int, str] = {}
        path = directory / "faults.jsonl"
        for line in lines(path) if path.exists() else ():
            match line["e"]:
                case "fire":
                    kinds[line["n"]] = line["fault"]
                case "fired":
                    story.fired[kinds[line["n"]]] += 1
                    killed = line["evidence"].get("killed")
                    story.kills += [line["struck"]] * len(killed if isinstance(killed, dict) else ())
                case "not_fired":
                    story.problems.append(
                        f"fault {line['n']} ({kinds[line['n']]}) did not fire: {line['why']}"
                    )
                case "back":
                    story.failovers_s += [line["failover_s"]] if line["failover_s"] is not None else []
                    story.services_s += [line["service_s"]] if line["service_s"] is not None else []
                case "violation":
                    named = {name: value for name, value in line.items() if name not in ("e", "t")}
                    story.violations.append(named)
                case "aborted":
                    story.problems.append(f"given up: {line['why']}")
        return story


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """How many, the median, the 99th percentile, the worst; milliseconds' precision."""
    told = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values, default=None)}
    return {"n": len(values), **{k: None if v is None else round(v, 3) for k, v in told.items()}}


def judge(directory: Path) -> dict[str, Any]:
    """The verdict on a run, also written to `verdict.json`. Needs no cluster. Raises `BadPlan`."""
    plan = Plan.read(directory)
    story = Story.read(directory)
    checked = check(directory)
    found = [msgspec.to_builtins(one) for one in checked.violations] + story.violations
    valid = checked.valid and not story.problems
    told = {
        "exit": VIOLATION if found or not checked.clean else CLEAN if valid else INVALID,
        "valid": valid,
        "clean": checked.clean and not story.violations,
        "violations": found,
        "problems": [*checked.problems, *story.problems],
        "counts": checked.counts,
        "fired": dict(sorted(story.fired.items())),
        "kills": len(story.kills),
        "kills_inside_acks": inside_acks(directory, story.kills),
        "failover_s": spread(story.failovers_s),
        "service_after_heal_s": spread(story.services_s),
        "seed": plan.seed,
        "replay": f"python -m chaos replay {directory}",
    }
    (directory / "verdict.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def inside_acks(directory: Path, strokes: Sequence[int]) -> int:
    """At how many of these instants (monotonic ns) an ack was under way: sent and not answered yet."""
    ordered = sorted(strokes)
    hit: set[int] = set()
    for call in operations(directory / "history.jsonl") if ordered else ():
        if call.f == "ack":
            first = bisect_right(ordered, call.inv_ns)
            last = len(ordered) if call.ret_ns is None else bisect_left(ordered, call.ret_ns)
            hit.update(range(first, last))
    return len(hit)


def summary(told: dict[str, Any]) -> list[str]:
    """The last lines of a drill on the terminal."""
    gaps, counts = told["failover_s"], told["counts"]
    text = ["fired: " + (" · ".join(f"{count} {name}" for name, count in told["fired"].items()) or "nothing")]
    if told["kills"]:
        text.append(f"processes killed: {told['kills']}, {told['kills_inside_acks']} with acks under way")
    if gaps["n"]:
        text.append(f"failover of {gaps['n']}: p50 {gaps['p50']:.2f} s · p99 {gaps['p99']:.2f} s")
    text += [f"VIOLATION {one.get('law')}: {one.get('text')}" for one in told["violations"][:20]]
    text += [f"INVALID: {one}" for one in told["problems"][:20]]
    word = {CLEAN: "clean", VIOLATION: "VIOLATION", INVALID: "invalid: it proves nothing"}[told["exit"]]
    text.append(
        f"{counts.get('sent', 0)} sent · {counts.get('lost', 0)} lost · {counts.get('doubled', 0)} doubled · {word}"
    )
    text.append(f"seed {told['seed']} · {told['replay']}")
    return text
