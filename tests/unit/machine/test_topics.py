"""Topics: publishing to every group at once (R28), keys, groups and where they start, deleting."""

from __future__ import annotations

from typing import Any

import pytest

from tests.machine.harness import rebuilt
from tests.unit.machine.kit import Kit, code, derived, dump, rebuild, token
from trivet.limits import FAN_OUT_MAX, GROUPS_PER_TOPIC_MAX, QUEUES_MAX, TOPICS_MAX
from trivet.machine import commands as c
from trivet.machine import invariants, publishing, topic_views, views
from trivet.machine.replies import Done, GroupSaved, Published, Refusal, Replayed, TopicSaved


class Topics(Kit):
    """A kit with the topic `t`."""

    inline = 1000

    def __init__(self, *groups: str, retention_ms: int = 86_400_000, retention_messages: int = 1000) -> None:
        super().__init__()
        self(c.PutTopic("t", retention_ms, retention_messages))
        for group in groups:
            self.group(group)

    def group(
        self, name: str, from_offset: int | None = None, from_at_ms: int | None = None, **config: Any
    ) -> Any:
        return self(
            c.PutGroup("t", name, c.QueueConfig(**config), None, from_at_ms, from_offset, self.inline)
        )

    def publish(self, *drafts: c.Draft | str) -> Any:
        made = tuple(c.Draft(f'"{draft}"'.encode()) if isinstance(draft, str) else draft for draft in drafts)
        return self(c.Publish("t", made))

    def replay(self, group: str, from_offset: int | None = None, from_at_ms: int | None = None) -> Any:
        return self(c.ReplayGroup("t", group, from_at_ms, from_offset, self.inline))

    def offsets(self, group: str) -> list[int]:
        """Of what is to be leased, in the order of delivery; takes it."""
        found = []
        for grant in self.lease(1000, f"t:{group}"):
            message = self.m.find(grant.message)
            assert message is not None and message.draft.extras is not None
            assert message.draft.extras.topic == "t" and message.draft.extras.offset is not None
            found.append(message.draft.extras.offset)
        return found

    def kept(self) -> list[int]:
        return [entry.offset for entry in self.m.topics["t"].entries.after(-1)]

    def __call__(self, command: c.Command) -> Any:
        reply = super().__call__(command)
        assert not invariants.check(self.m)
        return reply


# --- publishing ---------------------------------------------------------------------------------------


def test_r28_a_publish_reaches_every_group_in_one_command() -> None:
    kit = Topics("a", "b")
    assert kit.publish("x") == Published((0,), (), ("a", "b"), ((4,), (5,)))
    assert kit.publish("y", "z") == Published((1, 2), (), ("a", "b"), ((6, 7), (8, 9)))
    assert list(kit.hints.ready) == ["t:a", "t:b"]
    assert kit.offsets("a") == [0, 1, 2]
    assert kit.offsets("b") == [0, 1, 2]


def test_the_messages_of_one_entry_share_its_draft_also_after_a_snapshot() -> None:
    kit = Topics("a", "b")
    reply = kit.publish("x", c.Draft(b"1", group="g", key="k", delay_ms=5))
    for m in (kit.m, rebuild(dump(kit.m)), rebuilt(kit.m)):
        for at, entry in enumerate(m.topics["t"].entries.after(-1)):
            drafts = [m.messages[numbers[at]].draft for numbers in reply.numbers]
            assert all(draft is entry.draft for draft in drafts)


def test_what_a_message_says_of_itself_holds_in_each_group() -> None:
    kit = Topics("a", "b")
    kit.publish(
        c.Draft(
            b"1", priority=5, delay_ms=100, headers={"h": "v"}, extras=c.Extras(max_attempts=1, lease_ms=77)
        ),
        c.Draft(b"2", ttl_ms=50),
        c.Draft(b"3", group="g"),
        c.Draft(b"4", group="g"),
    )
    for group in "ab":
        assert kit.offsets(group) == [1, 2]  # 0 is delayed, 3 waits behind 2
    kit.pass_ms(100)
    grants = [*kit.lease(5, "t:a"), *kit.lease(5, "t:b")]
    assert len(grants) == 2
    for grant in grants:
        shown = views.leased(kit.m, grant.fence)
        assert shown is not None
        assert (shown["topic"], shown["offset"], shown["priority"], shown["headers"]) == (
            "t",
            0,
            5,
            {"h": "v"},
        )
        assert grant.lease_expires_at_ms == kit.now + 77
    kit.pass_ms(77)
    assert [kit.state(grant.message) for grant in grants] == ["dead", "dead"]
    kit.pass_ms(30_000)  # the other leases end: offset 1 is past its ttl
    for group in "ab":
        assert kit.counts(f"t:{group}") == {"ready": 2, "dead": 2}


def test_a_topic_that_is_not_there_and_a_message_that_depends() -> None:
    kit = Topics()
    assert code(kit(c.Publish("other", (c.Draft(),)))) == "topic_not_found"
    refused = kit.publish(c.Draft(), c.Draft(extras=c.Extras(depends_on=(1,))))
    assert (refused.code, refused.field) == ("invalid_argument", "/messages/1/depends_on")
    assert kit.kept() == []


def test_without_a_group_entries_are_only_kept() -> None:
    kit = Topics()
    assert kit.publish("x", "y") == Published((0, 1))
    assert kit.kept() == [0, 1]
    assert not len(kit.m.messages)


@pytest.mark.parametrize("groups", [1, 5, 64])
def test_r28_a_batch_times_the_groups_is_limited(groups: int) -> None:
    kit = Topics(*(f"g{n}" for n in range(groups)))
    most = FAN_OUT_MAX // groups
    assert isinstance(kit.publish(*["x"] * most), Published)
    refused = kit.publish(*["x"] * (most + 1))
    assert (refused.code, refused.limit) == ("batch_too_large", FAN_OUT_MAX)
    assert f"at most {most} messages" in refused.detail
    assert kit.m.topics["t"].next_offset == most


def test_duplicates_do_not_count_against_the_limit_of_a_batch() -> None:
    kit = Topics(*(f"g{n}" for n in range(64)))
    kit.publish(c.Draft(key="k"))
    drafts = [c.Draft() for _ in range(64)]
    assert isinstance(kit.publish(*drafts, c.Draft(key="k")), Published)
    assert code(kit.publish(*drafts, c.Draft(key="new"))) == "batch_too_large"


# --- keys (R16) ---------------------------------------------------------------------------------------


def test_r16_a_key_answers_the_first_offset_while_its_window_lasts() -> None:
    kit = Topics("a")
    kit.publish("before")
    assert kit.publish(c.Draft(b"1", key="k", key_window_ms=1000)).offsets == (1,)
    again = kit.publish(c.Draft(b"1", key="k"), c.Draft(b"2"))
    assert (again.offsets, again.duplicates, again.numbers) == ((1, 2), (0,), ((6,),))
    assert code(kit.publish(c.Draft(), c.Draft(b"other", key="k"))) == "idempotency_conflict"
    only = kit.publish(c.Draft(b"1", key="k"))
    assert only == Published((1,), (0,))
    kit.pass_ms(999)
    assert kit.publish(c.Draft(b"1", key="k")).duplicates == (0,)
    kit.now += 1
    assert kit.publish(c.Draft(b"other", key="k", key_window_ms=0)) == Published((3,), (), ("a",), ((8,),))
    assert kit.publish(c.Draft(b"third", key="k")).offsets == (4,)  # its window was over at once
    assert kit.offsets("a") == [0, 1, 2, 3, 4]
    assert len(kit.m.topics["t"].keys) == 1
    kit.pass_ms(3_600_000)
    assert not len(kit.m.topics["t"].keys)


def test_r16_in_a_batch_the_first_of_equal_keys_wins_and_one_conflict_refuses_all() -> None:
    kit = Topics("a")
    reply = kit.publish(c.Draft(b"1", key="k"), c.Draft(b"2"), c.Draft(b"1", key="k"))
    assert (reply.offsets, reply.duplicates) == ((0, 1, 0), (2,))
    refused = kit.publish(c.Draft(b"3"), c.Draft(b"4", key="j"), c.Draft(b"5", key="j"))
    assert (refused.code, refused.field) == ("idempotency_conflict", "/messages/2/idempotency_key")
    assert kit.kept() == [0, 1]


def test_a_key_is_the_topics_and_no_groups() -> None:
    kit = Topics("a")
    kit.publish(c.Draft(b"1", key="k"))
    kit.queue("other")
    (grant,) = kit.lease(1, "t:a")
    assert views.leased(kit.m, grant.fence)["idempotency_key"] == "k"  # type: ignore[index]
    kit.nack(grant, dead_letter=True)
    assert kit(c.Redrive("t:a")).ids == (grant.message,)
    assert not len(kit.m.queues["t:a"].keys)
    (grant,) = kit.lease(1, "t:a")
    kit.nack(grant, dead_letter=True)
    assert kit(c.Redrive("t:a", to="other")).ids == (grant.message,)
    assert sorted(kit.m.queues["other"].keys) == ["k"]  # there it is a message like any other


def test_r16_the_cap_of_keys_refuses_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "KEYS_PER_QUEUE_MAX", 2)
    kit = Topics("a")
    assert code(kit.publish(*(c.Draft(key=key) for key in "abc"))) == "queue_full"
    kit.publish(c.Draft(key="a"), c.Draft(key="b", key_window_ms=10))
    refused = kit.publish(c.Draft(), c.Draft(key="c"))
    assert (refused.code, refused.field, refused.limit) == ("queue_full", "/messages/1/idempotency_key", 2)
    assert kit.publish(c.Draft(), c.Draft(key="a")).duplicates == (1,)
    kit.pass_ms(10)
    assert isinstance(kit.publish(c.Draft(key="c")), Published)


# --- full and paused groups (R28) ---------------------------------------------------------------------


@pytest.mark.parametrize("on_full", ["reject", "dead_letter_oldest"])
def test_r28_a_full_group_dead_letters_its_oldest_and_the_others_do_not_notice(on_full: str) -> None:
    kit = Topics("wide")
    kit.group("tight", max_messages=2, on_full=on_full)
    kit.publish("0", "1")
    kit.publish("2", "3", "4")
    assert kit.counts("t:tight") == {"ready": 2, "dead": 3}
    assert kit.offsets("tight") == [3, 4]
    dead, _ = views.dead(kit.m, "t:tight", 10) or ([], None)
    assert [(each["offset"], each["dead_reason"]) for each in dead] == [(n, "queue_full") for n in range(3)]
    assert kit.offsets("wide") == [0, 1, 2, 3, 4]


def test_r28_where_nothing_is_ready_the_new_one_is_dead_lettered() -> None:
    kit = Topics()
    kit.group("a", max_messages=2)
    kit.publish("0", c.Draft(delay_ms=1000))
    held = kit.lease(5, "t:a")
    kit.publish("2", "3")
    assert kit.counts("t:a") == {"leased": 1, "delayed": 1, "dead": 2}
    kit.ack(*held)
    kit.publish("4")
    assert kit.counts("t:a") == {"ready": 1, "delayed": 1, "dead": 2}
    assert kit(c.Redrive("t:a")).code == "queue_full"


def test_r28_bytes_make_room_likewise_and_what_never_fits_displaces_nothing() -> None:
    kit = Topics()
    kit.group("a", max_bytes=6)
    kit.publish(c.Draft(b"1"), c.Draft(b"22"), c.Draft(b"333"))
    kit.publish(c.Draft(b"55555"))
    assert kit.counts("t:a") == {"ready": 1, "dead": 3}
    kit.publish(c.Draft(b"7777777"))
    assert kit.counts("t:a") == {"ready": 1, "dead": 4}
    assert kit.offsets("a") == [3]


def test_r25_one_command_displaces_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing.intake, "DISPLACE_MAX", 3)
    kit = Topics()
    kit.group("a", max_bytes=8)
    kit.publish(*(c.Draft(b"1") for _ in range(8)))
    kit.publish(c.Draft(b"55555"))
    assert kit.counts("t:a") == {"ready": 5, "dead": 4}  # three went, and it still did not fit


def test_r28_a_pause_of_enqueue_does_not_hold_a_publish_up() -> None:
    kit = Topics("a")
    kit(c.PauseQueue("t:a", enqueue=True))
    kit.publish("0", "1")
    assert kit.replay("a", from_offset=1) == Replayed(1, 1)
    assert kit.offsets("a") == [0, 1, 1]


# --- the queue of a group -----------------------------------------------------------------------------


def test_a_groups_queue_takes_nothing_but_what_is_published() -> None:
    kit = Topics("a")
    kit.queue("q")
    kit.publish("x")
    before = dump(kit.m)["queues"]
    for command, field in (
        (c.Enqueue("t:a", (c.Draft(),)), "/queue"),
        (c.Enqueue("t:new", (c.Draft(),)), "/messages/0/queue"),
        (c.PutQueue("t:a", c.QueueConfig()), "/queue"),
        (c.PutQueue("t:new", c.QueueConfig()), "/queue"),
        (c.DeleteQueue("t:a"), "/queue"),
    ):
        refused = kit(command)
        assert isinstance(refused, Refusal), command
        assert (refused.code, refused.field) == ("invalid_argument", field)
        assert "topic 't'" in refused.detail
    assert dump(kit.m)["queues"] == before
    (grant,) = kit.lease(1, "t:a")
    item = c.AckItem(token(grant))
    refused = kit(c.Ack((item,), (c.EnqueueTo("t:a", c.Draft()),)))
    assert (refused.code, refused.field) == ("invalid_argument", "/enqueue/0/queue")
    kit.put("y")
    (other,) = kit.lease(1, "q")
    kit.nack(other, dead_letter=True)
    refused = kit(c.Redrive("q", to="t:a"))
    assert (refused.code, refused.field) == ("invalid_argument", "/to")
    kit.nack(grant, dead_letter=True)
    assert kit(c.Redrive("t:a", to="t:a")).ids == (grant.message,)


def test_a_groups_queue_is_worked_on_like_any_other() -> None:
    kit = Topics("a")
    kit.publish("0", "1", "2", "3")
    assert kit(c.PatchQueue("t:a", {"max_attempts": 1})).revision > 0
    first, second = kit.lease(2, "t:a")
    assert kit.ack(first)[0].status == "acked"
    assert kit.nack(second)[0].status == "dead"
    kit(c.PauseQueue("t:a", lease=True))
    assert kit.offsets("a") == []
    assert kit(c.PurgeQueue("t:a")) == Done(2)
    assert kit(c.PurgeDead("t:a")) == Done(1)
    kit.pass_ms(1)
    assert kit.kept() == [0, 1, 2, 3]


# --- groups -------------------------------------------------------------------------------------------


def test_a_group_starts_at_the_end_unless_told_otherwise() -> None:
    kit = Topics()
    kit.publish("0")
    kit.now += 1000
    later = kit.now
    kit.publish("1", "2")
    kit.now += 1000
    kit.publish("3")
    assert kit.group("end") == GroupSaved("t:end", True, kit.m.queues["t:end"].revision, 0)
    assert kit.group("start", from_offset=0).replayed == 4
    assert kit.group("middle", from_offset=2).replayed == 2
    assert kit.group("last", from_offset=4).replayed == 0
    refused = kit.group("future", from_offset=5)
    assert (refused.code, refused.field, refused.limit) == ("invalid_argument", "/from_offset", 4)
    assert kit.group("time", from_at_ms=later).replayed == 3
    assert kit.group("soon after", from_at_ms=later + 1).replayed == 1
    assert kit.group("ever", from_at_ms=0).replayed == 4
    assert kit.group("never", from_at_ms=kit.now + 1).replayed == 0
    expected = {
        "end": [], "start": [0, 1, 2, 3], "middle": [2, 3], "last": [], "time": [1, 2, 3], "soon after": [3],
        "ever": [0, 1, 2, 3], "never": [],
    }  # fmt: skip
    assert {group: kit.offsets(group) for group in expected} == expected
    assert all(message.origin is None for message in kit.m.messages.values())
    kit.publish("4")
    assert all(kit.offsets(group) == [4] for group in expected)


def test_putting_a_group_again_changes_its_configuration_and_starts_nothing_anew() -> None:
    kit = Topics()
    kit.publish("0")
    saved = kit.group("a", from_offset=0)
    assert kit.offsets("a") == [0]
    again = kit.group("a", from_offset=0, max_attempts=9)
    assert (again.created, again.replayed) == (False, 0)
    assert again.revision > saved.revision
    assert kit.offsets("a") == []
    for revision, expected in ((saved.revision, "revision_changed"), (again.revision, None)):
        reply = kit(c.PutGroup("t", "a", c.QueueConfig(), revision))
        assert getattr(reply, "code", None) == expected
        reply = kit(c.DeleteGroup("t", "a", revision))
        assert getattr(reply, "code", None) == "revision_changed"
    assert code(kit(c.PutGroup("t", "new", c.QueueConfig(), 1))) == "revision_changed"


def test_r28_at_most_64_groups_and_the_limits_of_queues_and_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Topics(*(f"g{n}" for n in range(GROUPS_PER_TOPIC_MAX)))
    refused = kit.group("more")
    assert (refused.code, refused.limit) == ("too_many_groups", GROUPS_PER_TOPIC_MAX)
    assert not kit.group("g0").created
    monkeypatch.setattr("trivet.machine.topics.QUEUES_MAX", 64)
    kit(c.PutTopic("u", 1, 1))
    refused = kit(c.PutGroup("u", "a", c.QueueConfig()))
    assert (refused.code, refused.limit) == ("too_many_queues", 64)
    monkeypatch.setattr("trivet.machine.topics.TOPICS_MAX", 2)
    refused = kit(c.PutTopic("v", 1, 1))
    assert (refused.code, refused.limit) == ("too_many_topics", 2)
    assert kit(c.PutTopic("u", 2, 2)) == TopicSaved("u", False)
    assert QUEUES_MAX == TOPICS_MAX == 10_000


def test_unknown_topics_and_groups() -> None:
    kit = Topics("a")
    for command in (
        c.PutGroup("u", "a", c.QueueConfig()),
        c.DeleteGroup("u", "a"),
        c.ReplayGroup("u", "a", None, 0),
        c.DeleteTopic("u"),
    ):
        assert code(kit(command)) == "topic_not_found"
    for command in (c.DeleteGroup("t", "b"), c.ReplayGroup("t", "b", None, 0)):
        assert code(kit(command)) == "group_not_found"
    refused = kit.replay("a", from_offset=1)
    assert (refused.code, refused.field) == ("invalid_argument", "/from_offset")


# --- deleting -----------------------------------------------------------------------------------------


def test_deleting_a_group_leaves_the_topic_and_the_other_groups() -> None:
    kit = Topics("a", "b")
    kit.publish("0", "1")
    (grant,) = kit.lease(1, "t:a")
    assert kit(c.DeleteGroup("t", "a")) == Done(2)
    assert kit.hints.deleted == ["t:a"]
    assert kit.ack(grant)[0].status == "not_found"
    assert kit.offsets("b") == [0, 1]
    assert kit.publish("2").groups == ("b",)
    kit.group("a", from_offset=0)
    assert kit.offsets("a") == [0, 1, 2]
    kit.pass_ms(1)


def test_deleting_a_topic_deletes_its_groups_and_frees_its_name_at_once() -> None:
    kit = Topics("a", "b")
    kit.publish(*(c.Draft(b"1", key=f"k{n}") for n in range(40)))
    (grant,) = kit.lease(1, "t:a")
    assert kit(c.DeleteTopic("t")) == Done(80)
    assert kit.ack(grant)[0].status == "not_found"
    assert not kit.m.queues and not kit.m.topics
    kit(c.PutTopic("t", 1000, 1000))
    kit.group("a", from_offset=0)
    assert kit.publish(c.Draft(b"2", key="k0")).offsets == (0,)
    twin = Kit(rebuild(dump(kit.m)))
    assert derived(twin.m) == derived(kit.m)
    twin.now = kit.now
    for each in (kit, twin):
        more = True
        while more:
            more = each(c.Expire(7)).more
            assert not invariants.check(each.m)
        assert list(each.m.topics_by_number.values()) == list(each.m.topics.values())
    assert dump(twin.m) == dump(kit.m)
    assert kit.offsets("a") == [0]


# --- views --------------------------------------------------------------------------------------------


def test_topics_are_shown_by_name_a_page_at_a_time() -> None:
    kit = Topics("b", "a")
    for name in ("u", "s"):
        kit(c.PutTopic(name, 5, 6))
    first, following = topic_views.topics(kit.m, 2)
    assert [each["topic"] for each in first] == ["s", "t"] and following == "t"
    rest, following = topic_views.topics(kit.m, 2, following)
    assert [each["topic"] for each in rest] == ["u"] and following is None
    shown = topic_views.topic(kit.m, "t")
    assert shown is not None
    assert [each["group"] for each in shown["groups"]] == ["a", "b"]
    assert topic_views.topic(kit.m, "x") is None


def test_entries_are_shown_by_offset_up_to_a_count_or_a_size() -> None:
    kit = Topics(retention_messages=3)
    extras = c.Extras(tenant_id="me")
    kit.publish(
        "0", c.Draft(b"11", content_type="t", headers={"h": "v"}, group="g", key="k", extras=extras), "2", "3"
    )

    def offsets(*asked: int) -> tuple[list[int], int | None]:
        found = topic_views.entries(kit.m, "t", *asked)
        assert found is not None
        return [each["offset"] for each in found[0]], found[1]

    assert offsets(0, 10) == ([1, 2, 3], None)
    assert offsets(2, 1) == ([2], 3)
    assert offsets(3, 1) == ([3], None)
    assert offsets(9, 1) == ([], None)
    assert offsets(0, 10, 1) == ([1], 2)
    assert offsets(0, 10, 7) == ([1, 2], 3)
    page = topic_views.entries(kit.m, "t", 1, 1)
    assert page is not None
    (shown,) = page[0]
    assert shown == {
        "topic": "t",
        "offset": 1,
        "tenant_id": "me",
        "body": views.Body(b"11", 0, "t"),
        "priority": 0,
        "published_at_ms": kit.now,
        "content_type": "t",
        "headers": {"h": "v"},
        "group": "g",
        "idempotency_key": "k",
    }
    assert topic_views.entries(kit.m, "x", 0, 1) is None


def test_a_publish_whose_keys_are_all_known_is_a_repeat() -> None:
    """The node asks before it refuses for reasons of its own (R12)."""
    kit = Topics()
    kit.publish(c.Draft(key="k", key_window_ms=10), c.Draft(key="j"))
    known = c.Publish("t", (c.Draft(key="k"), c.Draft(key="j")))
    assert publishing.is_repeat(kit.m, known)
    assert not publishing.is_repeat(kit.m, c.Publish("t", (*known.drafts, c.Draft())))
    assert not publishing.is_repeat(kit.m, c.Publish("x", known.drafts))
    kit(c.PutTopic("t", 5, 5))
    kit.now += 10
    kit(c.PutTopic("t", 5, 5))
    assert not publishing.is_repeat(kit.m, known)
