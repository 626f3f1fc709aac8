"""A scripted node: real sockets, answers in the order a test wrote them. It knows nothing of queues."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

Step = Callable[["FakeNode", web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeNode:
    """`steps` are used one a request; the last one stays."""

    steps: list[Step] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = msgspec.msgpack.decode(raw) if raw else None
        self.seen.append(Seen(request.method, request.path_qs, dict(request.headers), body))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return await step(self, request)


def answer(
    data: Any, status: int = 200, *, leader: str | FakeNode | None = None, term: int = 1, **headers: str
) -> Step:
    async def step(node: FakeNode, request: web.Request) -> web.StreamResponse:
        named = leader.url if isinstance(leader, FakeNode) else leader
        sent = {"Trivet-Node": "fake", "Trivet-Term": str(term), **headers}
        if named is not None:
            sent["Trivet-Leader"] = named
        return web.Response(
            body=msgspec.msgpack.encode(data), status=status, content_type="application/msgpack", headers=sent
        )

    return step


def problem(code: str, status: int, retry: str, **more: Any) -> Step:
    async def step(node: FakeNode, request: web.Request) -> web.StreamResponse:
        document = {
            "code": code,
            "status": status,
            "retry": retry,
            "title": code,
            "detail": "scripted",
            **more,
        }
        return web.Response(
            body=msgspec.json.encode(document),
            status=status,
            content_type="application/problem+json",
            headers={"Trivet-Node": "fake"},
        )

    return step


def redirect(to: FakeNode | str) -> Step:
    async def step(node: FakeNode, request: web.Request) -> web.StreamResponse:
        origin = to.url if isinstance(to, FakeNode) else to
        return web.Response(
            status=307,
            headers={"Location": origin + request.path_qs, "Trivet-Leader": origin, "Trivet-Node": "fake"},
        )

    return step


async def reset(node: FakeNode, request: web.Request) -> web.StreamResponse:
    """Close the connection without a word, as a killed process does."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def silent() -> Step:
    """Never answer."""

    async def step(node: FakeNode, request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return step


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
