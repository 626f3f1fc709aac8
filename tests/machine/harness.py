"""Machine and model side by side: every step compares replies, views and laws."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.machine.model import UNFINISHED, Hints, size_of
from tests.machine.model_work import Model
from tests.machine.runs_compared import compare_runs
from tests.machine.schedules_compared import (
    compare_schedules,
    numbers_of_schedules,
    plain_of_schedules,
    refusals_of_schedules,
)
from tests.machine.topics_compared import Recording, compare_topics, plain_of_topics, watch_births
from tests.tokens import as_proposed, token_of
from trivet.machine import flow_steps, flow_views, invariants, views
from trivet.machine.commands import MACHINE_VERSION, Command, Extras, Genesis, Request, Token
from trivet.machine.core import Machine
from trivet.machine.ids import message_id, parse_message_id
from trivet.machine.persistent import Header
from trivet.machine.replies import (
    Answer,
    Done,
    EffectState,
    Enqueued,
    EnqueuedOne,
    FlowCreated,
    Leased,
    MessageChanged,
    QueueSaved,
    Redriven,
    Refusal,
    Reply,
    Settled,
    SettledAll,
)
from trivet.machine.run_commands import RunEventsAppended, RunReplayed
from trivet.machine.snapshotting import HEADER, NOTHING_YET, Builder, Walk

SECRET = bytes(range(32))
START_MS = 1_700_000_000_000


def plain(reply: Reply) -> tuple[Any, ...]:
    """A reply as the model says it."""
    match reply:
        case Refusal():
            return ("refused", reply.code)
        case Done():
            return ("done", reply.count)
        case QueueSaved():
            return ("queue", reply.name, reply.created, reply.revision)
        case Enqueued():
            return ("enqueued", [plain_one(one) for one in reply.messages])
        case Leased():
            grants = [(g.message, g.fence, g.lease_expires_at_ms, g.attempt) for g in reply.grants]
            return ("leased", reply.now_ms, reply.lost, grants)
        case SettledAll():
            messages = None if reply.messages is None else [plain_one(one) for one in reply.messages]
            return ("settled", [plain_settled(one) for one in reply.results], messages)
        case MessageChanged():
            return ("changed", reply.message, reply.state, reply.cancelled, reply.lease_expires_at_ms)
        case Redriven():
            return ("redriven", list(reply.ids))
        case RunEventsAppended():
            return ("appended", [(one.id, one.duplicate) for one in reply.events])
        case RunReplayed():
            return ("replayed", [(one.message, one.origin) for one in reply.messages])
        case EffectState():
            fields = ("state", "uncertain", "fence", "result", "expires_at_ms", "repeated")
            return ("effect", *(getattr(reply, name) for name in fields))
        case FlowCreated():
            return ("flow", reply.flow, reply.run_id, [(one.message, one.state) for one in reply.steps])
    told = plain_of_topics(reply) or plain_of_schedules(reply)
    assert told is not None, reply
    return told


def plain_one(one: EnqueuedOne) -> tuple[Any, ...]:
    return (one.message, one.state, one.duplicate, one.result)


def plain_settled(one: Settled) -> tuple[Any, ...]:
    return (
        one.status, one.repeated, one.state, one.deliver_at_ms, one.lease_expires_at_ms, one.cancelled
    )  # fmt: skip


def records(machine: Machine) -> list[tuple[int, bytes]]:
    """All records of a snapshot taken now, in one go."""
    walk = Walk(machine)
    found = []
    while (item := walk.next()) is not None:
        if item is not NOTHING_YET:
            found.append(item)
    walk.close()
    return found


def state_of(machine: Machine) -> list[tuple[int, bytes]]:
    """All that is persistent but where the log and the clock stand."""
    found = records(machine)
    table, data = found[0]
    assert table == HEADER
    header = msgspec.msgpack.decode(data, type=Header)
    header.applied_index = header.clock_ms = 0
    header.chain = b""
    return sorted([*found[1:], (HEADER, msgspec.msgpack.encode(header))])


def rebuilt(machine: Machine) -> Machine:
    """The machine again from its snapshot."""
    builder = Builder()
    for table, data in records(machine):
        builder.add(table, data)
    return builder.finish()


def run(machine: Machine, now_ms: int, *requests: Request) -> list[Answer]:
    """One entry."""
    machine.begin_entry(machine.applied_index + 1, now_ms, MACHINE_VERSION, msgspec.msgpack.encode(requests))
    answers = [machine.apply(request) for request in requests]
    machine.end_entry()
    return answers


def new_machine() -> Machine:
    machine = Machine()
    run(machine, START_MS, Request(Genesis("cluster", SECRET, ("n1",))))
    return machine


def shown_origin(kind: str, name: str) -> dict[str, str]:
    names = {"replay": "message_id", "flow": "flow_id", "saga": "flow_id", "compensation": "flow_id"}
    return {"type": "flow" if kind == "saga" else kind, names.get(kind, "queue"): name}


class Pair:
    """A machine and a model that see the same commands."""

    def __init__(self) -> None:
        self.machine = new_machine()
        self.model = Model()
        self.now = self.model.clock = START_MS
        self.tokens: list[Token] = []  # of leases, every one ever given
        self.effect_tokens: list[Token] = []
        self.fences: list[int] = []
        self.done: set[int] = set()
        self.log: list[tuple[int, Request]] = []

    def do(self, command: Command, request_id: str | None = None, fingerprint: bytes = b"f" * 16) -> Reply:
        """Apply to both; every difference and every broken law raises."""
        request = Request(command, request_id, fingerprint)
        self.log.append((self.now, request))
        before = state_of(self.machine)
        watch_births(self.machine)
        # The model knows no proposals: it is told what the client said.
        proposed = as_proposed(self.machine, request) if self.machine.applied_index % 2 else request
        answer = run(self.machine, self.now, proposed)[0]
        reply = answer.reply
        expected, repeated = self.model.apply(self.now, request, self._hints(reply))
        if not (reply.__class__ is Done and type(command).__name__ in ("Expire", "Genesis")):
            assert plain(reply) == expected
        assert answer.repeated == repeated
        if isinstance(reply, Refusal):
            assert state_of(self.machine) == before, "a refused command changed the state"
        elif not repeated:
            self._note(reply)
        self.compare()
        return reply

    def _hints(self, reply: Reply) -> Hints:
        hints = Hints(due=self._due, revision=self._revision, undo=self._undo, no_extras=Extras())
        if not isinstance(reply, Enqueued | SettledAll | RunReplayed):
            hints.numbers = Recording.into_groups
        if isinstance(reply, FlowCreated):
            hints.flow = (reply.flow, [one.message for one in reply.steps])
        if isinstance(reply, Enqueued) or (isinstance(reply, SettledAll) and reply.messages):
            hints.numbers = [one.message for one in reply.messages if not one.duplicate]
        elif (numbers := numbers_of_schedules(reply, self.model.last_number)) is not None:
            hints.numbers = numbers
            hints.refusals = refusals_of_schedules(reply)  # type: ignore[attr-defined]
        elif isinstance(reply, RunReplayed):
            hints.numbers = [one.message for one in reply.messages]
        elif isinstance(reply, Leased):
            hints.fences = [(one.fence, one.mac) for one in self._tokens(reply)]
        elif isinstance(reply, EffectState) and reply.fence is not None and reply.mac is not None:
            hints.fences = [(reply.fence, reply.mac)]
        return hints

    def _tokens(self, reply: Leased) -> list[Token]:
        return [token_of(grant, self.machine.secret) for grant in reply.grants]

    def _due(self, number: int) -> int:
        view = views.message(self.machine, number)
        return 0 if view is None else int(view.get("deliver_at_ms", 0))

    def _undo(self, flow: int, step: int) -> int:
        return self.machine.flow_index.slice_after(flow - 1, 1)[0].steps[step].compensation

    def _revision(self, name: str) -> int:
        if name.startswith("@"):
            return self.machine.schedules.by_name[name[1:]].revision
        found = self.machine.queues.get(name)
        return 0 if found is None else found.revision

    def _note(self, reply: Reply) -> None:
        if isinstance(reply, Leased):
            self.tokens += self._tokens(reply)
            for grant in reply.grants:
                assert grant.message not in self.done, "done came back"
                self.fences.append(grant.fence)
        elif isinstance(reply, EffectState) and reply.fence is not None and reply.mac is not None:
            self.effect_tokens.append(Token(reply.fence, reply.mac))
            self.fences.append(reply.fence)
        assert self.fences == sorted(set(self.fences)), "fences only grow"

    # --- comparing --------------------------------------------------------------------------------------

    def compare(self) -> None:
        machine, model = self.machine, self.model
        broken = invariants.check(machine)
        assert not broken, broken
        assert machine.clock_ms == model.clock
        assert sorted(machine.queues) == sorted(model.queues)
        for name, queue in model.queues.items():
            self._compare_queue(name, queue)
        for number in range(1, machine.next_number):
            shown = views.message(machine, number)
            known = model.messages.get(number)
            assert (shown is None) == (known is None), f"message {number}: {shown} {known}"
            if known is not None and shown is not None:
                self._compare_message(known, shown)
        compare_runs(machine, model.runs)
        compare_topics(machine, model)
        self._compare_flows()
        compare_schedules(machine, model)
        assert sorted(machine.effects_by_id) == sorted(model.effects)
        for effect_id, record in model.effects.items():
            view = views.effect(machine, effect_id)
            assert view is not None
            held = model.holder_lives(record)
            assert view["state"] == record["state"], effect_id
            assert view["uncertain"] == record["uncertain"], effect_id
            assert view["owner"] == record["owner"]
            assert view.get("expires_at_ms") == (model.ends_at(record) if held else None)
            result = view.get("result")
            assert (None if result is None else result.data) == record.get("result")

    def _compare_flows(self) -> None:
        listed, following = flow_views.flows(self.machine, 1000)
        assert following is None and [each["id"] for each in listed] == [f["id"] for f in self.model.flows]
        for flow in self.model.flows:
            view = flow_views.flow(self.machine, flow["number"])
            assert view is not None
            steps = []
            for step in view["steps"]:
                pair = [
                    None if part is None else (parse_message_id(part["message_id"]), part["state"])
                    for part in (step, step.get("compensation"))
                ]
                steps.append((step["step_id"], *pair))
            shown = (view["state"], view["run_id"], view.get("finished_at_ms"), steps)
            assert shown == self.model.shown_flow(flow)
        for grant in self.machine.leases.values():
            if grant.queue.deleted:
                continue  # its sweep is still to come
            assert flow_steps.parents(self.machine, grant) == self.model.parents(
                self.model.messages[grant.number]
            )

    def _compare_queue(self, name: str, queue: dict[str, Any]) -> None:
        model = self.model
        view = views.queue(self.machine, name)
        assert view is not None
        for state in ("ready", "delayed", "leased", "dead", "blocked"):
            assert view[state] == len(model.of(queue, state)), (name, state)
        leased = len(model.of(queue, "leased"))
        most = queue["config"]["max_leased"]
        leasable = len(model.offered(queue))
        leasable = leasable if most is None else max(0, min(leasable, most - leased))
        assert view["leasable"] == (0 if queue["paused_lease"] else leasable)
        live = model.of(queue, *UNFINISHED)
        assert view["bytes"] == sum(size_of(m["draft"]) for m in live)
        assert view["revision"] == queue["revision"]
        assert view["paused"] == {"enqueue": queue["paused_enqueue"], "lease": queue["paused_lease"]}
        ready = model.of(queue, "ready")
        age = model.clock - min(ready, key=lambda m: m["place"])["ready_at"] if ready else None
        assert view["oldest_ready_age_ms"] == age
        listed = views.messages(self.machine, name, None, 1000)
        assert listed is not None and listed[1] is None
        numbers = sorted(n for n, m in model.messages.items() if m["queue"] == name)
        assert [each["id"] for each in listed[0]] == [message_id(n) for n in numbers]
        dead = views.dead(self.machine, name, 1000)
        assert dead is not None
        assert [each["id"] for each in dead[0]] == [message_id(m["number"]) for m in model.of(queue, "dead")]

    def _compare_message(self, m: dict[str, Any], view: dict[str, Any]) -> None:
        number = m["number"]
        if m["state"] == "done":
            self.done.add(number)
        wanted = {
            "id": message_id(number),
            "queue": m["queue"],
            "state": m["state"],
            "priority": m["priority"],
            "attempt": m["attempt"],
            "enqueued_at_ms": m["enqueued"],
            "dead_reason": m["reason"],
            "finished_at_ms": m["finished"],
            "expires_at_ms": m["expires"],
            "group": m["draft"].group,
            "origin": None if m["origin"] is None else shown_origin(*m["origin"]),
            "lease_expires_at_ms": None if m["lease"] is None else m["lease"]["expires"],
            "cancelled": True if m["lease"] is not None and m["lease"]["cancelled"] else None,
            "deliver_at_ms": m["due"] if m["state"] == "delayed" else None,
        }
        if m["state"] == "blocked":
            del wanted["deliver_at_ms"]
        assert {name: view.get(name) for name in wanted} == wanted
        result = view.get("result")
        assert (None if result is None else result.data) == m["result"]
        progress = view.get("progress")
        shown = (
            None if progress is None else (progress.get("percent"), progress.get("note"), progress["at_ms"])
        )
        assert shown == m["progress"]
        history = [
            (a["attempt"], a["consumer"], a["started_at_ms"], a["ended_at_ms"], a["outcome"], a.get("error"))
            for a in view["attempts"]
            if "outcome" in a
        ]
        names = ("attempt", "consumer", "started", "ended", "outcome", "error")
        assert history == [tuple(a[name] for name in names) for a in m["history"]]
