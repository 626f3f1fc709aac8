"""First judge: what became of each message (S1–S4, S7, S10, S13, S14, S19, S20)."""

from __future__ import annotations

from typing import Any

from chaos.checker.facts import Facts
from chaos.checker.records import End, Grant, Seen, Sent
from chaos.checker.verdict import Findings
from chaos.history import FAIL, INFO, OK

FINISHED = ("done", "dead", "cancelled")
RETAINED_BYTES = 200 << 20  # beyond about so much, finished messages leave early (R24)
WINDOW_MS = 3_600_000
MS = 1_000_000


class Config:
    """What a queue was told, as far as this judge needs it; `None`: it was told several things."""

    def __init__(self, facts: Facts, queue: str) -> None:
        self._told = [config for call, config, _ in facts.configs.get(queue, []) if call.type != FAIL]

    def get(self, name: str, default: Any) -> Any:
        values = [config[name] for config in self._told if name in config]
        if not values:
            return default
        return values[0] if all(value == values[0] for value in values) else None


def check(facts: Facts, found: Findings) -> None:
    configs = {queue: Config(facts, queue) for queue in {one.queue for one in facts.sent.values()}}
    for sent in facts.sent.values():
        _identity(sent, found)
        _refused(sent, found)
        _whole_batch(facts, sent, found)
    _keys(facts, configs, found)
    names = {*facts.owner, *facts.reads, *facts.grants}
    for name in sorted(names):
        one = Life(facts, name, configs, found)
        one.check()
    _parents(facts, found)


# --- enqueues -----------------------------------------------------------------------------------------


def _identity(sent: Sent, found: Findings) -> None:
    """One body, one message: however often it was said, and whatever failed in between (S3)."""
    if len(sent.ids) > 1:
        found.doubled.update(list(sent.ids)[1:])
        text = f"op {sent.op} ({sent.i}) became {len(sent.ids)} messages: {', '.join(sorted(sent.ids)[:4])}"
        found.add("S3", text, (sent.op, *sent.ids.values()))
    places = {place: call for place, _, call in sent.born}
    if len(places) > 1:
        ops = [call.op for call in places.values()]
        found.add("S3", f"op {sent.op} ({sent.i}) was new at {len(places)} places of the log", ops)


def _refused(sent: Sent, found: Findings) -> None:
    if sent.seen and all(call.type == FAIL for call in sent.calls):
        codes = sorted({str(call.code) for call in sent.calls})
        text = f"every enqueue of op {sent.op} ({sent.i}) was refused ({', '.join(codes)}), but it exists"
        found.add("S19", text, [call.op for call in sent.calls])


def _whole_batch(facts: Facts, sent: Sent, found: Findings) -> None:
    """All or none (S20): judged at the first message of each unknown batch, once all was looked at."""
    if not facts.resolved or facts.bytes > RETAINED_BYTES:
        return
    for call in sent.calls:
        batch = facts.births[call.op]
        if call.type != INFO or len(batch) < 2 or batch[0] is not sent:
            continue
        alone = [one for one in batch if all(other.op == call.op for other in one.calls)]
        seen = sum(one.seen for one in alone)
        if 0 < seen < len(alone):
            found.add(
                "S20", f"of the batch of op {call.op}, {seen} of {len(alone)} messages exist", (call.op,)
            )


def _keys(facts: Facts, configs: dict[str, Config], found: Findings) -> None:
    for (queue, key), by_id in facts.keys.items():
        if len(by_id) < 2:
            continue
        calls = sorted(by_id.items(), key=lambda item: item[1][0].inv)
        (first, (one, sent)), (second, (other, _)) = calls[0], calls[1]
        window = sent.window or configs[queue].get("idempotency_window_ms", WINDOW_MS) or 0
        if other.ret - one.inv < window * MS:
            text = f"key {key!r} of {queue} names {first} and {second} within its window"
            found.add("S4" if other.type == OK else "S3", text, (one.op, other.op))
            found.doubled.add(second)


def _parents(facts: Facts, found: Findings) -> None:
    """An ack with enqueue makes its children once: no parent has those of two acks (S9)."""
    by_parent: dict[str, dict[int, Sent]] = {}
    for sent in facts.sent.values():
        if sent.parent is not None and sent.seen:
            by_parent.setdefault(sent.parent, {})[sent.op] = sent
    for parent, children in by_parent.items():
        if len(children) > 1:
            found.add("S9", f"{parent} has children of {len(children)} acks", children)
            found.doubled.add(parent)
    if not facts.resolved:
        return
    for sent in facts.sent.values():
        if sent.parent is None or any(name in facts.grants or name in facts.reads for name in sent.ids):
            continue
        told = [call for call in sent.calls if call.type == OK]
        if told and facts.bytes < RETAINED_BYTES:
            found.add("S9", f"the ack of {sent.parent} counted, its child does not exist", (told[0].op,))


# --- one message --------------------------------------------------------------------------------------


class Life:
    def __init__(self, facts: Facts, name: str, configs: dict[str, Config], found: Findings) -> None:
        self.facts, self.name, self.found = facts, name, found
        self.sent = facts.owner.get(name)
        self.grants = sorted(facts.grants.get(name, ()), key=lambda grant: grant.fence)
        self.reads = facts.reads.get(name, [])
        self.ends = [end for grant in self.grants for end in facts.ends.get(grant.token, ())]
        self.acks = [end for end in self.ends if end.verb == "ack"]
        queue = self.grants[0].queue if self.grants else self.sent.queue if self.sent else ""
        self.redriven = name in facts.redriven or queue in facts.redriven
        self.config = configs.get(queue) or Config(facts, queue)
        self.queue = queue

    def check(self) -> None:
        acked = self.first_acks()
        self.no_resurrection(acked)
        self.ending(acked)
        self.attempts()
        self.times()
        self.deaths()

    # --- S7 -------------------------------------------------------------------------------------------------

    def first_acks(self) -> list[End]:
        firsts = {end.call.place: end for end in self.acks if end.counted}
        if len(firsts) > 1:
            self.found.doubled.add(self.name)
            ops = [end.call.op for end in firsts.values()]
            self.found.add("S7", f"{self.name} was acked for the first time {len(firsts)} times", ops)
        if not firsts and any(end.status == "acked" for end in self.acks):
            if not any(end.status is None for end in self.acks):
                ops = [end.call.op for end in self.acks]
                self.found.add("S7", f"an ack of {self.name} was `repeated`, and none was the first", ops)
        return list(firsts.values())

    def no_resurrection(self, acked: list[End]) -> None:
        answered = [end.call for end in self.acks if end.status == "acked"]
        for end in acked:
            for grant in self.grants:
                if end.call.place is not None and grant.place > end.call.place:
                    text = f"{self.name} was acked at {end.call.place} and given at {grant.place}"
                    self.found.add("S7", text, (end.call.op, grant.call.op))
                    self.found.doubled.add(self.name)
        for call in answered:
            late = [grant for grant in self.grants if grant.call.inv > call.ret]
            if late:
                text = f"{self.name} was given after its ack had been answered"
                self.found.add("S7", text, (call.op, late[0].call.op))
                self.found.doubled.add(self.name)
            for seen in self.reads:
                if seen.local or seen.call.inv <= call.ret:
                    continue
                if seen.state != "done" and (seen.state or self.facts.bytes < RETAINED_BYTES):
                    text = f"{self.name} was acked, and read as {seen.state or 'unknown'} later"
                    self.found.add("S16", text, (call.op, seen.call.op))

    # --- S1, S19 --------------------------------------------------------------------------------------------

    def ending(self, acked: list[End]) -> None:
        last = self.last_read()
        sure = bool(acked) or any(end.status == "acked" for end in self.acks)
        told = [call for call in (self.sent.calls if self.sent else ()) if call.type == OK]
        state, read = (None, None) if last is None else (last.state, last.call.op)
        if state == "done" and not any(end.status in ("acked", None) for end in self.acks):
            ops = [end.call.op for end in self.ends]
            self.found.add("S19", f"{self.name} is done, but nobody acked it", [*ops, read])
        if state == "cancelled" and self.name not in self.facts.cancelled | self.facts.steps:
            self.found.add("S19", f"{self.name} is cancelled, but nobody cancelled it", [read])
        if not told or sure or not self.facts.resolved:
            return
        if last is None:
            if self.facts.bytes < RETAINED_BYTES or not any(end.status is None for end in self.acks):
                self.found.lost.add(self.name)
                text = f"{self.name} was acknowledged, never acked, and does not exist after the drain"
                self.found.add("S1", text, (told[0].op, *(end.call.op for end in self.ends)))
        elif state not in FINISHED:
            self.found.add("L2", f"{self.name} is {state} after the drain", (told[0].op, last.call.op))

    def last_read(self) -> Seen | None:
        """The newest linearizable one after the drain that found it."""
        found = [
            one for one in self.reads if one.state and one.call.inv > self.facts.drained_ns and not one.local
        ]
        return max(found, key=lambda one: one.call.inv, default=None)

    # --- S10 ------------------------------------------------------------------------------------------------

    def attempts(self) -> None:
        if self.redriven:
            return
        before: Grant | None = None
        for grant in self.grants:
            least, gap = 1, grant.attempt - 1
            if before is not None:
                ends = self.facts.ends.get(before.token, ())
                back = any(end.verb == "release" and end.status in ("released", None) for end in ends)
                least = before.attempt + (0 if back else 1)
                gap = grant.attempt - before.attempt - 1
            ops = (grant.call.op if before is None else before.call.op, grant.call.op)
            if grant.attempt < least:
                self.found.add("S10", f"{self.name}: attempt {grant.attempt}, at least {least} was due", ops)
            elif gap > 0 and self.queue not in self.facts.unknown_leases:
                self.found.add("S10", f"{self.name}: attempt {grant.attempt}, {gap} of them nobody had", ops)
            before = grant

    def limit(self) -> int | None:
        own = self.sent.max_attempts if self.sent is not None else None
        found = self.config.get("max_attempts", 5) if own is None else own
        return None if found is None else int(found)

    def deaths(self) -> None:
        limit = self.limit()
        if limit is None:
            return
        by_token = {grant.token: grant for grant in self.grants}
        for end in self.ends:
            if end.verb != "nack" or not end.counted or end.dead_letter:
                continue
            attempt = by_token[end.token].attempt
            early = end.status == "dead" and (not limit or attempt < limit) and self.ttl() is None
            late = end.status == "nacked" and limit and attempt >= limit
            if (early or late) and self.name not in self.facts.cancelled:
                text = f"{self.name}: nack of attempt {attempt} of {limit} was answered {end.status}"
                self.found.add("S10", text, (end.call.op,))
        for seen in self.reads:
            if seen.told.get("dead_reason") == "max_attempts":
                attempt = seen.told.get("attempt") or 0
                if not limit or attempt < limit:
                    text = f"{self.name} is dead by max_attempts at attempt {attempt} of {limit}"
                    self.found.add("S10", text, (seen.call.op,))
                    break

    # --- S13, S14 -------------------------------------------------------------------------------------------

    def ttl(self) -> int | None:
        own = self.sent.ttl if self.sent is not None else None
        found = self.config.get("ttl_ms", None) if own is None else own
        return None if found is None else int(found)

    def times(self) -> None:
        delay = (self.sent.delay if self.sent is not None else None) or 0
        ttl = self.ttl()
        for grant in self.grants:
            if grant.now < grant.enqueued + delay:
                text = (
                    f"{self.name} was given {grant.enqueued + delay - grant.now} ms before its delay was over"
                )
                self.found.add("S13", text, (grant.call.op,))
            if ttl is not None and not self.redriven and not grant.call.repeated:
                if grant.now >= grant.enqueued + ttl:
                    self.found.add(
                        "S14", f"{self.name} was given after its ttl of {ttl} ms", (grant.call.op,)
                    )
        for before, grant in zip(self.grants, self.grants[1:], strict=False):
            for end in self.facts.ends.get(before.token, ()):
                if end.counted and end.deliver_at is not None and grant.now < end.deliver_at:
                    text = (
                        f"{self.name} was given {end.deliver_at - grant.now} ms before its backoff was over"
                    )
                    self.found.add("S13", text, (end.call.op, grant.call.op))
        for seen in self.reads:
            if seen.told.get("dead_reason") == "expired" and ttl is None:
                self.found.add("S14", f"{self.name} has no ttl, and is dead as expired", (seen.call.op,))
                break
