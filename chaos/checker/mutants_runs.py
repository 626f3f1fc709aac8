"""Mutants of runs: S1–S3, S16, S20."""

from __future__ import annotations

from typing import Any

from chaos.checker.mutant import mutant
from chaos.checker.spoil import Op, Spoiler
from chaos.history import OK


def appended(s: Spoiler) -> list[Op]:
    """Acknowledged, and not repeats."""
    all_ok = [op for op in s.all("append_events") if op.ret["type"] == OK]
    return [op for op in all_ok if not any("duplicate" in one for one in op.result["events"])]


def shown(s: Spoiler, wanted: int) -> list[tuple[Op, Any]]:
    """Reads that have that event, and it."""
    reads = [op for op in s.all("read_events") if op.ret["type"] == OK]
    return [(op, one) for op in reads for one in op.result["events"] if one["id"] == wanted]


@mutant("S1")
def acknowledged_event_is_lost(s: Spoiler) -> None:
    """No read shows it."""
    op = s.one(appended(s))
    lost = op.result["events"][0]["id"]
    for read in s.all("read_events"):
        read.result["events"] = [one for one in read.result["events"] if one["id"] != lost]


@mutant("S2")
def event_that_nobody_sent(s: Spoiler) -> None:
    op = s.one(appended(s))
    for _, one in shown(s, op.result["events"][0]["id"]):
        one["data"] = [10**6, 0]


@mutant("S3")
def repeated_event_id_counts_again(s: Spoiler) -> None:
    """Said again under its event ids, it was told new ones."""
    op = s.one(
        op
        for op in s.all("append_events")
        if op.ret["type"] == OK and any("duplicate" in one for one in op.result["events"])
    )
    op.result["events"] = [{"id": 10**6 + at} for at in range(len(op.result["events"]))]


@mutant("S16")
def reader_misses_an_event(s: Spoiler) -> None:
    """One read leaves one out."""
    op = s.one(op for op in s.all("read_events") if len(op.result["events"]) > 2)
    del op.result["events"][1]


@mutant("S20")
def answer_without_one_of_its_events(s: Spoiler) -> None:
    op = s.one(op for op in appended(s) if len(op.result["events"]) > 1)
    op.result["events"].pop()
