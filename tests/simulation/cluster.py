"""One seed: a world, its nodes, its faults, its clients; first safety under any fault, then liveness without."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
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
ELECTION_SECONDS = 12.0
"""A dead connection is found within 2.4 s (network.IDLE_SECONDS), a leader that is gone within 0.8 s; then elections of
at most 0.8 s each until one is not split (members draw apart again: ten split ones in a row do not happen). What was
measured: 4.2 s at the most, 0.5 s typically."""
LEFT_OUT_SECONDS = 1e6
BEHIND_MAX = 5
"""Entries that members of a core may be apart while its clients go on."""


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
    took: dict[str, tuple[float, float]] = field(default_factory=dict)


class Simulation:
    """The trivial machine's cluster. `queue_cluster.py` puts the real machine in its place."""

    def __init__(
        self, seed: int, nodes: int | None = None, log: bool = False, control: str | None = None
    ) -> None:
        """`control`: a known evil (`CONTROLS`) under which seeds must fail; None for the real thing."""
        self.world = World(seed)
        if log:
            self.world.log = []
        self.options = draw(self.world.stream("options"), nodes)
        self.names = [f"n{i + 1}" for i in range(self.options.nodes)]
        self.network = Network(self.world, self.options, self.names)
        self.checker = Checker(self.world, self.names)
        self.nodes = {name: self._node(name) for name in self.names}
        self.network.nodes = dict(self.nodes)
        self.took: dict[str, tuple[float, float]] = {}  # phase -> seconds it took, seconds it might
        self.nemesis = Nemesis(self.world, self.options, self.network, self.nodes)
        self.workload = self._make_workload()
        self.workload.on_acknowledged.append(self.nemesis.acknowledged)
        for node in self.nodes.values():
            node.on_died += [self.nemesis.node_died, lambda _: None]
            node.on_death.append(self.workload.node_died)
            node.on_resume.append(self.workload.resumed)
        if control is not None:
            CONTROLS[control](self)

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
            world.log or [], self.took,
        )  # fmt: skip

    def _run(self, until: float) -> None:
        step = 0.5
        while self.world.now < until:
            self.world.run_until(min(until, self.world.now + step))
            self.workload.check_deadlines()
            if self.world.events > EVENTS_MAX:
                self.world.violate("runaway", f"{self.world.events} events")

    drain_seconds = 0.0
    """What the workload itself takes once all agree."""

    def _start(self) -> None:
        for node in self.nodes.values():
            node.start()
        self.network.start()
        self.nemesis.start()
        self.workload.start()

    def _faults(self, seconds: float) -> None:
        self._run(seconds)

    def _heal(self, nodes: list[SimNode]) -> None:
        self.nemesis.stop()
        self.workload.stop()
        self.network.perfect = True
        self.network.heal_all()
        self.world.trace("healed " + " ".join(node.name for node in nodes))
        for node in nodes:
            node.heal()

    def _live(self) -> None:
        """Liveness: whatever happened before, first any majority of whole members alone, then all, and in time."""
        core = self._core()
        self._heal([self.nodes[name] for name in core])
        if len(core) < len(self.names):
            self.world.count("core smaller than the cluster")
            self._leave_out([self.nodes[name] for name in self.names if name not in core])
            self._core_answers([self.nodes[name] for name in core])
        self._heal(list(self.nodes.values()))
        self._all_at_rest()

    def _core(self) -> list[str]:
        """A random majority of whole members, with or without some of the others. All, while the cluster is being
        born: that needs everybody (R5)."""
        rng = self.world.stream("core")
        whole = [node.name for node in self.nodes.values() if not node.damaged]
        quorum = len(self.names) // 2 + 1
        if len(whole) < quorum or any(not node.born for node in self.nodes.values()):
            return self.names
        core = set(rng.sample(whole, quorum))
        core |= {name for name in self.names if name not in core and rng.random() < 0.3}
        if any(self.nodes[name].damaged for name in self.names if name not in core):
            self.world.count("core without a recovering member")
        return [name for name in self.names if name in core]

    def _leave_out(self, others: list[SimNode]) -> None:
        """They are down, or behind a wall: nobody may wait for them."""
        rng = self.world.stream("left out")
        for node in others:
            if rng.random() < 0.5 and node.running:
                node.die("outside the core", lose_unsynced=False, silently=rng.random() < 0.5)
            links = [(node.name, name) for name in self.names if name != node.name]
            self.network.cut(links + [(b, a) for a, b in links], LEFT_OUT_SECONDS)

    def _core_answers(self, core: list[SimNode]) -> None:
        began, acked = self.world.now, self.workload.acked_to
        bound = self._bound(core)
        answered: list[bool] = []
        while self.workload.acked_to <= acked or not self._core_agrees(core):
            if self.world.now > began + bound:
                self.world.violate("liveness of a core", f"in {bound:.1f} s: {self._picture(answered)}")
            self._revive(core)
            for leader in [node for node in core if node.is_leader and node.can_propose][:1]:
                self._probe(leader, answered)
            self._run(self.world.now + 0.25)
        self.world.trace("core answers")
        self._took("core", began, bound)

    @staticmethod
    def _core_agrees(core: list[SimNode]) -> bool:
        whole = [node for node in core if not node.damaged]
        applied = [node.applied_index for node in whole]
        return sum(node.is_leader for node in core) == 1 and max(applied) - min(applied) <= BEHIND_MAX

    def _all_at_rest(self) -> None:
        began = self.world.now
        bound = self._bound(list(self.nodes.values())) + self.drain_seconds
        answered: list[bool] = []
        first_at: float | None = None
        while not (answered and self._at_rest()):
            if self.world.now > began + bound:
                self.world.violate("liveness", f"in {bound:.1f} s: {self._picture(answered)}")
            self._revive(list(self.nodes.values()))
            leaders = [node for node in self.nodes.values() if node.is_leader and node.can_propose]
            if leaders:
                self._probe(leaders[-1], answered)
            self._run(self.world.now + 0.25)
            if answered and first_at is None:
                first_at = self.world.now
        self.world.trace("at rest")
        self._took("all", began, bound)
        self.world.count(
            "healed: milliseconds to first ack", int(((first_at or self.world.now) - began) * 1000)
        )

    def _took(self, what: str, began: float, bound: float) -> None:
        took = self.world.now - began
        self.world.count(f"healed: milliseconds until {what} agree", int(took * 1000))
        self.took[what] = (took, bound)

    def _revive(self, nodes: list[SimNode]) -> None:
        for node in nodes:
            if not node.running:
                node.start()

    def _bound(self, nodes: list[SimNode]) -> float:
        """How long these may take from the moment their faults end (virtual seconds).

        ELECTION_SECONDS, and the work there is: each entry that somebody misses crosses the network and the slowest
        disk alone when a frame holds one (some swarms: 64 bytes), and so does each piece of a snapshot. A member
        that lost its disk needs the whole log or a snapshot of it. What clients wait for by then are entries to come.
        """
        options = self.options
        logs = [node.storage for node in self.nodes.values() if node.storage is not None]
        last = max([self.checker.committed_to, *(log.last_index for log in logs)])
        starts = [0 if node.damaged or not node.running else node.applied_index for node in nodes]
        behind = last - min(starts)
        turn = 3 * options.latency + 3 * options.sync_seconds + options.turn_seconds + 0.005
        pieces = 0.0
        for log in logs:
            if log.snapshots.latest is not None:
                pieces = max(pieces, log.snapshots.latest.size / options.snapshot_chunk_bytes)
        return ELECTION_SECONDS + (behind + self._to_come() + pieces) * turn

    def _to_come(self) -> int:
        """Entries of those who wait for an answer."""
        return len(self.workload.waiting)

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


def lying_fsync(simulation: Simulation) -> None:
    """Every fsync says yes and does nothing, as some drives do: nobody can promise anything on such disks."""
    for node in simulation.nodes.values():
        node.disk.lying = True


CONTROLS: dict[str, Callable[[Simulation], None]] = {"lying-fsync": lying_fsync}
"""Positive controls: what the simulator must notice."""
