"""The blocking skin has the client's methods and adds nothing."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.unit.client.fake import FakeNode, answer, problem, silent
from trivet.client import BlockingClient, Client, OutcomeUnknown, QueueNotFound, RetryPolicy


@pytest.fixture
def node() -> Iterator[FakeNode]:
    made = FakeNode()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(made.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_calls_wait_for_their_answer(node: FakeNode) -> None:
    message = {"id": "m1", "state": "ready", "duplicate": False}
    node.steps = [answer({"messages": [message], "index": 3}, 201), problem("queue_not_found", 404, "never")]
    with BlockingClient([node.url], retry=RetryPolicy(total_s=1)) as client:
        assert client.enqueue("mail", 1) == {"index": 3, **message}
        with pytest.raises(QueueNotFound):
            client.queue("mail")


def test_the_effect_guard_works_without_await(node: FakeNode) -> None:
    granted = {"state": "granted", "effect_token": "t", "uncertain": False}
    node.steps = [answer(granted), answer({"state": "done"})]
    with BlockingClient([node.url]) as client, client.effect("e", owner="me") as effect:
        assert not effect.done
        effect.result = 5
    assert node.seen[1].body == {"effect_token": "t", "result": 5}


def test_every_method_of_the_client_is_there() -> None:
    wanted = {name for name, _ in inspect.getmembers(Client, inspect.iscoroutinefunction) if name[0] != "_"}
    assert {name for name in wanted if not callable(getattr(BlockingClient, name, None))} == set()
    assert not any(inspect.iscoroutinefunction(getattr(BlockingClient, name)) for name in wanted)


def test_a_call_of_another_thread_ends_when_the_client_is_closed(node: FakeNode) -> None:
    node.steps = [silent()]
    client = BlockingClient([node.url], retry=RetryPolicy(total_s=30))
    ends: list[BaseException] = []

    def call() -> None:
        try:
            client.enqueue("mail", 1)
        except OutcomeUnknown as error:
            ends.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not node.seen:
        time.sleep(0.005)
    client.close()
    thread.join(5)
    assert not thread.is_alive() and len(ends) == 1


def test_an_interrupted_thread_ends_its_call(node: FakeNode) -> None:
    node.steps = [silent()]
    with BlockingClient([node.url], retry=RetryPolicy(total_s=30)) as client:
        events = client.run_events("r")
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                next(events)
        finally:
            signal.signal(signal.SIGALRM, before)


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def test_closing_twice_is_fine(node: FakeNode) -> None:
    client = BlockingClient([node.url])
    client.close()
    client.close()
