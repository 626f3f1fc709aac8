"""What a judge finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

SHOWN_MAX = 20  # of one law and judge; the rest is counted


class Violation(Struct, frozen=True):
    """`law`: S1…S24, L1…L8 (reliability.md, section B). `judge`: clients | log | liveness. `ops`: operations
    of the history that show it."""

    law: str
    judge: str
    text: str
    ops: tuple[int, ...] = ()


class Verdict(Struct):
    """`valid`: the run proves something; if not, `problems` says why. `clean`: no law was broken.
    `counts`: what was looked at; `sent`, `lost`, `doubled` among it."""

    valid: bool
    clean: bool
    violations: list[Violation]
    problems: list[str]
    counts: dict[str, Any]


class Findings:
    """Collects violations of one judge; of each law the first `SHOWN_MAX` in full."""

    def __init__(self, judge: str) -> None:
        self.judge = judge
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()  # violations by law
        self.lost: set[str] = set()
        self.doubled: set[str] = set()

    def add(self, law: str, text: str, ops: Iterable[int | None] = ()) -> None:
        self.counts[law] += 1
        if self.counts[law] <= SHOWN_MAX:
            shown = tuple(dict.fromkeys(op for op in ops if op is not None))[:8]
            self.violations.append(Violation(law, self.judge, text, shown))

    def closed(self) -> list[Violation]:
        """All of them, with a line for each law of which more were found than are shown."""
        more = [
            Violation(law, self.judge, f"and {count - SHOWN_MAX} more violations of {law}")
            for law, count in sorted(self.counts.items())
            if count > SHOWN_MAX
        ]
        return [*self.violations, *more]
