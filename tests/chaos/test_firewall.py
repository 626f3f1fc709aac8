"""Cuts between loopback addresses: one direction, one node, one drill; counted, and gone at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.ground.firewall import Firewall
from chaos.ground.tools import Unavailable, run

from trivet.cli.local import free_base_port

ADDRESSES = [f"127.0.0.{10 + node}" for node in (1, 2, 3)]


@pytest.fixture
def port() -> int:
    return free_base_port(1, ADDRESSES)


@pytest.fixture
def wall(port: int) -> Iterator[Firewall]:
    try:
        made = Firewall(ADDRESSES, [port])
    except Unavailable as why:
        pytest.skip(f"no partitions: {why}")
    yield made
    made.close()


@pytest.fixture
def listener(port: int) -> Iterator[socket.socket]:
    """Node 2."""
    with socket.create_server((ADDRESSES[1], port)) as server:
        server.settimeout(5)
        yield server


def dial(port: int, source: str | None = None, timeout_s: float = 5) -> socket.socket:
    return socket.create_connection(
        (ADDRESSES[1], port), timeout_s, source_address=(source, 0) if source else None
    )


def refuses(port: int, source: str | None) -> bool:
    try:
        dial(port, source, 0.2).close()
    except TimeoutError:
        return True
    return False


def test_a_blocked_link_drops_one_direction_of_one_pair(
    wall: Firewall, listener: socket.socket, port: int
) -> None:
    wall.block(1, 2)
    assert refuses(port, ADDRESSES[0])
    assert wall.dropped_between(1, 2) == wall.dropped() > 0 == wall.dropped_between(2, 1)
    dial(port, ADDRESSES[2]).close()
    dial(port).close()  # a client
    wall.heal()
    dial(port, ADDRESSES[0]).close()
    assert wall.dropped() > 0, "the sum outlives the healing"


def test_data_flows_against_a_one_way_cut_until_it_must_be_acknowledged(
    wall: Firewall, listener: socket.socket, port: int
) -> None:
    """1 → 2 is cut: what node 2 sends still arrives at node 1, whose acknowledgements do not come back."""
    with dial(port, ADDRESSES[0]) as near, listener.accept()[0] as far:
        wall.block(1, 2)
        near.settimeout(5)
        far.settimeout(0.2)
        far.sendall(b"down")
        assert near.recv(4) == b"down"
        near.sendall(b"up")
        with pytest.raises(TimeoutError):
            far.recv(2)
        assert wall.dropped_between(1, 2) > 0 == wall.dropped_between(2, 1)


def test_a_pulled_cable_cuts_clients_too_and_says_nothing(
    wall: Firewall, listener: socket.socket, port: int
) -> None:
    with dial(port) as client, listener.accept()[0] as server:
        wall.isolate(2)
        client.settimeout(0.2)
        client.sendall(b"x")
        with pytest.raises(TimeoutError):
            client.recv(1)  # no reset: the connection looks alive
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(1)
        assert wall.dropped_around(2) > 0
        wall.heal()
        server.settimeout(5)
        assert server.recv(1) == b"x", "the kernel sends again what was dropped"


def test_a_reset_ends_both_sides_of_the_nodes_connections_only(
    wall: Firewall, listener: socket.socket, port: int
) -> None:
    with dial(port, ADDRESSES[0]) as near, listener.accept()[0] as far:
        assert wall.reset_connections(3) == 0
        assert wall.reset_connections(1) in (1, 2), "the end closed first may take the other along"
        for side in (near, far):
            with pytest.raises(OSError):
                for _ in range(2):  # the first may still deliver an orderly end to one side
                    side.sendall(b"x")
                    side.recv(1)
    dial(port, ADDRESSES[0]).close()


def test_another_drill_on_the_same_addresses_is_not_touched(wall: Firewall, port: int) -> None:
    wall.isolate(1)
    wall.isolate(2)
    with socket.create_server((ADDRESSES[1], 0)) as server:
        other = server.getsockname()[1]
        assert other != port
        dial(other, ADDRESSES[0]).close()
    assert wall.dropped() == 0


def test_closing_takes_the_rules_away(wall: Firewall, listener: socket.socket, port: int) -> None:
    wall.isolate(2)
    assert refuses(port, None)
    wall.close()
    wall.close()
    dial(port).close()
    assert wall.table not in run("nft", "list", "tables")


HOLDER = """
import time
from chaos.ground.firewall import Firewall
wall = Firewall(["127.0.0.11"], [9])
print(wall.table, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_drill_that_is_killed_leaves_no_rule(number: signal.Signals) -> None:
    why = Firewall.available()
    if why is not None:
        pytest.skip(f"no partitions: {why}")
    drill = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with drill:
        assert drill.stdout is not None
        table = drill.stdout.readline().strip()
        assert table in run("nft", "list", "tables")
        drill.send_signal(number)
    deadline = time.monotonic() + 10
    while table in run("nft", "list", "tables"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
