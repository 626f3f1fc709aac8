"""The first judge on flows: a saga of two steps that turned round, clean and spoiled in one place at a time."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from chaos.checker.clients import Clients
from chaos.history import Operation

Line = dict[str, Any]


def token(fence: int) -> str:
    return base64.urlsafe_b64encode(fence.to_bytes(8, "big") + bytes(16)).decode()


def told() -> list[Line]:
    """Steps 0 and 1 are done, 2 is given up; 1 and then 0 are undone."""
    steps = []
    for at in range(3):
        body = {"op": 1, "i": at, "step": at, "fails": at == 2}
        undo = {"queue": "undo", "body": {"op": 1, "i": 100 + at, "undoes": at}}
        after = [f"s{at - 1}"] if at else []
        step = {"step_id": f"s{at}", "queue": "q", "body": body, "depends_on": after, "compensate": undo}
        steps.append(step)
    made = [{"step_id": f"s{at}", "message_id": f"m{at:012x}", "state": "blocked"} for at in range(3)]
    lines: list[Line] = [
        {"f": "create_flow", "args": {"steps": steps}, "result": {"id": "f1", "run_id": "f1", "steps": made}}
    ]
    for fence, (name, queue, body, given) in enumerate(
        [
            ("m000000000000", "q", steps[0]["body"], {}),
            ("m000000000001", "q", steps[1]["body"], {"s0": {"op": 1, "i": 0}}),
            ("m000000000002", "q", steps[2]["body"], {"s1": {"op": 1, "i": 1}}),
            ("m000000000065", "undo", steps[1]["compensate"]["body"], {"s1": {"op": 1, "i": 1}}),
            ("m000000000064", "undo", steps[0]["compensate"]["body"], {"s0": {"op": 1, "i": 0}}),
        ],
        start=1,
    ):
        message = {
            "id": name, "queue": queue, "body": body, "lease_token": token(fence), "attempt": 1,
            "lease_expires_at_ms": 9000, "enqueued_at_ms": 1, "parents": given,
        }  # fmt: skip
        lines.append(
            {"f": "lease", "args": {"queues": [queue]}, "result": {"now_ms": 5, "messages": [message]}}
        )
        verb, items, status = ("nack", "nacks", "dead") if fence == 3 else ("ack", "acks", "acked")
        item: Line = {"lease_token": token(fence)}
        if verb == "nack":
            item["dead_letter"] = True
        lines.append(
            {"f": verb, "args": {items: [item], "ids": [name]}, "result": {"results": [{"status": status}]}}
        )
    shown = [
        {"id": f"m{n:012x}", "state": "dead" if n == 2 else "done", "attempt": 1} for n in (0, 1, 2, 100, 101)
    ]
    lines.append({"f": "browse", "args": {"queue": "q"}, "result": {"messages": shown}})
    return lines


def broken_laws(lines: list[Line]) -> list[str]:
    clients = Clients()
    clients.note({"what": "phase", "phase": "drained", "t": 1})
    for at, line in enumerate(lines, start=1):
        place = {"asof": at} if line["f"] == "browse" else {"index": at, "seq": 0, "term": 1}
        clients.take(
            Operation(
                at, "p", line["f"], at * 10, line["args"], at * 10 + 5, "ok", result=line["result"], **place
            )
        )
    clients.note({"what": "phase", "phase": "resolved"})
    return [f"{one.law} {one.text}" for one in clients.judge([], True).closed()]


def test_a_clean_saga_is_clean() -> None:
    assert broken_laws(told()) == []


def _not_undone(lines: list[Line]) -> None:
    del lines[9:11]
    lines[-1]["result"]["messages"] = [
        m for m in lines[-1]["result"]["messages"] if m["id"] != "m000000000064"
    ]


def _out_of_turn(lines: list[Line]) -> None:
    lines[7:11] = [*lines[9:11], *lines[7:9]]


def _beside_each_other(lines: list[Line]) -> None:
    lines[7:11] = [lines[7], lines[9], lines[8], lines[10]]


def _undone_for_nothing(lines: list[Line]) -> None:
    lines[6] = {
        "f": "ack",
        "args": {"acks": [{"lease_token": token(3)}], "ids": ["m000000000002"]},
        "result": {"results": [{"status": "acked"}]},
    }
    lines[-1]["result"]["messages"][2]["state"] = "done"


def _wrong_parents(lines: list[Line]) -> None:
    lines[9]["result"]["messages"][0]["parents"] = {"s0": None}


def _twice(lines: list[Line]) -> None:
    lease, ack = (dict(line) for line in lines[7:9])
    message = {**lease["result"]["messages"][0], "id": "m000000000066", "lease_token": token(9)}
    lease["result"] = {**lease["result"], "messages": [message]}
    ack["args"] = {"acks": [{"lease_token": token(9)}], "ids": ["m000000000066"]}
    lines[9:9] = [lease, ack]


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (_not_undone, "S9"),
        (_out_of_turn, "S9"),
        (_beside_each_other, "S9"),
        (_undone_for_nothing, "S9"),
        (_wrong_parents, "S9"),
        (_twice, "S3"),
    ],
)
def test_a_spoiled_saga_is_noticed(spoil: Callable[[list[Line]], None], law: str) -> None:
    lines = told()
    spoil(lines)
    assert any(one.startswith(law) for one in broken_laws(lines)), broken_laws(lines)
