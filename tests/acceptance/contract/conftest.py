"""One `trivet dev` of three nodes and one of a single node for the whole run, ended by their pids."""

from __future__ import annotations

import itertools
import json
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.contract.helper import Api, Cluster

_names = itertools.count(1)


def _free_base(count: int) -> int:
    """A base of `count` free consecutive ports."""
    while True:
        # below the kernel's ephemeral range: a killed node's port must not become a client's source port
        base = random.SystemRandom().randrange(10_000, 32_000, 20)
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base


@contextmanager
def run_dev(nodes: int, data: Path) -> Iterator[Cluster]:
    """`trivet dev` until the block ends; a second run on the same `data` finds what the first left."""
    base = _free_base(2 * nodes)
    command = [sys.executable, "-m", "trivet", "dev", "--nodes", str(nodes), "--base-port", str(base)]
    with (data.parent / f"{data.name}.err").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--data", str(data), "--json"], stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], 30)[0], "no line within 30 s"
        line = process.stdout.readline()
        assert line, (data.parent / f"{data.name}.err").read_text()
        yield Cluster([Api(node["api"], node["pid"], node["id"]) for node in json.loads(line)["nodes"]])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes; tests that use it leave its leader alone."""
    with run_dev(3, tmp_path_factory.mktemp("contract") / "three") as running:
        running.leader()
        yield running


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with run_dev(1, tmp_path_factory.mktemp("contract") / "one") as running:
        yield running.leader()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of this module's own, which it may kill."""
    with run_dev(3, tmp_path_factory.mktemp("contract") / "mortal") as running:
        yield running


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """The leader of the three."""
    return cluster.leader()


@pytest.fixture
def name() -> str:
    """A queue name nobody has used."""
    return f"q{next(_names)}"
