"""The model's runs: what happened to each message, and what workers appended. Plain lists; nothing of `src/`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

HOUR = 3_600_000
EVENTS_MAX, BYTES_MAX = 20_000, 8 * 1024 * 1024
UNFINISHED = ("blocked", "delayed", "ready", "leased")
DRAFT = (
    "body", "codec", "content_type", "headers", "priority", "delay_ms", "deliver_at_ms", "ttl_ms", "group", "key",
    "key_window_ms", "extras",
)  # fmt: skip


def text_id(number: int) -> str:
    return f"m{number:012x}"


class Runs:
    """Mixed into the model, which has the messages."""

    runs: dict[str, dict[str, Any]]
    clock: int

    # --- what happens to messages -----------------------------------------------------------------------

    def note(self, m: dict[str, Any], ended: dict[str, Any] | None = None, reason: str | None = None) -> None:
        """The message is in a new state. `ended`: the attempt that ended with it."""
        extras = m["draft"].extras
        if extras is None or extras.run_id is None:
            return
        run = self.runs.get(extras.run_id)
        if run is None:
            run = self.runs[extras.run_id] = {
                "next": 1,
                "events": [],
                "members": {},
                "changed": 0,
                "finished": None,
            }
        run["members"][m["number"]] = m
        told: dict[str, Any] = {"message_id": text_id(m["number"]), "queue": m["queue"]}
        if extras.step_id is not None:
            told["step_id"] = extras.step_id
        if m["state"] == "delayed":
            told["deliver_at_ms"] = m["due"]
        if m["state"] == "leased":
            told.update(attempt=m["attempt"], consumer=m["lease"]["consumer"])
        elif ended is not None:
            told.update(attempt=ended["attempt"], consumer=ended["consumer"])
            if ended.get("error") is not None:
                told["error"] = ended["error"]
            if m["state"] in UNFINISHED:
                reason = ended["outcome"]
        if m["state"] == "dead":
            reason = m["reason"]
        if reason is not None:
            told["reason"] = reason
            if reason == "replayed":
                told["origin"] = m["origin"][1]
        self.add(run, f"message.{m['state']}", told, None)
        unfinished = any(member["state"] in UNFINISHED for member in run["members"].values())
        run["finished"] = None if unfinished else self.clock

    def add(self, run: dict[str, Any], type: str, data: Any, event_id: str | None) -> int:
        event = {"id": run["next"], "at": self.clock, "type": type, "data": data, "event_id": event_id}
        run["next"] += 1
        run["events"].append(event)
        run["changed"] = self.clock
        del run["events"][:-EVENTS_MAX]
        return int(event["id"])

    def forget_runs(self) -> None:
        """An hour after the last change, once no message of it is there."""
        there = [*self.messages.values(), *self.ghosts]  # type: ignore[attr-defined]
        for run_id in list(self.runs):
            members = self.runs[run_id]["members"]
            if self.runs[run_id]["changed"] + HOUR <= self.clock and not any(
                members.get(m["number"]) is m for m in there
            ):
                del self.runs[run_id]

    def gone(self, m: dict[str, Any]) -> None:
        """The sweep has come by: an unfinished message that was purged, or deleted with its queue, is cancelled."""
        ended = None
        if m["state"] == "leased":
            ended = {"attempt": m["attempt"], "consumer": m["lease"]["consumer"]}
        m["state"] = "cancelled"
        self.note(m, ended, m["gone"])

    # --- commands ---------------------------------------------------------------------------------------

    def run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.runs:
            raise self.refused("run_not_found")  # type: ignore[attr-defined]
        return self.runs[run_id]

    def do_AppendRunEvents(self, c: Any) -> Any:
        run = self.run(c.run_id)
        answers = []
        for new in c.events:
            known = [e for e in run["events"] if new.event_id is not None and e["event_id"] == new.event_id]
            if known:
                answers.append((known[0]["id"], True))
            else:
                answers.append((self.add(run, new.type, new.data, new.event_id), False))
        return ("appended", answers)

    def do_ReplayRun(self, c: Any) -> Any:
        run = self.run(c.run_id)
        there = {n: m for n, m in self.messages.items() if run["members"].get(n) is m}  # type: ignore[attr-defined]
        every = list(there.values())
        swept_later = [m for m in self.ghosts if run["members"].get(m["number"]) is m]  # type: ignore[attr-defined]
        replayed = {m["replay_of"]: m["number"] for m in [*every, *swept_later] if m["replay_of"] is not None}
        of_step = [m for m in [*every, *swept_later, *self.unswept(run)] if self.in_step(m, c.step_id)]
        if not of_step and c.step_id is not None:
            raise self.refused("step_not_found")  # type: ignore[attr-defined]
        numbers = iter(self.hints.numbers)  # type: ignore[attr-defined]
        made: list[tuple[int, int]] = []
        for number in sorted(there):
            m = there[number]
            if len(made) == c.limit:
                break
            if m["state"] in UNFINISHED or number in replayed or not self.in_step(m, c.step_id):
                continue
            found = self.flow_of(number)  # type: ignore[attr-defined]
            of_saga = m["origin"] is not None and m["origin"][0] in ("saga", "compensation")
            if of_saga or (found is not None and (found[0]["saga"] or found[2])):
                continue
            code = self.no_room(m)
            if code is not None:
                if not made:
                    raise self.refused(code)  # type: ignore[attr-defined]
                break
            again = next(numbers)
            self.replay_one(m, again, replayed)
            made.append((again, number))
        return ("replayed", made)

    def parents_of_replay(self, m: dict[str, Any]) -> dict[str, Any] | None:
        """The results of what a replayed step waited for, by step."""
        extras = m["draft"].extras
        if m["replay_of"] is None or extras is None or not extras.depends_on:
            return None
        there = [self.messages[n] for n in extras.depends_on if n in self.messages]  # type: ignore[attr-defined]
        named = [parent for parent in there if parent["draft"].extras is not None]
        return {
            parent["draft"].extras.step_id: parent["result"]
            for parent in named
            if parent["draft"].extras.step_id is not None
        }

    def in_step(self, m: dict[str, Any], step_id: str | None) -> bool:
        return step_id is None or m["draft"].extras.step_id == step_id

    def unswept(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Finished messages that a purge has taken and no sweep has removed yet: their step is known."""
        return [m for m in self.finished_ghosts if run["members"].get(m["number"]) is m]  # type: ignore[attr-defined]

    def no_room(self, m: dict[str, Any]) -> str | None:
        queue = self.queues[m["queue"]]  # type: ignore[attr-defined]
        if queue["paused_enqueue"]:
            return "queue_paused"
        live = self.of(queue, *UNFINISHED)  # type: ignore[attr-defined]
        most, size = queue["config"]["max_messages"], queue["config"]["max_bytes"]
        if most is not None and len(live) >= most:
            return "queue_full"
        held = sum(self.size(other) for other in [*live, m])
        return "queue_full" if size is not None and held > size else None

    def size(self, m: dict[str, Any]) -> int:
        headers = m["draft"].headers or {}
        return len(m["draft"].body) + sum(len(k.encode()) + len(v.encode()) for k, v in headers.items())

    def replay_one(self, m: dict[str, Any], number: int, replayed: dict[int, int]) -> None:
        """Due at once, without its key; it waits for the newest replay of what it depended on."""
        newest: list[int] = []
        for dependency in m["draft"].extras.depends_on:
            while dependency in replayed:
                dependency = replayed[dependency]
            there = self.messages.get(dependency)  # type: ignore[attr-defined]
            if there is not None and there["state"] not in ("dead", "cancelled") and dependency not in newest:
                newest.append(dependency)
        extras = m["draft"].extras
        fields = {name: getattr(m["draft"], name) for name in DRAFT}
        fields.update(
            priority=m["priority"], delay_ms=0, deliver_at_ms=None, key=None, key_window_ms=None,
            extras=SimpleNamespace(
                **{name: getattr(extras, name) for name in extras.__struct_fields__} if hasattr(extras, "__struct_fields__")
                else vars(extras),
            ),
        )  # fmt: skip
        fields["extras"].depends_on = tuple(newest)
        replayed[m["number"]] = number
        queue = self.queues[m["queue"]]  # type: ignore[attr-defined]
        self.create(queue, SimpleNamespace(**fields), number, (), m["number"])  # type: ignore[attr-defined]
