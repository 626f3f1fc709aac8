"""A plan is drawn from its seed and from nothing else, and a plan file says all of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from chaos.faults import FAULTS
from chaos.plan import BadPlan, Plan, Planned, draw


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    plans = {seed: draw(seed, FAULTS, nodes=3, seconds=600) for seed in range(20)}
    assert all(draw(seed, FAULTS, nodes=3, seconds=600) == plan for seed, plan in plans.items())
    assert len({json.dumps([one.parameters for one in plan]) for plan in plans.values()}) == 20


def test_a_swarm_leaves_kinds_out_and_comes_to_all_of_them_over_the_seeds() -> None:
    kinds = [{one.fault for one in draw(seed, FAULTS, nodes=3, seconds=1200)} for seed in range(30)]
    assert all(4 <= len(some) < len(FAULTS) for some in kinds)
    assert set.union(*kinds) == set(FAULTS)


def test_faults_come_one_after_the_other_within_the_time() -> None:
    for seed in range(20):
        plan = draw(seed, FAULTS, nodes=3, seconds=300)
        ends = [one.at_s + one.parameters.get("hold_s", 0.0) for one in plan]
        assert all(later.at_s > end for end, later in zip(ends, plan[1:], strict=False))
        assert plan[0].at_s >= 3 and ends[-1] < 300


def test_faults_that_were_asked_for_come_each_at_least_once() -> None:
    only = ["kill_leader", "pause_leader", "overload"]
    plan = draw(7, FAULTS, nodes=3, seconds=1, only=only)
    assert sorted(one.fault for one in plan) == sorted(only)
    assert len(draw(7, FAULTS, nodes=3, seconds=1, only=only, count=11)) == 11
    assert draw(7, {}, nodes=3, seconds=60) == []
    with pytest.raises(BadPlan, match="no such fault: meteor"):
        draw(7, FAULTS, nodes=3, seconds=60, only=["meteor"])


@pytest.mark.parametrize("name", sorted(FAULTS))
@pytest.mark.parametrize("size", [3, 5])
def test_parameters_are_json_and_only_the_seed_decides_them(name: str, size: int) -> None:
    for seed in range(10):
        made = FAULTS[name].plan(random.Random(seed), size)
        assert made == FAULTS[name].plan(random.Random(seed), size)
        assert json.loads(json.dumps(made)) == made


def test_a_plan_file_holds_the_whole_plan(tmp_path: Path) -> None:
    faults = draw(5, FAULTS, nodes=5, seconds=120)
    plan = Plan(5, 5, 120.0, ["keyed"], 50.0, faults, cluster="foreign", apis=["http://a"], hook="./hook")
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path) == Plan.read(tmp_path / "plan.json") == plan
    assert isinstance(plan.faults[0], Planned) and plan.kinds == sorted({one.fault for one in faults})


@pytest.mark.parametrize("text", ["", "[]", '{"seed": 1}', '{"faults": [{"at": 1}]}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BadPlan, match="is not a plan"):
        Plan.read(tmp_path)
