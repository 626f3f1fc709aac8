"""One seed: a world, its nodes, its faults, its clients; first safety under any fault, then liveness without."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.checks import Checker
from tests.simulation.machine import ListMachine
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.options import Options, draw
from tests.simulation.workload import Workload
from tests.simulation.world import Violation, World
from trivet.consensus.port import Applied

EVENTS_MAX = 1_500_000
LIVENESS_SECONDS = 120.0
"""After healing: a leader, every answer, equal states within so many virtual seconds. Generous: some swarms move one
small entry at a time over 20 ms links onto 50 ms disks, and have hundreds to catch up."""


@dataclass
class Result:
    """What one seed gave."""

    seed: int
    violations: list[str]
    counts: Counter[str]
    trace_hash: str
    options: Options
    virtual_seconds: float
    events: int
    log: list[str] = field(default_factory=list)


class Simulation:
    """The trivial machine's cluster. `queue_cluster.py` puts the real machine in its place."""

    def __init__(self, seed: int, nodes: int | None = None, log: bool = False) -> None:
        self.world = World(seed)
        if log:
            self.world.log = []
        self.options = draw(self.world.stream("options"), nodes)
        self._limit(self.options)
        self.names = [f"n{i + 1}" for i in range(self.options.nodes)]
        self.network = Network(self.world, self.options, self.names)
        self.checker = Checker(self.world, self.names)
        self.nodes = {name: self._node(name) for name in self.names}
        self.network.nodes = dict(self.nodes)
        self.nemesis = Nemesis(self.world, self.options, self.network, self.nodes)
        self.workload = self._make_workload()
        for node in self.nodes.values():
            node.on_died += [self.nemesis.node_died, lambda _: None]
            node.on_death.append(self.workload.node_died)

    def _limit(self, options: Options) -> None:
        """What a kind of machine cannot be judged under."""

    def _node(self, name: str) -> SimNode:
        return SimNode(
            self.world, name, self.names, self.options, self.network, self.checker, self._make_machine
        )

    def _make_machine(self, node: SimNode) -> ListMachine:
        def applied(index: int, term: int, data: bytes) -> None:
            new = index not in self.checker.applied
            self.checker.machine_applied(node.name, index, term, data, machine.digest())
            if new:
                self.workload.applied(index, list(machine.result))

        machine = ListMachine(applied)
        return machine

    def _make_workload(self) -> Workload:
        return Workload(self.world, self.options, self.nodes)

    # --- phases -----------------------------------------------------------------------------------------

    def run(self, seconds: float) -> Result:
        try:
            self._start()
            self._faults(seconds)
            self._live()
            self._final()
        except Violation:
            self.world.count("violations")
        except Exception as error:  # noqa: BLE001 a defect of the product or of the simulator: the seed failed
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.world.violations.append(
                f"exception: {error!r} at {last.filename}:{last.lineno} (virtual second {self.world.now:.4f})\n"
                + "".join(traceback.format_exception(error)[-8:])
            )
        world = self.world
        return Result(
            world.seed, world.violations, world.counts, world.trace_hash, self.options, world.now, world.events,
            world.log or [],
        )  # fmt: skip

    def _run(self, until: float) -> None:
        step = 0.5
        while self.world.now < until:
            self.world.run_until(min(until, self.world.now + step))
            self.workload.check_deadlines()
            if self.world.events > EVENTS_MAX:
                self.world.violate("runaway", f"{self.world.events} events")

    def _start(self) -> None:
        for node in self.nodes.values():
            node.start()
        self.network.start()
        self.nemesis.start()
        self.workload.start()

    def _faults(self, seconds: float) -> None:
        self._run(seconds)

    def _heal(self) -> None:
        self.nemesis.stop()
        self.workload.stop()
        self.network.perfect = True
        self.network.heal_all()
        self.world.trace("healed")
        for node in self.nodes.values():
            node.heal()

    def _live(self) -> None:
        """Liveness: whatever happened before, the healed cluster must come to rest, and in time."""
        self._heal()
        healed_at = self.world.now
        answered: list[bool] = []
        first_at: float | None = None
        while not (answered and self._at_rest()):
            if self.world.now > healed_at + LIVENESS_SECONDS:
                self.world.violate("liveness", self._picture(answered))
            for node in self.nodes.values():
                if not node.running:
                    node.start()
            leaders = [node for node in self.nodes.values() if node.is_leader and node.can_propose]
            if leaders:
                self._probe(leaders[-1], answered)
            self._run(self.world.now + 0.25)
            if answered and first_at is None:
                first_at = self.world.now
        self.world.trace("at rest")
        self.world.count(
            "healed: milliseconds to first ack", int(((first_at or self.world.now) - healed_at) * 1000)
        )

    def _probe(self, node: SimNode, answered: list[bool]) -> None:
        self.workload.propose(node, lambda what: answered.append(True) if isinstance(what, Applied) else None)

    def _at_rest(self) -> bool:
        nodes = list(self.nodes.values())
        if self.workload.waiting or any(not node.running or node.damaged for node in nodes):
            return False
        return len({node.applied_index for node in nodes}) == 1 and sum(node.is_leader for node in nodes) == 1

    def _picture(self, answered: list[bool]) -> str:
        nodes = "; ".join(node.picture() for node in self.nodes.values())
        return f"not at rest: answered {bool(answered)}, {len(self.workload.waiting)} waiting; {nodes}"

    def _final(self) -> None:
        for node in self.nodes.values():
            machine = node.machine
            assert isinstance(machine, ListMachine)
            self.checker.same_digest(node.name, machine.applied_index, machine.digest())
            self.workload.check_final(machine.ids, machine.applied_index)
        self.world.trace("final " + next(iter(self.nodes.values())).digest_text())
