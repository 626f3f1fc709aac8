"""Hazards r08, r14, r15a, r15d: what the stock library takes from a socket, and what it costs."""

from __future__ import annotations

import ast
import os
import pickle
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import process_time
from typing import Any

import google_crc32c
import msgspec
import pysyncobj.syncobj as library
import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj import pickle as library_pickle
from pysyncobj.monotonic import monotonic
from pysyncobj.poller import createPoller
from pysyncobj.tcp_connection import TcpConnection

from tests.hazards.ours import CLUSTER, Trio
from tests.hazards.stock import Cluster
from trivet.consensus.settings import ConsensusSettings
from trivet.wire import frames

ROOT = Path(__file__).resolve().parents[2]


class Exploit:
    """Unpickling it makes a directory: harmless proof that whatever is in it would run."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (self.path,))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stock_frame(message: object) -> bytes:
    body = zlib.compress(pickle.dumps(message, 2), 3)
    return struct.pack("i", len(body)) + body


@contextmanager
def listening(**settings: Any) -> Iterator[tuple[SyncObj, int]]:
    library.monotonicTime, library.random = monotonic, random
    port = free_port()
    address = f"127.0.0.1:{port}"
    node = SyncObj(address, [], SyncObjConf(autoTick=False, bindAddress=address, **settings))
    ticks(node, 5)
    try:
        yield node, port
    finally:
        node.destroy()
        node.doTick(0)


def ticks(node: SyncObj, count: int) -> None:
    for _ in range(count):
        node.doTick(0.005)


def stock_runs_what_a_stranger_sends(directory: Path) -> None:
    with listening() as (node, port), socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(stock_frame(Exploit(directory / "taken")))
        ticks(node, 20)
    assert (directory / "taken").is_dir()


def stock_lets_a_stranger_change_the_members() -> None:
    with listening(dynamicMembershipChange=True) as (node, port):
        ticks(node, 300)
        assert node._isLeader()
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(stock_frame(["add", f"127.0.0.1:{free_port()}"]))
            ticks(node, 40)
        assert len(node.otherNodes) == 1


def stock_buffers_without_limit() -> None:
    with listening() as (node, port):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(struct.pack("i", 2**31 - 1))
            stranger.setblocking(False)
            left = 6 << 20
            while left > 0:
                with suppress(BlockingIOError):
                    left -= stranger.send(bytes(262_144))
                node.doTick(0)
            ticks(node, 5)
            connections = list(node._SyncObj__transport._unknownConnections)
            assert len(connections[0]._TcpConnection__readBuffer) > 4 << 20


def stock_delivers_an_old_connection_after_a_new_one() -> None:
    library.monotonicTime, library.random = monotonic, random
    me = f"127.0.0.1:{free_port()}"
    peer = "127.0.0.1:9" + me.split(":")[1]  # the greater name: it dials
    node = SyncObj(me, [peer], SyncObjConf(autoTick=False, bindAddress=me))
    seen: list[str] = []
    node._SyncObj__transport.setOnMessageReceivedCallback(lambda _, message: seen.append(message["tag"]))
    try:
        ticks(node, 3)
        address = ("127.0.0.1", int(me.split(":")[1]))
        with socket.create_connection(address) as first, socket.create_connection(address) as second:
            first.sendall(stock_frame(peer))
            ticks(node, 10)
            second.sendall(stock_frame(peer))
            ticks(node, 10)
            second.sendall(stock_frame({"tag": "new"}))
            ticks(node, 10)
            first.sendall(stock_frame({"tag": "old"}))
            ticks(node, 10)
    finally:
        node.destroy()
        node.doTick(0)
    assert seen == ["new", "old"]


def stock_chokes_on_a_long_binary_command() -> None:
    cluster = Cluster()
    cluster.elect("A")
    cluster.propose("A", random.Random(5).randbytes(100_000))
    raised = []
    for _ in range(12):
        cluster.beat()
        for link in sorted(cluster.wires.queues):
            while cluster.wires.queues[link]:
                try:
                    cluster.wires.deliver(*link, count=1)
                except (EOFError, UnicodeDecodeError, pickle.UnpicklingError, ValueError, KeyError) as error:
                    raised.append(error)
        cluster.hold_elections()
    assert raised


def stock_costs() -> None:
    """Two and a half bytes for one; and reading n buffered frames costs n × n."""
    payload = random.Random(6).randbytes(1000)
    entry = (b"\0" + library_pickle.dumps((0, (payload,))), 1, 1)
    assert len(library_pickle.dumps(entry)) > 2 * len(payload)
    frame = stock_frame({"type": "next_node_idx", "next_node_idx": 5, "reset": False, "success": True})

    def per_frame(count: int) -> float:
        near, far = socket.socketpair()
        with near, far:
            connection = TcpConnection(createPoller("auto"), onMessageReceived=lambda _: None, socket=far)
            connection._TcpConnection__readBuffer = frame * count
            started = process_time()
            while connection._TcpConnection__processParseMessage() is not None:
                pass
            return (process_time() - started) / count

    assert per_frame(16_000) > 1.5 * per_frame(500)


# --- the tests: stock fails, ours holds --------------------------------------------------------------------


def test_r08a_nothing_from_a_socket_is_unpickled(tmp_path: Path) -> None:
    stock_runs_what_a_stranger_sends(tmp_path)
    evil = pickle.dumps(Exploit(tmp_path / "ours"), 2)
    for body in (evil, zlib.compress(evil, 3)):
        with pytest.raises(frames.FrameError):
            frames.decode(frames.HEADER.pack(len(body), google_crc32c.value(body)) + body)
        with pytest.raises(frames.FrameError):
            frames.decode(stock_frame(Exploit(tmp_path / "ours")))
    assert not (tmp_path / "ours").exists()


def test_r08a_no_pickle_in_our_source() -> None:
    """Not on a socket, not on a disk: no module of ours imports it, and the library's is cut off."""
    for path in sorted((ROOT / "src" / "trivet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            forbidden = {"pickle", "marshal", "shelve", "dill"} & {
                n for name in names for n in name.split(".")
            }
            assert not forbidden, f"{path}: {forbidden}"


def test_r08b_no_stranger_changes_the_members() -> None:
    """No message type does that, and one of another cluster is refused whatever it says."""
    stock_lets_a_stranger_change_the_members()
    foreign = frames.encode(frames.TimeoutNow("another", "B", 1))
    with pytest.raises(frames.FrameError):
        frames.decode(foreign, CLUSTER)
    with pytest.raises(frames.FrameError):
        body = msgspec.msgpack.encode(["add", CLUSTER, "B", 1, "127.0.0.1:1"])
        frames.decode(frames.HEADER.pack(len(body), google_crc32c.value(body)) + body)


def test_r08e_a_frame_is_bounded_before_it_is_buffered() -> None:
    stock_buffers_without_limit()
    reader = frames.FrameReader()
    with pytest.raises(frames.FrameError):
        list(reader.feed(frames.HEADER.pack(2**31 - 1, 0) + bytes(100)))
    assert reader.pending < 1024


def test_r15d_an_older_connection_is_over() -> None:
    """What an earlier connection still delivers is refused by sequence and session; the transport closes it."""
    stock_delivers_an_old_connection_after_a_new_one()
    trio = Trio()
    trio.elect("A")
    trio.run(2)
    trio.beat("A")
    late = list(trio.queues[("A", "B")])
    trio.flow()
    replies = list(trio.queues[("B", "A")])
    trio.disconnect("A", "B")
    trio.connect("A", "B")
    told = trio.propose("A", 1)
    trio.run(3)
    last = trio["B"].storage.last_index
    for frame in late:
        trio["B"].replica.receive("A", frames.decode(frame))
    for frame in replies:
        trio["A"].replica.receive("B", frames.decode(frame))
    trio.run(2)
    assert told.applied and trio["B"].storage.last_index == last and trio.ids("B") == [1]


def test_r15a_long_entries_travel() -> None:
    stock_chokes_on_a_long_binary_command()
    trio = Trio(settings=ConsensusSettings(append_bytes=65_536, window_bytes=65_536))
    trio.elect("A")
    told = [
        trio.propose("A", i, padding=size) for i, size in enumerate((65_000, 70_000, 131_072, 500_000), 1)
    ]
    trio.run(6)
    assert all(each.applied for each in told) and trio.ids("C") == [1, 2, 3, 4]


def test_r14_costs() -> None:
    """A byte stays about a byte, and reading is linear in what has arrived (light form of r14)."""
    stock_costs()
    payload = random.Random(6).randbytes(1000)
    health = frames.Health(0, 0, False)
    entry = frames.Append(CLUSTER, "A", 1, 1, 1, 1, 1, 0, 0, health, [(1, payload)])
    assert len(frames.encode(entry)) < 1100
    frame = frames.encode(frames.StaleTerm(CLUSTER, "A", 1))

    def per_frame(count: int) -> float:
        stream, reader = frame * count, frames.FrameReader()
        started = process_time()
        assert sum(1 for _ in reader.feed(stream)) == count
        return (process_time() - started) / count

    per_frame(1000)
    assert per_frame(64_000) < 4 * min(per_frame(2000) for _ in range(3))
