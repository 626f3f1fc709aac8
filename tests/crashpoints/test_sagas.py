"""Every failing step of a saga of six, and the leader lost at every commit and every answer: each finished step is undone
exactly once, the last first."""

from __future__ import annotations

import pytest

from tests.crashpoints.play import replay
from tests.crashpoints.points import Point
from tests.crashpoints.run import Tally
from tests.crashpoints.scenarios import SAGA_STEPS
from tests.crashpoints.walk import Walk
from tests.long import pick
from trivet.machine import flows

STRUCK = {("fdatasync", "kill"), ("reply", "kill")}
"""Quick: the process dies before each commit of its own log, and before each answer leaves. Long: everything."""


@pytest.mark.parametrize("fails", range(1, SAGA_STEPS + 1))
def test_whichever_step_fails_and_whenever_the_leader_dies(fails: int) -> None:
    tally = Tally()
    walk = Walk(f"saga_{fails}", 0, "leader", 2, tally.took)
    everything = pick(False, True)
    walk.chosen = frozenset(
        point for point in walk.points if everything or (point.call, point.fault) in STRUCK
    )
    walk.run()
    assert not tally.failed, [point.command() for point in tally.failed]
    row = tally.rows[f"saga_{fails}"]
    commits = 2 * fails  # enqueue, each lease and end, then as much for each that is undone
    assert row["recoveries"] == row["points"] > 2 * commits and row["repeats"] > 0, row


@pytest.mark.parametrize("damage", ["first first", "not chained"])
def test_control_an_order_that_is_not_kept_is_seen(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if damage == "first first":
        right = flows.to_undo
        monkeypatch.setattr(flows, "to_undo", lambda flow: right(flow)[::-1])
    else:
        right_replace = flows.replace
        monkeypatch.setattr(
            flows,
            "replace",
            lambda what, **fields: (
                right_replace(what, **{**fields, "depends_on": ()})
                if "depends_on" in fields and "on_dependency_failure" in fields
                else right_replace(what, **fields)
            ),
        )
    result = replay(Point("saga_4", 0, "leader", "write", 10_000, "kill"))
    assert result.violations, "nobody noticed"
