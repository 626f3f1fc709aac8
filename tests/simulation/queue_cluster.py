"""The simulation with the real machine: `Applier`, `Machine`, entries of real commands, R1 stamps, leader duties."""

from __future__ import annotations

from typing import Any

from tests.simulation.cluster import Simulation
from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.queue_workload import QueueWorkload
from trivet.consensus.port import OutOfTime, SnapshotSink, SnapshotSource
from trivet.machine import invariants
from trivet.node.applier import Applier
from trivet.node.stamps import Stamper


class QueueMachine:
    """The node's applier, with the simulator looking at each whole entry."""

    def __init__(self, simulation: QueueSimulation, node: SimNode) -> None:
        self._simulation, self._node = simulation, node
        self._applier = Applier(lambda index, effects: None)
        self._entry: tuple[int, int, bytes] = (0, 0, b"")

    @property
    def machine(self) -> Any:
        return self._applier.machine

    @property
    def busy(self) -> bool:
        return self._applier.busy

    @property
    def applied_index(self) -> int:
        return self._applier.applied_index

    @property
    def result(self) -> Any:
        return self._applier.result

    def start(self, index: int, term: int, data: bytes) -> None:
        self._entry = (index, term, data)
        self._applier.start(index, term, data)

    def step(self, out_of_time: OutOfTime) -> bool:
        if not self._applier.step(out_of_time):
            return False
        simulation = self._simulation
        index, term, data = self._entry
        new = index not in simulation.checker.applied
        simulation.checker.machine_applied(self._node.name, index, term, data, self.digest())
        if new:
            simulation.queue.witness(index, data, self.result, self.machine.clock_ms)
        return True

    def digest(self) -> bytes:
        return bytes(self.machine.digest())

    def open_snapshot(self) -> SnapshotSource:
        return self._applier.open_snapshot()

    def begin_install(self) -> SnapshotSink:
        return self._applier.begin_install()


class QueueSimulation(Simulation):
    """Phases as with the trivial machine; the healed cluster must also drain."""

    queue: QueueWorkload

    def _limit(self, options: Options) -> None:
        """A new leader's quorum may move time by this much: it stays well below the windows of R12 and R16."""
        options.wall_spread_ms = min(options.wall_spread_ms, 20_000)

    def _make_machine(self, node: SimNode) -> QueueMachine:  # type: ignore[override]
        def quorum() -> int | None:
            return node.replica.quorum_wall_ms() if node.replica is not None else None

        self.queue.stampers[node.name] = Stamper(node.clock, quorum, alone=len(self.names) == 1)
        return QueueMachine(self, node)

    def _make_workload(self) -> QueueWorkload:
        self.queue = QueueWorkload(self.world, self.options, self.nodes)
        for node in self.nodes.values():
            node.after_turn = self.queue.duties
        self.nemesis.wrong_clocks_max = min(1, self.nemesis.minority)  # R1 promises for one wrong clock
        return self.queue

    def _check_laws(self, names: list[str]) -> None:
        """The machine's laws, recounted from scratch: dear, so seldom."""
        for name in names:
            machine = self.nodes[name].machine
            if isinstance(machine, QueueMachine) and not machine.busy:
                broken = invariants.check(machine.machine)
                if broken:
                    self.world.violate("law of the machine", f"{name}: {broken[:3]}")

    def _faults(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            self._run(min(end, self.world.now + 2.0))
            self._check_laws([self.queue.rng.choice(self.names)])

    def _probe(self, node: SimNode, answered: list[bool]) -> None:
        # Nothing new before the last round is answered: what is offered must not outgrow a slow swarm's log.
        if not self.queue.calls and (not answered or self.world.now - self._drained_at > 0.5):
            self._drained_at = self.world.now
            answered.append(True)
            self.queue.drain()

    _drained_at = 0.0

    def _at_rest(self) -> bool:
        return self.queue.drained and super()._at_rest()

    def _final(self) -> None:
        self._check_laws(self.names)
        for node in self.nodes.values():
            machine = node.machine
            assert isinstance(machine, QueueMachine)
            self.checker.same_digest(node.name, machine.applied_index, machine.digest())
        self.world.trace("final " + next(iter(self.nodes.values())).digest_text())
