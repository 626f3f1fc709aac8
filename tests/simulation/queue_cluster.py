"""The simulation with the real machine: `Applier`, `Machine`, entries of real commands, R1 stamps, leader duties."""

from __future__ import annotations

from typing import Any

from tests.simulation.cluster import Simulation
from tests.simulation.nemesis import YEAR_MS
from tests.simulation.node import SimNode
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
            simulation.queue.witness(index, data, self.result, self.machine)
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
    drain_seconds = 20.0
    """A forgotten lease is at most 3 s long, and a group's head may be held by one several times over. 10 s were
    measured at the most."""

    def _make_machine(self, node: SimNode) -> QueueMachine:  # type: ignore[override]
        def quorum() -> int | None:
            return node.replica.quorum_wall_ms() if node.replica is not None else None

        self.queue.stampers[node.name] = Stamper(node.clock, quorum, alone=len(self.names) == 1)
        return QueueMachine(self, node)

    def _make_workload(self) -> QueueWorkload:
        self.queue = QueueWorkload(self.world, self.options, self.nodes)
        for node in self.nodes.values():
            node.after_turn = self.queue.duties
        self._clocks()
        return self.queue

    def _clocks(self) -> None:
        """R1 promises that time is right with one wrong clock, by any amount, and R12 counts its windows in the
        log's time. So some worlds have one clock that is wrong by up to a year; in others every clock jumps by up to
        an hour, and only what must hold under any time is judged (nothing here is kept for less than days but the
        windows that the laws know). On a single node a jump is ignored while the process runs; a boot sets it right.
        """
        nemesis = self.nemesis
        if len(self.names) == 1:
            nemesis.wrong_clocks_max = 1
            nemesis.jumps_ms = (1_000, 3_600_000, YEAR_MS)  # steps of up to 60 s are believed, and add up
            node = self.nodes[self.names[0]]
            right = node.clock.offset_ms
            node.on_death.append(lambda _: node.clock.jump_wall(right - node.clock.offset_ms))
        elif self.world.stream("clocks").random() < 0.2:
            self.queue.clocks_promised = False
            nemesis.jumps_ms = (1_000, 60_000, 3_600_000)
            nemesis.wrong_clocks_max = len(self.names)
        else:
            nemesis.wrong_clocks_max = 1

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
        if answered and self._drained(node):
            return  # another round would keep a slow member behind
        # Nothing new before the last round is answered: what is offered must not outgrow a slow swarm's log.
        if not self.queue.calls and (not answered or self.world.now - self._drained_at > 0.25):
            self._drained_at = self.world.now
            answered.append(True)
            self.queue.drain()

    _drained_at = 0.0

    def _to_come(self) -> int:
        return super()._to_come() + len(self.queue.calls)  # tried again until they are answered or given up

    def _at_rest(self) -> bool:
        if not super()._at_rest():
            return False
        return self._drained(next(iter(self.nodes.values())))

    def _drained(self, node: SimNode) -> bool:
        machine = node.machine
        return isinstance(machine, QueueMachine) and not machine.busy and self.queue.drained(machine.machine)

    def _final(self) -> None:
        self._check_laws(self.names)
        for node in self.nodes.values():
            machine = node.machine
            assert isinstance(machine, QueueMachine)
            self.checker.same_digest(node.name, machine.applied_index, machine.digest())
            self.queue.account(machine.machine)
        self.world.trace("final " + next(iter(self.nodes.values())).digest_text())
