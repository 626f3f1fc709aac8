"""api.md, "Queues" and its settled shapes; rules R21–R23, R30, R31."""

from __future__ import annotations

import pytest

from tests.acceptance.contract.helper import Api, eventually

DEFAULTS = {
    "lease_ms": 30_000,
    "max_attempts": 5,
    "backoff": {
        "type": "exponential",
        "base_ms": 1000,
        "factor": 2,
        "max_ms": 300_000,
        "jitter": 0.5,
        "delays_ms": [],
    },
    "ttl_ms": None,
    "dead_retention_ms": 1_209_600_000,
    "max_dead": 100_000,
    "idempotency_window_ms": 3_600_000,
    "retention_ms": 0,
    "result_retention_ms": 3_600_000,
    "max_messages": None,
    "max_bytes": None,
    "on_full": "reject",
    "max_leased": None,
    "rate_limit": None,
    "max_leased_per_group": 1,
    "breaker": None,
}
COUNTS = ("ready", "leasable", "delayed", "leased", "dead", "blocked")


def test_put_creates_then_replaces(api: Api, name: str) -> None:
    created = api.put(f"/v1/queues/{name}", {"lease_ms": 5000, "max_attempts": 2})
    assert created.status == 201
    answer = api.get(f"/v1/queues/{name}").ok()
    assert answer["queue"] == name
    assert {key: answer[key] for key in DEFAULTS} == {**DEFAULTS, "lease_ms": 5000, "max_attempts": 2}
    assert all(answer[count] == 0 for count in COUNTS)
    assert answer["bytes"] == 0
    assert answer["paused"] == {"enqueue": False, "lease": False}
    assert answer["oldest_ready_age_ms"] is None
    assert type(answer["revision"]) is int
    replaced = api.put(f"/v1/queues/{name}", {"max_attempts": 7})
    assert replaced.status == 200
    again = api.get(f"/v1/queues/{name}").ok()
    assert {key: again[key] for key in DEFAULTS} == {**DEFAULTS, "max_attempts": 7}, "replaced, not merged"
    assert again["revision"] > answer["revision"]


def test_put_answers_with_the_queue(api: Api, name: str) -> None:
    answer = api.put(f"/v1/queues/{name}", {"lease_ms": 5000}).ok(201)
    assert answer["queue"] == name and answer["lease_ms"] == 5000 and answer["revision"] >= 1
    assert api.patch(f"/v1/queues/{name}", {"lease_ms": 6000}).ok()["lease_ms"] == 6000


def test_put_needs_no_body(api: Api, name: str) -> None:
    assert api.put(f"/v1/queues/{name}").status == 201
    assert api.get(f"/v1/queues/{name}").ok()["max_attempts"] == 5


def test_patch_changes_only_what_is_given(api: Api, name: str) -> None:
    api.queue(name, lease_ms=5000, backoff={"type": "fixed", "base_ms": 10})
    api.patch(f"/v1/queues/{name}", {"max_attempts": 9, "backoff": {"jitter": 0}}).ok()
    answer = api.get(f"/v1/queues/{name}").ok()
    assert answer["lease_ms"] == 5000 and answer["max_attempts"] == 9
    assert answer["backoff"] == {**DEFAULTS["backoff"], "type": "fixed", "base_ms": 10, "jitter": 0}
    api.put(f"/v1/queues/{name}", {"backoff": {"base_ms": 7}}).ok()
    assert api.get(f"/v1/queues/{name}").ok()["backoff"] == {**DEFAULTS["backoff"], "base_ms": 7}
    api.patch(f"/v1/queues/{name}-none", {"max_attempts": 9}).refused(404, "queue_not_found")


def test_patch_null_sets_null_where_null_means_something(api: Api, name: str) -> None:
    api.queue(name, ttl_ms=5000, max_messages=3, max_bytes=100, max_leased=2)
    api.patch(
        f"/v1/queues/{name}", {"ttl_ms": None, "max_messages": None, "max_bytes": None, "max_leased": None}
    ).ok()
    answer = api.get(f"/v1/queues/{name}").ok()
    assert [answer[key] for key in ("ttl_ms", "max_messages", "max_bytes", "max_leased")] == [None] * 4
    api.patch(f"/v1/queues/{name}", {"lease_ms": None}).refused(400, "invalid_argument", "/lease_ms")


def test_if_match_guards_the_revision(api: Api, name: str) -> None:
    api.queue(name)
    for quoted in (False, True):
        revision = api.get(f"/v1/queues/{name}").ok()["revision"]
        match = {"If-Match": f'"{revision}"' if quoted else str(revision)}
        api.patch(f"/v1/queues/{name}", {"lease_ms": 4000 + revision}, headers=match).ok()
        stale = api.patch(f"/v1/queues/{name}", {"lease_ms": 1}, headers=match)
        stale.refused(412, "revision_changed")
        api.put(f"/v1/queues/{name}", {"lease_ms": 1}, headers=match).refused(412, "revision_changed")
        assert api.get(f"/v1/queues/{name}").ok()["lease_ms"] == 4000 + revision
    missing = api.put(f"/v1/queues/{name}x", {}, headers={"If-Match": "1"})
    assert missing.status in (404, 412), missing
    api.get(f"/v1/queues/{name}x").refused(404, "queue_not_found")
    api.put(f"/v1/queues/{name}", {}, headers={"If-Match": "zzz"}).refused(400, "invalid_argument")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("lease_ms", [1, 43_200_000], [0, -1, 43_200_001, 1.5, "1", True, 2**70]),
        ("max_attempts", [0, 1, 1000], [-1, "5", 1.5, True]),
        ("ttl_ms", [1, 400 * 86_400_000, None], [0, -5, 400 * 86_400_000 + 1, "x"]),
        ("max_messages", [1, None], [-1, "x", 1.5]),
        ("max_bytes", [1, None], [-1, "x"]),
        ("on_full", ["reject", "dead_letter_oldest"], ["drop", 1, None]),
        ("max_leased", [1, None], [-1, "x"]),
        ("max_leased_per_group", [1, 5], [0, -1, "x", None]),
        ("max_dead", [0, 100_000], [-1, "x"]),
        ("dead_retention_ms", [0, 1_209_600_000], [-1, "x"]),
        ("idempotency_window_ms", [1, 3_600_000], [-1, "x"]),
        ("retention_ms", [0, 5], [-1, "x"]),
        ("result_retention_ms", [0, 5], [-1, "x"]),
    ],
)
def test_the_range_of_each_field(
    api: Api, name: str, field: str, good: list[object], bad: list[object]
) -> None:
    api.queue(name)
    for value in good:
        api.put(f"/v1/queues/{name}", {field: value}).ok()
        assert api.get(f"/v1/queues/{name}").ok()[field] == value
    before = api.get(f"/v1/queues/{name}").ok()["revision"]
    for value in bad:
        api.put(f"/v1/queues/{name}", {field: value}).refused(400, "invalid_argument", f"/{field}")
        api.patch(f"/v1/queues/{name}", {field: value}).refused(400, "invalid_argument", f"/{field}")
    assert api.get(f"/v1/queues/{name}").ok()["revision"] == before


@pytest.mark.parametrize(
    ("backoff", "field"),
    [
        ({"type": "linear"}, "/backoff/type"),
        ({"base_ms": -1}, "/backoff/base_ms"),
        ({"factor": 0.5}, "/backoff/factor"),
        ({"factor": 1.2345}, "/backoff/factor"),
        ({"jitter": 1.5}, "/backoff/jitter"),
        ({"jitter": -0.1}, "/backoff/jitter"),
        ({"jitter": 0.0001}, "/backoff/jitter"),
        ({"max_ms": -1}, "/backoff/max_ms"),
        ({"delays_ms": [-1]}, "/backoff/delays_ms/0"),
        ({"delays_ms": 5}, "/backoff/delays_ms"),
        ([], "/backoff"),
        (None, "/backoff"),
    ],
)
def test_backoff_is_checked(api: Api, name: str, backoff: object, field: str) -> None:
    api.put(f"/v1/queues/{name}", {"backoff": backoff}).refused(400, "invalid_argument", field)


def test_backoff_list_needs_delays(api: Api, name: str) -> None:
    api.put(f"/v1/queues/{name}", {"backoff": {"type": "list"}}).refused(400, "invalid_argument")
    api.queue(name, backoff={"type": "list", "delays_ms": [1, 2, 3], "factor": 1.234})
    stored = api.get(f"/v1/queues/{name}").ok()["backoff"]
    assert stored["delays_ms"] == [1, 2, 3] and stored["factor"] == 1.234


def test_rate_limit_and_breaker_are_refused_clearly_until_their_issue(api: Api, name: str) -> None:
    for field, value in (("rate_limit", {"per_second": 5, "burst": 5}), ("breaker", {"failures": 5})):
        reply = api.put(f"/v1/queues/{name}", {field: value})
        assert reply.status in (400, 501), reply
        assert reply["field"].startswith(f"/{field}")
    api.queue(name, rate_limit=None, breaker=None)


@pytest.mark.parametrize("good", ["a", "A9._-z", "7", "x" * 256])
def test_good_names(api: Api, name: str, good: str) -> None:
    assert api.put(f"/v1/queues/{good}", {}).status in (200, 201)
    api.delete(f"/v1/queues/{good}").ok()


@pytest.mark.parametrize(
    "bad", ["-a", ".a", "_a", "a:b", "a%20b", "a%2Fb", "%C3%BC", "x" * 257, "a%00", "a$", "a%0A"]
)
def test_bad_names(api: Api, bad: str) -> None:
    assert api.put(f"/v1/queues/{bad}", {}).status == 400
    api.put(f"/v1/queues/{bad}", {}).refused(400, "invalid_argument")
    api.post(f"/v1/queues/{bad}/messages", {"body": 1}).refused(400, "invalid_argument")


def test_the_list_is_paged_by_name(api: Api, name: str) -> None:
    names = [f"{name}-list-{n}" for n in range(5)]
    for each in reversed(names):
        api.queue(each)
    api.enqueue(names[1])
    page = api.get(f"/v1/queues?limit=2&after={name}-list-").ok()
    assert [item["queue"] for item in page["queues"]] == names[:2]
    assert page["queues"][1]["ready"] == 1
    assert set(COUNTS) <= set(page["queues"][0])
    assert page["next"] == names[1]
    page = api.get(f"/v1/queues?limit=2&after={page['next']}").ok()
    assert [item["queue"] for item in page["queues"]] == names[2:4]
    everything, after = [], ""
    while True:
        page = api.get(f"/v1/queues?limit=3{after and '&after=' + after}").ok()
        everything += [item["queue"] for item in page["queues"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert everything == sorted(set(everything)) and set(names) <= set(everything)
    for bad in ("0", "-1", "x", "1001", ""):
        api.get(f"/v1/queues?limit={bad}").refused(400, "invalid_argument")


def test_counts_follow_each_state(api: Api, name: str) -> None:
    api.queue(name)
    first = api.enqueue(name, body="1234")
    api.enqueue(name, body=1)
    api.enqueue(name, body=1, delay_ms=60_000)
    api.enqueue(name, body=1, depends_on=[first])
    api.enqueue(name, body=1, group="g")
    api.enqueue(name, body=1, group="g")
    zero = dict.fromkeys(COUNTS, 0)
    assert api.counts(name) == {**zero, "ready": 4, "leasable": 3, "delayed": 1, "blocked": 1}
    queue = api.get(f"/v1/queues/{name}").ok()
    assert queue["bytes"] >= 6 + 5
    assert 0 <= queue["oldest_ready_age_ms"] < 10_000
    lease = api.one(name)
    assert lease["id"] == first
    assert api.counts(name) == {**zero, "ready": 3, "leasable": 2, "delayed": 1, "blocked": 1, "leased": 1}
    api.ack(lease["lease_token"])
    assert api.counts(name) == {**zero, "ready": 4, "leasable": 3, "delayed": 1}
    api.nack(api.one(name)["lease_token"], dead_letter=True)
    assert api.counts(name) == {**zero, "ready": 3, "leasable": 2, "delayed": 1, "dead": 1}


def test_a_queue_comes_with_its_first_enqueue(api: Api, name: str) -> None:
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")
    api.post(f"/v1/queues/{name}/lease", {"consumer": "c"}).refused(404, "queue_not_found")
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")
    api.enqueue(name)
    assert api.get(f"/v1/queues/{name}").ok()["lease_ms"] == 30_000


def test_calls_on_a_queue_that_is_not(api: Api, name: str) -> None:
    for method, path in [
        ("DELETE", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/purge"),
        ("GET", "/messages"),
        ("GET", "/dead"),
        ("DELETE", "/dead"),
        ("POST", "/dead/redrive"),
    ]:
        api.call(method, f"/v1/queues/{name}{path}").refused(404, "queue_not_found")


def test_delete_takes_the_messages_with_it(api: Api, name: str) -> None:
    api.queue(name)
    number = api.enqueue(name)
    waiting = api.enqueue(name, idempotency_key="k")
    token = api.one(name)["lease_token"]
    api.delete(f"/v1/queues/{name}").ok()
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")
    for each in (number, waiting):
        api.get(f"/v1/messages/{each}").refused(404, "message_not_found")
    assert api.ack(token)[0]["status"] == "not_found"
    api.queue(name)
    assert api.counts(name)["ready"] == 0
    reply = api.post(f"/v1/queues/{name}/messages", {"idempotency_key": "k"}).ok(201)
    assert reply["messages"][0]["duplicate"] is False, "a deleted queue drops its keys"
    assert reply["messages"][0]["id"] not in (number, waiting)


def test_pause_and_resume(api: Api, name: str) -> None:
    api.enqueue(name)
    api.post(f"/v1/queues/{name}/pause").ok()
    assert api.get(f"/v1/queues/{name}").ok()["paused"] == {"enqueue": False, "lease": True}
    assert api.lease(name) == []
    api.enqueue(name)
    assert api.counts(name)["ready"] == 2
    api.post(f"/v1/queues/{name}/pause", {"enqueue": True}).ok()
    assert api.get(f"/v1/queues/{name}").ok()["paused"]["enqueue"] is True
    problem = api.post(f"/v1/queues/{name}/messages", {"body": 1}).refused(409, "queue_paused")
    assert problem["retry"] == "later"
    api.post(f"/v1/queues/{name}/resume").ok()
    assert api.get(f"/v1/queues/{name}").ok()["paused"] == {"enqueue": False, "lease": False}
    assert len(api.lease(name, 5)) == 2


def test_pausing_enqueue_alone_lets_leases_go_on(api: Api, name: str) -> None:
    api.enqueue(name)
    api.post(f"/v1/queues/{name}/pause", {"enqueue": True, "lease": False}).ok()
    assert api.get(f"/v1/queues/{name}").ok()["paused"] == {"enqueue": True, "lease": False}
    token = api.one(name)["lease_token"]
    assert api.ack(token)[0]["status"] == "acked"
    for bad in ({"enqueue": 1}, {"lease": "yes"}, {"x": True}):
        api.post(f"/v1/queues/{name}/pause", bad).refused(400, "invalid_argument")


def test_purge_leaves_the_leased_and_the_keys(api: Api, name: str) -> None:
    api.enqueue(name, body=0)
    token = api.one(name)["lease_token"]
    gone = api.enqueue(name, body=1, idempotency_key="k")
    api.enqueue(name, body=2, delay_ms=60_000)
    api.enqueue(name, body=3)
    assert api.post(f"/v1/queues/{name}/purge").ok()["removed"] == 3
    assert api.counts(name) == {**dict.fromkeys(COUNTS, 0), "leased": 1}
    again = api.post(f"/v1/queues/{name}/messages", {"body": 1, "idempotency_key": "k"}).ok(201)
    assert again["messages"][0] | {"state": ""} == {"id": gone, "duplicate": True, "state": ""}
    assert api.ack(token)[0]["status"] == "acked"
    assert api.post(f"/v1/queues/{name}/purge").ok()["removed"] == 0


def test_purge_and_the_dead(api: Api, name: str) -> None:
    """Silent in api.md: dead letters are a set of the queue with their own DELETE, so a purge leaves them."""
    api.kill_message(name)
    assert api.post(f"/v1/queues/{name}/purge").ok()["removed"] == 0
    assert api.counts(name)["dead"] == 1


def test_max_messages_rejects(api: Api, name: str) -> None:
    api.queue(name, max_messages=2)
    api.enqueue(name, idempotency_key="k")
    problem = api.post(f"/v1/queues/{name}/messages", {"messages": [{}, {}]}).refused(429, "queue_full")
    assert problem["retry"] == "later"
    assert api.counts(name)["ready"] == 1, "all or nothing"
    api.enqueue(name)
    reply = api.post(f"/v1/queues/{name}/messages", {}).refused(429, "queue_full")
    assert reply["limit"] == 2
    twin = api.post(f"/v1/queues/{name}/messages", {"idempotency_key": "k"}).ok(201)
    assert twin["messages"][0]["duplicate"] is True, "duplicates do not count against limits"
    api.ack(api.one(name)["lease_token"])
    api.enqueue(name)


def test_max_bytes_rejects(api: Api, name: str) -> None:
    api.queue(name, max_bytes=100)
    api.enqueue(name, body="x" * 60)
    api.post(f"/v1/queues/{name}/messages", {"body": "x" * 60}).refused(429, "queue_full")
    api.enqueue(name, body="x" * 20)


def test_dead_letter_oldest_makes_room(api: Api, name: str) -> None:
    api.queue(name, max_messages=2, on_full="dead_letter_oldest")
    numbers = [api.enqueue(name, body=n) for n in range(3)]
    assert api.counts(name)["ready"] == 2 and api.counts(name)["dead"] == 1
    dead = api.get(f"/v1/queues/{name}/dead").ok()["messages"]
    assert [(m["id"], m["dead_reason"]) for m in dead] == [(numbers[0], "queue_full")]
    assert [m["id"] for m in api.lease(name, 5)] == numbers[1:]


def test_max_leased_caps_concurrency(api: Api, name: str) -> None:
    api.queue(name, max_leased=2)
    for n in range(4):
        api.enqueue(name, body=n)
    leases = api.lease(name, 10)
    assert len(leases) == 2 and api.lease(name) == []
    api.ack(leases[0]["lease_token"])
    assert len(api.lease(name, 10)) == 1
    api.patch(f"/v1/queues/{name}", {"max_leased": None}).ok()
    assert len(api.lease(name, 10)) == 1


def test_oldest_ready_age_grows(api: Api, name: str) -> None:
    api.enqueue(name)
    eventually(lambda: api.get(f"/v1/queues/{name}").ok()["oldest_ready_age_ms"] >= 100)
