"""The SDK with every call written down: below its verbs, so that guards and workers are recorded too."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from chaos.history import FAIL, INFO, OK, Recorder
from trivet.client import ApiError, Attempt, Client, OutcomeUnknown, RetryPolicy, Verdict
from trivet.client.ring import Ring
from trivet.client.session import Result, Session
from trivet.client.settle import GOOD

PATIENCE_S = (8.0, 8.0, 2.0, 0.0)
"""How long a process goes on asking; each draws one. Shorter than a default client, down to a single
attempt, so that faults make unknown outcomes and not only slow answers."""

TOKENS_KEPT = 1000  # of each process: it settles what it leased lately

_BESIDE = frozenset({"index", "seq", "term", "as_of", "repeated"})
_SETTLES = {"ack": "acks", "nack": "nacks", "extend": "extensions", "release": "leases"}
_POSTED = {
    **{"/v1/" + verb: verb for verb in _SETTLES},
    **{"/v1/effects/" + verb: "effect_" + verb for verb in ("begin", "commit", "abort")},
    "/v1/lease": "lease",
}


@dataclass
class Doubts:
    """What only the broker can tell: messages and effects with a call of unknown outcome, each with the
    monotonic second at which the doubt arose."""

    messages: dict[str, float] = field(default_factory=dict)
    effects: dict[str, float] = field(default_factory=dict)
    committed: str | None = None  # the effect that was surely committed last

    def about(self, f: str, args: dict[str, Any]) -> None:
        now_s = time.monotonic()
        if f in _SETTLES:
            self.messages.update((one, now_s) for one in args["ids"] if one is not None)
        elif f == "cancel":
            self.messages[args["id"]] = now_s
        elif f == "redrive":
            self.messages.update((one, now_s) for one in args.get("ids", ()))
        elif f.startswith("effect_") and "effect_id" in args:
            self.effects[args["effect_id"]] = now_s


class Process(Client):
    """A logical process: one call at a time, and a new name after a call whose outcome stayed unknown.

    `reserve()` gives the number of the next call before it is made, for bodies that carry it. `repeats`:
    set it to the operation that the next call says again.
    """

    def __init__(
        self,
        nodes: list[str],
        recorder: Recorder,
        name: str,
        rng: random.Random,
        doubts: Doubts,
        *,
        patient: bool = False,
    ) -> None:
        policy = RetryPolicy(total_s=PATIENCE_S[0] if patient else rng.choice(PATIENCE_S))
        super().__init__(nodes, retry=policy, rng=rng)
        self.recorder = recorder
        self.rng = rng
        self.consumer = name
        self._doubts = doubts
        self._about: tuple[str, dict[str, Any]] = ("", {})  # f and args of the call under way
        self.repeats: int | None = None
        self.call_s = 0.01  # how long an attempt takes of late
        self._name = name
        self._generation = 0
        self._op: int | None = None
        self._attempts: list[Attempt] = []
        self._messages: dict[str, str] = {}  # token → message id, of the last leases
        self._granted = ("", "")  # token and id of the last grant
        self.session = _Recording(
            self,
            Ring(nodes, start=rng.randrange(64)),
            policy=policy,
            rng=rng,
            connections=4,
            on_attempt=self.attempted,
        )

    @property
    def proc(self) -> str:
        return f"{self._name}.{self._generation}"

    def reserve(self) -> int:
        self._op = self.recorder.reserve()
        return self._op

    def request_id(self) -> str:
        """Of the call that `reserve` was asked for, or of a new one."""
        return f"{self.recorder.run}-{self._op if self._op is not None else self.reserve()}"

    # --- one call -----------------------------------------------------------------------------------

    def attempted(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        if "/lease" not in attempt.path:  # those wait
            took_s = attempt.ended_at_s - attempt.sent_at_s
            self.call_s += (took_s - self.call_s) / 8

    def began(self, f: str, args: dict[str, Any], request_id: str | None) -> int:
        if request_id is not None:
            args["request_id"] = request_id
        if f in _SETTLES:
            items = args[_SETTLES[f]]
            args["ids"] = [self._messages.get(one["lease_token"]) for one in items]
        if f in ("effect_commit", "effect_abort") and args["effect_token"] == self._granted[0]:
            args["effect_id"] = self._granted[1]
        if self.repeats is not None:
            args["repeats"] = self.repeats
        op, self._op, self.repeats = self._op, None, None
        self._attempts.clear()
        self._about = (f, args)
        return self.recorder.invoke(self.proc, f, args, op)

    def answered(self, op: int, result: Result) -> None:
        f, args = self._about
        data = result.data if isinstance(result.data, dict) else {}
        if f == "lease":
            self._learn(data["messages"])
        if f == "effect_begin" and data["state"] == "granted":
            self._granted = (data["effect_token"], args["effect_id"])
        if f == "effect_commit" and "effect_id" in args:
            self._doubts.committed = args["effect_id"]
        told = {name: value for name, value in data.items() if name not in _BESIDE}
        if f in ("lease", "browse", "dead_letters"):
            told["messages"] = [_shorter(one, f) for one in told["messages"]]
        refused = None
        if f in _SETTLES and all(one["status"] not in GOOD for one in told["results"]):
            refused = {"code": told["results"][0]["status"]}
        place: dict[str, Any] = {name: data.get(name) for name in ("index", "seq", "term")}
        if f == "lease" and not told["messages"] and "lost" not in told:  # nothing was written
            place = {"asof": data.get("index")}
        elif "as_of" in data:
            place = {"asof": data["as_of"]}
        self.recorder.returned(
            op,
            FAIL if refused else OK,
            **self._how(),
            **place,
            repeated=data.get("repeated"),
            result=told,
            error=refused,
        )

    def ended(self, op: int, error: ApiError) -> None:
        unknown = isinstance(error, OutcomeUnknown)
        told = {"code": error.code, "detail": error.detail[:300]}
        self.recorder.returned(op, INFO if unknown else FAIL, **self._how(), error=told)
        if unknown:
            self._retire()

    def abandoned(self, op: int, error: BaseException) -> None:
        told = {"code": "abandoned", "detail": repr(error)[:300]}
        self.recorder.returned(op, INFO, **self._how(), error=told)
        self._retire()

    def _retire(self) -> None:
        """After an unknown outcome: a new logical process, and questions to ask later."""
        self._generation += 1
        self._doubts.about(*self._about)

    def _learn(self, leased: list[dict[str, Any]]) -> None:
        for one in leased:
            self._messages[one["lease_token"]] = one["id"]
        for token in list(self._messages)[: max(0, len(self._messages) - TOKENS_KEPT)]:
            del self._messages[token]

    def _how(self) -> dict[str, Any]:
        return {
            "attempts": len(self._attempts),
            "unknown_attempts": sum(one.verdict is Verdict.UNKNOWN for one in self._attempts),
            "node": self._attempts[-1].node if self._attempts else None,
        }


class _Recording(Session):
    """A session whose calls its process writes down."""

    def __init__(self, process: Process, ring: Ring, **settings: Any) -> None:
        super().__init__(ring, **settings)
        self._process = process

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
        process = self._process
        if request_id is None and method != "GET":
            request_id = process.request_id()
        f, args = described(method, path, body)
        op = process.began(f, args, request_id)
        try:
            result = await super().call(
                method,
                path,
                body,
                wait_ms=wait_ms,
                request_id=request_id,
                headers=headers,
                write=write,
                ahead=ahead,
            )
        except ApiError as error:
            process.ended(op, error)
            raise
        except (Exception, asyncio.CancelledError) as error:
            process.abandoned(op, error)
            raise
        process.answered(op, result)
        return result


def described(method: str, path: str, body: Any) -> tuple[str, dict[str, Any]]:
    """`f` and `args` of a request. Raises ValueError for a call that no workload should make."""
    parts = urlsplit(path)
    query: dict[str, Any] = dict(parse_qsl(parts.query))
    if query.pop("consistency", None) == "local":
        query["local"] = True
    args = {**(body or {}), **query}
    match [method, *(unquote(one) for one in parts.path.split("/")[2:])]:
        case ["POST", *_] if parts.path in _POSTED:
            return _POSTED[parts.path], args
        case ["POST", "queues", queue, "messages"]:
            messages = args.get("messages", [args])
            return "enqueue", {"queue": queue, "messages": messages}
        case ["POST", "queues", queue, "lease"]:
            return "lease", {"queues": [queue], **args}
        case ["PUT" | "PATCH", "queues", queue]:
            return ("put_queue" if method == "PUT" else "patch_queue"), {"queue": queue, "config": args}
        case ["GET", "queues", queue]:
            return "read_queue", {"queue": queue, **args}
        case ["GET", "queues", queue, "messages"]:
            return "browse", {"queue": queue, **args}
        case ["GET", "queues", queue, "dead"]:
            return "dead_letters", {"queue": queue, **args}
        case ["POST", "queues", queue, "dead", "redrive"]:
            return "redrive", {"queue": queue, **args}
        case ["GET", "messages", message]:
            return "read_message", {"id": message, **args}
        case ["DELETE", "messages", message]:
            return "cancel", {"id": message, **args}
        case ["PUT", "topics", topic]:
            return "put_topic", {"topic": topic, **args}
        case ["PUT", "topics", topic, "groups", group]:
            return "put_queue", {"queue": f"{topic}:{group}", "config": args}
        case ["POST", "topics", topic, "messages"]:
            return "publish", {"topic": topic, "messages": args.get("messages", [args])}
        case ["PUT", "schedules", schedule]:
            return "put_schedule", {"schedule": schedule, **args}
        case ["POST", "schedules", schedule, "pause"]:
            return "pause_schedule", {"schedule": schedule, **args}
        case ["GET", "schedules", schedule]:
            return "read_schedule", {"schedule": schedule, **args}
        case ["POST", "runs", run, "events"]:
            return "append_events", {"run": run, **args}
        case ["GET", "runs", run, "events"]:
            return "read_events", {"run": run, **args}
        case ["POST", "flows"]:
            return "create_flow", args
        case ["GET", "flows", flow]:
            return "read_flow", {"flow": flow, **args}
        case ["GET", "effects", effect]:
            return "effect_state", {"effect_id": effect, **args}
    raise ValueError(f"a drill has no operation for {method} {path}")


def _shorter(message: dict[str, Any], f: str) -> dict[str, Any]:
    """Without what says nothing; in a list also without its attempts and the padding of its body."""
    shown = {name: value for name, value in message.items() if value not in (None, [], {})}
    if f != "lease":
        shown.pop("attempts", None)
        shown["body"] = {name: value for name, value in message["body"].items() if name != "pad"}
    return shown
