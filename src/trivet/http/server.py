"""The listening side: connections with a deadline for each phase, so that nobody holds one for free.

A request that came whole in one piece, in plain form, and while the connection waits for one, does not pass through
aiohttp (`quick`); all others do.

* headers: from the first byte of a request until its head is whole (408, then closed);
* body: `Services.read_body`; * idle between requests: closed silently;
* answer: a client that does not read its answer is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from trivet.errors import TrivetError
from trivet.http.app import Api, Observe, Services, Settings
from trivet.http.quick import Heads
from trivet.http.streaming import is_stream
from trivet.node.broker import Broker
from trivet.node.waiters import Waiters
from trivet.units import KIB

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100


HELD_BYTES_MAX = 64 * KIB  # come while a quick request is under way; beyond it nothing is read
UNKNOWN = -1


class _Connection(RequestHandler):
    """aiohttp's connection with two deadlines it lacks, for a request's head and for its answer, and a quick way
    beside it.

    `_left`: how many bytes aiohttp has yet to get until its parser stands between two requests; only there a
    request may pass it by. `UNKNOWN`, for good, once it got what `Heads` cannot read.
    """

    def __init__(self, server: _Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._settings = server.settings
        self._api = server.api
        self._head_timer: asyncio.TimerHandle | None = None
        self._heads = server.heads
        self._left = 0
        self._finished = 0  # of those that aiohttp read (`_request_count`), the answered ones
        self._quick = False  # a quick request is under way: what comes is held
        self._held = b""
        self._work: asyncio.Task[None] | None = None
        self._quick_done: asyncio.Future[None] | None = None  # a shutdown waits

    def data_received(self, data: bytes) -> None:
        if self._quick:
            self._hold(data)
        # No bytes: aiohttp calls itself, to go on after a pause.
        elif not data or self._left == UNKNOWN or not self._pass_by(data):
            self._to_aiohttp(data)

    # --- the quick way ----------------------------------------------------------------------------------

    def _pass_by(self, data: bytes) -> bool:
        """Whether `data` is a whole request that aiohttp need not see; it is under way then."""
        if self._left:
            self._left = max(self._left - len(data), UNKNOWN)
            return False
        request = self._heads.read(data, self.transport)
        if request is None:
            self._left = UNKNOWN
            return False
        streams = request.method == "GET" and is_stream(request.raw_path)
        busy = self._request_count != self._finished or self._close or self._force_close
        if request.missing or streams or busy:
            self._left = max(request.missing, UNKNOWN)
            return False
        self._quick = True
        work = self._api.start(request, self._answered)
        if work is not None:
            self._work = self._loop.create_task(work)
            self._work.add_done_callback(self._worked)
        return True

    def _worked(self, work: asyncio.Task[None]) -> None:
        if self._work is work:
            self._work = None
        if not work.cancelled() and work.exception() is not None:
            log.error("connection_failed", extra={"error": repr(work.exception())})
            self.force_close()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > HELD_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def _answered(self, data: bytes, closing: bool) -> None:
        transport = self.transport
        if transport is None:
            self._end_quick()
            return
        transport.write(data)
        if closing or self._close:
            self._end_quick()
            self.force_close()
        elif self._paused:
            self._work = self._loop.create_task(self._drained())
        else:
            self._next_request()

    async def _drained(self) -> None:
        transport = self.transport
        try:
            async with asyncio.timeout(self._settings.write_timeout_s):
                await self._drain_helper()
        except TimeoutError:
            if transport is not None:
                transport.abort()
            return
        except ConnectionError:
            return
        self._work = None
        self._next_request()

    def _next_request(self) -> None:
        self._end_quick()
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._held and self.transport is not None:
            held, self._held = self._held, b""
            self.transport.resume_reading()
            self.data_received(held)

    def _end_quick(self) -> None:
        self._quick = False
        if self._quick_done is not None and not self._quick_done.done():
            self._quick_done.set_result(None)

    def _process_keepalive(self) -> None:
        if self._quick:  # not idle, though aiohttp sees nothing of it
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def close(self) -> None:
        if self._quick:
            self._close = True  # the answer ends the connection
        else:
            super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        if self._quick and timeout:
            self._quick_done = self._loop.create_future()
            await asyncio.wait((self._quick_done,), timeout=timeout)
        if self._work is not None:
            self._work.cancel()
        await super().shutdown(timeout)

    # --- aiohttp's way ----------------------------------------------------------------------------------

    def _to_aiohttp(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_head_timer()
        elif self._head_timer is None and self._waiter is not None and not self._waiter.done():
            # Idle, and yet bytes came: the head of a request has begun.
            self._head_timer = self._loop.call_later(self._settings.header_timeout_s, self._head_late)

    def _head_late(self) -> None:
        self._head_timer = None
        transport = self.transport
        if transport is None or self._waiter is None or self._waiter.done():
            return
        seconds = self._settings.header_timeout_s
        error = TrivetError("request_timeout", f"the request's head did not come within {seconds:g} s")
        transport.write(self._api.last_words(error))
        self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        if self._work is not None:
            self._work.cancel()  # R26, as aiohttp does with its own
        self._held = b""
        self._end_quick()
        super().connection_lost(exc)

    async def finish_response(self, request: Any, resp: Any, start_time: Any) -> tuple[Any, bool]:
        transport = self.transport
        try:
            async with asyncio.timeout(self._settings.write_timeout_s):
                ended = await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if transport is not None:
                transport.abort()
            return resp, True
        self._finished += 1
        if ended[1] or not ended[0].keep_alive:
            self._left = UNKNOWN  # it is about to be closed
        return ended

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What the parser could not read is told in the same shape as every other error."""
        if status >= 500:
            log.error("connection_failed", extra={"error": repr(exc)})
            error = TrivetError("internal", "an unforeseen error; the outcome is unknown")
        else:
            error = TrivetError("invalid_argument", f"not an HTTP request: {message or exc}", field="")
        response = self._api.response_to_error(request, error)
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, api: Api, settings: Settings) -> None:
        super().__init__(
            api,
            handler_cancellation=True,  # R26: who hangs up must be noticed while it waits
            keepalive_timeout=settings.keepalive_timeout_s,
            lingering_time=2.0,
            # 400 KB of packed zeros held the loop for 1.3 s and cost a leader its office: see `app.check_encoding`.
            auto_decompress=False,
            access_log=None,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        self.api = api
        self.heads = Heads()
        self.settings = settings

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class ApiServer:
    """The node's HTTP listener. `start` binds, `stop` ends waits and connections."""

    def __init__(
        self,
        broker: Broker,
        waiters: Waiters,
        settings: Settings | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.services = Services(broker, waiters, self.settings)
        self.api = Api(self.services, observe)
        self._server: _Server | None = None
        self._listeners: list[asyncio.Server] = []

    async def start(self, host: str, port: int) -> int:
        """Bind and listen; answers the port (0 asks for a free one). Raises `OSError` if it is taken."""
        loop = asyncio.get_running_loop()
        self._server = _Server(self.api, self.settings)
        listener = await loop.create_server(self._server, host, port, backlog=1024, reuse_address=True)
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        for sock in listener.sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound

    def stop_listening(self) -> None:
        """No new connections; those open go on (drain)."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Close everything. Requests in flight get `timeout_s` to finish."""
        self.stop_listening()
        self.services.waiters.end_all("draining", "this node is stopping")
        self.services.readers.end_all("draining")
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(timeout_s)
            self._server = None
        await self.services.close()
