"""Some fixed seeds on each machine, and that a seed is the same history every time (R37).

`make simulate` runs fresh seeds, far more of them. A seed that fails here is played again, with its trace, by the
command that the failure prints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.long import pick
from tests.simulation.run import Task, replay_command, simulation

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0

counted: dict[str, Counter[str]] = {"list": Counter(), "queue": Counter()}


def play(task: Task) -> None:
    result = simulation(task)
    counted[task[3]].update(result.counts)
    assert not result.violations, f"{result.violations[0]}\nreplay: {replay_command(task)}"


@pytest.mark.parametrize("seed", range(pick(25, 500)))
def test_the_log_alone(seed: int) -> None:
    play((seed, None, SECONDS, "list", False))


@pytest.mark.parametrize("seed", range(pick(12, 300)))
def test_the_queue(seed: int) -> None:
    play((seed, None, SECONDS, "queue", False))


@pytest.mark.parametrize("machine", ["list", "queue"])
def test_they_went_through_what_they_are_for(machine: str) -> None:
    """Seeds that meet nothing prove nothing."""
    counts = counted[machine]
    if not counts:
        pytest.fail("run the whole module: this looks at what its other tests counted")
    for rare in (
        "elections won",
        "event stepped_down",
        "log truncated",
        "recovering at boot",
        "fault power_loss",
    ):
        assert counts[rare] > 0, f"no seed saw: {rare}"


REPLAY = """
import json, sys
from tests.simulation.run import simulation
result = simulation((int(sys.argv[2]), None, 8.0, sys.argv[1], False))
print(json.dumps([result.trace_hash, result.events, result.violations]))
"""


@pytest.mark.parametrize(("machine", "seed"), [("list", 3), ("queue", 4)])
def test_a_seed_is_the_same_history_under_any_hash_seed(machine: str, seed: int) -> None:
    histories = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", REPLAY, machine, str(seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        trace, events, violations = json.loads(done.stdout)
        assert events > 100 and not violations
        histories.add((trace, events))
    assert len(histories) == 1
