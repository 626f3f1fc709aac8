"""Connections between simulated nodes.

A connection is seen from each end apart: one side may know it is gone while the other still writes into it.
Two ways of carrying: FIFO without loss inside a connection (TCP), where a cut link holds bytes back until it
heals or the connection dies; or datagrams, which are lost, doubled and reordered (stricter than the product's
transport: the consensus code must not lean on order for safety).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tests.simulation.options import Options
from tests.simulation.world import World
from trivet.wire.frames import AppendReply, Hello, Message, Vote

RETRY_SECONDS = 0.2
"""A node tries again to reach a peer it has no connection to after about this long."""
IDLE_SECONDS = 1.5
"""The transport gives up a connection over which nothing arrives for this long (R34)."""


class Endpoint(Protocol):
    """What the network needs of a node."""

    name: str

    @property
    def running(self) -> bool: ...

    def when_awake(self, action: Callable[[], None]) -> None: ...

    def hello(self) -> Any: ...

    def peer_up(self, peer: str, hello: Any) -> None: ...

    def peer_down(self, peer: str) -> None: ...

    def receive(self, peer: str, frame: bytes) -> None: ...


class Connection:
    """`broken`: no more bytes flow; each end learns of it by itself. One FIFO queue for each direction."""

    __slots__ = ("broken", "first", "last_arrival", "pumping", "queue", "second", "serial")

    def __init__(self, first: str, second: str, serial: int) -> None:
        self.first, self.second, self.serial = first, second, serial
        self.broken = False
        self.queue: dict[str, deque[tuple[float, bytes]]] = {first: deque(), second: deque()}  # by sender
        self.last_arrival: dict[str, float] = {first: 0.0, second: 0.0}
        self.pumping: dict[str, bool] = {first: False, second: False}


class Network:
    """The links of one world."""

    def __init__(self, world: World, options: Options, names: list[str]) -> None:
        self.world, self.options, self.names = world, options, names
        self.rng = world.stream("network")
        self.nodes: dict[str, Endpoint] = {}
        self.perfect = False  # the liveness phase: no loss, no long delays
        self._view: dict[tuple[str, str], Connection] = {}  # (who, whose peer) -> connection as seen there
        self._cuts: dict[tuple[str, str], int] = {}
        self._live: list[Connection] = []  # every connection that may still carry something
        self._serial = 0
        self._heals = 0  # how often all was healed
        self._best: dict[tuple[str, str], tuple[int, bytes]] = {}  # link -> the reply that says to hold most
        self._again = world.stream("repeated datagrams")

    def start(self) -> None:
        for i, a in enumerate(self.names):
            for b in self.names[i + 1 :]:
                self._dial_later(a, b)

    # --- cuts -----------------------------------------------------------------------------------------

    def is_cut(self, sender: str, receiver: str) -> bool:
        return self._cuts.get((sender, receiver), 0) > 0

    def cut(self, links: list[tuple[str, str]], seconds: float) -> None:
        """Nothing passes on these directed links for a while; overlapping cuts add up. No reset is sent."""
        for link in links:
            self._cuts[link] = self._cuts.get(link, 0) + 1
            self._watch_idle(link)
        self.world.trace(f"cut {links}")
        heals = self._heals
        self.world.after(seconds, lambda: self._heal(links, heals))

    def _heal(self, links: list[tuple[str, str]], heals: int) -> None:
        if heals != self._heals:
            return  # all was healed since: what is cut now was cut by somebody else
        for link in links:
            if self._cuts.get(link, 0) > 0:
                self._cuts[link] -= 1
                if self._cuts[link] == 0:
                    self._release(link)

    def heal_all(self) -> None:
        self._heals += 1
        for link in list(self._cuts):
            self._cuts[link] = 0
            self._release(link)

    def _release(self, link: tuple[str, str]) -> None:
        sender, receiver = link
        connection = self._view.get((sender, receiver))
        if connection is not None:
            self._schedule(connection, sender, receiver)

    def _watch_idle(self, link: tuple[str, str]) -> None:
        """A side that hears nothing for IDLE_SECONDS closes (R34); it may also hang on longer."""
        sender, receiver = link
        connection = self._view.get((receiver, sender))
        if connection is None:
            return
        wait = IDLE_SECONDS * self.rng.uniform(0.8, 1.6) if self.rng.random() < 0.8 else 1e9

        def check() -> None:
            if self.is_cut(sender, receiver) and self._view.get((receiver, sender)) is connection:
                self.world.count("link found dead")
                self._break(connection, first_to_know=receiver)

        self.world.after(wait, check)

    # --- life of a connection ---------------------------------------------------------------------------

    def _dial_later(self, a: str, b: str) -> None:
        delay = 0.02 if self.perfect else RETRY_SECONDS * self.rng.uniform(0.05, 1.5)
        self.world.after(delay, lambda: self._dial(a, b))

    def _dial(self, a: str, b: str) -> None:
        self._dial_later(a, b)
        if not (self.nodes[a].running and self.nodes[b].running):
            return
        if self.is_cut(a, b) or self.is_cut(b, a):
            return
        seen_a, seen_b = self._view.get((a, b)), self._view.get((b, a))
        if seen_a is not None and seen_a is seen_b:
            return
        if seen_a is not None and seen_b is not None:
            return  # both hold dead ones and have not noticed yet
        self._serial += 1
        connection = Connection(a, b, self._serial)
        self._live = [c for c in self._live if not c.broken] + [connection]
        self.world.trace(f"connect {a} {b} #{self._serial}")
        sides = [(a, b), (b, a)]
        if self.rng.random() < 0.5:
            sides.reverse()
        at = 0.0
        for me, peer in sides:
            at += self._delay()
            self.world.after(at, lambda me=me, peer=peer: self._open_side(connection, me, peer))  # type: ignore[misc]

    def _open_side(self, connection: Connection, me: str, peer: str) -> None:
        if connection.broken or not self.nodes[me].running:
            return self._break(connection, first_to_know=me)
        if not self.nodes[peer].running:
            return self._break(connection, first_to_know=me)
        hello = self.nodes[peer].hello()

        def opened() -> None:
            old = self._view.get((me, peer))  # of now: a node that was paused opens several in a row
            if old is not None:  # the last one to be opened wins
                del self._view[(me, peer)]
                self._break(old, first_to_know=peer)
                self.nodes[me].peer_down(peer)
            if connection.broken:
                return
            self._view[(me, peer)] = connection
            self.nodes[me].peer_up(peer, hello)
            if self._best.get((peer, me)) is not None:
                self.repeat_to(me)

        self.nodes[me].when_awake(opened)
        return None

    def _break(self, connection: Connection, first_to_know: str | None = None) -> None:
        """Both ends learn of it, each in its own time; bytes already on the way may still arrive before."""
        connection.broken = True
        for me, peer in ((connection.first, connection.second), (connection.second, connection.first)):
            if self._view.get((me, peer)) is not connection:
                continue
            delay = 0.0 if me == first_to_know else self._delay() * self.rng.choice((1, 1, 20))
            if self.is_cut(peer, me) and me != first_to_know:
                delay = IDLE_SECONDS * self.rng.uniform(0.8, 1.6)  # the reset does not get through
            self.world.after(delay, lambda me=me, peer=peer: self._closed(connection, me, peer))  # type: ignore[misc]

    def _closed(self, connection: Connection, me: str, peer: str) -> None:
        def told() -> None:
            if self._view.get((me, peer)) is connection:
                del self._view[(me, peer)]
                self.world.trace(f"down {me} {peer} #{connection.serial}")
                self.nodes[me].peer_down(peer)

        self.nodes[me].when_awake(told)

    def reset(self, a: str, b: str) -> None:
        for me, peer in ((a, b), (b, a)):
            connection = self._view.get((me, peer))
            if connection is not None:
                self._break(connection)

    def node_died(self, name: str, silently: bool) -> None:
        """The process is gone. `silently`: so is its machine, nobody gets a reset (R34)."""
        opening = [c for c in self._live if name in (c.first, c.second)]
        for peer in self.names:
            if peer == name:
                continue
            self._view.pop((name, peer), None)
            connection = self._view.get((peer, name))
            if connection is None:
                continue
            if silently:
                connection.broken = True
                wait = IDLE_SECONDS * self.rng.uniform(0.8, 1.6)
                self.world.after(wait, lambda peer=peer, c=connection: self._closed(c, peer, name))  # type: ignore[misc]
            else:
                self._break(connection)
        for connection in opening:  # also those that no side has opened yet
            connection.broken = True

    def connected(self, a: str, b: str) -> bool:
        seen = self._view.get((a, b))
        return seen is not None and seen is self._view.get((b, a)) and not seen.broken

    # --- messages ---------------------------------------------------------------------------------------

    def _delay(self) -> float:
        rng, options = self.rng, self.options
        delay = options.latency * (0.5 + rng.random())
        if not self.perfect and rng.random() < options.jitter:
            delay *= rng.choice((5, 20, 100))
        return delay

    def send(self, sender: str, receiver: str, frame: bytes, message: Message) -> None:
        """A hello says who this connection is with, so it never outlives it, as datagrams may."""
        connection = self._view.get((sender, receiver))
        if connection is None:
            self.world.count("sent into nothing")
        elif self.options.datagrams and not self.perfect and not isinstance(message, Hello):
            self._send_datagram(connection, sender, receiver, frame)
            if isinstance(message, Vote) and self._again.random() < 0.5:
                self._send_datagram(connection, sender, receiver, frame)
            elif isinstance(message, AppendReply) and message.ok:
                best = self._best.get((sender, receiver))
                if best is None or message.match >= best[0]:
                    self._best[sender, receiver] = (message.match, frame)
        else:
            arrival = max(self.world.now + self._delay(), connection.last_arrival[receiver])
            connection.last_arrival[receiver] = arrival
            connection.queue[sender].append((arrival, frame))
            self._schedule(connection, sender, receiver)

    # datagrams: each on its own

    def _send_datagram(self, connection: Connection, sender: str, receiver: str, frame: bytes) -> None:
        rng = self.rng
        if rng.random() < self.options.loss or self.is_cut(sender, receiver):
            self.world.count("datagram lost")
            return
        copies = 1
        if rng.random() < self.options.duplicate:
            self.world.count("datagram doubled")
            copies = 2
        for _ in range(copies):
            delay = self._delay()
            if rng.random() < 0.02:
                self.world.count("datagram late")
                delay += rng.random() * rng.choice((0.3, 3.0))
            self.world.after(delay, lambda: self._deliver_datagram(connection, sender, receiver, frame))

    def repeat_to(self, receiver: str) -> None:
        """A member has come to office, or to a new connection: now old answers that claim much do the most harm."""
        if not self.options.datagrams or self.perfect:
            return
        for sender in self.names:
            connection, best = self._view.get((receiver, sender)), self._best.get((sender, receiver))
            if connection is None or best is None or self._again.random() < 0.3:
                continue
            self.world.count("old answer again")
            for _ in range(2):
                delay = self._again.choice((0.0, 3.0, 20.0)) * self._again.random() * self.options.latency
                self.world.after(
                    delay, lambda c=connection, s=sender, f=best[1]: self._deliver_datagram(c, s, receiver, f)
                )  # type: ignore[misc]

    def _deliver_datagram(self, connection: Connection, sender: str, receiver: str, frame: bytes) -> None:
        node = self.nodes[receiver]
        if not node.running or self.is_cut(sender, receiver):
            return

        def arrived() -> None:
            # A late one of an earlier connection is delivered too: hazards r15d.
            if (receiver, sender) in self._view:
                node.receive(sender, frame)

        node.when_awake(arrived)

    # TCP: the head of the queue first, whatever happens

    def _schedule(self, connection: Connection, sender: str, receiver: str) -> None:
        queue = connection.queue[sender]
        if queue and not connection.pumping[sender] and not self.is_cut(sender, receiver):
            connection.pumping[sender] = True
            self.world.at(queue[0][0], lambda: self._pump(connection, sender, receiver))

    def _pump(self, connection: Connection, sender: str, receiver: str) -> None:
        connection.pumping[sender] = False
        node = self.nodes[receiver]
        view = self._view.get((receiver, sender))
        if view is not connection:
            gone = connection.broken or (view is not None and view.serial > connection.serial)
            if gone or not node.running:
                connection.queue[sender].clear()
            else:  # the far end has not finished its handshake
                connection.pumping[sender] = True
                self.world.after(0.001, lambda: self._pump(connection, sender, receiver))
            return
        if self.is_cut(sender, receiver):
            return  # held; `_release` goes on
        _, frame = connection.queue[sender].popleft()
        node.when_awake(lambda: self._arrived(connection, sender, receiver, frame))
        self._schedule(connection, sender, receiver)

    def _arrived(self, connection: Connection, sender: str, receiver: str, frame: bytes) -> None:
        if self._view.get((receiver, sender)) is connection:
            self.nodes[receiver].receive(sender, frame)
