"""A cluster's schedules without the cluster: the real machine, the real timekeepers of three leaders in turn.

A command of a leader is on its way for a while. When the leader changes it is lost, or has been committed and is
applied before the next leader's first; and old commands come a second time. In between nobody leads. Now and then
the machine is replaced by one made of its snapshot. Time is virtual and differs a little from leader to leader.
"""

from __future__ import annotations

import random
from collections import Counter

from tests.unit.machine.kit import Kit
from trivet.limits import SLOT_ON_TIME_MS
from trivet.machine import commands as c
from trivet.machine import invariants
from trivet.machine.replies import ScheduleSaved, SlotsDecided
from trivet.machine.snapshotting import NOTHING_YET, Builder, Walk
from trivet.node.timekeeper import Timekeeper

LEADERLESS_MS_MAX = SLOT_ON_TIME_MS - 1500  # what is left is for a command that was lost and is said again


class Lab:
    def __init__(self, seed: int, start_ms: int) -> None:
        self.rng = random.Random(seed)
        self.kit = Kit()
        self.kit.now = start_ms
        self.leaders = [Timekeeper(auto_create=True) for _ in range(3)]
        self.leader: Timekeeper | None = self.leaders[0]
        self.skew_ms = 0  # of the present leader's stamps
        self.said: list[c.FireSchedules] = []  # the last few, to be said again
        self.slots: dict[str, Counter[int]] = {}  # schedule → slot → messages
        self.late_ms = 0
        self.changes = 0
        self.statuses: Counter[str] = Counter()

    def put(self, name: str, **told: object) -> None:
        told.setdefault("draft", c.Draft(b'"x"'))
        saved = self.kit(c.PutSchedule(name, c.ScheduleSpec("q", **told)))  # type: ignore[arg-type]
        assert isinstance(saved, ScheduleSaved)
        self.slots.setdefault(name, Counter())

    # --- time -------------------------------------------------------------------------------------------

    def run(self, until_ms: int, changes: int = 0) -> None:
        """Until then, with so many changes of the leader, most of them near slots."""
        span = until_ms - self.kit.now
        start, each = self.kit.now, span // max(1, changes)
        for number in range(changes):
            moment = start + number * each + self.rng.randrange(each - 60_000)  # one outage at a time
            self._work(moment)
            self._go_near_a_slot()
            self.change_leader()
        self._work(until_ms)

    def _go_near_a_slot(self) -> None:
        """Where a change of leaders hurts: shortly before one, or just when the leader has said that it is due."""
        at, where = self.kit.m.schedules.next_look_ms(), self.rng.random()
        if at is not None and where < 0.8:
            self.kit.now = max(self.kit.now, at - self.rng.randrange(1, 2000) if where < 0.4 else at + 20)

    def _work(self, until_ms: int) -> None:
        kit = self.kit
        while True:
            at = kit.m.schedules.next_look_ms()
            if at is None or at > until_ms:
                break
            kit.now = max(kit.now, at + self.rng.randrange(20))
            if not self.step():
                kit.now += 1
        kit.now = max(kit.now, until_ms)

    def step(self) -> bool:
        """The leader says what is due and it is committed, a few milliseconds later."""
        command = self._command()
        if command is None:
            return False
        self.kit.now += self.rng.randrange(10)
        self.apply(command)
        return True

    def _command(self) -> c.FireSchedules | None:
        assert self.leader is not None
        return self.leader.next_command(self.kit.m.schedules, self.kit.now + self.skew_ms)

    def apply(self, command: c.FireSchedules) -> None:
        reply = self.kit(command)
        assert isinstance(reply, SlotsDecided)
        self.said = [*self.said[-20:], command]
        self.statuses.update(end.status for end in reply.results)
        for fire, end in zip(command.fires, reply.results, strict=True):
            if end.status == "fired":
                message = self.kit.m.messages[end.message or 0]
                name, _, slot = (message.draft.key or "").partition("@")
                assert (name, int(slot)) == (fire.name, fire.slot_ms)
                assert message.enqueued_at_ms >= int(slot), "before its time"
                self.slots[name][int(slot)] += 1
                self.late_ms = max(self.late_ms, message.enqueued_at_ms - int(slot))
        if len(self.kit.m.messages) > 200:
            self.kit.ack(*self.kit.lease(1000))
            self.kit.pass_ms(0)

    def change_leader(self) -> None:
        """The last word of the old leader may be lost, or be heard; nobody leads for a while."""
        self.changes += 1
        last = self._command()
        fate = self.rng.random()
        self.leader = None
        if last is not None and fate < 0.5:
            self.apply(last)
        self.kit.now += self.rng.randrange(LEADERLESS_MS_MAX)
        if last is not None and 0.5 <= fate < 0.75:
            self.apply(last)  # committed by the new leader, before anything of its own
        if self.changes % 10 == 0:
            self.restart()
        self.leader = self.rng.choice(self.leaders)
        self.skew_ms = self.rng.randrange(-20, 20)
        for command in self.rng.sample(self.said, min(3, len(self.said))):
            self.apply(command)

    def restart(self) -> None:
        walk, builder = Walk(self.kit.m), Builder()
        while (item := walk.next()) is not None:
            if item is not NOTHING_YET:
                builder.add(*item)
        walk.close()
        self.kit.m = builder.finish()
        assert not invariants.check(self.kit.m)
