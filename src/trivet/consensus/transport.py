"""Links between members over TCP: one live connection a pair, hello first, bounded in every direction.

Of two members the one with the higher id dials; a newer connection of a pair replaces the older one.
A frame that is damaged, too large, of another cluster or of another node ends its connection: the other
side dials anew and consensus sends again what was lost (it survives loss, so nothing is queued for a peer
that is not connected).

R34: a lost machine sends no reset. An idle link carries an empty frame every 0.3 s; a link over which
nothing arrived for 1.2 s is ended, and the kernel gives up unacknowledged data after 1.5 s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, cast

from trivet.limits import FRAME_BYTES_MAX
from trivet.units import KIB, MIB, Clock
from trivet.wire.frames import (
    HEADER,
    PROTOCOL,
    AnyMessage,
    FrameError,
    FrameReader,
    Hello,
    Message,
    decode_body,
    encode,
)

HELLO_SECONDS = 2.0
CONNECT_SECONDS = 1.0
QUIET_SECONDS = 0.3  # then an empty frame is sent
SILENCE_SECONDS = 1.2  # then the link is dead
CHECK_SECONDS = 0.1
USER_TIMEOUT_MS = 1500
WRITE_BUFFER_BYTES_MAX = 64 * MIB  # more than any window of unacknowledged frames: the peer does not read
REDIAL_FIRST_SECONDS = 0.05
REDIAL_LAST_SECONDS = 0.1  # short: a restarted follower without this link cannot vote for us (R34)
EMPTY_FRAME = HEADER.pack(0, 0)
HELLO_BYTES_MAX = 64 * KIB


class TransportEvents(Protocol):
    """What the links report. Called in the loop."""

    def link_up(self, peer: str, hello: Hello) -> None: ...

    def link_down(self, peer: str, reason: str) -> None: ...

    def refused(self, peer: str | None, address: str, reason: str) -> None:
        """A connection was turned away: bad hello, bad frame, unknown node."""
        ...

    def received(self, peer: str, message: AnyMessage) -> None:
        """A message after the first hello; a later `Hello` says what has changed."""
        ...


class Traffic:
    """Counters, read at scrape time."""

    __slots__ = ("bytes_in", "bytes_out", "drops", "frames_in", "frames_out")

    def __init__(self) -> None:
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = self.drops = 0


class PeerLinks:
    """The connections of one node. All methods belong to the loop's thread."""

    def __init__(
        self,
        node_id: str,
        addresses: Mapping[str, tuple[str, int]],
        *,
        hello: Callable[[], Hello],
        cluster_id: Callable[[], str | None],
        events: TransportEvents,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`addresses`: Raft address by node id, this node included. `hello`: what to say now.
        `cluster_id`: the only cluster spoken to; None or empty before birth."""
        self.node_id = node_id
        self.addresses = dict(addresses)
        self.traffic = Traffic()
        self._hello = hello
        self._cluster_id = cluster_id
        self._events = events
        self._clock = clock
        self._rng = rng
        self._live: dict[str, _Link] = {}
        self._all: set[_Link] = set()
        self._dirty: dict[_Link, None] = {}
        self._server: asyncio.Server | None = None
        self._listen_host = ""
        self._dialers: list[asyncio.Task[None]] = []
        self._check: asyncio.TimerHandle | None = None
        self._checked_at = 0.0
        self._nudges: dict[str, asyncio.Event] = {}
        self._stopped = False

    # --- life -------------------------------------------------------------------------------------------

    async def start(self, listen: tuple[str, int]) -> None:
        """Binds and begins to dial, from the same address if that is a concrete one: a firewall then sees
        which member speaks. Raises `OSError` if the address is taken."""
        loop = asyncio.get_running_loop()
        self._listen_host = listen[0]
        self._server = await loop.create_server(lambda: _Link(self, None), *listen, reuse_address=True)
        for peer in sorted(self.addresses):
            if peer < self.node_id:
                self._nudges[peer] = asyncio.Event()
                self._dialers.append(loop.create_task(self._dial(peer), name=f"dial-{peer}"))
        self._checked_at = self._clock.monotonic()
        self._check = loop.call_later(CHECK_SECONDS, self._check_links)

    async def stop(self) -> None:
        """Closes everything: when it returns no socket is open. No event is reported any more."""
        self._stopped = True
        if self._check is not None:
            self._check.cancel()
            self._check = None
        for task in self._dialers:
            task.cancel()
        for task in self._dialers:
            with suppress(asyncio.CancelledError):
                await task
        self._dialers.clear()
        links = list(self._all)
        for link in links:
            link.end("stopped", quiet=True)
        for link in links:
            await link.closed.wait()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connected(self) -> frozenset[str]:
        return frozenset(self._live)

    def hello_of(self, peer: str) -> Hello | None:
        """What the peer said when its link came up; None while there is no link."""
        link = self._live.get(peer)
        return None if link is None else link.their_hello

    def drop(self, peer: str, reason: str) -> None:
        """End the link to `peer`; both sides say hello anew."""
        link = self._live.get(peer)
        if link is not None:
            link.end(reason)

    @property
    def cluster_id(self) -> str | None:
        """The only cluster spoken to; None before birth."""
        return self._cluster_id() or None

    def quiet_for(self, peer: str) -> float | None:
        """Seconds since anything came from `peer`; None while there is no link."""
        link = self._live.get(peer)
        return None if link is None else self._clock.monotonic() - link.received_at

    # --- sending ----------------------------------------------------------------------------------------

    def send(self, peer: str, message: Message) -> None:
        """Buffers a frame until `flush`. Dropped when the peer is not connected."""
        link = self._live.get(peer)
        if link is not None:
            link.put(encode(message))
            self._dirty[link] = None

    def flush(self) -> None:
        """One write for each peer with all its frames of the turn."""
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            for link in dirty:
                link.write_out()

    # --- dialing ----------------------------------------------------------------------------------------

    async def _dial(self, peer: str) -> None:
        loop = asyncio.get_running_loop()
        nudge = self._nudges[peer]
        pause = REDIAL_FIRST_SECONDS
        while True:
            nudge.clear()
            if peer not in self._live:
                reached = await self._connect(loop, peer)
                pause = REDIAL_FIRST_SECONDS if reached else min(pause * 1.6, REDIAL_LAST_SECONDS)
            if peer in self._live:
                await nudge.wait()  # until the link is down
                pause = REDIAL_FIRST_SECONDS
            await asyncio.sleep(pause * (1 + self._rng.random()))

    async def _connect(self, loop: asyncio.AbstractEventLoop, peer: str) -> bool:
        """True if a link came up (it may be down again)."""
        link = _Link(self, peer)
        host, port = self.addresses[peer]
        source = (self._listen_host, 0) if _can_dial_from(self._listen_host, host) else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: link, host, port, local_addr=source)
        except (OSError, TimeoutError):
            return False
        await link.settled.wait()
        return link.was_up

    # --- links report -----------------------------------------------------------------------------------

    def _opened(self, link: _Link) -> None:
        self._all.add(link)
        if self._stopped:  # it was being accepted or dialed when the others were ended
            link.end("stopped", quiet=True)

    def _came_up(self, link: _Link, peer: str, hello: Hello) -> None:
        older = self._live.pop(peer, None)
        if older is not None:
            older.end("replaced by a newer connection", quiet=True)
            self._events.link_down(peer, "replaced by a newer connection")
        self._live[peer] = link
        self._events.link_up(peer, hello)

    def _closed(self, link: _Link, reason: str, quiet: bool) -> None:
        self._all.discard(link)
        self._dirty.pop(link, None)
        peer = link.peer
        if peer is None or self._live.get(peer) is not link:
            return
        del self._live[peer]
        if peer in self._nudges:
            self._nudges[peer].set()
        if not quiet:
            self._events.link_down(peer, reason)

    def _check_links(self) -> None:
        now = self._clock.monotonic()
        late = now - self._checked_at > CHECK_SECONDS + QUIET_SECONDS
        self._checked_at = now
        for link in list(self._all):
            # After a pause of our own (stopped, swapped out) the silence is ours: what the peers sent
            # meanwhile waits in the sockets. Give them one round before judging.
            if late:
                link.received_at = now
            link.check(now)
        self._check = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check_links)

    # --- judging a hello --------------------------------------------------------------------------------

    def problem_with(self, hello: Hello, expected: str | None) -> str | None:
        """Why this hello is not from a member of our cluster."""
        own = self.cluster_id
        if hello.protocol != PROTOCOL:
            return f"it speaks peer protocol {hello.protocol}, this node {PROTOCOL}"
        if hello.node_id == self.node_id:
            return f'it calls itself "{hello.node_id}", as this node does'
        if hello.node_id not in self.addresses:
            return f'"{hello.node_id}" is not a member'
        if expected is not None and hello.node_id != expected:
            return f'"{hello.node_id}" answers at the address of "{expected}"'
        if expected is None and hello.node_id < self.node_id:
            return f'"{hello.node_id}" dialed, but the higher id dials'
        if hello.cluster_id and own and hello.cluster_id != own:
            return f"it is of cluster {hello.cluster_id}, this node of {own}"
        return None


class _Link(asyncio.Protocol):
    """One connection, dialed (`expected` is the peer dialed) or accepted."""

    def __init__(self, owner: PeerLinks, expected: str | None) -> None:
        self._owner = owner
        self._expected = expected
        self._transport: asyncio.Transport | None = None
        self._address = "?"
        self._reader = FrameReader(limit=HELLO_BYTES_MAX)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._ended = False
        self._opened_at = 0.0
        self._sent_at = 0.0
        self.received_at = 0.0
        self.peer: str | None = None
        self.their_hello: Hello | None = None
        self.was_up = False
        self.settled = asyncio.Event()  # up, or ended before that
        self.closed = asyncio.Event()  # its socket is closed

    # --- asyncio ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._address = _address_of(self._transport)
        _tune(transport.get_extra_info("socket"))
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        now = self._owner._clock.monotonic()
        self._opened_at = self._sent_at = self.received_at = now
        self._owner._opened(self)
        if self._expected is not None and not self._ended:
            self._say_hello()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self.received_at = self._owner._clock.monotonic()
        self._owner.traffic.bytes_in += len(data)
        try:
            for body in self._reader.feed(data):
                if body:
                    self._owner.traffic.frames_in += 1
                    self._take(body)
                if self._ended:
                    return
        except FrameError as error:
            self._refuse(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("closed by the peer" if exc is None else f"lost: {exc}")
        self.closed.set()

    # --- frames -----------------------------------------------------------------------------------------

    def _take(self, body: bytes) -> None:
        """One body whose checksum was right. Raises `FrameError`."""
        owner = self._owner
        message = decode_body(body, owner.cluster_id)
        if self.peer is None:
            self._take_hello(message)
            return
        if message.node_id != self.peer:
            raise FrameError(f'a frame of "{message.node_id}" on the link of "{self.peer}"')
        if isinstance(message, Hello):
            problem = owner.problem_with(message, self.peer)
            if problem is not None:
                raise FrameError(problem)
            self.their_hello = message
        owner._events.received(self.peer, message)

    def _take_hello(self, message: AnyMessage) -> None:
        if not isinstance(message, Hello):
            raise FrameError("no hello first")
        problem = self._owner.problem_with(message, self._expected)
        if problem is not None:
            self._refuse(problem, message.node_id)
            return
        if self._expected is None:
            self._say_hello()
        self._reader.limit = FRAME_BYTES_MAX
        self.peer = message.node_id
        self.their_hello = message
        self.was_up = True
        self._owner._came_up(self, message.node_id, message)
        self.settled.set()

    def _refuse(self, reason: str, claimed: str | None = None) -> None:
        self._owner.traffic.drops += 1
        self._owner._events.refused(self.peer or claimed or self._expected, self._address, reason)
        self.end(reason)

    def _say_hello(self) -> None:
        self.put(encode(self._owner._hello()))
        self.write_out()

    def put(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_bytes += len(frame)
        self._owner.traffic.frames_out += 1

    def write_out(self) -> None:
        transport = self._transport
        if self._ended or transport is None or not self._out:
            return
        if transport.get_write_buffer_size() + self._out_bytes > WRITE_BUFFER_BYTES_MAX:
            self._refuse(f"the peer does not read: {transport.get_write_buffer_size()} bytes wait")
            return
        transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._owner.traffic.bytes_out += self._out_bytes
        self._out.clear()
        self._out_bytes = 0
        self._sent_at = self._owner._clock.monotonic()

    # --- watching ---------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        if self.peer is None:
            if now - self._opened_at > HELLO_SECONDS:
                self._refuse(f"no hello within {HELLO_SECONDS:g} s")
        elif now - self.received_at > SILENCE_SECONDS:
            self.end(f"silent for {now - self.received_at:.1f} s")
        elif now - self._sent_at > QUIET_SECONDS:
            self._out.append(EMPTY_FRAME)
            self._out_bytes += len(EMPTY_FRAME)
            self.write_out()

    def end(self, reason: str, quiet: bool = False) -> None:
        """Close now, dropping what was not sent. `quiet`: nobody is told."""
        if self._ended:
            return
        self._ended = True
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()
        self.settled.set()
        self._owner._closed(self, reason, quiet)


def _can_dial_from(listen: str, peer: str) -> bool:
    """`listen` is one address of one interface (no name, not "all"), and `peer` no literal of the other
    family."""
    source = _literal(listen)
    target = _literal(peer)
    if source is None or source.is_unspecified:
        return False
    return target is None or target.version == source.version


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None  # a name


def _address_of(transport: asyncio.Transport) -> str:
    name: Any = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else "?"


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
        ("TCP_KEEPIDLE", 1),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 2),
    ):
        option = getattr(socket, name, None)  # Linux has them all; others have the empty frames
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
