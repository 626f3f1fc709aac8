"""The whole API as one function from request to response: routes, manners, errors (api.md, Manners)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp.web import BaseRequest, Response

from trivet.errors import TrivetError, invalid
from trivet.http import cluster, content, dead, effects, health, leader, messages, problems, queues
from trivet.http.call import Call, Reply, not_yet
from trivet.http.codec import JSON, MEDIA, MSGPACK
from trivet.http.routing import Kind, Router, parse_query
from trivet.limits import REQUEST_BYTES_MAX
from trivet.node.broker import Broker
from trivet.node.waiters import Waiters

log = logging.getLogger(__name__)

Observe = Callable[[str, str, int, float], None]
"""route template, method, status, seconds"""


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
        self.settings = settings
        self._forwarder: aiohttp.ClientSession | None = None

    def forwarder(self) -> aiohttp.ClientSession:
        if self._forwarder is None:
            self._forwarder = leader.make_forwarder()
        return self._forwarder

    async def close(self) -> None:
        if self._forwarder is not None:
            await self._forwarder.close()
            self._forwarder = None

    async def read_body(self, request: BaseRequest) -> bytes:
        """The whole body, bounded in bytes and time (a slow sender holds no more than its own connection)."""
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
        self.router = make_router()

    async def __call__(self, request: BaseRequest) -> Response:
        began = time.perf_counter()
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
                accepted(request.headers.get("Accept")),
            )
            reply = await self._answer(call)
        except TrivetError as error:
            reply = _refused(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the last line of defence: an answer, and a trace for us
            log.exception("request_failed", extra={"route": template, "error": repr(error)})
            reply = _refused(TrivetError("internal", "an unforeseen error; the outcome is unknown"))
        response = self._response(request, call, reply)
        if self._observe is not None:
            self._observe(template, request.method, reply.status, time.perf_counter() - began)
        return response

    async def _answer(self, call: Call) -> Reply:
        route = call.route
        _check_query(call)
        check_encoding(call.request)
        if route.kind is not Kind.NODE and not call.local:
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
        if reply.body:
            headers["Content-Type"] = reply.media
        response = Response(status=reply.status, body=reply.body, headers=headers)
        if not reply.body:
            response.headers.popall("Content-Type", None)
        if reply.status in (408, 413, 415):
            response.force_close()  # what else the client sends of this request is not read
        return response


def _refused(error: TrivetError) -> Reply:
    headers = problems.headers(error)
    allowed = error.extra.pop("allow", None)
    if allowed is not None:
        headers["Allow"] = ", ".join(allowed)
    return Reply(error.status, problems.body(error), problems.PROBLEM, headers)


def _check_query(call: Call) -> None:
    route = call.route
    if not route.lax:
        for name in call.query:
            if name not in route.query:
                raise invalid("unknown query parameter", "/" + name)
    consistency = call.query.get("consistency", "leader")
    if consistency not in ("leader", "local"):
        raise invalid("must be leader or local", "/consistency")
    call.local = consistency == "local" and route.kind is Kind.READ


def check_encoding(request: BaseRequest) -> None:
    """Bodies come as they are: unpacking one is work without a bound known before. Raises a 415."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise TrivetError(
            "unsupported_media_type", f'Content-Encoding "{encoding}": a body is sent as it is, not packed'
        )


async def _take_body(call: Call) -> None:
    request = call.request
    key = request.headers.get("Idempotency-Key")
    if key is not None:
        try:
            call.key = content.text(key, "/Idempotency-Key")
        except UnicodeEncodeError:
            raise invalid("must be UTF-8", "/Idempotency-Key") from None
    call.body = await call.services.read_body(request)
    if call.body:
        declared = request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower()
        media = MEDIA.get(declared)
        if media is None:
            raise TrivetError(
                "unsupported_media_type", f'Content-Type "{declared}": only {JSON} and {MSGPACK} are taken'
            )
        call.media = media


def accepted(header: str | None) -> str:
    """The media type of the answer: the best of `Accept` that exists here, JSON first among equals.

    Raises `not_acceptable` when neither is acceptable.
    """
    if header is None or header == "*/*" or header == JSON:
        return JSON
    offers: dict[
        str, tuple[int, float]
    ] = {}  # the most specific range that names it decides (RFC 9110, 12.5.1)
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        names: tuple[str, ...]
        if kind in ("*/*", ""):
            names, weight = (JSON, MSGPACK), 0
        elif kind == "application/*":
            names, weight = (JSON, MSGPACK), 1
        elif kind in MEDIA:
            names, weight = (MEDIA[kind],), 2
        else:
            continue
        for name in names:
            if name not in offers or weight > offers[name][0]:
                offers[name] = (weight, quality)
    best = max((JSON, MSGPACK), key=lambda name: offers.get(name, (0, 0.0))[1])
    if offers.get(best, (0, 0.0))[1] <= 0:
        raise TrivetError("not_acceptable", f"answers come as {JSON} or {MSGPACK}")
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


def request_name(request: BaseRequest, call: Call | None) -> str:
    """`Trivet-Request-Id`: the client's own, else its request id, else one made here."""
    given = request.headers.get("Trivet-Request-Id")
    if given is None:
        given = (
            call.key if call is not None and call.key is not None else request.headers.get("Idempotency-Key")
        )
    if given and len(given) <= 256 and given.isascii() and given.isprintable():
        return given
    return secrets.token_hex(8)


def make_router() -> Router:
    """Every path of this release; what a later one brings answers 501."""
    router = Router()
    add, write, read, node = router.add, Kind.WRITE, Kind.READ, Kind.NODE
    queue = "/v1/queues/{queue}"
    add("GET", "/v1/queues", read, queues.get_all, ("limit", "after"))
    add("PUT", queue, write, queues.put)
    add("PATCH", queue, write, queues.patch)
    add("GET", queue, read, queues.get)
    add("DELETE", queue, write, queues.delete)
    add("POST", queue + "/pause", write, queues.pause)
    add("POST", queue + "/resume", write, queues.resume)
    add("POST", queue + "/purge", write, queues.purge)
    add("POST", queue + "/messages", write, messages.enqueue)
    add("GET", queue + "/messages", read, messages.browse, ("state", "limit", "after", "max_bytes"))
    add("POST", queue + "/lease", write, messages.lease)
    add("GET", queue + "/dead", read, dead.get, ("limit", "after", "reason", "max_bytes"))
    add("POST", queue + "/dead/redrive", write, dead.redrive)
    add("DELETE", queue + "/dead", write, dead.purge)
    add("POST", "/v1/lease", write, messages.lease_many)
    add("POST", "/v1/ack", write, messages.ack)
    add("POST", "/v1/nack", write, messages.nack)
    add("POST", "/v1/extend", write, messages.extend)
    add("POST", "/v1/release", write, messages.release)
    message = "/v1/messages/{id}"
    add("GET", message, read, messages.get, ("wait_ms",))
    add("DELETE", message, write, messages.cancel)
    add("PATCH", message, write, messages.patch)
    add("POST", message + "/progress", write, messages.progress)
    add("POST", "/v1/effects/begin", write, effects.begin)
    add("POST", "/v1/effects/commit", write, effects.commit)
    add("POST", "/v1/effects/abort", write, effects.abort)
    add("GET", "/v1/effects/{effect_id}", read, effects.get)
    add("GET", "/v1/cluster", node, cluster.get)
    add("POST", "/v1/cluster/transfer", write, cluster.transfer)
    add("POST", "/v1/cluster/snapshot", node, cluster.snapshot)
    add("GET", "/v1/cluster/digest", node, cluster.digest, ("consistency",))
    add("POST", "/v1/cluster/members", node, cluster.members)
    add("DELETE", "/v1/cluster/members/{id}", node, cluster.members)
    _add_health(router)
    _add_later(router)
    return router


def _add_health(router: Router) -> None:
    for path, handler in (
        ("/leader", health.leader),
        ("/follower", health.follower),
        ("/livez", health.livez),
        ("/readyz", health.readyz),
        ("/quorum-critical", health.quorum_critical),
        ("/metrics", health.metrics),
    ):
        router.add("GET", path, Kind.NODE, handler, lax=True)


def _add_later(router: Router) -> None:
    """Known to the contract, not built yet: 501 tells a client more than 404."""
    run, topic, schedule = "/v1/runs/{run}", "/v1/topics/{topic}", "/v1/schedules/{name}"
    group = topic + "/groups/{group}"
    for what, paths in (
        ("runs", (f"GET {run}", f"GET {run}/events", f"POST {run}/events", f"POST {run}/replay")),
        ("topics", (f"PUT {topic}", f"GET {topic}", f"DELETE {topic}", f"POST {topic}/messages")),
        ("topics", (f"PUT {group}", f"DELETE {group}", f"POST {group}/replay")),
        ("schedules", (f"PUT {schedule}", f"GET {schedule}", f"DELETE {schedule}")),
        ("schedules", (f"POST {schedule}/pause", f"POST {schedule}/resume", f"POST {schedule}/run")),
        ("flows", ("POST /v1/flows", "GET /v1/flows/{id}")),
        ("the API description and the console", ("GET /v1/openapi.json", "GET /docs", "GET /")),
    ):

        async def later(_call: Call, what: str = what) -> Reply:
            raise not_yet(what)

        for method, template in (path.split(" ") for path in paths):
            router.add(method, template, Kind.NODE, later, lax=True)
