"""Every mutant of a clean run is caught, by the right law; and both judges earn their place."""

from __future__ import annotations

import pytest
from chaos.checker import mutants
from chaos.checker.mutant import MUTANTS, Mutant
from chaos.checker.mutants import Outcome, line, run_all

pytestmark = pytest.mark.timeout(300)  # 52 s of CPU, in one fixture

LAWS = {*(f"S{n}" for n in range(1, 22)), "L1", "L2", "L3", "L4", "invalid"}


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return run_all(1)


def test_every_mutant_is_caught(outcomes: list[Outcome]) -> None:
    assert len(outcomes) == len(MUTANTS) >= 34
    assert [line(one) for one in outcomes if not one.is_caught] == []


def test_every_law_has_a_mutant() -> None:
    assert LAWS - {law for mutant in MUTANTS for law in mutant.laws} == set()


def test_each_judge_alone_catches_what_the_other_cannot(outcomes: list[Outcome]) -> None:
    alone = {
        judges[0]
        for one in outcomes
        for judges in one.caught_by.values()
        if len({*judges}) == len(one.caught_by) == 1
    }
    assert alone == {"clients", "log", "liveness"}


def test_a_mutant_that_spoils_nothing_is_not_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutants, "MUTANTS", [Mutant("nothing", ("S1",), lambda spoiler: None)])
    assert mutants.main([]) == 1
    told = capsys.readouterr().out
    assert "NOT CAUGHT" in told and "mutants 0 / 1" in told
