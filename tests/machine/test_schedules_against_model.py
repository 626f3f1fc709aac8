"""Schedules among a few queues: machine against model. (`test_model.py` meets them among everything else.)"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.long import pick
from tests.machine.harness import SECRET, Pair, rebuilt, state_of
from tests.machine.strategies import configs, fires, names, request_ids, schedule_specs, stateful
from tests.tokens import token_of
from trivet.machine import commands as c
from trivet.machine.replies import Leased, SlotsDecided

SCHEDULES = st.sampled_from(("s", "t"))
EXAMPLES, STEPS = pick((60, 40), (2000, 80))


class SchedulesAgainstModel(RuleBasedStateMachine):
    pair: Pair

    @initialize()
    def begin(self) -> None:
        self.pair = Pair()

    def do(self, command: c.Command, request_id: str | None = None) -> Any:
        return self.pair.do(command, request_id, repr(command).encode()[-16:])

    @rule(length=st.sampled_from((-1000, 0, 1, 1000, 60_000, 3_600_000)))
    def time_passes(self, length: int) -> None:
        self.pair.now += length

    @rule()
    def expire(self) -> None:
        while self.do(c.Expire()).more:
            pass

    @rule(
        data=st.data(),
        name=SCHEDULES,
        revision=st.sampled_from((None, None, None, 2)),
        request_id=request_ids,
    )
    def put(self, data: Any, name: str, revision: int | None, request_id: str | None) -> None:
        auto_create = data.draw(st.sampled_from((True, True, False)))
        self.do(c.PutSchedule(name, data.draw(schedule_specs()), revision, auto_create), request_id)

    @rule(data=st.data(), count=st.integers(1, 4), auto_create=st.sampled_from((True, True, False)))
    def fire(self, data: Any, count: int, auto_create: bool) -> None:
        steps = fires(self.pair.machine.schedules.by_name, self.pair.now)
        reply = self.do(c.FireSchedules(tuple(data.draw(steps) for _ in range(count)), auto_create))
        assert isinstance(reply, SlotsDecided) and len(reply.results) == count

    @rule(data=st.data())
    def fire_again(self, data: Any) -> None:
        """What an old leader said, later: never a second message."""
        said = [
            request.command for _, request in self.pair.log if isinstance(request.command, c.FireSchedules)
        ]
        if said:
            self.do(data.draw(st.sampled_from(said)))

    @rule(name=SCHEDULES, paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        self.do(c.PauseSchedule(name, paused))

    @rule(name=SCHEDULES, request_id=request_ids, auto_create=st.sampled_from((True, True, False)))
    def run(self, name: str, request_id: str | None, auto_create: bool) -> None:
        self.do(c.RunSchedule(name, auto_create), request_id)

    @rule(name=SCHEDULES, revision=st.sampled_from((None, None, 2)))
    def delete(self, name: str, revision: int | None) -> None:
        self.do(c.DeleteSchedule(name, revision))

    @rule(name=names, config=configs)
    def put_queue(self, name: str, config: c.QueueConfig) -> None:
        self.do(c.PutQueue(name, config))

    @rule(name=names, enqueue=st.booleans())
    def pause_queue(self, name: str, enqueue: bool) -> None:
        self.do(c.PauseQueue(name, enqueue, None))

    @rule(name=names, away=st.booleans())
    def empty_queue(self, name: str, away: bool) -> None:
        self.do(c.DeleteQueue(name) if away else c.PurgeQueue(name))

    @rule(data=st.data(), name=names)
    def enqueue_under_a_slots_key(self, data: Any, name: str) -> None:
        slots = [slot for one in self.pair.model.schedules.values() for slot in one["slots"]] or [
            self.pair.now
        ]
        key = (
            f"{data.draw(SCHEDULES)}@{data.draw(st.sampled_from(slots)) + data.draw(st.sampled_from((0, 1)))}"
        )
        self.do(c.Enqueue(name, (c.Draft(data.draw(st.sampled_from((b"1", b"22"))), key=key),)))

    @rule(name=names, ack=st.booleans())
    def work(self, name: str, ack: bool) -> None:
        reply = self.do(c.Lease((name,), "w", 2))
        if ack and isinstance(reply, Leased) and reply.grants:
            self.do(c.Ack(tuple(c.AckItem(token_of(grant, SECRET)) for grant in reply.grants)))

    @rule()
    def restart_from_a_snapshot(self) -> None:
        before = state_of(self.pair.machine)
        self.pair.machine = rebuilt(self.pair.machine)
        assert state_of(self.pair.machine) == before
        self.pair.compare()


TestSchedulesAgainstModel = SchedulesAgainstModel.TestCase
TestSchedulesAgainstModel.settings = stateful(EXAMPLES, STEPS)
