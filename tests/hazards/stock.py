"""The stock library under glass: real PySyncObj 0.3.17 objects, a clock that stands still unless told, links
that move a message only when told. Nothing of its logic is patched: only the module's time and random source.

Private names are read, and written in one case only: to say "your election timer fires now".
"""

from __future__ import annotations

import pickle
import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj as library
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

NAMES = {value: name for name, value in vars(FAIL_REASON).items() if not name.startswith("_")}
NEVER = 1e9


_opened: list[SyncObj] = []
_clock, _random = library.monotonicTime, library.random


def put_back() -> None:
    """After a test: files of all stock journals closed, the library's own clock and random source in place."""
    library.monotonicTime, library.random = _clock, _random
    opened, _opened[:] = _opened[:], []
    for node in opened:
        close_journal(hidden(node, "raftLog"))


def close_journal(journal: Any) -> None:
    """The mapped file of a stock journal, if it has one and nobody has closed it yet."""
    file = getattr(journal, "_FileJournal__journalFile", None)
    if file is None:
        return
    mapped, handle = file._ResizableFile__mm, file._ResizableFile__f
    if not mapped.closed:
        mapped.close()
    handle.close()


class Time:
    """The library's monotonic clock. `per_look` seconds pass at each look: code that takes long."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.per_look = 0.0

    def __call__(self) -> float:
        self.now += self.per_look
        return self.now


class Heard(list[tuple[Any, str]]):
    """What the callback of one command was told: (result, reason) pairs."""

    def __call__(self, result: Any, reason: int) -> None:
        self.append((result, NAMES[reason]))


class Wires:
    """One FIFO queue for each directed link."""

    def __init__(self) -> None:
        self.queues: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        self.up: dict[str, MemoryTransport] = {}
        self.blocked: set[tuple[str, str]] = set()

    def send(self, source: str, target: str, message: Any) -> None:
        queue = self.queues[(source, target)]
        if len(queue) > 50_000:
            raise OverflowError(f"{source} floods {target}")
        queue.append(pickle.dumps(message))

    def waiting(self, source: str, target: str) -> list[Any]:
        return [pickle.loads(each) for each in self.queues[(source, target)]]

    def deliver(self, source: str, target: str, count: int | None = None) -> None:
        queue = self.queues[(source, target)]
        for _ in range(len(queue) if count is None else count):
            if not queue or (source, target) in self.blocked:
                return
            message = pickle.loads(queue.popleft())
            receiver = self.up.get(target)
            if receiver is not None and source in receiver.peers:
                receiver._onMessageReceived(Node(source), message)

    def deliver_all(self) -> None:
        for link in sorted(self.queues):
            self.deliver(*link)

    def drop(self, source: str, target: str) -> int:
        lost = len(self.queues[(source, target)])
        self.queues[(source, target)].clear()
        return lost

    def block(self, *links: str) -> None:
        """Links as two letters each: "AB" is from A to B."""
        self.blocked |= {(link[0], link[1]) for link in links}

    def unblock(self, *links: str) -> None:
        self.blocked -= {(link[0], link[1]) for link in links}

    def connect(self, a: str, b: str) -> None:
        for me, peer in ((a, b), (b, a)):
            transport = self.up.get(me)
            if transport is not None and peer in self.up and peer not in transport.peers:
                transport.peers.add(peer)
                transport._onNodeConnected(Node(peer))

    def disconnect(self, a: str, b: str) -> None:
        for me, peer in ((a, b), (b, a)):
            transport = self.up.get(me)
            if transport is not None and peer in transport.peers:
                transport.peers.discard(peer)
                transport._onNodeDisconnected(Node(peer))
            self.queues[(me, peer)].clear()

    def kill(self, name: str) -> None:
        for other in list(self.up):
            if other != name:
                self.disconnect(name, other)
        self.up.pop(name, None)


class MemoryTransport(Transport):  # type: ignore[misc]
    def __init__(self, wires: Wires, me: str) -> None:
        super().__init__(None, None, [])
        self.wires, self.me = wires, me
        self.peers: set[str] = set()
        wires.up[me] = self

    def send(self, node: Node, message: Any) -> bool:
        if node.id not in self.peers:
            return False
        self.wires.send(self.me, node.id, message)
        return True

    def addNode(self, node: Node) -> None:
        self.wires.connect(self.me, node.id)

    def dropNode(self, node: Node) -> None:
        self.wires.disconnect(self.me, node.id)

    def destroy(self) -> None:
        self.wires.kill(self.me)


class Listing(SyncObj):  # type: ignore[misc]
    """A state machine in the library's own way: the values in the order they were applied."""

    def __init__(
        self, me: str, others: list[str], conf: SyncObjConf, transport: Transport, **more: Any
    ) -> None:
        super().__init__(
            Node(me), [Node(each) for each in others], conf, nodeClass=Node, transport=transport, **more
        )
        _opened.append(self)
        self.applied: list[Any] = []

    @replicated  # type: ignore[untyped-decorator]
    def op(self, value: Any) -> int:
        self.applied.append(value)
        return len(self.applied)


def settings(**changes: Any) -> SyncObjConf:
    changes.setdefault("autoTick", False)
    changes.setdefault("appendEntriesUseBatch", False)
    return SyncObjConf(**changes)


def hidden(node: SyncObj, name: str) -> Any:
    return getattr(node, "_SyncObj__" + name)


class Cluster:
    """Stock nodes that elect only when told."""

    def __init__(
        self,
        names: str = "ABC",
        kind: type[SyncObj] = Listing,
        conf_for: Callable[[str], SyncObjConf] = lambda name: settings(),
    ) -> None:
        self.time = Time()
        library.monotonicTime = self.time
        library.random = random.Random(7)
        self.wires = Wires()
        self.names, self.kind, self.conf_for = list(names), kind, conf_for
        self.nodes: dict[str, Any] = {}
        for name in names:
            self.start(name, connect=False)
        self.connect_all()

    def __getitem__(self, name: str) -> Any:
        return self.nodes[name]

    def start(self, name: str, connect: bool = True) -> Any:
        others = [each for each in self.names if each != name]
        node = self.kind(name, others, self.conf_for(name), MemoryTransport(self.wires, name))
        self.nodes[name] = node
        node._SyncObj__raftElectionDeadline = self.time.now + NEVER
        if connect:
            self.connect_all()
        return node

    def connect_all(self) -> None:
        for a in self.names:
            for b in self.names:
                if a < b:
                    self.wires.connect(a, b)

    def tick(self, *names: str) -> None:
        for name in names or tuple(each for each in self.names if each in self.wires.up):
            self.nodes[name].doTick(0)

    def hold_elections(self) -> None:
        for node in self.nodes.values():
            node._SyncObj__raftElectionDeadline = self.time.now + NEVER

    def run(self, rounds: int = 6) -> None:
        for _ in range(rounds):
            self.beat()
            self.wires.deliver_all()
            self.hold_elections()

    def beat(self, *names: str) -> None:
        """One heartbeat period passes and the named nodes (all) tick."""
        self.time.now += 0.11
        self.tick(*names)

    def fire_election(self, name: str) -> None:
        self.nodes[name]._SyncObj__raftElectionDeadline = self.time.now - 1
        self.tick(name)
        self.nodes[name]._SyncObj__raftElectionDeadline = self.time.now + NEVER

    def elect(self, name: str) -> Any:
        self.fire_election(name)
        self.run(4)
        assert self.nodes[name]._isLeader()
        return self.nodes[name]

    def propose(self, name: str, value: Any) -> Heard:
        heard = Heard()
        self.nodes[name].op(value, callback=heard)
        return heard

    def indices(self, name: str) -> list[int]:
        return [entry[1] for entry in hidden(self.nodes[name], "raftLog")[:]]

    def holders(self, value: str) -> list[str]:
        needle = value.encode()
        return [
            name
            for name in self.names
            if any(needle in entry[0] for entry in hidden(self.nodes[name], "raftLog")[:])
        ]


def alone(conf: SyncObjConf, kind: type[SyncObj] = Listing) -> tuple[Any, Time]:
    """One stock node that leads itself."""
    time = Time()
    library.monotonicTime = time
    library.random = random.Random(7)
    node = kind("A", [], conf, MemoryTransport(Wires(), "A"))
    node._SyncObj__raftElectionDeadline = 0
    node.doTick(0)
    return node, time


def feed(node: Any, *values: Any) -> list[Heard]:
    """Propose on a single node and tick until each is answered."""
    heards = []
    for value in values:
        heard = Heard()
        node.op(value, callback=heard)
        node.doTick(0)
        node.doTick(0)
        heards.append(heard)
    return heards
