"""The model's commands: leases, settling, changes, queues, time. `Model.apply` is the door."""

from __future__ import annotations

from heapq import heappop
from types import SimpleNamespace as Plain
from typing import Any

from chaos.model.intake import plain_backoff
from chaos.model.ledger import Ledger
from chaos.model.records import (
    BLOCKED,
    CANCELLED,
    CONFIG,
    DEAD,
    DELAYED,
    DONE,
    LEASED,
    OVERDUE_PER_LEASE,
    READY,
    REQUEST_WINDOW,
    RETAINED_BYTES_MAX,
    SETTLE_WINDOW,
    UNFINISHED,
    WAITING,
    Effect,
    Key,
    Lease,
    Message,
    Queue,
    Refused,
    lease_mac,
)
from chaos.model.runs import Run, Runs
from chaos.model.schedules import Schedules

Settled = tuple[Any, ...]  # (status, repeated, state, deliver_at_ms, lease_expires_at_ms, cancelled)


def settled(
    status: str, state: str | None = None, due: int | None = None, ends: int | None = None, cancelled: bool = False
) -> Settled:  # fmt: skip
    return (status, False, state, due, ends, cancelled)


NOT_FOUND, STALE = settled("not_found"), settled("stale_lease")

TOKEN_BYTES = 24  # a fence of 8, a mac of 16
CHECKED = None  # instead of the mac of a token that the leader has checked


class Model(Runs, Schedules, Ledger):
    """Feed it each entry's time with `begin_entry`, then each request with `apply`."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Run] = {}
        self.displaced: list[Message] = []
        self.requests: dict[str, tuple[int, bytes, Any]] = {}  # id → (at, fingerprint, reply)
        self.settled: dict[int, tuple[int, str, Settled, Message]] = {}  # fence → (at, verb, answer, of)

    def begin_entry(self, now_ms: int) -> None:
        self.clock = max(self.clock, now_ms)

    def apply(self, request: Any) -> tuple[Any, bool]:
        """(reply, repeated); a reply is `(kind, …)`, messages in it are `Message`s."""
        rid = request.request_id
        if rid is not None:
            stored = self.requests.get(rid)
            if stored is not None and stored[0] + REQUEST_WINDOW > self.clock:
                if stored[1] != request.fingerprint:
                    return ("refused", "idempotency_conflict"), False
                again = self.repeat(stored[2], request.command)
                if again is not None:
                    return again, True
        try:
            reply = getattr(self, "do_" + type(request.command).__name__)(request.command)
        except Refused as refusal:
            return ("refused", str(refusal)), False
        self.settle()
        if rid is not None and not (reply[0] == "leased" and not reply[3]):
            self.requests[rid] = (self.clock, request.fingerprint, reply)
        return reply, False

    def repeat(self, reply: Any, command: Any) -> Any:
        if reply[0] == "leased":
            live = []
            for m, fence, _, attempt in reply[3]:
                if fence in self.leases:
                    lease = m.lease
                    live.append((m, fence, lease.expires, attempt))
            return ("leased", self.clock, len(reply[3]) - len(live), live)
        if reply[0] == "effect" and reply[1] == "granted" and type(command).__name__ == "EffectBegin":
            return self.repeat_begin(reply)
        return reply

    def do_Genesis(self, c: Any) -> Any:
        first = not self.secret
        if first:
            self.secret = c.secret
        return ("done", int(first))

    # --- leases -----------------------------------------------------------------------------------------

    def do_Lease(self, c: Any) -> Any:
        grants: list[tuple[Message, int, int, int]] = []
        left = c.max_bytes
        for queue in [self.queue(name) for name in c.queues]:
            left = self.lease_from(queue, c, grants, left)
            if left <= 0 or len(grants) >= c.max_messages:
                break
        return ("leased", self.clock, 0, grants)

    def lease_from(self, queue: Queue, c: Any, grants: list[Any], left: int) -> int:
        if queue.paused_lease:
            return left
        room = c.max_messages - len(grants)
        if queue.config["max_leased"] is not None:
            room = min(room, queue.config["max_leased"] - queue.counts[LEASED])
        dropped = 0
        while room > 0 and (m := self.best(queue)) is not None:
            if self.overdue(m):
                if dropped == OVERDUE_PER_LEASE:
                    break
                dropped += 1
                self.finish(m, DEAD, "expired")
                continue
            if self.is_stopped(m):
                self.stop(m)
                continue
            size = m.size + self.parents_size(m)
            if grants and size > left:
                return 0
            left -= size
            room -= 1
            length = c.lease_ms or m.lease_ms or queue.config["lease_ms"]
            grants.append(self.grant(m, c.consumer, length))
            if left <= 0:
                return 0
        return left

    def grant(self, m: Message, consumer: str, length: int) -> tuple[Message, int, int, int]:
        self.fences += 1
        m.attempt += 1
        self.leave(m)
        m.lease = Lease(self.fences, consumer, self.clock, length, self.clock + length)
        self.enter(m, LEASED)
        return (m, self.fences, self.clock + length, m.attempt)

    def leased_under(self, token: Any) -> Message | None:
        m = None if token is None else self.leases.get(token.fence)
        return m if m is not None and self.is_token_of(token, m) else None

    def is_token_of(self, token: Any, m: Message) -> bool:
        """Of a message whose id nobody was told, no token can be judged: it is taken on its fence."""
        return (
            m.number is None
            or m.number < 0
            or token.mac is CHECKED
            or bool(lease_mac(self.secret, token.fence, m.number) == token.mac)
        )

    def renew(self, m: Message, length: int) -> int:
        lease = m.lease
        assert lease is not None
        lease.length, lease.expires = length, self.clock + length
        self.arm(m, lease.expires, 1, of_lease=True)
        return lease.expires

    def do_Extend(self, c: Any) -> Any:
        results = []
        for item in c.items:
            m = self.leased_under(item.token)
            if m is None or m.lease is None:
                results.append(self.ended(item.token, "extend"))
                continue
            ends = self.renew(m, item.lease_ms or m.lease_ms or m.queue.config["lease_ms"])
            results.append(settled("extended", ends=ends, cancelled=m.lease.cancelled))
        return ("settled", results, None)

    def do_Progress(self, c: Any) -> Any:
        m = self.find(c.message)
        if m is None:
            raise Refused("message_not_found")
        if self.leased_under(c.token) is not m or m.lease is None:
            raise Refused("stale_lease")
        ends = self.renew(m, m.lease.length)
        return ("changed", m, LEASED, m.lease.cancelled, ends)

    # --- settling ---------------------------------------------------------------------------------------

    def ended(self, token: Any, verb: str) -> Settled:
        """What a token that is not live gets (R14)."""
        if token is None:
            return NOT_FOUND
        old = self.settled.get(token.fence)
        if old is not None and old[0] + SETTLE_WINDOW > self.clock:
            if not self.is_token_of(token, old[3]):
                return NOT_FOUND
            return (old[2][0], True, *old[2][2:]) if old[1] == verb else STALE
        m = self.expired.get(token.fence)
        return STALE if m is not None and self.is_token_of(token, m) else NOT_FOUND

    def remember(self, fence: int, m: Message, verb: str, answer: Settled) -> Settled:
        self.settled[fence] = (self.clock, verb, answer, m)
        return answer

    def do_Ack(self, c: Any) -> Any:
        if c.enqueue:
            return self.ack_and_enqueue(c)
        results = []
        claimed: dict[str, Message] = {}
        for item in c.items:
            m = self.leased_under(item.token)
            code = None if m is None else self.refused_effect(m, item.effects, claimed)
            if m is None:
                results.append(self.ended(item.token, "ack"))
            elif code is not None:
                results.append(settled(code))
            else:
                results.append(self.ack(m, item))
        return ("settled", results, None)

    def do_AckTokens(self, c: Any) -> Any:
        pieces = [c.tokens[at : at + TOKEN_BYTES] for at in range(0, len(c.tokens), TOKEN_BYTES)]
        return self.ack_plain([Plain(fence=int.from_bytes(one[:8], "big"), mac=one[8:]) for one in pieces])

    def do_AckLeases(self, c: Any) -> Any:
        """The leader has looked at the tokens, and wrote 0 for what is none."""
        return self.ack_plain([Plain(fence=fence, mac=CHECKED) for fence in c.fences])

    def ack_plain(self, tokens: list[Any]) -> Any:
        return self.do_Ack(
            Plain(items=[Plain(token=one, result=None, effects=()) for one in tokens], enqueue=())
        )

    def ack_and_enqueue(self, c: Any) -> Any:
        """All or nothing (R15)."""
        if not c.items:
            raise Refused("invalid_argument")
        claimed: dict[str, Message] = {}
        acking: dict[int, Message] = {}
        for item in c.items:
            m = self.leased_under(item.token)
            if m is None:
                raise Refused("stale_lease")
            code = self.refused_effect(m, item.effects, claimed)
            if code is not None:
                raise Refused(code)
            acking[m.number if m.number is not None else -m.serial] = m
        entries = [(entry.queue, entry.draft) for entry in c.enqueue]
        plan = self.plan(entries, c.auto_create, acking)
        results = []
        for item in c.items:
            m = self.leased_under(item.token)
            results.append(self.ended(item.token, "ack") if m is None else self.ack(m, item))
        return ("settled", results, self.take(entries, plan, acking))

    def ack(self, m: Message, item: Any) -> Settled:
        assert m.lease is not None
        fence = m.lease.fence
        self.commit_with_ack(m, item.effects)
        m.result = item.result
        self.end_lease(m, "acked")
        self.finish(m, DONE)
        return self.remember(fence, m, "ack", settled("acked"))

    def do_Nack(self, c: Any) -> Any:
        return ("settled", [self.nack(item) for item in c.items], None)

    def nack(self, item: Any) -> Settled:
        m = self.leased_under(item.token)
        if m is None or m.lease is None:
            return self.ended(item.token, "nack")
        fence, marked = m.lease.fence, m.lease.cancelled
        self.end_lease(m, "nacked")
        if item.dead_letter and not marked:
            self.finish(m, DEAD, "rejected")
        else:
            self.fail(m, item.delay_ms)
        due = {DELAYED: m.due, READY: self.clock}.get(m.state)
        answer = settled("dead" if m.state == DEAD else "nacked", m.state, due, cancelled=marked)
        return self.remember(fence, m, "nack", answer)

    def do_Release(self, c: Any) -> Any:
        return ("settled", [self.release(token) for token in c.tokens], None)

    def do_ReleaseLeases(self, c: Any) -> Any:
        """The leader's own leases, given back for somebody who is gone (R26)."""
        return ("settled", [self.release(Plain(fence=fence, mac=CHECKED)) for fence in c.fences], None)

    def release(self, token: Any) -> Settled:
        m = self.leased_under(token)
        if m is None or m.lease is None:
            return self.ended(token, "release")
        fence, marked = m.lease.fence, m.lease.cancelled
        self.end_lease(m, "released")
        m.attempt -= 1
        if marked:
            self.finish(m, CANCELLED)
        elif self.overdue(m):
            self.finish(m, DEAD, "expired")
        elif self.is_stopped(m):
            self.finish(m, CANCELLED)
        else:
            self.make_ready(m, keep_place=True)
        answer = settled("released")
        if m.state != READY:
            answer = settled("released", m.state, cancelled=marked)
        return self.remember(fence, m, "release", answer)

    # --- changes ----------------------------------------------------------------------------------------

    def unfinished(self, number: int) -> Message:
        m = self.find(number)
        if m is None:
            raise Refused("message_not_found")
        if m.state not in UNFINISHED:
            raise Refused("message_finished")
        return m

    def do_Cancel(self, c: Any) -> Any:
        m = self.unfinished(c.message)
        if m.lease is not None:
            m.lease.cancelled = True
            return ("changed", m, LEASED, True, m.lease.expires)
        self.finish(m, CANCELLED)
        return ("changed", m, CANCELLED, False, None)

    def do_PatchMessage(self, c: Any) -> Any:
        m = self.unfinished(c.message)
        if c.deliver_at_ms is not None and m.state == LEASED:
            raise Refused("invalid_argument")
        if c.priority is not None and c.priority != m.priority:
            m.priority = c.priority
            if m.ticket:
                self.put_on_offer(m)
        if c.deliver_at_ms is not None:
            if m.state == BLOCKED:
                m.due = c.deliver_at_ms
            elif m.state == DELAYED or c.deliver_at_ms > self.clock:
                self.make_waiting(m, c.deliver_at_ms)
        return ("changed", m, m.state, m.lease is not None and m.lease.cancelled, None)

    # --- queues -----------------------------------------------------------------------------------------

    def check_revision(self, name: str, if_revision: int | None) -> None:
        if if_revision is None:
            return
        if name not in self.queues or self.queues[name].revision != if_revision:
            raise Refused("revision_changed")

    def do_PutQueue(self, c: Any) -> Any:
        self.check_revision(c.name, c.if_revision)
        config = {name: getattr(c.config, name) for name in CONFIG}
        config["backoff"] = plain_backoff(c.config.backoff)
        if c.name not in self.queues:
            return ("queue", c.name, True, self.new_queue(c.name, config).revision)
        return self.configure(self.queues[c.name], config)

    def do_PatchQueue(self, c: Any) -> Any:
        queue = self.queue(c.name)
        self.check_revision(c.name, c.if_revision)
        config = {**queue.config, **c.changes}
        config["backoff"] = {**queue.config["backoff"], **(c.changes.get("backoff") or {})}
        config["backoff"]["delays_ms"] = tuple(config["backoff"]["delays_ms"])
        return self.configure(queue, config)

    def configure(self, queue: Queue, config: dict[str, Any]) -> Any:
        if config != queue.config:
            self.revisions += 1
            queue.config, queue.revision = config, self.revisions
            for group in queue.groups.values():
                self.offer(queue, group)
        return ("queue", queue.name, False, queue.revision)

    def do_PauseQueue(self, c: Any) -> Any:
        queue = self.queue(c.name)
        if c.enqueue is not None:
            queue.paused_enqueue = c.enqueue
        if c.lease is not None:
            queue.paused_lease = c.lease
        return ("done", 0)

    def do_PurgeQueue(self, c: Any) -> Any:
        waiting = [m for m in self.queue(c.name).members.values() if m.state in WAITING]
        for m in waiting:
            self.vanish(m)
        return ("done", len(waiting))

    def do_PurgeDead(self, c: Any) -> Any:
        dead = list(self.queue(c.queue).dead.values())
        for m in dead:
            self.vanish(m)
        return ("done", len(dead))

    def do_DeleteQueue(self, c: Any) -> Any:
        queue = self.queue(c.name)
        self.check_revision(c.name, c.if_revision)
        count = queue.live + queue.counts[DEAD]
        for m in list(queue.members.values()):
            self.vanish(m)
        for key in list(queue.keys.values()):
            self.drop_key(key)
        del self.queues[c.name]
        return ("done", count)

    # --- time -------------------------------------------------------------------------------------------

    def do_Expire(self, c: Any) -> Any:
        """What is due, earliest first, at most `limit`. (Sweeps and dependents do not count here: only a
        purge or a fan-out within the same instant as more than `limit` deadlines would tell.)"""
        for ghost in self.ghosts:
            for number in ghost.pending:
                self.watchers.get(number, {}).pop(ghost.serial, None)
        self.ghosts = []
        self.owed += self.owed_later
        self.owed_later = []
        purged, self.hear_later = self.hear_later, []
        for m in purged:
            self.run_hears(m)
            self.flow_hears(m, CANCELLED)
        for queue in self.queues.values():
            while queue.counts[DEAD] > queue.config["max_dead"]:
                self.drop_oldest_dead(queue)
        handled = 0
        while handled < c.limit and (record := self.next_due(c.leases)) is not None:
            self.wake(record)
            handled += 1
        self.settle()
        self.forget_flows()
        self.forget_runs()
        self.drop_retained(c.limit - handled)
        return ("done", handled)

    def wake(self, record: Any) -> None:
        if isinstance(record, Key):
            self.drop_key(record)
        elif isinstance(record, Effect):
            self.effect_due(record)
        elif record.state == LEASED:
            self.end_lease(record, "expired")
            self.fail(record, 0)
        elif record.state not in UNFINISHED:
            self.remove_finished(record)
        elif self.overdue(record):
            self.finish(record, DEAD, "expired")
        else:
            self.make_ready(record)

    def drop_retained(self, most: int) -> None:
        """More kept results than `RETAINED_BYTES_MAX`: the oldest leave early (R24)."""
        while most > 0 and self.retained_bytes > RETAINED_BYTES_MAX:
            place, _, m = self.retained[0]
            if m.gone or m.place != place or m.state not in (DONE, CANCELLED):
                heappop(self.retained)
                continue
            self.remove_finished(m)
            most -= 1
