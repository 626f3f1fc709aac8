"""Topics in the simulation: what clients do with them, and what the log must never show of them.

`t1` keeps everything, and its two groups forget nothing: each must get each offset once, and again only by a replay.
`t2` and its groups are made, changed, filled up, replayed in small pieces and deleted all the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.queue_facts import Fact, Keys, Queues
from tests.simulation.queue_flows import FlowActs
from tests.simulation.world import World
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.machine.state import Message

STEADY_GROUPS = ("t1:g1", "t1:g2")
WILD_GROUPS = ("t2:g1", "t2:g2")
EVER_MS = 10**9


class TopicActs(FlowActs):
    known: set[int]
    _draft: Callable[[str], c.Draft]
    _wild_config: Callable[[], c.QueueConfig]
    lease_from: Callable[[tuple[str, ...], int, int], None]

    def make_topics(self, endless: c.QueueConfig, mortal: c.QueueConfig) -> None:
        self.call(c.PutTopic("t1", EVER_MS, 10**6))
        self.call(c.PutTopic("t2", 500, 5))
        self.flush()
        self.call(c.PutGroup("t1", "g1", endless))
        self.call(c.PutGroup("t1", "g2", mortal))
        self.call(c.PutGroup("t2", "g1", self._wild_config()))
        self.flush()

    def _topic(self) -> None:
        kinds = (self._publish,) * 6 + (self._replay, self._of_groups, self._wild_topic)
        self.rng.choice(kinds)()

    def _publish(self) -> None:
        rng = self.rng
        topic = rng.choice(("t1", "t1", "t2"))
        drafts = []
        for _ in range(rng.choice((1, 1, 1, 4))):
            draft = self._draft("q1" if topic == "t1" else "w1")
            drafts.append(c.Draft(draft.body, priority=draft.priority, delay_ms=draft.delay_ms, ttl_ms=draft.ttl_ms,
                                  group=draft.group, key=draft.key))  # fmt: skip

        def published(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.Published):
                self.world.count("messages published", len(reply.offsets))
                for group, numbers in zip(reply.groups, reply.numbers, strict=True):
                    queue = f"{topic}:{group}"
                    if queue in STEADY_GROUPS:
                        self.known.update(numbers)
                        self.numbers["q1"] = [*self.numbers["q1"], *numbers][-30:]

        self.call(c.Publish(topic, tuple(drafts)), published)

    def _replay(self) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            self.call(c.ReplayGroup("t1", rng.choice(("g1", "g2")), None, rng.choice((0, 3, 10))))
        else:
            place = rng.choice(((None, 0), (None, 2), (0, None)))
            self.call(c.ReplayGroup("t2", rng.choice(("g1", "g2")), *place, rng.choice((1, 2, 1000))))

    def _of_groups(self) -> None:
        name = self.rng.choice((*STEADY_GROUPS, *STEADY_GROUPS, *WILD_GROUPS))
        if self.rng.random() < 0.2:
            self.call(c.Redrive("t1:g2"))
        else:
            self.lease_from((name,), self.rng.choice((1, 3)), 1500)

    def _wild_topic(self) -> None:
        rng = self.rng
        group = rng.choice(("g1", "g2"))
        place = rng.choice(((None, None), (None, 0), (0, None)))
        commands: tuple[c.Command, ...] = (
            c.PutTopic("t2", rng.choice((300, 5000)), rng.choice((0, 3, 20))),
            c.PutGroup("t2", group, self._wild_config(), None, *place, rng.choice((1, 1000))),
            c.PutGroup("t2", group, self._wild_config(), None, *place, rng.choice((1, 1000))),
            c.PatchQueue(f"t2:{group}", {"max_messages": rng.choice((None, 2, 5))}),
            c.PurgeQueue(f"t2:{group}"),
            rng.choice((c.DeleteGroup("t2", group), c.DeleteTopic("t2"))),
        )
        self.call(rng.choice(commands))


@dataclass
class TopicFact:
    """One topic since it was made: what was published at each offset, and when."""

    published: list[c.Draft] = field(default_factory=list)
    at_ms: list[int] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)  # queue name → the first offset it is to get


class TopicLaws:
    """`look` gives a message as the first node has it: what the worker sees in its lease."""

    def __init__(self, world: World, facts: dict[int, Fact], queues: Queues, keys: Keys) -> None:
        self.world, self.facts, self.queues, self.keys = world, facts, queues, keys
        self.topics: dict[str, TopicFact] = {}
        self.at: dict[int, tuple[str, int]] = {}  # message → its queue and offset
        self.firsts: dict[tuple[str, int], int] = {}  # queue and offset → the message that came first
        self.owed: dict[tuple[str, int], list[int]] = defaultdict(
            list
        )  # of t1: ranks of what is to come again
        self.look: Callable[[int], Message | None] = lambda number: None
        self.new_rank: Callable[[], int] = lambda: 0

    def judge(self, index: int, clock_ms: int, command: c.Command, reply: r.Reply) -> bool:
        """Whether this was about topics."""
        match command, reply:
            case c.PutTopic(), r.TopicSaved():
                if reply.created:
                    self.topics[command.name] = TopicFact()
            case c.PutGroup(), r.GroupSaved():
                self.queues.put(reply.name, command.config)
                topic = self.topics[command.topic]
                if reply.created:
                    topic.groups[reply.name] = len(topic.published) - reply.replayed
            case c.DeleteGroup(), r.Done():
                self._forget(self.topics[command.topic], f"{command.topic}:{command.group}")
            case c.DeleteTopic(), r.Done():
                topic = self.topics.pop(command.name)
                for name in list(topic.groups):
                    self._forget(topic, name)
                self.keys.forget_queue(command.name)
            case c.Publish(), r.Published():
                self._published(index, clock_ms, command, reply)
            case c.ReplayGroup(), r.Replayed():
                self._replayed(index, clock_ms, command, reply)
            case _:
                return False
        return True

    def _forget(self, topic: TopicFact, queue: str) -> None:
        """A group that is gone, and may come again."""
        del topic.groups[queue]
        for pair in [pair for pair in self.firsts if pair[0] == queue]:
            del self.firsts[pair]

    def _published(self, index: int, clock_ms: int, command: c.Publish, reply: r.Published) -> None:
        topic = self.topics[command.topic]
        fresh = [at for at in range(len(command.drafts)) if at not in reply.duplicates]
        what = f"publish to {command.topic} at {index}"
        first = len(topic.published)
        if [reply.offsets[at] for at in fresh] != list(range(first, first + len(fresh))):
            self.world.violate("offsets are dense", f"{what}: {reply.offsets} from {first}")
        topic.published += [command.drafts[at] for at in fresh]
        topic.at_ms += [clock_ms] * len(fresh)
        for at, draft in enumerate(command.drafts):
            if draft.key is not None:
                window = 3_600_000 if draft.key_window_ms is None else draft.key_window_ms
                other = self.keys.bind(command.topic, draft.key, reply.offsets[at], clock_ms, window)
                if other is not None:
                    self.world.violate("key", f"{what}: {draft.key} is {other} and {reply.offsets[at]}")
        self.world.count("duplicates by a topic's key", len(reply.duplicates))
        reached = [f"{command.topic}:{group}" for group in reply.groups]
        left_out = [name for name in topic.groups if name not in reached] if fresh else []
        if left_out and command.topic == "t1":
            self.world.violate("every group at once", f"{what} left out {left_out}")
        if left_out:
            self.world.count("publishes while a group caught up")
        for queue, numbers in zip(reached, reply.numbers, strict=True):
            for at, number in zip(fresh, numbers, strict=True):
                self._made(
                    what, queue, reply.offsets[at], number, command.drafts[at], self.new_rank(), clock_ms
                )

    def _made(
        self, what: str, queue: str, offset: int, number: int, draft: c.Draft, rank: int, clock_ms: int
    ) -> None:
        if number in self.facts:
            self.world.violate("number", f"{number} given twice, {what}")
        if (other := self.firsts.setdefault((queue, offset), number)) != number:
            self.world.violate(
                "delivered once", f"{what}: offset {offset} in {queue} is {other} and {number}"
            )
        self.at[number] = queue, offset
        ttl = draft.ttl_ms if draft.ttl_ms is not None else self.queues.config(queue).ttl_ms
        due = draft.deliver_at_ms if draft.deliver_at_ms is not None else clock_ms + draft.delay_ms
        self.facts[number] = Fact(queue, draft, rank, due, ttl is not None)

    def _replayed(self, index: int, clock_ms: int, command: c.ReplayGroup, reply: r.Replayed) -> None:
        topic = self.topics[command.topic]
        if reply.from_offset + reply.count != len(topic.published):
            self.world.violate("replay to the end", f"at {index}: {reply} of {len(topic.published)}")
        if command.topic != "t1":
            return
        # Clocks that jump by a year make even its entries old.
        kept = sum(at_ms + EVER_MS > clock_ms for at_ms in topic.at_ms[command.from_offset or 0 :])
        if reply.more or (command.from_offset is not None and reply.count < kept):
            self.world.violate("replay of all that is kept", f"{command} at {index}: {reply}")
        queue = f"{command.topic}:{command.group}"
        for offset in range(reply.from_offset, len(topic.published)):
            self.owed[queue, offset].append(self.new_rank())
        self.world.count("replayed", reply.count)

    def granted(self, what: str, number: int) -> None:
        """Known by number: it is what was published at its offset."""
        if number in self.at:
            _, offset = self.at[number]
            message = self.look(number)
            extras = None if message is None else message.draft.extras
            if message is not None and (extras is None or extras.offset != offset):
                self.world.violate("another offset", f"{what}: {extras}, published at {offset}")

    def is_unknown(self, number: int) -> bool:
        """It came by catching up: no answer named it."""
        message = self.look(number)
        return message is not None and ":" in message.queue.name

    def unknown_granted(self, what: str, number: int) -> Fact:
        message = self.look(number)
        assert message is not None and message.draft.extras is not None
        extras, queue = message.draft.extras, message.queue.name
        assert extras.topic is not None and extras.offset is not None
        published = self.topics[extras.topic].published
        again = message.origin is not None and message.origin[0] == "topic_replay"
        if extras.offset >= len(published) or published[extras.offset].body != message.draft.body:
            self.world.violate("delivered from nowhere", f"{what}: offset {extras.offset} of {extras.topic}")
        rank = 0
        if queue in STEADY_GROUPS:
            owed = self.owed[queue, extras.offset]
            if not owed or not again:
                self.world.violate("delivered once", f"{what}: offset {extras.offset} of {queue} once more")
            rank = owed.pop(0)
        elif not again and (queue, extras.offset) in self.firsts:
            self.world.violate("delivered once", f"{what}: offset {extras.offset} of {queue} is new twice")
        elif not again:
            self.firsts[queue, extras.offset] = number
        self.world.count("caught up")
        return Fact(queue, message.draft, rank, 0, True)

    def close(self) -> None:
        """Everything has drained: each group of t1 has had each offset, and each replay came."""
        topic = self.topics.get("t1", TopicFact())
        for queue, start in topic.groups.items():
            missing = [n for n in range(start, len(topic.published)) if (queue, n) not in self.firsts]
            if missing:
                self.world.violate("every group gets every offset", f"{queue} never got {missing[:9]}")
        left = {pair: ranks for pair, ranks in self.owed.items() if ranks}
        if left:
            self.world.violate("every replay comes", f"still to come: {sorted(left)[:9]}")
        self.owed.clear()
