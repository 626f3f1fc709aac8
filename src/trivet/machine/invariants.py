"""The machine's laws (design 2, contract 7), recounted from scratch.

`check` looks at the records and counts again what the transitions keep up step by step. It shares no code
with them, is slow on purpose (it reads everything), and says every law that is broken in one line each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from trivet.limits import ATTEMPTS_KEPT
from trivet.machine import flow_laws, run_laws, schedule_laws, topic_laws
from trivet.machine.core import Machine
from trivet.machine.expiry import next_deadline_ms
from trivet.machine.order import LazyHeap
from trivet.machine.state import STATE_NAMES, KeyRecord, Message, Queue

BLOCKED, DELAYED, READY, LEASED, DONE, DEAD, CANCELLED = range(7)
UNFINISHED = (BLOCKED, DELAYED, READY, LEASED)


class _Report(list[str]):
    def law(self, holds: bool, what: str) -> None:
        if not holds:
            self.append(what)

    def equal(self, found: Any, expected: Any, what: str) -> None:
        if found != expected:
            self.append(f"{what}: {found!r}, recounted {expected!r}")


def check(m: Machine) -> list[str]:
    """Every broken law; an empty list in health."""
    report = _Report()
    by_queue: dict[int, list[Message]] = {}
    for number, message in m.messages.items():
        report.equal(message.number, number, "a message is filed under its number")
        by_queue.setdefault(message.queue.uid, []).append(message)
        _check_message(m, message, report)
    for queue in (*m.queues.values(), *m.dying.values()):
        _check_queue(m, queue, by_queue.pop(queue.uid, []), report)
    report.law(not by_queue, f"messages of queues that are not there: {list(by_queue)}")
    report.equal([q.name for q in m.queues.values()], list(m.queues), "a queue is filed under its name")
    _check_numbers(m, report)
    _check_leases(m, report)
    _check_dependencies(m, report)
    _check_effects(m, report)
    _check_deadlines(m, report)
    run_laws.check(m, report)
    report += schedule_laws.broken(m)
    report += flow_laws.check(m)
    topic_laws.check(m, report)
    return list(report)


def _gone(message: Message) -> bool:
    queue = message.queue
    if queue.deleted:
        return True
    if message.state in (BLOCKED, DELAYED, READY):
        return message.epoch < queue.epoch
    return message.state == DEAD and message.epoch < queue.dead_epoch


def _check_message(m: Machine, message: Message, report: _Report) -> None:
    name = f"message {message.number} ({STATE_NAMES[message.state]})"
    state = message.state
    draft = message.draft
    headers = draft.headers or {}
    size = len(draft.body) + sum(len(k.encode()) + len(v.encode()) for k, v in headers.items())
    report.equal(message.size, size, f"{name} size")
    report.law((message.lease is not None) == (state == LEASED), f"{name}: leased exactly with one lease")
    report.law(message.number < m.next_number, f"{name}: number from the counter")
    report.law(message.place < m.next_place, f"{name}: place from the counter")
    report.law(message.enqueued_at_ms <= m.clock_ms, f"{name}: enqueued later than now")
    report.law(len(message.history) <= ATTEMPTS_KEPT, f"{name}: too many attempts kept")
    report.law(bool(message.finished_at_ms) == (state > LEASED), f"{name}: finished_at")
    report.law((message.dead_reason is not None) == (state == DEAD), f"{name}: a reason exactly when dead")
    report.law(message.result is None or state == DONE, f"{name}: a result without being done")
    report.law(not message.pending or state == BLOCKED, f"{name}: waits for {message.pending}")
    if not _gone(message):
        report.law(state != READY or message.place > 0, f"{name}: ready without a place")
        report.law((draft.group is not None) == (message.group_order > 0), f"{name}: group order")
    fences = [attempt.fence for attempt in message.history]
    if message.lease is not None:
        fences.append(message.lease.fence)
    report.law(fences == sorted(set(fences)), f"{name}: fences must rise: {fences}")
    report.law(not fences or fences[-1] < m.next_fence, f"{name}: fence from the counter")


# --- a queue ------------------------------------------------------------------------------------------


def _check_queue(m: Machine, queue: Queue, messages: list[Message], report: _Report) -> None:
    name = f"queue {queue.name}"
    numbers = sorted(message.number for message in messages)
    report.equal([each.number for each in queue.index.after(0)], numbers, f"{name} index")
    report.equal(queue.index.live, len(numbers), f"{name} index count")
    _check_keys(m, queue, report)
    if queue.deleted:
        return
    present = [message for message in messages if not _gone(message)]
    states = Counter(message.state for message in present)
    report.equal(queue.counts, [states[code] for code in range(7)], f"{name} counts")

    def size_of(*codes: int) -> int:
        return sum(message.size for message in present if message.state in codes)

    report.equal(queue.waiting_bytes, size_of(BLOCKED, DELAYED, READY), f"{name} waiting bytes")
    report.equal(queue.ready_bytes, size_of(READY), f"{name} ready bytes")
    report.equal(queue.leased_bytes, size_of(LEASED), f"{name} leased bytes")
    totals = queue.totals
    live = sum(states[code] for code in UNFINISHED)
    report.equal(
        totals.enqueued + totals.moved_in,
        live
        + states[DEAD]
        + totals.done
        + totals.cancelled
        + totals.purged
        + totals.dead_dropped
        + totals.moved_out,
        f"{name}: what came in is there or left",
    )
    dead = [message for message in messages if message.state == DEAD]
    report.equal(
        [each.number for each in queue.dead.after(0)], sorted(d.number for d in dead), f"{name} dead"
    )
    _check_heap(
        queue.dead_order, [(d.place, d) for d in dead if not _gone(d)], f"{name} order of death", report
    )
    ready = [message for message in present if message.state == READY]
    _check_heap(queue.ages, [(message.place, message) for message in ready], f"{name} ages", report)
    offered = _offered(queue, present)
    for message in offered:
        report.law(bool(message.ready_key), f"message {message.number} may be leased and is not offered")
    _check_heap(queue.ready, [(o.ready_key, o) for o in offered], f"{name} offered", report)
    best = queue.ready.peek()
    expected = min(offered, key=lambda o: (-o.priority, o.place), default=None)
    report.law((None if best is None else best[1]) is expected, f"{name}: the best is not offered first")
    _check_groups(queue, present, report)


def _offered(queue: Queue, present: list[Message]) -> list[Message]:
    """What may be leased, concurrency caps of the queue aside: of a group only its head (R21)."""
    offered = [x for x in present if x.state == READY and x.draft.group is None]
    heads: dict[str, Message] = {}
    out: Counter[str] = Counter()
    for message in present:
        group = message.draft.group
        if group is None:
            continue
        if message.state == LEASED:
            out[group] += 1
        elif message.state in UNFINISHED:
            head = heads.get(group)
            if head is None or message.group_order < head.group_order:
                heads[group] = message
    most = queue.config.max_leased_per_group
    return offered + [head for group, head in heads.items() if head.state == READY and out[group] < most]


def _check_groups(queue: Queue, present: list[Message], report: _Report) -> None:
    waiting: Counter[str] = Counter()
    leased: Counter[str] = Counter()
    for message in present:
        if message.draft.group is not None and message.state in UNFINISHED:
            (leased if message.state == LEASED else waiting)[message.draft.group] += 1
    for group in (*waiting, *leased):
        report.law(group in queue.groups, f"queue {queue.name}: group {group} is not there")
    for text, held in queue.groups.items():
        emptied = held.epoch < queue.epoch  # purged, and nobody has looked at it since
        report.equal(held.leased, leased[text], f"group {text} leased")
        if not emptied:
            report.equal(held.waiting.live, waiting[text], f"group {text} waiting")
        else:
            report.equal(0, waiting[text], f"group {text} waiting, purged")
    report.equal(sorted(queue.busy), sorted(leased), f"queue {queue.name} busy groups")


def _check_keys(m: Machine, queue: Queue, report: _Report) -> None:
    records = list(queue.keys.values())
    report.equal(
        [each.number for each in queue.key_index.after(0)],
        sorted(record.number for record in records),
        f"queue {queue.name} key index",
    )
    for text, record in queue.keys.items():
        report.law(record.key == text and record.queue is queue, f"key {text} is filed wrongly")
        message = m.messages.get(record.number)
        if message is not None and message.queue is queue:
            report.equal(message.draft.key, text, f"key {text}: its message's key")
        unfinished = message is not None and message.queue is queue and message.state in UNFINISHED
        report.law(bool(record.wake_key) != unfinished, f"key {text}: armed exactly when its message ended")
    for message in m.messages.values():
        key = message.draft.key
        if queue.topic is not None or message.queue is not queue:
            continue
        if key is not None and message.state in UNFINISHED and not _gone(message):
            # A redriven one does not take its key back from whoever took it meanwhile.
            held = queue.keys.get(key)
            report.law(
                held is not None or message.origin is not None,
                f"message {message.number} is unfinished and its key is forgotten",
            )


# --- the rest -----------------------------------------------------------------------------------------


def _check_heap(heap: LazyHeap[Any], expected: Iterable[tuple[int, Any]], what: str, report: _Report) -> None:
    """Exactly these entries count, and there is not much else."""
    wanted = {_place_of(key, record): record for key, record in expected}
    found: dict[tuple[int, int, int], Any] = {}
    for key, record in heap.entries():
        if heap._current(record) == key:  # one record may be there twice, two records may not
            held = found.setdefault(_place_of(key, record), record)
            report.law(held is record, f"{what}: two records for {record.number}")
    report.equal(sorted(found), sorted(wanted), what)
    strange = [place for place in found if found[place] is not wanted.get(place)]
    report.law(not strange, f"{what}: records that are no longer in the tables: {strange}")
    report.equal(heap.live, len(wanted), f"{what} count")
    report.law(
        heap.stored() <= 4 * heap.live + 512 + 2 * heap.slack,
        f"{what}: {heap.stored()} entries for {heap.live}",
    )


def _place_of(key: int, record: Any) -> tuple[int, int, int]:
    """Two keys of one redriven message may end together, under one heap key: their queues tell them apart."""
    return key, record.number, record.queue.uid if isinstance(record, KeyRecord) else 0


def _check_numbers(m: Machine, report: _Report) -> None:
    numbers = [*m.messages, *m.by_uid]
    numbers += [record.number for record in m.effect_index.after(0)]
    numbers += [run.number for run in m.run_index.after(0)]
    numbers += [flow.number for flow in m.flow_index.after(0)]
    numbers += topic_laws.numbers(m)
    numbers += [schedule.number for schedule in m.schedules.by_name.values()]
    numbers += [sweep.number for sweep in (*m.sweeps.after(0), *m.resolving.after(0))]
    report.equal(len(set(numbers)), len(numbers), "numbers are given once")
    report.law(all(0 < number < m.next_number for number in numbers), "a number above its counter")
    places = [x.place for x in m.messages.values() if x.state not in (BLOCKED, DELAYED)]
    places += [x.group_order for x in m.messages.values() if x.group_order]
    places += [x.place for x in m.flow_index.after(0) if x.place]
    places += [step.order for x in m.flow_index.after(0) for step in x.steps if step.order]
    report.equal(len(set(places)), len(places), "places are given once")
    uids = sorted([q.uid for q in m.queues.values()] + list(m.dying))
    report.equal(sorted(m.by_uid), uids, "queues by uid")
    report.equal(m.reply_bytes, sum(len(reply.reply) for reply in m.replies), "bytes of stored replies")
    kept = [x for x in m.messages.values() if x.state in (DONE, CANCELLED) and x.end_key]
    size = sum(512 + x.size + len(x.result or b"") for x in kept)
    for flow in m.flow_index.after(0):
        if flow.end_key:
            size += 512 + sum(256 + len(step.step_id) + len(step.queue) for step in flow.steps)
    report.equal(m.retained_bytes, size, "bytes of kept messages")
    flows: list[Any] = [flow for flow in m.flow_index.after(0) if flow.end_key]
    _check_heap(m.retained, [(x.place, x) for x in (*kept, *flows)], "kept messages and flows", report)


def _check_leases(m: Machine, report: _Report) -> None:
    leased = {x.lease.fence: x.number for x in m.messages.values() if x.lease is not None}
    report.equal({fence: x.number for fence, x in m.leases.items()}, leased, "leases")
    report.equal(len(leased), sum(x.state == LEASED for x in m.messages.values()), "one fence, one lease")
    for token in m.settled:
        report.law(token.fence not in m.leases, f"fence {token.fence} is settled and live")
    expired = {
        attempt.fence: x.number
        for x in m.messages.values()
        for attempt in x.history
        if attempt.outcome == "expired"
    }
    report.equal({fence: x.number for fence, x in m.expired.items()}, expired, "expired leases")


def _check_dependencies(m: Machine, report: _Report) -> None:
    expected: dict[int, list[int]] = {}
    for number in sorted(m.messages):
        for dependency in m.messages[number].pending:
            expected.setdefault(dependency, []).append(number)
    found = {number: [x.number for x in index.after(0)] for number, index in m.dependents.items()}
    report.equal(found, expected, "dependents")
    telling = {sweep.message for sweep in m.resolving.after(0)}
    for dependency, waiting in expected.items():
        message = m.messages.get(dependency)
        ended = message is None or message.state > LEASED
        heard = dependency in telling or all(_gone(m.messages[number]) for number in waiting)
        report.law(not ended or heard, f"nobody tells the dependents of {dependency}")


def _check_effects(m: Machine, report: _Report) -> None:
    records = list(m.effects_by_id.values())
    report.equal(
        [each.number for each in m.effect_index.after(0)], sorted(r.number for r in records), "effect index"
    )
    fences: dict[int, str] = {}
    bound: dict[int, list[int]] = {}
    for text, record in m.effects_by_id.items():
        name = f"effect {text}"
        report.equal(record.effect_id, text, f"{name} is filed wrongly")
        report.law(record.state in ("granted", "open", "done"), f"{name}: state {record.state}")
        own = [fence for fence in (*record.older, record.fence) if fence]
        report.law(own == sorted(set(own)), f"{name}: fences must rise: {own}")
        report.law(not own or own[-1] < m.next_fence, f"{name}: fence from the counter")
        report.law(not (record.state == "done" and record.uncertain), f"{name}: done and uncertain")
        report.law(record.state == "done" or record.result is None, f"{name}: a result without being done")
        fences.update(dict.fromkeys(own, text))
        if record.state == "granted" and record.lease_fence:
            bound.setdefault(record.lease_fence, []).append(record.number)
            report.law(record.lease_fence in m.leases, f"{name} outlives its lease")
            report.law(record.wake_key == 0, f"{name}: bound to a lease and armed")
        else:
            report.law(bool(record.wake_key), f"{name}: nothing ends it")
    report.equal({fence: r.effect_id for fence, r in m.effect_fences.items()}, fences, "effects by fence")
    report.equal({fence: sorted(held) for fence, held in m.lease_effects.items()}, bound, "effects by lease")
    shared = set(fences) & set(m.leases)
    report.law(not shared, f"fences of leases and of effects: {sorted(shared)}")


def _check_deadlines(m: Machine, report: _Report) -> None:
    """Everything that time does is armed for its instant, and `next_deadline_ms` is never later."""
    leases: list[tuple[int, Any]] = []
    others: list[tuple[int, Any]] = []
    for message in m.messages.values():
        at = _deadline_of(message)
        if at is not None:
            (leases if message.state == LEASED else others).append((at, message))
    for record in m.effects_by_id.values():
        if record.state == "granted" and not record.lease_fence:
            leases.append((record.expires_at_ms, record))
        elif record.state != "granted":
            others.append((record.expires_at_ms, record))
    for queue in (*m.queues.values(), *m.dying.values()):
        others += [(key.expires_at_ms, key) for key in queue.keys.values() if key.wake_key]
    others += [(run.changed_at_ms + 3_600_000, run) for run in m.run_index.after(0) if not run.messages.live]
    others += topic_laws.deadlines(m)
    others += [(flow.ended_at_ms + 3_600_000, flow) for flow in m.flow_index.after(0) if flow.end_key]
    for what, heap, wanted in (
        ("lease deadlines", m.lease_deadlines, leases),
        ("deadlines", m.deadlines, others),
    ):
        for at, record in wanted:
            report.equal(record.wake_key >> 64, at, f"{what}: {record.number} is armed for")
        _check_heap(heap, [(record.wake_key, record) for _, record in wanted], what, report)
    due = [at for at, _ in (*leases, *others)]
    told = next_deadline_ms(m)
    if due:
        report.law(
            told is not None and told <= max(min(due), m.clock_ms), f"next deadline {told}, due {min(due)}"
        )
    if m.sweeps.live or m.resolving.live or m.flow_work.live:
        report.law(told is not None and told <= m.clock_ms, f"next deadline {told} with sweeps owed")


def _deadline_of(message: Message) -> int | None:
    if message.lease is not None:
        return message.lease.expires_at_ms
    if message.state > LEASED:
        return message.due_at_ms or None
    instants = [message.expires_at_ms] if message.expires_at_ms else []
    if message.state == DELAYED:
        instants.append(message.due_at_ms)
    return min(instants, default=None)
