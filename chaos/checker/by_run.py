"""First judge: runs (R29). Whoever reads a run, from whichever node, is told the same events under the same ids, each
once and without a gap; what was acknowledged is there, what nobody sent is not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from chaos.checker.facts import Call, Facts
from chaos.checker.verdict import Findings
from chaos.history import INFO


@dataclass(slots=True)
class Shown:
    type: str
    data: Any
    op: int


def check(facts: Facts, found: Findings) -> None:
    for run, reads in facts.run_reads.items():
        _Run(facts, run, found).check(reads)
    for run in facts.appends.keys() - facts.run_reads.keys():
        _Run(facts, run, found).check([])


class _Run:
    def __init__(self, facts: Facts, run: str, found: Findings) -> None:
        self._facts, self._run, self._found = facts, run, found
        self._shown: dict[int, Shown] = {}
        self._tokens: dict[str, list[int]] = defaultdict(
            list
        )  # what a token is → ids under which it was shown
        self._end = 0

    def check(self, reads: list[tuple[Call, int, list[Any], int]]) -> None:
        for call, after, events, first in reads:
            self._one_read(call, max(after + 1, first), events)
        sent = {str(one["data"]) for _, events, _ in self._facts.appends[self._run] for one in events}
        for number, shown in self._shown.items():
            if shown.type == "token" and str(shown.data) not in sent:
                self._say("S2", f"event {number} is {shown.data}: nobody sent it", (shown.op,))
        for token, numbers in self._tokens.items():
            if len(numbers) > 1:
                self._say("S3", f"token {token} is there as {numbers}", [self._shown[n].op for n in numbers])
        self._acknowledged()

    def _one_read(self, call: Call, expected: int, events: list[Any]) -> None:
        for number, type, data in events:
            if type == "gap":
                expected = data["first_id"]
                continue
            if number != expected:
                self._say("S16", f"event {number} was told where {expected} was to come", (call.op,))
            expected = number + 1
            known = self._shown.get(number)
            if known is None:
                self._shown[number] = Shown(type, data, call.op)
                if type == "token":
                    self._tokens[str(data)].append(number)
            elif (known.type, known.data) != (type, data):
                text = f"event {number} is {type} {data}, and {known.type} {known.data}"
                self._say("S2", text, (call.op, known.op))

    def _acknowledged(self) -> None:
        ids: dict[str, int] = {}
        owners: dict[int, str] = {}
        for call, events, answers in self._facts.appends[self._run]:
            if call.type == INFO:
                continue
            if len(answers) != len(events):
                self._say("S20", f"{len(events)} events were appended, {len(answers)} answered", (call.op,))
            for one, number in zip(events, answers, strict=False):
                token = str(one["data"])
                first, owner = ids.setdefault(token, number), owners.setdefault(number, token)
                if (first, owner) != (number, token):
                    text = f"{token} was answered {number}, before {first}; {number} is {owner}"
                    self._say("S3", text, (call.op,))
                shown = self._shown.get(number)
                if shown is not None and (shown.type != one["type"] or shown.data != one["data"]):
                    self._say(
                        "S2", f"event {number} is {shown.data}, {token} was told that id", (call.op, shown.op)
                    )
                if shown is None and self._facts.resolved:
                    self._found.lost.add(f"{self._run} {number}")
                    self._say("S1", f"event {number}, {token}, was acknowledged and is not there", (call.op,))

    def _say(self, law: str, text: str, ops: Any) -> None:
        self._found.add(law, f"{self._run}: {text}", ops)
