"""The stories. `prepare` is the uncounted prefix; `act` is what is struck; what must hold in the end is noted on the way.

Everything a client does is a command with a request id, so a story has one right ending whatever is struck: the
states of its messages, the results of its effects, the number of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.crashpoints.clients import fine, must
from tests.crashpoints.cluster import Cluster, Story
from tests.crashpoints.node import StruckNode
from tests.tokens import SECRET, token_of
from trivet.machine import commands as c
from trivet.machine import replies as r

FOR_LONG = 60_000
KEPT = c.QueueConfig(
    lease_ms=FOR_LONG,
    max_attempts=5,
    retention_ms=3_600_000,
    backoff=c.Backoff("fixed", base_ms=100, max_ms=100),
)
"""Finished messages stay visible, so that the judge can ask for them."""

Steps = Callable[[Cluster], Iterator[Story]]


def nobody(cluster: Cluster) -> Iterator[Story]:
    yield from ()


@dataclass(frozen=True)
class Scenario:
    """`prepare` and `act` give the clients' stories, each group played side by side."""

    name: str
    about: str
    act: Steps
    prepare: Steps = nobody
    options: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Cluster], None] | None = None  # after `prepare`, still uncounted
    begin: Callable[[Cluster], None] | None = None  # first thing of the act
    born: bool = True  # False: there is nothing before the act, which begins with empty directories


# --- what clients do --------------------------------------------------------------------------------------


def put_queues(*names: str, config: c.QueueConfig = KEPT) -> Story:
    for name in names:
        fine((yield c.PutQueue(name, config)))


def enqueue(s: Cluster, queue: str, *bodies: bytes, key: str | None = None) -> Story:
    """Answers the numbers; in the end each must be ready, if nothing else is noted."""
    reply = fine((yield c.Enqueue(queue, tuple(c.Draft(body, key=key) for body in bodies))))
    numbers = [one.message for one in reply.messages]
    s.expected.update(dict.fromkeys(numbers, "ready"))
    return numbers


def lease(s: Cluster, queue: str, most: int = 1, lease_ms: int = FOR_LONG) -> Story:
    """Answers the grants, at least one: it asks again until there is something."""
    while True:
        reply = fine((yield c.Lease((queue,), "w", most, lease_ms)))
        if reply.grants:
            break
        yield 0.02
    s.expected.update({grant.message: "leased" for grant in reply.grants})
    return list(reply.grants)


def token(grant: r.Grant) -> c.Token:
    return token_of(grant, SECRET)


def settled(reply: Any, *statuses: str) -> None:
    """Each item has the status it must have; a repeat says the same."""
    found = tuple(each.status for each in fine(reply).results)
    must(found == statuses, f"{found} instead of {statuses}")


def ack(s: Cluster, grant: r.Grant, *effects: c.EffectDone) -> Story:
    settled((yield c.Ack((c.AckItem(token(grant), None, effects),))), "acked")
    s.expected[grant.message] = "done"
    s.effects.update({effect.effect_id: effect.result or b"" for effect in effects})


# --- the stories ------------------------------------------------------------------------------------------


def _enqueue(s: Cluster) -> Iterator[Story]:
    def keyed() -> Story:
        first = yield from enqueue(s, "a", b"1", key="k")
        again = yield from enqueue(s, "a", b"1", key="k")
        must(first == again, f"the key's message was {first}, is {again}")

    def plain() -> Story:
        yield from enqueue(s, "b", b"1", b"2", b"3")
        yield from enqueue(s, "b", b'"' + b"x" * 700 + b'"')

    yield from (keyed(), plain())


def _queues(s: Cluster) -> Iterator[Story]:
    yield put_queues("a", "b")


def _work(s: Cluster) -> Iterator[Story]:
    """Messages that wait, three in each queue."""

    def story() -> Story:
        yield from put_queues("a", "b")
        yield from enqueue(s, "a", b"1", b"2", b"3")
        yield from enqueue(s, "b", b"4", b"5", b"6")

    yield story()


def _lease(s: Cluster) -> Iterator[Story]:
    def worker(queue: str) -> Story:
        first = yield from lease(s, queue)
        second = yield from lease(s, queue, 2)
        must(
            not {each.message for each in first} & {each.message for each in second}, f"{first} and {second}"
        )
        settled((yield c.Extend((c.ExtendItem(token(first[0]), FOR_LONG),))), "extended")
        settled((yield c.Release((token(second[0]),))), "released")
        s.expected[second[0].message] = "ready"

    yield from (worker("a"), worker("b"))


def _ack_effect(s: Cluster) -> Iterator[Story]:
    def held() -> Story:
        (grant,) = yield from lease(s, "a")
        begun = fine((yield c.EffectBegin("charge", "w", token(grant), True)))
        must(begun.state == "granted" and not begun.uncertain, begun)
        effect = c.Token(begun.fence, begun.mac)
        yield from ack(s, grant, c.EffectDone("charge", b'"paid"', effect))
        (grant,) = yield from lease(s, "a")
        yield from ack(s, grant, c.EffectDone("mail", b'"sent"'))

    def committed() -> Story:
        (grant,) = yield from lease(s, "b")
        begun = fine((yield c.EffectBegin("hook", "w", token(grant), True)))
        done = fine((yield c.EffectCommit(c.Token(begun.fence, begun.mac), b'"called"')))
        must(done.state == "done", done)
        s.effects["hook"] = b'"called"'
        yield from ack(s, grant)

    yield from (held(), committed())


def _ack_enqueue(s: Cluster) -> Iterator[Story]:
    def step(source: str, target: str) -> Story:
        (grant,) = yield from lease(s, source)
        children = (
            c.EnqueueTo(target, c.Draft(b'"child"')),
            c.EnqueueTo("c", c.Draft(b'"other"', key=source)),
        )
        reply = yield c.Ack((c.AckItem(token(grant)),), children)
        settled(reply, "acked")
        s.expected[grant.message] = "done"
        s.expected.update({one.message: "ready" for one in reply.messages})
        must(len(reply.messages) == 2, reply)

    yield from (step("a", "d"), step("b", "d"))


def _nack_queues(s: Cluster) -> Iterator[Story]:
    def story() -> Story:
        twice = c.QueueConfig(
            max_attempts=2, retention_ms=3_600_000, backoff=c.Backoff("fixed", base_ms=30, max_ms=30)
        )
        yield from put_queues("a", "b", config=twice)
        yield from enqueue(s, "a", b"1")
        yield from enqueue(s, "b", b"2")

    yield story()


def _nack_dead(s: Cluster) -> Iterator[Story]:
    def fails() -> Story:
        (grant,) = yield from lease(s, "a")
        settled((yield c.Nack((c.NackItem(token(grant), "once", 0),))), "nacked")
        (grant,) = yield from lease(s, "a")
        must(grant.attempt == 2, grant)
        settled((yield c.Nack((c.NackItem(token(grant), "twice"),))), "dead")
        s.expected[grant.message] = "dead"

    def refused() -> Story:
        (grant,) = yield from lease(s, "b")
        settled((yield c.Nack((c.NackItem(token(grant), "poison", dead_letter=True),))), "dead")
        s.expected[grant.message] = "dead"

    yield from (fails(), refused())


def _expiry(s: Cluster) -> Iterator[Story]:
    def slow() -> Story:
        (first,) = yield from lease(s, "a", lease_ms=150)
        yield 0.3
        while True:  # the worker comes back only after its lease has ended
            (second,) = yield from lease(s, "a", 1)
            if second.message == first.message:
                break
            yield from ack(s, second)
        must(second.attempt == first.attempt + 1, f"{first} and {second}")
        late = fine((yield c.Ack((c.AckItem(token(first)),)))).results[0]
        must(late.status == "stale_lease", late)
        yield from ack(s, second)

    yield slow()


def _one_message(s: Cluster) -> Iterator[Story]:
    def story() -> Story:
        yield from put_queues("a")
        yield from enqueue(s, "a", b"1")

    yield story()


def _flow(s: Cluster, count: int, body: bytes = b"1") -> Iterator[Story]:
    """Work that goes on beside what is struck."""

    def producer() -> Story:
        for _ in range(count):
            yield from enqueue(s, "a", body)

    def worker() -> Story:
        for _ in range(count):
            (grant,) = yield from lease(s, "b")
            yield from ack(s, grant)

    yield from (producer(), worker())


def _snapshot(s: Cluster) -> Iterator[Story]:
    yield from _flow(s, 3)
    yield from (snapshots(s, name, at_least=3) for name in s.names)


def snapshots(s: Cluster, name: str, at_least: int) -> Story:
    """An operator who takes one snapshot of a node after the other while others work, each time `at_least` so many
    entries on, and once more in the end; and who asks again when the node was down."""
    node = s.nodes[name]
    while True:
        last = s.all_done(besides=snapshots.__name__)
        yield partial(taken, s, node, newest(node), at_least, last)
        if last:
            return


def taken(s: Cluster, node: StruckNode, index: int, at_least: int, last: bool) -> bool:
    if last:
        return newer(node, index, 1)
    return newer(node, index, at_least) or s.all_done(besides=snapshots.__name__)


def newest(node: StruckNode) -> int:
    latest = node.storage.snapshots.latest if node.storage is not None else None
    return latest.index if latest is not None else 0


def newer(node: StruckNode, index: int, at_least: int) -> bool:
    """There is a newer one; else it is asked for. Nothing new to take is as good."""
    if newest(node) > index:
        return True
    if node.applied_index >= newest(node) + at_least:
        node.snapshot_now()
    return node.running and at_least == 1 and node.applied_index == newest(node)


SAGA_STEPS = 6


def _saga(s: Cluster, fails: int) -> Iterator[Story]:
    """A chain of six steps of which one fails: what was done before it is undone, once each, the last first."""

    def story() -> Story:
        steps = tuple(
            c.FlowStepDraft(
                f"s{at}",
                "a",
                c.Draft(b"%d" % at),
                (at - 1,) if at else (),
                c.EnqueueTo("b", c.Draft(b"[%d]" % at)),
            )
            for at in range(SAGA_STEPS)
        )
        made = fine((yield c.CreateFlow(steps, tuple(range(SAGA_STEPS)))))
        numbers = [one.message for one in made.steps]
        s.expected.update(dict.fromkeys(numbers, "dead"))
        s.flows[made.flow] = "compensated" if fails else "failed"
        for at in range(fails):
            (grant,) = yield from lease(s, "a")
            must(grant.message == numbers[at], f"{grant} instead of step {at}")
            yield from ack(s, grant)
        (grant,) = yield from lease(s, "a")
        settled((yield c.Nack((c.NackItem(token(grant), "no", dead_letter=True),))), "dead")
        s.expected[grant.message] = "dead"
        for at in reversed(range(fails)):
            (grant,) = yield from lease(s, "b")
            body = s.judge.bodies[grant.message]
            must(body == b"[%d]" % at, f"{body!r} is undone in the place of step {at}")
            yield from ack(s, grant)

    yield story()


def _roll(s: Cluster) -> Iterator[Story]:
    def producer() -> Story:
        for _ in range(7):
            yield from enqueue(s, "a", b'"' + b"x" * 3000 + b'"')

    yield producer()
    yield from (snapshots(s, name, at_least=2) for name in s.names)


def _transfer(s: Cluster) -> Iterator[Story]:
    def operator() -> Story:
        yield 0.004
        first = s.leader()
        yield lambda: moved(s, first)

    yield from _flow(s, 3)
    yield operator()


def moved(s: Cluster, first: StruckNode | None) -> bool:
    """Somebody else leads; else the leader is asked to hand over."""
    leader = s.leader()
    if leader is not None and leader is not first:
        return True
    if leader is not None:
        leader.transfer()
    return False


# --- a follower that is far behind gets a snapshot ---------------------------------------------------------


def _behind(s: Cluster) -> Iterator[Story]:
    """The follower goes; the others go on, and forget the log that it would need."""

    def story() -> Story:
        yield from put_queues("a", "b", "c")
        yield from enqueue(s, "b", b"1", b"2", b"3")
        away = s.nodes[s.roles["follower"]]
        assert away.storage is not None
        has = away.storage.last_index
        s.down_on_purpose.add(away.name)
        away.die("away", lose_unsynced=False, silently=False)
        others = [node for node in s.nodes.values() if node is not away]
        while any(node.storage is None or node.storage.base_index <= has for node in others):
            for _ in range(3):
                yield from enqueue(s, "c", b'"' + b"y" * 3000 + b'"')
            for node in others:
                yield partial(newer, node, newest(node), 1)
        # What is forgotten leaves the disk with the next sync, and both must sync this one. Or else a power loss
        # brings that log back, and the follower needs no snapshot.
        yield from enqueue(s, "c", b"0")

    yield story()


def _come_back(s: Cluster) -> None:
    node = s.nodes[s.roles["follower"]]
    s.down_on_purpose.discard(node.name)
    node.start()


def _install(s: Cluster) -> Iterator[Story]:
    yield from _flow(s, 2)

    def installed() -> Story:
        node = s.nodes[s.roles["follower"]]
        yield lambda: node.running and newest(node) > 0

    yield installed()


# --- a leader that was cut off has entries that nobody else has ---------------------------------------------


def _cut_off(s: Cluster) -> None:
    """The old leader keeps what it wrote alone; the others go on without it."""
    leader = s.nodes[s.roles["leader"]]
    links = [(leader.name, name) for name in s.names if name != leader.name]
    s.network.cut(links + [(b, a) for a, b in links], 1e6)
    for number in range(3):
        entry = s.alone(leader, c.Enqueue("a", (c.Draft(b'"alone %d"' % number),)))
        leader.submit(entry, lambda outcome: None, 0.5)
    s.run_until(lambda: not leader.is_leader and s.leader() is not None, "another leader")


def _heal(s: Cluster) -> None:
    s.network.heal_all()


# --- boots ---------------------------------------------------------------------------------------------------


def _lights_out(s: Cluster) -> None:
    """All machines lose power with entries on their way to the disks."""
    leader = s.nodes[s.roles["leader"]]
    for _ in range(3):
        leader.submit(s.alone(leader, c.PauseQueue("a", False, False)), lambda outcome: None, 0.5)
        s.world.run_until(s.world.now + s.options.latency + 0.3 * s.options.sync_seconds)
    for node in s.nodes.values():
        s.down_on_purpose.add(node.name)
        node.die("lights out", lose_unsynced=True, silently=True)


def _lights_on(s: Cluster) -> None:
    s.down_on_purpose.clear()
    for node in s.nodes.values():
        node.start()


def _birth(s: Cluster) -> Iterator[Story]:
    def first() -> Story:
        yield from put_queues("a")
        yield from enqueue(s, "a", b"1")

    yield first()


ROLL = {"segment_bytes": 8192}

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("enqueue", "keyed and plain enqueues, batches, a duplicate", _enqueue, _queues),
        Scenario("lease", "leases, extend, release", _lease, _work),
        Scenario("ack_effect", "an ack that commits its effect, and an effect committed by itself", _ack_effect, _work),
        Scenario("ack_enqueue", "an ack with two children", _ack_enqueue, _work),
        Scenario("nack_dead", "nacks to the dead letter", _nack_dead, _nack_queues),
        Scenario("expiry", "a lease ends by itself, its late ack is stale", _expiry, _one_message),
        *(
            Scenario(f"saga_{n + 1}", f"step {n + 1} of a saga of {SAGA_STEPS} fails", partial(_saga, fails=n), _queues)
            for n in range(SAGA_STEPS)
        ),
        Scenario("snapshot", "two snapshots of each node beside work", _snapshot, _work),
        Scenario("install", "a follower far behind is given a snapshot", _install, _behind, ROLL, begin=_come_back),
        Scenario("roll", "segments roll, the log is compacted behind snapshots", _roll, _queues, ROLL),
        Scenario("transfer", "leadership is handed over beside work", _transfer, _work),
        Scenario(
            "conflict", "a deposed leader's own entries are cut from its log",
            lambda s: _flow(s, 2), _work, before=_cut_off, begin=_heal,
        ),
        Scenario(
            "restart", "all machines boot after a power loss", lambda s: _flow(s, 1), _work,
            before=_lights_out, begin=_lights_on,
        ),
        Scenario(
            "birth", "a cluster is born of three empty directories", _birth,
            options={"real_birth": True}, begin=Cluster.switch_on, born=False,
        ),
    )
}  # fmt: skip
