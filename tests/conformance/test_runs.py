"""Runs over HTTP: steps and timeline, events as a page and as a stream, append, replay (R29)."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from tests.conformance.client import MSGPACK, Api, Queue
from tests.conformance.sse import following
from trivet.limits import (
    RUN_APPEND_BYTES_MAX,
    RUN_APPEND_MAX,
    RUN_APPEND_REQUEST_BYTES_MAX,
    RUN_EVENT_DATA_BYTES_MAX,
)


@pytest.fixture
def run() -> str:
    """A run id nobody uses."""
    return f"run-{uuid.uuid4().hex[:12]}"


def start(q: Queue, run: str, step: str = "a", **more: Any) -> str:
    """A message of the run."""
    answer = q.api.post(f"{q.path}/messages", {"body": 1, "run_id": run, "step_id": step, **more}).ok(201)
    return str(answer["messages"][0]["id"])


def finish(q: Queue, **item: Any) -> None:
    (lease,) = q.api.post(f"{q.path}/lease", {"consumer": "w"}).ok()["messages"]
    answer = q.api.post("/v1/ack", {"acks": [{"lease_token": lease["lease_token"], **item}]}).ok()
    assert answer["results"][0]["status"] == "acked"


def append(api: Api, run: str, *events: Any, **more: Any) -> Any:
    return api.post(f"/v1/runs/{run}/events", {"events": list(events)}, **more)


def page(api: Api, run: str, query: str = "") -> Any:
    return api.get(f"/v1/runs/{run}/events{query}", headers={"Accept": "application/json"})


# --- the run ------------------------------------------------------------------------------------------


def test_steps_counts_and_timeline(api: Api, q: Queue, run: str) -> None:
    first = start(q, run)
    second = start(q, run, "b", parent_step_id="a", depends_on=[first])
    told = api.get(f"/v1/runs/{run}").ok()
    assert told["run_id"] == run and told["finished_at_ms"] is None and told["as_of"] > 0
    assert [(s["step_id"], s["message_id"], s["state"]) for s in told["steps"]] == [
        ("a", first, "ready"),
        ("b", second, "blocked"),
    ]
    assert told["steps"][1]["parent_step_id"] == "a" and told["steps"][1]["depends_on"] == [first]
    assert told["counts"]["ready"] == 1 and told["counts"]["blocked"] == 1 and told["counts"]["done"] == 0
    finish(q)
    finish(q)
    told = api.get(f"/v1/runs/{run}").ok()
    assert told["counts"]["done"] == 2 and told["finished_at_ms"] >= told["started_at_ms"]
    lines = [(line["type"], line["message_id"], line.get("consumer")) for line in told["timeline"]]
    assert lines == [
        ("message.ready", first, None),
        ("message.blocked", second, None),
        ("message.leased", first, "w"),
        ("message.done", first, "w"),
        ("message.ready", second, None),
        ("message.leased", second, "w"),
        ("message.done", second, "w"),
    ]
    packed = api.get(f"/v1/runs/{run}", headers={"Accept": MSGPACK}).ok()
    assert packed["timeline"] == told["timeline"] and packed["steps"] == told["steps"]


def test_steps_come_in_pages(api: Api, q: Queue, run: str) -> None:
    ids = [start(q, run, str(n)) for n in range(3)]
    first = api.get(f"/v1/runs/{run}?limit=2").ok()
    assert [s["message_id"] for s in first["steps"]] == ids[:2] and first["next"] == ids[1]
    rest = api.get(f"/v1/runs/{run}?limit=2&after={first['next']}").ok()
    assert [s["message_id"] for s in rest["steps"]] == ids[2:] and rest["next"] is None
    api.get(f"/v1/runs/{run}?limit=1000").ok()
    api.get(f"/v1/runs/{run}?limit=1001").refused(400, "invalid_argument", "/limit", 1000)


def test_runs_are_listed(api: Api, q: Queue, run: str) -> None:
    for n in range(3):
        start(q, f"{run}-{n}")
    found: list[str] = []
    after = ""
    while True:
        told = api.get(f"/v1/runs?limit=2{after}").ok()
        found += [one["run_id"] for one in told["runs"]]
        if told["next"] is None:
            break
        after = f"&after={told['next']}"
    assert [one for one in found if one.startswith(run)] == [f"{run}-{n}" for n in range(3)]
    api.get("/v1/runs?after=x").refused(400, "invalid_argument", "/after")


def test_a_run_nobody_knows(api: Api, run: str) -> None:
    api.get(f"/v1/runs/{run}").refused(404, "run_not_found")
    api.get(f"/v1/runs/{run}/events").refused(404, "run_not_found")
    page(api, run).refused(404, "run_not_found")
    append(api, run, {"type": "t"}).refused(404, "run_not_found")
    api.post(f"/v1/runs/{run}/replay").refused(404, "run_not_found")
    api.get(f"/v1/runs/{'r' * 257}").refused(400, "invalid_argument", "/run_id", 256)


# --- events -------------------------------------------------------------------------------------------


def test_events_are_appended_and_read(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    answer = append(
        api, run, {"type": "token", "data": "hé"}, {"type": "token", "data": {"n": [1, None]}}
    ).ok(201)
    assert answer["events"] == [{"id": 2}, {"id": 3}] and answer["index"] > 0
    assert append(api, run, {"type": "bare"}).ok(201)["events"] == [{"id": 4}]
    told = page(api, run, "?after=1").ok()
    assert [(e["id"], e["type"], e["data"]) for e in told["events"]] == [
        (2, "token", "hé"),
        (3, "token", {"n": [1, None]}),
        (4, "bare", None),
    ]
    assert told["next"] is None and told["first_id"] == 1
    part = page(api, run, "?limit=2").ok()
    assert [e["id"] for e in part["events"]] == [1, 2] and part["next"] == 2
    small = page(api, run, "?max_bytes=1").ok()
    assert [e["id"] for e in small["events"]] == [1] and small["next"] == 1
    packed = api.get(f"/v1/runs/{run}/events?after=1", headers={"Accept": MSGPACK}).ok()
    assert packed["events"] == told["events"]


def test_a_repeated_event_id_is_dropped(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    one = {"type": "t", "data": 1, "event_id": "e1"}
    assert append(api, run, one, one).ok(201)["events"] == [{"id": 2}, {"id": 2, "duplicate": True}]
    again = append(api, run, {**one, "data": 2, "event_id": "e1"}, {"type": "t", "event_id": None}).ok(201)
    assert again["events"] == [{"id": 2, "duplicate": True}, {"id": 3}]


def test_a_repeated_request_appends_once(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    sent = {"events": [{"type": "t"}], "request_id": f"{run}-1"}
    first = api.post(f"/v1/runs/{run}/events", sent).ok(201)
    again = api.post(f"/v1/runs/{run}/events", sent).ok(201)
    assert (
        again["events"] == first["events"] and again["repeated"] is True and again["index"] == first["index"]
    )
    other = {"events": [{"type": "u"}], "request_id": f"{run}-1"}
    api.post(f"/v1/runs/{run}/events", other).refused(409, "idempotency_conflict")


def test_what_append_refuses(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    append(api, run).refused(400, "invalid_argument", "/events")
    append(api, run, {"data": 1}).refused(400, "invalid_argument", "/events/0/type")
    append(api, run, {"type": ""}).refused(400, "invalid_argument", "/events/0/type", 256)
    append(api, run, {"type": "t"}, {"type": "a\nb"}).refused(400, "invalid_argument", "/events/1/type")
    append(api, run, {"type": "message.done"}).refused(400, "invalid_argument", "/events/0/type")
    append(api, run, {"type": "gap"}).refused(400, "invalid_argument", "/events/0/type")
    append(api, run, {"type": "t", "more": 1}).refused(400, "invalid_argument", "/events/0/more")
    append(api, run, {"type": "t", "data": 2**64}).refused(400, "invalid_argument", "/events/0/data")
    assert append(api, run, {"type": "message.delta"}).ok(201)["events"] == [{"id": 2}]


def test_limits_of_an_event(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    append(api, run, {"type": "t" * 256, "event_id": "e" * 256}).ok(201)
    append(api, run, {"type": "t" * 257}).refused(400, "invalid_argument", "/events/0/type", 256)
    append(api, run, {"type": "t", "event_id": "e" * 257}).refused(
        400, "invalid_argument", "/events/0/event_id", 256
    )
    most = RUN_EVENT_DATA_BYTES_MAX
    append(api, run, {"type": "t", "data": "x" * (most - 2)}).ok(201)
    over = append(api, run, {"type": "t", "data": "x" * (most - 1)})
    over.refused(413, "payload_too_large", "/events/0/data", most)


def test_limits_of_an_append(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    append(api, run, *[{"type": "t"}] * RUN_APPEND_MAX).ok(201)
    over = append(api, run, *[{"type": "t"}] * (RUN_APPEND_MAX + 1))
    over.refused(413, "batch_too_large", "/events", RUN_APPEND_MAX)
    quarter = RUN_APPEND_BYTES_MAX // 4
    fits = [{"type": "t", "data": "x" * (quarter - 3)}] * 4  # with its quotes and its type: a quarter each
    append(api, run, *fits).ok(201)
    append(api, run, *fits, {"type": "t"}).refused(413, "batch_too_large", "/events", RUN_APPEND_BYTES_MAX)
    most = RUN_APPEND_REQUEST_BYTES_MAX
    text = b'{"events":[{"type":"t"}]}'
    headers = {"Content-Type": "application/json"}
    path = f"/v1/runs/{run}/events"
    api.call("POST", path, data=text + b" " * (most - len(text)), headers=headers).ok(201)
    spaced = text + b" " * (most - len(text) + 1)
    api.call("POST", path, data=spaced, headers=headers).refused(413, "payload_too_large", "", most)


# --- the stream ---------------------------------------------------------------------------------------


def test_a_stream_tells_what_was_and_what_comes(api: Api, q: Queue, run: str) -> None:
    message = start(q, run)
    with following(api.urls[0], run) as stream:
        (first,) = stream.take(1)
        assert (first.id, first.type) == (1, "message.ready")
        assert first.data == {"message_id": message, "step_id": "a", "queue": q.name}
        append(api, run, {"type": "token", "data": "a\nb\u2028"}, {"type": "token"})
        assert [(e.id, e.type, e.data) for e in stream.take(2)] == [
            (2, "token", "a\nb\u2028"),
            (3, "token", None),
        ]
        finish(q)
        assert [(e.id, e.type) for e in stream.take(2)] == [(4, "message.leased"), (5, "message.done")]


@pytest.mark.parametrize("how", ["after", "header", "both"])
def test_a_stream_goes_on_where_its_reader_was(api: Api, q: Queue, run: str, how: str) -> None:
    start(q, run)
    append(api, run, *[{"type": "t", "data": n} for n in range(5)])
    query = {"after": "?after=3", "header": "", "both": "?after=1"}[how]
    headers = {} if how == "after" else {"Last-Event-ID": "3"}
    with following(api.urls[0], run, query=query, headers=headers) as stream:
        assert [e.id for e in stream.take(3)] == [4, 5, 6]
        append(api, run, {"type": "t"})
        assert [e.id for e in stream.take(1)] == [7]


def test_any_node_streams(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    append(api, run, *[{"type": "t", "data": n} for n in range(300)])
    for url in api.urls:
        with following(url, run, query="?after=1") as stream:
            assert [e.data for e in stream.take(300)] == list(range(300))


def test_trimmed_events_are_told_of(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    for _ in range(21):
        append(api, run, *[{"type": "t", "data": 0}] * RUN_APPEND_MAX).ok(201)
    first = page(api, run).ok()["first_id"]
    assert first == 21_001 - 20_000 + 1
    with following(api.urls[0], run) as stream:
        gap, event = stream.take(2)
        assert (gap.type, gap.id, gap.data) == ("gap", first - 1, {"after": 0, "first_id": first})
        assert event.id == first
    with following(api.urls[0], run, query=f"?after={first - 1}") as stream:
        assert [e.id for e in stream.take(1)] == [first]


def test_a_position_that_is_not_of_this_run(api: Api, q: Queue, run: str) -> None:
    """It was forgotten and made anew under the same name, say. (A follower waits for itself first.)"""
    start(q, run)
    with following(api.urls[0], run, query="?after=77") as stream:
        gap, event = stream.take(2)
        assert (gap.type, gap.id, gap.data) == ("gap", 0, {"after": 77, "first_id": 1})
        assert event.id == 1


def test_what_the_stream_refuses(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    path = f"/v1/runs/{run}/events"
    api.get(path, headers={"Last-Event-ID": "x"}).refused(400, "invalid_argument", "/Last-Event-ID")
    api.get(path + "?after=-1").refused(400, "invalid_argument", "/after", 0)
    api.get(path + "?nope=1").refused(400, "invalid_argument", "/nope")
    api.get(path, headers={"Accept": "text/plain"}).refused(406, "not_acceptable")


def test_a_comment_line_every_15_seconds(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    with following(api.urls[0], run) as stream:
        stream.take(1)
        began = time.monotonic()
        stream.comment(17)
        assert 10 < time.monotonic() - began < 16


def test_head_of_a_stream(api: Api, q: Queue, run: str) -> None:
    start(q, run)
    answer = api.call("HEAD", f"/v1/runs/{run}/events").ok()
    assert answer.raw == b""


# --- replay -------------------------------------------------------------------------------------------


def test_replay_of_a_run_and_of_a_step(api: Api, q: Queue, run: str) -> None:
    first = start(q, run, "a", idempotency_key="k")
    second = start(q, run, "b", depends_on=[first])
    path = f"/v1/runs/{run}/replay"
    assert api.post(path).ok(201)["messages"] == []
    finish(q)
    finish(q)
    told = api.post(path, {"request_id": run}).ok(201)
    again = {one["origin"]["message_id"]: one["id"] for one in told["messages"]}
    assert list(again) == [first, second]
    assert told["messages"][0]["origin"] == {"type": "replay", "message_id": first}
    assert api.post(path, {"request_id": run}).ok(201)["messages"] == told["messages"]
    shown = api.get(f"/v1/messages/{again[second]}").ok()
    assert shown["state"] == "blocked" and shown["depends_on"] == [again[first]]
    assert shown["origin"] == {"type": "replay", "message_id": second}
    assert "idempotency_key" not in api.get(f"/v1/messages/{again[first]}").ok().told
    steps = {s["message_id"]: s for s in api.get(f"/v1/runs/{run}").ok()["steps"]}
    assert steps[first]["replayed_by"] == again[first] and steps[again[first]]["replay_of"] == first
    finish(q)
    finish(q)
    (one,) = api.post(path, {"step_id": "b"}).ok(201)["messages"]
    assert one["origin"]["message_id"] == again[second]
    api.post(path, {"step_id": "nope"}).refused(404, "step_not_found", "/step_id")
    api.post(path, {"step": "a"}).refused(400, "invalid_argument", "/step")
