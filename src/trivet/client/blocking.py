"""The SDK without `await`: the same methods, run in a loop of its own thread. No logic here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Self

from trivet.client.client import Client
from trivet.client.effects import EffectGuard, Reconcile
from trivet.client.errors import OutcomeUnknown
from trivet.client.flows import Flow
from trivet.client.leases import Lease
from trivet.client.runs import RunEvent

INTERRUPTED_S = 1.0
"""How long a thread that was interrupted waits until its call has ended."""


class BlockingGuard:
    """`with client.effect(id) as effect:`; see `EffectGuard`."""

    def __init__(self, guard: EffectGuard, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._guard = guard
        self._run = run

    def __enter__(self) -> EffectGuard:
        return self._run(self._guard.__aenter__())  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        self._run(self._guard.__aexit__(*error))


class BlockingClient:
    """Takes what `Client` takes and has its methods, each of which waits for its answer. May be used from
    several threads; close it, or use it as a context manager. A call that is under way in another thread then ends
    by `OutcomeUnknown`."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.client = Client(*args, **named)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trivet-client", daemon=True)
        self._thread.start()

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_noted(work, ended), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise OutcomeUnknown("outcome_unknown", "the client was closed meanwhile") from None
        except BaseException:
            if future.cancel():  # this thread was interrupted (Ctrl-C): so is the call
                ended.wait(INTERRUPTED_S)
            raise

    def effect(
        self,
        effect_id: str,
        *,
        lease: Lease | None = None,
        owner: str | None = None,
        ttl_ms: int | None = None,
        reconcile: Reconcile | None = None,
        with_ack: bool = False,
    ) -> BlockingGuard:
        guard = self.client.effect(
            effect_id, lease=lease, owner=owner, ttl_ms=ttl_ms, reconcile=reconcile, with_ack=with_ack
        )
        return BlockingGuard(guard, self._wait_for)

    def flow(self, run_id: str | None = None) -> Flow:
        """As `Client.flow`; its `create` waits for the answer."""
        return Flow(lambda *steps, **named: self._wait_for(self.client.create_flow(*steps, **named)), run_id)

    def run_events(self, run_id: str, *, after: int = 0) -> Iterator[RunEvent]:
        """As `Client.run_events`: `for event in client.run_events(run_id)`."""
        events = self.client.run_events(run_id, after=after)
        try:
            while (event := self._wait_for(_next_of(events))) is not None:
                yield event
        finally:
            self._wait_for(events.aclose())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """The calls of other threads end first: nobody would answer them."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


async def _noted(work: Coroutine[Any, Any, Any], ended: threading.Event) -> Any:
    try:
        return await work
    finally:
        ended.set()


async def _next_of(events: AsyncGenerator[RunEvent, None]) -> RunEvent | None:
    return await anext(events, None)


def _skin(name: str) -> Callable[..., Any]:
    method = getattr(Client, name)

    @functools.wraps(method)
    def call(self: BlockingClient, *args: Any, **named: Any) -> Any:
        return self._wait_for(method(self.client, *args, **named))

    return call


for _name, _method in inspect.getmembers(Client, inspect.iscoroutinefunction):
    if not _name.startswith("_") and _name != "close":
        setattr(BlockingClient, _name, _skin(_name))
