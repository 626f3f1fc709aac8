"""Bugs around the log: the leader's clock and duties, HTTP between nodes, the SDK and its worker."""

from __future__ import annotations

from chaos.gallery.bug import Bug, Edit
from chaos.gallery.instruments import directed, simulator

SESSION = "tests/unit/client/test_session.py"
WORKER = "tests/unit/client/test_worker.py"
LEASES = "tests/unit/client/test_leases.py"

BUGS = (
    Bug(
        "clock-of-one-machine",
        "R1; etcd #15247: time that decides is one machine's wall clock",
        "S6, R1",
        (
            Edit(
                "node/stamps.py",
                "else self._quorum_wall_ms()\n        return max",
                "else self._clock.wall_ms()\n        return max",
            ),
        ),
        (simulator("queue", 40),),
    ),
    Bug(
        "clock-stamped-by-follower",
        "Redis expiry on replicas before 3.2: each node applies at a time of its own",
        "S6, S17",
        (
            Edit(
                "node/applier.py",
                "self.machine.begin_entry(index, reader.now_ms,",
                'self.machine.begin_entry(index, __import__("time").time_ns() // 1_000_000,',
            ),
        ),
        (simulator("queue", 20),),
    ),
    Bug(
        "expiry-before-grace",
        "R1: a new leader expires what its predecessor's clients could not extend during the election",
        "S6",
        (
            Edit(
                "node/duties.py",
                "return since is not None and (now - since) * 1000 >=",
                "return since is not None or (now - 0) * 1000 >=",
            ),
        ),
        (directed("tests/unit/node/test_duties.py"),),
    ),
    Bug(
        "unknown-told-as-refused",
        "Redpanda #5355: the server's error makes the client believe that nothing happened",
        "S19, R35",
        (
            Edit(
                "node/broker.py",
                '        "outcome_unknown",\n        f"the write may',
                '        "lost_leadership",\n        f"the write may',
            ),
        ),
        (directed("tests/unit/http/test_leader.py"),),
    ),
    Bug(
        "follower-sends-again",
        "jetcd 0.8.2; R35: a forwarded request is sent twice when its connection breaks",
        "S3, R35",
        (
            Edit(
                "http/leader.py",
                "async def _forward(call: Call, url: str) -> Reply:",
                "async def _forward(call: Call, url: str, again: bool = True) -> Reply:",
            ),
            Edit(
                "http/leader.py",
                '        why = f"the connection to the leader at {url} broke',
                "        if again:\n            return await _forward(call, url, False)\n"
                '        why = f"the connection to the leader at {url} broke',
            ),
        ),
        (directed("tests/unit/http/test_leader.py"),),
    ),
    Bug(
        "sdk-new-id-for-each-attempt",
        "jetcd 0.8.2 (Jepsen 2024): the client repeats a request that is not idempotent",
        "S3, R12",
        (
            Edit(
                "client/session.py",
                "        headers = {**call.headers, **self._credentials(origin)}\n",
                '        headers = {**call.headers, "Idempotency-Key": secrets.token_hex(16)}\n',
            ),
        ),
        (directed(SESSION),),
    ),
    Bug(
        "sdk-unknown-is-failed",
        "Redpanda #6018 class; R35: a later refusal hides that an earlier attempt may have been applied",
        "S19, R35",
        (
            Edit(
                "client/session.py",
                "        if call.unknown:\n            raise OutcomeUnknown(",
                "        if False:\n            raise OutcomeUnknown(",
            ),
        ),
        (directed(SESSION),),
    ),
    Bug(
        "sdk-trusts-lease-from-answer",
        "etcd locks (2020), R35: the lease is counted from the answer, not from when it was asked for",
        "S5, R35",
        (
            Edit(
                "client/session.py",
                "answer.data, answer.status, call.first_sent_s,",
                "answer.data, answer.status, self.clock.monotonic(),",
            ),
        ),
        (directed(LEASES),),
    ),
    Bug(
        "worker-acks-after-lease-lost",
        "etcd locks (2020): the handler of a lost lease goes on and acks",
        "S5, R35",
        (
            Edit(
                "client/worker.py",
                "        if job is not None:\n            job.stop()\n",
                "        if job is not None:\n            pass\n",
            ),
        ),
        (directed(WORKER),),
    ),
)
