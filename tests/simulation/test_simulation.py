"""A short run in CI: past failing seeds, a few fresh ones of each size, and the proof that a seed replays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.run import replay_command, simulation

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 8.0


def past() -> list[tuple[str, int, int | None]]:
    lines = (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    fields = [line.split() for line in lines if line and not line.startswith("#")]
    return [(machine, int(seed), None if nodes == "-" else int(nodes)) for machine, seed, nodes in fields]


@pytest.mark.parametrize(("machine", "seed", "nodes"), past())
def test_past_seed(machine: str, seed: int, nodes: int | None) -> None:
    task = (seed, nodes, 20.0, machine, False)
    result = simulation(task)
    assert not result.violations, f"{result.violations[0]}\nreplay: {replay_command(task)}"


@pytest.mark.parametrize("nodes", [1, 3, 5])
@pytest.mark.parametrize("machine", ["list", "queue"])
def test_a_few_seeds(machine: str, nodes: int) -> None:
    for seed in range(900, 904):
        task = (seed, nodes, SECONDS, machine, False)
        result = simulation(task)
        assert not result.violations, f"{result.violations[0]}\nreplay: {replay_command(task)}"
        assert result.counts["elections won"] > 0


def trace_of(hash_seed: str, machine: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", "--seed", "104", "--seconds", "5", "--machine", machine],
        cwd=ROOT, env=dict(os.environ, PYTHONHASHSEED=hash_seed), capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    return next(line for line in run.stdout.splitlines() if line.startswith("trace "))


@pytest.mark.parametrize("machine", ["list", "queue"])
def test_a_seed_replays_bit_for_bit_under_any_hash_seed(machine: str) -> None:
    assert trace_of("0", machine) == trace_of("12345", machine)
