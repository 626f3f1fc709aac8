"""Bugs of the state machine: leases, fences, keys, effects, groups, dead letters and snapshots of them."""

from __future__ import annotations

from chaos.gallery.bug import Bug, Edit
from chaos.gallery.instruments import cuts, directed, random_logs, simulator

BUGS = (
    Bug(
        "lease-token-not-checked",
        "Querator and flashQ have no tokens; etcd 3.4.3 locks (Jepsen 2020)",
        "S5, S7",
        (
            Edit(
                "machine/core.py",
                "        message = self.leases.get(fence)\n",
                "        message = self.leases.get(fence) or self.expired.get(fence)\n",
            ),
            Edit(
                "machine/tokens.py",
                "return fence if lease_mac(m.secret, fence, message) == token.mac else NO_FENCE",
                "return fence",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "fence-reset-on-redrive",
        "Hazelcast locks (2017): the fencing token goes back",
        "S5",
        (
            Edit(
                "machine/deadletter.py",
                "    message.attempt = 0\n",
                "    message.attempt = 0\n    m.next_fence = 1\n",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "fence-not-in-snapshot",
        "Hazelcast FencedLock: tokens must rise through restore and failover",
        "S5",
        (
            Edit(
                "machine/core.py",
                "            setattr(self, name, getattr(header, name))",
                '            setattr(self, name, 1 if name == "next_fence" else getattr(header, name))',
            ),
        ),
        (simulator("queue", 30), cuts()),
    ),
    Bug(
        "keys-not-in-snapshot",
        "Redpanda #3038: deduplication state is not where the data is",
        "S3, S17",
        (
            Edit(
                "machine/snapshotting.py", "            yield from self._indexed(KEYS, queue.key_index)\n", ""
            ),
        ),
        (simulator("queue", 30), cuts()),
    ),
    Bug(
        "request-ids-not-in-snapshot",
        "Redpanda #3039: idempotence is lost when the leader changes",
        "S3, S19",
        (Edit("machine/snapshotting.py", "(REPLIES, machine.replies.chunks())", "(REPLIES, [])"),),
        (simulator("queue", 30), cuts()),
    ),
    Bug(
        "settled-tokens-not-in-snapshot",
        "R14: a repeated ack after a restore is told that its lease was stale",
        "S19, R14",
        (Edit("machine/snapshotting.py", "(SETTLED, machine.settled.frozen())", "(SETTLED, [])"),),
        (simulator("queue", 30), cuts()),
    ),
    Bug(
        "snapshot-not-frozen",
        "NATS #7567 class: the snapshot of index i holds later changes, which are then applied again",
        "S17, R9",
        (Edit("machine/core.py", "        if record.mark < self.walk_mark:\n", "        if False:\n"),),
        (simulator("queue", 30), cuts()),
    ),
    Bug(
        "done-comes-back-after-snapshot",
        "RabbitMQ mirrored (Jepsen 2014): acknowledged messages rise again",
        "S7",
        (
            Edit(
                "machine/core.py",
                "topics.shared(queue.topic, data.draft),\n            data.state,\n",
                "topics.shared(queue.topic, data.draft),\n            2 if data.state == 4 else data.state,\n",
            ),
        ),
        (cuts(),),
    ),
    Bug(
        "expiry-by-local-clock",
        "etcd #15247 (leases revoked by a stale leader); any lease judged by a node's own clock",
        "S6, S17",
        (
            Edit(
                "machine/expiry.py",
                "    end = (m.clock_ms + 1) << 64\n",
                '    end = (__import__("time").time_ns() // 1_000_000 + 1) << 64\n',
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "expired-lease-may-ack",
        "etcd locks (2020): a lease is not looked at again after the wait",
        "S5, S6",
        (
            Edit(
                "machine/transitions.py",
                "    del m.leases[lease.fence]\n    message.lease = None\n",
                "    message.lease = None\n",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "extension-forgotten",
        "heartbeats that do not move the deadline (SQS-like visibility extension)",
        "S6",
        (Edit("machine/delivery.py", "    lease.expires_at_ms = m.clock_ms + length_ms\n", ""),),
        (random_logs(),),
    ),
    Bug(
        "effect-granted-after-done",
        "S8: a begin after the commit lets the effect happen again",
        "S8",
        (
            Edit(
                "machine/ledger.py",
                "            return EffectState(DONE, result=record.result)\n        if is_held(m, record):\n            wait_ms",
                "            pass\n        if is_held(m, record):\n            wait_ms",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "uncertain-flag-lost",
        "R27: a worker dies in the middle of an effect, the next one is told that nothing happened",
        "S8, S9",
        (
            Edit(
                "machine/ledger.py",
                "        record.uncertain = True\n\n\ndef on_deadline",
                "\n\ndef on_deadline",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "ack-with-enqueue-not-atomic",
        "BullMQ / DriftQ flows: the ack stays although the enqueue was refused",
        "S9, S20",
        (
            Edit(
                "machine/settle.py",
                "    if isinstance(plan, Refusal):\n        return plan\n",
                "    if isinstance(plan, Refusal):\n        for message in acking.values():\n"
                "            _ack_one(m, message, command.items[0])\n        return plan\n",
            ),
        ),
        (directed("tests/unit/machine/test_ack_with_enqueue.py"),),
    ),
    Bug(
        "dead-letter-one-attempt-early",
        "S10: off by one in max_attempts",
        "S10",
        (
            Edit(
                "machine/transitions.py",
                "max_attempts_of(message) <= message.attempt:",
                "max_attempts_of(message) <= message.attempt + 1:",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "nack-breaks-group-order",
        "RabbitMQ requeue: a nacked message goes behind its followers",
        "S11",
        (
            Edit(
                "machine/transitions.py",
                "    if due_at_ms > m.clock_ms:\n        move(m, message, DELAYED)\n",
                "    message.group_order = m.new_place()\n    if due_at_ms > m.clock_ms:\n        move(m, message, DELAYED)\n",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "group-leases-two",
        "S11: the next of a group is offered while its head is leased",
        "S11",
        (Edit("machine/grouping.py", "if group.leased < queue.config.max_leased_per_group:", "if True:"),),
        (random_logs(),),
    ),
    Bug(
        "delayed-delivered-early",
        "S13: a delay rounded down",
        "S13",
        (
            Edit(
                "machine/intake.py",
                "state = DELAYED if due_at > now else READY",
                "state = DELAYED if due_at > now + 1000 else READY",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "redrive-loses-key",
        "R16, R23: after a redrive the producer's repeat makes a second message",
        "S3, S4",
        (Edit("machine/deadletter.py", "    keys.redriven(m, message, origin)\n", ""),),
        (random_logs(),),
    ),
    Bug(
        "key-forgotten-while-unfinished",
        "Redpanda #3038: the window ends before its message does",
        "S3, S4",
        (
            Edit(
                "machine/keys.py",
                "record.expires_at_ms > m.clock_ms or _unfinished(m, record):",
                "record.expires_at_ms > m.clock_ms:",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "purge-drops-leased",
        "R22: purge takes what a worker holds; its ack is then not found",
        "S15, R22",
        (
            Edit(
                "machine/sweeps.py",
                "            if message.state <= WAITING_MAX and message.epoch != queue.epoch:\n",
                "            if message.state == LEASED:\n                remove_gone(m, message)\n"
                "            elif message.state <= WAITING_MAX and message.epoch != queue.epoch:\n",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "repeat-applied-again",
        "jetcd 0.8.2, RabbitMQ #14589 class: the server does not know a repeated request",
        "S3, R12",
        (
            Edit(
                "machine/core.py",
                "answer = None if request.request_id is None else self._repeat(request, seq)",
                "answer = None",
            ),
        ),
        (random_logs(),),
    ),
    Bug(
        "repeat-told-a-fresh-lease",
        "R18: a repeated lease request leases other messages, the first ones wait for their expiry",
        "S5, R18",
        (
            Edit(
                "machine/core.py",
                "            reply = delivery.repeat(self, reply)\n",
                "            reply = None\n",
            ),
        ),
        (simulator("queue", 30),),
    ),
)
