"""api.md, Topics (R28): publish, groups, retention, replay; and a group's queue under /v1/queues."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest

from tests.conformance.client import MSGPACK, Api, Queue

DAY_MS = 86_400_000


class Topic:
    """Short names for what most tests do with one topic."""

    def __init__(self, api: Api, **config: Any) -> None:
        self.api, self.name = api, f"t-{uuid.uuid4().hex[:12]}"
        self.path = f"/v1/topics/{self.name}"
        api.put(self.path, config).ok(201)

    def group(self, name: str, **config: Any) -> Queue:
        self.api.put(f"{self.path}/groups/{name}", config).ok(201)
        return Queue(self.api, f"{self.name}:{name}")

    def publish(self, *bodies: Any, **more: Any) -> list[dict[str, Any]]:
        messages = [{"body": body, **more} for body in bodies]
        found: list[dict[str, Any]] = self.api.post(self.path + "/messages", {"messages": messages}).ok(201)[
            "messages"
        ]
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(self.path).ok().told
        return found


@pytest.fixture
def topic(api: Api) -> Topic:
    return Topic(api)


def offsets(found: list[dict[str, Any]]) -> list[int]:
    return [one["offset"] for one in found]


# --- topics -------------------------------------------------------------------------------------------


def test_a_topic_has_the_shape_of_the_contract(api: Api, topic: Topic) -> None:
    told = topic.state()
    assert told.pop("as_of") > 0
    assert told == {
        "topic": topic.name,
        "retention_ms": DAY_MS,
        "retention_messages": 100_000,
        "first_offset": 0,
        "next_offset": 0,
        "groups": [],
    }
    topic.group("mail")
    topic.publish(1, 2)
    told = topic.state()
    assert (told["first_offset"], told["next_offset"]) == (0, 2)
    assert told["groups"] == [{"group": "mail", "queue": f"{topic.name}:mail"}]


def test_put_creates_and_then_replaces(api: Api, topic: Topic) -> None:
    told = api.put(topic.path, {"retention_ms": 1000}).ok(200).told
    assert (told["retention_ms"], told["retention_messages"], told["topic"]) == (1000, 100_000, topic.name)
    assert {"index", "seq", "term"} <= told.keys()
    assert api.put(topic.path).ok()["retention_ms"] == DAY_MS


def test_topics_are_listed_by_name(api: Api) -> None:
    names = sorted(Topic(api).name for _ in range(3))
    before = min(names)[:-1]
    first = api.get(f"/v1/topics?limit=2&after={before}").ok().told
    assert [one["topic"] for one in first["topics"]] >= names[:1]
    found, after = [], ""
    while after is not None:
        page = api.get(f"/v1/topics?limit=2&after={after}").ok().told
        found += [one["topic"] for one in page["topics"]]
        after = page["next"]
    assert found == sorted(found)
    assert set(names) <= set(found)


def test_deleting_a_topic_deletes_its_groups(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    topic.publish(1, 2)
    token = queue.take()["lease_token"]
    assert api.delete(topic.path).ok()["removed"] == 2
    api.get(topic.path).refused(404, "topic_not_found")
    api.get(queue.path).refused(404, "queue_not_found")
    assert queue.ack(token)["status"] == "not_found"
    api.put(topic.path).ok(201)
    assert topic.publish(3)[0]["offset"] == 0


@pytest.mark.parametrize("kept", [0, 3])
def test_a_topic_keeps_its_newest(api: Api, kept: int) -> None:
    topic = Topic(api, retention_messages=kept)
    topic.publish(*range(5))
    told = topic.state()
    assert (told["first_offset"], told["next_offset"]) == (5 - kept, 5)


def test_a_topic_keeps_nothing_longer_than_its_time(api: Api) -> None:
    topic = Topic(api, retention_ms=1)
    topic.publish(1)
    for _ in range(1000):
        if topic.state()["first_offset"] == 1:
            return
    raise AssertionError("it is still there")


# --- publishing ---------------------------------------------------------------------------------------


def test_a_publish_reaches_every_group(api: Api, topic: Topic) -> None:
    mail, audit = topic.group("mail"), topic.group("audit")
    answer = api.post(topic.path + "/messages", {"body": {"a": 1}, "headers": {"h": "v"}, "priority": 3}).ok(
        201
    )
    assert {"index", "seq", "term"} <= answer.told.keys()
    (one,) = answer["messages"]
    assert (one["offset"], one["duplicate"]) == (0, False)
    assert set(one["ids"]) == {"mail", "audit"}
    for group, queue in (("mail", mail), ("audit", audit)):
        leased = queue.take()
        assert leased["id"] == one["ids"][group]
        assert (leased["body"], leased["headers"], leased["priority"]) == ({"a": 1}, {"h": "v"}, 3)
        assert (leased["topic"], leased["offset"], leased["queue"]) == (topic.name, 0, queue.name)
        assert queue.ack(leased["lease_token"])["status"] == "acked"


def test_many_messages_in_one_publish(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    found = topic.publish(*range(1000))
    assert offsets(found) == list(range(1000))
    leased = queue.lease(1000)
    assert [one["id"] for one in leased] == [one["ids"]["mail"] for one in found]
    assert [one["body"] for one in leased] == list(range(1000))


def test_a_publish_in_messagepack(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    answer = api.packed("POST", topic.path + "/messages", {"body": b"\x00\xff"})
    assert answer.ok(201)["messages"][0]["offset"] == 0
    leased = msgspec.msgpack.decode(api.packed("POST", queue.path + "/lease", {"consumer": "c"}).ok().raw)
    assert leased["messages"][0]["body"] == b"\x00\xff"
    shown = api.get(topic.path + "/messages", headers={"Accept": MSGPACK}).ok()
    assert shown["messages"][0]["body"] == b"\x00\xff"
    assert api.get(topic.path + "/messages").ok()["messages"][0]["body_base64"] == "AP8="


def test_delay_group_and_ttl_hold_in_each_group(api: Api, topic: Topic) -> None:
    one, other = topic.group("one"), topic.group("other")
    topic.publish("first", "second", group="g")
    topic.publish("late", delay_ms=60_000)
    for queue in (one, other):
        head = queue.take()
        assert head["body"] == "first"
        assert queue.lease(5) == []
        assert queue.ack(head["lease_token"])["status"] == "acked"
        assert queue.take()["body"] == "second"
        assert queue.state()["delayed"] == 1


def test_a_waiting_consumer_of_a_group_wakes(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    waiting = api.soon("POST", queue.path + "/lease", {"consumer": "c", "wait_ms": 10_000})
    many = api.soon("POST", "/v1/lease", {"queues": [queue.name], "consumer": "d", "wait_ms": 10_000})
    topic.publish("x", "y")
    bodies = [future.result(10).ok()["messages"][0]["body"] for future in (waiting, many)]
    assert sorted(bodies) == ["x", "y"]


def test_an_idempotency_key_answers_the_first_offset(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    topic.publish("other")
    first = topic.publish("x", idempotency_key="k")[0]
    assert (first["offset"], first["duplicate"]) == (1, False)
    again = topic.publish("x", idempotency_key="k")[0]
    assert again == {"offset": 1, "duplicate": True, "ids": {}}
    api.post(topic.path + "/messages", {"body": "y", "idempotency_key": "k"}).refused(
        409, "idempotency_conflict", "/idempotency_key"
    )
    batch = [{"body": "z"}, {"body": "y", "idempotency_key": "k"}]
    api.post(topic.path + "/messages", {"messages": batch}).refused(
        409, "idempotency_conflict", "/messages/1/idempotency_key"
    )
    assert len(queue.lease(10)) == 2


def test_a_repeated_request_publishes_once(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    asked = {"body": "x", "request_id": uuid.uuid4().hex}
    first = api.post(topic.path + "/messages", asked).ok(201).told
    again = api.post(topic.path + "/messages", asked).ok(201).told
    assert again == {**first, "repeated": True}
    api.post(topic.path + "/messages", {**asked, "body": "y"}).refused(409, "idempotency_conflict")
    assert len(queue.lease(10)) == 1


def test_every_write_of_topics_can_be_repeated(api: Api, name: str) -> None:
    path = f"/v1/topics/{name}"

    def twice(method: str, path: str, **body: Any) -> None:
        body["request_id"] = uuid.uuid4().hex
        first = api.call(method, path, body).told
        again = api.call(method, path, body).told
        assert again.pop("repeated") is True
        assert {again[key] for key in ("index", "seq")} == {first[key] for key in ("index", "seq")}

    twice("PUT", path, retention_messages=5)
    twice("PUT", path + "/groups/g", from_offset=0)
    twice("POST", path + "/messages", body=1)
    twice("POST", path + "/groups/g/replay", from_offset=0)
    assert len(Queue(api, f"{name}:g").lease(10)) == 2
    twice("DELETE", path + "/groups/g")
    twice("DELETE", path)


def test_what_a_publish_refuses(api: Api, topic: Topic, name: str) -> None:
    api.post(f"/v1/topics/{name}/messages", {"body": 1}).refused(404, "topic_not_found")
    path = topic.path + "/messages"
    api.post(path, {"depends_on": ["m000000000001"]}).refused(400, "invalid_argument", "/depends_on")
    api.post(path, {"messages": []}).refused(400, "invalid_argument", "/messages")
    api.post(path, {"body": 1, "offset": 5}).refused(400, "invalid_argument", "/offset")
    api.post(path, {"body": 1, "topic": "x"}).refused(400, "invalid_argument", "/topic")
    api.post(path, {"messages": [{"body": 1, "priority": 1001}]}).refused(
        400, "invalid_argument", "/messages/0/priority"
    )
    api.post(path, {"messages": [{"body": 1}] * 1001}).refused(413, "batch_too_large", "/messages", 1000)
    assert topic.state()["next_offset"] == 0


def test_r28_a_batch_times_the_groups_is_at_most_4096(api: Api, topic: Topic) -> None:
    for n in range(5):
        topic.group(f"g{n}")
    assert len(topic.publish(*range(819))) == 819
    api.post(topic.path + "/messages", {"messages": [{}] * 820}).refused(
        413, "batch_too_large", "/messages", 4096
    )
    assert topic.state()["next_offset"] == 819


def test_r28_a_topic_has_at_most_64_groups(api: Api, topic: Topic) -> None:
    for n in range(64):
        topic.group(f"g{n}")
    api.put(topic.path + "/groups/more").refused(429, "too_many_groups", limit=64)
    assert len(topic.publish(1)[0]["ids"]) == 64


@pytest.mark.parametrize("on_full", ["reject", "dead_letter_oldest"])
def test_r28_a_full_group_dead_letters_its_oldest(api: Api, topic: Topic, on_full: str) -> None:
    wide = topic.group("wide")
    tight = topic.group("tight", max_messages=2, on_full=on_full)
    for n in range(4):
        topic.publish(n)
    assert offsets(wide.lease(10)) == [0, 1, 2, 3]
    dead = api.get(tight.path + "/dead").ok()["messages"]
    assert [(one["offset"], one["dead_reason"]) for one in dead] == [(0, "queue_full"), (1, "queue_full")]
    assert offsets(tight.lease(10)) == [2, 3]
    published = topic.publish(4)[0]
    shown = tight.message(published["ids"]["tight"])
    assert (shown["state"], shown["dead_reason"]) == ("dead", "queue_full")  # nothing else was ready to go


def test_a_pause_of_enqueue_does_not_hold_a_publish_up(api: Api, topic: Topic) -> None:
    queue = topic.group("mail")
    api.post(queue.path + "/pause", {"enqueue": True}).ok()
    topic.publish(1)
    assert offsets(queue.lease(5)) == [0]


# --- groups -------------------------------------------------------------------------------------------


def test_a_group_is_a_queue(api: Api, topic: Topic) -> None:
    path = topic.path + "/groups/mail"
    answer = api.put(path, {"max_attempts": 2, "backoff": {"type": "fixed"}}).ok(201)
    queue = Queue(api, f"{topic.name}:mail")
    told = answer.told
    assert (told["topic"], told["group"], told["queue"]) == (topic.name, "mail", queue.name)
    assert (told["max_attempts"], told["backoff"]["type"], told["replayed"]) == (2, "fixed", 0)
    assert api.get(path).ok()["revision"] == told["revision"] == queue.state()["revision"]
    assert api.patch(queue.path, {"max_attempts": 1}).ok()["max_attempts"] == 1
    topic.publish(1, 2, 3)
    assert queue.nack(queue.take()["lease_token"])["status"] == "dead"
    assert api.post(queue.path + "/dead/redrive").ok()["redriven"] == 1
    assert len(api.get(queue.path + "/messages").ok()["messages"]) == 3
    api.post(queue.path + "/pause").ok()
    assert queue.lease(5) == []
    api.post(queue.path + "/resume").ok()
    assert len(queue.lease(1)) == 1
    assert api.post(queue.path + "/purge").ok()["removed"] == 2
    assert queue.name in [one["queue"] for one in api.get(f"/v1/queues?after={topic.name}").ok()["queues"]]


def test_a_group_is_made_and_deleted_and_filled_only_by_its_topic(api: Api, topic: Topic, q: Queue) -> None:
    queue = topic.group("mail")
    for path in (queue.path, f"/v1/queues/{topic.name}:new"):
        answer = api.put(path, {}).refused(400, "invalid_argument", "/queue")
        assert "publish to the topic" in answer["detail"]
        api.delete(path).refused(400, "invalid_argument", "/queue")
        api.post(path + "/messages", {"body": 1}).refused(400, "invalid_argument", "/queue")
        api.post(path + "/messages", {"body": 1, "priority": 1}).refused(400, "invalid_argument", "/queue")
    q.send(1)
    token = q.take()["lease_token"]
    asked = {"acks": [{"lease_token": token}], "enqueue": [{"queue": queue.name, "body": 1}]}
    api.post("/v1/ack", asked).refused(400, "invalid_argument", "/enqueue/0/queue")
    q.nack(token, dead_letter=True)
    api.post(q.path + "/dead/redrive", {"to": queue.name}).refused(400, "invalid_argument", "/to")
    topic.publish(1)
    queue.nack(queue.take()["lease_token"], dead_letter=True)
    assert api.post(queue.path + "/dead/redrive", {"to": q.name}).ok()["redriven"] == 1
    assert q.take()["offset"] == 0


def test_where_a_group_starts(api: Api, topic: Topic) -> None:
    topic.publish("a", "b", "c")
    since = api.get(topic.path + "/messages?from_offset=2").ok()["messages"][0]["published_at_ms"]
    assert topic.group("end").lease(5) == []
    assert offsets(topic.group("middle", from_offset=1).lease(5)) == [1, 2]
    assert offsets(topic.group("ever", from_at_ms=0).lease(5)) == [0, 1, 2]
    assert 2 in offsets(topic.group("since", from_at_ms=since).lease(5))
    assert topic.group("later", from_at_ms=since + 3_600_000).lease(5) == []
    path = topic.path + "/groups/new"
    api.put(path, {"from_offset": 4}).refused(400, "invalid_argument", "/from_offset", 3)
    api.put(path, {"from_offset": -1}).refused(400, "invalid_argument", "/from_offset", 0)
    api.put(path, {"from_offset": 0, "from_at_ms": 0}).refused(400, "invalid_argument", "/from_offset")
    api.get(path).refused(404, "group_not_found")


def test_putting_a_group_again_does_not_move_it(api: Api, topic: Topic) -> None:
    topic.publish(1)
    queue = topic.group("mail", from_offset=0)
    answer = api.put(topic.path + "/groups/mail", {"from_offset": 0, "max_attempts": 3}).ok(200)
    assert (answer["max_attempts"], "replayed" in answer.told) == (3, False)
    assert len(queue.lease(5)) == 1
    wrong = {"If-Match": '"1"'}
    api.put(topic.path + "/groups/mail", {}, headers=wrong).refused(412, "revision_changed")
    api.delete(topic.path + "/groups/mail", headers=wrong).refused(412, "revision_changed")
    right = {"If-Match": answer.headers["etag"]}
    api.put(topic.path + "/groups/mail", {}, headers=right).ok(200)


def test_deleting_a_group_leaves_the_others(api: Api, topic: Topic) -> None:
    mail, audit = topic.group("mail"), topic.group("audit")
    topic.publish(1)
    assert api.delete(topic.path + "/groups/mail").ok()["removed"] == 1
    api.get(mail.path).refused(404, "queue_not_found")
    api.post(mail.path + "/lease", {"consumer": "c"}).refused(404, "queue_not_found")
    assert set(topic.publish(2)[0]["ids"]) == {"audit"}
    assert len(audit.lease(5)) == 2


# --- replay and browsing ------------------------------------------------------------------------------


def test_a_group_gets_again_what_is_kept(api: Api, topic: Topic) -> None:
    mail, audit = topic.group("mail"), topic.group("audit")
    topic.publish("a", "b", "c")
    assert offsets(mail.lease(5)) == [0, 1, 2]
    answer = api.post(topic.path + "/groups/mail/replay", {"from_offset": 1}).ok()
    assert (answer["replayed"], answer["from_offset"], answer["more"]) == (2, 1, False)
    again = mail.lease(5)
    assert offsets(again) == [1, 2]
    assert again[0]["origin"] == {"type": "topic_replay", "queue": mail.name}
    assert api.post(topic.path + "/groups/mail/replay", {"from_at_ms": 0}).ok()["replayed"] == 3
    assert offsets(mail.lease(5)) == [0, 1, 2]
    assert offsets(audit.lease(5)) == [0, 1, 2]


def test_a_replay_of_more_than_one_command_gives(api: Api, topic: Topic) -> None:
    for _ in range(3):
        topic.publish(*range(1000))
    queue = topic.group("mail", from_offset=0)
    topic.publish("last")
    found: list[int] = []
    while len(found) < 3001:
        found += offsets(queue.lease(1000, wait_ms=5000))
    assert found == list(range(3001))
    assert api.post(topic.path + "/groups/mail/replay", {"from_offset": 500}).ok()["replayed"] == 2501
    found = []
    while len(found) < 2501:
        found += offsets(queue.lease(1000, wait_ms=5000))
    assert found == list(range(500, 3001))
    assert queue.lease(1) == []


def test_what_a_replay_refuses(api: Api, topic: Topic) -> None:
    topic.group("mail")
    path = topic.path + "/groups/mail/replay"
    api.post(path, {}).refused(400, "invalid_argument", "/from_offset")
    api.post(path, {"from_offset": 0, "from_at_ms": 0}).refused(400, "invalid_argument", "/from_offset")
    api.post(path, {"from_offset": 1}).refused(400, "invalid_argument", "/from_offset", 0)
    api.post(path, {"from": 1}).refused(400, "invalid_argument", "/from")
    api.post(topic.path + "/groups/none/replay", {"from_offset": 0}).refused(404, "group_not_found")


def test_looking_at_what_a_topic_keeps(api: Api, topic: Topic) -> None:
    topic.publish({"a": 1}, 2, 3)
    told = api.get(topic.path + "/messages?limit=2").ok().told
    assert offsets(told["messages"]) == [0, 1]
    assert told["messages"][0]["body"] == {"a": 1}
    assert told["next"] == 2
    told = api.get(topic.path + "/messages?from_offset=2").ok().told
    assert (offsets(told["messages"]), told["next"]) == ([2], None)
    assert offsets(api.get(topic.path + "/messages?max_bytes=1").ok()["messages"]) == [0]
    assert api.get(topic.path + "/messages?consistency=local").ok()["messages"]
    api.get(topic.path + "/messages?from_offset=-1").refused(400, "invalid_argument", "/from_offset", 0)


# --- names and numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "a:b", "-a", "a%20b", "a" * 257, "%C3%BC"])
def test_names_that_are_none(api: Api, topic: Topic, wrong: str) -> None:
    if wrong:
        api.put(f"/v1/topics/{wrong}").refused(400, "invalid_argument", "/topic")
        api.put(f"{topic.path}/groups/{wrong}").refused(400, "invalid_argument", "/group")
    api.put(f"/v1/topics/{'a' * 256}").told  # noqa: B018 - the longest name is taken
    api.delete(f"/v1/topics/{'a' * 256}").ok()
    for bad in ("a:b:c", ":a", "a:", "a:-"):
        api.get(f"/v1/queues/{bad}").refused(400, "invalid_argument", "/queue")


@pytest.mark.parametrize(
    ("field", "inside", "outside", "limit"),
    [
        ("retention_ms", 400 * DAY_MS, 400 * DAY_MS + 1, 400 * DAY_MS),
        ("retention_ms", 0, -1, 0),
        ("retention_messages", 10_000_000, 10_000_001, 10_000_000),
        ("retention_messages", 0, -1, 0),
    ],
)
def test_limits_of_a_topic(api: Api, topic: Topic, field: str, inside: int, outside: int, limit: int) -> None:
    assert api.put(topic.path, {field: inside}).ok()[field] == inside
    api.put(topic.path, {field: outside}).refused(400, "invalid_argument", "/" + field, limit)
    api.put(topic.path, {field: None}).refused(400, "invalid_argument", "/" + field)
    assert topic.state()[field] == inside


def test_wrong_methods_and_fields(api: Api, topic: Topic, name: str) -> None:
    assert "PUT" in api.post(topic.path, {}).refused(405, "method_not_allowed").headers["allow"]
    api.put(topic.path, {"partitions": 3}).refused(400, "invalid_argument", "/partitions")
    api.put(f"{topic.path}/groups/g", {"offset": 3}).refused(400, "invalid_argument", "/offset")
    missing = f"/v1/topics/{name}"
    for answer in (
        api.get(missing),
        api.delete(missing),
        api.get(missing + "/messages"),
        api.put(missing + "/groups/g"),
        api.get(missing + "/groups/g"),
        api.delete(missing + "/groups/g"),
        api.post(missing + "/groups/g/replay", {"from_offset": 0}),
    ):
        answer.refused(404, "topic_not_found")
    api.delete(topic.path + "/groups/g").refused(404, "group_not_found")


def test_what_a_topic_keeps_is_measured(api: Api) -> None:
    topic = Topic(api, retention_messages=2)
    topic.publish("a", "bb", "ccc")
    asked = api.get(topic.path).ok().headers["trivet-leader"]
    text = api.get("/metrics", url=asked).ok().raw.decode()
    assert f'trivet_topic_messages{{topic="{topic.name}"}} 2.0' in text
    assert f'trivet_topic_bytes{{topic="{topic.name}"}} 9.0' in text
