"""The clients' side of a run, put together for the first judge: what was sent, given, ended, read.

Only what clients sent and were told is in here. Bodies are held as digests.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from chaos.history import FAIL, INFO, OK, Operation

Place = tuple[int, int]
"""(index, seq) of a command in the log, as the answer says it."""

GOOD = frozenset(("acked", "nacked", "dead", "extended", "released"))
_SETTLES = {"ack": "acks", "nack": "nacks", "extend": "extensions", "release": "leases"}
_to_json = msgspec.json.Encoder(order="sorted").encode
FOREVER = 1 << 62


def digest(body: Any) -> bytes:
    return blake2b(_to_json(body), digest_size=12).digest()


def fence_of(token: str | None) -> int | None:
    """The fencing number in a token (R13), None if it is none."""
    try:
        raw = base64.urlsafe_b64decode(token or "")
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(raw[:8], "big") if len(raw) == 24 else None


@dataclass(slots=True, eq=False)
class Call:
    """An operation without its contents. `place`: None unless answered with one."""

    op: int
    proc: str
    f: str
    type: str
    inv: int
    ret: int
    place: Place | None
    repeated: bool
    code: str | None

    @property
    def may_have_happened(self) -> bool:
        return self.type != FAIL

    @property
    def is_first(self) -> bool:
        """Answered as the first application of its command (an SDK's own repeat may have fetched it)."""
        return self.type == OK and self.place is not None


@dataclass(slots=True, eq=False)
class Sent:
    """One body that somebody enqueued, once or again. `ids`: what the broker called it, and who was told."""

    op: int
    i: int
    queue: str
    group: str | None
    key: str | None
    window: int | None
    delay: int | None
    ttl: int | None
    max_attempts: int | None
    parent: str | None
    n: int | None
    size: int
    calls: list[Call] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    born: list[tuple[Place, str, Call]] = field(default_factory=list)  # answers with `duplicate: false`
    seen: bool = False


@dataclass(slots=True, eq=False)
class Grant:
    id: str
    queue: str
    token: str
    fence: int
    place: Place
    attempt: int
    now: int
    expires: int
    enqueued: int
    group: str | None
    call: Call


@dataclass(slots=True, eq=False)
class End:
    """One item of a settle: `status` None when its answer is unknown."""

    verb: str
    token: str
    id: str | None
    status: str | None
    repeated: bool
    call: Call
    deliver_at: int | None = None
    expires: int | None = None
    dead_letter: bool = False

    @property
    def counted(self) -> bool:
        """It took effect, here and for the first time."""
        return self.status in GOOD and not self.repeated


@dataclass(slots=True, eq=False)
class Step:
    """One call about an effect. `kind`: begin | commit | abort | ack. `state`: what was answered."""

    kind: str
    effect: str
    token: str | None
    lease: str | None
    state: str | None
    uncertain: bool
    repeated: bool
    call: Call


@dataclass(slots=True, eq=False)
class Seen:
    """A read of one message, effect or queue."""

    call: Call
    asof: int | None
    local: bool
    state: str | None
    told: dict[str, Any]


class Facts:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.sent: dict[tuple[int, int, bytes], Sent] = {}
        self.origins: dict[tuple[int, int], Sent] = {}  # by (op, i): the first of that name
        self.owner: dict[str, Sent] = {}  # id → what it was, by deliveries and answers
        self.births: dict[int, list[Sent]] = defaultdict(list)  # op → what it sent
        self.keys: dict[tuple[str, str], dict[str, tuple[Call, Sent]]] = defaultdict(dict)
        self.grants: dict[str, list[Grant]] = defaultdict(list)  # by message
        self.tokens: dict[str, Grant] = {}
        self.ends: dict[str, list[End]] = defaultdict(list)  # by token
        self.effects: dict[str, list[Step]] = defaultdict(list)
        self.effect_reads: dict[str, list[Seen]] = defaultdict(list)
        self.reads: dict[str, list[Seen]] = defaultdict(list)  # of messages, by id
        self.queue_reads: dict[str, list[Seen]] = defaultdict(list)
        self.configs: dict[str, list[tuple[Call, dict[str, Any], int | None]]] = defaultdict(list)
        self.missed: dict[str | None, list[Call]] = defaultdict(list)  # answered `queue_not_found`, by queue
        self.redriven: set[str] = set()  # ids, and queues of a redrive that named none
        self.cancelled: set[str] = set()
        self.unknown_leases: set[str] = set()  # queues of lease calls whose answer nobody has
        self.all_reads: list[tuple[Call, int]] = []  # linearizable ones with their `asof`
        self.strange: list[tuple[str, str, tuple[int, ...]]] = []  # (law, text, ops) met while collecting
        self.late: list[tuple[str, Any, Call]] = []  # deliveries of what was not (yet) known to be sent
        self.resolved = False
        self.undrained = ""
        self.drained_ns = FOREVER
        self.bytes = 0

    # --- taking in --------------------------------------------------------------------------------------

    def note(self, line: dict[str, Any]) -> None:
        if line.get("phase") == "resolved":
            self.resolved = True
        elif line.get("phase") == "drained":
            self.drained_ns = line["t"]
        elif line["what"] in ("undrained", "unresolved"):
            self.undrained = str(line.get("left"))

    def take(self, o: Operation) -> None:
        place = (o.index, o.seq) if o.index is not None and o.seq is not None else None
        ret = FOREVER if o.ret_ns is None else o.ret_ns
        call = Call(o.op, o.proc, o.f, o.type, o.inv_ns, ret, place, o.repeated, o.code)
        self.calls.append(call)
        # A node that has just started answers a local read from the little it has applied.
        if o.code == "queue_not_found" and not o.args.get("local"):
            for queue in o.args.get("queues") or [o.args.get("queue")]:
                self.missed[queue].append(call)
        handler = getattr(self, "take_" + o.f, None)
        if handler is not None:
            handler(o, call)

    def sent_by(self, message: dict[str, Any], queue: str, call: Call) -> Sent | None:
        body = message.get("body")
        if not isinstance(body, dict) or "op" not in body or "i" not in body:
            return None
        at = (body["op"], body["i"], digest(body))
        found = self.sent.get(at)
        if found is None:
            size = len(_to_json(body))
            self.bytes += size + 512
            found = self.sent[at] = Sent(
                body["op"], body["i"], queue, message.get("group"), message.get("idempotency_key"),
                message.get("idempotency_window_ms"), message.get("delay_ms"), message.get("ttl_ms"),
                message.get("max_attempts"), body.get("parent"), body.get("n"), size,
            )  # fmt: skip
            self.origins.setdefault(at[:2], found)
        found.calls.append(call)
        self.births[call.op].append(found)
        return found

    def told_ids(self, o: Operation, call: Call, sent: list[Sent | None], told: list[dict[str, Any]]) -> None:
        if len(sent) != len(told):
            self.strange.append(("S20", f"{len(sent)} messages were sent, {len(told)} answered", (o.op,)))
        for one, answer in zip(sent, told, strict=False):
            if one is None:
                continue
            name = answer["id"]
            self.named(one, name, call.op)
            if one.key is not None:
                self.keys[one.queue, one.key].setdefault(name, (call, one))
            if not answer.get("duplicate") and call.place is not None:
                one.born.append((call.place, name, call))

    def named(self, one: Sent, name: str, op: int) -> None:
        one.seen = True
        one.ids.setdefault(name, op)
        other = self.owner.setdefault(name, one)
        if other is not one:
            text = f"{name} is the message of op {other.op} ({other.i}) and of op {one.op} ({one.i})"
            self.strange.append(("S2", text, (other.op, one.op, op)))

    def take_enqueue(self, o: Operation, call: Call) -> None:
        sent = [self.sent_by(one, o.args["queue"], call) for one in o.args["messages"]]
        if o.type == OK:
            self.told_ids(o, call, sent, o.result["messages"])

    def take_lease(self, o: Operation, call: Call) -> None:
        if o.type == INFO:
            self.unknown_leases.update(o.args["queues"])
        if o.type != OK:
            return
        now = o.result["now_ms"]
        for one in o.result["messages"]:
            self.delivered(one, call)
            fence = fence_of(one["lease_token"])
            if fence is None or call.place is None:
                text = f"{one['id']} was given with the token {one['lease_token']!r}"
                self.strange.append(("S5", text, (o.op,)))
                continue
            grant = Grant(
                one["id"], one["queue"], one["lease_token"], fence, call.place, one["attempt"], now,
                one["lease_expires_at_ms"], one["enqueued_at_ms"], one.get("group"), call,
            )  # fmt: skip
            first = self.tokens.setdefault(grant.token, grant)
            if first is grant:
                self.grants[grant.id].append(grant)
            elif (first.id, first.place, first.attempt) != (grant.id, grant.place, grant.attempt):
                text = f"one lease token for {first.id} and {grant.id}, or at two places of the log"
                self.strange.append(("S5", text, (first.call.op, o.op)))

    def delivered(self, one: dict[str, Any], call: Call) -> None:
        """A body came back: it must be one that was sent, and sent before it came (S2)."""
        body = one.get("body")
        at: Any = (body.get("op"), body.get("i"), digest(body)) if isinstance(body, dict) else None
        found = self.sent_as(at, call)
        if found is None:
            self.late.append((one["id"], at, call))
            return
        self.named(found, one["id"], call.op)

    def sent_as(self, at: Any, call: Call) -> Sent | None:
        """What was sent with that body; lists are recorded without `pad`, there the operation alone says it."""
        if at is None:
            return None
        return self.origins.get(at[:2]) if call.f in ("browse", "dead_letters") else self.sent.get(at)

    def take_settle(self, o: Operation, call: Call) -> None:
        items = o.args[_SETTLES[o.f]]
        results = (o.result or {}).get("results") if o.type != INFO else None
        if results is not None and len(results) != len(items):
            self.strange.append(("S20", f"{len(items)} items, {len(results)} results", (o.op,)))
        ids = o.args.get("ids") or [None] * len(items)
        for at, item in enumerate(items):
            told = results[at] if results is not None and at < len(results) else {}
            status = told.get("status", "refused" if o.type == FAIL else None)
            token = item["lease_token"]
            self.ends[token].append(
                End(
                    o.f,
                    token,
                    ids[at],
                    status,
                    bool(told.get("repeated")),
                    call,
                    told.get("deliver_at_ms"),
                    told.get("lease_expires_at_ms"),
                    bool(item.get("dead_letter")),
                )
            )
            for effect in item.get("effects", ()):
                state = "done" if status == "acked" else None if status is None else "refused"
                step = Step("ack", effect["effect_id"], effect.get("effect_token"), token, state, False,
                            bool(told.get("repeated")), call)  # fmt: skip
                self.effects[step.effect].append(step)

    def take_ack(self, o: Operation, call: Call) -> None:
        self.take_settle(o, call)
        if o.args.get("enqueue"):
            sent = [self.sent_by(one, one["queue"], call) for one in o.args["enqueue"]]
            if o.type == OK:
                self.told_ids(o, call, sent, o.result.get("messages", []))

    take_nack = take_extend = take_release = take_settle

    def take_effect_begin(self, o: Operation, call: Call) -> None:
        told = o.result or {}
        state = told.get("state") if o.type == OK else None if o.type == INFO else "refused"
        token = told.get("effect_token")
        step = Step("begin", o.args["effect_id"], token, o.args.get("lease_token"), state,
                    bool(told.get("uncertain")), o.repeated, call)  # fmt: skip
        self.effects[step.effect].append(step)

    def take_effect_end(self, o: Operation, call: Call) -> None:
        told = o.result or {}
        state = told.get("state") if o.type == OK else None if o.type == INFO else "refused"
        if "effect_id" in o.args:
            step = Step(o.f.removeprefix("effect_"), o.args["effect_id"], o.args["effect_token"], None, state,
                        False, o.repeated or bool(told.get("repeated")), call)  # fmt: skip
            self.effects[step.effect].append(step)

    take_effect_commit = take_effect_abort = take_effect_end

    def take_put_queue(self, o: Operation, call: Call) -> None:
        revision = o.result.get("revision") if o.type == OK else None
        self.configs[o.args["queue"]].append((call, o.args["config"], revision))

    take_patch_queue = take_put_queue

    def take_redrive(self, o: Operation, call: Call) -> None:
        if call.may_have_happened:
            self.redriven.update(o.args.get("ids") or [o.args["queue"]])

    def take_cancel(self, o: Operation, call: Call) -> None:
        if call.may_have_happened:
            self.cancelled.add(o.args["id"])

    # --- reads ------------------------------------------------------------------------------------------

    def seen(self, o: Operation, call: Call, told: dict[str, Any]) -> Seen:
        return Seen(call, o.asof, bool(o.args.get("local")), told.get("state"), told)

    def note_read(self, o: Operation, call: Call) -> None:
        if o.type == OK and o.asof is not None and not o.args.get("local"):
            self.all_reads.append((call, o.asof))

    def take_read_message(self, o: Operation, call: Call) -> None:
        self.note_read(o, call)
        if o.type == OK:
            told = {name: o.result.get(name) for name in ("state", "attempt", "dead_reason", "dead_at_ms")}
            self.reads[o.args["id"]].append(self.seen(o, call, told))
            self.delivered(o.result, call)
        elif o.code == "message_not_found":
            self.reads[o.args["id"]].append(Seen(call, None, bool(o.args.get("local")), None, {}))

    def take_browse(self, o: Operation, call: Call) -> None:
        self.note_read(o, call)
        if o.type != OK:
            return
        for one in o.result["messages"]:
            told = {
                name: one.get(name) for name in ("state", "attempt", "dead_reason", "dead_at_ms", "queue")
            }
            if o.f == "dead_letters":
                told["state"] = one.get("state", "dead")
            self.reads[one["id"]].append(self.seen(o, call, told))
            if "body" in one:
                self.delivered(one, call)

    take_dead_letters = take_browse

    def take_read_queue(self, o: Operation, call: Call) -> None:
        self.note_read(o, call)
        told = dict(o.result) if o.type == OK else {}
        self.queue_reads[o.args["queue"]].append(self.seen(o, call, told))

    def take_effect_state(self, o: Operation, call: Call) -> None:
        self.note_read(o, call)
        if o.type == OK:
            self.effect_reads[o.args["effect_id"]].append(self.seen(o, call, o.result))

    def finish(self) -> None:
        """Deliveries of bodies whose enqueue returned later (or never) than they came."""
        for name, at, call in self.late:
            found = self.sent_as(at, call)
            if found is None:
                known = at is not None and at[:2] in self.origins
                law = "its body was changed" if known else "nobody sent it"
                self.strange.append(
                    ("S2", f"{name} was given: {law} (body of op {at and at[0]})", (call.op,))
                )
                continue
            if call.ret < min(one.inv for one in found.calls):
                self.strange.append(("S2", f"{name} came before it was sent", (call.op, found.op)))
            self.named(found, name, call.op)
