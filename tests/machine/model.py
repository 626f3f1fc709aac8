"""A dumb model of the machine: plain dicts, lists and linear scans; it imports nothing of `src/` (R38).

It is written from rules.md and api.md. A command is read by its attributes, a reply is a plain tuple (see
`harness.plain`). What the rules leave to the machine (ids, fences, macs, revisions, jitter) comes in
through `Hints` and is only checked for what the rules say of it: ids and fences are new and rise, a
backoff lies in its range.

A refused command is undone by putting a deep copy back: here it is obvious that nothing changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.machine.model_keys import Keys
from tests.machine.model_runs import Runs

BLOCKED, DELAYED, READY, LEASED = "blocked", "delayed", "ready", "leased"
DONE, DEAD, CANCELLED = "done", "dead", "cancelled"
WAITING = (BLOCKED, DELAYED, READY)
UNFINISHED = (*WAITING, LEASED)
CHECKED = None  # instead of the mac of a token that its leader has checked

MINUTE, DAY = 60_000, 86_400_000
REQUEST_WINDOW, SETTLE_WINDOW = MINUTE, MINUTE
EFFECT_RETENTION, EFFECT_TTL = 7 * DAY, 5 * MINUTE

CONFIG = (
    "lease_ms", "max_attempts", "backoff", "ttl_ms", "dead_retention_ms", "max_dead", "idempotency_window_ms",
    "retention_ms", "result_retention_ms", "max_messages", "max_bytes", "on_full", "max_leased",
    "max_leased_per_group",
)  # fmt: skip
BACKOFF = ("type", "base_ms", "factor_milli", "max_ms", "jitter_milli", "delays_ms")
DEFAULTS: dict[str, Any] = {
    "lease_ms": 30_000,
    "max_attempts": 5,
    "backoff": dict(zip(BACKOFF, ("exponential", 1000, 2000, 300_000, 500, ()), strict=True)),
    "ttl_ms": None,
    "dead_retention_ms": 14 * DAY,
    "max_dead": 100_000,
    "idempotency_window_ms": 60 * MINUTE,
    "retention_ms": 0,
    "result_retention_ms": 60 * MINUTE,
    "max_messages": None,
    "max_bytes": None,
    "on_full": "reject",
    "max_leased": None,
    "max_leased_per_group": 1,
}


class Refused(Exception):
    """The command is refused with this code."""


@dataclass
class Hints:
    """What the machine chose freely in answering this command."""

    numbers: list[int] = field(default_factory=list)
    fences: list[tuple[int, bytes]] = field(default_factory=list)
    revision: Callable[[str], int] = lambda name: 0
    flow: tuple[int, list[int]] = (0, [])  # a new flow and its messages
    undo: Callable[[int, int], int] = lambda flow, step: 0
    no_extras: Any = None
    due: Callable[[int], int] = lambda number: 0


def plain_backoff(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in BACKOFF}


def longest_backoff(value: dict[str, Any], attempt: int) -> int:
    """The delay without jitter, after failed delivery `attempt`; exact integers."""
    if value["type"] == "fixed":
        return int(value["base_ms"])
    if value["type"] == "list":
        delays = value["delays_ms"]
        return int(delays[min(attempt, len(delays)) - 1]) if delays else 0
    exact = value["base_ms"] * value["factor_milli"] ** (attempt - 1) // 1000 ** (attempt - 1)
    return int(min(exact, value["max_ms"]))


def size_of(draft: Any) -> int:
    headers = draft.headers or {}
    return len(draft.body) + sum(len(k.encode()) + len(v.encode()) for k, v in headers.items())


class Model(Keys, Runs):
    """The queue half; effects are in `model_effects.Effects`, which this is mixed with."""

    def __init__(self) -> None:
        self.clock = 0
        self.queues: dict[str, dict[str, Any]] = {}
        self.messages: dict[int, dict[str, Any]] = {}
        self.effects: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, dict[str, Any]] = {}
        self.settled: list[dict[str, Any]] = []
        self.owed: list[tuple[int, bool]] = []  # ends whose dependents have not been told yet
        self.swept_later: list[int] = []  # purged or deleted: their dependents hear of it with the sweep
        self.ghosts: list[dict[str, Any]] = []  # vanished, the sweep has not come by
        self.finished_ghosts: list[dict[str, Any]] = []  # the same, of messages that were finished
        self.runs: dict[str, dict[str, Any]] = {}
        self.tick = 0
        self.last_number = 0
        self.last_fence = 0
        self.last_revision = 0
        self.hints = Hints()

    # --- one command ------------------------------------------------------------------------------------

    def apply(self, now_ms: int, request: Any, hints: Hints) -> tuple[Any, bool]:
        """(reply, repeated)."""
        self.clock = max(self.clock, now_ms)
        self.hints = hints
        rid = request.request_id
        if rid is not None:
            stored = self.requests.get(rid)
            if stored is not None and stored["at"] + REQUEST_WINDOW > self.clock:
                if stored["fingerprint"] != request.fingerprint:
                    return ("refused", "idempotency_conflict"), False
                again = self.repeat(stored["reply"], request.command)
                if again is not None:
                    return again, True
        before = self.kept_for_undo()
        try:
            reply = getattr(self, "do_" + type(request.command).__name__)(request.command)
            self.settle()  # type: ignore[attr-defined]
        except Refused as refusal:
            self.__dict__.update(before)
            return ("refused", str(refusal)), False
        if rid is not None and not (reply[0] == "leased" and not reply[3]):
            self.requests[rid] = {"at": self.clock, "fingerprint": request.fingerprint, "reply": reply}
        return reply, False

    def kept_for_undo(self) -> dict[str, Any]:
        """All that a refused command may have changed by then."""
        return copy.deepcopy({k: v for k, v in self.__dict__.items() if k not in ("hints", "clock")})

    def repeat(self, reply: Any, command: Any) -> Any:
        if reply[0] == "leased":
            live = []
            for number, fence, _, attempt in reply[3]:
                lease = self.lease_by_fence(fence)
                if lease is not None:
                    live.append((number, fence, lease["lease"]["expires"], attempt))
            return ("leased", self.clock, len(reply[3]) - len(live), live)
        if reply[0] == "effect" and reply[1] == "granted":
            return self.repeat_begin(reply)  # type: ignore[attr-defined]
        return reply

    def refused(self, code: str) -> Refused:
        return Refused(code)

    def next_tick(self) -> int:
        self.tick += 1
        return self.tick

    # --- finding ----------------------------------------------------------------------------------------

    def queue(self, name: str) -> dict[str, Any]:
        if name not in self.queues:
            raise Refused("queue_not_found")
        return self.queues[name]

    def queue_or_new(self, name: str, auto_create: bool) -> dict[str, Any]:
        if name not in self.queues and auto_create:
            self.queues[name] = self.new_queue(name, copy.deepcopy(DEFAULTS))
        return self.queue(name)

    def new_queue(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        queue = {
            "name": name,
            "config": config,
            "revision": 0,
            "paused_enqueue": False,
            "paused_lease": False,
            "keys": {},
        }
        self.revise(queue)
        return queue

    def of(self, queue: dict[str, Any], *states: str) -> list[dict[str, Any]]:
        """The queue's messages in these states, by number."""
        found = [m for m in self.messages.values() if m["queue"] == queue["name"] and m["state"] in states]
        return sorted(found, key=lambda m: m["number"])

    def lease_by_fence(self, fence: int) -> dict[str, Any] | None:
        for m in self.messages.values():
            if m["state"] == LEASED and m["lease"]["fence"] == fence:
                return m
        return None

    def leased_under(self, token: Any) -> dict[str, Any] | None:
        m = None if token is None else self.lease_by_fence(token.fence)
        return m if m is not None and token.mac in (m["lease"]["mac"], CHECKED) else None

    def config(self, m: dict[str, Any]) -> dict[str, Any]:
        return self.queues[m["queue"]]["config"]

    def extra(self, m: dict[str, Any], name: str, default: Any = None) -> Any:
        extras = m["draft"].extras
        return default if extras is None else getattr(extras, name)

    # --- queues -----------------------------------------------------------------------------------------

    def check_revision(self, name: str, if_revision: int | None) -> None:
        if if_revision is not None and (
            name not in self.queues or self.queues[name]["revision"] != if_revision
        ):
            raise Refused("revision_changed")

    def saved(self, queue: dict[str, Any], created: bool, changed: bool) -> Any:
        if changed:
            self.revise(queue)
        return ("queue", queue["name"], created, queue["revision"])

    def revise(self, queue: dict[str, Any]) -> None:
        # A queue that is not there in the machine was made by a command that is about to be refused.
        queue["revision"] = self.hints.revision(queue["name"]) or self.last_revision + 1
        assert queue["revision"] > self.last_revision, "revisions rise"
        self.last_revision = queue["revision"]

    def do_PutQueue(self, c: Any) -> Any:
        self.check_revision(c.name, c.if_revision)
        config = {name: getattr(c.config, name) for name in CONFIG}
        config["backoff"] = plain_backoff(c.config.backoff)
        created = c.name not in self.queues
        if created:
            self.queues[c.name] = self.new_queue(c.name, config)
            return self.saved(self.queues[c.name], True, False)
        changed = config != self.queues[c.name]["config"]
        self.queues[c.name]["config"] = config
        return self.saved(self.queues[c.name], False, changed)

    def do_PatchQueue(self, c: Any) -> Any:
        queue = self.queue(c.name)
        self.check_revision(c.name, c.if_revision)
        before = copy.deepcopy(queue["config"])
        for name, value in c.changes.items():
            if name == "backoff":
                queue["config"]["backoff"] = {**queue["config"]["backoff"], **value}
            else:
                queue["config"][name] = value
        return self.saved(queue, False, queue["config"] != before)

    def do_DeleteQueue(self, c: Any) -> Any:
        queue = self.queue(c.name)
        self.check_revision(c.name, c.if_revision)
        count = 0
        for ghost in self.ghosts:
            if ghost["queue"] == c.name:
                ghost["gone"] = "queue_deleted"
        for m in self.of(queue, *UNFINISHED, DEAD, DONE, CANCELLED):
            m["gone"] = "queue_deleted"
            count += m["state"] in (*UNFINISHED, DEAD)
            if m["state"] == LEASED:
                self.end_bound_effects(m)  # type: ignore[attr-defined]
            self.vanish(m)
        del self.queues[c.name]
        return ("done", count)

    def do_PauseQueue(self, c: Any) -> Any:
        queue = self.queue(c.name)
        if c.enqueue is not None:
            queue["paused_enqueue"] = c.enqueue
        if c.lease is not None:
            queue["paused_lease"] = c.lease
        return ("done", 0)

    def do_PurgeQueue(self, c: Any) -> Any:
        waiting = self.of(self.queue(c.name), *WAITING)
        for m in waiting:
            self.vanish(m)
        return ("done", len(waiting))

    def do_PurgeDead(self, c: Any) -> Any:
        dead = self.of(self.queue(c.queue), DEAD)
        for m in dead:
            self.vanish(m)
        return ("done", len(dead))

    def vanish(self, m: dict[str, Any]) -> None:
        """Gone at once; whoever depends on an unfinished one hears of it when the sweep comes by (R25)."""
        del self.messages[m["number"]]
        self.key_ends(m)
        self.key_forgets(m, CANCELLED if m["state"] in UNFINISHED else m["state"])
        if m["state"] in UNFINISHED:
            self.swept_later.append(m["number"])
            self.ghosts.append(m)
        else:
            self.finished_ghosts.append(m)

    # --- enqueue ----------------------------------------------------------------------------------------

    def do_Enqueue(self, c: Any) -> Any:
        return ("enqueued", self.take([(c.queue, draft) for draft in c.drafts], c.auto_create))

    def take(
        self, wanted: list[tuple[str, Any]], auto_create: bool, acked: tuple[int, ...] = ()
    ) -> list[Any]:
        """All of them or none. Keys first: a duplicate is no new message and meets no refusal (R12, R16)."""
        firsts: dict[tuple[str, str], int] = {}
        plan: list[Any] = []
        for at, (name, draft) in enumerate(wanted):
            known = self.key_of(name, draft.key)
            if known is not None:
                if known["fingerprint"] != self.fingerprint(draft):
                    raise Refused("idempotency_conflict")
                plan.append(("old", known))
            elif draft.key is not None and (name, draft.key) in firsts:
                first = firsts[name, draft.key]
                if self.fingerprint(wanted[first][1]) != self.fingerprint(draft):
                    raise Refused("idempotency_conflict")
                plan.append(("same", first))
            else:
                firsts[name, draft.key] = at
                plan.append(("new", None))
        fresh = []
        for (name, draft), (kind, _) in zip(wanted, plan, strict=True):
            if kind == "new":
                queue = self.queue_or_new(name, auto_create)
                if queue["paused_enqueue"]:
                    raise Refused("queue_paused")
                for number in draft.extras.depends_on if draft.extras else ():
                    if number not in self.messages and number not in acked:
                        raise Refused("message_not_found")
                fresh.append((queue, draft))
        self.make_room(fresh)
        answers = []
        numbers = iter(self.hints.numbers)
        for (name, draft), (kind, known) in zip(wanted, plan, strict=True):
            if kind == "old":
                answers.append(self.duplicate(known))
            elif kind == "same":
                answers.append((answers[known][0], answers[known][1], True, None))
            else:
                m = self.create(self.queues[name], draft, next(numbers), acked)
                answers.append((m["number"], m["state"], False, None))
        return answers

    def duplicate(self, known: dict[str, Any]) -> tuple[Any, ...]:
        m = self.messages.get(known["number"])
        if m is None:
            return (known["number"], known["final"], True, None)
        return (m["number"], m["state"], True, m["result"])

    def make_room(self, fresh: list[tuple[dict[str, Any], Any]]) -> None:
        for queue in {q["name"]: q for q, _ in fresh}.values():
            config = queue["config"]
            count = sum(1 for q, _ in fresh if q is queue)
            size = sum(size_of(d) for q, d in fresh if q is queue)
            while True:
                live = self.of(queue, *UNFINISHED)
                over = config["max_messages"] is not None and len(live) + count > config["max_messages"]
                held = sum(size_of(m["draft"]) for m in live)
                over = over or (config["max_bytes"] is not None and held + size > config["max_bytes"])
                if not over:
                    break
                ready = [m for m in live if m["state"] == READY]
                if config["on_full"] == "reject" or not ready:
                    raise Refused("queue_full")
                self.finish(min(ready, key=lambda m: m["place"]), DEAD, "queue_full")

    def create(
        self,
        queue: dict[str, Any],
        draft: Any,
        number: int,
        acked: tuple[int, ...],
        replay_of: int | None = None,
    ) -> dict[str, Any]:
        assert number > self.last_number, "ids rise"
        self.last_number = number
        ttl = draft.ttl_ms if draft.ttl_ms is not None else queue["config"]["ttl_ms"]
        m: dict[str, Any] = {
            "number": number,
            "queue": queue["name"],
            "draft": draft,
            "state": BLOCKED,
            "priority": draft.priority,
            "enqueued": self.clock,
            "place": 0,
            "group_order": self.next_tick(),
            "due": draft.deliver_at_ms if draft.deliver_at_ms is not None else self.clock + draft.delay_ms,
            "expires": None if ttl is None else self.clock + ttl,
            "ready_at": 0,
            "attempt": 0,
            "pending": [],
            "lease": None,
            "history": [],
            "progress": None,
            "result": None,
            "finished": None,
            "reason": None,
            "origin": None if replay_of is None else ("replay", f"m{replay_of:012x}"),
            "replay_of": replay_of,
            "gone": "purged",
            "forget": None,
        }
        self.messages[number] = m
        why = None if replay_of is None else "replayed"
        if draft.key is not None:
            window = draft.key_window_ms
            window = queue["config"]["idempotency_window_ms"] if window is None else window
            queue["keys"][draft.key] = {
                "number": number,
                "fingerprint": self.fingerprint(draft),
                "expires": self.clock + window,
                "final": None,
            }
        depends_on = draft.extras.depends_on if draft.extras else ()
        states = {n: self.messages[n]["state"] if n in self.messages else DONE for n in depends_on}
        m["pending"] = [n for n in states if states[n] in UNFINISHED]
        gone = [n for n in depends_on if n not in self.messages and n not in acked]  # displaced to make room
        failed = bool(gone) or any(state in (DEAD, CANCELLED) for state in states.values())
        if failed and draft.extras.on_dependency_failure == "fail":
            self.note(m, reason=why)
            self.finish(m, DEAD, "dependency_failed")
        elif not m["pending"]:
            self.wait_until(m, m["due"], reason=why)
        else:
            self.note(m, reason=why)
        return m

    # --- moving on --------------------------------------------------------------------------------------

    def wait_until(self, m: dict[str, Any], due: int, ended: Any = None, reason: str | None = None) -> None:
        m["due"] = due
        if due > self.clock:
            m["state"] = DELAYED
        else:
            self.to_tail(m)
        self.note(m, ended, reason)

    def to_tail(self, m: dict[str, Any]) -> None:
        m["state"] = READY
        m["place"] = self.next_tick()
        m["ready_at"] = self.clock

    def keep_ms(self, m: dict[str, Any], state: str) -> int:
        config = self.config(m)
        keep = self.extra(m, "retention_ms")
        keep = config["retention_ms"] if keep is None else keep
        if state == DEAD:
            keep = config["dead_retention_ms"]
        known = self.queues[m["queue"]]["keys"].get(m["draft"].key)
        key_lives = known is not None and known["number"] == m["number"] and known["expires"] > self.clock
        others = [*self.messages.values(), *self.ghosts]
        waited_for = any(m["number"] in other["pending"] for other in others if other["state"] == BLOCKED)
        if self.extra(m, "run_id") is not None or m["result"] is not None or waited_for or key_lives:
            keep = max(keep, config["result_retention_ms"])
        return int(keep)

    def finish(self, m: dict[str, Any], state: str, reason: str | None = None) -> None:
        keep = self.keep_ms(m, state)
        ended = m["history"][-1] if m["lease"] is not None else None
        m.update(state=state, reason=reason, finished=self.clock, forget=self.clock + keep, lease=None)
        m["place"] = self.next_tick()
        self.note(m, ended)
        self.key_ends(m)
        self.owed.append((m["number"], state != DONE))
        if self.is_held(m):  # type: ignore[attr-defined]
            m["forget"] = None
            self.flow_hears(m["number"], state)  # type: ignore[attr-defined]
        elif not keep and state != DEAD:
            self.forget(m)
        if state == DEAD:
            self.drop_excess_dead(self.queues[m["queue"]])

    def forget(self, m: dict[str, Any]) -> None:
        del self.messages[m["number"]]
        self.key_forgets(m, m["state"])

    def drop_excess_dead(self, queue: dict[str, Any], all_of_them: bool = False) -> None:
        """A death pushes out one at most; what a lowered `max_dead` leaves over goes with a sweep (R25)."""
        dead = self.of(queue, DEAD)
        if len(dead) > queue["config"]["max_dead"]:
            oldest = min(dead, key=lambda m: m["place"])
            self.forget(oldest)
            if all_of_them:
                self.drop_excess_dead(queue, True)

    def tell_dependents(self) -> None:
        """Whoever waits for a message that has ended hears of it; what that ends in turn likewise."""
        while self.owed:
            number, failed = self.owed.pop(0)
            for m in sorted(self.messages.values(), key=lambda m: m["number"]):
                if number not in m["pending"] or m["state"] != BLOCKED:
                    continue
                if failed and m["draft"].extras.on_dependency_failure == "fail":
                    m["pending"] = []
                    self.finish(m, DEAD, "dependency_failed")
                    continue
                m["pending"].remove(number)
                if not m["pending"]:
                    self.wait_until(m, m["due"])
