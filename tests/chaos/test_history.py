"""The history says what happened, also of a harness that died, and refuses to contradict itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chaos.history import Recorder, lines, operations


@pytest.fixture
def recorder(tmp_path: Path) -> Any:
    made = Recorder(tmp_path / "history.jsonl")
    yield made
    made.close()


def test_a_call_is_one_line_before_and_one_after(recorder: Recorder) -> None:
    op = recorder.invoke("a.producer-0.0", "enqueue", {"queue": "q"})
    recorder.returned(op, "ok", attempts=2, index=7, seq=1, term=3, result={"messages": []}, repeated=None)
    written = list(lines(recorder.path))
    assert [one["e"] for one in written] == ["open", "inv", "ret"]
    assert written[1] | {"t": 0} == {
        "e": "inv",
        "op": op,
        "proc": "a.producer-0.0",
        "f": "enqueue",
        "t": 0,
        "args": {"queue": "q"},
    }
    assert written[2] | {"t": 0} == {
        "e": "ret",
        "op": op,
        "t": 0,
        "type": "ok",
        "attempts": 2,
        "index": 7,
        "seq": 1,
        "term": 3,
        "result": {"messages": []},
    }
    assert written[1]["t"] <= written[2]["t"]


def test_operations_come_in_the_order_of_their_returns(recorder: Recorder) -> None:
    first = recorder.invoke("a", "lease", {})
    second = recorder.invoke("b", "ack", {})
    hanging = recorder.invoke("c", "ack", {})
    recorder.returned(second, "fail", error={"code": "stale_lease"})
    recorder.returned(first, "info", error={"code": "outcome_unknown"})
    found = list(operations(recorder.path))
    assert [(one.op, one.type, one.code) for one in found] == [
        (second, "fail", "stale_lease"),
        (first, "info", "outcome_unknown"),
        (hanging, "info", None),
    ]
    assert found[2].ret_ns is None
    assert recorder.counts == {"ack": {"fail": 1}, "lease": {"info": 1}}


def test_a_reserved_number_is_the_next_call_s(recorder: Recorder) -> None:
    op = recorder.reserve()
    other = recorder.invoke("b", "lease", {})
    assert recorder.invoke("a", "enqueue", {"messages": [{"body": {"op": op}}]}, op) == op != other


def test_every_line_is_in_the_file_when_the_call_returns(recorder: Recorder) -> None:
    """A harness that dies loses nothing it knew: no buffer between it and the kernel."""
    recorder.invoke("a", "lease", {})
    assert recorder.path.read_bytes().count(b"\n") == 2


def test_a_last_line_that_was_cut_off_is_passed_over_and_any_other_is_not(recorder: Recorder) -> None:
    recorder.invoke("a", "lease", {})
    whole = recorder.path.read_bytes()
    recorder.path.write_bytes(whole[:-9])
    assert [one["e"] for one in lines(recorder.path)] == ["open"]
    recorder.path.write_bytes(whole.replace(b'"e":"open"', b'"e":open') + whole)
    with pytest.raises(ValueError, match="line 1"):
        list(lines(recorder.path))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"e": "inv", "op": 1, "proc": "a", "f": "ack", "t": 5, "args": {}}, "invoked twice"),
        ({"e": "ret", "op": 9, "t": 5, "type": "ok"}, "not under way"),
        ({"e": "ret", "op": 1, "t": 5, "type": "perhaps"}, "has the type"),
    ],
)
def test_a_history_that_contradicts_itself_is_refused(
    recorder: Recorder, extra: dict[str, Any], says: str
) -> None:
    assert recorder.invoke("a", "lease", {}) == 1
    with recorder.path.open("a") as file:
        file.write(json.dumps(extra) + "\n")
    with pytest.raises(ValueError, match=says):
        list(operations(recorder.path))


def test_a_call_returns_once(recorder: Recorder) -> None:
    op = recorder.invoke("a", "lease", {})
    with pytest.raises(ValueError, match="perhaps"):
        recorder.returned(op, "perhaps")
    recorder.returned(op, "ok")
    with pytest.raises(KeyError):
        recorder.returned(op, "ok")


def test_a_history_is_never_written_over(recorder: Recorder) -> None:
    with pytest.raises(FileExistsError):
        Recorder(recorder.path)
