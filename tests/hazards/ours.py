"""Trivet's replicas under the same glass: real Storage and Replica on simulated disks, a clock that stands still
unless told, links that move a frame only when told."""

from __future__ import annotations

import random
from collections import defaultdict, deque

from tests.simulation.disk import SimDisk
from tests.simulation.machine import ListMachine, encode_ids
from trivet.consensus.port import Applied, Outcome
from trivet.consensus.replica import Replica
from trivet.consensus.settings import ConsensusSettings
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import Identity, Storage
from trivet.wire import frames

CLUSTER = "hazards"


class Glass:
    """`units.Clock` of all nodes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


class Told(list[Outcome]):
    """The outcomes one proposal was given."""

    @property
    def applied(self) -> bool:
        return len(self) == 1 and isinstance(self[0], Applied)


class Node:
    """One replica; its sync jobs run at once unless `slow`."""

    def __init__(self, trio: Trio, name: str, disk: SimDisk) -> None:
        self.name, self.trio, self.disk = name, trio, disk
        self.slow = False
        self.job = None
        self.sent: list[tuple[str, frames.Message]] = []
        self.storage = Storage.open(disk, name, trio.clock, StorageSettings(segment_bytes=16_384))
        if self.storage.identity is None and name not in trio.wiped:
            self.storage.set_identity(Identity(CLUSTER, tuple(trio.members), "born"))
        self.applied: list[tuple[int, bytes]] = []
        self.machine = ListMachine(lambda index, term, data: self.applied.append((index, data)))
        self.events: list[tuple[object, ...]] = []
        self.replica = Replica(
            name, trio.members, self.storage, self.machine, trio.clock, random.Random(f"{name}/{len(trio.lives)}"),
            self._send, trio.settings, lambda name, fields: self.events.append((name, fields)),
        )  # fmt: skip

    def _send(self, peer: str, message: frames.Message) -> None:
        self.sent.append((peer, message))
        if peer in self.trio.links[self.name]:
            self.trio.queues[(self.name, peer)].append(frames.encode(message))

    def turn(self, tick: bool = True) -> None:
        if tick:
            self.replica.tick()
        while not self.slow and (job := self.replica.take_sync()) is not None:
            job.run()
            self.replica.synced(job)
            if tick:
                self.replica.tick()


class Trio:
    """A cluster that does only what it is told."""

    def __init__(self, names: str = "ABC", settings: ConsensusSettings | None = None) -> None:
        self.clock = Glass()
        self.members = list(names)
        self.settings = settings or ConsensusSettings()
        self.queues: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        self.links: dict[str, set[str]] = {name: set() for name in names}
        self.blocked: set[tuple[str, str]] = set()
        self.wiped: set[str] = set()
        self.lives: list[str] = []
        self.up: dict[str, Node] = {}
        self.disks = {name: SimDisk(random.Random(name)) for name in names}
        for name in names:
            self.start(name)
        self.connect_all()

    def __getitem__(self, name: str) -> Node:
        return self.up[name]

    # --- life -------------------------------------------------------------------------------------------

    def start(self, name: str) -> Node:
        self.lives.append(name)
        self.up[name] = Node(self, name, self.disks[name])
        return self.up[name]

    def kill(self, name: str, power: bool = True) -> None:
        """`power`: what was not synced is gone too."""
        for peer in list(self.links[name]):
            self.disconnect(name, peer)
        del self.up[name]
        if power:
            self.disks[name].crash()
        else:
            self.disks[name].kill()

    # --- links ------------------------------------------------------------------------------------------

    def connect(self, a: str, b: str) -> None:
        if a in self.up and b in self.up and b not in self.links[a]:
            self.links[a].add(b)
            self.links[b].add(a)
            hellos = self.up[a].replica.hello(), self.up[b].replica.hello()
            self.up[a].replica.peer_up(b, hellos[1])
            self.up[b].replica.peer_up(a, hellos[0])

    def connect_all(self) -> None:
        for a in self.members:
            for b in self.members:
                if a < b:
                    self.connect(a, b)

    def disconnect(self, a: str, b: str) -> None:
        for me, peer in ((a, b), (b, a)):
            self.queues[(me, peer)].clear()
            if peer in self.links[me]:
                self.links[me].discard(peer)
                if me in self.up:
                    self.up[me].replica.peer_down(peer)

    def cut_off(self, name: str) -> None:
        for peer in self.members:
            if peer != name:
                self.disconnect(name, peer)

    def block(self, *links: str) -> None:
        self.blocked |= {(link[0], link[1]) for link in links}

    def unblock(self, *links: str) -> None:
        self.blocked -= {(link[0], link[1]) for link in links}

    def deliver(self, source: str, target: str, count: int | None = None) -> None:
        queue = self.queues[(source, target)]
        for _ in range(len(queue) if count is None else count):
            if not queue or (source, target) in self.blocked or target not in self.up:
                return
            node = self.up[target]
            node.replica.receive(source, frames.decode(queue.popleft(), CLUSTER))
            node.turn(tick=False)

    def waiting(self, source: str, target: str) -> list[frames.AnyMessage]:
        return [frames.decode(frame, CLUSTER) for frame in self.queues[(source, target)]]

    def drop(self, source: str, target: str) -> None:
        self.queues[(source, target)].clear()

    # --- time -------------------------------------------------------------------------------------------

    def beat(self, *names: str, seconds: float = 0.11) -> None:
        """Time passes and the named nodes (all) have a turn."""
        self.clock.now += seconds
        for name in names or tuple(self.up):
            if name in self.up:
                self.up[name].turn()

    def run(self, rounds: int = 6, *names: str) -> None:
        """Heartbeat periods in which everything sent is delivered at once."""
        for _ in range(rounds):
            self.beat(*names)
            self.flow()

    def flow(self) -> None:
        """Deliver until nothing moves (messages on blocked links stay)."""
        for _ in range(200):
            moved = False
            for link in sorted(self.queues):
                if self.queues[link] and link not in self.blocked and link[1] in self.up:
                    self.deliver(*link)
                    moved = True
            if not moved:
                return
        raise AssertionError("messages never come to rest")

    def elect(self, name: str, among: str | None = None) -> Node:
        """Only `name` has turns until it leads and has committed its no-op; the others just answer."""
        for _ in range(60):
            self.beat(name, seconds=0.1)
            self.flow()
            if self.up[name].replica.can_propose:
                return self.up[name]
        raise AssertionError(f"{name} is not elected: {self.up[name].replica.status()}")

    # --- clients ----------------------------------------------------------------------------------------

    def propose(self, name: str, *values: int, padding: int = 0, deadline_s: float = 60.0) -> Told:
        told = Told()
        self.up[name].replica.propose(encode_ids(list(values), padding), told.append, deadline_s)
        self.up[name].turn(tick=False)
        return told

    def ids(self, name: str) -> list[int]:
        return self.up[name].machine.ids
