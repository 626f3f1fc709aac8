"""R1: time never stops, never goes back, and one wrong clock never moves it."""

from __future__ import annotations

import pytest

from trivet.node.stamps import CLOCK_SUSPECT, Stamper, WallGuard
from trivet.units import DAY_MS, MINUTE_MS, SECOND_MS

START_MS = 1_760_000_000_000
YEAR_MS = 365 * DAY_MS


class FakeClock:
    def __init__(self) -> None:
        self.mono = 1234.5
        self.wall = float(START_MS)

    def monotonic(self) -> float:
        return self.mono

    def wall_ms(self) -> int:
        return int(self.wall)

    def pass_s(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds * 1000


def lower_median(walls: list[int]) -> int:
    return sorted(walls)[(len(walls) - 1) // 2]


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS])
def test_a_leader_whose_wall_clock_jumps_a_year_stamps_true_time(jump_ms: int) -> None:
    """Three nodes, the leader's own clock jumps: W is the lower median of three, so nothing moves."""
    clock, others = FakeClock(), FakeClock()
    stamper = Stamper(
        clock, lambda: lower_median([clock.wall_ms(), others.wall_ms(), others.wall_ms()]), alone=False
    )
    stamper.take_office(START_MS)
    before = stamper.now_ms(START_MS)
    clock.wall += jump_ms
    assert stamper.now_ms(before) == before
    for _ in range(1000):
        clock.pass_s(0.001)
        others.pass_s(0.001)
        now = stamper.now_ms(before)
    assert 999 <= now - before <= 1001
    assert stamper.alarms() == [CLOCK_SUSPECT]


def test_a_jump_that_two_of_three_clocks_share_backwards_does_not_stop_time() -> None:
    clock = FakeClock()
    stamper = Stamper(clock, lambda: START_MS - YEAR_MS, alone=False)
    stamper.take_office(START_MS)
    clock.pass_s(1.5)
    assert stamper.now_ms(START_MS) == START_MS + 1500


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS, MINUTE_MS + 1])
def test_on_a_single_node_a_jump_of_the_clock_does_not_move_time(jump_ms: int) -> None:
    """A 1 s lease ends within 2 s, and nothing expires early."""
    clock = FakeClock()
    stamper = Stamper(clock, lambda: None, alone=True)
    stamper.take_office(START_MS)
    before = stamper.now_ms(START_MS)
    clock.wall += jump_ms
    assert stamper.now_ms(before) - before <= 1
    clock.pass_s(1)
    assert 999 <= stamper.now_ms(before) - before <= 1001


def test_on_a_single_node_a_small_forward_step_is_followed() -> None:
    clock = FakeClock()
    stamper = Stamper(clock, lambda: None, alone=True)
    clock.wall += MINUTE_MS
    assert stamper.now_ms(0) == START_MS + MINUTE_MS
    assert stamper.alarms() == []


def test_the_alarm_ends_when_the_clock_is_right_again() -> None:
    clock = FakeClock()
    guard = WallGuard(clock)
    clock.wall += YEAR_MS
    assert guard.wall_ms() == START_MS
    assert guard.suspect
    clock.pass_s(10)
    clock.wall -= YEAR_MS
    assert guard.wall_ms() == START_MS + 10 * SECOND_MS
    assert not guard.suspect


def test_a_clock_set_back_and_right_again_raises_nothing() -> None:
    clock = FakeClock()
    guard = WallGuard(clock)
    clock.wall -= YEAR_MS
    assert guard.wall_ms() == START_MS
    assert not guard.suspect
    clock.wall += YEAR_MS
    assert guard.wall_ms() == START_MS
    assert not guard.suspect


def test_stamping_often_loses_no_time() -> None:
    """Ten stamps a millisecond: the parts of milliseconds add up."""
    clock = FakeClock()
    stamper = Stamper(clock, lambda: None, alone=False)
    stamper.take_office(START_MS)
    now = START_MS
    for _ in range(30_000):
        clock.pass_s(0.0001)
        now = stamper.now_ms(now)
    assert abs(now - START_MS - 3000) <= 1


def test_stamps_never_fall_and_never_pass_under_the_machine() -> None:
    clock = FakeClock()
    wall = [START_MS]
    stamper = Stamper(clock, lambda: wall[0], alone=False)
    last = stamper.now_ms(0)
    for machine_ms, wall_ms in [(START_MS + 500, 0), (0, START_MS + 700), (START_MS + 600, START_MS), (0, 0)]:
        wall[0] = wall_ms
        now = stamper.now_ms(machine_ms)
        assert now >= max(last, machine_ms)
        last = now


def test_taking_office_does_not_count_the_time_of_earlier_terms_twice() -> None:
    clock = FakeClock()
    stamper = Stamper(clock, lambda: None, alone=False)
    stamper.take_office(START_MS)
    assert stamper.now_ms(START_MS) == START_MS
    clock.pass_s(10)  # another leader stamps these ten seconds
    stamper.take_office(START_MS + 10_000)
    clock.pass_s(1)
    assert stamper.now_ms(START_MS + 10_000) == START_MS + 11_000


def test_peeking_does_not_count_as_a_stamp() -> None:
    clock = FakeClock()
    stamper = Stamper(clock, lambda: None, alone=False)
    stamper.take_office(START_MS)
    for _ in range(10):
        clock.pass_s(0.0005)
        stamper.peek_ms(START_MS)
    assert stamper.now_ms(START_MS) == START_MS + 5
