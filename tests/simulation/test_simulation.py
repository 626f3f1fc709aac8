"""A short run in CI: past failing seeds, a few fresh ones of each size, and the proof that a seed replays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation import queue_workload
from tests.simulation.mutants import hunt
from tests.simulation.options import FAULTS
from tests.simulation.queue_mutants import QUEUE_MUTANTS, Patch
from tests.simulation.run import replay_command, simulation
from tests.simulation.sometimes import BOTH, ONLY, unreached
from tests.simulation.world import World
from trivet.machine import transitions
from trivet.node.garbage import MIDDLE, NEVER, YOUNG

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 8.0
CONTROL_SEEDS = 12
MUTANT_SEEDS = 30
"""Seeds within which a positive control, or a rule taken out, must be found out."""
BUSY_SEED = 9
"""Its swarm has an operation every 20 ms."""


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


@pytest.mark.parametrize("machine", ["list", "queue"])
def test_a_lying_fsync_is_found_out(machine: str) -> None:
    """The positive control of every power loss: on disks that only pretend to sync, seeds must fail."""
    for seed in range(CONTROL_SEEDS):
        if simulation((seed, 3, SECONDS, machine, False), "lying-fsync").violations:
            return
    pytest.fail(f"{CONTROL_SEEDS} seeds on lying disks passed")


def test_the_model_judges_whole_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_workload, "REFEREED", 1.0)
    result = simulation((BUSY_SEED, 3, SECONDS, "queue", False))
    assert not result.violations, result.violations[0]
    assert result.counts["requests judged by the model"] > 100


def test_the_model_finds_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else looks at the backoff of a nack."""
    monkeypatch.setattr(queue_workload, "REFEREED", 1.0)
    monkeypatch.setattr(transitions, "delay_ms", lambda backoff, message, attempt, secret: 2_000)
    result = simulation((BUSY_SEED, 3, SECONDS, "queue", False))
    assert any(each.startswith("model:") or "backoff" in each for each in result.violations)


@pytest.mark.parametrize("mutant", [pytest.param(each, id=each.__name__) for each in QUEUE_MUTANTS])
def test_a_rule_of_the_queue_taken_out_is_missed(mutant: Callable[[], Patch]) -> None:
    assert hunt(mutant, MUTANT_SEEDS, 12.0) is not None


def test_a_world_leaves_nothing_behind_in_a_process_whose_collector_a_node_has_slowed() -> None:
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    try:
        for seed in (1, 2):
            simulation((seed, 3, 3.0, "queue", False))
        assert not [each for each in gc.get_objects() if isinstance(each, World)]
        assert gc.get_threshold() == (YOUNG, MIDDLE, NEVER)
    finally:
        gc.set_threshold(*before)


def test_states_that_were_never_reached_are_named() -> None:
    everything = dict.fromkeys((*BOTH, *ONLY["queue"]), 1)
    assert unreached(everything, "queue") == []
    assert unreached({**everything, "log truncated": 0}, "queue") == ["log truncated"]
    assert {f"fault {kind}" for kind in FAULTS} <= set(BOTH)
