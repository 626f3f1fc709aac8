"""The whole API as one function from request to response: manners, errors (api.md, Manners)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.web import BaseRequest, Response, StreamResponse

from trivet.errors import TrivetError, invalid
from trivet.http import content, leader, problems, quick
from trivet.http.call import Call, Plain, Reply
from trivet.http.codec import JSON, MEDIA, MSGPACK
from trivet.http.quick import Opened, QuickRequest
from trivet.http.routes import make_router
from trivet.http.routing import Kind, Route, parse_query
from trivet.http.streaming import EVENT_STREAM
from trivet.limits import REQUEST_BYTES_MAX
from trivet.node.broker import Broker, Committed
from trivet.node.readers import Readers
from trivet.node.waiters import Waiters

log = logging.getLogger(__name__)

Observe = Callable[[str, str, int, float], None]
"""route template, method, status, seconds"""

Answered = Callable[[bytes, bool], None]
"""Takes the bytes of an answer, and whether the connection ends with it."""

ENDS_CONNECTION = (408, 413, 415)  # what else the client sends of this request is not read


@dataclass(frozen=True, slots=True)
class Settings:
    """Of section `api` of the configuration, and the deadlines of a connection's phases (seconds)."""

    follower_mode: str = "redirect"  # redirect | forward
    election_wait_ms: int = 5000
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keepalive_timeout_s: float = 120.0
    write_timeout_s: float = 60.0


class Services:
    """What the handlers reach."""

    def __init__(self, broker: Broker, waiters: Waiters, settings: Settings) -> None:
        self.broker = broker
        self.waiters = waiters
        self.readers = Readers(broker, waiters)
        self.settings = settings
        self.router = make_router()
        self._forwarder: aiohttp.ClientSession | None = None

    def forwarder(self) -> aiohttp.ClientSession:
        if self._forwarder is None:
            self._forwarder = leader.make_forwarder()
        return self._forwarder

    async def close(self) -> None:
        if self._forwarder is not None:
            await self._forwarder.close()
            self._forwarder = None

    async def read_body(self, request: BaseRequest | QuickRequest) -> bytes:
        """The whole body, bounded in bytes and time (a slow sender holds no more than its own connection)."""
        if isinstance(request, QuickRequest):
            return request.body
        length = request.content_length
        if length is not None and length > REQUEST_BYTES_MAX:
            raise _too_large()
        if not request.body_exists:
            return b""
        expects = request.headers.get("Expect", "").lower() == "100-continue"
        if expects and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                async for chunk in request.content.iter_any():
                    size += len(chunk)
                    if size > REQUEST_BYTES_MAX:
                        raise _too_large()
                    chunks.append(chunk)
        except TimeoutError:
            seconds = self.settings.body_timeout_s
            raise TrivetError("request_timeout", f"the body did not come within {seconds:g} s") from None
        except (aiohttp.ClientPayloadError, aiohttp.web.RequestPayloadError) as error:
            raise invalid(f"the body is broken: {error}", "") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> TrivetError:
    return TrivetError(
        "payload_too_large",
        f"a request has at most {REQUEST_BYTES_MAX} bytes",
        field="",
        limit=REQUEST_BYTES_MAX,
    )


class Api:
    """The handler of `aiohttp.web.Server`. One instance a node."""

    def __init__(self, services: Services, observe: Observe | None = None) -> None:
        self._services = services
        self._observe = observe
        self._told: tuple[str, str, int, str | None] | None = None
        self._told_text = ""
        self.router = services.router

    async def __call__(self, request: BaseRequest) -> StreamResponse:
        began = time.perf_counter()
        template, call, reply = await self._reply(request)
        self._note(template, request.method, reply.status, began)
        if reply.pieces is not None:
            return await self._stream(request, call, reply, reply.pieces)
        return self._response(request, call, reply)

    async def _stream(
        self, request: BaseRequest, call: Call | None, reply: Reply, pieces: AsyncGenerator[bytes, None]
    ) -> StreamResponse:
        """Write a stream as fast as its reader takes it; one that takes nothing is cut off, as in `finish_response`."""
        response = StreamResponse(headers=self._headers(request, call, reply))
        async with contextlib.aclosing(pieces):
            await response.prepare(request)
            try:
                async for piece in pieces:
                    async with asyncio.timeout(self._services.settings.write_timeout_s):
                        await response.write(piece)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                return response  # its reader has left
        return response

    async def _reply(self, request: BaseRequest | QuickRequest) -> tuple[str, Call | None, Reply]:
        """The route's template, the call if it became one, and the answer."""
        template = "unknown"
        call: Call | None = None
        raw_path, _, raw_query = request.raw_path.partition("?")
        try:
            route, params = self.router.find(request.method, raw_path)
            template = route.template
            query = parse_query(raw_query)
            call = Call(
                request,
                self._services,
                route,
                raw_path,
                params,
                query,
                _accepted_by(route, request.headers.get("Accept")),
            )
            reply = await self._answer(call)
        except TrivetError as error:
            reply = _refused(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 the last line of defence: an answer, and a trace for us
            reply = _failed(template, error)
        return template, call, reply

    def _note(self, template: str, method: str, status: int, began: float) -> None:
        if self._observe is not None:
            self._observe(template, method, status, time.perf_counter() - began)

    # --- small requests that came whole -----------------------------------------------------------------

    def start(self, request: QuickRequest, answered: Answered) -> Coroutine[Any, Any, None] | None:
        """`answered` is called once: at once, or in the turn of the loop that applies the command. If that takes
        more than a command, a coroutine comes back, which answers when it is run (and not if it is cancelled)."""
        began = time.perf_counter()
        call = self._plain_call(request)
        plain = None if call is None else _plain(call)
        if call is None or plain is None:
            return self._whole(request, answered, began)

        def end(result: Committed | TrivetError) -> None:
            template = call.route.template
            try:
                if isinstance(result, TrivetError):
                    reply = _refused(plain.refused(result))
                else:
                    reply = plain.answer(result)
                written = self._written(request, call, reply)
            except Exception as error:  # noqa: BLE001 as in `_reply`; the broker's turn must not end by it
                reply = _failed(template, error)
                written = self._written(request, call, reply)
            answered(*written)
            self._note(template, request.method, reply.status, began)

        try:
            self._services.broker.offer(plain.request, end, piece=plain.piece)
        except TrivetError as error:
            end(error)
        return None

    async def _whole(self, request: QuickRequest, answered: Answered, began: float) -> None:
        template, call, reply = await self._reply(request)
        answered(*self._written(request, call, reply))
        self._note(template, request.method, reply.status, began)

    def _plain_call(self, request: QuickRequest) -> Call | None:
        """The call, if its route takes plain commands, nothing is wrong with its head, and this node leads."""
        opened = request.head.opened
        try:
            if opened is None:
                opened = request.head.opened = self._opened(request)
            if opened is None:
                return None
            key = request_key(request.headers)
        except TrivetError:
            return None  # said by the general code
        consensus = self._services.broker.consensus
        if not (consensus.is_leader and consensus.can_propose):
            return None
        return Call(
            request,
            self._services,
            opened.route,
            opened.path,
            opened.params,
            opened.query,
            opened.accept,
            opened.media,
            request.body,
            key,
        )

    def _opened(self, request: QuickRequest) -> Opened | None:
        headers = request.headers
        path, _, raw_query = request.raw_path.partition("?")
        route, params = self.router.find(request.method, path)
        accept = accepted(headers.get("Accept"))
        if route.plain is None or raw_query or not request.head.length:
            return None
        return Opened(route, path, params, {}, accept, declared_media(headers))

    def _written(self, request: QuickRequest, call: Call | None, reply: Reply) -> tuple[bytes, bool]:
        closing = reply.status in ENDS_CONNECTION
        return quick.answer(reply, self._told_now(), request_name(request, call), closing=closing), closing

    def _told_now(self) -> str:
        """The headers of every answer but the request's name."""
        return f"{self._common()}Trivet-Index: {self._services.broker.consensus.applied_index}\r\n"

    def last_words(self, error: TrivetError) -> bytes:
        """An answer to what did not become a request; the connection ends with it."""
        return quick.answer(_refused(error), self._told_now(), _made_name(), closing=True)

    def _common(self) -> str:
        """The headers of every answer that change with role and term only."""
        broker = self._services.broker
        consensus = broker.consensus
        url = broker.leader_url()
        role = consensus.role if consensus.recovering is None else "recovering"
        told = (broker.host.node_id, role, consensus.term, url)
        if told != self._told:
            self._told = told
            node, role, term, url = told
            self._told_text = (
                f"Server: trivet\r\nTrivet-Node: {node}\r\nTrivet-Role: {role}\r\nTrivet-Term: {term}\r\n"
            )
            if url is not None:
                self._told_text += f"Trivet-Leader: {url}\r\n"
        return self._told_text

    async def _answer(self, call: Call) -> Reply:
        route = call.route
        _check_query(call)
        check_encoding(call.request)
        if route.kind in (Kind.WRITE, Kind.READ) and not call.local:
            reply = await leader.elsewhere(call)
            if reply is not None:
                return reply
        elif call.local and call.services.broker.consensus.recovering is not None:
            raise TrivetError(
                "recovering", f"this node is recovering: {call.services.broker.consensus.recovering}"
            )
        if route.method not in ("GET", "HEAD"):
            await _take_body(call)
        return await route.handler(call)

    def response_to_error(self, request: BaseRequest, error: TrivetError) -> Response:
        """For what never became a call: bytes that are no HTTP request."""
        return self._response(request, None, _refused(error))

    def _response(self, request: BaseRequest, call: Call | None, reply: Reply) -> Response:
        headers = self._headers(request, call, reply)
        response = Response(status=reply.status, body=reply.body, headers=headers)
        if not reply.body:
            response.headers.popall("Content-Type", None)
        if reply.status in ENDS_CONNECTION:
            response.force_close()
        return response

    def _headers(self, request: BaseRequest, call: Call | None, reply: Reply) -> dict[str, str]:
        broker = self._services.broker
        consensus = broker.consensus
        headers = reply.headers
        headers["Server"] = "trivet"
        headers["Trivet-Node"] = broker.host.node_id
        headers["Trivet-Role"] = consensus.role if consensus.recovering is None else "recovering"
        headers["Trivet-Term"] = str(consensus.term)
        headers["Trivet-Index"] = str(consensus.applied_index)
        headers["Trivet-Request-Id"] = request_name(request, call)
        url = broker.leader_url()
        if url is not None:
            headers["Trivet-Leader"] = url
        if reply.body or reply.pieces is not None:
            headers["Content-Type"] = reply.media
        return headers


def _refused(error: TrivetError) -> Reply:
    headers = problems.headers(error)
    allowed = error.extra.pop("allow", None)
    if allowed is not None:
        headers["Allow"] = ", ".join(allowed)
    return Reply(error.status, problems.body(error), problems.PROBLEM, headers)


def _failed(template: str, error: Exception) -> Reply:
    log.exception("request_failed", extra={"route": template, "error": repr(error)})
    return _refused(TrivetError("internal", "an unforeseen error; the outcome is unknown"))


def _plain(call: Call) -> Plain | None:
    assert call.route.plain is not None
    try:
        return call.route.plain(call)
    except TrivetError:
        return None  # said by the general code


def _check_query(call: Call) -> None:
    route = call.route
    if not route.lax:
        for name in call.query:
            if name not in route.query:
                raise invalid("unknown query parameter", "/" + name)
    consistency = call.query.get("consistency", "leader")
    if consistency not in ("leader", "local"):
        raise invalid("must be leader or local", "/consistency")
    call.local = consistency == "local" and route.kind in (Kind.READ, Kind.STREAM)


def check_encoding(request: BaseRequest | QuickRequest) -> None:
    """Bodies come as they are: unpacking one is work without a bound known before. Raises a 415."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise TrivetError(
            "unsupported_media_type", f'Content-Encoding "{encoding}": a body is sent as it is, not packed'
        )


async def _take_body(call: Call) -> None:
    request = call.request
    call.key = request_key(request.headers)
    call.body = await call.services.read_body(request)
    if call.body:
        call.media = declared_media(request.headers)


def request_key(headers: Mapping[str, str]) -> str | None:
    """The request id that a header gives (R12)."""
    key = headers.get("Idempotency-Key")
    try:
        return None if key is None else content.text(key, "/Idempotency-Key")
    except UnicodeEncodeError:
        raise invalid("must be UTF-8", "/Idempotency-Key") from None


def declared_media(headers: Mapping[str, str]) -> str:
    """The media type of a body. Raises a 415."""
    declared = headers.get("Content-Type", JSON).partition(";")[0].strip().lower()
    media = MEDIA.get(declared)
    if media is None:
        raise TrivetError(
            "unsupported_media_type", f'Content-Type "{declared}": only {JSON} and {MSGPACK} are taken'
        )
    return media


def _accepted_by(route: Route, header: str | None) -> str:
    if route.lax:
        return JSON  # a balancer's check or a browser takes what there is
    if route.kind is Kind.STREAM:
        return accepted(header, (EVENT_STREAM, JSON, MSGPACK))
    one = None if route.operation is None else route.operation.media
    return accepted(header) if one is None else accepted(header, (one,))


def accepted(header: str | None, offered: tuple[str, ...] = (JSON, MSGPACK)) -> str:
    """The media type of the answer: the best of `Accept` among those offered, the first among equals.

    Raises `not_acceptable` when none is acceptable.
    """
    if header is None or header in ("*/*", offered[0]):
        return offered[0]
    # The most specific range that names one decides (RFC 9110, 12.5.1).
    offers: dict[str, tuple[int, float]] = {}
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        kind = MEDIA.get(kind, kind)
        for name in offered:
            if kind in ("*/*", ""):
                weight = 0
            elif kind == name.partition("/")[0] + "/*":
                weight = 1
            elif kind == name:
                weight = 2
            else:
                continue
            if name not in offers or weight > offers[name][0]:
                offers[name] = (weight, quality)
    best = max(offered, key=lambda name: offers.get(name, (0, 0.0))[1])
    if offers.get(best, (0, 0.0))[1] <= 0:
        raise TrivetError("not_acceptable", f"the answer comes as {' or '.join(offered)}")
    return best


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def request_name(request: BaseRequest | QuickRequest, call: Call | None) -> str:
    """`Trivet-Request-Id`: the client's own, else its request id, else one made here."""
    given = request.headers.get("Trivet-Request-Id")
    if given is None:
        given = (
            call.key if call is not None and call.key is not None else request.headers.get("Idempotency-Key")
        )
    if given and len(given) <= 256 and given.isascii() and given.isprintable():
        return given
    return _made_name()


def _made_name() -> str:
    return f"{_MADE_HERE}{next(_names):08x}"


_MADE_HERE = secrets.token_hex(4)
_names = itertools.count(1)
