"""Three nodes of the real machine, storage and consensus under one story: prefix, act with its fault, rest, verdict."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.crashpoints.clients import Client, StoryBroken
from tests.crashpoints.judge import Judge
from tests.crashpoints.node import Probe, StruckNode
from tests.simulation.checks import Checker
from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.options import Options, draw
from tests.simulation.queue_cluster import QueueMachine
from tests.simulation.world import Violation, World
from tests.tokens import SECRET
from trivet.consensus.port import Applied, Outcome
from trivet.machine import commands as c
from trivet.machine import invariants, views
from trivet.machine.core import Machine
from trivet.machine.flow_record import FLOW_STATES
from trivet.machine.ids import message_id
from trivet.machine.snapshotting import state_digest
from trivet.node.stamps import Stamper
from trivet.wire.entry import encode_entry

REST_SECONDS = 30.0
"""After its last step a story must have come to rest within so many virtual seconds, with every node serving."""
SETTLE_SECONDS = 1.0
"""The quiet end of a clean act: watermarks are written (R3), followers hear of the last commit. All of it is struck."""
SETTLE_STRUCK_SECONDS = 0.2
GRACE_SECONDS = 0.2  # R1's grace, shorter, so that leases do end
FRUITLESS_SECONDS = 0.1  # pause after an expiry that found nothing
STEP = 0.01
RESTART_SECONDS = (0.03, 0.15, 0.5, 0.9)

Story = Generator[Any, Any, Any]


@dataclass
class Result:
    """What one run gave."""

    violations: list[str]
    fired: str | None
    calls: dict[str, int]  # of the victim during the act
    deaths: int
    repeats: int  # requests that were answered from memory
    trace_hash: str
    seconds: float  # virtual
    log: list[str] = field(default_factory=list)


def options_of(rng: random.Random, story: int, changes: dict[str, Any]) -> Options:
    """Story 0 is the plainest; the others vary links, disks and sizes. Only crashes disturb, never the network."""
    plain = replace(
        draw(random.Random(0), 3), nodes=3, datagrams=False, latency=0.0005, jitter=0.0, loss=0.0, duplicate=0.0,
        sync_seconds=0.001, turn_seconds=0.0, drift=0.0, wall_spread_ms=0, cpu_cost=0.0, segment_bytes=1 << 16,
        batch_bytes=1 << 20, snapshot_chunk_bytes=512, snapshot_entries=1 << 30, real_birth=False, weights={},
    )  # fmt: skip
    if story:
        plain = replace(
            plain, datagrams=rng.random() < 0.3, latency=rng.choice((0.0002, 0.001, 0.004)),
            sync_seconds=rng.choice((0.0003, 0.002, 0.01)), turn_seconds=rng.choice((0.0, 0.001)),
            wall_spread_ms=rng.choice((0, 20)), cpu_cost=rng.choice((0.0, 0.00001, 0.0003)),
            segment_bytes=rng.choice((8192, 1 << 16)), batch_bytes=rng.choice((400, 1 << 20)),
            snapshot_chunk_bytes=rng.choice((200, 512, 8192)),
        )  # fmt: skip
    return replace(plain, **changes)


class Cluster:
    """The stage of one story. `queue` is the judge: the witness of the simulator's queue machine."""

    def __init__(self, story: int, changes: dict[str, Any], probe: Probe, log: bool = False) -> None:
        self.story = story
        self.world = World(story)
        if log:
            self.world.log = []
        self.rng = self.world.stream("story")
        self.options = options_of(self.rng, story, changes)
        self.names = ["n1", "n2", "n3"]
        self.network = Network(self.world, self.options, self.names)
        self.checker = Checker(self.world, self.names)
        self.queue = self.judge = Judge(self.world)
        self.probe = probe
        self.stampers: dict[str, Stamper] = {}
        self.clients: list[Client] = []
        self.expected: dict[int, str] = {}  # message → its state in the end, told by the story
        self.effects: dict[str, bytes] = {}  # effect id → result
        self.flows: dict[int, str] = {}  # flow → its state in the end
        self.roles: dict[str, str] = {}  # victim's role → node
        self.down_on_purpose: set[str] = set()
        self.deaths = 0
        self.fresh_request_ids = False  # a control: clients that repeat under a new id
        self._office: dict[str, tuple[int, int, float]] = {}
        self._expiring: dict[str, tuple[int, int]] = {}
        self._fruitless_until = 0.0
        self.nodes = {name: self._node(name) for name in self.names}
        self.network.nodes = dict(self.nodes)
        if story:  # what only a slow leader, or only a slow follower, shows (R8)
            for node in self.nodes.values():
                node.sync_factor = self.rng.choice((1.0, 1.0, 10.0))

    def _node(self, name: str) -> StruckNode:
        node = StruckNode(
            self.world, name, self.names, self.options, self.network, self.checker, self._make_machine
        )
        node.probe, node.on_power_all, node.after_turn = self.probe, self._power_all, self._duties
        node.on_died.append(lambda dead: self.restart_later(dead))
        node.on_death.append(self._node_died)
        return node

    def _make_machine(self, node: SimNode) -> QueueMachine:
        def quorum() -> int | None:
            return node.replica.quorum_wall_ms() if node.replica is not None else None

        self.stampers[node.name] = Stamper(node.clock, quorum, alone=False)
        return QueueMachine(self, node)  # type: ignore[arg-type]

    def machine(self, name: str) -> Machine:
        machine = self.nodes[name].machine
        assert isinstance(machine, QueueMachine)
        found = machine.machine
        assert isinstance(found, Machine)
        return found

    # --- life and death -----------------------------------------------------------------------------------

    def _power_all(self, struck: SimNode) -> None:
        for node in self.nodes.values():
            if node is not struck:
                node.die("power_all", lose_unsynced=True, silently=True)
                self.restart_later(node)

    def restart_later(self, node: SimNode) -> None:
        if node.name not in self.down_on_purpose:
            self.world.after(self.rng.choice(RESTART_SECONDS), lambda: node.start())

    def _node_died(self, node: SimNode) -> None:
        self.deaths += 1
        for client in self.clients:
            client.node_died(node.name)

    # --- leaders' duties, as node/duties.py ------------------------------------------------------------------

    def stamp(self, node: SimNode) -> int:
        return self.stampers[node.name].now_ms(self.machine(node.name).clock_ms)

    def _duties(self, node: SimNode) -> None:
        replica = node.replica
        if replica is None or not replica.can_propose:
            return
        machine, now = self.machine(node.name), self.world.now
        office = (node.incarnation, replica.term)
        if self._office.get(node.name, (0, 0, 0.0))[:2] != office:
            self._office[node.name] = (*office, now)
            self._expiring.pop(node.name, None)
            self.stampers[node.name].take_office(machine.clock_ms)
            if not machine.cluster_id:
                self._duty(node, c.Genesis("simulated", SECRET, tuple(node.members)))
        due = machine.next_deadline_ms()
        late = due is not None and due <= self.stampers[node.name].peek_ms(machine.clock_ms)
        if late and now >= self._fruitless_until and self._expiring.get(node.name) != office:
            self._expiring[node.name] = office
            self._duty(node, c.Expire(10, leases=now >= self._office[node.name][2] + GRACE_SECONDS))

    def _duty(self, node: SimNode, command: c.Command) -> None:
        def ended(outcome: Outcome) -> None:
            self._expiring.pop(node.name, None)
            if isinstance(outcome, Applied) and not outcome.result[0].reply.count:
                self._fruitless_until = self.world.now + FRUITLESS_SECONDS

        node.submit(self.alone(node, command), ended, 3.0)

    def alone(self, node: SimNode, command: c.Command) -> bytes:
        """An entry without a request id, of a client that will never ask again."""
        return encode_entry(c.MACHINE_VERSION, self.stamp(node), [c.Request(command)])

    def switch_on(self) -> None:
        for node in self.nodes.values():
            node.start()
        self.network.start()

    def cast(self, leader: SimNode) -> None:
        """Who plays which victim."""
        followers = [name for name in self.names if name != leader.name]
        self.roles = {"leader": leader.name, "follower": self.rng.choice(followers)}

    # --- running --------------------------------------------------------------------------------------------

    def run_until(self, condition: Callable[[], bool], what: str, seconds: float = REST_SECONDS) -> None:
        end = self.world.now + seconds
        while not condition():
            if self.world.now > end:
                waiting = "; ".join(client.picture() for client in self.clients if not client.ended)
                nodes = "; ".join(node.picture() for node in self.nodes.values())
                self.world.violate("no rest", f"no {what} after {seconds:g} s: {nodes}; {waiting}")
            self.world.run_until(self.world.now + STEP)

    def leader(self) -> StruckNode | None:
        """The one that leads and may propose, if there is exactly one."""
        leaders = [node for node in self.nodes.values() if node.is_leader]
        return leaders[0] if len(leaders) == 1 and leaders[0].can_propose else None

    def ready(self) -> bool:
        """Everybody serves and has all of it."""
        nodes = self.nodes.values()
        leader = self.leader()
        if leader is None or any(node.replica is None or node.damaged for node in nodes):
            return False
        states = {(node.replica.leader, node.applied_index) for node in nodes if node.replica is not None}
        return states == {(leader.name, leader.applied_index)} and all(
            client.ended for client in self.clients
        )

    def play(self, *stories: Story) -> None:
        """Runs client after client side by side to the end of their stories."""
        self.clients = [Client(self, f"c{len(self.judge.first)}-{i}", each) for i, each in enumerate(stories)]
        for client in self.clients:
            client.begin()

    def all_done(self, besides: str) -> bool:
        """Every story is told, those of the function `besides` apart."""
        return all(client.ended for client in self.clients if client.kind != besides)

    def finish(self) -> None:
        """Every definite answer, then rest, and a quiet while in which nothing may come apart again."""
        self.run_until(lambda: all(client.ended for client in self.clients), "definite answer")
        self.run_until(self.ready, "rest")
        quiet = SETTLE_SECONDS if self.probe.fired is None else SETTLE_STRUCK_SECONDS
        self.world.run_until(self.world.now + quiet)
        self.run_until(self.ready, "rest")

    # --- verdict ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        digests = {}
        for name in self.names:
            machine = self.machine(name)
            broken = invariants.check(machine)
            if broken:
                self.world.violate("law of the machine", f"{name}: {broken[:3]}")
            self._check_messages(name, machine)
            self._check_effects(name, machine)
            flows = {flow.number: FLOW_STATES[flow.state] for flow in machine.flow_index.after(0)}
            if flows != self.flows:
                self.world.violate("flows", f"{name} has {flows}, the stories made {self.flows}")
            digests[name] = (machine.digest(), state_digest(machine))
        if len(set(digests.values())) != 1:
            self.world.violate("digest", f"{digests}")
        self._check_service()

    def _check_messages(self, name: str, machine: Machine) -> None:
        states: dict[int, str] = {}
        for queue in machine.queues:
            listed = views.messages(machine, queue, None, 1000)
            assert listed is not None
            states.update((int(shown["id"][1:], 16), shown["state"]) for shown in listed[0])
        for number, state in states.items():
            if number not in self.expected:
                self.judge.doubled(f"{name} holds {message_id(number)} ({state}), which nobody asked for")
            attempt = views.message(machine, number)["attempt"]  # type: ignore[index]
            if attempt != self.judge.grants[number]:
                self.world.violate(
                    "attempt", f"{name}: {message_id(number)} {attempt}, leased {self.judge.grants[number]}"
                )
        for number, state in self.expected.items():
            found = states.get(number)
            if found != state:
                self.judge.lost(f"{name} holds {message_id(number)} as {found}, acknowledged was {state}")

    def _check_effects(self, name: str, machine: Machine) -> None:
        for effect_id, result in self.effects.items():
            shown = views.effect(machine, effect_id)
            if shown is None or shown["state"] != "done" or shown["result"] != views.Result(result):
                self.judge.lost(f"{name} has {shown} of effect {effect_id}, acknowledged was {result!r}")
        for effect_id in machine.effects_by_id:
            if effect_id not in self.effects:
                self.world.violate("effect", f"{name} has effect {effect_id}, which nobody committed")

    def _check_service(self) -> None:
        """The leader, known to everybody, answers a linearizable read."""
        leader = self.leader()
        assert leader is not None
        served: list[bool] = []
        leader.read(served.append)
        self.run_until(lambda: bool(served), "answer to a read", 5.0)
        if served != [True]:
            self.world.violate("service", f"{leader.name} does not vouch for a read")


def guarded(cluster: Cluster, body: Callable[[], None]) -> Result:
    """Runs `body`; whatever breaks is the result."""
    world = cluster.world
    try:
        body()
    except Violation:
        world.trace("ended by a violation")
    except StoryBroken as broken:
        world.violations.append(f"story: {broken}")
    except Exception as error:  # noqa: BLE001 a defect of the product or of a story: the point failed
        world.violations.append("exception: " + "".join(traceback.format_exception(error)[-6:]))
    probe = cluster.probe
    return Result(
        world.violations, probe.fired, dict(probe.counts), cluster.deaths, cluster.judge.repeats, world.trace_hash, world.now,
        world.log or [],
    )  # fmt: skip
