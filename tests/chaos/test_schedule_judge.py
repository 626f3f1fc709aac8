"""The first judge of schedules: a run that is right passes, each way to spoil it is seen."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest
from chaos.checker import by_schedule
from chaos.checker.facts import Facts
from chaos.checker.verdict import Findings
from chaos.history import INFO, OK, Operation

ANCHOR, EVERY = 1_000_000, 500
SLOTS = [ANCHOR + n * EVERY for n in (1, 2, 3, 5, 6)]  # the fourth was skipped
END = ANCHOR + 6 * EVERY + 100

Run = list[dict[str, Any]]


def operation(
    f: str, op: int, args: dict[str, Any], result: dict[str, Any] | None, **more: Any
) -> dict[str, Any]:
    return {
        "op": op, "proc": "p.0", "f": f, "args": args, "inv_ns": op * 10, "type": OK, "ret_ns": op * 10 + 5,
        "result": result, **more,
    }  # fmt: skip


def message(n: int, slot: int) -> dict[str, Any]:
    return {
        "id": f"m{n:012x}", "queue": "q", "body": {"schedule": "s"}, "idempotency_key": f"s@{slot}", "attempt": 1,
        "lease_token": base64.urlsafe_b64encode(n.to_bytes(8, "big") + bytes(16)).decode(), "lease_expires_at_ms": slot + 5000, "enqueued_at_ms": slot + 7,
    }  # fmt: skip


def shown(**more: Any) -> dict[str, Any]:
    return {"decided_at_ms": END, "anchor_at_ms": ANCHOR, "fired": 5, "skipped": 1, "paused": True, **more}


def good() -> Run:
    put = {"schedule": "s", "queue": "q", "every_ms": EVERY}
    early = shown(decided_at_ms=SLOTS[1], fired=2, skipped=0, paused=False)
    run = [
        operation("put_schedule", 1, put, {"anchor_at_ms": ANCHOR, "revision": 3}, index=5, seq=0, term=1),
        operation("put_schedule", 2, put, None, type=INFO, ret_ns=None),
        operation("read_schedule", 3, {"schedule": "s"}, early, asof=20),
    ]
    for at, slot in enumerate(SLOTS):
        told = {"now_ms": slot + 9, "messages": [message(at + 2, slot)]}
        run.append(operation("lease", 4 + at, {"queues": ["q"]}, told, index=30 + at, seq=0, term=1))
    run.append(operation("read_schedule", 20, {"schedule": "s"}, shown(), asof=50))
    return run


def judged(run: Run) -> list[str]:
    facts = Facts()
    for one in run:
        facts.take(Operation(**one))
    facts.note({"what": "phase", "phase": "resolved"})
    facts.finish()
    found = Findings("clients")
    for law, text, ops in facts.strange:
        found.add(law, text, ops)
    by_schedule.check(facts, found)
    return [violation.law for violation in found.closed()]


def leased(run: Run, at: int) -> dict[str, Any]:
    return run[3 + at]["result"]["messages"][0]  # type: ignore[no-any-return]


def last(run: Run) -> dict[str, Any]:
    return run[-1]["result"]  # type: ignore[no-any-return]


def doubled(run: Run) -> None:
    more = copy.deepcopy(run[4])
    more.update(op=15)
    more["result"]["messages"][0]["id"] = "m0000000000ff"
    run.insert(-1, more)


SPOILED: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "a slot lost without a word": ("S1", lambda run: last(run).update(skipped=0)),
    "a message lost": ("S1", lambda run: run.pop(4)),
    "a slot doubled": ("S3", doubled),
    "no slot of the timetable": (
        "S13",
        lambda run: leased(run, 1).update(idempotency_key=f"s@{SLOTS[1] + 1}"),
    ),
    "before its time": ("S13", lambda run: leased(run, 1).update(enqueued_at_ms=SLOTS[1] - 1)),
    "of no schedule": ("S2", lambda run: leased(run, 1).update(body={"schedule": "other"})),
    "under another's key": ("S2", lambda run: leased(run, 1).update(idempotency_key="t@1000500")),
    "without a key": ("S2", lambda run: leased(run, 1).pop("idempotency_key")),
    "decisions taken back": ("S16", lambda run: run[2]["result"].update(fired=6)),
    "never at rest": ("S1", lambda run: last(run).update(paused=False)),
}


def test_a_good_run() -> None:
    assert judged(good()) == []


@pytest.mark.parametrize("how", SPOILED)
def test_each_way_to_spoil_it_is_seen(how: str) -> None:
    law, spoil = SPOILED[how]
    run = good()
    spoil(run)
    assert law in judged(run)
