"""The page of a run: right in its figures, whole in itself, and nothing in it that a file could have put there."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chaos.report import write
from chaos.report.data import gather
from chaos.report.histogram import Histogram
from chaos.report.numbers import overall, seconds

S = 1_000_000_000
EVIL = "<script>alert(1)</script>'\"&"


def jsonl(path: Path, *found: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in found))


def call(
    op: int, f: str, began_s: float, ended_s: float, type: str = "ok", **known: Any
) -> list[dict[str, Any]]:
    args = known.pop("args", {})
    return [
        {"e": "inv", "op": op, "proc": "w.p-0.0", "f": f, "t": int(began_s * S), "args": args},
        {"e": "ret", "op": op, "t": int(ended_s * S), "type": type, "attempts": 1, **known},
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Load from 100 s to 130 s of the host's clock: one enqueue a second but for a hole of five."""
    calls = [one for n in range(12) for one in call(n, "enqueue", 100 + n, 100.1 + n, index=n, seq=0, term=1)]
    calls += [one for n in range(17, 30) for one in call(n, "enqueue", 100 + n, 100.1 + n, index=n)]
    calls += call(50, "ack", 112, 120, "info", error={"code": "outcome_unknown", "detail": EVIL})
    calls += call(51, "ack", 113, 114, "fail", error={"code": "stale_lease"}, args={"body": EVIL})
    calls += call(52, "lease", 113, 118, result={"messages": []}, asof=3)
    calls += [{"e": "inv", "op": 53, "proc": "w.p-1.0", "f": EVIL, "t": 129 * S, "args": {}}]
    jsonl(
        tmp_path / "history.jsonl",
        {"e": "open", "t": 99 * S, "wall_ms": 1, "run": "r"},
        *call(900, "put_queue", 99.2, 99.4, index=1),
        {"e": "note", "t": 100 * S, "what": "phase", "phase": "load"},
        *calls,
        {"e": "note", "t": 130 * S, "what": "phase", "phase": "stop"},
    )
    jsonl(tmp_path / "sink.jsonl", {"effect_id": "a"}, {"effect_id": "b"})
    jsonl(
        tmp_path / "faults.jsonl",
        {"e": "load", "t": 100 * S},
        {
            "e": "fire",
            "t": 111 * S,
            "n": 0,
            "fault": "kill_leader",
            "parameters": {"x": EVIL},
            "leader": "n1",
        },
        {
            "e": "fired",
            "t": 112 * S,
            "n": 0,
            "struck": int(111.5 * S),
            "evidence": {"nodes": ["n1", EVIL], "killed": {"n1": {"pid": 4}}},
        },
        {"e": "healed", "t": 113 * S, "n": 0},
        {"e": "back", "t": 114 * S, "n": 0, "failover_s": 5.6, "service_s": 0.1, "ready_s": 0.2},
        {"e": "fire", "t": 120 * S, "n": 1, "fault": EVIL, "parameters": {}, "leader": None},
        {"e": "not_fired", "t": 121 * S, "n": 1, "why": EVIL},
    )
    samples = [
        {
            "t": int((100 + n / 5) * S),
            "node": "n1",
            "up": True,
            "role": "leader",
            "term": 1 + n // 20,
            "leader": "n1",
        }
        for n in range(40)
    ]
    jsonl(tmp_path / "nodes.jsonl", *samples, {"t": 108 * S, "node": "n1", "up": False})
    (tmp_path / "plan.json").write_text(
        json.dumps({"seed": 7, "nodes": 3, "workloads": ["work", EVIL], "faults": [{}, {}]})
    )
    verdict = {
        "exit": 1,
        "valid": True,
        "clean": False,
        "replay": EVIL,
        "problems": [EVIL],
        "violations": [{"law": "S1", "judge": "clients", "text": EVIL, "ops": [50, 51, 77]}],
        "counts": {"sent": 25, "lost": 1, "doubled": 0},
    }
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    return tmp_path


class Page(HTMLParser):
    """Tags, attributes and words; tags must be closed in their order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(run: Path) -> None:
    text = write(run).read_text()
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in text and "@import" not in text


def test_what_comes_from_files_stays_text(run: Path) -> None:
    text = write(run).read_text()
    assert "<script" not in text
    page = Page(text)
    # As a workload, a violation, a problem, the replay command, a parameter, evidence, a fault, its reason
    # and an operation.
    assert page.words.count(EVIL) >= 9
    titles = [attributes["title"] for _, attributes in page.tags if "title" in attributes]
    assert f"{EVIL} × 1" in titles


def test_the_figures_are_those_of_the_files(run: Path) -> None:
    found = gather(run)
    told = overall(found)
    assert (told["sent"], told["lost"], told["doubled"], told["executions"]) == (25, 1, 0, 2)
    assert (told["calls"], told["info"]) == (30, 2)
    assert (told["fired"], told["planned"]) == (1, 2)
    assert told["failover_s"]["p99"] == 5.6
    enqueue = found.calls["enqueue"]
    assert (enqueue.ended["ok"], enqueue.attempts) == (25, 25)
    assert enqueue.took.quantile_s(0.5) == pytest.approx(0.1, rel=0.05)
    assert sum(one.ended["ok"] for one in enqueue.bins.values()) == 25
    assert "lease" in found.calls and found.calls["lease"].took.count == 0  # it waited for nothing
    assert found.calls["ack"].codes == {"outcome_unknown": 1, "stale_lease": 1}


def test_a_gap_lasts_from_the_last_write_before_the_fault_to_the_first_after_it(run: Path) -> None:
    kill, other = gather(run).faults
    assert kill.gap_s == pytest.approx(6.0)  # 111.1 … 117.1, though the fault was over at 114
    assert other.gap_s == pytest.approx(1.0)
    assert overall(gather(run))["longest_gap_s"] == pytest.approx(6.0)
    assert (kill.struck_s, kill.healed_s, kill.back_s) == (11.5, 13.0, 14.0)
    assert other.not_fired == EVIL and other.evidence is None


def test_the_leader_strip_joins_equal_samples(run: Path) -> None:
    stretches = gather(run).nodes["n1"]
    assert [(one.role, one.term) for one in stretches] == [("leader", 1), ("leader", 2), ("down", None)]
    assert stretches[0].from_s == 0.0
    assert stretches[0].to_s == pytest.approx(4.0)


def test_a_violation_shows_its_operations(run: Path) -> None:
    words = Page(write(run).read_text()).words
    assert "50 ack by w.p-0.0: info (outcome_unknown), began at 12.000 s, 8.000 s" in words
    assert "51 ack by w.p-0.0: fail (stale_lease)" in words
    assert "Operation 77 (see history.jsonl)" in words


def test_the_same_as_json(run: Path) -> None:
    write(run)
    told = json.loads((run / "report.json").read_text())
    assert (told["verdict"], told["seed"], told["missing"]) == ("violation", 7, [])
    assert told["operations"]["enqueue"]["ok"] == 25
    assert told["faults"][0]["evidence"]["killed"] == {"n1": {"pid": 4}}
    assert [one["role"] for one in told["timeline"]["n1"]] == ["leader", "leader", "down"]


def test_a_run_of_which_little_is_left_has_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(write(tmp_path).read_text())
    for name in ("plan.json", "history.jsonl", "sink.jsonl", "faults.jsonl", "nodes.jsonl", "verdict.json"):
        assert name in page.words
    assert "not judged" in page.words


def test_a_history_cut_off_in_its_last_line_is_told_up_to_there(run: Path) -> None:
    path = run / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert gather(run).calls["enqueue"].ended["ok"] == 25
    path.write_text("{nonsense}\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1"):
        gather(run)


def test_quantiles_are_within_five_percent_of_the_true_ones() -> None:
    found = Histogram()
    values = [0.0005 * 1.01**n for n in range(1000)]
    for value in values:
        found.add(value)
    for share in (0.01, 0.5, 0.99, 1.0):
        assert found.quantile_s(share) == pytest.approx(values[max(0, int(share * 1000) - 1)], rel=0.05)
    assert Histogram().quantile_s(0.5) is None


def test_lengths_are_written_for_people() -> None:
    assert [seconds(one) for one in (None, 0.0042, 0.34, 2.351)] == ["–", "4.2 ms", "340 ms", "2.35 s"]
