"""The first judge: clients and the outside world only. It trusts nothing of the broker but what was answered.

It reads `history.jsonl` and `sink.jsonl`, shares no code with the second judge (but the reader of lines in
`chaos/history.py`), and is O(n log n).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chaos.checker import by_effect, by_flow, by_lease, by_message, by_order, by_run, by_schedule, by_topic
from chaos.checker.facts import Facts
from chaos.checker.verdict import Findings
from chaos.history import Operation


class Clients:
    """Feed it every operation with `take`, every note with `note`; then `judge`."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.found = Findings("clients")

    def take(self, operation: Operation) -> None:
        self.facts.take(operation)

    def note(self, line: dict[str, Any]) -> None:
        self.facts.note(line)

    def judge(self, sink: Iterable[dict[str, Any]], clocks_true: bool) -> Findings:
        """`clocks_true`: no clock of a node was touched, so real time may be held against lease times."""
        facts, found = self.facts, self.found
        facts.finish()
        for law, text, ops in facts.strange:
            found.add(law, text, ops)
        by_message.check(facts, found)
        by_lease.check(facts, found, clocks_true)
        by_effect.check(facts, list(sink), found)
        by_order.check(facts, found)
        by_flow.check(facts, found)
        by_topic.check(facts, found)
        by_schedule.check(facts, found)
        by_run.check(facts, found)
        return found
