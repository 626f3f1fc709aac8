"""The model's schedules: every slot gets at most one message, whoever says so (R2)."""

from __future__ import annotations

import copy
from typing import Any

from tests.machine.model import UNFINISHED, Refused
from tests.machine.model import Model as Undo
from tests.machine.model_flows import copied

RETRY_MS, RETRY_MS_MAX = 1000, 10_000


class Schedules:
    """Mixed into the model; uses its messages and queues."""

    def __init__(self) -> None:
        super().__init__()
        self.schedules: dict[str, dict[str, Any]] = {}

    def schedule(self, name: str) -> dict[str, Any]:
        if name not in self.schedules:
            raise Refused("schedule_not_found")
        return self.schedules[name]

    def do_PutSchedule(self: Any, c: Any) -> Any:
        known = self.schedules.get(c.name)
        if c.if_revision is not None and (known is None or known["revision"] != c.if_revision):
            raise Refused("revision_changed")
        if c.spec.queue not in self.queues and not c.auto_create:
            raise Refused("queue_not_found")
        if known is not None and known["spec"] == c.spec:
            return ("schedule", c.name, False, known["revision"])
        now = self.clock
        fresh = {
            "spec": c.spec, "paused": False, "decided": now, "next": now, "anchor": now, "since": now, "slots": [],
            "fired": 0, "skipped": 0, "last": None, "skip": None, "blocked": None,
        }  # fmt: skip
        if known is None:
            self.schedules[c.name] = fresh
        else:
            old = known["spec"]
            if (old.cron, old.every_ms, old.timezone) != (c.spec.cron, c.spec.every_ms, c.spec.timezone):
                self.begin_now(known, "replaced")
                known["anchor"] = now
            known["spec"], known["blocked"] = c.spec, None
        revision = self.hints.revision("@" + c.name)
        assert revision > self.last_revision, "revisions rise"
        self.last_revision = self.schedules[c.name]["revision"] = revision
        return ("schedule", c.name, known is None, revision)

    def begin_now(self: Any, schedule: dict[str, Any], reason: str) -> None:
        owed = schedule["next"]
        if not schedule["paused"] and schedule["decided"] < owed <= self.clock:
            length = schedule["spec"].every_ms or 10**15
            schedule["skipped"] += len(range(owed, self.clock + 1, length))
            schedule["skip"] = (owed, reason)
        schedule["decided"] = schedule["next"] = self.clock

    def do_DeleteSchedule(self: Any, c: Any) -> Any:
        if c.if_revision not in (None, self.schedule(c.name)["revision"]):
            raise Refused("revision_changed")
        del self.schedules[c.name]
        return ("done", 1)

    def do_PauseSchedule(self: Any, c: Any) -> Any:
        schedule = self.schedule(c.name)
        if schedule["paused"] != c.paused:
            self.begin_now(schedule, "paused")
            schedule["paused"], schedule["blocked"] = c.paused, None
        return ("done", 0)

    def do_RunSchedule(self: Any, c: Any) -> Any:
        schedule = self.schedule(c.name)
        number, state, *_ = self.take([(schedule["spec"].queue, schedule["spec"].draft)], c.auto_create)[0]
        schedule["last"] = (self.clock, number, True)
        return ("run", number, state)

    def do_FireSchedules(self: Any, c: Any) -> Any:
        ends: list[Any] = []
        self.refusals = list(getattr(self.hints, "refusals", ()))
        for at, one in enumerate(c.fires):
            waits = any(c.fires[i].name == one.name and ends[i][0] == "blocked" for i in range(at))
            ends.append(("stale", None, None) if waits else self.fire(one, c.auto_create, at))
        return ("slots", ends)

    def fire(self: Any, one: Any, auto_create: bool, at: int) -> tuple[str, int | None, str | None]:
        schedule = self.schedules.get(one.name)
        if schedule is None or schedule["revision"] != one.revision or schedule["paused"]:
            return ("stale", None, None)
        if one.problem is not None:
            return self.block(schedule, one.problem)
        slot, decided = one.slot_ms, schedule["decided"]
        if (
            one.after_ms not in (None, decided)
            or slot < decided
            or (one.enqueue and slot == decided)
            or not slot <= self.clock
            or one.next_slot_ms <= slot
        ):
            return ("stale", None, None)
        end: tuple[str, int | None, str | None] = ("passed", None, None)
        if one.enqueue:
            end = self.decide(one.name, schedule, slot, auto_create, self.refusals[at])
            if end[0] == "blocked":
                return end
            schedule = self.schedules[one.name]  # an undo puts copies back
        if one.passed:
            schedule["skipped"] += one.passed
            if end[0] != "skipped":
                schedule["skip"] = (schedule["next"] if schedule["next"] > decided else slot, "missed")
        schedule.update(decided=slot, next=one.next_slot_ms, blocked=None)
        return end

    def decide(
        self: Any, name: str, schedule: dict[str, Any], slot: int, auto_create: bool, refused: bool
    ) -> Any:
        """`refused`: the machine says so; else nothing needs to be undone, or the two differ anyway."""
        spec = schedule["spec"]
        if spec.overlap == "skip" and schedule["last"] is not None:
            m = self.messages.get(schedule["last"][1])
            if m is not None and m["state"] in UNFINISHED:
                return self.skip(schedule, slot, "overlap")
        before = Undo.kept_for_undo(self) if refused else {}
        draft = copied(spec.draft, key=f"{name}@{slot}")
        try:
            number, _, duplicate, _ = self.take([(spec.queue, draft)], auto_create)[0]
        except Refused as refusal:
            self.__dict__.update(before)
            schedule = self.schedules[name]
            if str(refusal) == "idempotency_conflict":
                return self.skip(schedule, slot, "key_taken")
            return self.block(schedule, str(refusal))
        if not duplicate:
            self.hints.numbers = self.hints.numbers[1:]
        assert not schedule["slots"] or slot > schedule["slots"][-1], "a slot fired twice"
        schedule["slots"].append(slot)
        schedule["fired"] += 1
        schedule["last"] = (slot, number, False)
        return ("fired", number, None)

    def skip(self, schedule: dict[str, Any], slot: int, why: str) -> tuple[str, int | None, str | None]:
        schedule["skipped"] += 1
        schedule["skip"] = (slot, why)
        return ("skipped", None, why)

    def block(self: Any, schedule: dict[str, Any], code: str) -> tuple[str, int | None, str | None]:
        since, tries = (self.clock, 0) if schedule["blocked"] is None else schedule["blocked"][1:3]
        wait = min(RETRY_MS * 2**tries, RETRY_MS_MAX)
        schedule["blocked"] = (code, since, tries + 1, self.clock + wait)
        return ("blocked", None, code)

    def shown_schedule(self, name: str) -> dict[str, Any]:
        shown = copy.copy(self.schedules[name])
        del shown["slots"]
        return shown
