"""A small HTTP client of its own: it shares nothing with `src/`, and checks the manners of every answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgpack

from tests.conformance.described import Described

RETRIES = {"never", "elsewhere", "later", "same_key"}
STATUS_OF = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "queue_not_found": 404,
    "message_not_found": 404,
    "run_not_found": 404,
    "effect_not_found": 404,
    "method_not_allowed": 405,
    "stale_lease": 409,
    "stale_effect": 409,
    "idempotency_conflict": 409,
    "effect_held": 409,
    "message_finished": 409,
    "queue_paused": 409,
    "no_eligible_member": 409,
    "revision_changed": 412,
    "payload_too_large": 413,
    "batch_too_large": 413,
    "unsupported_media_type": 415,
    "queue_full": 429,
    "rate_limited": 429,
    "overloaded": 429,
    "memory_pressure": 429,
    "no_leader": 503,
    "draining": 503,
    "recovering": 503,
    "outcome_unknown": 504,
    "disk_full": 507,
}
JSON = "application/json"
MSGPACK = "application/msgpack"
UNSET: Any = object()


@dataclass
class Reply:
    """One HTTP answer."""

    method: str
    path: str
    status: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def type(self) -> str:
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip()

    @property
    def data(self) -> Any:
        if self.type == MSGPACK:
            return msgpack.unpackb(self.raw)
        return json.loads(self.raw)

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    def __repr__(self) -> str:
        return f"{self.method} {self.path} -> {self.status} {self.raw[:600]!r}"

    def ok(self, status: int = 200) -> Any:
        assert self.status == status, self
        return self.data

    def refused(self, status: int, code: str, field: str | None = None) -> Any:
        """The problem details, after a look at each promised member."""
        assert self.status == status, self
        problem = self.data
        assert problem["code"] == code, self
        if field is not None:
            assert problem.get("field") == field, self
        return problem


def check_manners(reply: Reply) -> None:
    """What api.md says of *every* answer."""
    for name in ("Trivet-Node", "Trivet-Role", "Trivet-Term", "Trivet-Index", "Trivet-Request-Id"):
        assert reply.headers.get(name), (name, reply)
    assert int(reply.headers["Trivet-Term"]) >= 0
    assert int(reply.headers["Trivet-Index"]) >= 0
    if reply.method == "HEAD":
        assert reply.raw == b""
        return
    if reply.status == 307:
        assert reply.raw == b"", reply
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Location"].startswith(reply.headers["Trivet-Leader"])
        return
    if reply.status >= 400 and reply.path.startswith("/v1"):
        assert reply.type == "application/problem+json", reply
        problem = reply.data
        assert isinstance(problem["type"], str)
        assert isinstance(problem["title"], str)
        assert isinstance(problem["detail"], str)
        assert problem["status"] == reply.status
        assert problem["retry"] in RETRIES
        assert STATUS_OF.get(problem["code"], reply.status) == reply.status
        assert problem["code"] == problem["code"].lower()
        if "field" in problem:
            assert problem["field"] == "" or problem["field"].startswith("/"), reply
        if reply.status == 429 or problem["code"] == "no_leader":
            assert int(reply.headers["Retry-After"]) >= 1, reply
        if reply.status == 405:
            assert reply.headers["Allow"], reply
    elif reply.status < 300 and reply.path.startswith("/v1/") and "openapi" not in reply.path:
        answer = reply.data
        if reply.method == "GET":
            assert type(answer["as_of"]) is int, reply
        elif "/cluster/" not in reply.path and "as_of" not in answer:  # a dry run is a read
            assert all(type(answer[name]) is int for name in ("index", "seq", "term")), reply
            assert answer["index"] >= 1 and answer["seq"] >= 0 and answer["term"] >= 1


_DESCRIBED: list[Described] = []


def _lower(headers: http.client.HTTPMessage) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers.items()]


class Api:
    """One node's HTTP API; a connection per call, so that calls from threads never share one."""

    def __init__(self, url: str, pid: int = 0, name: str = "") -> None:
        self.url, self.pid, self.name = url.rstrip("/"), pid, name
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80

    def call(
        self,
        method: str,
        path: str,
        body: Any = UNSET,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        timeout: float = 15.0,
    ) -> Reply:
        sent = dict(headers or {})
        lower = {name.lower() for name in sent}
        if body is not UNSET:
            if sent.get("Content-Type") == MSGPACK:
                raw = msgpack.packb(body)
            else:
                raw = json.dumps(body).encode()
        if raw is not None and "content-type" not in lower:
            sent["Content-Type"] = JSON
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            reply = Reply(method, path, answer.status, answer.headers, answer.read())
        finally:
            connection.close()
        check_manners(reply)
        self._described().check(method, path, reply.status, dict(_lower(reply.headers)), reply.raw)
        return reply

    def _described(self) -> Described:
        """The description the nodes give of themselves, asked for once; every answer is held against it."""
        if not _DESCRIBED:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=15)
            try:
                connection.request("GET", "/v1/openapi.json")
                _DESCRIBED.append(Described(json.loads(connection.getresponse().read())))
            finally:
                connection.close()
        return _DESCRIBED[0]

    def get(self, path: str, **more: Any) -> Reply:
        return self.call("GET", path, **more)

    def post(self, path: str, body: Any = UNSET, **more: Any) -> Reply:
        return self.call("POST", path, body, **more)

    def put(self, path: str, body: Any = UNSET, **more: Any) -> Reply:
        return self.call("PUT", path, body, **more)

    def patch(self, path: str, body: Any = UNSET, **more: Any) -> Reply:
        return self.call("PATCH", path, body, **more)

    def delete(self, path: str, body: Any = UNSET, **more: Any) -> Reply:
        return self.call("DELETE", path, body, **more)

    # what nearly every test needs
    def queue(self, name: str, **configuration: Any) -> Any:
        return self.put(f"/v1/queues/{name}", configuration).ok(201)

    def enqueue(self, queue: str, **message: Any) -> str:
        answer = self.post(f"/v1/queues/{queue}/messages", message).ok(201)
        return str(answer["messages"][0]["id"])

    def enqueue_all(self, queue: str, messages: list[dict[str, Any]]) -> list[str]:
        answer = self.post(f"/v1/queues/{queue}/messages", {"messages": messages}).ok(201)
        return [item["id"] for item in answer["messages"]]

    def lease(self, queue: str, count: int = 1, consumer: str = "c", **more: Any) -> list[dict[str, Any]]:
        request = {"consumer": consumer, "max_messages": count, **more}
        answer = self.post(f"/v1/queues/{queue}/lease", request, timeout=15 + more.get("wait_ms", 0) / 1000)
        return list(answer.ok()["messages"])

    def one(self, queue: str, **more: Any) -> dict[str, Any]:
        leases = self.lease(queue, 1, **more)
        assert len(leases) == 1, leases
        return leases[0]

    def ack(self, *tokens: str) -> list[dict[str, Any]]:
        return list(self.post("/v1/ack", {"acks": [{"lease_token": t} for t in tokens]}).ok()["results"])

    def nack(self, token: str, **more: Any) -> dict[str, Any]:
        answer = self.post("/v1/nack", {"nacks": [{"lease_token": token, **more}]}).ok()
        return dict(answer["results"][0])

    def message(self, number: str) -> dict[str, Any]:
        return dict(self.get(f"/v1/messages/{number}").ok())

    def counts(self, queue: str) -> dict[str, int]:
        answer = self.get(f"/v1/queues/{queue}").ok()
        names = ("ready", "leasable", "delayed", "leased", "dead", "blocked")
        return {name: answer[name] for name in names}

    def kill_message(self, queue: str, **message: Any) -> str:
        """Enqueues one message and makes it a dead letter."""
        number = self.enqueue(queue, **message)
        assert self.nack(self.one(queue)["lease_token"], dead_letter=True, error="no")["status"] == "dead"
        return number


@dataclass
class Cluster:
    """What `trivet dev` started."""

    nodes: list[Api]

    def leader(self, timeout_s: float = 10.0) -> Api:
        return eventually(lambda: next((n for n in self.nodes if _leads(n)), None), timeout_s)

    def followers(self) -> list[Api]:
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]


def _leads(node: Api) -> bool:
    try:
        return node.get("/leader", timeout=2).status == 200
    except OSError:
        return False


def eventually(look: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """The first truthy answer of `look`; fails with the last one."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = look()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {answer!r}"
        time.sleep(0.02)


_pool = ThreadPoolExecutor(64)


def later(function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
    """Runs it in a thread; `.result()` has its answer."""
    return _pool.submit(function, *arguments, **named)


def parked(api: Api, queue: str, work: Callable[[], Any], wait_ms: int = 8000) -> tuple[list[Any], float]:
    """Leases with a wait, does `work` while it is parked: what it got, and seconds after `work` began."""
    begun = threading.Event()

    def wait() -> tuple[list[Any], float]:
        begun.set()
        leases = api.lease(queue, 1, wait_ms=wait_ms)
        return leases, time.monotonic()

    future = later(wait)
    begun.wait()
    time.sleep(0.15)  # lets the poll reach the server; if it did not, the test is only weaker, never flaky
    assert not future.done(), future.result()
    start = time.monotonic()
    work()
    leases, end = future.result(20)
    return leases, end - start
