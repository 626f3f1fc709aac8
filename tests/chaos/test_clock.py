"""The wall clock of a process that a drill sets, under the shim; its monotonic clock stays true."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.ground import native
from chaos.ground.clock import Clocks
from chaos.ground.tools import Unavailable

TELLER = """
import sys, time
for line in sys.stdin:
    print(time.time_ns(), time.monotonic_ns(), int(time.time()), flush=True)
"""


class Teller:
    """A process that says what time it is when asked."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", TELLER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def off_ms(self) -> tuple[float, float]:
        """How far the wall clock and the monotonic clock are from ours."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall_ns, monotonic_ns, _ = map(int, self.process.stdout.readline().split())
        return (wall_ns - time.time_ns()) / 1e6, (monotonic_ns - time.monotonic_ns()) / 1e6

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    try:
        made = Clocks(tmp_path, 2)
    except Unavailable as why:
        pytest.skip(f"no clock jumps: {why}")
    yield made
    made.close()


@pytest.fixture
def teller(clocks: Clocks) -> Iterator[Teller]:
    """Runs on clock 2."""
    made = Teller(clocks.environment(2))
    yield made
    made.close()


@pytest.mark.parametrize("jump_ms", [1000, -1000, 86_400_000 * 365, -86_400_000 * 365, 1500, -1500])
def test_a_jump_moves_the_wall_clock_and_nothing_else(clocks: Clocks, teller: Teller, jump_ms: int) -> None:
    before = clocks.reading(2)
    clocks.jump(2, jump_ms)
    wall_ms, monotonic_ms = teller.off_ms()
    assert -200 < wall_ms - jump_ms <= 0.001 and -200 < monotonic_ms <= 0
    after = clocks.reading(2)
    assert after.applied_ms == jump_ms and after.calls > before.calls and after.steps == before.steps + 1
    clocks.heal()
    assert -200 < teller.off_ms()[0] <= 0.001
    assert clocks.reading(2).applied_ms == 0


def test_only_the_clock_that_is_set_changes(clocks: Clocks, teller: Teller) -> None:
    clocks.jump(1, 5000)
    assert -200 < teller.off_ms()[0] <= 0.001


def test_a_drift_grows_from_the_truth(clocks: Clocks, teller: Teller) -> None:
    clocks.drift(2, 500_000)
    first, _ = teller.off_ms()
    time.sleep(0.2)
    second, _ = teller.off_ms()
    assert -200 < first < second and second > 60
    clocks.drift(2, -500_000)
    teller.off_ms()
    time.sleep(0.2)
    assert teller.off_ms()[0] < -60


def test_a_strobe_goes_there_and_back(clocks: Clocks, teller: Teller) -> None:
    clocks.strobe(2, 4000, 40)
    before = clocks.reading(2).steps
    deadline = time.monotonic() + 10
    while clocks.reading(2).steps < before + 4:
        off_ms, _ = teller.off_ms()
        assert min(abs(off_ms), abs(off_ms - 4000)) < 200
        assert time.monotonic() < deadline


def test_a_shim_that_does_not_compile_is_said_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "find", lambda _: None)
    with pytest.raises(Unavailable, match="gcc"):
        native.build("clock", tmp_path)


def test_a_shim_is_compiled_once(tmp_path: Path) -> None:
    try:
        made = native.build("clock", tmp_path)
    except Unavailable as why:
        pytest.skip(f"no clock jumps: {why}")
    stamp = made.stat().st_mtime_ns
    assert native.build("clock", tmp_path) == made and made.stat().st_mtime_ns == stamp
    assert [one.name for one in tmp_path.iterdir()] == [made.name]
