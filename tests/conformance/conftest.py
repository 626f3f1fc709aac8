"""Where the contract is checked: `TRIVET_URLS=http://…,http://…`, or else a real single node in here."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator

import pytest

from tests.conformance.client import Api, Queue
from trivet.config import from_values
from trivet.http.server import ApiServer
from trivet.node.runtime import Node
from trivet.node.waiters import Waiters


class NodeInThread:
    """One node with its own loop in a thread of its own, as a process would have it."""

    def __init__(self, data_dir: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._config = from_values(
            {
                "node.id": "n1",
                "node.data_dir": data_dir,
                "api.listen": f"127.0.0.1:{self.port}",
                "cluster.bootstrap": True,
            }
        )
        self._ready, self._stop = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> NodeInThread:
        self._thread.start()
        assert self._ready.wait(20), "the node did not start"
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._error = error
            self._ready.set()

    def _died(self, reason: str, error: BaseException | None) -> None:
        self._error = error or RuntimeError(reason)
        self._stop.set()

    async def _serve(self) -> None:
        node = Node(self._config, die=self._died)
        server = ApiServer(node.broker, Waiters(node.broker))
        await server.start("127.0.0.1", self.port)
        await node.start()
        await node.broker.wait_for_leader(10)
        self._ready.set()
        await asyncio.get_running_loop().run_in_executor(None, self._stop.wait)
        await server.stop(timeout_s=0.5)
        await node.stop()


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    given = os.environ.get("TRIVET_URLS")
    if given:
        yield Api(given.split(","))
        return
    with (
        tempfile.TemporaryDirectory(prefix="trivet-conformance-") as data_dir,
        NodeInThread(data_dir) as node,
    ):
        yield Api([node.url])


@pytest.fixture
def q(api: Api) -> Queue:
    """A queue of this test alone, created with the defaults."""
    queue = Queue(api, f"t-{uuid.uuid4().hex[:12]}")
    queue.put().ok(201)
    return queue


@pytest.fixture
def name() -> str:
    """A queue name nobody uses."""
    return f"t-{uuid.uuid4().hex[:12]}"
