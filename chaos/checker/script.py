"""What the clients of the small clean run do: a little of every workload of a drill."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.checker.scene import MS, NODES, Case, Line, Scene
from trivet.machine import commands as c
from trivet.machine import ids, views
from trivet.machine.run_commands import AppendRunEvents, NewRunEvent

PLAIN, GROUPS, DELAYS, DEAD, WORK = "s.enqueue", "s.groups", "s.delays", "s.dead_letters", "s.work"
STAGES = ("s.pipeline.0", "s.pipeline.1")
RUN = "s.run"
TOPIC = "s.topics"
FAN = (f"{TOPIC}:a", f"{TOPIC}:b")
FLOW, UNDO = "s.flows", "s.flows.undo"
QUEUES = (PLAIN, GROUPS, DELAYS, DEAD, WORK, *STAGES, *FAN, FLOW, UNDO)
LEASE_MS = 600
HOURS_6 = 21_600_000
_compact = msgspec.json.Encoder().encode


class Script(Scene):
    def play(self) -> Case:
        self.no_op()
        genesis = c.Genesis("cluster", bytes(range(32)), NODES)
        self.entry([c.Request(genesis)])
        self.setup()
        for turn in range(self.rounds):
            if turn == self.rounds // 2:
                self.failover()
            for step in self.rng.sample(self.steps(), self.rng.randint(1, 4)):
                step()
            self.settle()
            if self.rng.random() < 0.1:
                self.settle(LEASE_MS + 50)
        self.drain()
        self.browse()
        self.ending()
        return self.case

    def steps(self) -> list[Any]:
        return [
            *(lambda queue=queue: self.produce(queue) for queue in (PLAIN, GROUPS, DELAYS, DEAD, WORK, STAGES[0], TOPIC)),
            *(lambda queue=queue: self.consume(queue) for queue in QUEUES),
            *(lambda queue=queue: self.consume(queue) for queue in (GROUPS, WORK)),
            self.again, self.conflict, self.zombie, self.reader, self.operator, self.teller,
            self.flow, self.look_at_flow,
        ]  # fmt: skip

    def setup(self) -> None:
        topic = c.PutTopic(TOPIC, HOURS_6, 10**6)
        self.ask("load.setup-0", "put_topic", {"topic": TOPIC, "retention_ms": HOURS_6}, topic)
        self.settle()
        for queue in QUEUES:
            most = 3 if queue == DEAD else 0
            backoff = c.Backoff("fixed", 100, jitter_milli=500)
            config = c.QueueConfig(max_attempts=most, backoff=backoff, retention_ms=HOURS_6)
            told = {"max_attempts": most, "retention_ms": HOURS_6}
            name, _, group = queue.partition(":")
            made = c.PutGroup(name, group, config) if group else c.PutQueue(queue, config)
            self.ask("load.setup-0", "put_queue", {"queue": queue, "config": told}, made)
            self.settle()

    def failover(self) -> None:
        fault = {"n": 0, "fault": "kill_leader"}
        self.case.faults += [
            {"e": "fire", "t": self.t, "parameters": {}, "leader": "n1", **fault},
            {
                "e": "fired",
                "n": 0,
                "t": self.t,
                "struck": self.t,
                "evidence": {"nodes": ["n1"], "killed": {"n1": 1}},
            },
            {"e": "healed", "n": 0, "t": self.t + MS},
        ]
        self.term = 2
        self.no_op()

    # --- producers --------------------------------------------------------------------------------------

    def produce(self, queue: str) -> None:
        self.ops += 1
        op = self.ops
        client = f"{queue}.producer-0"
        messages = [self.message(queue, client, op, i) for i in range(self.rng.randint(1, 4))]
        if any(one[1] == queue for one in self.unknown) and queue == GROUPS:
            self.ops -= 1
            return  # this producer does not go on before it knows
        fate = self.rng.choice(("ok", "ok", "ok", "ok", "ok", "lost", "unsent"))
        args = {"topic" if queue == TOPIC else "queue": queue, "messages": messages}
        self.enqueue(client, args, op, fate, op)

    def message(self, queue: str, client: str, op: int, i: int) -> Line:
        body: Line = {"op": op, "i": i, "w": queue, "pad": self.rng.randbytes(6).hex()}
        made: Line = {"body": body, "idempotency_key": f"run-{op}-{i}"}
        if queue == GROUPS:
            made["group"] = group = f"g{self.rng.randrange(3)}"
            body["n"] = self.n[group] = self.n.get(group, 0) + 1
        if queue == DELAYS:
            made["delay_ms"] = body["due_ms"] = self.rng.choice((50, 300, 900))
        if queue == DEAD:
            body["fails"] = self.rng.choice((0, 1, 99))
        if queue == PLAIN:
            made["run_id"] = RUN
        if queue == PLAIN and self.rng.random() < 0.2:
            made["priority"] = self.rng.randint(-3, 3)
            made["ttl_ms"] = 600_000
        return made

    def enqueue(
        self, client: str, args: Line, op: int | None, fate: str, first: int, rid: str | None = None
    ) -> None:
        drafts = tuple(draft(one) for one in args["messages"])
        if "topic" in args:
            self.ask(client, "publish", args, c.Publish(TOPIC, drafts), fate, self.learn, op, rid)
        else:
            self.ask(client, "enqueue", args, c.Enqueue(args["queue"], drafts), fate, self.learn, op, rid)
        if fate != "ok":
            self.unknown.append((client, args.get("queue", TOPIC), args, first))

    def learn(self, result: Any) -> None:
        for one in result["messages"]:
            self.ids += one["ids"].values() if "ids" in one else (one["id"],)

    def again(self) -> None:
        """What stayed unknown is said again: under the same request id, or only the same keys."""
        if not self.unknown:
            return
        client, _, args, first = self.unknown.pop(0)
        same = self.rng.random() < 0.5
        told = {name: value for name, value in args.items() if name in ("queue", "topic", "messages")}
        told["repeats"] = first
        self.enqueue(client, told, None, "ok", first, f"run-{first}" if same else None)

    def conflict(self) -> None:
        known = [
            one for one in self.case.history if one["e"] == "ret" and one["type"] == "ok" and "index" in one
        ]
        at = self.rng.choice(known)["op"]
        line = next(one for one in self.case.history if one["op"] == at)
        if line["f"] != "enqueue":
            return
        other = msgspec.json.decode(_compact(line["args"]["messages"][0]))
        other["body"]["pad"] = "another body"
        self.enqueue(
            "s.enqueue.producer-1", {"queue": line["args"]["queue"], "messages": [other]}, None, "ok", at
        )

    def flow(self) -> None:
        """A chain; some of it is undone when its last step fails."""
        self.ops += 1
        op, count = self.ops, self.rng.randint(1, 3)
        fails = self.rng.random() < 0.5
        steps: list[Line] = []
        for at in range(count):
            body = {"op": op, "i": at, "w": FLOW, "fails": fails and at == count - 1}
            undo = {"queue": UNDO, "body": {"op": op, "i": 100 + at, "w": FLOW}}
            after = [f"s{at - 1}"] if at else []
            steps.append(
                {"step_id": f"s{at}", "queue": FLOW, "body": body, "depends_on": after, "compensate": undo}
            )
        drafts = tuple(
            c.FlowStepDraft(
                one["step_id"],
                FLOW,
                draft(one),
                (at - 1,) if at else (),
                c.EnqueueTo(UNDO, draft(one["compensate"])),
            )
            for at, one in enumerate(steps)
        )
        fate = self.rng.choice(("ok",) * 6 + ("lost", "unsent"))
        command = c.CreateFlow(drafts, tuple(range(count)))
        self.ask(f"{FLOW}.producer-0", "create_flow", {"steps": steps}, command, fate, self.learn_flow, op)

    def learn_flow(self, result: Any) -> None:
        self.flows.append(result["id"])

    def look_at_flow(self) -> None:
        if self.flows:
            self.ask("reads.reader-1", "read_flow", {"flow": self.rng.choice(self.flows[-5:])}, None)

    # --- consumers --------------------------------------------------------------------------------------

    def consume(self, queue: str) -> None:
        """Settle what is held of this queue, else lease some."""
        held = self.held.get(queue)
        if held:
            lease = held.pop(0)
            self.old.append(lease)
            self.handle(queue, lease)
            return
        args: Line = {"queues": [queue], "consumer": f"{queue}.worker-0", "max_messages": self.rng.randint(1, 3),
                      "lease_ms": LEASE_MS}  # fmt: skip
        command = c.Lease((queue,), args["consumer"], args["max_messages"], LEASE_MS)
        fate = self.rng.choice(("ok",) * 12 + ("lost", "unsent"))
        self.ask(f"{queue}.worker-0", "lease", args, command, fate, lambda result: self.hold(queue, result))

    def hold(self, queue: str, result: Any) -> None:
        self.held[queue] = list(result["messages"])

    def handle(self, queue: str, lease: Line) -> None:
        chance = self.rng.random()
        if queue == WORK:
            self.work(lease)
        elif queue == DEAD and lease["attempt"] <= lease["body"]["fails"]:
            self.item("nack", lease, error="it fails")
        elif queue == STAGES[0]:
            self.next_stage(lease)
        elif queue in (FLOW, UNDO):
            body = lease["body"]
            if body.get("fails"):
                self.item("nack", lease, error="it fails", dead_letter=True)
            else:
                self.item("ack", lease, result={"op": body["op"], "i": body["i"]})
        elif chance < 0.7:
            self.item("ack", lease, fate=self.rng.choice(("ok",) * 8 + ("lost", "unsent")))
        elif chance < 0.8:
            self.item("nack", lease, delay_ms=self.rng.choice((None, 0, 200)))
        elif chance < 0.86:
            self.item("release", lease)
        elif chance < 0.93:
            self.item("extend", lease, lease_ms=LEASE_MS)
            self.held[queue] = [lease, *self.held.get(queue, [])]

    def item(self, verb: str, lease: Line, fate: str = "ok", **fields: Any) -> None:
        given = {name: value for name, value in fields.items() if value is not None}
        item = {"lease_token": lease["lease_token"], **given}
        name = {"ack": "acks", "nack": "nacks", "extend": "extensions", "release": "leases"}[verb]
        token = ids.decode_token(lease["lease_token"])
        command: c.Command
        if verb == "ack":
            result = fields.get("result")
            command = c.Ack((c.AckItem(token, None if result is None else _compact(result)),))
        elif verb == "nack":
            dead = bool(fields.get("dead_letter"))
            command = c.Nack((c.NackItem(token, fields.get("error"), fields.get("delay_ms"), dead),))
        elif verb == "extend":
            command = c.Extend((c.ExtendItem(token, fields["lease_ms"]),))
        else:
            command = c.Release((token,))
        args = {name: [item], "ids": [lease["id"]]}
        self.ask(f"{lease['queue']}.worker-0", verb, args, command, fate)

    def next_stage(self, lease: Line) -> None:
        self.ops += 1
        op = self.ops
        body = {"op": op, "i": 0, "w": "s.pipeline", "stage": 1, "parent": lease["id"]}
        token = ids.decode_token(lease["lease_token"])
        command = c.Ack((c.AckItem(token),), (c.EnqueueTo(STAGES[1], draft({"body": body})),))
        args = {"acks": [{"lease_token": lease["lease_token"]}], "enqueue": [{"queue": STAGES[1], "body": body}],
                "ids": [lease["id"]]}  # fmt: skip
        fate = self.rng.choice(("ok",) * 6 + ("lost", "unsent"))
        self.ask(f"{STAGES[0]}.worker-0", "ack", args, command, fate, op=op)

    def zombie(self) -> None:
        """Uses a token long after its lease."""
        live = {view["lease_token"] for held in self.held.values() for view in held}
        stale = [one for one in self.old[:-10] if one["lease_token"] not in live]
        if stale:
            self.item(
                self.rng.choice(("ack", "nack", "extend", "release")),
                self.rng.choice(stale),
                lease_ms=LEASE_MS,
            )

    # --- effects ----------------------------------------------------------------------------------------

    def work(self, lease: Line) -> None:
        effect = f"run:{lease['id']}"
        args = {"effect_id": effect, "owner": "w", "lease_token": lease["lease_token"]}
        command = c.EffectBegin(effect, "w", ids.decode_token(lease["lease_token"]), True)

        def then(result: Any) -> None:
            self.deed(lease, effect, result)

        self.ask(f"{WORK}.worker-0", "effect_begin", args, command, "ok", then)

    def deed(self, lease: Line, effect: str, grant: Any) -> None:
        if grant["state"] == "granted":
            if effect not in self.paid:
                self.paid.add(effect)
                row = {"t": self.pass_time(), "effect_id": effect, "id": lease["id"],
                       "lease_token": lease["lease_token"], "proc": "w"}  # fmt: skip
                self.case.sink.append(row)
            if self.rng.random() < 0.15:
                return  # dies between the deed and its commit
            if self.rng.random() < 0.5:
                token = ids.decode_token(grant["effect_token"])
                args = {"effect_token": grant["effect_token"], "effect_id": effect, "result": {"by": "w"}}
                self.ask(f"{WORK}.worker-0", "effect_commit", args, c.EffectCommit(token, b'{"by":"w"}'))
                self.settle()
            else:
                self.ack_effect(lease, effect, grant["effect_token"])
                return
        if self.rng.random() < 0.9:
            self.item("ack", lease)

    def ack_effect(self, lease: Line, effect: str, effect_token: str) -> None:
        token = ids.decode_token(lease["lease_token"])
        done = c.EffectDone(effect, None, ids.decode_token(effect_token))
        item = {
            "lease_token": lease["lease_token"],
            "effects": [{"effect_id": effect, "effect_token": effect_token}],
        }
        fate = self.rng.choice(("ok",) * 6 + ("lost", "unsent"))
        args = {"acks": [item], "ids": [lease["id"]]}
        self.ask(f"{WORK}.worker-0", "ack", args, c.Ack((c.AckItem(token, None, (done,)),)), fate)

    # --- runs -------------------------------------------------------------------------------------------

    def teller(self) -> None:
        """Somebody tells the run what it does, says it again if it may not have been heard, or reads what was told."""
        if self.unheard and self.rng.random() < 0.5:
            first, events = self.unheard.pop(0)
            return self.tell({"run": RUN, "events": events, "repeats": first}, "ok", None)
        if self.rng.random() < 0.3:
            after = self.rng.choice((0, 5))
            self.ask("runs.reader-0", "read_events", {"run": RUN, "after": after}, None)
            return None
        op = self.ops + 1
        events = [
            {"type": "token", "data": [op, n], "event_id": f"{op}-{n}"} for n in range(self.rng.randint(1, 4))
        ]
        return self.tell(
            {"run": RUN, "events": events}, self.rng.choice(("ok", "ok", "ok", "lost", "unsent")), op
        )

    def tell(self, args: Line, fate: str, first: int | None) -> None:
        told = tuple(
            NewRunEvent(one["type"], _compact(one["data"]), one["event_id"]) for one in args["events"]
        )
        op = self.ask("runs.worker-0", "append_events", args, AppendRunEvents(RUN, told), fate)
        assert first in (None, op)
        if fate != "ok":
            self.unheard.append((op, args["events"]))

    # --- others -----------------------------------------------------------------------------------------

    def reader(self) -> None:
        chance = self.rng.random()
        if chance < 0.5 or not self.ids:
            self.ask(
                "reads.reader-0", "read_queue", {"queue": self.rng.choice((PLAIN, PLAIN, *QUEUES))}, None
            )
        else:
            handled = [one["id"] for one in self.old[-30:]] or self.ids
            name = self.rng.choice(self.rng.choice((self.ids, handled)))
            self.ask("reads.reader-0", "read_message", {"id": name}, None)

    def operator(self) -> None:
        dead = self.machine.queues[DEAD].dead.slice_after(0, 100)
        chance = self.rng.random()
        if chance < 0.1 and dead:
            name = ids.message_id(dead[0].number)
            args: Line = {"queue": DEAD, "ids": [name], "limit": 1}
            self.ask(f"{DEAD}.operator-0", "redrive", args, c.Redrive(DEAD, (dead[0].number,), limit=1))
        elif chance < 0.2:
            lease_ms = self.rng.randrange(1000, 60_000)
            patch = c.PatchQueue(PLAIN, {"lease_ms": lease_ms})
            args = {"queue": PLAIN, "config": {"lease_ms": lease_ms}}
            self.ask("admin.operator-0", "patch_queue", args, patch)
        elif chance < 0.3 and self.ids:
            name = self.rng.choice(self.ids)
            number = ids.parse_message_id(name)
            if number is not None:
                self.ask("admin.operator-0", "cancel", {"id": name}, c.Cancel(number))

    # --- the end ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        self.note("stop")
        self.note("drain")
        for _ in range(4000):
            left = [queue for queue in QUEUES if self.left(queue)]
            if not left:
                break
            for queue in left:
                self.consume(queue)
            self.settle()
            if self.rng.random() < 0.3:
                self.settle(LEASE_MS + 50)
        else:
            raise RuntimeError("the scene does not drain")
        self.note("drained")

    def left(self, queue: str) -> int:
        view = views.queue(self.machine, queue)
        assert view is not None
        return sum(view[state] for state in ("ready", "delayed", "leased", "blocked"))

    def browse(self) -> None:
        for queue in QUEUES:
            self.ask("load.drain-0", "browse", {"queue": queue, "limit": 500}, None)
            self.settle()
        self.ask("load.drain-0", "read_events", {"run": RUN, "after": 0}, None)
        self.settle()
        effects = sorted(self.paid)
        for effect in effects:
            self.ask("load.drain-0", "effect_state", {"effect_id": effect}, None)
            self.settle()
        self.note("resolved")

    def note(self, phase: str) -> None:
        self.case.history.append({"e": "note", "t": self.pass_time(), "what": "phase", "phase": phase})

    def ending(self) -> None:
        case = self.case
        at = {"index": len(case.entries), "digest": self.machine.digest().hex()}
        counts = {}
        for queue in QUEUES:
            view = views.queue(self.machine, queue)
            assert view is not None
            counts[queue] = {name: value for name, value in view.items() if isinstance(value, int)}
        case.final = {"nodes": {node: dict(at) for node in NODES}, "queues": counts}
        case.plan = {"seed": 1, "nodes": 3, "seconds": 1, "workloads": [], "rate": 1,
                     "faults": [{"at_s": 1, "fault": "kill_leader", "parameters": {}}]}  # fmt: skip
        half = len(case.history) // 2
        for at_line, line in enumerate(case.history[:: max(1, len(case.history) // 40)]):
            for node in NODES:
                term = 1 if line["t"] < case.history[half]["t"] else 2
                leader = "n1" if term == 1 else "n2"
                role = "leader" if node == leader else "follower"
                case.nodes.append({"t": line["t"] + at_line, "node": node, "up": True, "role": role, "term": term,
                                   "leader": leader, "commit": 1, "applied": 1})  # fmt: skip


def draft(one: Line) -> c.Draft:
    return c.Draft(
        body=_compact(one["body"]), group=one.get("group"), key=one.get("idempotency_key"),
        delay_ms=one.get("delay_ms", 0), ttl_ms=one.get("ttl_ms"), priority=one.get("priority", 0),
        extras=c.Extras(run_id=one["run_id"]) if "run_id" in one else None,
    )  # fmt: skip
