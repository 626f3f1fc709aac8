"""api.md, Schedules, and the Schedule shape."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.conformance.client import MSGPACK, Api, Queue
from trivet.limits import BODY_BYTES_MAX, CRON_BYTES_MAX, EVERY_MS_MAX, EVERY_MS_MIN

YEARLY = "0 0 1 1 *"


def path(name: str) -> str:
    return f"/v1/schedules/{name}"


def put(api: Api, name: str, **told: Any) -> Any:
    told.setdefault("queue", name)
    if "every_ms" not in told:
        told.setdefault("cron", YEARLY)
    return api.put(path(name), told)


def wait_for(api: Api, name: str, what: str, least: int = 1, seconds: float = 15) -> dict[str, Any]:
    """The schedule once a number of it has come so far."""
    end = time.monotonic() + seconds
    while True:
        told: dict[str, Any] = api.get(path(name)).ok().told
        if told[what] is not None and (not isinstance(told[what], int) or told[what] >= least):
            return told
        assert time.monotonic() < end, told
        time.sleep(0.05)


def test_put_creates_then_replaces(api: Api, name: str) -> None:
    created = put(api, name, message={"body": {"a": 1}, "headers": {"h": "v"}, "priority": 3})
    told = created.ok(201).told
    assert {"index", "seq", "term"} <= told.keys()
    assert told["name"] == told["queue"] == name
    assert (told["cron"], told["every_ms"], told["timezone"]) == (YEARLY, None, "UTC")
    assert (told["misfire"], told["overlap"], told["paused"]) == ("fire_once", "allow", False)
    assert told["message"] == {"body": {"a": 1}, "headers": {"h": "v"}, "priority": 3}
    assert (told["last_fire"], told["fired"], told["skipped"], told["blocked"]) == (None, 0, 0, None)
    assert created.headers["etag"] == f'"{told["revision"]}"'
    replaced = put(api, name, misfire="skip", overlap="skip", timezone="Asia/Tokyo").ok(200).told
    assert replaced["revision"] > told["revision"]
    assert (replaced["misfire"], replaced["overlap"], replaced["timezone"]) == ("skip", "skip", "Asia/Tokyo")
    assert replaced["message"] == {"body": None}
    again = put(api, name, misfire="skip", overlap="skip", timezone="Asia/Tokyo").ok(200).told
    assert again["revision"] == replaced["revision"], "the same again changes nothing"


def test_what_get_shows_can_be_put_again(api: Api, name: str) -> None:
    message = {
        "body": [1, None],
        "content_type": "x/y",
        "headers": {"a": "b"},
        "priority": -2,
        "delay_ms": 5,
        "ttl_ms": 1000,
        "group": "g",
        "run_id": "r",
        "step_id": "s",
        "parent_step_id": "p",
        "tenant_id": "t",
        "user_id": "u",
        "traceparent": "tp",
        "max_attempts": 2,
        "backoff": {
            "type": "list",
            "base_ms": 1,
            "factor": 1.5,
            "max_ms": 2,
            "jitter": 0.25,
            "delays_ms": [1],
        },
        "lease_ms": 9,
        "retention_ms": 0,
    }
    told = put(api, name, message=message).ok(201).told
    assert told["message"] == message
    fields = ("cron", "every_ms", "timezone", "queue", "message", "misfire", "overlap")
    shown = api.get(path(name)).ok().told
    again = api.put(path(name), {field: shown[field] for field in fields}).ok(200).told
    assert again["revision"] == told["revision"]


def test_bytes_go_in_and_out(api: Api, name: str) -> None:
    put(api, name, message={"body_base64": "AAH/"}).ok(201)
    assert api.get(path(name)).ok()["message"] == {"body_base64": "AAH/"}
    packed = api.get(path(name), headers={"Accept": MSGPACK}).ok().told
    assert packed["message"] == {"body": b"\x00\x01\xff"}


def test_the_next_five_fires(api: Api, name: str) -> None:
    shown = put(api, name, cron="30 2 * * *", timezone="Europe/Berlin").ok(201).told
    fires = shown["next_fires_at_ms"]
    assert len(fires) == 5 and fires == sorted(fires) and fires[0] > time.time() * 1000 - 60_000
    assert all(0 < b - a <= 25 * 3_600_000 for a, b in pairwise(fires))
    assert {datetime.fromtimestamp(at / 1000, UTC).minute for at in fires} <= {0, 30}
    told = put(api, name, every_ms=60_000, cron=None).ok(200).told
    assert [at - told["anchor_at_ms"] for at in told["next_fires_at_ms"]] == [n * 60_000 for n in range(1, 6)]
    rare = put(api, name, cron="0 0 29 2 */7").ok(200).told["next_fires_at_ms"]
    assert [datetime.fromtimestamp(at / 1000, UTC).year for at in rare] == [2032, 2060, 2088, 2128, 2156]


def test_an_interval_fires_once_for_each_slot(api: Api, q: Queue, name: str) -> None:
    told = put(api, name, every_ms=200, queue=q.name, message={"body": "tick"}).ok(201).told
    told = wait_for(api, name, "fired", 8)
    api.post(path(name) + "/pause").ok()
    slots: list[int] = []
    while messages := q.lease(100):
        for message in messages:
            owner, _, slot = message["idempotency_key"].partition("@")
            assert owner == name and message["body"] == "tick"
            slots.append(int(slot))
    first = told["anchor_at_ms"]
    assert slots == [first + 200 * n for n in range(1, len(slots) + 1)], "anchored, none lost, none doubled"
    last = api.get(path(name)).ok()["last_fire"]
    assert last == {"slot_ms": slots[-1], "message_id": last["message_id"], "by_hand": False}
    assert api.get("/v1/messages/" + last["message_id"]).ok()["idempotency_key"] == f"{name}@{slots[-1]}"


def test_the_queue_comes_with_the_first_message(api: Api, name: str) -> None:
    put(api, name, queue=name + "-new").ok(201)
    api.get(f"/v1/queues/{name}-new").refused(404, "queue_not_found")
    api.post(path(name) + "/run").ok(201)
    assert api.get(f"/v1/queues/{name}-new").ok()["ready"] == 1


def test_run_makes_a_message_now(api: Api, q: Queue, name: str) -> None:
    put(api, name, queue=q.name, message={"body": 7}).ok(201)
    api.post(path(name) + "/pause").ok()
    ran = api.post(path(name) + "/run", headers={"Idempotency-Key": name}).ok(201).told
    again = api.post(path(name) + "/run", headers={"Idempotency-Key": name}).ok(201).told
    assert again["message_id"] == ran["message_id"] and again["repeated"]
    assert ran["messages"] == [{"id": ran["message_id"], "state": "ready", "duplicate": False}]
    (message,) = q.lease(5)
    assert (message["id"], message["body"]) == (ran["message_id"], 7)
    told = api.get(path(name)).ok().told
    assert told["last_fire"]["message_id"] == ran["message_id"] and told["last_fire"]["by_hand"]
    assert told["fired"] == 0


def test_run_is_refused_as_an_enqueue_is(api: Api, q: Queue, name: str) -> None:
    put(api, name, queue=q.name).ok(201)
    api.post(f"/v1/queues/{q.name}/pause", {"enqueue": True}).ok()
    api.post(path(name) + "/run").refused(409, "queue_paused")


def test_pause_and_resume(api: Api, q: Queue, name: str) -> None:
    put(api, name, every_ms=100, queue=q.name).ok(201)
    wait_for(api, name, "fired", 1)
    paused = api.post(path(name) + "/pause").ok().told
    assert paused["paused"] and paused["next_slot_at_ms"] is None and len(paused["next_fires_at_ms"]) == 5
    time.sleep(0.5)
    still = api.get(path(name)).ok().told
    assert still["fired"] == paused["fired"], "nothing fires while it is paused"
    resumed = api.post(path(name) + "/resume").ok().told
    assert not resumed["paused"]
    wait_for(api, name, "fired", paused["fired"] + 2)
    api.post(path(name) + "/pause").ok()
    slots: list[int] = []
    while messages := q.lease(100):
        slots += [int(message["idempotency_key"].partition("@")[2]) for message in messages]
    before, after = paused["decided_at_ms"], resumed["decided_at_ms"]
    assert after - before >= 500 and any(slot > after for slot in slots)
    assert not [slot for slot in slots if before < slot <= after], "slots of the pause are gone"


def test_a_full_queue_is_tried_again_and_loses_nothing(api: Api, q: Queue, name: str) -> None:
    api.put(f"/v1/queues/{q.name}", {"max_messages": 1}).ok()
    put(api, name, every_ms=400_000, queue=q.name).ok(201)
    put(api, name, every_ms=1000, queue=q.name).ok(200)
    told = wait_for(api, name, "blocked")
    assert told["blocked"]["code"] == "queue_full" and told["blocked"]["tries"] >= 1
    assert (told["fired"], told["skipped"]) == (1, 0)
    for message in q.lease(5):
        q.ack(message["lease_token"])
    told = wait_for(api, name, "fired", 2)
    api.delete(path(name)).ok()


def test_overlap_skip(api: Api, q: Queue, name: str) -> None:
    put(api, name, every_ms=200, queue=q.name, overlap="skip").ok(201)
    told = wait_for(api, name, "skipped", 2)
    assert told["fired"] == 1 and told["last_skip"]["reason"] == "overlap"
    assert q.state()["ready"] == 1
    q.ack(q.take()["lease_token"])
    wait_for(api, name, "fired", 2)
    api.delete(path(name)).ok()


def test_delete(api: Api, name: str) -> None:
    put(api, name).ok(201)
    api.delete(path(name)).ok()
    api.get(path(name)).refused(404, "schedule_not_found")
    for method, tail in (("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run")):
        api.call(method, path(name) + tail).refused(404, "schedule_not_found")


def test_if_match(api: Api, name: str) -> None:
    put(api, name).ok(201)
    told = api.get(path(name)).ok()
    body = {"cron": "1 1 1 1 *", "queue": name}
    api.put(path(name), body, headers={"If-Match": '"999999999"'}).refused(412, "revision_changed")
    api.put(path(name), body, headers={"If-Match": told.headers["etag"]}).ok(200)
    api.call("DELETE", path(name), headers={"If-Match": told.headers["etag"]}).refused(
        412, "revision_changed"
    )
    api.put(path(name + "x"), body, headers={"If-Match": '"1"'}).refused(412, "revision_changed")


def test_list(api: Api, name: str) -> None:
    names = [f"{name}-{letter}" for letter in "abc"]
    for one in reversed(names):
        put(api, one, message={"body": "large"}).ok(201)
    first = api.get(f"/v1/schedules?limit=2&after={name}").ok().told
    assert [one["name"] for one in first["schedules"]] == names[:2] and first["next"] == names[1]
    assert "message" not in first["schedules"][0] and len(first["schedules"][0]["next_fires_at_ms"]) == 5
    rest = api.get(f"/v1/schedules?limit=2&after={names[1]}").ok().told
    assert rest["schedules"][0]["name"] == names[2]
    local = api.get(f"/v1/schedules?limit=1&after={name}&consistency=local").ok().told
    assert "leader_contact_age_ms" in local
    for one in names:
        api.delete(path(one)).ok()


def test_a_repeat_gets_the_first_answer(api: Api, name: str) -> None:
    key = {"Idempotency-Key": name}
    first = api.put(path(name), {"cron": YEARLY, "queue": name}, headers=key).ok(201).told
    again = api.put(path(name), {"cron": YEARLY, "queue": name}, headers=key).ok(201).told
    assert again["repeated"] and (again["index"], again["revision"]) == (first["index"], first["revision"])
    api.put(path(name), {"cron": "1 1 1 1 *", "queue": name}, headers=key).refused(
        409, "idempotency_conflict"
    )


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"cron": "* * * * * *"}, "/cron"),
        ({"cron": "0 0 31 2 *"}, "/cron"),
        ({"cron": "61 * * * *"}, "/cron"),
        ({"cron": ""}, "/cron"),
        ({"cron": "@reboot"}, "/cron"),
        ({"cron": None}, "/cron"),
        ({"cron": 5}, "/cron"),
        ({"every_ms": 1000, "cron": YEARLY}, "/every_ms"),
        ({"every_ms": 1.5}, "/every_ms"),
        ({"timezone": "Mars/Olympus"}, "/timezone"),
        ({"timezone": ""}, "/timezone"),
        ({"queue": "a:b"}, "/queue"),
        ({"queue": ""}, "/queue"),
        ({"queue": None}, "/queue"),
        ({"misfire": "twice"}, "/misfire"),
        ({"overlap": "maybe"}, "/overlap"),
        ({"message": {"body": 1, "nope": 2}}, "/message/nope"),
        ({"message": {"idempotency_key": "k"}}, "/message/idempotency_key"),
        ({"message": {"deliver_at_ms": 5}}, "/message/deliver_at_ms"),
        ({"message": {"depends_on": []}}, "/message/depends_on"),
        ({"message": {"priority": 5000}}, "/message/priority"),
        ({"message": {"ttl_ms": 0}}, "/message/ttl_ms"),
        ({"paused": True}, "/paused"),
    ],
)
def test_what_put_refuses(api: Api, name: str, told: dict[str, Any], field: str) -> None:
    put(api, name, **told).refused(400, "invalid_argument", field)
    api.get(path(name)).refused(404, "schedule_not_found")


def test_a_schedules_name(api: Api) -> None:
    body = {"cron": YEARLY, "queue": "q"}
    api.put(path("n" * 256), body).ok(201)
    for bad in ("n" * 257, "-a", "a:b", "%20"):
        api.put(path(bad), body).refused(400, "invalid_argument", "/name")
    api.delete(path("n" * 256)).ok()


def test_limits_of_an_interval(api: Api, name: str) -> None:
    """Limits EVERY_MS_MIN and EVERY_MS_MAX."""
    for length in (EVERY_MS_MIN, EVERY_MS_MAX):
        assert put(api, name, every_ms=length).status in (200, 201)
    put(api, name, every_ms=EVERY_MS_MIN - 1).refused(400, "invalid_argument", "/every_ms", EVERY_MS_MIN)
    put(api, name, every_ms=EVERY_MS_MAX + 1).refused(400, "invalid_argument", "/every_ms", EVERY_MS_MAX)
    assert api.get(path(name)).ok()["every_ms"] == EVERY_MS_MAX
    api.delete(path(name)).ok()


def test_limits_of_cron_and_message(api: Api, name: str) -> None:
    """Limit CRON_BYTES_MAX, and those of a message."""
    text = "0 0 1 1 " + ",".join(["1"] * 124)
    assert len(text) == CRON_BYTES_MAX - 1
    put(api, name, cron=text + " ").ok(201)
    put(api, name, cron=text + "  ").refused(400, "invalid_argument", "/cron")
    body = "x" * (BODY_BYTES_MAX - 2)
    put(api, name, message={"body": body}).ok(200)
    put(api, name, message={"body": body + "x"}).refused(
        413, "payload_too_large", "/message/body", BODY_BYTES_MAX
    )
    put(api, name, message={"body": [""] * 400_000}).refused(413, "payload_too_large", "/message/body")
    assert api.get(path(name)).ok()["message"]["body"] == body
    api.delete(path(name)).ok()


def test_metrics(api: Api, name: str) -> None:
    put(api, name).ok(201)
    lines = api.get("/metrics").ok().raw.decode().splitlines()
    told = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("trivet_schedule")}
    assert told["trivet_schedules"] >= 1 and told["trivet_schedules_blocked"] >= 0
    assert "trivet_schedule_slots_fired_total" in told
    api.delete(path(name)).ok()
