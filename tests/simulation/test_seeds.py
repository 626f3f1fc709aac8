"""Fixed seeds on each machine, with what they must have met. `make simulate` runs fresh ones, far more of them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.long import pick
from tests.simulation.run import Task, replay_command, simulation

SECONDS = 20.0

counted: dict[str, Counter[str]] = {"list": Counter(), "queue": Counter()}


def play(task: Task) -> None:
    result = simulation(task)
    counted[task[3]].update(result.counts)
    assert not result.violations, f"{result.violations[0]}\nreplay: {replay_command(task)}"


@pytest.mark.parametrize("seed", range(pick(8, 500)))
def test_the_log_alone(seed: int) -> None:
    play((seed, None, SECONDS, "list", False))


@pytest.mark.parametrize("seed", range(pick(18, 300)))
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
