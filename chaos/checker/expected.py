"""The clients' side of a run as the second judge needs it: what was told, by its place in the log.

Compact: of bodies only digests are kept. Nothing in here is shared with the first judge.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from chaos.history import FAIL, OK, Operation

Place = tuple[int, int]
WRITES = frozenset(
    (
        *("enqueue", "lease", "ack", "nack", "extend", "release", "effect_begin", "effect_commit"),
        *("effect_abort", "put_queue", "patch_queue", "redrive", "cancel", "create_flow"),
        *("put_topic", "publish", "put_schedule", "pause_schedule", "append_events"),
    )
)
_canonical = msgspec.json.Encoder(order="sorted").encode
COUNTS = ("ready", "delayed", "leased", "dead", "blocked", "bytes", "revision")


def body_digest(body: Any) -> bytes:
    return blake2b(_canonical(body), digest_size=16).digest()


def stored_body(data: bytes, codec: int) -> Any:
    """A body as the log holds it: JSON text, or plain bytes."""
    return data if codec else msgspec.json.decode(data)


def stored_digest(data: bytes, codec: int) -> bytes:
    return body_digest(stored_body(data, codec))


def group_of(queue: str) -> str:
    """The queue of a consumer group; nothing for any other: messages of those may move."""
    return queue if ":" in queue else ""


def in_group(queue: str, digest: bytes) -> bytes:
    """What tells the messages of one body in several groups of a topic apart."""
    return blake2b(queue.encode() + digest, digest_size=16).digest() if ":" in queue else digest


def slot_digest(queue: str, key: str) -> bytes:
    """What tells the messages of a schedule apart: they have one body."""
    return blake2b(b"slot" + f"{queue} {key}".encode(), digest_size=16).digest()


def number_of(name: str) -> int | None:
    """The number in a message id (`m` and 12 hex digits)."""
    try:
        return int(name[1:], 16) if len(name) == 13 and name[0] == "m" else None
    except ValueError:
        return None


def token_parts(token: str | None) -> tuple[int, bytes] | None:
    try:
        raw = base64.urlsafe_b64decode(token or "")
    except ValueError:
        return None
    return (int.from_bytes(raw[:8], "big"), raw[8:]) if len(raw) == 24 else None


@dataclass(slots=True, eq=False)
class Told:
    """What one operation was told by the command at its place, as plain tuples in the model's shape."""

    op: int
    f: str
    request_id: str | None
    repeated: bool
    reply: Any  # None: refused as a whole, with `code`
    code: str | None
    bodies: tuple[bytes, ...] = ()  # sent
    given: tuple[bytes, ...] = ()  # of deliveries


@dataclass(slots=True, eq=False)
class Read:
    op: int
    f: str
    what: str  # queue, message id, effect id
    told: Any


@dataclass
class Expected:
    told: dict[Place, list[Told]] = field(default_factory=lambda: defaultdict(list))
    unplaced: dict[str, tuple[int, str]] = field(default_factory=dict)  # request id → (op, type), of writes
    reads: dict[int, list[Read]] = field(default_factory=lambda: defaultdict(list))  # by `asof`
    numbers: dict[bytes, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )  # body → message numbers
    origins: dict[tuple[Any, Any, str], int] = field(
        default_factory=dict
    )  # (op, i) of a listed body and the consumer group → number
    dues: dict[int, int] = field(default_factory=dict)  # fence of a nacked lease → deliver_at_ms
    ok: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # request id → ops that are ok
    terms: dict[int, tuple[int, int]] = field(default_factory=dict)  # index → (term, op) of answers
    split: list[tuple[int, int, int]] = field(default_factory=list)  # (index, op, other op): two terms
    writes: int = 0
    flows: dict[str, int] = field(default_factory=dict)  # flow → the number of its first step's message

    def take(self, o: Operation) -> None:
        if o.f in WRITES:
            self.writes += 1
            self.write(o)
        elif o.type == OK and o.asof is not None:
            self.read(o)
        if o.type == OK and o.result and o.f in ("lease", "browse", "dead_letters", "read_message"):
            for one in o.result.get("messages", [o.result]):
                if isinstance(one.get("body"), dict) and "schedule" in one["body"]:
                    self.learn(one["id"], slot_digest(one["queue"], one.get("idempotency_key", "")))
                elif "body" in one:
                    self.seen(o.f, one["id"], one["body"], one.get("queue", ""))

    def seen(self, f: str, name: str, body: Any, queue: str) -> None:
        """Lists are recorded with shortened bodies: there the origin must do."""
        if f in ("browse", "dead_letters"):
            number = number_of(name)
            if isinstance(body, dict) and number is not None:
                self.origins.setdefault((body.get("op"), body.get("i"), group_of(queue)), number)
        else:
            self.learn(name, in_group(queue, body_digest(body)))

    def learn(self, name: str, digest: bytes) -> None:
        number = number_of(name)
        known = self.numbers[digest]
        if number is not None and number not in known:
            known.append(number)
            known.sort()

    def write(self, o: Operation) -> None:
        rid = o.args.get("request_id")
        if rid is not None:
            self.unplaced.setdefault(rid, (o.op, o.type))
            if o.type != FAIL and self.unplaced[rid][1] == FAIL:
                self.unplaced[rid] = (o.op, o.type)
        if o.index is None or o.seq is None:
            return
        if rid is not None and o.type == OK:
            self.ok[rid].add(o.op)
        if o.term is not None:
            first = self.terms.setdefault(o.index, (o.term, o.op))
            if first[0] != o.term and not o.repeated:
                self.split.append((o.index, first[1], o.op))
        told = Told(o.op, o.f, rid, o.repeated, getattr(self, "of_" + o.f)(o, o.result), o.code)
        if o.f == "enqueue":
            told.bodies = self.sent(o.args["messages"], o.result["messages"])
        elif o.f == "ack" and o.args.get("enqueue") and o.type == OK:
            told.bodies = self.sent(o.args["enqueue"], o.result["messages"])
        elif o.f == "publish":
            told.bodies = tuple(body_digest(one.get("body")) for one in o.args["messages"])
            for digest, one in zip(told.bodies, o.result["messages"], strict=False):
                for group, name in one["ids"].items():
                    self.learn(name, in_group(f"{o.args['topic']}:{group}", digest))
        elif o.f == "create_flow":
            answers = [{"id": one["message_id"]} for one in o.result["steps"]]
            told.bodies = self.sent(o.args["steps"], answers)
            first = number_of(answers[0]["id"])
            if first is not None:
                self.flows[o.result["id"]] = first
        elif o.f == "lease":
            told.given = tuple(body_digest(one.get("body")) for one in o.result["messages"])
        self.told[o.index, o.seq].append(told)

    def sent(self, messages: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[bytes, ...]:
        digests = tuple(body_digest(one.get("body")) for one in messages)
        for digest, answer in zip(digests, answers, strict=False):
            if not answer.get("duplicate"):
                self.learn(answer["id"], digest)
        return digests

    # --- answers in the model's shape -------------------------------------------------------------------

    def of_enqueue(self, o: Operation, r: Any) -> Any:
        return ("enqueued", [self.one(each) for each in r["messages"]])

    def one(self, each: dict[str, Any]) -> tuple[Any, ...]:
        return (number_of(each["id"]), each["state"], bool(each.get("duplicate")))

    def of_create_flow(self, o: Operation, r: Any) -> Any:
        return ("flow", [(number_of(one["message_id"]), one["state"], False) for one in r["steps"]])

    def of_lease(self, o: Operation, r: Any) -> Any:
        grants = []
        for each in r["messages"]:
            parts = token_parts(each["lease_token"])
            grants.append((number_of(each["id"]), parts, each["lease_expires_at_ms"], each["attempt"]))
        return ("leased", r["now_ms"], r.get("lost", 0), grants)

    def of_settle(self, o: Operation, r: Any) -> Any:
        results = [
            (
                one["status"], bool(one.get("repeated")), one.get("state"), one.get("deliver_at_ms"),
                one.get("lease_expires_at_ms"), bool(one.get("cancelled")),
            )
            for one in r["results"]
        ]  # fmt: skip
        if o.f == "nack":
            for item, one in zip(o.args["nacks"], results, strict=False):
                parts = token_parts(item["lease_token"])
                if parts is not None and one[3] is not None:
                    self.dues[parts[0]] = one[3]
        messages = r.get("messages")
        return ("settled", results, None if messages is None else [self.one(each) for each in messages])

    of_ack = of_nack = of_extend = of_release = of_settle

    def of_effect_begin(self, o: Operation, r: Any) -> Any:
        parts = token_parts(r.get("effect_token"))
        fence = None if parts is None else parts[0]
        return ("effect", r["state"], bool(r.get("uncertain")), fence, r.get("expires_at_ms"))

    of_effect_commit = of_effect_abort = of_effect_begin

    def of_put_queue(self, o: Operation, r: Any) -> Any:
        return ("queue", o.args["queue"], None, r.get("revision"))

    of_patch_queue = of_put_queue

    def of_put_schedule(self, o: Operation, r: Any) -> Any:
        return ("schedule", o.args["schedule"], None, r.get("revision"))

    def of_pause_schedule(self, o: Operation, r: Any) -> Any:
        return ("done", 0)

    def of_put_topic(self, o: Operation, r: Any) -> Any:
        return ("topic", o.args["topic"])

    def of_publish(self, o: Operation, r: Any) -> Any:
        told = [(one["offset"], bool(one["duplicate"])) for one in r["messages"]]
        groups: dict[str, list[int | None]] = {}
        for one in r["messages"]:
            for group, name in one["ids"].items():
                groups.setdefault(group, []).append(number_of(name))
        return ("published", told, groups)

    def of_append_events(self, o: Operation, r: Any) -> Any:
        return ("appended", [(one["id"], bool(one.get("duplicate"))) for one in r["events"]])

    def of_redrive(self, o: Operation, r: Any) -> Any:
        return ("redriven", [number_of(name) for name in r["ids"]])

    def of_cancel(self, o: Operation, r: Any) -> Any:
        return ("changed", number_of(o.args["id"]), r["state"])

    # --- reads ------------------------------------------------------------------------------------------

    def read(self, o: Operation) -> None:
        assert o.asof is not None
        r = o.result
        if o.f == "read_queue":
            told: Any = {name: r[name] for name in COUNTS if name in r}
            self.reads[o.asof].append(Read(o.op, o.f, o.args["queue"], told))
        elif o.f == "read_message":
            told = (r["state"], r.get("attempt", 0), r.get("dead_reason"))
            self.reads[o.asof].append(Read(o.op, o.f, o.args["id"], told))
        elif o.f == "read_flow":
            told = (r["state"], {number_of(one["message_id"]): one["state"] for one in r["steps"]})
            self.reads[o.asof].append(Read(o.op, o.f, r["id"], told))
        elif o.f == "read_events" and r["next"] is None and r["events"] and not o.args.get("local"):
            self.reads[o.asof].append(Read(o.op, o.f, o.args["run"], r["events"][-1]["id"]))
        elif o.f == "read_schedule":
            told = tuple(r[name] for name in ("fired", "skipped", "decided_at_ms", "paused", "revision"))
            self.reads[o.asof].append(Read(o.op, o.f, o.args["schedule"], told))
        elif o.f == "effect_state":
            told = (r["state"], bool(r.get("uncertain")))
            self.reads[o.asof].append(Read(o.op, o.f, o.args["effect_id"], told))
        elif o.f in ("browse", "dead_letters"):
            told = [(one["id"], one.get("state", "dead"), one.get("attempt", 0)) for one in r["messages"]]
            self.reads[o.asof].append(Read(o.op, o.f, o.args["queue"], told))
