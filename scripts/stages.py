"""`make check`, `make test`, `make nightly`: stages with one line each, the output only of what failed.

Two stages run side by side, except those whose tests wait for real time: these run alone, at the end. The lines
come in the order of the list. With coverage on, the data of all stages is combined at the end and held against
the gates of issue 2: 100 % of branches in `machine/` and `wire/`, 95 % in `storage/` and `consensus/`.

Every run has a hash seed of its own, because nothing may depend on it (R37); `PYTHONHASHSEED=n` repeats one.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = [name for name in ("src", "tests", "chaos", "bench", "scripts", "examples") if (ROOT / name).is_dir()]
COVERAGE_GATES = {"machine": 100, "wire": 100, "storage": 95, "consensus": 95}
STAGE_SECONDS_MAX = {"check": 300, "test": 900, "nightly": 8 * 3600}
TEST_SECONDS_MAX = {"check": 60, "test": 120, "nightly": 3600}
LANES = 2
HASH_SEED = os.environ.get("PYTHONHASHSEED") or str(random.SystemRandom().randrange(1, 2**32))


@dataclass(frozen=True)
class Stage:
    """`alone`: its tests wait for real time, and a neighbour would make them late."""

    name: str
    command: tuple[str, ...]
    alone: bool = False


@dataclass(frozen=True)
class Ended:
    stage: Stage
    failed: bool
    seconds: float
    output: str

    def line(self) -> str:
        word = "FAILED" if self.failed else "ok"
        return f"{word:>6}  {self.seconds:6.1f} s  {self.stage.name:<34} {tally(self.output)}"


def python(*words: str) -> tuple[str, ...]:
    return (sys.executable, *words)


def pytest(name: str, *words: str, cover: bool = False, alone: bool = False) -> Stage:
    runner = ("-m", "coverage", "run", "-m", "pytest") if cover else ("-m", "pytest")
    return Stage(name, python(*runner, "-q", "--durations=5", *words), alone)


CHECK = [
    Stage("format", python("-m", "ruff", "format", "--check", "-q", *TREES)),
    Stage("lint", python("-m", "ruff", "check", "-q", *TREES)),
    Stage("types", python("-m", "mypy")),
    pytest("house rules", "tests/house"),
]

TEST = [
    pytest("house rules", "tests/house"),
    pytest("consensus", "tests/unit/consensus", cover=True),
    pytest("simulation: fixed seeds", "tests/simulation"),
    pytest("crash points: a sample", "tests/crashpoints", "--ignore=tests/crashpoints/test_real.py"),
    pytest("machine: model, cuts, stories", "tests/machine", cover=True),
    pytest("schedules: a year against an oracle", "tests/schedules"),
    pytest("storage", "tests/unit/storage", cover=True),
    pytest("machine and wire", "tests/unit/machine", "tests/unit/wire", cover=True),
    pytest("hazards: stock fails, ours holds", "tests/hazards"),
    pytest(
        "node, http, client, cli",
        "tests/unit",
        *(f"--ignore=tests/unit/{name}" for name in ("machine", "wire", "storage", "consensus")),
    ),
    pytest("contract on one node", "tests/conformance"),
    pytest("contract on three processes", "tests/acceptance/contract"),
    pytest("three nodes in one process", "tests/integration", alone=True),
    pytest("real processes", "tests/acceptance", "--ignore=tests/acceptance/contract", alone=True),
    pytest("crash points: real processes", "tests/crashpoints/test_real.py", alone=True),
    pytest("drills: plan, faults, judges", "tests/chaos", alone=True),
]


def run(stage: Stage, what: str) -> Ended:
    """Run one stage to its end, in an environment of its own."""
    began = time.monotonic()
    env = dict(os.environ, PYTHONHASHSEED=HASH_SEED)
    command = stage.command
    if "pytest" in command:
        command += (f"--timeout={TEST_SECONDS_MAX[what]}",)
    if what == "nightly":
        env["TRIVET_LONG"] = "1"
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STAGE_SECONDS_MAX[what],
        )
        output, failed = done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired as slow:
        said = slow.stdout.decode(errors="replace") if isinstance(slow.stdout, bytes) else slow.stdout
        output, failed = f"{said or ''}\nno end after {STAGE_SECONDS_MAX[what]} s", True
    return Ended(stage, failed, time.monotonic() - began, output)


def run_all(stages: list[Stage], what: str) -> list[bool]:
    """Run them, printing each line as soon as those before it are printed; True for each that passed."""
    together = [stage for stage in stages if not stage.alone]
    alone = [stage for stage in stages if stage.alone]
    passed: list[bool] = []
    with ThreadPoolExecutor(LANES) as lanes:
        passed += show(lanes.map(lambda stage: run(stage, what), together))
    return passed + show(run(stage, what) for stage in alone)


def show(ended: Iterable[Ended]) -> list[bool]:
    passed = []
    for one in ended:
        if one.failed:
            print(one.output, flush=True)
        print(one.line(), flush=True)
        passed.append(not one.failed)
    return passed


def tally(output: str) -> str:
    found = re.findall(r"^=*\s*((?:\d+ \w+(?:, )?)+) in [\d.]+s", output, flags=re.MULTILINE)
    return found[-1] if found else ""


def coverage_gates() -> list[bool]:
    """Combine the stages' data and print a line a package; False for each under its gate."""
    subprocess.run(python("-m", "coverage", "combine", "-q"), cwd=ROOT, check=True)
    passed = []
    for package, gate in COVERAGE_GATES.items():
        words = ("--precision=2", "--skip-covered", "--show-missing", f"--include=src/trivet/{package}/*")
        done = subprocess.run(
            python("-m", "coverage", "report", *words), cwd=ROOT, capture_output=True, text=True
        )
        total = re.search(r"^TOTAL.*?([\d.]+)%$", done.stdout, flags=re.MULTILINE)
        percent = float(total.group(1)) if total else 0.0
        passed.append(percent >= gate)
        if percent < gate:
            print(done.stdout, done.stderr)
        word = "ok" if percent >= gate else "FAILED"
        print(f"{word:>6}            branch coverage {package + '/':<18} {percent:.2f} % (gate {gate} %)")
    return passed


def main(what: str) -> int:
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    began = time.monotonic()
    results = run_all(CHECK if what == "check" else TEST, what)
    if what != "check":
        results += coverage_gates()
    failed = results.count(False)
    seed = f" (PYTHONHASHSEED={HASH_SEED} repeats this run's hash seed)" if failed else ""
    print(f"{what}: {len(results) - failed} passed, {failed} failed, {time.monotonic() - began:.0f} s{seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
