"""The judge of runs: what readers were told, against what was appended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from chaos.checker.clients import Clients
from chaos.history import Operation

Line = dict[str, Any]


def told() -> list[Line]:
    """Two appends, the second said twice; a stream in two pieces; a page of all at the end."""
    first = [{"type": "token", "data": [1, n], "event_id": f"1-{n}"} for n in range(2)]
    second = [{"type": "token", "data": [2, 0], "event_id": "2-0"}]
    events: list[list[Any]] = [
        [1, "message.ready", {"message_id": "m1"}],
        [2, "token", [1, 0]],
        [3, "token", [1, 1]],
        [4, "token", [2, 0]],
    ]
    page = [{"id": at, "type": type, "data": data} for at, type, data in events]
    return [
        {
            "f": "append_events",
            "args": {"run": "r", "events": first},
            "result": {"events": [{"id": 2}, {"id": 3}]},
        },
        {"f": "append_events", "args": {"run": "r", "events": second}, "result": {"events": [{"id": 4}]}},
        {
            "f": "append_events",
            "args": {"run": "r", "events": second},
            "result": {"events": [{"id": 4, "duplicate": True}]},
        },
        {"f": "follow", "args": {"run": "r", "after": 0}, "result": {"events": events[:2]}},
        {"f": "follow", "args": {"run": "r", "after": 2}, "result": {"events": events[2:]}},
        {
            "f": "read_events",
            "args": {"run": "r", "after": "0"},
            "result": {"events": page, "next": None, "first_id": 1},
        },
    ]


def broken_laws(lines: list[Line]) -> list[str]:
    clients = Clients()
    for at, line in enumerate(lines, start=1):
        is_append = line["f"] == "append_events"
        place: dict[str, int] = {"index": at, "seq": 0, "term": 1} if is_append else {}
        if line["f"] == "read_events":
            place = {"asof": at}
        clients.take(
            Operation(
                at,
                "p",
                line["f"],
                at * 10,
                line["args"],
                at * 10 + 5,
                line.get("type", "ok"),
                result=line["result"],
                **place,
            )
        )
    clients.note({"what": "phase", "phase": "resolved"})
    return [f"{one.law} {one.text}" for one in clients.judge([], True).closed()]


def test_a_clean_run_is_clean() -> None:
    assert broken_laws(told()) == []


def test_a_gap_that_is_told_is_none() -> None:
    lines = told()
    lines[3]["result"]["events"] = [[1, "gap", {"after": 0, "first_id": 2}], [2, "token", [1, 0]]]
    assert broken_laws(lines) == []


def test_what_stayed_unknown_may_be_there_or_not() -> None:
    lines = told()
    events = [{"type": "token", "data": [9, 0], "event_id": "9-0"}]
    lines.append(
        {"f": "append_events", "args": {"run": "r", "events": events}, "result": None, "type": "info"}
    )
    assert broken_laws(lines) == []


def _lost(lines: list[Line]) -> None:
    lines[4]["result"]["events"].pop()
    lines[5]["result"]["events"].pop()


def _from_nowhere(lines: list[Line]) -> None:
    lines[4]["result"]["events"].append([5, "token", [7, 7]])


def _other_content(lines: list[Line]) -> None:
    lines[5]["result"]["events"][2]["data"] = [1, 0]


def _twice(lines: list[Line]) -> None:
    lines[4]["result"]["events"].append([5, "token", [2, 0]])


def _new_id_for_a_repeat(lines: list[Line]) -> None:
    lines[2]["result"]["events"] = [{"id": 5}]


def _one_id_for_two(lines: list[Line]) -> None:
    lines[1]["result"]["events"] = lines[2]["result"]["events"] = [{"id": 3}]


def _skipped(lines: list[Line]) -> None:
    del lines[4]["result"]["events"][0]


def _again(lines: list[Line]) -> None:
    lines[4]["result"]["events"].insert(0, [2, "token", [1, 0]])


def _short_answer(lines: list[Line]) -> None:
    lines[0]["result"]["events"].pop()


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (_lost, "S1"),
        (_from_nowhere, "S2"),
        (_other_content, "S2"),
        (_twice, "S3"),
        (_new_id_for_a_repeat, "S3"),
        (_one_id_for_two, "S3"),
        (_skipped, "S16"),
        (_again, "S16"),
        (_short_answer, "S20"),
    ],
)
def test_a_spoiled_run_is_noticed(spoil: Callable[[list[Line]], None], law: str) -> None:
    lines = told()
    spoil(lines)
    assert any(one.startswith(law) for one in broken_laws(lines)), broken_laws(lines)
