"""Mutant histories: a clean run spoiled in one way, for each law; every one must be caught, by the right law.

`python -m chaos.checker.mutants [--seed N]` prints a table and `mutants n / n`; the exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.checker import check, mutants_clients, mutants_flows, mutants_log, mutants_runs, mutants_topics
from chaos.checker.mutant import MUTANTS, Mutant
from chaos.checker.scene import Case
from chaos.checker.script import Script
from chaos.checker.spoil import NothingToSpoil, Spoiler
from chaos.checker.verdict import Verdict

_ = (mutants_clients, mutants_flows, mutants_log, mutants_runs, mutants_topics)  # they fill MUTANTS


@dataclass(frozen=True)
class Outcome:
    """`caught_by`: law → judges that named it, of the laws that are right for this mutant."""

    mutant: Mutant
    caught_by: dict[str, list[str]]
    other: list[str]  # further laws that were broken with it
    why: str = ""

    @property
    def is_caught(self) -> bool:
        return bool(self.caught_by)


def run(mutant: Mutant, clean: Case, log: Path, directory: Path) -> Outcome:
    """Spoils a copy of the clean run and has it judged. Raises nothing: what goes wrong is not caught."""
    case = clean.copy()
    try:
        mutant.spoil(Spoiler(case))
    except NothingToSpoil:
        return Outcome(mutant, {}, [], "the clean run has nothing like it")
    touched = (case.entries, case.other) != (clean.entries, clean.other)
    case.write(directory, None if touched else log)
    return told(mutant, check(directory))


def told(mutant: Mutant, verdict: Verdict) -> Outcome:
    found: dict[str, list[str]] = {}
    for one in verdict.violations:
        if one.judge not in found.setdefault(one.law, []):
            found[one.law].append(one.judge)
    if not verdict.valid:
        found["invalid"] = ["liveness"]
    right = {law: judges for law, judges in found.items() if law in mutant.laws}
    return Outcome(mutant, right, sorted(set(found) - set(right)))


def run_all(seed: int, say: Callable[[str], None] = lambda text: None) -> list[Outcome]:
    """All mutants over the clean run of `seed`. Raises RuntimeError if that is not clean itself."""
    clean = Script(seed).play()
    with tempfile.TemporaryDirectory(prefix="trivet-mutants-") as place:
        root = Path(place)
        clean.write(root / "clean")
        verdict = check(root / "clean")
        if not (verdict.valid and verdict.clean):
            raise RuntimeError(f"the clean run is not clean: {verdict.problems} {verdict.violations[:5]}")
        outcomes = []
        for at, mutant in enumerate(MUTANTS):
            outcomes.append(run(mutant, clean, root / "clean" / "log", root / f"{at:03d}"))
            say(line(outcomes[-1]))
    return outcomes


def line(outcome: Outcome) -> str:
    name, laws = outcome.mutant.name, "/".join(outcome.mutant.laws)
    if not outcome.is_caught:
        return f"{name:34} {laws:9} NOT CAUGHT {outcome.why or 'seen: ' + (', '.join(outcome.other) or 'nothing')}"
    by = " · ".join(f"{law} ({', '.join(judges)})" for law, judges in sorted(outcome.caught_by.items()))
    return f"{name:34} {laws:9} {by}" + (f"   also {', '.join(outcome.other)}" if outcome.other else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.checker.mutants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seed", type=int, default=1, help="of the clean run that is spoiled")
    seed = parser.parse_args(arguments).seed
    outcomes = run_all(seed, print)
    caught = sum(one.is_caught for one in outcomes)
    print(f"mutants {caught} / {len(outcomes)}")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
