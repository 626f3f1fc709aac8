"""What a topic keeps and for how long; groups that catch up with what is kept, and hold it meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.machine.kit import Kit, derived, dump, rebuild
from tests.unit.machine.test_topics import Topics
from trivet.machine import commands as c
from trivet.machine import invariants, publishing, topics, views
from trivet.machine.replies import Done, Replayed
from trivet.machine.snapshotting import dismantle


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command catches up two entries; the rest is left to `Expire`."""
    monkeypatch.setattr(Topics, "inline", 2)


def again(kit: Topics, group: str) -> list[tuple[int, bool]]:
    """What is to be leased, offset and whether it came as a replay; takes it."""
    found = []
    for grant in kit.lease(1000, f"t:{group}"):
        shown = views.leased(kit.m, grant.fence)
        assert shown is not None
        found.append(
            (shown["offset"], shown.get("origin") == {"type": "topic_replay", "queue": f"t:{group}"})
        )
    return found


# --- retention ----------------------------------------------------------------------------------------


def test_a_topic_keeps_its_newest() -> None:
    kit = Topics("a", retention_messages=3)
    kit.publish("0", "1", "2")
    assert kit.kept() == [0, 1, 2]
    kit.publish("3")
    assert kit.kept() == [1, 2, 3]
    kit.publish(*"4567")
    assert kit.kept() == [5, 6, 7]
    assert kit.m.topics["t"].bytes == 9
    assert kit.offsets("a") == list(range(8))  # what is in a group is the group's


def test_a_topic_keeps_nothing_longer_than_its_time() -> None:
    kit = Topics(retention_ms=1000)
    kit.publish("0")
    kit.pass_ms(500)
    kit.publish("1", "2")
    kit.pass_ms(499)
    assert kit.kept() == [0, 1, 2]
    assert kit.m.next_deadline_ms() == kit.now + 1
    kit.pass_ms(1)
    assert kit.kept() == [1, 2]
    kit.now += 500
    kit.publish("3")  # it takes with it what is over
    assert kit.kept() == [3]
    kit.pass_ms(1000)
    assert kit.kept() == []
    assert kit.m.next_deadline_ms() is None
    assert kit.m.topics["t"].first_offset == 4
    assert kit.publish("4").offsets == (4,)


def test_a_topic_may_keep_nothing_at_all() -> None:
    kit = Topics("a", retention_messages=0)
    kit.publish("0", "1")
    assert kit.kept() == []
    assert kit.offsets("a") == [0, 1]
    kit = Topics("a", retention_ms=0)
    kit.publish("0", "1")
    kit.pass_ms(0)
    assert kit.kept() == []


def test_a_lowered_retention_holds_at_once_and_a_large_one_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topics, "TRIM_INLINE", 4)
    kit = Topics()
    kit.publish(*(str(n) for n in range(20)))
    kit(c.PutTopic("t", 10_000, 18))
    assert kit.kept() == list(range(2, 20))
    kit(c.PutTopic("t", 10_000, 3))
    assert kit.kept() == list(range(6, 20))
    kit.publish("20")
    assert kit.kept() == list(range(8, 21))
    assert kit.m.next_deadline_ms() is not None and (kit.m.next_deadline_ms() or 0) <= kit.now
    assert kit(c.Expire(5)) == Done(5, more=True)
    assert kit.kept() == list(range(13, 21))
    kit.pass_ms(0)
    assert kit.kept() == [18, 19, 20]
    kit(c.PutTopic("t", 10_000, 100))
    kit.pass_ms(9_999)
    assert kit.kept() == [18, 19, 20]
    kit(c.PutTopic("t", 9_999, 100))
    assert kit.kept() == []


# --- replay -------------------------------------------------------------------------------------------


def test_a_replay_gives_a_group_again_what_is_kept() -> None:
    kit = Topics("a", "b", retention_messages=4)
    kit.publish(*"012345")
    first = kit.now
    assert kit.offsets("a") == [0, 1, 2, 3, 4, 5]
    assert kit.replay("a", from_offset=4) == Replayed(2, 4)
    assert again(kit, "a") == [(4, True), (5, True)]
    assert kit.replay("a", from_offset=0) == Replayed(4, 2)  # the first that is kept
    assert again(kit, "a") == [(n, True) for n in (2, 3, 4, 5)]
    kit.pass_ms(1000)
    kit.publish("6")
    assert kit.replay("a", from_at_ms=first + 1) == Replayed(1, 6)
    assert again(kit, "a") == [(6, False), (6, True)]
    assert kit.replay("a", from_at_ms=kit.now + 1) == Replayed(0, 7)
    assert kit.replay("a", from_offset=7) == Replayed(0, 7)
    assert kit.offsets("b") == [0, 1, 2, 3, 4, 5, 6]


def test_a_replayed_message_waits_no_longer_than_it_would_have_and_lives_its_ttl_again() -> None:
    kit = Topics("a")
    kit.publish(c.Draft(b"1", delay_ms=1000, ttl_ms=5000), c.Draft(b"2", deliver_at_ms=kit.now + 700))
    kit.pass_ms(800)
    kit.replay("a", from_offset=0)
    assert again(kit, "a") == [(1, False), (1, True)]
    kit.pass_ms(200)
    assert again(kit, "a") == [(0, False), (0, True)]
    expires = [m.expires_at_ms for m in kit.m.messages.values() if m.draft.body == b"1"]
    assert expires == [kit.now + 4000, kit.now + 4800]


def test_a_replay_into_a_group_that_is_full_keeps_to_its_limit() -> None:
    kit = Topics("a")
    kit.publish(*"01234")
    kit.take(queue="t:a")
    kit(c.PatchQueue("t:a", {"max_messages": 7}))
    assert kit.replay("a", from_offset=0) == Replayed(5, 0)
    assert kit.counts("t:a") == {"leased": 5, "ready": 2, "dead": 3}
    assert again(kit, "a") == [(3, True), (4, True)]


@pytest.mark.usefixtures("slow")
def test_r25_a_long_replay_goes_on_with_expire_and_keeps_the_order_of_the_offsets() -> None:
    kit = Topics("a", "b")
    kit.publish(*"012345")
    kit.take(queue="t:a")
    assert kit.replay("a", from_offset=0) == Replayed(6, 0, more=True)
    assert kit.m.next_deadline_ms() == kit.now
    assert kit.publish("6", "7").groups == ("b",)  # in its turn
    assert again(kit, "a") == [(0, True), (1, True)]
    assert kit(c.Expire(3)) == Done(3, more=True)
    assert again(kit, "a") == [(2, True), (3, True), (4, True)]
    kit.pass_ms(0)
    assert again(kit, "a") == [(5, True), (6, False), (7, False)]
    assert not kit.m.catching_up
    assert kit.publish("8").groups == ("a", "b")
    assert kit.offsets("b") == list(range(9))


@pytest.mark.usefixtures("slow")
def test_a_replay_while_another_is_under_way_goes_back_and_leaves_nothing_out() -> None:
    kit = Topics()
    kit.publish(*"012345")
    kit.group("a", from_offset=2)
    assert again(kit, "a") == [(2, False), (3, False)]
    assert kit.replay("a", from_offset=5) == Replayed(1, 5, more=False)  # 4 and 5 were on their way
    assert again(kit, "a") == [(4, False), (5, False)]
    kit.publish(*"678")
    kit.replay("a", from_offset=4)
    assert again(kit, "a") == [(6, False), (7, False), (8, False), (4, True), (5, True)]
    kit.publish("9")
    assert kit.replay("a", from_offset=1) == Replayed(9, 1, more=True)
    kit.pass_ms(0)
    assert again(kit, "a") == [(n, n < 9) for n in range(1, 10)]


@pytest.mark.usefixtures("slow")
def test_while_a_group_catches_up_its_topic_keeps_what_it_still_owes() -> None:
    kit = Topics(retention_messages=4, retention_ms=1000)
    kit.publish(*"0123")
    kit.group("a", from_offset=0)
    kit.group("b", from_offset=0)
    kit.now += 5000
    kit.publish(*"4567")
    assert kit.kept() == list(range(8))
    kit(c.PutTopic("t", 1000, 1))
    assert kit.kept() == list(range(8))
    assert kit(c.Expire(7)) == Done(7, more=True)
    assert kit.offsets("a") == list(range(8))
    assert kit.kept() == list(range(8))  # b is not there yet
    kit.pass_ms(0)
    assert kit.offsets("b") == list(range(8))
    assert kit.kept() == [7]
    kit.pass_ms(1000)
    assert kit.kept() == []


@pytest.mark.usefixtures("slow")
def test_deleting_a_group_that_catches_up_lets_go_of_what_it_held() -> None:
    for command in (c.DeleteGroup("t", "a"), c.DeleteTopic("t")):
        kit = Topics(retention_messages=3)
        kit.publish(*"012345")
        kit.group("a", from_offset=0)
        kit.publish(*"678")
        assert kit(command) == Done(2)
        assert not kit.m.catching_up
        kit.pass_ms(0)
        if "t" in kit.m.topics:
            assert kit.kept() == [6, 7, 8]


@pytest.mark.usefixtures("slow")
def test_a_purge_takes_what_is_there_and_not_what_is_on_its_way() -> None:
    kit = Topics()
    kit.publish(*"0123")
    kit.group("a", from_offset=0)
    assert kit(c.PurgeQueue("t:a")) == Done(2)
    kit.pass_ms(0)
    assert kit.offsets("a") == [2, 3]


@pytest.mark.usefixtures("slow")
def test_law6_rebuilt_while_a_group_catches_up_it_goes_on_alike() -> None:
    kit = Topics(retention_messages=4, retention_ms=1000)
    kit.publish(*"012345", c.Draft(b"1", key="k", key_window_ms=700), c.Draft(b"1", group="g", ttl_ms=100))
    kit.group("a", from_offset=0)
    kit.group("b")
    for _ in range(8):
        twin = Kit(rebuild(dump(kit.m)))
        assert derived(twin.m) == derived(kit.m)
        twin.now = kit.now = kit.now + 200
        for each in (kit, twin):
            each(c.Publish("t", (c.Draft(b"2"), c.Draft(b"3", key="j"))))
            each(c.Expire(3))
            assert not invariants.check(each.m)
        assert dump(twin.m) == dump(kit.m)
        assert derived(twin.m) == derived(kit.m)
        assert twin.m.digest() == kit.m.digest()


def test_runs_of_many_entries_are_delivered_alike_one_by_one_and_at_once() -> None:
    """The short way of `bulk` and the general one leave the same behind."""
    kits: list[Any] = []
    for way in (1, 10**9):
        kit = Topics("a", "b")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publishing.bulk, "FEWEST", way)
            kit.publish(*(c.Draft(b"1", key=f"k{n}", extras=c.Extras(tenant_id="x")) for n in range(20)))
            kit.replay("a", from_offset=5)
        kits.append(kit)
    one, other = kits
    assert dump(one.m) == dump(other.m)
    assert derived(one.m) == derived(other.m)


def test_a_machine_with_topics_is_taken_apart() -> None:
    kit = Topics("a", "b")
    kit.publish(c.Draft(key="k"), "x")
    for _ in dismantle(kit.m):
        pass
    m = kit.m
    assert not (m.topics or m.topics_by_number or m.queues or len(m.messages))
