"""What a leader of the real machine does by itself: stamps (R1), genesis, expiry with its grace, schedules (R2)."""

from __future__ import annotations

from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.workload import Workload
from tests.simulation.world import World
from tests.tokens import SECRET
from trivet.consensus.port import Outcome
from trivet.machine import commands as c
from trivet.node.stamps import Stamper
from trivet.node.timekeeper import Timekeeper
from trivet.wire.entry import encode_entry

GRACE_SECONDS = 1.0  # no lease ends for so long after taking office (R1; shorter here, so that leases do end)
LOOK_SECONDS = 0.01  # the product's timer looks every 20 ms
FRUITLESS_SECONDS = 0.1  # between two expiries while the grace holds back what is due


class LeaderDuties(Workload):
    """`stampers`: one for each running node, made anew at boot."""

    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        super().__init__(world, options, nodes)
        self.stampers: dict[str, Stamper] = {}
        self.expire_limit = self.rng.choice((3, 10, 1000))
        self._office: dict[str, tuple[int, int, float]] = {}
        self._expiring: dict[str, tuple[int, int]] = {}
        self._look_again: dict[str, float] = {}  # when to look for what is due
        self._timekeepers: dict[tuple[str, int], Timekeeper] = {}  # of each incarnation of a node
        self._firing: dict[str, tuple[int, int]] = {}
        self._slots_again: dict[str, float] = {}

    def stamp(self, node: SimNode) -> int:
        assert node.machine is not None
        return self.stampers[node.name].now_ms(node.machine.machine.clock_ms)  # type: ignore[attr-defined]

    def duties(self, node: SimNode) -> None:
        """After each turn of a leader."""
        replica = node.replica
        if replica is None or node.machine is None or not replica.can_propose:
            return
        machine, now = node.machine.machine, self.world.now  # type: ignore[attr-defined]
        office = (node.incarnation, replica.term)
        if self._office.get(node.name, (0, 0, 0.0))[:2] != office:
            self._office[node.name] = (*office, now)
            self._expiring.pop(node.name, None)
            self._firing.pop(node.name, None)
            self.stampers[node.name].take_office(machine.clock_ms)
            if not machine.cluster_id:
                self._duty(node, c.Genesis("simulated", SECRET, tuple(node.members)))
        self._fire(node, office)
        if self._expiring.get(node.name) == office or now < self._look_again.get(node.name, 0.0):
            return
        self._look_again[node.name] = now + LOOK_SECONDS
        due = machine.next_deadline_ms()
        if due is not None and due <= self.stampers[node.name].peek_ms(machine.clock_ms):
            leases = now >= self._office[node.name][2] + GRACE_SECONDS
            self._expiring[node.name] = office
            if not leases:
                self._look_again[node.name] = now + FRUITLESS_SECONDS
            self._duty(node, c.Expire(self.expire_limit, leases))

    def _fire(self, node: SimNode, office: tuple[int, int]) -> None:
        now = self.world.now
        if self._firing.get(node.name) == office or now < self._slots_again.get(node.name, 0.0):
            return
        self._slots_again[node.name] = now + LOOK_SECONDS
        assert node.machine is not None
        machine = node.machine.machine  # type: ignore[attr-defined]
        keeper = self._timekeepers.setdefault((node.name, node.incarnation), Timekeeper(True))
        command = keeper.next_command(machine.schedules, self.stampers[node.name].peek_ms(machine.clock_ms))
        if command is not None:
            self._firing[node.name] = office
            self._duty(node, command, self._firing)

    def _duty(
        self, node: SimNode, command: c.Command, busy: dict[str, tuple[int, int]] | None = None
    ) -> None:
        def ended(_: Outcome) -> None:
            (self._expiring if busy is None else busy).pop(node.name, None)

        self.next_id += 1
        data = encode_entry(c.MACHINE_VERSION, self.stamp(node), [c.Request(command)])
        self.submit(node, self.next_id, data, ended)
