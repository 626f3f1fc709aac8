"""Flows on the machine and on the model, with little else: so that they come to their ends."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.long import pick
from tests.machine.harness import Pair, rebuilt
from tests.machine.strategies import QUEUES, flows, names, stateful
from tests.tokens import live_tokens
from trivet.machine import commands as c
from trivet.machine.replies import Done
from trivet.machine.run_commands import ReplayRun
from trivet.machine.state import LEASED

EXAMPLES, STEPS = pick((25, 25), (1500, 60))
ENDS = st.sampled_from(("ack", "ack", "ack", "ack", "ack", "dead", "nack", "release", "keep"))


class FlowsAgainstModel(RuleBasedStateMachine):
    @initialize(
        retention=st.sampled_from((0, 1000, 3_600_000)),
        attempts=st.sampled_from((1, 2)),
        max_dead=st.sampled_from((0, 1, 100)),
    )
    def begin(self, retention: int, attempts: int, max_dead: int) -> None:
        self.pair = Pair()
        backoff = c.Backoff("list", delays_ms=(0,))
        config = c.QueueConfig(
            max_attempts=attempts, backoff=backoff, result_retention_ms=retention, max_dead=max_dead
        )
        for name in QUEUES:
            self.pair.do(c.PutQueue(name, config))

    @rule(data=st.data())
    def create(self, data: Any) -> None:
        self.pair.do(data.draw(flows(self.pair.now)))

    @rule(rounds=st.lists(st.lists(ENDS, min_size=1, max_size=8), min_size=1, max_size=4))
    def work(self, rounds: list[list[str]]) -> None:
        """Lease and settle: mostly well."""
        for ends in rounds:
            if there := tuple(sorted(self.pair.machine.queues)):
                self.pair.do(c.Lease(there, "worker", len(ends)))
            live = live_tokens(self.pair.machine)
            for token, end in zip(live, ends, strict=False):
                if end == "ack":
                    self.pair.do(c.Ack((c.AckItem(token, b'"ok"' if token.fence % 2 else None),)))
                elif end == "release":
                    self.pair.do(c.Release((token,)))
                elif end != "keep":
                    self.pair.do(c.Nack((c.NackItem(token, None, None, end == "dead"),)))

    @rule(
        data=st.data(),
        what=st.sampled_from(("time", "time", "cancel", "remove", "redrive", "replay", "restart")),
        length=st.sampled_from((1, 1000, 40_000, 3_600_000)),
        name=names,
        kind=st.sampled_from((c.PurgeQueue, c.PurgeDead, c.DeleteQueue)),
        to=st.sampled_from((None, None, *QUEUES)),
    )
    def meddle(self, data: Any, what: str, length: int, name: str, kind: Any, to: str | None) -> None:
        if what == "time":
            self.time_passes(length)
        elif what == "cancel":
            numbers = sorted(number for number, m in self.pair.machine.messages.items() if m.state <= LEASED)
            self.pair.do(c.Cancel(data.draw(st.sampled_from(numbers or [1]))))
        elif what == "remove":
            self.pair.do(kind(name))
        elif what == "redrive":
            self.pair.do(c.Redrive(name, to=to))
        elif what == "replay":
            for run_id in sorted(self.pair.machine.runs):
                self.pair.do(ReplayRun(run_id))
        else:
            self.pair.machine = rebuilt(self.pair.machine)
            self.pair.compare()

    def time_passes(self, length: int) -> None:
        self.pair.now += length
        for _ in range(20):
            reply = self.pair.do(c.Expire())
            assert isinstance(reply, Done)
            if not reply.more:
                return
        raise AssertionError("Expire never comes to an end")


TestFlowsAgainstModel = FlowsAgainstModel.TestCase
TestFlowsAgainstModel.settings = stateful(EXAMPLES, STEPS)
