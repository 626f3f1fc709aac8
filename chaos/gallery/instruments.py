"""The instruments as the gallery uses them: a command, and what its own verdict looks like.

A bug counts as caught only by a verdict of the instrument. An instrument that cannot be imported, crashes or runs
out of time has caught nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Arguments = tuple[str, ...]

SIMULATION_SAYS = re.compile(r"^seed (?P<case>\d+) FAILED: (?P<said>.+)$", re.M)
SIMULATION_CLEAN = re.compile(r", 0 with violations$", re.M)
PYTEST_SAYS = re.compile(
    r"^FAILED (?P<case>.+?) - (?P<said>(?:AssertionError|assert |Failed: |trivet\.|[\w.]*BrokenInvariant).*)$",
    re.M,
)
CRASH_POINTS_SAY = re.compile(r"^FAILED (?P<said>.+)\n  replay: python (?P<case>-m .+)$", re.M)
CRASH_POINT_CLEAN = re.compile(r"^trace \w+$", re.M)
PYTEST_CLEAN = re.compile(r"^\d+ passed\b", re.M)
HARNESS_BROKE = re.compile(
    r"^(?:E\s+)?(?:ImportError|ModuleNotFoundError|SyntaxError|NameError|ERROR collecting|ERROR tests/)", re.M
)


@dataclass(frozen=True, slots=True)
class Instrument:
    """`arguments`: of the Python interpreter. `says`: its verdict, with the groups `case` (what failed) and `said`.
    `control`: the arguments that run only that case; on the code without the bug it must pass.
    `at_once`: the first verdict ends the run. `directed`: a test of just this mistake, not a general instrument."""

    name: str
    arguments: Arguments
    says: re.Pattern[str]
    clean: re.Pattern[str]
    control: Callable[[str], Arguments]
    limit_s: float
    at_once: bool = False
    directed: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    effort: Callable[[str], str] = lambda case: ""


def simulator(machine: str, seeds: int, first: int = 0) -> Instrument:
    """Whole clusters in virtual time under faults; `machine`: list | queue."""
    base = ("-m", "tests.simulation.run", "--machine", machine, "--jobs", "1")

    def control(case: str) -> Arguments:
        return (*base, "--seeds", "1", "--first", case)

    def effort(case: str) -> str:
        used = int(case) - first + 1
        return f"{used} seed{'s' if used > 1 else ''}"

    return Instrument(
        f"simulator ({machine})",
        (*base, "--seeds", str(seeds), "--first", str(first)),
        SIMULATION_SAYS,
        SIMULATION_CLEAN,
        control,
        limit_s=240,
        at_once=True,
        effort=effort,
    )


def crash_points(scenario: str) -> Instrument:
    """The N-th disk call, send or answer of a cluster of real nodes fails, for every N, with every fault."""
    return Instrument(
        "crash points",
        ("-m", "tests.crashpoints.run", "--scenario", scenario, "--jobs", "1"),
        CRASH_POINTS_SAY,
        CRASH_POINT_CLEAN,
        lambda case: tuple(case.split()),
        limit_s=240,
        at_once=True,
    )


def _pytest(
    name: str, *targets: str, limit_s: float = 240, directed: bool = False, **environment: str
) -> Instrument:
    base = ("-m", "pytest", "-q", "-x", "--tb=short", "-rfE", "-p", "no:cacheprovider")
    return Instrument(
        name,
        (*base, *targets),
        PYTEST_SAYS,
        PYTEST_CLEAN,
        lambda case: (*base, case),
        limit_s,
        directed=directed,
        environment=environment,
    )


def random_logs(last: int = 59) -> Instrument:
    """Long random histories on machine and model."""
    return _pytest("random logs", "tests/machine/test_random_logs.py", TRIVET_LOG_SEEDS=f"0-{last}")


def cuts() -> Instrument:
    """Every snapshot cut of a log, and walks that are overtaken by it."""
    return _pytest("snapshot cuts", "tests/machine/test_cuts.py")


def storage_crash_points() -> Instrument:
    """Every disk operation of five stories of one node's storage: power cut, kill, EIO, ENOSPC."""
    return _pytest("storage crash points", "tests/unit/storage/test_crash_points.py")


def storage_damage() -> Instrument:
    """Flips, zeros and cuts at the places of one node's files, judged by what was durable."""
    return _pytest("storage damage", "tests/unit/storage/test_damage.py")


def directed(test: str) -> Instrument:
    """A test of just this mistake: only where nothing general can see it."""
    return _pytest("directed test", test, directed=True)
