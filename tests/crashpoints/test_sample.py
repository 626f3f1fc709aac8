"""A sample of the crash points, and the proofs that the loop sees what it looks for and that a point replays exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crashpoints.cluster import Result
from tests.crashpoints.play import replay
from tests.crashpoints.points import FAULTS, VICTIMS, Point
from tests.crashpoints.run import Tally
from tests.crashpoints.scenarios import SCENARIOS
from tests.crashpoints.walk import Walk
from tests.long import pick

ROOT = Path(__file__).resolve().parents[2]
NEVER = {"truncate"}
"""Calls that the product does not make today (see `points.FAULTS`)."""

CHOSEN = [
    Point("ack_effect", 0, "leader", "fdatasync", 2, "power_all"),
    Point("ack_effect", 0, "leader", "reply", 3, "kill_after"),
    Point("install", 0, "follower", "rename", 1, "power"),
    Point(
        "install", 1, "follower", "write", 3, "power_all"
    ),  # the others' forgotten log came back (2026-11-23)
    Point("roll", 0, "leader", "unlink", 2, "eio"),
    Point("transfer", 0, "follower", "write", 4, "torn"),
]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.crashpoints.run", *words],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip


def test_a_sample_of_all_points() -> None:
    ran = run("--sample", pick("100", "6000"), "--first", "1", "--stories", pick("1", "5"), "--seed", "7")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    total = next(line for line in ran.stdout.splitlines() if line.startswith("total")).split()
    assert total[-3:] == ["0", "0", "0"] and int(total[2].replace(",", "")) > 60, ran.stdout


@pytest.mark.parametrize("point", CHOSEN, ids=lambda point: point.command().split("--scenario ")[1])
def test_a_fork_is_the_run_itself(point: Point) -> None:
    """What a forked child finds, its printed command finds from the beginning."""
    forked: list[Result] = []
    walk = Walk(point.scenario, point.story, point.victim, 1, lambda _, result: forked.append(result))
    walk.chosen = frozenset([point])
    walk.run()
    again = replay(point)
    assert not again.violations, again.violations
    assert again.fired == f"{point.fault} at {point.call} {point.n}"
    assert [result.trace_hash for result in forked] == [again.trace_hash]


def test_a_point_replays_under_any_hash_seed() -> None:
    words = CHOSEN[0].command().split()[3:]
    traces = {run(*words, PYTHONHASHSEED=seed).stdout.splitlines()[-1] for seed in ("0", "12345")}
    assert len(traces) == 1 and traces.pop() == f"trace {replay(CHOSEN[0]).trace_hash}"


def test_every_kind_of_call_is_struck() -> None:
    seen: set[str] = set()
    for name in ("roll", "install"):
        for victim in VICTIMS:
            clean = Walk(name, 0, victim, 1, lambda point, result: None).clean
            seen |= clean.calls.keys()
    assert seen == FAULTS.keys() - NEVER


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_passes_when_the_fault_is_not_reached(name: str) -> None:
    result = replay(Point(name, 1, "leader", "write", 10_000, "kill"))
    assert result.fired is None and not result.violations, result.violations


def caught(control: str, scenario: str, fault: str) -> Tally:
    """All points of one fault with a known defect put in."""
    tally = Tally(control)
    walk = Walk(scenario, 0, "leader", 2, tally.took, control)
    walk.chosen = frozenset(point for point in walk.points if point.fault == fault)
    walk.run()
    return tally


def test_control_a_sync_that_does_nothing_loses() -> None:
    rows = caught("lying-fsync", "ack_effect", "power_all").rows
    assert rows["ack_effect"]["lost"] > 0, rows


def test_control_a_repeat_under_a_new_id_doubles() -> None:
    rows = caught("fresh-request-ids", "enqueue", "kill").rows
    assert rows["enqueue"]["doubled"] > 0, rows
