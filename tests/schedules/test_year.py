"""A year in 20 time zones, through 500 changes of the leader, against the oracle: no slot lost, none doubled."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.schedules import oracle
from tests.schedules.lab import Lab
from tests.schedules.test_slots import ODD_ZONES
from trivet.limits import SLOT_ON_TIME_MS

START_MS = int(datetime(2026, 11, 22, 9, tzinfo=UTC).timestamp() * 1000)
YEAR_MS = 365 * 86_400_000
CHANGES = 500
EXPRESSIONS = ("30 2 * * *", "0 */6 * * *", "15,45 0,1 * * *", "*/20 2 * * sun", "0 0 1,29 * fri")
EVERY_MS = 7 * 3_600_000 + 13 * 60_000 + 11_007


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_year_in_20_time_zones_through_500_leader_changes() -> None:
    assert len(ODD_ZONES) == 20
    lab = Lab(2026, START_MS)
    for number, zone in enumerate(ODD_ZONES):
        for at, text in enumerate(EXPRESSIONS):
            misfire = "skip" if (number + at) % 2 else "fire_once"
            lab.put(f"{number}.{at}", cron=text, timezone=zone, misfire=misfire)
    lab.put("every", every_ms=EVERY_MS, misfire="skip")
    lab.run(START_MS + YEAR_MS, CHANGES)

    total = 0
    for number, zone in enumerate(ODD_ZONES):
        looked = oracle.minutes(zone, START_MS // 1000 - 86_400, (START_MS + YEAR_MS) // 1000 + 60)
        for at, text in enumerate(EXPRESSIONS):
            slots = (slot * 1000 for slot in oracle.slots(oracle.Expression(text), looked))
            wanted = [slot for slot in slots if START_MS < slot <= START_MS + YEAR_MS]
            fired = lab.slots[f"{number}.{at}"]
            assert sorted(fired) == wanted, (zone, text)
            assert set(fired.values()) == {1}, (zone, text)
            total += len(wanted)
    fired = lab.slots["every"]
    wanted = list(range(START_MS + EVERY_MS, START_MS + YEAR_MS + 1, EVERY_MS))
    assert sorted(fired) == wanted and set(fired.values()) == {1}
    total += len(wanted)
    assert lab.changes == CHANGES and lab.statuses["fired"] == total > 50_000
    assert lab.statuses["stale"] > CHANGES, "the old leaders' words were said again, and not heard"
    assert not lab.statuses["blocked"] and not lab.statuses["skipped"]
    assert 1000 < lab.late_ms <= SLOT_ON_TIME_MS, "some slots fell into a time without a leader"
    print(f"{total} slots, {lab.changes} leader changes, latest {lab.late_ms} ms late, {dict(lab.statuses)}")
