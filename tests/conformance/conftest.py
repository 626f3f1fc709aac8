"""Where the contract is checked: `TRIVET_URLS=http://…,http://…`, or else a node started in here."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator

import pytest

from tests.conformance.client import Api, Queue
from tests.loopback import Loopback, serving


def _serve_in_thread() -> tuple[str, threading.Event, threading.Thread]:
    started: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(Loopback()) as url:
            started.append(url)
            ready.set()
            await loop.run_in_executor(None, stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    return started[0], stop, thread


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    given = os.environ.get("TRIVET_URLS")
    if given:
        yield Api(given.split(","))
        return
    url, stop, thread = _serve_in_thread()
    yield Api([url])
    stop.set()
    thread.join(10)


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
