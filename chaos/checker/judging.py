"""`check(directory)`: every judge over one run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.checker import liveness
from chaos.checker.by_order import sent_and_told
from chaos.checker.clients import Clients
from chaos.checker.committed import read_log
from chaos.checker.expected import Expected
from chaos.checker.replay import Replay, check_counts, check_nodes
from chaos.checker.verdict import Findings, Verdict
from chaos.history import lines, operations


def check(directory: Path) -> Verdict:
    """The verdict on the run in `directory`. Needs no cluster.

    Raises OSError if there is no history, ValueError if a file contradicts itself.
    """
    plan = _json(directory / "plan.json")
    final = _json(directory / "final.json")
    faults = list(lines(directory / "faults.jsonl")) if (directory / "faults.jsonl").exists() else []
    clients, expected, types = Clients(), Expected(), Counter[str]()
    for line in _notes(directory / "history.jsonl"):
        clients.note(line)
    for operation in operations(directory / "history.jsonl"):
        clients.take(operation)
        expected.take(operation)
        types[operation.f + " " + operation.type] += 1
    sink = lines(directory / "sink.jsonl") if (directory / "sink.jsonl").exists() else ()
    first = clients.judge(sink, clocks_true=not any("clock" in line.get("fault", "") for line in faults))
    second, problems, counts = _guided(directory, plan, final, expected)
    alive = liveness.judge(directory, plan, faults, final, types, clients.facts)
    facts = clients.facts
    violations = [*first.closed(), *second.closed(), *alive.found.closed()]
    problems = [*alive.problems, *problems]
    counts |= {
        "operations": len(facts.calls),
        **{
            type: sum(n for name, n in types.items() if name.endswith(" " + type))
            for type in ("ok", "fail", "info")
        },
        "sent": sent_and_told(facts),
        "lost": len(first.lost),
        "doubled": len(first.doubled),
        **alive.counts,
    }
    return Verdict(not problems, not violations, violations, problems, counts)


def _guided(
    directory: Path, plan: dict[str, Any], final: dict[str, Any], expected: Expected
) -> tuple[Findings, list[str], dict[str, Any]]:
    found = Findings("log")
    if plan.get("cluster") == "foreign":
        return found, [], {}
    if not (directory / "log").is_dir():
        return found, ["there is no archive of the log: the second judge has nothing to read"], {}
    ends = [one["index"] for one in final.get("nodes", {}).values()]
    log = read_log(directory, max(ends, default=None), found)
    replay = Replay(expected, found)
    replay.play(log)
    problems = list(log.problems)
    if not final:
        problems.append("there is no final.json: whether the nodes agree at the end is not known (S17)")
    check_nodes(final, found)
    if not problems:
        check_counts(replay, final, found)
    counts = {"entries": len(log.chain), "damaged_files": log.damaged}
    return found, problems, {**counts, **{f"log_{name}": n for name, n in replay.counts.items()}}


def _notes(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b'{"e":"note"') and line.endswith(b"\n"):
                yield json.loads(line)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
