"""What a node does with a call that only the leader may answer (api.md, Leader and followers)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from trivet.errors import TrivetError
from trivet.http.call import Reply
from trivet.http.routing import Kind
from trivet.units import SECOND_MS

if TYPE_CHECKING:
    from trivet.http.call import Call

FORWARDED = "Trivet-Forwarded"  # the loop guard: the node id of the one hop
# Of the request; everything else either describes the connection or is made anew.
_PASSED_ON = (
    "Accept",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "Last-Event-ID",
    "Trivet-Request-Id",
)
_PASSED_BACK = ("Content-Type", "Retry-After", "ETag", "Cache-Control", "Allow")
FORWARD_TIMEOUT_S = 75.0  # longer than the longest wait a request may ask for
LEFT_OFFICE_S = 3.0  # so long a node that leads no more may take to answer what was sent to it


async def elsewhere(call: Call) -> Reply | None:
    """None: this node leads, go on. Otherwise the redirect, or the leader's own answer.

    Raises `no_leader` when none is known after `election_wait_ms`, `recovering` for a node that may not
    speak of its state.
    """
    url = await other(call)
    if url is None:
        return None
    if mode(call) == "forward":
        return await _forward(call, url)
    return redirect(call, url)


def redirect(call: Call, url: str) -> Reply:
    return Reply(307, headers={"Location": url + call.request.raw_path, "Cache-Control": "no-store"})


def mode(call: Call) -> str:
    """redirect | forward: as the request asks, else as configured."""
    asked = call.request.headers.get("Trivet-Follower", "")
    return asked if asked in ("forward", "redirect") else call.services.settings.follower_mode


async def other(call: Call) -> str | None:
    """The address of the leader if it is another node; None: this one. Raises as `elsewhere`."""
    broker = call.services.broker
    consensus = broker.consensus
    if consensus.is_leader and consensus.can_propose:
        return None
    if not await broker.wait_for_leader(_election_wait_s(call)):
        if consensus.recovering is not None:
            raise TrivetError("recovering", f"this node is recovering: {consensus.recovering}")
        raise TrivetError("no_leader", "no leader is known", retry_after_ms=SECOND_MS)
    if consensus.is_leader:
        return None
    url = broker.leader_url()
    if url is None:
        raise TrivetError("no_leader", "the leader has just left office", retry_after_ms=SECOND_MS)
    if FORWARDED in call.request.headers:
        raise TrivetError(
            "no_leader",
            f"this request was already forwarded once, to a node that does not lead; try {url}",
            retry_after_ms=SECOND_MS,
        )
    return url


def _election_wait_s(call: Call) -> float:
    """The configured wait, or less if `Trivet-Election-Wait` (ms) asks so: a client that would give up
    sooner must hear "no leader, not applied" and not be left with an unknown outcome (R35)."""
    wait_ms = call.services.settings.election_wait_ms
    asked = call.request.headers.get("Trivet-Election-Wait", "")
    if asked.isascii() and asked.isdigit() and len(asked) <= 9:
        wait_ms = min(wait_ms, int(asked))
    return wait_ms / 1000


async def _forward(call: Call, url: str) -> Reply:
    """One hop, one attempt. Nothing is sent twice: after its first byte the outcome is the leader's to tell (R35).

    A lost machine sends no reset (R34): a node that left office and says nothing is not waited for.
    """
    broker = call.services.broker
    body = await call.services.read_body(call.request)
    loop = asyncio.get_running_loop()
    asking = asyncio.ensure_future(_asked(call, url, body))
    left_at: float | None = None
    try:
        while not asking.done():
            await asyncio.wait((asking,), timeout=LEFT_OFFICE_S / 4)
            if broker.leader_url() == url:
                left_at = None
            elif left_at is None:
                left_at = loop.time()
            elif loop.time() - left_at >= LEFT_OFFICE_S and not asking.done():
                raise _no_answer(call, f"the leader at {url} left office and does not answer")
        return asking.result()
    except aiohttp.ClientConnectorError as error:
        raise TrivetError(
            "no_leader", f"the leader at {url} cannot be reached: {error}", retry_after_ms=SECOND_MS
        ) from None
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        why = f"the connection to the leader at {url} broke: {type(error).__name__}"
        raise _no_answer(call, why) from None
    finally:
        asking.cancel()


async def _asked(call: Call, url: str, body: bytes) -> Reply:
    services = call.services
    headers = {name: call.request.headers[name] for name in _PASSED_ON if name in call.request.headers}
    headers[FORWARDED] = services.broker.host.node_id
    async with services.forwarder().request(
        call.request.method,
        # Encoded as it came: the leader must see the same path.
        URL(url + call.request.raw_path, encoded=True),
        data=body or None,
        headers=headers,
        allow_redirects=False,
        skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
    ) as answer:
        back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        media = back.pop("Content-Type", "application/json")
        return Reply(answer.status, await answer.read(), media, back)


def _no_answer(call: Call, why: str) -> TrivetError:
    """The request left and no answer came."""
    if call.route.kind is Kind.READ:
        return TrivetError("no_leader", why, retry_after_ms=SECOND_MS)
    return TrivetError("outcome_unknown", why + "; repeat it with the same request id")


async def _sent_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp sends a PUT or DELETE again when its connection breaks, even a new one: a DELETE that was applied
    would be answered 404. The error raised here is of a kind that it does not repeat."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def make_forwarder() -> aiohttp.ClientSession:
    """A client that never re-sends (R35)."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        middlewares=(_sent_once,),
        timeout=aiohttp.ClientTimeout(total=FORWARD_TIMEOUT_S, sock_connect=2.0),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
