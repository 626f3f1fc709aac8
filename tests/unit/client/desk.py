"""A scripted node of leases: what each verb answers, and what came."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from tests.unit.client.fake import FakeNode
from trivet.client import Client, RetryPolicy, Worker

NO_REQUEST: Any = None  # a scripted refusal does not look at it
FAST = RetryPolicy(
    total_s=0.5, attempt_s=0.3, attempt_max_s=0.3, connect_s=0.2, backoff_s=0.005, backoff_max_s=0.02
)

GRANTED = {"state": "granted", "effect_token": "e1", "uncertain": False}


class Desk:
    """Answers by path: a function of the request's body, or a step."""

    def __init__(self, **routes: Any) -> None:
        self.routes = routes
        self.calls: list[tuple[str, Any]] = []
        self.node = FakeNode([self._step])

    async def _step(self, node: FakeNode, request: web.Request) -> web.StreamResponse:
        name = request.path.rsplit("/", 1)[1]
        body = node.seen[-1].body
        self.calls.append((name, body))
        route = self.routes[name]
        made = route(body) if not asyncio.iscoroutinefunction(route) else None
        if made is None or asyncio.iscoroutine(made):
            return await (made or route(node, request))
        return web.Response(
            body=msgspec.msgpack.encode({"index": 1, "seq": 0, "term": 1, **made}),
            content_type="application/msgpack",
            headers={"Trivet-Node": "fake"},
        )

    def sent(self, name: str) -> list[Any]:
        return [body for one, body in self.calls if one == name]


def drive(
    desk: Desk, test: Callable[[Client], Awaitable[Any]], *, policy: RetryPolicy | None = None, **options: Any
) -> Any:
    async def run() -> Any:
        await desk.node.start()
        try:
            async with Client([desk.node.url], retry=policy or FAST, **options) as client:
                return await test(client)
        finally:
            await desk.node.stop()

    return asyncio.run(run())


def granted(count: int, lease_ms: int = 10_000, first: int = 0) -> dict[str, Any]:
    now_ms = 1_000_000
    messages = [
        {
            "id": f"m{n}",
            "queue": "q",
            "body": n,
            "attempt": 1,
            "lease_token": f"t{n}",
            "lease_expires_at_ms": now_ms + lease_ms,
        }
        for n in range(first, first + count)
    ]
    return {"messages": messages, "now_ms": now_ms}


def once(answer: dict[str, Any]) -> Callable[[Any], Any]:
    """The leases at the first request, then an empty poll that waits."""
    left = [answer]

    def route(body: Any) -> Any:
        return left.pop() if left else empty_poll()

    return route


async def empty_poll() -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def all_status(status: str, key: str, **more: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda body: {"results": [{"status": status, **more} for _ in body[key]]}


async def after(seconds: float, answer: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(seconds)
    packed = msgspec.msgpack.encode(answer)
    return web.Response(body=packed, content_type="application/msgpack", headers={"Trivet-Node": "fake"})


async def work(client: Client, handler: Any, until: Callable[[Worker], bool], **options: Any) -> Worker:
    worker = Worker(client, "q", handler, wait_ms=5000, **options)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        while not until(worker):  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.002)
    await worker.stop(grace_s=1)
    await running
    return worker
