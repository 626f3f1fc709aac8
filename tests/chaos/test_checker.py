"""The checker on a clean run, on real files, on damage, and on what it must not take for granted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos.checker import check
from chaos.checker.committed import read_log
from chaos.checker.facts import Facts
from chaos.checker.records import fence_of
from chaos.checker.scene import Case
from chaos.checker.script import Script
from chaos.checker.spoil import Spoiler
from chaos.checker.verdict import SHOWN_MAX, Findings
from chaos.history import Operation

from tests.long import pick

SEEDS = range(2, pick(4, 30))


@pytest.fixture(scope="module")
def clean() -> Case:
    return Script(1, rounds=120).play()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_false_alarm(seed: int, tmp_path: Path) -> None:
    """Lost calls, lost answers, expired leases, zombies, a failover: and nothing is wrong."""
    Script(seed, rounds=120).play().write(tmp_path / "run")
    verdict = check(tmp_path / "run")
    assert (verdict.valid, verdict.clean) == (True, True), (verdict.problems, verdict.violations)
    counts = verdict.counts
    assert counts["info"] > 10 and counts["fail"] > 10 and counts["sent"] > 50
    assert counts["log_answers"] > 300 and counts["log_reads"] > 10
    assert (counts["lost"], counts["doubled"]) == (0, 0)


def test_a_damaged_node_is_passed_over(clean: Case, tmp_path: Path) -> None:
    """Flips and a cut in the files of one node: what the others have is enough."""
    clean.write(tmp_path / "run")
    segments = sorted((tmp_path / "run" / "log" / "n1").glob("*.seg"))
    assert len(segments) > 1
    with segments[0].open("r+b") as file:
        for offset in (5000, 20_000, 40_000):
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes((byte[0] ^ 4,)))
    os.truncate(segments[1], 9000)
    with (tmp_path / "run" / "log" / "n2" / segments[0].name).open("r+b") as file:
        file.seek(100)
        file.write(b"header gone")
    verdict = check(tmp_path / "run")
    assert verdict.counts["damaged_files"] >= 2
    assert (verdict.valid, verdict.clean) == (True, True), (verdict.problems, verdict.violations)


def test_an_entry_that_nobody_has_makes_the_run_invalid(clean: Case, tmp_path: Path) -> None:
    clean.write(tmp_path / "run")
    for node in ("n1", "n2", "n3"):
        (segment, *_) = sorted((tmp_path / "run" / "log" / node).glob("*.seg"))
        raw = bytearray(segment.read_bytes())
        raw[10_000:10_050] = bytes(50)
        segment.write_bytes(raw)
    verdict = check(tmp_path / "run")
    assert not verdict.valid
    assert "the archive's log ends at" in " ".join(verdict.problems)
    assert verdict.clean, verdict.violations


def test_an_uncommitted_entry_of_a_higher_term_does_not_count(clean: Case, tmp_path: Path) -> None:
    """Raft's figure 8: n2 once led term 3 and wrote an entry that nobody else got and that was replaced."""
    case = clean.copy()
    last = len(case.entries)
    term, now_ms, _ = case.entries[-1]
    case.write(tmp_path / "run")
    other = Case(entries=[*case.entries, (term, now_ms, ())], other={last + 1: (3, now_ms + 1, ())})
    other.write_log(tmp_path / "run" / "log" / "n2", "n2")
    found = Findings("log")
    log = read_log(tmp_path / "run", last, found)
    assert not found.violations and not log.problems
    assert len(log.chain) == last and log.chain[-1] == (last, term)


def test_without_an_archive_the_run_is_invalid(clean: Case, tmp_path: Path) -> None:
    clean.write(tmp_path / "run")
    (tmp_path / "run" / "log").rename(tmp_path / "elsewhere")
    assert not check(tmp_path / "run").valid


def test_somebody_elses_cluster_is_judged_by_its_clients(clean: Case, tmp_path: Path) -> None:
    case = clean.copy()
    case.plan["cluster"] = "foreign"
    case.final.clear()
    case.write(tmp_path / "run")
    (tmp_path / "run" / "log").rename(tmp_path / "elsewhere")
    verdict = check(tmp_path / "run")
    assert (verdict.valid, verdict.clean) == (True, True), (verdict.problems, verdict.violations)
    assert "log_answers" not in verdict.counts


def test_a_history_cut_off_in_the_middle_is_read(clean: Case, tmp_path: Path) -> None:
    """A harness that died: the last line is half, calls never returned; invalid, and no violation."""
    clean.write(tmp_path / "run")
    path = tmp_path / "run" / "history.jsonl"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    verdict = check(tmp_path / "run")
    assert not verdict.valid
    assert all(one.judge != "clients" for one in verdict.violations), verdict.violations


def test_many_violations_of_a_law_are_counted(tmp_path: Path) -> None:
    found = Findings("log")
    for n in range(SHOWN_MAX + 3):
        found.add("S1", f"message {n}", (n, None, n))
    assert len(found.closed()) == SHOWN_MAX + 1
    assert found.closed()[0].ops == (0,)
    assert "3 more" in found.closed()[-1].text


@pytest.mark.parametrize("token", [None, "", "short", "é" * 32, "=" * 32])
def test_what_is_no_token_has_no_fence(token: str | None) -> None:
    assert fence_of(token) is None


@pytest.mark.parametrize(("i", "strange"), [(0, []), (7, ["S2"])])
def test_a_list_may_show_a_message_before_its_enqueue_is_answered(i: int, strange: list[str]) -> None:
    """Lists are recorded without `pad`: the operation alone says what it is, also when it comes first."""
    shown = {"id": "m1", "body": {"op": 1, "i": i}}
    sent = {"messages": [{"body": {"op": 1, "i": 0, "pad": "xxx"}}], "queue": "q"}
    facts = Facts()
    facts.take(Operation(2, "reader", "browse", 5, {"queue": "q"}, 6, "ok", result={"messages": [shown]}))
    told = {"messages": [{"id": "m1", "state": "ready", "duplicate": False}]}
    facts.take(Operation(1, "producer", "enqueue", 1, sent, 9, "ok", index=3, seq=0, result=told))
    facts.finish()
    assert [law for law, _, _ in facts.strange] == strange


def test_a_local_read_may_not_know_a_queue(clean: Case, tmp_path: Path) -> None:
    """Of a node that has just started (drill 4057091246). The same from a leader is a violation."""
    spoiler = Spoiler(clean)
    read = spoiler.one(spoiler.all("read_queue"))
    for name in ("asof", "result"):
        read.ret.pop(name)
    read.ret |= {"type": "fail", "error": {"code": "queue_not_found"}}
    for local in (False, True):
        read.args["local"] = local
        spoiler.case.write(tmp_path / str(local))
        verdict = check(tmp_path / str(local))
        assert verdict.clean is local, verdict.violations
