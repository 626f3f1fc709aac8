"""Machine against model: random commands; after each one replies, views and laws are compared.

The usual run is short; `TRIVET_LONG=1` runs far more of it, with fresh examples.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.long import pick
from tests.machine.harness import Pair, rebuilt, state_of
from tests.machine.strategies import (
    HOUR,
    MINUTE,
    QUEUES,
    bodies,
    config_changes,
    configs,
    delays,
    drafts,
    fires,
    flows,
    maybe_ms,
    names,
    places,
    priorities,
    published,
    request_ids,
    results,
    schedule_specs,
    stateful,
    tokens,
)
from tests.tokens import live_tokens
from trivet.machine import commands as c
from trivet.machine.replies import Done
from trivet.machine.run_commands import NewRunEvent

DAY = 24 * HOUR
SCHEDULES = st.sampled_from(("s", "t"))
RUNS = st.sampled_from(("run", "run", "run2", "nope"))
TOPICS, GROUPS = st.just("t"), st.sampled_from(("g", "h"))
EFFECTS = st.sampled_from(("e1", "e2", "e3"))
EXAMPLES, STEPS = pick((50, 40), (1000, 100))


class MachineAgainstModel(RuleBasedStateMachine):
    """Every rule is one entry with one command, or time passing."""

    pair: Pair

    @initialize(config=configs)
    def begin(self, config: c.QueueConfig) -> None:
        self.pair = Pair()
        self.numbers: list[int] = []
        self.revisions: list[int] = []
        self.pair.do(c.PutQueue("a", config))

    def do(self, command: c.Command, request_id: str | None = None) -> Any:
        fingerprint = repr(command).encode()[-16:]
        reply = self.pair.do(command, request_id, fingerprint)
        self.numbers = list(range(1, self.pair.machine.next_number))[-12:]
        return reply

    # --- time -------------------------------------------------------------------------------------------

    @rule(length=st.sampled_from((1, 5, 10, 1000, 30_000)), leases=st.sampled_from((True, True, True, False)))
    def time_passes_and_is_noticed(self, length: int, leases: bool) -> None:
        self.pair.now += length
        self.expire(leases)

    @rule(length=st.sampled_from((MINUTE, HOUR, DAY, 8 * DAY)))
    def much_time_passes(self, length: int) -> None:
        self.pair.now += length
        self.expire(True)

    @rule(length=st.sampled_from((-1000, 1, 10, 1000, MINUTE)))
    def time_passes_unnoticed(self, length: int) -> None:
        self.pair.now += length

    def expire(self, leases: bool) -> None:
        for _ in range(20):
            reply = self.do(c.Expire(1000, leases))
            assert isinstance(reply, Done)
            if not reply.more:
                return
        raise AssertionError("Expire never comes to an end")

    # --- queues -----------------------------------------------------------------------------------------

    @rule(name=names, config=configs, request_id=request_ids)
    def put_queue(self, name: str, config: c.QueueConfig, request_id: str | None) -> None:
        self.do(c.PutQueue(name, config), request_id)

    @rule(name=names, changes=config_changes(), revision=st.sampled_from((None, None, 1, 2, 3)))
    def patch_queue(self, name: str, changes: dict[str, object], revision: int | None) -> None:
        self.do(c.PatchQueue(name, changes, revision))

    @rule(
        name=names, enqueue=st.sampled_from((None, True, False)), lease=st.sampled_from((None, True, False))
    )
    def pause(self, name: str, enqueue: bool | None, lease: bool | None) -> None:
        self.do(c.PauseQueue(name, enqueue, lease))

    @rule(
        name=names, request_id=request_ids, kind=st.sampled_from((c.PurgeQueue, c.PurgeDead, c.DeleteQueue))
    )
    def remove(self, name: str, request_id: str | None, kind: Any) -> None:
        self.do(kind(name), request_id)

    # --- messages ---------------------------------------------------------------------------------------

    @rule(data=st.data(), name=names, count=st.integers(1, 4), auto=st.booleans(), request_id=request_ids)
    def enqueue(self, data: Any, name: str, count: int, auto: bool, request_id: str | None) -> None:
        some = tuple(data.draw(drafts(self.numbers, self.pair.now)) for _ in range(count))
        self.do(c.Enqueue(name, some, auto), request_id)

    @rule(
        queues=st.lists(names, min_size=1, max_size=3, unique=True),
        count=st.integers(1, 6),
        lease_ms=maybe_ms,
        max_bytes=st.sampled_from((1, 4, 10**6, 10**6)),
        request_id=request_ids,
    )
    def lease(
        self, queues: list[str], count: int, lease_ms: int | None, max_bytes: int, request_id: str | None
    ) -> None:
        there = [name for name in queues if name in self.pair.machine.queues] or queues
        self.do(c.Lease(tuple(there), "consumer", count, lease_ms, max_bytes), request_id)

    def effects(self, data: Any) -> tuple[c.EffectDone, ...]:
        count = data.draw(st.sampled_from((0, 0, 1, 2)))
        token = st.none() | tokens(self.pair.effect_tokens)
        return tuple(
            c.EffectDone(data.draw(EFFECTS), data.draw(results), data.draw(token)) for _ in range(count)
        )

    @rule(data=st.data(), count=st.integers(1, 3), request_id=request_ids)
    def ack(self, data: Any, count: int, request_id: str | None) -> None:
        token = tokens(self.pair.tokens)
        items = [c.AckItem(data.draw(token), data.draw(results), self.effects(data)) for _ in range(count)]
        self.do(c.Ack(tuple(items)), request_id)

    @rule(data=st.data(), count=st.integers(1, 2), auto=st.booleans(), request_id=request_ids)
    def ack_and_enqueue(self, data: Any, count: int, auto: bool, request_id: str | None) -> None:
        live = live_tokens(self.pair.machine)
        token = tokens(live)
        items = [c.AckItem(data.draw(token), None, self.effects(data)) for _ in range(count)]
        draft = drafts(self.numbers, self.pair.now)
        more = [c.EnqueueTo(data.draw(names), data.draw(draft)) for _ in range(data.draw(st.integers(1, 3)))]
        self.do(c.Ack(tuple(items), tuple(more), auto), request_id)

    @rule(data=st.data(), count=st.integers(1, 3), request_id=request_ids, delay=st.none() | delays)
    def nack(self, data: Any, count: int, request_id: str | None, delay: int | None) -> None:
        token = tokens(self.pair.tokens)
        dead = st.sampled_from((False, False, True))
        error = st.sampled_from((None, "boom", "é" * 3000))
        items = [c.NackItem(data.draw(token), data.draw(error), delay, data.draw(dead)) for _ in range(count)]
        self.do(c.Nack(tuple(items)), request_id)

    @rule(data=st.data(), lease_ms=maybe_ms)
    def extend(self, data: Any, lease_ms: int | None) -> None:
        self.do(c.Extend((c.ExtendItem(data.draw(tokens(self.pair.tokens)), lease_ms),)))

    @rule(data=st.data(), request_id=request_ids)
    def release(self, data: Any, request_id: str | None) -> None:
        token = tokens(self.pair.tokens)
        self.do(c.Release((data.draw(token), data.draw(token))), request_id)

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), percent=st.none() | st.integers(0, 100), note=st.sampled_from((None, "n")))
    def progress(self, data: Any, percent: int | None, note: str | None) -> None:
        leased = sorted(message.number for message in self.pair.machine.leases.values())
        number = data.draw(st.sampled_from(leased or self.numbers))
        message = self.pair.machine.messages.get(number)
        own = None if message is None or message.lease is None else message.lease
        token = tokens(self.pair.tokens) if own is None else st.just(c.Token(own.fence, own.mac))
        self.do(c.Progress(number, data.draw(token | tokens(self.pair.tokens)), percent, note))

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), request_id=request_ids)
    def cancel(self, data: Any, request_id: str | None) -> None:
        self.do(c.Cancel(data.draw(st.sampled_from(self.numbers))), request_id)

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), priority=st.none() | priorities, delay=st.sampled_from((None, -5, 0, 10, 1000)))
    def patch_message(self, data: Any, priority: int | None, delay: int | None) -> None:
        at = None if delay is None else self.pair.now + delay
        self.do(c.PatchMessage(data.draw(st.sampled_from(self.numbers)), priority, at))

    @rule(
        data=st.data(),
        name=names,
        to=st.sampled_from((None, None, *QUEUES)),
        reason=st.sampled_from((None, None, "expired", "rejected", "max_attempts")),
        limit=st.sampled_from((1, 2, 1000)),
        by_id=st.booleans(),
    )
    def redrive(
        self, data: Any, name: str, to: str | None, reason: str | None, limit: int, by_id: bool
    ) -> None:
        ids = tuple(data.draw(st.lists(st.sampled_from(self.numbers or [1]), max_size=4))) if by_id else None
        self.do(c.Redrive(name, ids, reason, limit, to))

    # --- runs -------------------------------------------------------------------------------------------

    @rule(data=st.data(), run_id=RUNS, count=st.integers(1, 3), request_id=request_ids)
    def append_run_events(self, data: Any, run_id: str, count: int, request_id: str | None) -> None:
        ids = st.sampled_from((None, None, "e1", "e2", "e3"))
        events = [NewRunEvent("token", data.draw(bodies), data.draw(ids)) for _ in range(count)]
        self.do(c.AppendRunEvents(run_id, tuple(events)), request_id)

    @rule(run_id=RUNS, step=st.sampled_from((None, None, "s", "t")), limit=st.sampled_from((1, 1000)))
    def replay_run(self, run_id: str, step: str | None, limit: int) -> None:
        self.do(c.ReplayRun(run_id, step, limit))

    # --- schedules --------------------------------------------------------------------------------------

    @rule(
        data=st.data(),
        name=SCHEDULES,
        revision=st.sampled_from((None, None, None, 4)),
        request_id=request_ids,
    )
    def put_schedule(self, data: Any, name: str, revision: int | None, request_id: str | None) -> None:
        spec = data.draw(schedule_specs())
        self.do(
            c.PutSchedule(name, spec, revision, data.draw(st.sampled_from((True, True, False)))), request_id
        )

    @rule(data=st.data(), count=st.integers(1, 4), auto_create=st.sampled_from((True, True, False)))
    def fire_schedules(self, data: Any, count: int, auto_create: bool) -> None:
        steps = fires(self.pair.machine.schedules.by_name, self.pair.now)
        self.do(c.FireSchedules(tuple(data.draw(steps) for _ in range(count)), auto_create))

    @rule(
        name=SCHEDULES,
        what=st.sampled_from(("pause", "resume", "run", "run", "delete")),
        request_id=request_ids,
    )
    def change_schedule(self, name: str, what: str, request_id: str | None) -> None:
        commands: dict[str, c.Command] = {
            "pause": c.PauseSchedule(name, True),
            "resume": c.PauseSchedule(name, False),
            "run": c.RunSchedule(name),
            "delete": c.DeleteSchedule(name),
        }
        self.do(commands[what], request_id)

    # --- flows ------------------------------------------------------------------------------------------

    @rule(data=st.data(), request_id=request_ids)
    def create_flow(self, data: Any, request_id: str | None) -> None:
        self.do(data.draw(flows(self.pair.now)), request_id)

    # --- effects ----------------------------------------------------------------------------------------

    @rule(data=st.data(), effect_id=EFFECTS, bound=st.booleans(), ttl=maybe_ms, request_id=request_ids)
    def effect_begin(
        self, data: Any, effect_id: str, bound: bool, ttl: int | None, request_id: str | None
    ) -> None:
        lease = data.draw(tokens(self.pair.tokens)) if bound else None
        self.do(c.EffectBegin(effect_id, "owner", lease, bound, ttl), request_id)

    @rule(data=st.data(), result=results, request_id=request_ids)
    def effect_commit(self, data: Any, result: bytes | None, request_id: str | None) -> None:
        self.do(c.EffectCommit(data.draw(tokens(self.pair.effect_tokens)), result), request_id)

    @rule(data=st.data())
    def effect_abort(self, data: Any) -> None:
        self.do(c.EffectAbort(data.draw(tokens(self.pair.effect_tokens))))

    # --- topics -----------------------------------------------------------------------------------------

    @rule(topic=TOPICS, ms=st.sampled_from((0, 1000, HOUR, DAY)), count=st.sampled_from((0, 1, 3, 100)))
    def put_topic(self, topic: str, ms: int, count: int) -> None:
        self.do(c.PutTopic(topic, ms, count))

    @rule(data=st.data(), topic=TOPICS, count=st.integers(1, 4), request_id=request_ids)
    def publish(self, data: Any, topic: str, count: int, request_id: str | None) -> None:
        some = tuple(data.draw(published(self.pair.now)) for _ in range(count))
        self.do(c.Publish(topic, some), request_id)

    @rule(
        topic=TOPICS,
        group=GROUPS,
        config=configs,
        place=places,
        revision=st.sampled_from((None, None, None, 2)),
    )
    def put_group(self, topic: str, group: str, config: Any, place: Any, revision: int | None) -> None:
        at_ms, offset, inline = place
        at_ms = None if at_ms is None else self.pair.now - at_ms
        self.do(c.PutGroup(topic, group, config, revision, at_ms, offset, inline))

    @rule(topic=TOPICS, group=GROUPS, place=places, request_id=request_ids)
    def replay_group(self, topic: str, group: str, place: Any, request_id: str | None) -> None:
        at_ms, offset, inline = place
        at_ms = None if at_ms is None else self.pair.now - at_ms
        self.do(
            c.ReplayGroup(topic, group, at_ms, 0 if at_ms is None and offset is None else offset, inline),
            request_id,
        )

    @rule(topic=TOPICS, group=GROUPS, count=st.integers(1, 4))
    def lease_of_a_group(self, topic: str, group: str, count: int) -> None:
        self.do(c.Lease((f"{topic}:{group}", "a"), "consumer", count))

    @rule(
        topic=TOPICS,
        group=GROUPS,
        kind=st.sampled_from(
            (c.PurgeQueue, c.PurgeDead, c.Redrive, c.PauseQueue, c.DeleteQueue, c.DeleteTopic, 0)
        ),
    )
    def on_a_groups_queue(self, topic: str, group: str, kind: Any) -> None:
        if kind == c.DeleteTopic:
            self.do(c.DeleteTopic(topic))
        else:
            self.do(kind(f"{topic}:{group}") if kind else c.DeleteGroup(topic, group))

    # --- again, and elsewhere ---------------------------------------------------------------------------

    @precondition(lambda self: any(request.request_id for _, request in self.pair.log))
    @rule(data=st.data())
    def the_same_request_again(self, data: Any) -> None:
        known = [request for _, request in self.pair.log if request.request_id]
        request = data.draw(st.sampled_from(known[-8:]))
        self.pair.do(request.command, request.request_id, request.fingerprint)

    @rule()
    def restart_from_a_snapshot(self) -> None:
        before = state_of(self.pair.machine)
        digest, index = self.pair.machine.digest(), self.pair.machine.applied_index
        self.pair.machine = rebuilt(self.pair.machine)
        assert state_of(self.pair.machine) == before
        assert (self.pair.machine.digest(), self.pair.machine.applied_index) == (digest, index)
        self.pair.compare()


TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = stateful(EXAMPLES, STEPS)
