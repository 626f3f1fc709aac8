"""One call over as many attempts as it takes: nodes, redirects, retries, outcomes (R12, R34, R35)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from trivet.client.connections import Connections, Request, can_be_sent, check_header, watched_socket
from trivet.client.errors import ApiError, BadAnswer, OutcomeUnknown, Unencodable, Unreachable
from trivet.client.retry import Pace, RetryPolicy, Verdict, judge
from trivet.client.ring import Ring, origin_of
from trivet.units import Clock

log = logging.getLogger("trivet.client")

HOPS_MAX = 3
BAD_FOR_S = 0.25  # after a refused or broken connection: a restart or an election is short
BAD_AFTER_TIMEOUT_S = 1.0  # after silence: each further try costs a whole timeout
MSGPACK = "application/msgpack"
JSON = "application/json"


@dataclass(slots=True)
class Stats:
    """Counted since the client was made. Drills report attempts as well as calls (R35)."""

    calls: int = 0
    attempts: int = 0
    redirects: int = 0
    not_sent: int = 0
    unknown_attempts: int = 0
    unknown_calls: int = 0
    failed_calls: int = 0
    repeated: int = 0  # answers that were the stored answer of an earlier attempt

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP request of a call, told to `on_attempt` when it ended. Instants: the client's monotonic
    seconds."""

    method: str
    path: str
    node: str
    number: int
    request_id: str | None
    sent_at_s: float
    ended_at_s: float
    verdict: Verdict
    status: int | None
    code: str | None


@dataclass(slots=True)
class Result:
    """A call that was answered. `sent_at_s`: when its first attempt left (client's monotonic seconds)."""

    data: Any
    status: int
    sent_at_s: float
    attempts: int
    was_unknown: bool
    headers: Mapping[str, str]


@dataclass(slots=True)
class _Call:
    method: str
    path: str
    payload: bytes | None
    headers: dict[str, str]
    request_id: str | None
    wait_ms: int
    write: bool
    ahead: bool
    deadline_s: float
    first_sent_s: float = 0.0
    attempts: int = 0
    timeouts: int = 0
    rounds: int = 0
    unknown: bool = False
    last: Exception | None = None
    tried: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Answer:
    verdict: Verdict
    error: Exception | None = None
    data: Any = None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class SystemClock:
    """This machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class Session:
    """Connections to the nodes and the rules of a call. Lives in one event loop."""

    def __init__(
        self,
        ring: Ring,
        *,
        policy: RetryPolicy,
        token: str | None = None,
        codec: str = "msgpack",
        clock: Clock | None = None,
        rng: random.Random | None = None,
        connections: int = 100,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.ring = ring
        self.policy = policy
        self.stats = Stats()
        self._pace = Pace()
        self.clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()  # jitter only: nothing is decided by it
        if token is not None:
            check_header("Authorization", token)
        self._token = token
        self._media, self._encode = _codec(codec)
        self._limit = connections
        self._connections = Connections(connections, policy.connect_s)
        self._on_attempt = on_attempt
        self._streams: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        await self._connections.close()
        if self._streams is not None:
            await self._streams.close()
            self._streams = None

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        wait_ms: int = 0,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        write: bool | None = None,
        ahead: bool = False,
    ) -> Result:
        """Send until there is an answer or the retry time is over. `path` starts with `/`; `wait_ms` is a
        long poll's wait, which comes on top of every timeout; `ahead`: it does not wait until fewer than
        `connections` calls are under way. Raises `ApiError` and its kinds (`Unencodable` at once), and
        `ValueError` at once for a request id or a header with control characters."""
        write = method != "GET" if write is None else write
        if write and request_id is None:
            request_id = secrets.token_hex(16)
        given = dict(headers or {})
        if request_id is not None:
            given["Idempotency-Key"] = request_id
        for name, value in given.items():
            check_header(name, value)
        sent = {"Accept": self._media, **given}
        payload = None
        if body is not None:
            try:
                payload = self._encode(body)
            except Exception as error:
                raise Unencodable(str(error)) from error
            sent["Content-Type"] = self._media
        deadline_s = self.clock.monotonic() + self.policy.total_s + wait_ms / 1000
        call = _Call(method, path, payload, sent, request_id, wait_ms, write, ahead, deadline_s)
        self.stats.calls += 1
        try:
            return await self._run(call)
        except OutcomeUnknown:
            self.stats.unknown_calls += 1
            raise
        except ApiError:
            self.stats.failed_calls += 1
            raise

    # --- the loop over attempts ---------------------------------------------------------------------

    async def _run(self, call: _Call) -> Result:
        while True:
            now_s = self.clock.monotonic()
            origin = self.ring.pick(call.tried, now_s)
            if origin is None or (self.ring.is_bad(origin, now_s) and self._answered(call, now_s)):
                await self._next_round(call)
                continue
            answer = await self._follow(call, origin)
            if answer.verdict is Verdict.DONE:
                return self._done(call, answer)
            call.last = answer.error
            if answer.verdict is Verdict.REFUSED:
                self._end(call)
            if answer.verdict is Verdict.LATER:
                call.tried.update(self.ring.members, self.ring.learned)  # all the same: pause
            if self.clock.monotonic() >= call.deadline_s:
                self._end(call)

    def _answered(self, call: _Call, now_s: float) -> bool:
        """A node that was tried in this round did answer. While it has not heard of a silent leader's end yet it
        still names it: asking it again soon is better than waiting for the silent one once more (R34)."""
        return any(not self.ring.is_bad(one, now_s) for one in call.tried)

    async def _follow(self, call: _Call, origin: str) -> _Answer:
        """One node, and the redirects it gives, at most `HOPS_MAX`."""
        path = call.path
        for _ in range(HOPS_MAX + 1):
            answer = await self._attempt(call, origin, path)
            call.tried.add(origin)
            call.unknown = call.unknown or (call.write and answer.verdict is Verdict.UNKNOWN)
            if answer.verdict is not Verdict.REDIRECT:
                return answer
            self.stats.redirects += 1
            url = urljoin(origin + path, answer.headers.get("Location", ""))
            target = urlsplit(url)
            if target.scheme not in ("http", "https") or not target.hostname or origin_of(url) == origin:
                break
            origin = origin_of(url)
            path = (target.path or "/") + (f"?{target.query}" if target.query else "")
            if not can_be_sent(path):
                break
            if self.ring.is_bad(origin, self.clock.monotonic()):
                break  # it names a leader that we know is gone: it will learn
            if self.policy.total_s > 0 and self.clock.monotonic() >= call.deadline_s:
                break
        return _Answer(
            Verdict.ELSEWHERE, Unreachable("redirected in a circle, or to a node that does not answer")
        )

    async def _next_round(self, call: _Call) -> None:
        """Every node was tried: pause with full jitter, then begin again."""
        call.tried.clear()
        self.ring.turn()
        pause_s = self.policy.pause_s(call.rounds, self._rng)
        call.rounds += 1
        retry_after_ms = getattr(call.last, "retry_after_ms", None)
        if retry_after_ms and isinstance(call.last, ApiError) and call.last.status == 429:
            pause_s += retry_after_ms / 1000
        if self.clock.monotonic() + pause_s >= call.deadline_s:
            self._end(call)
        await asyncio.sleep(pause_s)

    def _done(self, call: _Call, answer: _Answer) -> Result:
        if isinstance(answer.data, dict) and answer.data.get("repeated") is True:
            self.stats.repeated += 1
        return Result(
            answer.data, answer.status, call.first_sent_s, call.attempts, call.unknown, answer.headers
        )

    def _end(self, call: _Call) -> None:
        """The call failed. After one unknown attempt nothing that came later makes it known (R35)."""
        last = call.last
        assert last is not None
        if call.unknown:
            raise OutcomeUnknown(
                "outcome_unknown",
                f"{call.method} {call.path} may or may not have been applied "
                f"({call.attempts} attempts, last: {last})",
                extra={"request_id": call.request_id},
            ) from last
        if isinstance(last, ApiError):
            raise last
        raise Unreachable(
            f"no node answered {call.method} {call.path} in {call.attempts} attempts, last: {last!r}"
        ) from last

    # --- streams ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, silence_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt at one node, whose answer is read as it comes; it ends by a `TimeoutError` when nothing comes
        for `silence_s`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.policy.connect_s, sock_read=silence_s)
        sent = {**headers, **self._credentials(origin_of(url))}
        async with self._open().get(url, headers=sent, allow_redirects=False, timeout=timeout) as response:
            self.ring.answered(origin_of(url))
            self._learn(response.headers)
            yield response

    def pause_s(self, rounds: int) -> float:
        return self.policy.pause_s(rounds, self._rng)

    def _credentials(self, origin: str) -> dict[str, str]:
        """Only for the nodes that the caller named."""
        if self._token is None or origin not in self.ring.members:
            return {}
        return {"Authorization": f"Bearer {self._token}"}

    # --- one attempt --------------------------------------------------------------------------------

    async def _attempt(self, call: _Call, origin: str, path: str) -> _Answer:
        now_s = self.clock.monotonic()
        left_s = max(call.deadline_s - now_s, 0.05)
        patience_s = self.policy.attempt_timeout_s(call.timeouts, self._pace)
        # How long a node may hold the request while it knows no leader: it must say so before our timeout,
        # or a plain "no leader" would look like an unknown outcome.
        call.headers["Trivet-Election-Wait"] = str(int(patience_s * 700))
        timeout_s = patience_s + call.wait_ms / 1000
        if self.policy.total_s > 0:
            timeout_s = min(timeout_s, left_s)
        if call.attempts == 0:
            call.first_sent_s = now_s
        call.attempts += 1
        self.stats.attempts += 1
        headers = {**call.headers, **self._credentials(origin)}
        request = Request(call.method, origin, path, headers, call.payload, call.ahead)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(request)
            if not call.wait_ms:
                self._pace.answered(self.clock.monotonic() - now_s)
        except (OSError, TimeoutError, msgspec.DecodeError, ValueError) as error:
            answer = self._broken(call, request, now_s, error)
        self._count(call, origin, now_s, answer)
        return answer

    async def _ask(self, request: Request) -> _Answer:
        response = await self._connections.send(request)
        headers = response.headers
        self.ring.answered(request.origin)
        self._learn(headers)
        data = _decode(response.body, response.media)
        verdict, error = judge(response.status, data, ours="Trivet-Node" in headers)
        if verdict is Verdict.DONE and "Trivet-Node" not in headers:
            verdict, error = Verdict.REFUSED, BadAnswer(f"{request.origin} answers, but it is no Trivet node")
        return _Answer(verdict, error, data, response.status, headers)

    def _broken(self, call: _Call, request: Request, sent_at_s: float, error: Exception) -> _Answer:
        now_s = self.clock.monotonic()
        timed_out = isinstance(error, TimeoutError)
        if timed_out and request.left:
            call.timeouts += 1
            if not call.wait_ms:
                self._pace.ran_out(now_s - sent_at_s)
        if request.begun:  # else it waited here, for others of ours
            self.ring.failed(request.origin, now_s, BAD_AFTER_TIMEOUT_S if timed_out else BAD_FOR_S)
        verdict = Verdict.UNKNOWN if request.left else Verdict.NOT_SENT
        said = str(error) or type(error).__name__
        return _Answer(verdict, Unreachable(f"{request.origin}: {said}"))

    def _count(self, call: _Call, origin: str, sent_at_s: float, answer: _Answer) -> None:
        if answer.verdict is Verdict.NOT_SENT:
            self.stats.not_sent += 1
        elif answer.verdict is Verdict.UNKNOWN:
            self.stats.unknown_attempts += 1
        if self._on_attempt is None:
            return
        attempt = Attempt(
            call.method,
            call.path,
            origin,
            call.attempts,
            call.request_id,
            sent_at_s,
            self.clock.monotonic(),
            answer.verdict,
            answer.status or None,
            getattr(answer.error, "code", None),
        )
        try:
            self._on_attempt(attempt)
        except Exception:
            log.exception("on_attempt failed; the call goes on")

    def _learn(self, headers: Mapping[str, str]) -> None:
        term = headers.get("Trivet-Term", "")
        self.ring.learn(headers.get("Trivet-Leader"), int(term) if term.isdigit() else None)

    def _open(self) -> aiohttp.ClientSession:
        if self._streams is None:
            self._streams = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit, socket_factory=watched_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        return self._streams


def _codec(name: str) -> tuple[str, Callable[[Any], bytes]]:
    if name == "msgpack":
        return MSGPACK, msgspec.msgpack.Encoder().encode
    if name == "json":
        return JSON, msgspec.json.Encoder().encode
    raise ValueError(f"codec is {name!r}; it must be msgpack or json")


def _decode(raw: bytes, content_type: str) -> Any:
    if not raw:
        return None
    if content_type == MSGPACK:
        return msgspec.msgpack.decode(raw)
    if content_type == JSON or content_type.endswith("+json"):
        return msgspec.json.decode(raw)
    return raw.decode("utf-8", "replace")
