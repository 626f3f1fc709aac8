"""Promises 1 and 5 on real disks, in short; `make drill` and `python -m chaos.power` run them at length."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos.ground.tools import Unavailable

from chaos import damage, power


def test_all_nodes_lose_power_under_load_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    try:
        power.require()
    except Unavailable as why:
        pytest.skip(f"power loss: {why}")
    report = asyncio.run(power.drill(tmp_path / "run", losses=2, load_s=1.5))
    assert report.valid, "nothing was acknowledged between two losses"
    assert report.clean, report.history.verdict()


def test_a_damaged_minority_answers_the_same(tmp_path: Path) -> None:
    report = asyncio.run(damage.drill(tmp_path, places=4, seed=8))
    assert (
        report.places == 4 and report.ends["repaired"] + report.ends["mended"] + report.ends["refused"] == 4
    )
    assert report.ends["repaired"] > 0, f"no damage was noticed: {report.ends}"
    assert report.clean, (report.history.verdict(), report.ends, report.digests_equal)
