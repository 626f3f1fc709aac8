"""The figures of a run: what the page's head shows, and the page's content as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from chaos.report.data import Calls, Run
from chaos.verdict import spread

EXITS = {0: "clean", 1: "violation", 2: "invalid"}


def verdict_of(run: Run) -> str:
    """`clean`, `violation`, `invalid`, or `not judged`."""
    return EXITS.get(run.verdict.get("exit", -1), "not judged")


def seconds(length_s: float | None) -> str:
    """For people: `1.2 ms`, `340 ms`, `2.31 s`; a dash for nothing."""
    if length_s is None:
        return "–"
    if length_s < 0.1:
        return f"{length_s * 1000:.1f} ms"
    if length_s < 1:
        return f"{length_s * 1000:.0f} ms"
    return f"{length_s:.2f} s"


def overall(run: Run) -> dict[str, Any]:
    """The run in ten figures."""
    counts = run.verdict.get("counts", {})
    fired = [one for one in run.faults if one.evidence is not None]
    gaps = [one.gap_s for one in run.faults if one.gap_s is not None]
    return {
        "sent": counts.get("sent"),
        "lost": counts.get("lost"),
        "doubled": counts.get("doubled"),
        "calls": sum(sum(one.ended.values()) for one in run.calls.values()),
        "info": sum(one.ended["info"] for one in run.calls.values()),
        "attempts": sum(one.attempts for one in run.calls.values()),
        "unknown_attempts": sum(one.unknown_attempts for one in run.calls.values()),
        "executions": run.executions,
        "fired": len(fired),
        "planned": len(run.plan.get("faults", run.faults)),
        "failover_s": spread([one.failover_s for one in run.faults if one.failover_s is not None]),
        "longest_gap_s": max([*gaps, run.gap_s(*_load(run)) or 0.0], default=None) if run.writes else None,
    }


def _load(run: Run) -> tuple[float, float]:
    """From the load's first second to its last: outside of it nobody wrote much."""
    at = dict(run.phases)
    return at.get("load", 0.0), at.get("stop", run.length_s)


def as_json(run: Run) -> dict[str, Any]:
    """Everything the page shows."""
    return {
        "verdict": verdict_of(run),
        "seed": run.plan.get("seed"),
        "nodes": run.plan.get("nodes"),
        "seconds": round(run.length_s, 3),
        "missing": run.missing,
        "overall": overall(run),
        "violations": run.verdict.get("violations", []),
        "problems": run.verdict.get("problems", []),
        "bin_s": run.bin_s,
        "operations": {name: _calls(calls) for name, calls in sorted(run.calls.items())},
        "faults": [asdict(one) for one in run.faults],
        "timeline": {name: [asdict(one) for one in found] for name, found in sorted(run.nodes.items())},
    }


def _calls(calls: Calls) -> dict[str, Any]:
    return {
        **{kind: calls.ended[kind] for kind in ("ok", "fail", "info")},
        "attempts": calls.attempts,
        "unknown_attempts": calls.unknown_attempts,
        "repeated": calls.repeated,
        "codes": dict(calls.codes.most_common()),
        "p50_s": calls.took.quantile_s(0.5),
        "p99_s": calls.took.quantile_s(0.99),
        "longest_s": calls.took.longest_s if calls.took.count else None,
        "bins": [
            {
                "bin": n,
                **dict(one.ended),
                "p50_s": one.took.quantile_s(0.5),
                "p99_s": one.took.quantile_s(0.99),
            }
            for n, one in sorted(calls.bins.items())
        ],
    }
