"""The clients' side of a run, put together for the first judge: what was sent, given, ended, read.

Only what clients sent and were told is in here. Bodies are held as digests.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from chaos.checker.records import (
    FOREVER,
    Call,
    End,
    Flow,
    FlowStep,
    Grant,
    Seen,
    Sent,
    Step,
    Timetable,
    digest,
    fence_of,
    listed,
    to_json,
    where,
)
from chaos.history import FAIL, INFO, OK, Operation

_SETTLES = {"ack": "acks", "nack": "nacks", "extend": "extensions", "release": "leases"}


class Facts:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.sent: dict[
            tuple[Any, ...], Sent
        ] = {}  # by op, i and digest; of a topic also by the group's queue
        self.origins: dict[tuple[Any, ...], Sent] = {}  # by (op, i): the first of that name
        self.groups: dict[str, list[str]] = defaultdict(list)  # topic → queues of its consumer groups
        self.offsets: dict[str, dict[int, dict[str, Call]]] = defaultdict(
            dict
        )  # topic → offset → body → who was told
        self.shown: dict[tuple[str, int], dict[str, int]] = defaultdict(
            dict
        )  # group's queue, offset → id → op
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
        self.schedules: dict[str, Timetable] = {}
        self.slots: dict[str, dict[int, dict[str, int]]] = defaultdict(dict)  # schedule → slot → id → op
        self.schedule_reads: dict[str, list[tuple[int, dict[str, Any], int]]] = defaultdict(
            list
        )  # asof, told, op
        self.appends: dict[str, list[tuple[Call, list[dict[str, Any]], list[int]]]] = defaultdict(
            list
        )  # by run
        self.run_reads: dict[str, list[tuple[Call, int, list[Any], int]]] = defaultdict(
            list
        )  # after, events, first
        self.flows: list[Flow] = []
        self.steps: set[str] = set()  # ids of steps: a flow may cancel them
        self.parents: dict[str, dict[str, Any]] = {}  # by token
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
        at = where(body, queue)
        found = self.sent.get(at)
        if found is None:
            size = len(to_json(body))
            self.bytes += size + 512
            found = self.sent[at] = Sent(
                body["op"], body["i"], queue, message.get("group"), message.get("idempotency_key"),
                message.get("idempotency_window_ms"), message.get("delay_ms"), message.get("ttl_ms"),
                message.get("max_attempts"), body.get("parent"), body.get("n"), size,
            )  # fmt: skip
            self.origins.setdefault(listed(at), found)
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

    def take_create_flow(self, o: Operation, call: Call) -> None:
        sent = [self.sent_by(one, one["queue"], call) for one in o.args["steps"]]
        births = list(self.births[call.op])  # the compensations are born only if it comes to that
        undo = [
            self.sent_by(one["compensate"], one["compensate"]["queue"], call) if "compensate" in one else None
            for one in o.args["steps"]
        ]
        self.births[call.op] = births
        if o.type == OK:
            answers = [{"id": one["message_id"]} for one in o.result["steps"]]
            self.told_ids(o, call, sent, answers)
            self.steps.update(one["id"] for one in answers)
        steps = [
            FlowStep(one["step_id"], step, list(one.get("depends_on", ())), back)
            for one, step, back in zip(o.args["steps"], sent, undo, strict=True)
            if step is not None
        ]
        self.flows.append(Flow(o.op, steps, o.type == OK))

    def take_publish(self, o: Operation, call: Call) -> None:
        """Each group's message is a message of its own."""
        topic, messages = o.args["topic"], o.args["messages"]
        told = o.result["messages"] if o.type == OK else []
        if o.type == OK and len(told) != len(messages):
            self.strange.append(
                ("S20", f"{len(messages)} messages were published, {len(told)} answered", (o.op,))
            )
        for queue in self.groups[topic]:
            group = queue.partition(":")[2]
            sent = [self.sent_by(one, queue, call) for one in messages]
            answered = [
                (one, answer["ids"])
                for one, answer in zip(sent, told, strict=False)
                if group in answer["ids"]
            ]
            self.told_ids(o, call, [one for one, _ in answered], [{"id": ids[group]} for _, ids in answered])
        for one, answer in zip(messages, told, strict=False):
            body = digest(one["body"]).hex()
            self.offsets[topic].setdefault(answer["offset"], {}).setdefault(body, call)

    def take_append_events(self, o: Operation, call: Call) -> None:
        told = [one["id"] for one in o.result["events"]] if o.type == OK else []
        self.appends[o.args["run"]].append((call, o.args["events"] if o.type != FAIL else [], told))

    def take_read_events(self, o: Operation, call: Call) -> None:
        if o.type == OK:
            events = [(one["id"], one["type"], one["data"]) for one in o.result["events"]]
            read = (call, int(o.args.get("after", 0)), events, o.result["first_id"])
            self.run_reads[o.args["run"]].append(read)

    def take_follow(self, o: Operation, call: Call) -> None:
        events = (o.result or {}).get("events", [])
        self.run_reads[o.args["run"]].append((call, o.args["after"], events, 0))

    def take_lease(self, o: Operation, call: Call) -> None:
        if o.type == INFO:
            self.unknown_leases.update(o.args["queues"])
        if o.type != OK:
            return
        now = o.result["now_ms"]
        for one in o.result["messages"]:
            self.delivered(one, call)
            fence = fence_of(one["lease_token"])
            if "parents" in one:
                self.parents[one["lease_token"]] = one["parents"]
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
        if isinstance(body, dict) and "schedule" in body:
            self.slot_given(one, body["schedule"], call)
            return
        at = where(body, one.get("queue", "")) if isinstance(body, dict) else None
        if "offset" in one:
            self.shown[one["queue"], one["offset"]].setdefault(one["id"], call.op)
        found = self.sent_as(at, call)
        if found is None:
            self.late.append((one["id"], at, call))
            return
        self.named(found, one["id"], call.op)

    def slot_given(self, one: dict[str, Any], name: str, call: Call) -> None:
        """A message that the cluster made by itself. Its key says of which slot; each slot is a message of its own."""
        timetable, key = self.schedules.get(name), one.get("idempotency_key") or ""
        owner, _, slot = key.rpartition("@")
        if timetable is None or owner != name or not slot.isdigit():
            self.strange.append(
                ("S2", f"{one['id']} is of {name} under the key {key!r}: nobody sent it", (call.op,))
            )
            return
        at = (name, int(slot), b"")
        sent = self.sent.get(at)
        if sent is None:
            sent = self.sent[at] = Sent(
                timetable.op, int(slot), timetable.queue, None, key, None, None, None, None, None, None, 0,
                calls=timetable.calls,
            )  # fmt: skip
        self.slots[name].setdefault(int(slot), {}).setdefault(one["id"], call.op)
        self.named(sent, one["id"], call.op)

    def take_put_schedule(self, o: Operation, call: Call) -> None:
        name = o.args["schedule"]
        timetable = self.schedules.setdefault(name, Timetable(o.op, o.args["queue"], o.args["every_ms"]))
        timetable.calls.append(call)
        if o.type == OK:
            timetable.anchor = o.result["anchor_at_ms"]

    def take_read_schedule(self, o: Operation, call: Call) -> None:
        self.note_read(o, call)
        if o.type == OK and o.asof is not None and not o.args.get("local"):
            self.schedule_reads[o.args["schedule"]].append((o.asof, o.result, o.op))

    def sent_as(self, at: Any, call: Call) -> Sent | None:
        """What was sent with that body; lists are recorded without `pad`, there the operation alone says it."""
        if at is None:
            return None
        return self.origins.get(listed(at)) if call.f in ("browse", "dead_letters") else self.sent.get(at)

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
        topic, colon, _ = o.args["queue"].partition(":")
        if colon and o.args["queue"] not in self.groups[topic]:
            self.groups[topic].append(o.args["queue"])
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

    def take_read_flow(self, o: Operation, call: Call) -> None:
        self.note_read(o, call)
        if o.type == OK:
            for one in o.result["steps"]:
                told = {"state": one["state"], "attempt": one.get("attempt")}
                self.reads[one["message_id"]].append(self.seen(o, call, told))

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
                known = at is not None and listed(at) in self.origins
                law = "its body was changed" if known else "nobody sent it"
                self.strange.append(
                    ("S2", f"{name} was given: {law} (body of op {at and at[0]})", (call.op,))
                )
                continue
            if call.ret < min(one.inv for one in found.calls):
                self.strange.append(("S2", f"{name} came before it was sent", (call.op, found.op)))
            self.named(found, name, call.op)
