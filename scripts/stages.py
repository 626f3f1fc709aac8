"""`make check` and `make test`: stages one after the other, one line each, the output only of what failed.

A stage is a name and a command. With coverage on, the data of all stages is combined at the end and
held against the gates of issue 2: 100 % of branches in `machine/` and `wire/`, 95 % in `storage/` and
`consensus/`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = [name for name in ("src", "tests", "chaos", "bench", "scripts") if (ROOT / name).is_dir()]
COVERAGE_GATES = {"machine": 100, "wire": 100, "storage": 95, "consensus": 95}
STAGE_SECONDS_MAX = 1200


@dataclass(frozen=True)
class Stage:
    name: str
    command: tuple[str, ...]


def python(*words: str) -> tuple[str, ...]:
    return (sys.executable, *words)


def pytest(name: str, *words: str, cover: bool = False) -> Stage:
    runner = ("-m", "coverage", "run", "-m", "pytest") if cover else ("-m", "pytest")
    return Stage(name, python(*runner, "-q", "--durations=5", *words))


CHECK = [
    Stage("format", python("-m", "ruff", "format", "--check", "-q", *TREES)),
    Stage("lint", python("-m", "ruff", "check", "-q", *TREES)),
    Stage("types", python("-m", "mypy")),
    pytest("house rules", "tests/house"),
]

TEST = [
    pytest("units", "tests/unit", cover=True),
    pytest("house rules", "tests/house"),
    pytest("machine: model, cuts, stories", "tests/machine", cover=True),
    pytest("simulation", "tests/simulation", cover=True),
    pytest("hazards: stock fails, ours holds", "tests/hazards"),
    pytest("contract over HTTP", "tests/conformance"),
    pytest("three nodes in one process", "tests/integration"),
    pytest("real processes", "tests/acceptance"),
]


def run(stage: Stage) -> bool:
    """Run one stage and print its line; its whole output only if it failed."""
    began = time.monotonic()
    env = dict(os.environ, PYTHONHASHSEED=os.environ.get("PYTHONHASHSEED", "0"))
    try:
        done = subprocess.run(
            stage.command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STAGE_SECONDS_MAX,
        )
        output, failed = done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired as slow:
        output, failed = f"{slow.stdout or ''}\nno end after {STAGE_SECONDS_MAX} s", True
    if failed:
        print(output, flush=True)
    print(
        f"{'FAILED' if failed else 'ok':>6}  {time.monotonic() - began:6.1f} s  {stage.name:<34} {tally(output)}",
        flush=True,
    )
    return not failed


def tally(output: str) -> str:
    found = re.findall(r"^=*\s*((?:\d+ \w+(?:, )?)+) in [\d.]+s", output, flags=re.MULTILINE)
    return found[-1] if found else ""


def coverage_gates() -> bool:
    """Combine the stages' data and print a line a package; False when one is under its gate."""
    subprocess.run(python("-m", "coverage", "combine", "-q"), cwd=ROOT, check=True)
    held = True
    for package, gate in COVERAGE_GATES.items():
        report = subprocess.run(
            python(
                "-m",
                "coverage",
                "report",
                f"--include=src/trivet/{package}/*",
                "--precision=2",
                "--skip-covered",
                "--show-missing",
            ),
            cwd=ROOT,
            capture_output=True,
            text=True,
        ).stdout
        total = re.search(r"^TOTAL.*?([\d.]+)%$", report, flags=re.MULTILINE)
        percent = float(total.group(1)) if total else 0.0
        enough = percent >= gate
        held = held and enough
        print(
            f"{'ok' if enough else 'FAILED':>6}            branch coverage {package + '/':<18} {percent:.2f} % (gate {gate} %)"
        )
        if not enough:
            print(report)
    return held


def main(what: str) -> int:
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    began = time.monotonic()
    stages = CHECK if what == "check" else TEST
    results = [run(stage) for stage in stages]
    if what == "test":
        results.append(coverage_gates())
    failed = results.count(False)
    print(f"{time.monotonic() - began:.0f} s")
    print(f"{what}: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
