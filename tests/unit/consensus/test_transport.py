"""Links between members on real sockets: who talks to whom, what ends a link, what is bounded."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from trivet.consensus import transport as module
from trivet.consensus.transport import PeerLinks
from trivet.node.clock import RealClock
from trivet.wire import frames
from trivet.wire.frames import HEADER, Health, Hello, StaleTerm, encode

HEALTH = Health(1, 2, False)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Peer:
    """A node that only has links, and keeps what they report."""

    def __init__(self, name: str, addresses: dict[str, tuple[str, int]], cluster: str = "c") -> None:
        self.name, self.cluster = name, cluster
        self.session = 1
        self.up: list[tuple[str, Hello]] = []
        self.down: list[tuple[str, str]] = []
        self.turned_away: list[tuple[str | None, str]] = []
        self.got: list[tuple[str, object]] = []
        self.links = PeerLinks(
            name,
            addresses,
            hello=self.hello,
            cluster_id=lambda: self.cluster,
            events=self,
            clock=RealClock(),
            rng=random.Random(1),
        )
        self.address = addresses[name]

    def hello(self) -> Hello:
        return Hello(
            self.cluster,
            self.name,
            3,
            frames.PROTOCOL,
            "born",
            [],
            False,
            "",
            self.session,
            "http://x",
            "1",
            1,
            HEALTH,
        )

    async def start(self) -> Peer:
        await self.links.start(self.address)
        return self

    def link_up(self, peer: str, hello: Hello) -> None:
        self.up.append((peer, hello))

    def link_down(self, peer: str, reason: str) -> None:
        self.down.append((peer, reason))

    def refused(self, peer: str | None, address: str, reason: str) -> None:
        self.turned_away.append((peer, reason))

    def received(self, peer: str, message: object) -> None:
        self.got.append((peer, message))


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 what is waited for has no event of its own
            await asyncio.sleep(0.005)


def addresses(*names: str) -> dict[str, tuple[str, int]]:
    return {name: ("127.0.0.1", free_port()) for name in names}


def test_two_members_meet_and_frames_arrive_in_order_in_one_write() -> None:
    async def scenario() -> None:
        where = addresses("a", "b")
        a, b = await Peer("a", where).start(), await Peer("b", where).start()
        await until(lambda: a.up and b.up)
        assert (a.up[0][0], b.up[0][0]) == ("b", "a")
        for term in range(100):
            a.links.send("b", StaleTerm("c", "a", term))
            b.links.send("a", StaleTerm("c", "b", term))
        assert not b.got
        a.links.flush()
        b.links.flush()
        await until(lambda: len(b.got) == 100 and len(a.got) == 100)
        assert [m.term for _, m in b.got] == list(range(100))  # type: ignore[attr-defined]
        assert a.links.hello_of("b") == b.hello()
        await a.links.stop()
        await until(lambda: b.down)
        await b.links.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "listen, seen_as",
    [("127.0.0.12", "127.0.0.12"), ("0.0.0.0", "127.0.0.1"), ("localhost", "127.0.0.1")],
)
def test_a_member_dials_from_the_address_it_listens_on(listen: str, seen_as: str) -> None:
    """A firewall tells directed links apart by their source; "all interfaces" and names are no address."""

    async def scenario() -> None:
        callers: asyncio.Queue[str] = asyncio.Queue()

        async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            callers.put_nowait(writer.get_extra_info("peername")[0])
            writer.close()

        where = {"a": ("127.0.0.11", free_port()), "b": (listen, free_port())}
        server = await asyncio.start_server(called, *where["a"])
        b = await Peer("b", where).start()
        assert await asyncio.wait_for(callers.get(), 5) == seen_as
        await b.links.stop()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_an_address_of_the_other_family_is_dialed_unbound() -> None:
    can = module._can_dial_from
    assert can("10.0.0.5", "10.0.0.6") and can("10.0.0.5", "n2.internal") and can("fd00::1", "fd00::2")
    assert not can("10.0.0.5", "fd00::2") and not can("::", "fd00::2") and not can("n1.internal", "10.0.0.6")


def test_a_member_that_comes_back_is_met_again() -> None:
    async def scenario() -> None:
        where = addresses("a", "b")
        a, b = await Peer("a", where).start(), await Peer("b", where).start()
        await until(lambda: a.up and b.up)
        await a.links.stop()
        await until(lambda: b.down)
        again = await Peer("a", where).start()
        await until(lambda: again.up and len(b.up) == 2)
        await again.links.stop()
        await b.links.stop()

    asyncio.run(scenario())


def test_a_later_hello_is_handed_on_and_remembered() -> None:
    async def scenario() -> None:
        where = addresses("a", "b")
        a, b = await Peer("a", where).start(), await Peer("b", where).start()
        await until(lambda: a.up and b.up)
        a.session = 2
        a.links.send("b", a.hello())
        a.links.flush()
        await until(lambda: b.got)
        remembered = b.links.hello_of("a")
        assert remembered is not None and remembered.session == 2
        assert b.links.connected == {"a"}
        await a.links.stop()
        await b.links.stop()

    asyncio.run(scenario())


async def talk(where: tuple[str, int], *writes: bytes) -> bytes:
    """Sends the bytes and gives what comes back until the other side closes."""
    reader, writer = await asyncio.open_connection(*where)
    for data in writes:
        writer.write(data)
        await asyncio.sleep(0)
    try:
        return await asyncio.wait_for(reader.read(-1), 5)
    except ConnectionResetError:
        return b""
    finally:
        await closed(writer)


async def closed(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with suppress(OSError):  # the other side may have been first
            await writer.wait_closed()


def corrupt(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda h: [corrupt(encode(h("b")))], "checksum"),
        (lambda h: [HEADER.pack(module.HELLO_BYTES_MAX + 1, 0)], "is over"),
        (lambda h: [HEADER.pack(2**32 - 1, 0)], "is over"),
        (lambda h: [encode(StaleTerm("c", "b", 1))], "no hello first"),
        (lambda h: [encode(h("b", cluster="other"))], "of cluster other"),
        (lambda h: [encode(h("stranger"))], "not a member"),
        (lambda h: [encode(h("a"))], "calls itself"),
        (lambda h: [encode(h("Z"))], "the higher id dials"),
        (lambda h: [encode(h("b", protocol=99))], "peer protocol 99"),
        (lambda h: [encode(h("b")), encode(StaleTerm("other", "b", 1))], "of cluster"),
        (lambda h: [encode(h("b")), encode(StaleTerm("c", "d", 1))], 'a frame of "d"'),
        (lambda h: [encode(h("b")), encode(h("d"))], 'a frame of "d"'),
        (lambda h: [b"GET / HTTP/1.1\r\n\r\n"], "is over"),
    ],
)
def test_who_does_not_speak_properly_is_closed_and_named(
    make: Callable[[Callable[..., Hello]], list[bytes]], reason: str
) -> None:
    def hello(node: str, cluster: str = "c", protocol: int = frames.PROTOCOL) -> Hello:
        return Hello(cluster, node, 1, protocol, "born", [], False, "", 1, "", "1", 1, HEALTH)

    async def scenario() -> None:
        where = addresses("Z", "a", "b", "d")
        a = Peer("a", where)
        await a.links.start(a.address)
        await talk(a.address, *make(hello))
        await until(lambda: a.turned_away or reason in (a.down[0][1] if a.down else ""))
        assert reason in a.turned_away[0][1]
        assert not a.got
        assert not a.links.connected
        await a.links.stop()

    asyncio.run(scenario())


def test_a_half_open_connection_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO_SECONDS", 0.2)

    async def scenario() -> None:
        where = addresses("a", "b")
        a = await Peer("a", where).start()
        started = asyncio.get_running_loop().time()
        await talk(a.address, b"\x00\x00")
        assert asyncio.get_running_loop().time() - started < 1.0
        assert "no hello" in a.turned_away[0][1]
        await a.links.stop()

    asyncio.run(scenario())


def test_an_idle_link_lives_and_a_silent_one_dies_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """R34: a lost machine sends no reset. Here its process stops running without closing anything."""

    async def scenario() -> None:
        where = addresses("a", "b")
        a, b = await Peer("a", where).start(), await Peer("b", where).start()
        await until(lambda: a.up and b.up)
        await asyncio.sleep(module.SILENCE_SECONDS * 1.5)
        assert not a.down and not b.down
        assert a.links._check is not None
        a.links._check.cancel()  # a stops speaking; its socket stays open
        started = asyncio.get_running_loop().time()
        await until(lambda: b.down)
        assert asyncio.get_running_loop().time() - started <= 1.5
        assert "silent" in b.down[0][1]
        await a.links.stop()
        await b.links.stop()

    asyncio.run(scenario())


def test_a_pause_of_ones_own_does_not_end_links() -> None:
    """After SIGSTOP … SIGCONT the silence was ours: what the peers sent waits in the sockets."""

    async def scenario() -> None:
        where = addresses("a", "b")
        a, b = await Peer("a", where).start(), await Peer("b", where).start()
        await until(lambda: a.up and b.up)
        for peer in (a, b):
            peer.links._checked_at -= 10
            for link in peer.links._all:
                link.received_at -= 10
        await asyncio.sleep(0.5)
        assert not a.down and not b.down
        await a.links.stop()
        await b.links.stop()

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_is_dropped_and_memory_stays_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WRITE_BUFFER_BYTES_MAX", 1_000_000)

    async def scenario() -> None:
        where = addresses("a", "b")
        a = await Peer("a", where).start()
        _, writer = await asyncio.open_connection(*a.address, limit=1)
        hello = Hello("c", "b", 1, frames.PROTOCOL, "born", [], False, "", 1, "", "1", 1, HEALTH)
        writer.write(encode(hello))
        await until(lambda: a.up)
        big = frames.Append(
            "c", "a", 1, seq=1, prev_index=0, prev_term=0, commit=0, release=0, session=0, health=HEALTH,
            entries=[(1, bytes(500_000))],
        )  # fmt: skip
        for _ in range(100):
            a.links.send("b", big)
            a.links.flush()
            await asyncio.sleep(0)
            if a.down:
                break
        assert a.down and "does not read" in a.turned_away[0][1]
        await closed(writer)
        await a.links.stop()

    asyncio.run(scenario())


def test_a_newer_connection_of_a_pair_replaces_the_older() -> None:
    async def scenario() -> None:
        where = addresses("a", "b")
        a = await Peer("a", where).start()
        hello = Hello("c", "b", 1, frames.PROTOCOL, "born", [], False, "", 1, "", "1", 1, HEALTH)
        _, first = await asyncio.open_connection(*a.address)
        first.write(encode(hello))
        await until(lambda: len(a.up) == 1)
        _, second = await asyncio.open_connection(*a.address)
        second.write(encode(hello))
        await until(lambda: len(a.up) == 2)
        assert [peer for peer, _ in a.down] == ["b"]
        first.write(encode(StaleTerm("c", "b", 7)))  # bytes of the older connection are not taken
        second.write(encode(StaleTerm("c", "b", 8)))
        await until(lambda: a.got)
        assert [m.term for _, m in a.got] == [8]  # type: ignore[attr-defined]
        await closed(first, second)
        await a.links.stop()

    asyncio.run(scenario())


def test_frames_survive_any_cut_of_the_stream() -> None:
    async def scenario() -> None:
        where = addresses("a", "b")
        a = await Peer("a", where).start()
        hello = Hello("c", "b", 1, frames.PROTOCOL, "born", [], False, "", 1, "", "1", 1, HEALTH)
        data = encode(hello) + b"".join(encode(StaleTerm("c", "b", t)) for t in range(5)) + module.EMPTY_FRAME
        _, writer = await asyncio.open_connection(*a.address)
        for byte in data:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: len(a.got) == 5)
        assert not a.turned_away
        await closed(writer)
        await a.links.stop()

    asyncio.run(scenario())


def test_a_connection_that_comes_while_stopping_is_closed_too() -> None:
    """Accepted by the loop, but its protocol had not been told of it when the links were ended."""

    async def scenario() -> None:
        where = addresses("a", "b")
        a = await Peer("a", where).start()
        loop = asyncio.get_running_loop()
        strangers = []
        for _ in range(5):
            stranger = socket.socket()
            stranger.setblocking(False)
            await loop.sock_connect(stranger, a.address)
            strangers.append(stranger)
        await a.links.stop()
        for stranger in strangers:
            try:
                assert await asyncio.wait_for(loop.sock_recv(stranger, 1), 5) == b""
            except ConnectionResetError:
                pass  # it had not been accepted yet
            finally:
                stranger.close()
        assert not a.up and not a.links._all

    asyncio.run(scenario())


def test_stop_leaves_no_socket_open() -> None:
    async def scenario() -> None:
        where = addresses("a", "b")
        a, b = await Peer("a", where).start(), await Peer("b", where).start()
        await until(lambda: a.up and b.up)
        transports = [link._transport for peer in (a, b) for link in peer.links._all]
        await a.links.stop()
        await b.links.stop()
        assert len(transports) == 2
        for transport in transports:
            assert transport is not None and transport.get_extra_info("socket").fileno() == -1

    asyncio.run(scenario())
