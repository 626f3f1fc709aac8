"""A clean run in small, for the mutants: real machine, real log files, clients that behave as a drill's do.

One process, virtual time, one seed. What the clients saw is written as a drill's recorder writes it. Some
calls are lost on the way, some answers on the way back, so that the clean run has its unknowns too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from trivet.http import render
from trivet.machine import commands as c
from trivet.machine import flow_views, ids, run_views, topic_views, views
from trivet.machine.core import Machine
from trivet.machine.replies import (
    Done,
    EffectState,
    Enqueued,
    FlowCreated,
    GroupSaved,
    Leased,
    MessageChanged,
    Published,
    QueueSaved,
    Redriven,
    Refusal,
    SettledAll,
    TopicSaved,
)
from trivet.machine.run_commands import RunEventsAppended
from trivet.storage.real_disk import RealDisk
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import Identity, Storage
from trivet.wire.entry import encode_entry

NODES = ("n1", "n2", "n3")
START_MS = 1_800_000_000_000
MS = 1_000_000
_json = msgspec.json.Encoder().encode
Line = dict[str, Any]


@dataclass
class Case:
    """A run in memory: what a mutant changes. `entries`: (term, now_ms, requests), from index 1; a term's
    first entry without requests is its leader's no-op. `other`: entries of one node that differ."""

    history: list[Line] = field(default_factory=list)
    sink: list[Line] = field(default_factory=list)
    faults: list[Line] = field(default_factory=list)
    nodes: list[Line] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)
    entries: list[tuple[int, int, tuple[c.Request, ...]]] = field(default_factory=list)
    other: dict[int, tuple[int, int, tuple[c.Request, ...]]] = field(default_factory=dict)

    def copy(self) -> Case:
        """Deep where a mutant may write; entries are replaced, never changed."""
        made = Case(entries=list(self.entries), other=dict(self.other))
        for name in ("history", "sink", "faults", "nodes", "plan", "final"):
            setattr(made, name, deepcopy(getattr(self, name)))
        return made

    def write(self, directory: Path, log: Path | None = None) -> None:
        """As a run's directory; `log`: an archive already written of the same entries."""
        directory.mkdir(parents=True)
        for name in ("history", "sink", "faults", "nodes"):
            lines = getattr(self, name)
            (directory / f"{name}.jsonl").write_bytes(b"".join(_json(line) + b"\n" for line in lines))
        for name in ("plan", "final"):
            if getattr(self, name):
                (directory / f"{name}.json").write_bytes(_json(getattr(self, name)))
        if log is not None:
            (directory / "log").symlink_to(log)
            return
        for node in NODES:
            self.write_log(directory / "log" / node, node)

    def write_log(self, path: Path, node: str) -> None:
        """As one node holds it. A log that is there already is continued."""
        path.mkdir(parents=True, exist_ok=True)
        disk = RealDisk(path)
        storage = Storage.open(disk, node, _Still(), StorageSettings(segment_bytes=64 * 1024))
        if storage.identity is None:
            storage.set_identity(Identity("c" * 16, NODES, "born"))
        for at, entry in list(enumerate(self.entries, 1))[storage.last_index :]:
            term, now_ms, requests = self.other.get(at, entry) if node == "n2" else entry
            data = b"\0" + encode_entry(c.MACHINE_VERSION, now_ms, requests) if requests else b"\1"
            storage.append(at, term, data)
        storage.flush()
        storage.close()
        disk.close()


class _Still:
    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 0


@dataclass
class Asked:
    """A call under way."""

    op: int
    proc: str
    f: str
    args: dict[str, Any]
    command: c.Command | None
    fate: str  # ok | lost (applied, answer lost) | unsent
    then: Callable[[Any], None]
    inv: int = 0


class Scene:
    """`play()` makes the case. Rounds: some clients ask at once, their requests form one entry."""

    def __init__(self, seed: int = 1, rounds: int = 260) -> None:
        self.rng = random.Random(seed)
        self.rounds = rounds
        self.case = Case()
        self.machine = Machine()
        self.term = 1
        self.now_ms = START_MS
        self.t = 1_000_000 * MS
        self.ops = 0
        self.generations: dict[str, int] = {}
        self.asked: list[Asked] = []
        self.held: dict[str, list[Line]] = {}  # queue → deliveries that somebody holds
        self.old: list[Line] = []  # deliveries whose lease ran out, or that were settled
        self.n: dict[str, int] = {}
        self.unknown: list[tuple[str, str, dict[str, Any], int]] = []  # enqueues to say again
        self.ids: list[str] = []
        self.paid: set[str] = set()
        self.flows: list[str] = []
        self.unheard: list[tuple[int, list[Line]]] = []  # appends whose answer was lost: (op, events)

    # --- the log ----------------------------------------------------------------------------------------

    def entry(self, requests: list[c.Request]) -> list[Any]:
        self.case.entries.append((self.term, self.now_ms, tuple(requests)))
        data = encode_entry(c.MACHINE_VERSION, self.now_ms, requests)
        self.machine.begin_entry(
            len(self.case.entries), self.now_ms, c.MACHINE_VERSION, blake2b(data).digest()
        )
        answers = [self.machine.apply(request) for request in requests]
        self.machine.end_entry()
        return answers

    def no_op(self) -> None:
        self.case.entries.append((self.term, self.now_ms, ()))
        self.machine.begin_entry(len(self.case.entries), self.machine.clock_ms, c.MACHINE_VERSION)
        self.machine.end_entry()

    # --- calls ------------------------------------------------------------------------------------------

    def ask(
        self, client: str, f: str, args: dict[str, Any], command: c.Command | None, fate: str = "ok",
        then: Callable[[Any], None] = lambda result: None, op: int | None = None, request_id: str | None = None,
    ) -> int:  # fmt: skip
        self.ops += op is None
        op = self.ops if op is None else op
        proc = f"{client}.{self.generations.get(client, 0)}"
        if command is not None:
            args["request_id"] = request_id or f"run-{op}"
        asked = Asked(op, proc, f, args, command, fate, then)
        asked.inv = self.pass_time()
        self.case.history.append(
            {
                "e": "inv",
                "op": op,
                "proc": proc,
                "f": f,
                "t": asked.inv,
                "args": msgspec.json.decode(_json(args)),
            }
        )
        self.asked.append(asked)
        return op

    def pass_time(self) -> int:
        self.t += self.rng.randrange(10_000, 200_000)
        return self.t

    def settle(self, milliseconds: int | None = None) -> None:
        """The calls of this round go into one entry and come back."""
        step = self.rng.randrange(2, 40) if milliseconds is None else milliseconds
        self.t += step * MS
        self.now_ms += step
        asked, self.asked = self.asked, []
        sent = [one for one in asked if one.command is not None and one.fate != "unsent"]
        requests = [
            c.Request(one.command, one.args["request_id"], self.print(one)) for one in sent if one.command
        ]
        if (
            self.machine.next_deadline_ms() is not None
            and (self.machine.next_deadline_ms() or 0) <= self.now_ms
        ):
            requests.append(c.Request(c.Expire(1000)))
        answers = self.entry(requests) if requests else []
        by_op = {id(one): answer for one, answer in zip(sent, answers, strict=False)}
        for one in asked:
            self.back(one, by_op.get(id(one)))

    def print(self, one: Asked) -> bytes:
        told = {
            name: value for name, value in one.args.items() if name not in ("repeats", "ids", "request_id")
        }
        return blake2b(_json(told), digest_size=16).digest()

    def back(self, one: Asked, answer: Any) -> None:
        line: Line = {"e": "ret", "op": one.op, "t": self.pass_time(), "type": "ok", "attempts": 1,
                      "unknown_attempts": 0, "node": "http://n1"}  # fmt: skip
        if one.fate != "ok":
            line |= {
                "type": "info",
                "unknown_attempts": 1,
                "error": {"code": "outcome_unknown", "detail": ""},
            }
            client, _, generation = one.proc.rpartition(".")
            self.generations[client] = int(generation) + 1
            self.case.history.append(line)
            return
        if one.command is None:
            result: Any = self.look(one)
            if result is None:
                line |= {"type": "fail", "error": {"code": "message_not_found", "detail": ""}}
            else:
                line |= {"asof": self.machine.applied_index, "result": result}
        else:
            result = self.told(one, answer, line)
        self.case.history.append(msgspec.json.decode(_json(line)))
        if result is not None:
            one.then(self.case.history[-1].get("result"))

    def told(self, one: Asked, answer: Any, line: Line) -> Any:
        reply = answer.reply
        if isinstance(reply, Refusal):
            line |= {"type": "fail", "error": {"code": reply.code, "detail": reply.detail}}
            return None
        line |= {"index": answer.index, "seq": answer.seq, "term": self.case.entries[answer.index - 1][0]}
        if answer.repeated:
            line["repeated"] = True
        line["result"] = result = shown(self.machine, one, reply)
        if isinstance(reply, Leased) and not reply.fences:
            for name in ("index", "seq", "term"):
                del line[name]
            line["asof"] = answer.index
        if isinstance(reply, SettledAll) and all(
            r["status"] in ("stale_lease", "not_found") for r in result["results"]
        ):
            line |= {"type": "fail", "error": {"code": result["results"][0]["status"]}}
        return result

    def look(self, one: Asked) -> Any:
        args = one.args
        if one.f == "read_queue":
            return views.queue(self.machine, args["queue"])
        if one.f == "read_events":
            page = run_views.events(self.machine, args["run"], args["after"], 10_000)
            return page and {
                "events": [
                    {"id": e.id, "at_ms": e.at_ms, "type": e.type, "data": msgspec.json.decode(e.data)}
                    for e in page.events
                ],
                "next": None,
                "first_id": page.first_id,
            }
        if one.f == "read_flow":
            return flow_views.flow(self.machine, ids.parse_flow_id(args["flow"]) or 0)
        if one.f == "effect_state":
            return rendered(views.effect(self.machine, args["effect_id"]))
        if one.f == "browse":
            found = views.messages(self.machine, args["queue"], None, 1000)
            return (
                None if found is None else {"messages": [rendered(each) for each in found[0]], "next": None}
            )
        return rendered(views.message(self.machine, ids.parse_message_id(args["id"]) or 0))


def rendered(found: dict[str, Any] | None) -> Any:
    return None if found is None else render.message(dict(found), render.MSGPACK)


def shown(machine: Machine, one: Asked, reply: Any) -> Any:
    """The answer's body, as the API gives it."""
    media = render.MSGPACK
    match reply:
        case Enqueued():
            return {"messages": [render.enqueued(each, media) for each in reply.messages]}
        case Leased():
            told: dict[str, Any] = {"now_ms": reply.now_ms}
            told["messages"] = [rendered(views.leased(machine, fence)) for fence in reply.fences]
            return told
        case SettledAll():
            told = {"results": [render.settled(each) for each in reply.results]}
            if reply.messages is not None:
                told["messages"] = [render.enqueued(each, media) for each in reply.messages]
            return told
        case EffectState():
            return render.effect_state(reply, media)
        case QueueSaved() | GroupSaved():
            return views.queue(machine, reply.name)
        case TopicSaved():
            return topic_views.topic(machine, reply.name)
        case Published():
            return {"messages": topic_views.published(reply)}
        case RunEventsAppended():
            pairs = [(each.id, each.duplicate) for each in reply.events]
            return {"events": [{"id": at, "duplicate": True} if again else {"id": at} for at, again in pairs]}
        case FlowCreated():
            steps = [
                {"step_id": step["step_id"], "message_id": ids.message_id(made.message), "state": made.state}
                for step, made in zip(one.args["steps"], reply.steps, strict=True)
            ]
            return {"id": ids.flow_id(reply.flow), "run_id": reply.run_id, "steps": steps}
        case Redriven():
            return {"redriven": len(reply.ids), "ids": [ids.message_id(number) for number in reply.ids]}
        case MessageChanged():
            return render.changed(reply)
        case Done():
            return {"removed": reply.count}
    raise AssertionError(reply)
