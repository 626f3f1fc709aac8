"""Stories: `scripts/*.txt` say what is asked, and below each line what the machine answers.

`TRIVET_REWRITE=1 pytest tests/machine/test_scripts.py` writes the answers anew: read the difference before
you commit it. Ids are written `m3`, tokens `t5` (their fence), instants as milliseconds since the start.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.machine.harness import START_MS, new_machine, rebuilt, run, state_of
from tests.tokens import token_of
from tests.unit.machine.flowkit import flow
from trivet.machine import commands as c
from trivet.machine import flow_views, ids, invariants, replies, run_views, schedule_views, topic_views, views
from trivet.machine.run_commands import NewRunEvent

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
DRAFT = ("priority", "delay_ms", "ttl_ms", "group", "key", "key_window_ms", "content_type")
EXTRAS = (
    "run_id",
    "step_id",
    "max_attempts",
    "lease_ms",
    "depends_on",
    "on_dependency_failure",
    "retention_ms",
)


def value(text: str) -> Any:
    """null, true, a number, or the text itself."""
    if text in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text]
    return int(text) if text.lstrip("-").isdigit() else text


class Story:
    """Plays the lines of one script on one machine."""

    def __init__(self) -> None:
        self.machine = new_machine()
        self.now = START_MS
        self.tokens: dict[str, c.Token] = {}
        self.flows: list[int] = []

    def play(self, line: str) -> list[str]:
        verb, *words = shlex.split(line)
        options = {k: value(v) for k, v in (w.split("=", 1) for w in words if "=" in w)}
        names = [word for word in words if "=" not in word]
        if verb == "show":
            return self.show(*names)
        if verb == "wait":
            self.now += int(names[0])
            return self.wait()
        if verb == "restart":
            before = state_of(self.machine)
            self.machine = rebuilt(self.machine)
            assert state_of(self.machine) == before
            return []
        rid = options.pop("rid", None)
        command = getattr(self, "do_" + verb)(names, options)
        fingerprint = line.encode()[:16] if rid else b""
        answer = run(self.machine, self.now, c.Request(command, rid, fingerprint))[0]
        assert not invariants.check(self.machine)
        return self.told(answer)

    def wait(self) -> list[str]:
        handled = 0
        for _ in range(100):
            reply = run(self.machine, self.now, c.Request(c.Expire()))[0].reply
            assert isinstance(reply, replies.Done)
            handled += reply.count
            if not reply.more:
                return [f"{handled} expired"]
        raise AssertionError("no end of expiry")

    # --- asking -----------------------------------------------------------------------------------------

    def token(self, name: str) -> c.Token | None:
        return self.tokens.get(name, c.Token(10**6, bytes(16)) if name == "unknown" else None)

    def draft(self, body: str, options: dict[str, Any]) -> c.Draft:
        extras = {name: options[name] for name in EXTRAS if name in options}
        if "depends_on" in extras:
            extras["depends_on"] = tuple(int(name[1:]) for name in extras["depends_on"].split(","))
        fields = {name: options[name] for name in DRAFT if name in options}
        return c.Draft(body.encode(), extras=c.Extras(**extras) if extras else None, **fields)

    def do_put(self, names: list[str], options: dict[str, Any]) -> c.Command:
        if "backoff" in options:
            kind, base = options["backoff"].split(":")
            options["backoff"] = c.Backoff(kind, int(base), jitter_milli=0)
        return c.PutQueue(names[0], c.QueueConfig(**options))

    def do_pause(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.PauseQueue(names[0], **options)

    def do_purge(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.PurgeQueue(names[0])

    def do_purge_dead(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.PurgeDead(names[0])

    def do_delete(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.DeleteQueue(names[0])

    def do_enqueue(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Enqueue(names[0], tuple(self.draft(body, options) for body in names[1:]))

    def do_lease(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Lease(
            tuple(names), options.get("consumer", "w"), options.get("max", 1), options.get("lease_ms")
        )

    def do_ack(self, names: list[str], options: dict[str, Any]) -> c.Command:
        effects: tuple[c.EffectDone, ...] = ()
        if "effect" in options:
            effects = (c.EffectDone(options["effect"], b"1", self.token(options.get("by", ""))),)
        result = None if options.get("result") is None else str(options["result"]).encode()
        items = tuple(c.AckItem(self.token(name), result, effects) for name in names)
        more: tuple[c.EnqueueTo, ...] = ()
        if "enqueue" in options:
            name, body = options["enqueue"].split(":")
            more = (c.EnqueueTo(name, self.draft(body, options)),)
        return c.Ack(items, more)

    def do_nack(self, names: list[str], options: dict[str, Any]) -> c.Command:
        dead = bool(options.get("dead"))
        one = (options.get("error"), options.get("delay_ms"), dead)
        return c.Nack(tuple(c.NackItem(self.token(name), *one) for name in names))

    def do_extend(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Extend(tuple(c.ExtendItem(self.token(name), options.get("lease_ms")) for name in names))

    def do_release(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Release(tuple(self.token(name) for name in names))

    def do_progress(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Progress(int(names[0][1:]), self.token(names[1]), **options)

    def do_cancel(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Cancel(int(names[0][1:]))

    def do_patch(self, names: list[str], options: dict[str, Any]) -> c.Command:
        if "deliver_at_ms" in options:
            options["deliver_at_ms"] += START_MS
        return c.PatchMessage(int(names[0][1:]), **options)

    def do_redrive(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Redrive(names[0], **options)

    def do_flow(self, names: list[str], options: dict[str, Any]) -> c.Command:
        undo = str(options.pop("undo", "")).replace(",", " ")
        return flow(" ".join(names[1:]), undo=undo, queue=names[0], **options)

    def do_begin(self, names: list[str], options: dict[str, Any]) -> c.Command:
        lease = options.get("lease")
        token = None if lease is None else self.token(lease)
        return c.EffectBegin(
            names[0], options.get("owner", "o"), token, lease is not None, options.get("ttl_ms")
        )

    def do_commit(self, names: list[str], options: dict[str, Any]) -> c.Command:
        result = None if options.get("result") is None else str(options["result"]).encode()
        return c.EffectCommit(self.token(names[0]), result)

    def do_abort(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.EffectAbort(self.token(names[0]))

    def do_append(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.AppendRunEvents(
            names[0], tuple(NewRunEvent(name, b"1", options.get("event_id")) for name in names[1:])
        )

    def do_replay(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.ReplayRun(names[0], options.get("step"))

    # --- topics -----------------------------------------------------------------------------------------

    def do_topic(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.PutTopic(names[0], options.get("ms", 86_400_000), options.get("messages", 100))

    def do_delete_topic(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.DeleteTopic(names[0])

    def do_group(self, names: list[str], options: dict[str, Any]) -> c.Command:
        at_ms, offset = options.pop("from_at_ms", None), options.pop("from_offset", None)
        at_ms = None if at_ms is None else START_MS + at_ms
        return c.PutGroup(*names[0].split(":"), c.QueueConfig(**options), None, at_ms, offset)

    def do_delete_group(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.DeleteGroup(*names[0].split(":"))

    def do_publish(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.Publish(names[0], tuple(self.draft(body, options) for body in names[1:]))

    def do_replay_group(self, names: list[str], options: dict[str, Any]) -> c.Command:
        at_ms, inline = options.get("from_at_ms"), options.get("inline", 1000)
        at_ms = None if at_ms is None else START_MS + at_ms
        return c.ReplayGroup(*names[0].split(":"), at_ms, options.get("from_offset"), inline)

    # --- schedules --------------------------------------------------------------------------------------

    def do_schedule(self, names: list[str], options: dict[str, Any]) -> c.Command:
        told = {
            name: options.pop(name) for name in ("cron", "every_ms", "timezone", "overlap") if name in options
        }
        return c.PutSchedule(names[0], c.ScheduleSpec(names[1], self.draft(names[2], options), **told))

    def do_fire(self, names: list[str], options: dict[str, Any]) -> c.Command:
        """The leader's step: `at`, `next`: since the start."""
        known = self.machine.schedules.by_name.get(names[0])
        at, following = START_MS + options.pop("at"), START_MS + options.pop("next")
        revision, after = (known.revision, known.decided_ms) if known else (0, 0)
        return c.FireSchedules((c.Fire(names[0], revision, at, following, **options, after_ms=after),))

    def do_pause_schedule(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.PauseSchedule(names[0], True)

    def do_resume_schedule(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.PauseSchedule(names[0], False)

    def do_run_schedule(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.RunSchedule(names[0])

    def do_delete_schedule(self, names: list[str], options: dict[str, Any]) -> c.Command:
        return c.DeleteSchedule(names[0])

    # --- telling ----------------------------------------------------------------------------------------

    def since(self, at_ms: int) -> int:
        return at_ms - START_MS

    def told(self, answer: replies.Answer) -> list[str]:
        lines = self.reply(answer.reply)
        return [f"{line} (repeated)" for line in lines] if answer.repeated else lines

    def reply(self, reply: replies.Reply) -> list[str]:
        match reply:
            case replies.Refusal():
                return [f"refused {reply.code}" + (f" at {reply.field}" if reply.field else "")]
            case replies.Done():
                return [f"done {reply.count}"]
            case replies.QueueSaved():
                return ["created" if reply.created else "saved"]
            case replies.Enqueued():
                return [self.one(one) for one in reply.messages]
            case replies.Leased():
                lines = [self.grant(grant) for grant in reply.grants]
                return lines + ([f"lost {reply.lost}"] if reply.lost else []) or ["nothing"]
            case replies.SettledAll():
                return [self.settled(one) for one in reply.results] + [
                    self.one(o) for o in reply.messages or ()
                ]
            case replies.MessageChanged():
                ends = reply.lease_expires_at_ms
                extra = " cancelled" if reply.cancelled else ""
                return [
                    f"m{reply.message} {reply.state}{extra}" + (f" until {self.since(ends)}" if ends else "")
                ]
            case replies.Redriven():
                return [" ".join(["redriven", *(f"m{number}" for number in reply.ids)])]
            case replies.FlowCreated():
                self.flows.append(reply.flow)
                return [self.one(one) for one in reply.steps]
            case replies.ScheduleSaved():
                return ["created" if reply.created else "saved"]
            case replies.ScheduleRun():
                return [f"m{reply.message} {reply.state}"]
            case replies.SlotsDecided():
                return [self.slot(end) for end in reply.results]
            case replies.EffectState():
                return [self.effect(reply)]
            case replies.TopicSaved():
                return ["created" if reply.created else "saved"]
            case replies.GroupSaved():
                return [("created" if reply.created else "saved") + f", {reply.replayed} from before"]
            case replies.Replayed():
                return [f"{reply.count} again from {reply.from_offset}" + ", more to come" * reply.more]
            case replies.Published():
                return [self.published(**one) for one in topic_views.published(reply)]
            case replies.RunEventsAppended():
                return [f"event {one.id}" + " duplicate" * one.duplicate for one in reply.events]
            case replies.RunReplayed():
                return [f"m{one.message} replays m{one.origin}" for one in reply.messages] or ["nothing"]
        raise AssertionError(reply)

    def published(self, offset: int, duplicate: bool, ids: dict[str, str]) -> str:
        into = [f"{group}:m{int(name[1:], 16)}" for group, name in ids.items()]
        return " ".join([f"offset {offset}", *into, *["duplicate"] * duplicate])

    def slot(self, end: replies.SlotEnd) -> str:
        message = "" if end.message is None else f" m{end.message}"
        return end.status + message + (f" {end.code}" if end.code else "")

    def one(self, one: replies.EnqueuedOne) -> str:
        result = "" if one.result is None else f" result {one.result.decode()}"
        return f"m{one.message} {one.state}" + (" duplicate" if one.duplicate else "") + result

    def grant(self, grant: replies.Grant) -> str:
        self.tokens[f"t{grant.fence}"] = token = token_of(grant, self.machine.secret)
        shown = views.leased(self.machine, grant.fence)
        assert shown is not None and shown["lease_token"] == ids.encode_token(token.fence, token.mac)
        body = shown["body"].data.decode()
        ends = self.since(grant.lease_expires_at_ms)
        given = [f"{step}={data and data.data.decode()}" for step, data in shown.get("parents", {}).items()]
        parents = f" parents {' '.join(given)}" if given else ""
        return f"t{grant.fence} m{grant.message} body {body} attempt {grant.attempt} until {ends}{parents}"

    def flow(self, number: int) -> list[str]:
        view = flow_views.flow(self.machine, number)
        if view is None:
            return ["not found"]
        steps = [f"{step['step_id']} {step['state']}" for step in view["steps"]]
        undone = [
            f"compensation of {step['step_id']} {step['compensation']['state']}"
            for step in view["steps"]
            if "compensation" in step
        ]
        return [view["state"], *steps, *undone]

    def settled(self, one: replies.Settled) -> str:
        parts = [one.status, *([one.state] if one.state else [])]
        if one.deliver_at_ms is not None:
            parts.append(f"at {self.since(one.deliver_at_ms)}")
        if one.lease_expires_at_ms is not None:
            parts.append(f"until {self.since(one.lease_expires_at_ms)}")
        return " ".join(parts + ["cancelled"] * one.cancelled + ["again"] * one.repeated)

    def effect(self, reply: replies.EffectState) -> str:
        parts = [reply.state]
        if reply.fence is not None and reply.mac is not None:
            self.tokens[f"t{reply.fence}"] = c.Token(reply.fence, reply.mac)
            parts.append(f"t{reply.fence}")
        if reply.result is not None:
            parts.append(f"result {reply.result.decode()}")
        if reply.expires_at_ms is not None:
            parts.append(f"until {self.since(reply.expires_at_ms)}")
        return " ".join(parts + ["uncertain"] * reply.uncertain + ["again"] * reply.repeated)

    def show(self, kind: str, name: str = "") -> list[str]:
        view: dict[str, Any] | None
        if kind == "queue":
            view = views.queue(self.machine, name)
            wanted = [
                "ready",
                "leasable",
                "delayed",
                "leased",
                "dead",
                "blocked",
                "bytes",
                "paused",
                "oldest_ready_age_ms",
            ]
        elif kind == "topic":
            view, wanted = topic_views.topic(self.machine, name), []
        elif kind == "flow":
            return self.flow(self.flows[int(name) - 1])
        elif kind == "run":
            view, wanted = run_views.run(self.machine, name, 100), []
        elif kind == "schedule":
            view, wanted = schedule_views.schedule(self.machine, name), [
                "paused", "decided_at_ms", "next_slot_at_ms", "fired", "skipped", "last_fire", "last_skip", "blocked",
            ]  # fmt: skip
        elif kind == "effect":
            view, wanted = views.effect(self.machine, name), []
        else:
            view, wanted = views.message(self.machine, int(kind[1:])), []
        if view is None:
            return ["not found"]
        lines = []
        for field, shown in view.items():
            if not wanted or field in wanted:
                lines.append(f"{field}: {self.plain(field, shown)}")
        return lines

    def plain(self, field: str, shown: Any) -> str:
        if isinstance(shown, views.Body | views.Result):
            return shown.data.decode()
        if field.endswith("_at_ms"):
            return "null" if shown is None else str(self.since(shown))
        if field == "attempts":
            return "; ".join(" ".join(self.plain(k, v) for k, v in each.items()) for each in shown)
        if field == "steps":
            return "; ".join(" ".join(self.plain(k, v) for k, v in each.items()) for each in shown)
        if field == "timeline":
            return "; ".join(f"{e.id} {self.since(e.at_ms)} {e.type} {e.data.decode()}" for e in shown)
        if field in ("last_fire", "last_skip", "blocked") and not isinstance(shown, int):
            return "nothing" if shown is None else " ".join(self.plain(k, v) for k, v in shown.items())
        if field == "slot_ms":
            return str(self.since(shown))
        if field == "progress":
            return " ".join(self.plain(k, v) for k, v in shown.items())
        return shown if isinstance(shown, str) else msgspec.json.encode(shown).decode()


def played(text: str) -> str:
    """The script with its answers made anew."""
    story = Story()
    lines = []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"  {told}" for told in story.play(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    text = path.read_text()
    told = played(text)
    if os.environ.get("TRIVET_REWRITE") == "1":
        path.write_text(told)
    else:
        assert told == text


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 12
