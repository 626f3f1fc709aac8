"""The model's enqueue: all of it is checked, then all of it is done (R15, R16)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from hashlib import blake2b
from typing import Any

from chaos.model.lifecycle import LifeCycle
from chaos.model.records import (
    BLOCKED,
    CANCELLED,
    CONFIG,
    DEAD,
    DELAYED,
    DONE,
    READY,
    UNFINISHED,
    Key,
    Message,
    Queue,
    Refused,
)

Entry = tuple[str, Any]  # queue, draft
Plan = list[tuple[str, Any]]  # ("old", Key) | ("same", place of the first in this batch) | ("new", None)
_BACKOFF = tuple(CONFIG["backoff"])


def plain_backoff(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _BACKOFF}


def fingerprint(draft: Any) -> bytes:
    kind = b"" if draft.content_type is None else b"+" + draft.content_type.encode()
    return blake2b(b"%d:%d:" % (draft.codec, len(kind)) + kind + draft.body, digest_size=16).digest()


def size_of(draft: Any) -> int:
    headers = draft.headers or {}
    return len(draft.body) + sum(len(k.encode()) + len(v.encode()) for k, v in headers.items())


class Intake(LifeCycle):
    def do_Enqueue(self, c: Any) -> Any:
        entries = [(c.queue, draft) for draft in c.drafts]
        plan = self.plan(entries, c.auto_create, {})
        return ("enqueued", self.take(entries, plan, {}))

    def new_queue(self, name: str, config: dict[str, Any]) -> Queue:
        self.revisions += 1
        queue = self.queues[name] = Queue(name, config, self.revisions)
        return queue

    # --- checking ---------------------------------------------------------------------------------------

    def plan(self, entries: Sequence[Entry], auto_create: bool, acking: dict[int, Message]) -> Plan:
        """Keys before every other refusal (R12)."""
        firsts: dict[tuple[str, str], int] = {}
        plan: Plan = []
        for at, (name, draft) in enumerate(entries):
            known = None if draft.key is None else self.key_of(self.queues.get(name), draft.key)
            if known is not None:
                if known.print != fingerprint(draft):
                    raise Refused("idempotency_conflict")
                plan.append(("old", known))
            elif draft.key is not None and (name, draft.key) in firsts:
                first = firsts[name, draft.key]
                if fingerprint(entries[first][1]) != fingerprint(draft):
                    raise Refused("idempotency_conflict")
                plan.append(("same", first))
            else:
                if draft.key is not None:
                    firsts[name, draft.key] = at
                plan.append(("new", None))
        fresh = [entry for entry, (kind, _) in zip(entries, plan, strict=True) if kind == "new"]
        for name, draft in fresh:
            if name not in self.queues and not auto_create:
                raise Refused("queue_not_found")
            if name in self.queues and self.queues[name].paused_enqueue:
                raise Refused("queue_paused")
            for number in draft.extras.depends_on if draft.extras else ():
                if self.find(number) is None:
                    raise Refused("message_not_found")
        self.displaced = self.find_room(fresh, acking)
        return plan

    def find_room(self, fresh: list[Entry], acking: dict[int, Message]) -> list[Message]:
        displaced: list[Message] = []
        for name in dict.fromkeys(name for name, _ in fresh):
            queue = self.queues.get(name)
            if queue is None or (queue.config["max_messages"] is None and queue.config["max_bytes"] is None):
                continue
            drafts = [draft for other, draft in fresh if other == name]
            freed = [m for m in acking.values() if m.queue is queue]
            most, most_bytes = queue.config["max_messages"], queue.config["max_bytes"]
            over = 0 if most is None else queue.live - len(freed) + len(drafts) - most
            size = sum(size_of(draft) for draft in drafts) - sum(m.size for m in freed)
            over_bytes = 0 if most_bytes is None else queue.bytes + size - most_bytes
            if over <= 0 and over_bytes <= 0:
                continue
            if queue.config["on_full"] == "reject":
                raise Refused("queue_full")
            ready = (m for m in queue.members.values() if m.state == READY)
            for m in sorted(ready, key=lambda m: m.place):
                if over <= 0 and over_bytes <= 0:
                    break
                displaced.append(m)
                over, over_bytes = over - 1, over_bytes - m.size
            if over > 0 or over_bytes > 0:
                raise Refused("queue_full")
        return displaced

    # --- doing ------------------------------------------------------------------------------------------

    def take(self, entries: Sequence[Entry], plan: Plan, acking: dict[int, Message]) -> list[Any]:
        """Per entry (message, state, duplicate, result)."""
        for m in self.displaced:
            self.finish(m, DEAD, "queue_full")
        answers: list[Any] = []
        for (name, draft), (kind, known) in zip(entries, plan, strict=True):
            if kind == "old":
                answers.append(self.duplicate(known))
            elif kind == "same":
                answers.append((answers[known][0], answers[known][1], True, None))
            else:
                queue = self.queues.get(name) or self.new_queue(name, deepcopy(CONFIG))
                m = self.create(queue, draft, acking)
                answers.append((m, m.state, False, None))
        return answers

    def duplicate(self, known: Key) -> tuple[Message, str | None, bool, bytes | None]:
        m = known.message
        if m.gone:
            return (m, known.final or (DEAD if m.state == DEAD else CANCELLED), True, None)
        return (m, m.state, True, m.result)

    def create(self, queue: Queue, draft: Any, acking: dict[int, Message]) -> Message:
        config, extras = queue.config, draft.extras

        def own(field: str, default: Any = None) -> Any:
            return default if extras is None else getattr(extras, field)

        ttl = config["ttl_ms"] if draft.ttl_ms is None else draft.ttl_ms
        due = self.clock + draft.delay_ms if draft.deliver_at_ms is None else draft.deliver_at_ms
        self.serial += 1
        m = Message(
            serial=self.serial, queue=queue, body=blake2b(draft.body, digest_size=16).digest(),
            print=fingerprint(draft), size=size_of(draft), priority=draft.priority, enqueued=self.clock, due=due,
            expires=None if ttl is None else self.clock + ttl, group=draft.group, key=draft.key, ttl=draft.ttl_ms,
            run=own("run_id") is not None, max_attempts=own("max_attempts"),
            backoff=None if own("backoff") is None else plain_backoff(own("backoff")), lease_ms=own("lease_ms"),
            retention=own("retention_ms"), depends_on=tuple(own("depends_on", ())),
            runs_anyway=own("on_dependency_failure", "fail") == "run", run_id=own("run_id"),
        )  # fmt: skip
        self.messages[m.serial] = queue.members[m.serial] = m
        queue.enqueued += 1
        self.name(m, draft)
        m.group_order = self.new_place()
        if m.key is not None:
            window = config["idempotency_window_ms"] if draft.key_window_ms is None else draft.key_window_ms
            self.add_key(m, self.clock + window)
        failed = self.find_pending(m, acking)
        if m.pending or failed:
            self.enter(m, BLOCKED)
        elif due > self.clock:
            self.enter(m, DELAYED)
        else:
            m.place, m.ready_at = self.new_place(), self.clock
            self.enter(m, READY)
        if failed:
            self.finish(m, DEAD, "dependency_failed")
        return m

    def find_pending(self, m: Message, acking: dict[int, Message]) -> bool:
        """Sets `pending`; answers whether a dependency failed that matters."""
        failed = False
        pending: dict[int, None] = {}
        for number in m.depends_on:
            other = self.find(number)
            if other is None:  # acked by this request, or displaced to make room
                failed = failed or number not in acking
            elif other.state in (DEAD, CANCELLED):
                failed = True
            elif other.state != DONE:
                pending[number] = None
        failed = failed and not m.runs_anyway
        m.pending = [] if failed else list(pending)
        return failed

    # --- redrive (R21, R23) -----------------------------------------------------------------------------

    def do_Redrive(self, c: Any) -> Any:
        origin = self.queue(c.queue)
        target = origin if c.to is None else self.queue(c.to)
        wanted = None if c.ids is None else set(c.ids)
        upto = self.places if c.upto is None else None
        done: list[Message] = []
        for m in [origin.dead[serial] for serial in sorted(origin.dead)]:
            if len(done) == c.limit:
                break
            if m.number is not None and m.number <= c.after:
                continue
            if wanted is not None and m.number not in wanted:
                continue
            if (c.reason is not None and m.reason != c.reason) or (upto is not None and m.place > upto):
                continue
            if m.origin == "saga":
                continue  # what came before it has been undone
            if self.has_no_room(target, m):
                if not done:
                    raise Refused("queue_full")
                break
            done.append(m)
            self.revive(m, origin, target)
        return ("redriven", done)

    def has_no_room(self, target: Queue, m: Message) -> bool:
        most, most_bytes = target.config["max_messages"], target.config["max_bytes"]
        return (most is not None and target.live >= most) or (
            most_bytes is not None and target.bytes + m.size > most_bytes
        )

    def revive(self, m: Message, origin: Queue, target: Queue) -> None:
        old = self.own_key(m)
        self.leave(m)
        m.held = False
        self.flow_redriven(m)
        ttl = target.config["ttl_ms"] if m.ttl is None else m.ttl
        del origin.members[m.serial]
        target.members[m.serial] = m
        origin.revived += target is origin
        if target is not origin:
            origin.ended -= 1
            origin.enqueued -= 1
            target.enqueued += 1
        m.queue, m.attempt, m.reason = target, 0, None
        m.expires = None if ttl is None else self.clock + ttl
        m.due = m.ready_at = self.clock
        m.place = self.new_place()
        m.group_order = self.new_place()
        others = (self.find(number) for number in dict.fromkeys(m.depends_on))
        m.pending = [o.number for o in others if o is not None and o.number and o.state in UNFINISHED]
        self.enter(m, BLOCKED if m.pending else READY)
        if m.key is not None:
            self.move_key(m, old, origin, target)

    def move_key(self, m: Message, old: Key | None, origin: Queue, target: Queue) -> None:
        """It must last as long as its message; in another queue it is bound if it is free there."""
        assert m.key is not None
        expires = self.clock if old is None else old.expires
        if old is not None and target is not origin:
            old.final = DEAD
        there = target.keys.get(m.key)
        if there is not None and there.message is m:
            there.wake, there.final = None, None
        elif self.key_of(target, m.key) is None:
            self.add_key(m, expires)

    def queue(self, name: str) -> Queue:
        if name not in self.queues:
            raise Refused("queue_not_found")
        return self.queues[name]
