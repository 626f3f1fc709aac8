"""The demo's judge must be able to fail: one wrong thing at a time, each is named (R38)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from chaos.demo_judge import Verdict, judge
from chaos.demo_sink import create

from trivet.client import Client


class Case:
    """A run in which all went well; a test spoils one thing."""

    def __init__(self, path: Path) -> None:
        self.sent = {n: f"m{n}" for n in range(10)}
        self.states = dict.fromkeys(self.sent.values(), "done")
        self.payments = [f"pay:{n}" for n in range(10)]
        self.lines: list[dict[str, Any]] = [
            {"event": "settled", "id": f"m{n}", "status": "acked", "repeated": n == 3, "at_s": 100.0 + n}
            for n in range(10)
        ]
        self.lines += [
            {"event": "redelivered", "id": "m3", "attempt": 2, "at_s": 101.0},
            {"event": "unknown_attempt", "path": "/v1/ack", "node": "x", "at_s": 101.0},
            {"event": "uncertain", "effect_id": "pay:3", "happened": True, "at_s": 101.0},
        ]
        self.kills = 3
        self.first_kill_s = 100.5
        self._path = path

    async def messages(
        self, queue: str, *, state: str, limit: int, after: str | None = None
    ) -> dict[str, Any]:
        found = [{"id": name, "state": one} for name, one in self.states.items() if one == state]
        return {"messages": found, "next": None}

    def judged(self) -> Verdict:
        sink, journal = self._path / "sink.db", self._path / "w.jsonl"
        create(sink)
        database = sqlite3.connect(sink)
        with database:
            database.executemany("INSERT INTO payments VALUES (?, 'w')", [(one,) for one in self.payments])
        database.close()
        whole = b"".join(msgspec.json.encode(line) + b"\n" for line in self.lines)
        journal.write_bytes(whole + b'{"event": "set')  # a SIGKILL cut the last line
        return asyncio.run(
            judge(
                cast(Client, self),
                "payments",
                sent=self.sent,
                journals=[journal],
                sink=sink,
                first_kill_s=self.first_kill_s,
                kills=self.kills,
                producer_unknown=1,
            )
        )


def test_a_good_run_is_good(tmp_path: Path) -> None:
    verdict = Case(tmp_path).judged()
    assert verdict.good and (verdict.sent, verdict.lost, verdict.doubled) == (10, 0, 0)


def not_done(case: Case) -> None:
    case.states["m4"] = "ready"


def vanished(case: Case) -> None:
    del case.states["m4"]


def unpaid(case: Case) -> None:
    case.payments.remove("pay:4")


def paid_twice(case: Case) -> None:
    case.payments.append("pay:4")


def acked_twice(case: Case) -> None:
    case.lines.append({"event": "settled", "id": "m4", "status": "acked", "repeated": False, "at_s": 120.0})


def never_repeated(case: Case) -> None:
    case.lines[3]["repeated"] = False


def repeated_before_the_kill(case: Case) -> None:
    case.lines[3]["at_s"] = 99.0


def never_redelivered(case: Case) -> None:
    case.lines = [line for line in case.lines if line["event"] != "redelivered"]


def never_unknown(case: Case) -> None:
    case.lines = [line for line in case.lines if line["event"] != "unknown_attempt"]


def two_kills(case: Case) -> None:
    case.kills = 2


@pytest.mark.parametrize(
    ("spoil", "said", "lost", "doubled"),
    [
        (not_done, "1 acknowledged messages are not done", 1, 0),
        (vanished, "1 acknowledged messages are not done", 1, 0),
        (unpaid, "1 acknowledged messages have no payment", 0, 0),
        (paid_twice, "payments made twice: ['pay:4']", 0, 1),
        (acked_twice, "messages acked twice: ['m4']", 0, 1),
        (never_repeated, "no ack came back `repeated`", 0, 0),
        (repeated_before_the_kill, "no ack came back `repeated`", 0, 0),
        (never_redelivered, "nothing was redelivered", 0, 0),
        (never_unknown, "no outcome was unknown", 0, 0),
        (two_kills, "less than three times", 0, 0),
    ],
)
def test_each_wrong_thing_is_named(
    tmp_path: Path, spoil: Callable[[Case], None], said: str, lost: int, doubled: int
) -> None:
    case = Case(tmp_path)
    spoil(case)
    verdict = case.judged()
    assert not verdict.good
    assert any(said in problem for problem in verdict.problems), verdict.problems
    assert (verdict.lost, verdict.doubled) == (lost, doubled)
