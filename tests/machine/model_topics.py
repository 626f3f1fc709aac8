"""The model's topics: what is published is kept for a time and becomes a message in each group (R28)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.machine.model import CONFIG, DEAD, READY, UNFINISHED, Refused, plain_backoff, size_of
from tests.machine.model_flows import copied

HOUR = 3_600_000
GROUPS, FAN_OUT, TRIMMED_AT_ONCE = 64, 4096, 1000


class Topics:
    """Mixed into the model; a group is one of its queues, of the name `topic:group`."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: dict[str, dict[str, Any]] = {}
        self.owing: list[dict[str, Any]] = []  # groups that catch up, in the order in which they began

    def topic(self, name: str) -> dict[str, Any]:
        if name not in self.topics:
            raise Refused("topic_not_found")
        return self.topics[name]

    def group(self: Any, c: Any) -> tuple[dict[str, Any], str]:
        topic = self.topic(c.topic)
        name = f"{c.topic}:{c.group}"
        if name not in topic["groups"]:
            raise Refused("group_not_found")
        return topic, name

    # --- what is otherwise with the queue of a group ----------------------------------------------------

    def not_a_group(self, name: str) -> None:
        if ":" in name:
            raise Refused("invalid_argument")

    def do_PutQueue(self, c: Any) -> Any:
        self.not_a_group(c.name)
        return super().do_PutQueue(c)  # type: ignore[misc]

    def do_DeleteQueue(self: Any, c: Any) -> Any:
        self.not_a_group(self.queue(c.name)["name"])
        return super().do_DeleteQueue(c)

    def do_Enqueue(self, c: Any) -> Any:
        self.not_a_group(c.queue)
        return super().do_Enqueue(c)  # type: ignore[misc]

    def queue_or_new(self, name: str, auto_create: bool) -> Any:
        self.not_a_group(name)
        return super().queue_or_new(name, auto_create)  # type: ignore[misc]

    def create(self, queue: Any, draft: Any, number: int, acked: Any, replay_of: Any = None) -> Any:
        """A key is the topic's."""
        own = copied(draft, key=None) if ":" in queue["name"] else draft
        m = super().create(queue, own, number, acked, replay_of)  # type: ignore[misc]
        m["draft"] = draft
        return m

    # --- topics -----------------------------------------------------------------------------------------

    def do_PutTopic(self: Any, c: Any) -> Any:
        new = c.name not in self.topics
        if new:
            self.topics[c.name] = {"name": c.name, "kept": [], "next": 0, "keys": {}, "groups": []}
        self.topics[c.name].update(ms=c.retention_ms, count=c.retention_messages)
        self.trim(self.topics[c.name], TRIMMED_AT_ONCE)
        return ("topic", c.name, new)

    def do_DeleteTopic(self: Any, c: Any) -> Any:
        topic = self.topic(c.name)
        removed = sum(self.drop_group(topic, name) for name in list(topic["groups"]))
        del self.topics[c.name]
        return ("done", removed)

    # --- groups -----------------------------------------------------------------------------------------

    def do_PutGroup(self: Any, c: Any) -> Any:
        topic, name = self.topic(c.topic), f"{c.topic}:{c.group}"
        self.check_revision(name, c.if_revision)
        config = {field: getattr(c.config, field) for field in CONFIG}
        config["backoff"] = plain_backoff(c.config.backoff)
        if name in self.queues:
            queue = self.queues[name]
            changed = queue["config"] != config
            queue["config"] = config
            return ("group", *self.saved(queue, False, changed)[1:], 0)
        if len(topic["groups"]) == GROUPS:
            raise Refused("too_many_groups")
        start = self.start(topic, c)
        self.queues[name] = self.new_queue(name, config)
        topic["groups"].append(name)
        self.begin(topic, name, start, c.inline, had=-1)
        return ("group", name, True, self.queues[name]["revision"], topic["next"] - start)

    def do_DeleteGroup(self: Any, c: Any) -> Any:
        topic, name = self.group(c)
        self.check_revision(name, c.if_revision)
        return ("done", self.drop_group(topic, name))

    def drop_group(self: Any, topic: dict[str, Any], name: str) -> int:
        topic["groups"].remove(name)
        self.owing = [each for each in self.owing if each["group"] != name]
        removed: int = super().do_DeleteQueue(SimpleNamespace(name=name, if_revision=None))[1]
        return removed

    def do_ReplayGroup(self: Any, c: Any) -> Any:
        topic, name = self.group(c)
        start = self.start(topic, c)
        self.begin(topic, name, start, c.inline, had=topic["next"] - 1)
        more = any(each["group"] == name for each in self.owing)
        return ("replayed_group", topic["next"] - start, start, more)

    def start(self, topic: dict[str, Any], c: Any) -> int:
        """The first offset asked for that is kept."""
        kept = topic["kept"]
        if c.from_at_ms is not None:
            return next((e["offset"] for e in kept if e["at"] >= c.from_at_ms), topic["next"])
        if c.from_offset is None:
            return topic["next"]
        if c.from_offset > topic["next"]:
            raise Refused("invalid_argument")
        return max(c.from_offset, topic["next"] - len(kept))

    # --- catching up ------------------------------------------------------------------------------------

    def begin(self: Any, topic: dict[str, Any], name: str, start: int, inline: int, had: int) -> None:
        """`had`: the last offset that the group has had before."""
        for owed in self.owing:
            if owed["group"] == name:
                owed["had"] = max(owed["had"], owed["at"] - 1)
                owed["at"] = min(owed["at"], start)
                break
        else:
            if start == topic["next"]:
                return
            owed = {"topic": topic["name"], "group": name, "at": start, "had": had}
            self.owing.append(owed)
        self.go_on(owed, inline)

    def go_on(self: Any, owed: dict[str, Any], most: int) -> None:
        topic = self.topics[owed["topic"]]
        entries = [entry for entry in topic["kept"] if entry["offset"] >= owed["at"]][:most]
        assert [e["offset"] for e in entries] == list(range(owed["at"], owed["at"] + len(entries))), "a gap"
        for entry in entries:
            self.deliver(owed["group"], entry, again=entry["offset"] <= owed["had"])
            owed["at"] += 1
        if owed["at"] == topic["next"]:
            self.owing.remove(owed)
            self.trim(topic, len(entries))

    def catch_up(self: Any) -> None:
        """All that is owed, with `Expire`."""
        for owed in list(self.owing):
            self.go_on(owed, 10**9)
        for topic in self.topics.values():
            self.trim(topic, 10**9)
            topic["keys"] = {key: k for key, k in topic["keys"].items() if k["ends"] > self.clock}

    # --- publishing -------------------------------------------------------------------------------------

    def do_Publish(self: Any, c: Any) -> Any:
        topic = self.topic(c.topic)
        offsets: list[int] = []
        fresh: list[Any] = []
        for draft in c.drafts:
            key = topic["keys"].get(draft.key)
            if draft.key is None or key is None or key["ends"] <= self.clock:
                here = [at for at, other in fresh if draft.key is not None and other.key == draft.key]
                if not here:
                    offsets.append(topic["next"] + len(fresh))
                    fresh.append((offsets[-1], draft))
                    continue
                key = {"offset": here[0], "body": self.fingerprint(fresh[here[0] - topic["next"]][1])}
            if key["body"] != self.fingerprint(draft):
                raise Refused("idempotency_conflict")
            offsets.append(key["offset"])
        if any(draft.extras is not None and draft.extras.depends_on for draft in c.drafts):
            raise Refused("invalid_argument")
        if len(fresh) * len(topic["groups"]) > FAN_OUT:
            raise Refused("batch_too_large")
        new = [self.keep(topic, draft) for _, draft in fresh]
        behind = [owed["group"] for owed in self.owing]
        groups = [name for name in topic["groups"] if name not in behind] if new else []
        numbers = [[self.deliver(name, entry, again=False) for entry in new] for name in groups]
        self.trim(topic, 2 * len(new))
        first = [at for at, _ in fresh]
        duplicates = [n for n, offset in enumerate(offsets) if offset not in first or offset in offsets[:n]]
        return ("published", offsets, duplicates, [name.partition(":")[2] for name in groups], numbers)

    def keep(self: Any, topic: dict[str, Any], draft: Any) -> dict[str, Any]:
        offset = topic["next"]
        topic["next"] += 1
        extras = copied(draft.extras or self.hints.no_extras, topic=topic["name"], offset=offset)
        entry = {"offset": offset, "at": self.clock, "draft": copied(draft, extras=extras)}
        topic["kept"].append(entry)
        if draft.key is not None:
            window = HOUR if draft.key_window_ms is None else draft.key_window_ms
            topic["keys"][draft.key] = {
                "offset": offset, "body": self.fingerprint(draft), "ends": self.clock + window
            }  # fmt: skip
        return entry

    def deliver(self: Any, name: str, entry: dict[str, Any], again: bool) -> int:
        """Never refused: the group gives up its longest ready, or has the new one as a dead letter at once."""
        queue, draft = self.queues[name], entry["draft"]
        fits = self.make_room_in(queue, size_of(draft))
        due = draft.deliver_at_ms if draft.deliver_at_ms is not None else entry["at"] + draft.delay_ms
        m = self.create(queue, copied(draft, deliver_at_ms=due), self.hints.numbers.pop(0), ())
        m["origin"] = ("topic_replay", name) if again else None
        if not fits:
            self.finish(m, DEAD, "queue_full")
        number: int = m["number"]
        return number

    def make_room_in(self: Any, queue: dict[str, Any], size: int) -> bool:
        config = queue["config"]

        def too_much(messages: list[dict[str, Any]]) -> bool:
            held = sum(size_of(m["draft"]) for m in messages) + size
            most, most_bytes = config["max_messages"], config["max_bytes"]
            return (most is not None and len(messages) + 1 > most) or (
                most_bytes is not None and held > most_bytes
            )

        if too_much([m for m in self.of(queue, *UNFINISHED) if m["state"] != READY]):
            return False
        while too_much(self.of(queue, *UNFINISHED)):
            self.finish(min(self.of(queue, READY), key=lambda m: m["place"]), DEAD, "queue_full")
        return True

    # --- retention --------------------------------------------------------------------------------------

    def trim(self: Any, topic: dict[str, Any], most: int) -> None:
        """What is over goes, the oldest first; nothing while a group of it is behind."""
        if any(owed["topic"] == topic["name"] for owed in self.owing):
            return
        for _ in range(most):
            kept = topic["kept"]
            over = kept and (len(kept) > topic["count"] or kept[0]["at"] + topic["ms"] <= self.clock)
            if not over:
                return
            kept.pop(0)
