"""A few replicas over the real storage, one clock, and a net that does exactly what a test says."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulation.disk import SimDisk
from trivet.consensus.applying import LATER_ENTRIES_MAX
from trivet.consensus.port import Outcome, OutOfTime
from trivet.consensus.replica import Replica
from trivet.consensus.settings import ConsensusSettings
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import Identity, Storage
from trivet.wire import frames
from trivet.wire.frames import Message

CLUSTER = "lab"
STEP_S = 0.005


class LabClock:
    """Seconds by hand. `wall_offset_ms` is this node's error."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.wall_offset_ms = 0

    def monotonic(self) -> float:
        return self._lab.now

    def wall_ms(self) -> int:
        return int(self._lab.now * 1000) + self.wall_offset_ms


class Notes:
    """A state machine that keeps what it applied; one step for each byte when `slow`."""

    def __init__(self) -> None:
        self.applied_index = 0
        self.kept: list[tuple[int, bytes]] = []
        self.result: Any = None
        self.slow = False
        self.steps = 0
        self.fail_at: int | None = None
        self._now: tuple[int, bytes] | None = None
        self._left = 0

    def start(self, index: int, term: int, data: bytes) -> None:
        assert index == self.applied_index + 1 and self._now is None
        self._now = (index, data)
        self._left = len(data) if self.slow else 0

    def step(self, out_of_time: OutOfTime) -> bool:
        assert self._now is not None
        self.steps += 1
        index, data = self._now
        if index == self.fail_at:
            raise RuntimeError("a defect of the machine")
        if self._left > 0:
            self._left -= 1
            return False
        self._now = None
        self.applied_index = index
        self.result = data
        if data:
            self.kept.append((index, data))
        return True

    def open_snapshot(self) -> Source:
        assert self._now is None
        return Source(self)

    def begin_install(self) -> Sink:
        return Sink(self)


class Source:
    def __init__(self, machine: Notes) -> None:
        self.index = machine.applied_index
        self._pieces = deque(b"%d %s\n" % (i, d.hex().encode()) for i, d in machine.kept)
        self._pieces.appendleft(b"%d\n" % machine.applied_index)

    def read(self, out_of_time: OutOfTime) -> bytes | None:
        return self._pieces.popleft() if self._pieces else None

    def close(self) -> None:
        self._pieces.clear()


class Sink:
    def __init__(self, machine: Notes) -> None:
        self._machine = machine
        self._bytes = b""
        self._new: tuple[int, list[tuple[int, bytes]]] | None = None
        self.aborted = False

    def write(self, piece: bytes, out_of_time: OutOfTime) -> bytes:
        self._bytes += piece
        return b""

    def check(self, index: int, out_of_time: OutOfTime) -> bool:
        head, *lines = self._bytes.splitlines()
        if int(head) != index:
            raise ValueError(f"a snapshot of {int(head)}, not {index}")
        pairs = [line.split(b" ") for line in lines]
        self._new = index, [(int(i), bytes.fromhex(d.decode())) for i, d in pairs]
        return True

    def finish(self) -> None:
        assert self._new is not None
        self._machine.applied_index, self._machine.kept = self._new

    def abort(self) -> None:
        self.aborted = True


class LabNode:
    """One process that can die; its disk outlives it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.disk = SimDisk(random.Random(name))
        self.clock = LabClock(lab)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.disk_stalled = False
        self.lives = 0
        self.alive = False
        self.machine: Notes
        self.storage: Storage
        self.replica: Replica
        self.job: Any = None

    def start(self, identity: bool = True) -> None:
        lab = self.lab
        self.lives += 1
        self.job = None
        self.storage = Storage.open(
            self.disk, self.name, self.clock, StorageSettings(segment_bytes=lab.segment_bytes)
        )
        if identity and self.storage.identity is None:
            self.storage.set_identity(Identity(CLUSTER, tuple(lab.names), "born"))
        self.machine = Notes()
        self.replica = Replica(
            self.name,
            lab.names,
            self.storage,
            self.machine,
            self.clock,
            random.Random(f"{lab.seed} {self.name} {self.lives}"),
            self._send,
            lab.settings,
            lambda name, fields: self.events.append((name, fields)),
        )
        self.alive = True

    def _send(self, peer: str, message: Message) -> None:
        self.lab.sent(self.name, peer, message)

    def sync(self) -> None:
        """Everything handed out by now reaches the disk."""
        while self.alive and not self.disk_stalled:
            self.job = self.job or self.replica.take_sync()
            if self.job is None:
                return
            self.job.run()
            job, self.job = self.job, None
            self.replica.synced(job)

    @property
    def engine(self) -> Any:
        return self.replica._engine

    def saw(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]

    def log(self) -> list[tuple[int, bytes]]:
        storage = self.storage
        items = (
            storage.entries(storage.base_index + 1, storage.last_index + 1, 1 << 40)
            if storage.last_index
            else []
        )
        return [(term, data) for _, term, data in items]


class Lab:
    """`net` holds messages in order; `block` has directed links that carry nothing; `tamper` may change or drop."""

    def __init__(
        self,
        names: str = "abc",
        seed: int = 1,
        segment_bytes: int = 1 << 16,
        identity: bool = True,
        down: str = "",
        **settings: Any,
    ) -> None:
        self.names = list(names)
        self.seed = seed
        self.segment_bytes = segment_bytes
        self.settings = ConsensusSettings(**settings)
        self.now = 1000.0
        self.net: deque[tuple[str, str, bytes]] = deque()
        self.block: set[tuple[str, str]] = set()
        self.links: set[tuple[str, str]] = set()
        self.seen: list[tuple[str, str, Message]] = []
        self.tamper: Callable[[str, str, Message], Message | None] | None = None
        self.nodes = {name: LabNode(self, name) for name in self.names}
        for node in self.nodes.values():
            if node.name not in down:
                node.start(identity)
        self.connect_all()

    def __getitem__(self, name: str) -> LabNode:
        return self.nodes[name]

    # --- net ------------------------------------------------------------------------------------------

    def sent(self, sender: str, receiver: str, message: Message) -> None:
        self.seen.append((sender, receiver, message))
        if (sender, receiver) in self.links:
            self.net.append((sender, receiver, frames.encode(message)))

    def connect(self, a: str, b: str) -> None:
        if (a, b) in self.links or not (self[a].alive and self[b].alive):
            return
        self.links |= {(a, b), (b, a)}
        hello_a, hello_b = self[a].replica.hello(), self[b].replica.hello()
        self[a].replica.peer_up(b, hello_b)
        self[b].replica.peer_up(a, hello_a)

    def connect_all(self) -> None:
        for i, a in enumerate(self.names):
            for b in self.names[i + 1 :]:
                self.connect(a, b)

    def disconnect(self, a: str, b: str) -> None:
        if (a, b) in self.links:
            self.links -= {(a, b), (b, a)}
            self.net = deque(item for item in self.net if {item[0], item[1]} != {a, b})
            for x, y in ((a, b), (b, a)):
                if self[x].alive:
                    self[x].replica.peer_down(y)

    def isolate(self, name: str) -> None:
        """Cut without a reset."""
        for other in self.names:
            if other != name:
                self.block |= {(name, other), (other, name)}

    def heal(self) -> None:
        self.block.clear()
        self.connect_all()

    def deliver(self) -> None:
        """One hop: what is sent meanwhile waits for the next call."""
        for _ in range(len(self.net)):
            if not self.net:
                return
            sender, receiver, frame = self.net.popleft()
            if (sender, receiver) in self.block or not self[receiver].alive:
                continue
            message: Message | None = frames.decode(frame)
            if self.tamper is not None and message is not None:
                message = self.tamper(sender, receiver, message)
            if message is not None:
                self[receiver].replica.receive(sender, message)

    # --- life -----------------------------------------------------------------------------------------

    def kill(self, name: str, power: bool = True) -> None:
        """`power`: what was not synced is gone too."""
        node = self[name]
        node.alive = False
        for other in self.names:
            if other != name:
                self.disconnect(name, other)
        node.disk.crash() if power else node.disk.kill()

    def start(self, name: str, identity: bool = True) -> None:
        self[name].start(identity)
        self.connect_all()

    def wipe(self, name: str) -> None:
        self[name].disk.wipe()

    # --- time -----------------------------------------------------------------------------------------

    def step(self, seconds: float = STEP_S) -> None:
        self.now += seconds
        for node in self.nodes.values():
            if node.alive:
                node.replica.tick()
        for _ in range(4):
            self.deliver()
            for node in self.nodes.values():
                node.sync()
        for node in self.nodes.values():
            if node.alive:
                _tick_again(node.replica)
        self.deliver()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def until(self, what: Callable[[], Any], seconds: float = 10.0) -> float:
        """Steps until `what()`; answers how long it took. Fails after `seconds`."""
        begin = self.now
        while not what():
            assert self.now - begin < seconds, "it did not happen"
            self.step()
        return self.now - begin

    # --- help -----------------------------------------------------------------------------------------

    def leaders(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.alive and node.replica.is_leader]

    def leader(self) -> LabNode:
        """Runs until exactly one node may propose."""
        self.until(lambda: [n for n in self.nodes.values() if n.alive and n.replica.can_propose])
        return max(
            (n for n in self.nodes.values() if n.alive and n.replica.is_leader), key=lambda n: n.replica.term
        )

    def followers(self) -> list[LabNode]:
        leader = self.leader()
        return [node for node in self.nodes.values() if node.alive and node is not leader]

    def put(
        self, node: LabNode, count: int = 1, tag: str = "x", size: int = 0, deadline_s: float = 5.0
    ) -> list[Outcome]:
        got: list[Outcome] = []
        for number in range(count):
            node.replica.propose(f"{tag}{number}".encode() + b"." * size, got.append, deadline_s)
        return got

    def same(self) -> bool:
        states = [(n.machine.applied_index, n.machine.kept) for n in self.nodes.values() if n.alive]
        return all(state == states[0] for state in states)


def _tick_again(replica: Replica) -> None:
    """At a time at which it has ticked: where `steady` says so, the driver leaves this one out."""
    steady = replica.steady
    before = (replica.role, replica.term, replica.leader, replica.commit_index)
    may_apply = LATER_ENTRIES_MAX if replica.role == "follower" else 0
    applied = replica.applied_index
    replica.tick()
    after = (replica.role, replica.term, replica.leader, replica.commit_index)
    assert not steady or after == before, f"steady, and yet {before} became {after}"
    assert not steady or replica.applied_index <= applied + may_apply, "steady, and yet much was applied"
