"""Clients of the trivial machine: each proposal carries an id of its own, and its one outcome is judged.

Laws: acked ⊂ final state; nothing twice; `NotProposed` never appears; one outcome each; a linearizable read
sees every write that was acknowledged before it began (reliability B1).
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.machine import encode_ids
from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.world import World
from trivet.consensus.port import Applied, NotProposed, Outcome

DEADLINE_SECONDS = 3.0
LATE_SECONDS = 2.0  # of virtual time behind the deadline, for a node with a slow clock or a pause


class Workload:
    """Proposes and reads at whichever node believes it leads, the deposed ones too."""

    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        self.world, self.options, self.nodes = world, options, nodes
        self.rng = world.stream("workload")
        self.stopped = False
        self.next_id = 0
        self.waiting: dict[int, tuple[float, str]] = {}  # proposal -> (given up at, node)
        self.acked: dict[int, int] = {}  # id -> index
        self.refused: set[int] = set()
        self.acked_to = 0
        self.where: dict[int, int] = {}  # id -> the index it was applied at
        self.on_acknowledged: list[Callable[[SimNode], None]] = []  # the node that answered a client

    def start(self) -> None:
        self.world.after(self.rng.uniform(0.0, 1.0), self._next)

    def stop(self) -> None:
        self.stopped = True

    def _next(self) -> None:
        if self.stopped:
            return
        believers = [node for node in self.nodes.values() if node.is_leader]
        if not believers and self.rng.random() < 0.05:
            believers = [node for node in self.nodes.values() if node.running]
        if believers:
            node = self.rng.choice(believers)
            if self.rng.random() < self.options.read_share:
                self.read(node)
            else:
                for _ in range(self.rng.choice((1, 1, 1, 5))):
                    self.propose(node)
        self.world.after(self.rng.expovariate(1.0 / self.options.op_every), self._next)

    # --- writes ---------------------------------------------------------------------------------------

    def propose(self, node: SimNode, done: Callable[[Outcome], None] | None = None) -> int:
        self.next_id += 1
        ids = [self.next_id]
        while self.rng.random() < 0.3:
            self.next_id += 1
            ids.append(self.next_id)
        self.world.count("proposed", len(ids))

        def judged(what: Outcome) -> None:
            self._judge(node, ids, what)
            if done is not None:
                done(what)

        data = encode_ids(ids, self.rng.randrange(self.options.op_bytes))
        self.submit(node, ids[0], data, judged)
        return ids[0]

    def submit(self, node: SimNode, proposal: int, data: bytes, judged: Callable[[Outcome], None]) -> None:
        """One entry at one node; its outcome must come once and in time."""
        self.waiting[proposal] = (self.world.now + DEADLINE_SECONDS, node.name)
        incarnation = node.incarnation
        answered = False

        def outcome(what: Outcome) -> None:
            nonlocal answered
            if answered:
                self.world.violate("one outcome", f"{node.name} answers proposal {proposal} again: {what}")
            answered = True
            if node.incarnation == incarnation:
                self.waiting.pop(proposal, None)
            judged(what)

        node.submit(data, outcome, DEADLINE_SECONDS)

    def _judge(self, node: SimNode, ids: list[int], what: Outcome) -> None:
        if isinstance(what, Applied):
            self.world.count("acked", len(ids))
            if what.result != tuple(ids):
                self.world.violate("wrong answer", f"proposal {ids} got {what.result} at {what.index}")
            for each in ids:
                if self.where.get(each) != what.index:
                    self.world.violate(
                        "acked elsewhere", f"{each} acked at {what.index}, is at {self.where.get(each)}"
                    )
                self.acked[each] = what.index
            self.acknowledged(node, what.index)
        elif isinstance(what, NotProposed):
            self.world.count(f"not proposed: {what.reason}")
            for each in ids:
                self.refused.add(each)
                if each in self.where:
                    self.world.violate(
                        "NotProposed appeared", f"{each} is at {self.where[each]}, said {what}"
                    )
        else:
            self.world.count(f"unknown: {what.reason}")

    def applied(self, index: int, ids: list[int]) -> None:
        """Called for the first node that applies an index (all others are compared with it)."""
        for each in ids:
            if each in self.where:
                self.world.violate("applied twice", f"{each} at {self.where[each]} and {index}")
            if each in self.refused:
                self.world.violate("NotProposed appeared", f"{each} at {index}")
            self.where[each] = index

    def node_died(self, node: SimNode) -> None:
        """Its answers died with it: the clients will not know."""
        for proposal, (_, name) in list(self.waiting.items()):
            if name == node.name:
                del self.waiting[proposal]
                self.world.count("unknown: node died")
                self.died_with(proposal)

    def died_with(self, proposal: int) -> None:
        """The node that had it is gone without an answer."""

    def check_deadlines(self) -> None:
        for proposal, (until, name) in self.waiting.items():
            node = self.nodes[name]
            late = max(until, node.awake_since) + LATE_SECONDS
            if self.world.now > late and not node.paused:
                self.world.violate("no outcome", f"proposal {proposal} at {name} was to end at {until:.2f}")

    # --- reads ----------------------------------------------------------------------------------------

    def acknowledged(self, node: SimNode, index: int) -> None:
        """A client has its answer. From now on nobody may serve older state: whoever else still believes to lead
        is asked at once, because that is when a stale answer can be caught."""
        self.acked_to = max(self.acked_to, index)
        for told in self.on_acknowledged:
            told(node)
        for other in self.nodes.values():
            if other is not node and other.is_leader:
                self.world.count("reads at a deposed leader")
                self.read(other)

    def resumed(self, node: SimNode) -> None:
        """A paused leader wakes up and has not heard yet what happened meanwhile."""
        if node.is_leader:
            self.world.count("reads at a leader that was paused")
            self.read(node)

    def read(self, node: SimNode) -> None:
        seen = self.acked_to  # all of these were acknowledged before the read began
        answered = False

        def done(fine: bool) -> None:
            nonlocal answered
            if answered:
                self.world.violate("one answer", f"{node.name} answers a read again")
            answered = True
            self.world.count("reads served" if fine else "reads refused")
            if fine and node.applied_index < seen:
                self.world.violate(
                    "stale read",
                    f"{node.name} serves at {node.applied_index}, {seen} was acknowledged before",
                )

        node.read(done)

    # --- the end --------------------------------------------------------------------------------------

    def check_final(self, ids: list[int], applied_index: int) -> None:
        state = set(ids)
        if len(state) != len(ids):
            self.world.violate("applied twice", f"{len(ids) - len(state)} ids")
        lost = sorted(set(self.acked) - state)
        if lost:
            self.world.violate("acked lost", f"{len(lost)} of {len(self.acked)}, the first {lost[:5]}")
        wrong = sorted(state & self.refused)
        if wrong:
            self.world.violate("NotProposed appeared", f"{wrong[:5]}")
        if applied_index < self.acked_to:
            self.world.violate("acked lost", f"final state at {applied_index}, acked to {self.acked_to}")
