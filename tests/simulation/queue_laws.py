"""The laws of the queue, judged from the committed log alone: every command and its answer, in order, once.

A small bookkeeping that shares nothing with the machine. All instants are the log's own (the entry's stamp), so the
laws hold under any wall clock. `queue_model.py` compares every answer as well, for a part of the seeds.
"""

from __future__ import annotations

import msgspec

from tests.simulation.queue_facts import Fact, Keys, Queues
from tests.simulation.queue_flows import FlowLaws
from tests.simulation.queue_runs import RunLaws
from tests.simulation.queue_schedules import ScheduleLaws
from tests.simulation.queue_topics import TopicLaws
from tests.simulation.world import World
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.machine.ids import split_tokens
from trivet.machine.run_commands import AppendRunEvents, RunEventsAppended, RunReplayed

REQUEST_WINDOW_MS = 60_000


class QueueLaws:
    """`judge` sees each answer when the first node has applied it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.facts: dict[int, Fact] = {}  # by message number
        self.message_of: dict[int, int] = {}  # fence -> message
        self.last_fence = 0
        self.queues = Queues()
        self.keys = Keys()
        self.first: dict[str, tuple[r.Reply, int]] = {}  # request id -> its first answer, and when
        self.effect_of: dict[int, str] = {}  # fence -> effect id
        self.lease_of: dict[str, int] = {}  # effect id -> fence of the lease its newest grant is bound to
        self.flags: dict[str, bool] = {}  # effect id -> must the next grant say `uncertain`?
        self.granted_flag: dict[str, bool] = {}  # what the newest grant said
        self.committed: dict[str, int] = {}  # effect id -> lease fence (0: none) it was committed under
        self.newest_in_group: dict[tuple[str, str], int] = {}  # highest rank granted so far
        self.rank = 0
        self.flows = FlowLaws(world, self.facts)
        self.schedules = ScheduleLaws(world, self._enqueued_by_schedule)
        self.topics = TopicLaws(world, self.facts, self.queues, self.keys)
        self.topics.new_rank = self._new_rank
        self.runs = RunLaws(world, self.facts, self._new_rank)

    def violate(self, law: str, text: str) -> None:
        self.world.violate(law, text)

    def judge(self, index: int, clock_ms: int, request: c.Request, answer: r.Answer) -> None:
        self._repeat(index, clock_ms, request, answer)
        if answer.repeated or isinstance(answer.reply, r.Refusal):
            return
        command, reply = request.command, answer.reply
        if self.topics.judge(index, clock_ms, command, reply):
            return
        match reply:
            case r.Leased():
                for grant in reply.grants:
                    self._granted(index, clock_ms, grant)
            case r.Enqueued():
                assert isinstance(command, c.Enqueue)
                for draft, one in zip(command.drafts, reply.messages, strict=True):
                    self._enqueued(index, clock_ms, command.queue, draft, one)
            case r.FlowCreated():
                assert isinstance(command, c.CreateFlow)
                drafts = self.flows.created(command, reply)
                for step, draft, one in zip(command.steps, drafts, reply.steps, strict=True):
                    self._enqueued(index, clock_ms, step.queue, draft, one)
            case r.SlotsDecided():
                assert isinstance(command, c.FireSchedules)
                self.schedules.decided(index, clock_ms, command, reply)
            case r.ScheduleRun():
                assert isinstance(command, c.RunSchedule)
                self.schedules.ran(index, clock_ms, command.name, reply)
            case r.ScheduleSaved():
                self.schedules.note(clock_ms, command)
            case r.SettledAll():
                self._settled(index, clock_ms, command, reply)
            case r.EffectState():
                self._effect(index, command, reply)
            case r.MessageChanged():
                self._changed(clock_ms, command, reply)
            case r.Redriven():
                assert isinstance(command, c.Redrive)
                self._redriven(clock_ms, command, reply)
            case RunEventsAppended():
                assert isinstance(command, AppendRunEvents)
                self.runs.appended(index, command, reply)
            case RunReplayed():
                self.runs.replayed(index, clock_ms, reply)
            case r.QueueSaved() | r.Done():
                self.queues.note(command)
                self.schedules.note(clock_ms, command)
                if isinstance(command, c.DeleteQueue):
                    self.keys.forget_queue(command.name)

    def _new_rank(self) -> int:
        self.rank += 1
        return self.rank

    # --- repeats (R12, R18, R27) ------------------------------------------------------------------------

    def _repeat(self, index: int, clock_ms: int, request: c.Request, answer: r.Answer) -> None:
        name = request.request_id
        if name is None or isinstance(answer.reply, r.Refusal):
            return
        stored = self.first.get(name)
        if stored is None or (not answer.repeated and clock_ms >= stored[1] + REQUEST_WINDOW_MS):
            if answer.repeated:
                self.violate("repeat", f"{name} at {index} repeats nothing")
            self.first[name] = (answer.reply, clock_ms)
            return
        first = stored[0]
        self.world.count("repeats in the log")
        if isinstance(first, r.Leased) and isinstance(answer.reply, r.Leased):
            if not first.grants:  # R18: an empty answer is not remembered
                self.first[name] = (answer.reply, clock_ms)
                return
            fences = {grant.fence for grant in first.grants}
            if not answer.repeated or not {grant.fence for grant in answer.reply.grants} <= fences:
                self.violate("repeat", f"lease {name} at {index} granted anew: {answer} after {first}")
        elif isinstance(first, r.EffectState) and isinstance(answer.reply, r.EffectState) and first.fence:
            # A repeated begin gives its grant while that lives, as long as its lease, which may have been extended
            # since; after the end the effect is begun anew.
            if not answer.repeated:
                self.first[name] = (answer.reply, clock_ms)
            elif msgspec.structs.replace(answer.reply, expires_at_ms=first.expires_at_ms) != first:
                self.violate("repeat", f"{name} at {index}: {answer}, first was {first}")
        elif not answer.repeated or answer.reply != first:
            self.violate("repeat", f"{name} at {index}: {answer}, first was {first}")

    # --- messages ---------------------------------------------------------------------------------------

    def _enqueued(self, index: int, clock_ms: int, queue: str, draft: c.Draft, one: r.EnqueuedOne) -> None:
        config = self.queues.config(queue)
        if draft.key is not None:
            window = config.idempotency_window_ms if draft.key_window_ms is None else draft.key_window_ms
            other = self.keys.bind(queue, draft.key, one.message, clock_ms, window)
            if other is not None:
                self.violate("key", f"{draft.key} of {queue} names {other} and {one.message} at {index}")
        if one.duplicate:
            self.world.count("duplicates by key")
            return
        if one.message in self.facts:
            self.violate("number", f"{one.message} given twice, again at {index}")
        self.rank += 1
        ttl = draft.ttl_ms if draft.ttl_ms is not None else config.ttl_ms
        due = draft.deliver_at_ms if draft.deliver_at_ms is not None else clock_ms + draft.delay_ms
        self.facts[one.message] = Fact(queue, draft, self.rank, due, ttl is not None)

    def _enqueued_by_schedule(
        self, index: int, clock_ms: int, queue: str, draft: c.Draft, one: r.EnqueuedOne
    ) -> None:
        """A slot whose key is taken already, by a message of the same content, has that one."""
        if one.message in self.facts:
            one = r.EnqueuedOne(one.message, one.state, duplicate=True)
        self._enqueued(index, clock_ms, queue, draft, one)

    def _granted(self, index: int, clock_ms: int, grant: r.Grant) -> None:
        what = f"message {grant.message} at {index}"
        if grant.message not in self.facts:
            if self.topics.is_unknown(grant.message):
                self.facts[grant.message] = self.topics.unknown_granted(what, grant.message)
            else:
                self.facts[grant.message] = self.flows.unknown_granted(what, grant.message, clock_ms)
        self.topics.granted(what, grant.message)
        fact = self.facts[grant.message]
        self.flows.step_granted(what, grant.message)
        if fact.ended:
            self.violate(f"delivered after {fact.ended}", what)
        if clock_ms < fact.leased_until:
            self.violate("two holders", f"{what}: leased until {fact.leased_until}, now {clock_ms}")
        if clock_ms < fact.not_before:
            self.violate("delivered early", f"{what}: {fact.not_before - clock_ms} ms before its time")
        if grant.attempt != fact.attempt + 1:
            self.violate("attempts", f"{what}: attempt {grant.attempt} after {fact.attempt}")
        if grant.attempt > 1:
            self.world.count("redeliveries")
        self._in_order(what, fact)
        self._free_to_run(what, fact)
        self._fence(index, grant.fence)
        self.message_of[grant.fence] = grant.message
        fact.attempt, fact.leased_until = grant.attempt, grant.lease_expires_at_ms

    def _in_order(self, what: str, fact: Fact) -> None:
        """R21: once a later one of its group was delivered, an earlier one had ended for good."""
        group = fact.draft.group
        if group is None or not fact.rank or self.queues.loose_groups(fact.queue):
            return  # without a rank: a wild group caught up, and no answer said when this one came
        newest = self.newest_in_group.get((fact.queue, group), 0)
        if fact.rank < newest:
            self.violate("order in a group", f"{what} of {fact.queue}/{group}: rank {fact.rank} < {newest}")
        self.newest_in_group[fact.queue, group] = max(newest, fact.rank)

    def _free_to_run(self, what: str, fact: Fact) -> None:
        extras = fact.draft.extras
        if extras is None or not extras.depends_on or fact.redriven:
            return
        self.world.count("dependents delivered")
        for number in extras.depends_on:
            dead_end = extras.on_dependency_failure == "run"
            if not dead_end and self.facts[number].ended != "done":
                self.violate("dependency", f"{what}: {number} is {self.facts[number].ended or 'not done'}")

    def _fence(self, index: int, fence: int) -> None:
        if fence <= self.last_fence:
            self.violate("fence", f"{fence} at {index} after {self.last_fence}")
        self.last_fence = fence

    # --- settling ---------------------------------------------------------------------------------------

    def _settled(self, index: int, clock_ms: int, command: c.Command, reply: r.SettledAll) -> None:
        if isinstance(command, c.Release):
            for token, settled in zip(command.tokens, reply.results, strict=True):
                if settled.status == "released" and not settled.repeated:
                    fact = self._fact(token)
                    fact.attempt -= 1
                    fact.leased_until = 0
                    self._over(fact, settled.state)
            return
        if isinstance(command, c.AckLeases):
            self.world.count("acks by fence")
            command = c.Ack(tuple(c.AckItem(c.Token(fence, b"")) for fence in command.fences))
        if isinstance(command, c.AckTokens):
            self.world.count("acks the leader could not check")
            command = c.Ack(tuple(map(c.AckItem, split_tokens(command.tokens))))
        assert isinstance(command, c.Ack | c.Nack | c.Extend)
        for item, settled in zip(command.items, reply.results, strict=True):
            if settled.repeated:
                self.world.count("settled repeats")
                continue
            if settled.status == "acked" and isinstance(item, c.AckItem):
                self._acked(index, item)
            elif settled.status in ("nacked", "dead") and isinstance(item, c.NackItem):
                self._nacked(index, clock_ms, item, settled)
            elif settled.status == "extended":
                self._fact(item.token).leased_until = settled.lease_expires_at_ms or 0
            elif settled.status == "stale_lease":
                self.world.count("stale tokens refused")
        if isinstance(command, c.Ack) and reply.messages is not None:
            for entry, one in zip(command.enqueue, reply.messages, strict=True):
                self._enqueued(index, clock_ms, entry.queue, entry.draft, one)
            self._one_child(index, command, reply.messages)

    def _fact(self, token: c.Token | None) -> Fact:
        assert token is not None
        return self.facts[self.message_of[token.fence]]

    @staticmethod
    def _over(fact: Fact, state: str | None) -> None:
        if state in ("dead", "cancelled"):
            fact.ended = state

    def _one_child(self, index: int, command: c.Ack, children: tuple[r.EnqueuedOne, ...]) -> None:
        self.world.count("acks with enqueue")
        for item in command.items:
            fact = self._fact(item.token)
            if fact.children:
                self.violate("one child", f"parents of {children} at {index} have {fact.children}")
            fact.children = tuple(one.message for one in children)

    def _acked(self, index: int, item: c.AckItem) -> None:
        assert item.token is not None
        message = self.message_of[item.token.fence]
        fact = self.facts[message]
        if fact.ended:
            self.violate("acked twice", f"message {message} at {index}, it is {fact.ended}")
        fact.ended = "done"
        self.flows.acked(message)
        self.world.count("messages acked")
        for effect in item.effects:
            self._commit(index, effect.effect_id, item.token.fence, effect.token is not None)

    def _nacked(self, index: int, clock_ms: int, item: c.NackItem, settled: r.Settled) -> None:
        """R20: dead exactly when the attempts are used up (or its time is, or the worker said so)."""
        fact = self._fact(item.token)
        most = self.queues.config(fact.queue).max_attempts
        if fact.draft.extras is not None and fact.draft.extras.max_attempts is not None:
            most = fact.draft.extras.max_attempts
        used_up = bool(most) and fact.attempt >= most
        what = f"nack at {index}: attempt {fact.attempt} of {most}"
        if settled.state == "dead" and not (item.dead_letter or used_up or fact.mortal):
            self.violate("dead too early", what)
        if settled.state in ("ready", "delayed"):
            if used_up or item.dead_letter:
                self.violate("not dead", what)
            fact.not_before = settled.deliver_at_ms or clock_ms
        fact.leased_until = 0
        self._over(fact, settled.state)
        if settled.state == "dead":
            self.world.count("dead by nack")

    # --- changes ----------------------------------------------------------------------------------------

    def _changed(self, clock_ms: int, command: c.Command, reply: r.MessageChanged) -> None:
        fact = self.facts[reply.message]
        if isinstance(command, c.Cancel):
            self.world.count("cancelled while leased" if reply.cancelled else "cancelled")
            fact.marked = fact.marked or reply.cancelled
            self._over(fact, reply.state)
        elif isinstance(command, c.PatchMessage) and command.deliver_at_ms is not None:
            fact.not_before = 0  # earlier or later, or no change if it was due already: the model judges this
        elif isinstance(command, c.Progress) and reply.lease_expires_at_ms is not None:
            fact.leased_until = reply.lease_expires_at_ms

    def _redriven(self, clock_ms: int, command: c.Redrive, reply: r.Redriven) -> None:
        target = command.to or command.queue
        for number in reply.ids:
            fact = self.facts[number]
            self.world.count("redriven")
            if fact.ended == "dead":
                fact.ended = ""
            self.rank += 1
            ttl = fact.draft.ttl_ms if fact.draft.ttl_ms is not None else self.queues.config(target).ttl_ms
            fact.queue, fact.rank, fact.attempt, fact.not_before = target, self.rank, 0, 0
            fact.redriven, fact.mortal, fact.leased_until = True, ttl is not None, 0

    # --- effects (R27) ----------------------------------------------------------------------------------

    def _effect(self, index: int, command: c.Command, reply: r.EffectState) -> None:
        if reply.repeated:
            return
        if isinstance(command, c.EffectBegin) and reply.state == "granted" and reply.fence is not None:
            name = command.effect_id
            self._fence(index, reply.fence)
            if name in self.committed:
                self.violate("effect after commit", f"{name} granted at {index}")
            if reply.uncertain != self.flags.get(name, False):
                self.violate("uncertain", f"{name} at {index} says {reply.uncertain}")
            if reply.uncertain:
                self.world.count("effects uncertain")
            self.effect_of[reply.fence] = name
            self.lease_of[name] = command.lease.fence if command.lease is not None else 0
            self.granted_flag[name], self.flags[name] = reply.uncertain, True
        elif isinstance(command, c.EffectCommit) and reply.state == "done" and command.token is not None:
            name = self.effect_of[command.token.fence]
            self._commit(index, name, self.lease_of[name], False)
        elif isinstance(command, c.EffectAbort) and reply.state == "aborted" and command.token is not None:
            name = self.effect_of[command.token.fence]
            self.flags[name] = self.granted_flag[name]
            self.world.count("effects aborted")

    def _commit(self, index: int, name: str, lease: int, by_token: bool) -> None:
        """Once. An ack may name an effect again that was committed under its own lease, or by its token."""
        known = self.committed.get(name)
        if known is None:
            self.committed[name] = lease
            self.world.count("effects committed")
        elif not by_token and (known != lease or not lease):
            self.violate("effect twice", f"{name} at {index} under lease {lease}, before under {known}")
