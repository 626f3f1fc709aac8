"""`Expire`: everything that time does, at most `limit` things a command (contract 4, R1, R25)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.limits import REQUEST_WINDOW_MS, RETAINED_BYTES_MAX, SETTLE_WINDOW_MS
from trivet.machine import flows, keys, ledger, runs, sweeps, topics, transitions
from trivet.machine.commands import Expire
from trivet.machine.flow_record import Flow
from trivet.machine.replies import Done
from trivet.machine.run_state import Run
from trivet.machine.state import DEAD, DELAYED, LEASED, EffectRecord, KeyRecord, Message, is_gone, wake_at_ms
from trivet.machine.topic_records import Topic, TopicKey

if TYPE_CHECKING:
    from trivet.machine.core import Machine

# Stored replies and settled tokens stop counting at the end of their window; they are thrown away a little
# later and then all at once, so that an idle cluster is not woken for each of them.
TRIM_SLACK_MS = 1000


def expire(m: Machine, command: Expire) -> Done:
    """Sweeps get a quarter of the limit before what is due, and what is left after it."""
    limit = command.limit
    handled = flows.settle(m, max(1, limit // 4))
    handled += sweeps.run(m, max(1, limit // 4) - handled)
    handled += _run_due(m, limit - handled, command.leases)
    handled += flows.settle(m, limit - handled)
    handled += sweeps.run(m, limit - handled)
    handled += _drop_retained(m, limit - handled)
    handled += runs.drop_excess(m, limit - handled)
    handled += _trim(m, limit - handled)
    due = _earliest(m, leases=command.leases)
    return Done(handled, more=due is not None and due <= m.clock_ms)


def next_deadline_ms(m: Machine) -> int | None:
    """The earliest instant at which `Expire` would do something; `clock_ms` when it would now."""
    return _earliest(m, leases=True)


def _earliest(m: Machine, *, leases: bool) -> int | None:
    if m.sweeps.live or m.resolving.live or m.flow_work.live or m.retained_bytes > RETAINED_BYTES_MAX:
        return m.clock_ms
    if runs.excess(m):
        return m.clock_ms
    found: list[int] = []
    key = m.deadlines.first_key()
    if key is not None:
        found.append(wake_at_ms(key))
    key = m.lease_deadlines.first_key() if leases else None
    if key is not None:
        found.append(wake_at_ms(key))
    reply = m.replies.oldest()
    if reply is not None:
        found.append(reply.at_ms + REQUEST_WINDOW_MS + TRIM_SLACK_MS)
    at_ms = m.settled.oldest_at_ms()
    if at_ms is not None:
        found.append(at_ms + SETTLE_WINDOW_MS + TRIM_SLACK_MS)
    return min(found) if found else None


def _run_due(m: Machine, budget: int, leases: bool) -> int:
    """What is due, in the order of its deadlines."""
    end = (m.clock_ms + 1) << 64
    done = 0
    while done < budget:
        best = m.deadlines.peek()
        if leases:
            lease = m.lease_deadlines.peek()
            if lease is not None and (best is None or lease[0] < best[0]):
                best = lease
        if best is None or best[0] >= end:
            break
        record = best[1]
        if isinstance(record, Message):
            _wake(m, record)
        elif isinstance(record, KeyRecord):
            keys.drop(m, record)
        elif isinstance(record, Flow):
            done += flows.forget(m, record) - 1
        elif isinstance(record, Topic | TopicKey):
            done += topics.wake(m, record, budget - done) - 1
        elif isinstance(record, Run):
            done += runs.forget_some(m, record, budget - done) - 1
        else:
            _wake_effect(m, record)
        done += 1
    return done


def _wake_effect(m: Machine, record: EffectRecord) -> None:
    m.touch(record)
    m.disarm(record)
    ledger.on_deadline(m, record)


def _wake(m: Machine, message: Message) -> None:
    if is_gone(message):
        sweeps.remove_gone(m, message)
    elif message.state == LEASED:
        m.touch(message.queue)
        message.queue.totals.lease_expired += 1
        transitions.end_lease(m, message, "expired")
        transitions.fail(m, message, 0)  # nobody answered: the next consumer may try at once (api.md, Order)
    elif message.state > LEASED:
        transitions.remove_finished(m, message)
    elif 0 < message.expires_at_ms <= m.clock_ms:
        transitions.finish(m, message, DEAD, reason="expired")
    else:
        assert message.state == DELAYED
        transitions.make_ready(m, message)


def _drop_retained(m: Machine, budget: int) -> int:
    """More kept results than `RETAINED_BYTES_MAX`: the oldest leave early (R24)."""
    done = 0
    while done < budget and m.retained_bytes > RETAINED_BYTES_MAX:
        entry = m.retained.peek()
        assert entry is not None
        m.retained_forgotten += 1
        if isinstance(entry[1], Flow):
            done += flows.forget(m, entry[1])
        else:
            transitions.remove_finished(m, entry[1])
            done += 1
    return done


def _trim(m: Machine, budget: int) -> int:
    done = 0
    reply = m.replies.oldest()
    if reply is not None and reply.at_ms + REQUEST_WINDOW_MS + TRIM_SLACK_MS <= m.clock_ms:
        done += m.trim_replies(budget)
    at_ms = m.settled.oldest_at_ms()
    if at_ms is not None and at_ms + SETTLE_WINDOW_MS + TRIM_SLACK_MS <= m.clock_ms:
        done += m.trim_settled(budget - done)
    return done
