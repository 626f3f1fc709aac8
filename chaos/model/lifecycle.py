"""The model's life cycle: every move of a message between its states, its group, its key, its deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any

from chaos.model.records import (
    ATTEMPTS_KEPT,
    BLOCKED,
    CANCELLED,
    DEAD,
    DELAYED,
    DONE,
    LEASED,
    READY,
    RETAINED_OVERHEAD,
    UNFINISHED,
    WAITING,
    WAKE_KEY,
    WAKE_LEASE,
    WAKE_MESSAGE,
    Effect,
    Group,
    Key,
    Lease,
    Message,
    Queue,
    drawn_share,
    longest_backoff,
)

Wake = tuple[int, int, int]


class LifeCycle:
    """The tables, and what moves a message through them."""

    def __init__(self) -> None:
        self.clock = 0
        self.secret = b""
        self.queues: dict[str, Queue] = {}
        self.messages: dict[int, Message] = {}  # by serial
        self.by_number: dict[int, Message] = {}  # those the broker's id is known of
        self.leases: dict[int, Message] = {}  # by fence
        self.expired: dict[int, Message] = {}  # by fence, while it is in the message's history
        self.effects: dict[str, Effect] = {}
        self.effect_fences: dict[int, Effect] = {}
        self.serial = 0
        self.places = 0
        self.fences = 0
        self.revisions = 0
        self.deadlines: list[tuple[Wake, int, Any]] = []
        self.lease_deadlines: list[tuple[Wake, int, Any]] = []
        self.pushes = 0
        self.watchers: dict[int, dict[int, Message]] = {}  # number waited for → blocked messages by serial
        self.flow_of: dict[int, Any] = {}  # serial → (flow, place of its step, whether it undoes it)
        self.owed: list[tuple[int, bool]] = []  # ends whose dependents have not been told
        self.owed_later: list[tuple[int, bool]] = []  # of purged messages: told with the sweep
        self.ghosts: list[Message] = []  # purged while blocked; the sweep has not come by
        self.retained: list[tuple[int, int, Message]] = []
        self.retained_bytes = 0
        self.due_hint: Callable[[int], int | None] = lambda fence: None
        self.name: Callable[[Message, Any], None] = lambda message, draft: (
            None
        )  # told of each birth, may `bind`

    # --- names ------------------------------------------------------------------------------------------

    def bind(self, message: Message, number: int) -> None:
        """The broker's id of a message became known. Raises `ValueError` if it contradicts another."""
        if message.number == number:
            return
        if message.number is not None or number in self.by_number:
            raise ValueError(f"one message has the ids {message.number} and {number}, or one id has two")
        message.number = number
        if not message.gone:
            self.by_number[number] = message

    def find(self, number: int) -> Message | None:
        return self.by_number.get(number)

    # --- deadlines --------------------------------------------------------------------------------------

    def arm(self, record: Any, at: int, kind: int, of_lease: bool = False) -> None:
        record.wake = (at, record.serial, kind)
        self.pushes += 1  # one message may have a key in two queues
        heappush(self.lease_deadlines if of_lease else self.deadlines, (record.wake, self.pushes, record))

    def next_due(self, leases: bool) -> Any:
        """Takes the record whose deadline is the earliest of those that have come."""
        best: list[tuple[Wake, int, Any]] | None = None
        for heap in (self.deadlines, self.lease_deadlines) if leases else (self.deadlines,):
            while heap and heap[0][2].wake != heap[0][0]:
                heappop(heap)
            if heap and heap[0][0][0] <= self.clock and (best is None or heap[0][0] < best[0][0]):
                best = heap
        return None if best is None else heappop(best)[2]

    # --- entering and leaving a state -------------------------------------------------------------------

    def leave(self, m: Message) -> None:
        queue, state = m.queue, m.state
        queue.counts[state] -= 1
        m.wake = None
        m.ticket = 0
        group = None if m.group is None else queue.groups.get(m.group)
        if state in UNFINISHED:
            queue.bytes -= m.size
        if state == LEASED:
            assert m.lease is not None
            del self.leases[m.lease.fence]
            m.lease = None
            if group is not None:
                group.leased -= 1
        elif state == DEAD:
            del queue.dead[m.serial]
        elif state in (DONE, CANCELLED) and not m.held:
            self.retained_bytes -= self.retained_size(m)
        if state == BLOCKED:
            self.unwatch(m)
        m.state = ""
        if group is not None and state in UNFINISHED:
            self.offer(queue, group)

    def enter(self, m: Message, state: str) -> None:
        queue = m.queue
        m.state = state
        self.run_hears(m)
        queue.counts[state] += 1
        if state in UNFINISHED:
            queue.bytes += m.size
        if state in WAITING:
            self.enter_waiting(m)
        elif state == LEASED:
            assert m.lease is not None
            self.leases[m.lease.fence] = m
            self.arm(m, m.lease.expires, WAKE_LEASE, of_lease=True)
            if m.group is not None:
                group = queue.groups.setdefault(m.group, Group(m.group))
                group.leased += 1
                self.offer(queue, group)
        else:
            if not m.held:
                self.arm(m, m.due, WAKE_MESSAGE)
            if state == DEAD:
                queue.dead[m.serial] = m
                heappush(queue.dead_order, (m.place, m.serial, m))
            elif not m.held:
                self.retained_bytes += self.retained_size(m)
                heappush(self.retained, (m.place, m.serial, m))

    def enter_waiting(self, m: Message) -> None:
        queue, wake = m.queue, m.expires
        if m.state == DELAYED:
            wake = m.due if wake is None else min(wake, m.due)
        elif m.state == BLOCKED:
            for number in m.pending:
                self.watchers.setdefault(number, {})[m.serial] = m
        if wake is not None:
            self.arm(m, wake, WAKE_MESSAGE)
        if m.group is not None:
            group = queue.groups.setdefault(m.group, Group(m.group))
            heappush(group.waiting, (m.group_order, m.serial, m))
            self.offer(queue, group)
        elif m.state == READY:
            self.put_on_offer(m)

    def retained_size(self, m: Message) -> int:
        return RETAINED_OVERHEAD + m.size + (0 if m.result is None else len(m.result))

    # --- what may be leased -----------------------------------------------------------------------------

    def put_on_offer(self, m: Message) -> None:
        self.places += 1
        m.ticket = self.places  # only a name for the heap's entry
        heappush(m.queue.ready, (-m.priority, m.place, m.ticket, m))

    def offer(self, queue: Queue, group: Group) -> None:
        """Of a group only the head of what waits may be leased, and only within `max_leased_per_group`."""
        waiting = group.waiting
        while waiting and (
            waiting[0][2].state not in WAITING
            or waiting[0][2].gone
            or waiting[0][0] != waiting[0][2].group_order
        ):
            heappop(waiting)
        head = waiting[0][2] if waiting else None
        if head is not None and (head.state != READY or group.leased >= queue.config["max_leased_per_group"]):
            head = None
        if group.offered is not None and group.offered is not head:
            group.offered.ticket = 0
        if head is not None and not head.ticket:
            self.put_on_offer(head)
        group.offered = head

    def best(self, queue: Queue) -> Message | None:
        while queue.ready and queue.ready[0][3].ticket != queue.ready[0][2]:
            heappop(queue.ready)
        return queue.ready[0][3] if queue.ready else None

    def new_place(self) -> int:
        self.places += 1
        return self.places

    # --- moves ------------------------------------------------------------------------------------------

    def make_ready(self, m: Message, keep_place: bool = False) -> None:
        if not keep_place:
            m.place = self.new_place()
            m.ready_at = self.clock
        self.leave(m)
        self.enter(m, READY)

    def make_waiting(self, m: Message, due: int) -> None:
        m.due = due
        if due > self.clock:
            self.leave(m)
            self.enter(m, DELAYED)
        else:
            self.make_ready(m)

    def overdue(self, m: Message) -> bool:
        return m.expires is not None and m.expires <= self.clock

    def end_lease(self, m: Message, outcome: str) -> None:
        lease = m.lease
        assert lease is not None
        if outcome == "expired":
            self.expired[lease.fence] = m
        if len(m.history) >= ATTEMPTS_KEPT:
            self.expired.pop(m.history[0][1], None)
        m.history = [*m.history, (outcome, lease.fence)][-ATTEMPTS_KEPT:]
        self.end_bound_effects(lease)

    def end_bound_effects(self, lease: Lease) -> None:
        raise NotImplementedError

    hear_later: list[Message]  # purged; their flows hear of it with the sweep

    def run_hears(self, m: Message) -> None:
        raise NotImplementedError

    def is_stopped(self, m: Message) -> bool:
        raise NotImplementedError

    def flow_hears(self, m: Message, state: str) -> None:
        raise NotImplementedError

    def flow_redriven(self, m: Message) -> None:
        raise NotImplementedError

    def fail(self, m: Message, delay: int | None) -> None:
        """A delivery failed: looked at in the order of R19, R20, R22."""
        lease = m.lease
        assert lease is not None
        most = m.queue.config["max_attempts"] if m.max_attempts is None else m.max_attempts
        if lease.cancelled:
            self.finish(m, CANCELLED)
        elif self.overdue(m):
            self.finish(m, DEAD, "expired")
        elif most and m.attempt >= most:
            self.finish(m, DEAD, "max_attempts")
        elif self.is_stopped(m):
            self.finish(m, CANCELLED)
        else:
            self.make_waiting(m, self.clock + (self.backoff(m, lease.fence) if delay is None else delay))

    def backoff(self, m: Message, fence: int) -> int:
        value = m.queue.config["backoff"] if m.backoff is None else m.backoff
        nominal = longest_backoff(value, m.attempt)
        jitter = int(value["jitter_milli"])
        told = self.due_hint(fence)
        shortest = nominal - nominal * jitter // 1000 - 2  # the rules leave the rounding open
        if told is not None and shortest <= told - self.clock <= nominal:
            return max(0, told - self.clock)
        if not nominal or not jitter or m.number is None or m.number < 0:
            return nominal
        return nominal - nominal * jitter * drawn_share(self.secret, m.number, m.attempt) // (1000 << 32)

    # --- ends -------------------------------------------------------------------------------------------

    def retention(self, m: Message, state: str) -> int:
        config = m.queue.config
        keep = int(config["retention_ms"] if m.retention is None else m.retention)
        if state == DEAD:
            keep = int(config["dead_retention_ms"])
        key = self.own_key(m)
        waited_for = m.number is not None and bool(self.watchers.get(m.number))
        if m.run or m.result is not None or waited_for or (key is not None and key.expires > self.clock):
            keep = max(keep, int(config["result_retention_ms"]))
        return keep

    def finish(self, m: Message, state: str, reason: str | None = None) -> None:
        keep = self.retention(m, state)
        m.queue.ended += 1
        if m.number is not None:
            self.owed.append((m.number, state != DONE))
        self.key_ends(m)
        self.leave(m)
        m.reason = reason
        m.held = m.serial in self.flow_of
        if not keep and state != DEAD and not m.held:
            m.state = state
            self.run_hears(m)
            self.forget(m)
            return
        m.due = self.clock + keep
        m.place = self.new_place()
        self.enter(m, state)
        if m.held:
            self.flow_hears(m, state)
        if state == DEAD and m.queue.counts[DEAD] > m.queue.config["max_dead"]:
            self.drop_oldest_dead(m.queue)

    def drop_oldest_dead(self, queue: Queue) -> None:
        order = queue.dead_order
        while order[0][2].state != DEAD or order[0][2].gone or order[0][2].place != order[0][0]:
            heappop(order)
        self.remove_finished(heappop(order)[2])

    def remove_finished(self, m: Message) -> None:
        state = m.state
        self.leave(m)
        m.state = state
        self.forget(m)

    def forget(self, m: Message) -> None:
        """The message, in no set any more, leaves; its key remembers how it ended."""
        m.gone = True
        del self.messages[m.serial]
        del m.queue.members[m.serial]
        if m.number is not None:
            self.by_number.pop(m.number, None)
        for outcome, fence in m.history:
            if outcome == "expired":
                self.expired.pop(fence, None)
        key = self.own_key(m)
        if key is not None:
            key.final = m.state

    def vanish(self, m: Message) -> None:
        """Purged or deleted: gone at once. Who depends on it hears of it with the next sweep (R25)."""
        state, pending = m.state, list(m.pending)
        self.key_ends(m)
        if state in UNFINISHED:
            m.queue.vanished += 1
            if m.number is not None:
                self.owed_later.append((m.number, True))
            self.hear_later.append(m)
        if state == LEASED and m.lease is not None:
            self.end_bound_effects(m.lease)
        self.leave(m)
        if state == BLOCKED:  # until the sweep it still counts as one that waits (R24)
            for number in pending:
                self.watchers.setdefault(number, {})[m.serial] = m
            m.pending = pending
            self.ghosts.append(m)
        m.state = CANCELLED if state in UNFINISHED else state
        self.forget(m)

    # --- keys (R16) -------------------------------------------------------------------------------------

    def key_of(self, queue: Queue | None, name: str) -> Key | None:
        """The key, if it still counts."""
        key = None if queue is None else queue.keys.get(name)
        if key is None or key.expires > self.clock:
            return key
        m = key.message
        return key if not m.gone and m.queue is queue and m.state in UNFINISHED else None

    def own_key(self, m: Message) -> Key | None:
        key = None if m.key is None else m.queue.keys.get(m.key)
        return key if key is not None and key.message is m else None

    def add_key(self, m: Message, expires: int) -> None:
        assert m.key is not None
        old = m.queue.keys.get(m.key)
        if old is not None:
            self.drop_key(old)
        m.queue.keys[m.key] = Key(m.serial, m.key, m.queue, m, m.print, expires)

    def drop_key(self, key: Key) -> None:
        key.wake = None
        del key.queue.keys[key.name]

    def key_ends(self, m: Message) -> None:
        key = self.own_key(m)
        if key is None or m.state not in UNFINISHED:
            return
        if key.expires <= self.clock:
            self.drop_key(key)
        else:
            self.arm(key, key.expires, WAKE_KEY)

    # --- dependents -------------------------------------------------------------------------------------

    def unwatch(self, m: Message) -> None:
        for number in m.pending:
            waiting = self.watchers.get(number, {})
            waiting.pop(m.serial, None)
            if not waiting:
                self.watchers.pop(number, None)
        m.pending = []

    def tell_dependents(self) -> None:
        """Whoever waits for a message that has ended hears of it; what that ends in turn likewise."""
        while self.owed:
            number, failed = self.owed.pop(0)
            for m in self.waiting_for(number):
                if failed and not m.runs_anyway:
                    self.finish(m, DEAD, "dependency_failed")
                    continue
                pending = [other for other in m.pending if other != number]
                self.unwatch(m)
                m.pending = pending
                for other in pending:
                    self.watchers.setdefault(other, {})[m.serial] = m
                if not pending:
                    self.make_waiting(m, m.due)

    def waiting_for(self, number: int) -> Iterator[Message]:
        for m in sorted(self.watchers.get(number, {}).values(), key=lambda m: m.serial):
            if m.state == BLOCKED and not m.gone:
                yield m
