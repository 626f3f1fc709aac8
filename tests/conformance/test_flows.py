"""api.md, Flows: made in one entry, run in order, undone backwards."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.conformance.client import Api, Queue


def step(name: str, queue: Queue, *after: str, undo: Queue | None = None, **more: Any) -> dict[str, Any]:
    made = {"step_id": name, "queue": queue.name, "body": name, "depends_on": list(after), **more}
    if undo is not None:
        made["compensate"] = {"queue": undo.name, "body": f"undo {name}"}
    return made


def create(api: Api, *steps: dict[str, Any], **more: Any) -> Any:
    return api.post("/v1/flows", {"steps": list(steps), **more}).ok(201).told


def flow(api: Api, flow_id: str, **query: Any) -> Any:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return api.get(f"/v1/flows/{flow_id}?{asked}").ok().told


def states(told: dict[str, Any]) -> dict[str, str]:
    found = {one["step_id"]: one["state"] for one in told["steps"]}
    undone = {
        "-" + one["step_id"]: one["compensation"]["state"] for one in told["steps"] if "compensation" in one
    }
    return found | undone


@pytest.fixture
def undo(api: Api) -> Queue:
    return Queue(api, f"t-{uuid.uuid4().hex[:12]}")


def test_steps_come_in_any_order_and_are_answered_in_it(api: Api, q: Queue) -> None:
    told = create(api, step("c", q, "a", "b"), step("b", q, "a"), step("a", q))
    assert [(one["step_id"], one["state"]) for one in told["steps"]] == [
        ("c", "blocked"),
        ("b", "blocked"),
        ("a", "ready"),
    ]
    assert told["id"].startswith("f") and told["run_id"] == told["id"] and told["index"] > 0
    shown = flow(api, told["id"])
    assert shown["state"] == "running" and shown["steps"][0]["depends_on"] == ["a", "b"]
    message = q.message(told["steps"][0]["message_id"])
    assert (message["run_id"], message["step_id"]) == (told["run_id"], "c")
    assert message["depends_on"] == [told["steps"][2]["message_id"], told["steps"][1]["message_id"]]
    assert message["origin"] == {"type": "flow", "flow_id": told["id"]}


def test_fan_in_is_given_the_results_of_all_its_parents(api: Api, q: Queue) -> None:
    told = create(api, step("a", q), step("b", q), step("c", q, "a", "b"), run_id="my-run")
    assert told["run_id"] == "my-run"
    for lease in q.lease(2):
        assert lease["parents"] == {}
        more = {"result": {"from": lease["step_id"]}} if lease["step_id"] == "a" else {}
        assert q.ack(lease["lease_token"], **more)["status"] == "acked"
    last = q.take()
    assert last["parents"] == {"a": {"from": "a"}, "b": None}
    packed = api.packed("POST", q.path + "/lease", {"consumer": "c", "max_messages": 1})
    assert packed.ok()["messages"] == []
    q.ack(last["lease_token"])
    ended = flow(api, told["id"])
    assert (ended["state"], ended["counts"]["done"]) == ("done", 3) and ended["finished_at_ms"] > 0


def test_parents_in_messagepack(api: Api, q: Queue) -> None:
    create(api, step("a", q), step("b", q, "a"))
    q.ack(q.take()["lease_token"], result=[1, "two"])
    ask = {"consumer": "c", "max_messages": 1}
    (lease,) = api.packed("POST", q.path + "/lease", ask).ok()["messages"]
    assert lease["parents"] == {"a": [1, "two"]}


def test_the_failure_of_a_chain_is_one_entry(api: Api, q: Queue, undo: Queue) -> None:
    told = create(api, step("a", q, undo=undo), step("b", q, "a", undo=undo), step("c", q, "b"))
    q.ack(q.take()["lease_token"], result="paid")
    second = q.take()
    nack = {"nacks": [{"lease_token": second["lease_token"], "dead_letter": True}]}
    index = api.post("/v1/nack", nack).ok()["index"]
    shown = flow(api, told["id"])
    assert shown["as_of"] >= index and shown["state"] == "compensating"
    assert states(shown) == {"a": "done", "b": "dead", "c": "dead", "-a": "ready"}
    assert shown["steps"][2]["dead_reason"] == "dependency_failed"
    lease = undo.take()
    assert (lease["body"], lease["run_id"], lease["step_id"]) == ("undo a", told["run_id"], "a")
    assert lease["parents"] == {"a": "paid"}
    waiting = api.soon("GET", f"/v1/flows/{told['id']}?wait_ms=20000")
    undo.ack(lease["lease_token"])
    assert waiting.result(20).ok()["state"] == "compensated"


def test_compensations_run_in_the_reverse_order_of_the_ends(api: Api, q: Queue, undo: Queue) -> None:
    told = create(api, *[step(name, q, undo=undo) for name in "abc"], step("d", q, "a", "b", "c", undo=undo))
    leases = {lease["step_id"]: lease["lease_token"] for lease in q.lease(3)}
    for name in "bca":
        q.ack(leases[name])
    q.nack(q.take()["lease_token"], dead_letter=True)
    order = []
    for _ in range(3):
        (lease,) = undo.lease(5, wait_ms=2000)
        order.append(lease["step_id"])
        if len(order) == 2:
            undo.nack(lease["lease_token"], dead_letter=True)
        else:
            undo.ack(lease["lease_token"])
    assert order == ["a", "c", "b"]
    assert flow(api, told["id"], wait_ms=1000)["state"] == "failed"


def test_nothing_new_starts_when_a_saga_turns_round(api: Api, q: Queue, undo: Queue) -> None:
    told = create(
        api, step("a", q), step("b", q, undo=undo), step("c", q, delay_ms=60_000), step("d", q, "c")
    )
    one, two = q.lease(2)
    q.nack(one["lease_token"], dead_letter=True)
    assert states(flow(api, told["id"])) == {"a": "dead", "b": "leased", "c": "cancelled", "d": "dead"}
    assert q.nack(two["lease_token"])["state"] == "cancelled"
    assert flow(api, told["id"])["state"] == "failed" and q.lease() == []


def test_without_compensations_other_branches_go_on(api: Api, q: Queue) -> None:
    told = create(api, step("a", q), step("b", q), step("c", q, "a"), step("d", q, "b"))
    one, two = q.lease(2)
    q.nack(one["lease_token"], dead_letter=True)
    q.ack(two["lease_token"])
    q.ack(q.take()["lease_token"])
    shown = flow(api, told["id"])
    assert shown["state"] == "failed"
    assert states(shown) == {"a": "dead", "b": "done", "c": "dead", "d": "done"}
    assert api.post(q.path + "/dead/redrive").ok()["redriven"] == 2
    assert flow(api, told["id"])["state"] == "running"


def test_the_same_request_makes_one_flow(api: Api, q: Queue) -> None:
    asked = {"steps": [step("b", q, "a"), step("a", q)], "request_id": uuid.uuid4().hex}
    first = api.post("/v1/flows", asked).ok(201).told
    again = api.post("/v1/flows", asked).ok(201).told
    assert again == {**first, "repeated": True} and q.state()["ready"] == 1
    other = {**asked, "steps": [step("a", q)]}
    api.post("/v1/flows", other).refused(409, "idempotency_conflict")


def test_a_key_of_a_step_must_be_new(api: Api, q: Queue) -> None:
    known = q.send("a", idempotency_key="k")
    refused = api.post("/v1/flows", {"steps": [step("x", q), step("a", q, idempotency_key="k")]})
    refused.refused(409, "idempotency_conflict", "/steps/1/idempotency_key")
    assert q.state()["ready"] == 1
    told = create(api, step("b", q, idempotency_key="new"))
    answer = api.post(q.path + "/messages", {"body": "b", "idempotency_key": "new"}).ok(201)
    assert answer["messages"][0]["id"] == told["steps"][0]["message_id"] != known


@pytest.mark.parametrize(
    ("steps", "field"),
    [
        ([], "/steps"),
        ([{"step_id": "a"}], "/steps/0/queue"),
        ([{"queue": "q"}], "/steps/0/step_id"),
        ([{"step_id": "", "queue": "q"}], "/steps/0/step_id"),
        ([{"step_id": "a", "queue": "q:q"}], "/steps/0/queue"),
        ([{"step_id": "a", "queue": "q"}, {"step_id": "a", "queue": "q"}], "/steps/1/step_id"),
        ([{"step_id": "a", "queue": "q", "depends_on": ["b"]}], "/steps/0/depends_on/0"),
        ([{"step_id": "a", "queue": "q", "depends_on": ["a"]}], "/steps/0/depends_on"),
        (
            [
                {"step_id": "x", "queue": "q", "depends_on": ["b"]},
                {"step_id": "a", "queue": "q", "depends_on": ["b"]},
                {"step_id": "b", "queue": "q", "depends_on": ["a"]},
            ],
            "/steps/2/depends_on",
        ),
        ([{"step_id": "a", "queue": "q", "run_id": "r"}], "/steps/0/run_id"),
        ([{"step_id": "a", "queue": "q", "priority": 1001}], "/steps/0/priority"),
        ([{"step_id": "a", "queue": "q", "colour": "red"}], "/steps/0/colour"),
        ([{"step_id": "a", "queue": "q", "compensate": {}}], "/steps/0/compensate/queue"),
        (
            [{"step_id": "a", "queue": "q", "compensate": {"queue": "q", "idempotency_key": "k"}}],
            "/steps/0/compensate/idempotency_key",
        ),
        (
            [{"step_id": "a", "queue": "q", "compensate": {"queue": "q", "delay_ms": -1}}],
            "/steps/0/compensate/delay_ms",
        ),
        (["a"], "/steps/0"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field(api: Api, steps: list[Any], field: str) -> None:
    api.post("/v1/flows", {"steps": steps}).refused(400, "invalid_argument", field)


def test_null_is_absent_in_steps_too(api: Api, q: Queue) -> None:
    given = {**step("a", q), "compensate": None, "group": None}
    assert create(api, given)["steps"][0]["state"] == "ready"
    given = {**step("a", q), "compensate": {"queue": q.name, "group": None}}
    assert flow(api, create(api, given)["id"])["saga"] is True


def test_a_refused_flow_enqueues_nothing(api: Api, q: Queue) -> None:
    q.put(max_messages=2).ok(200)
    refused = api.post("/v1/flows", {"steps": [step(name, q) for name in "abc"]})
    refused.refused(429, "queue_full", limit=2)
    assert q.state()["ready"] == 0
    api.post(q.path + "/pause", {"enqueue": True, "lease": False}).ok()
    api.post("/v1/flows", {"steps": [step("a", q)]}).refused(409, "queue_paused", "/steps/0/queue")


def test_a_flow_has_at_most_1000_steps(api: Api, q: Queue) -> None:
    told = create(api, *[step(f"s{n}", q) for n in range(1000)])
    assert len(told["steps"]) == 1000 and q.state()["ready"] == 1000
    many = [step(f"s{n}", q) for n in range(1001)]
    api.post("/v1/flows", {"steps": many}).refused(413, "batch_too_large", "/steps", 1000)


def test_a_step_has_at_most_100_dependencies(api: Api, q: Queue) -> None:
    first = [step(f"s{n}", q) for n in range(101)]
    names = [one["step_id"] for one in first]
    create(api, *first, step("last", q, *names[:100]))
    refused = api.post("/v1/flows", {"steps": [*first, step("last", q, *names)]})
    refused.refused(400, "invalid_argument", "/steps/101/depends_on", 100)


def test_a_flow_has_at_most_8_mib(api: Api, q: Queue, undo: Queue) -> None:
    body = "x" * (1024 * 1024 - 2)
    whole = [step(f"s{n}", q) | {"body": body} for n in range(7)]
    whole[0]["compensate"] = {"queue": undo.name, "body": body}
    create(api, *whole)
    refused = api.post("/v1/flows", {"steps": [*whole, step("more", q)]})
    refused.refused(413, "batch_too_large", "/steps", 8 * 1024 * 1024)
    heavy = step("a", q) | {"body": body + "xx"}
    api.post("/v1/flows", {"steps": [heavy]}).refused(413, "payload_too_large", "/steps/0/body")
    heavy = step("a", q) | {"compensate": {"queue": undo.name, "body": [1] * 600_000}}
    api.post("/v1/flows", {"steps": [heavy]}).refused(413, "payload_too_large", "/steps/0/compensate/body")


def test_list(api: Api, q: Queue) -> None:
    made = [create(api, step("a", q))["id"] for _ in range(3)]
    q.ack(q.take()["lease_token"])
    before = f"f{int(made[0][1:], 16) - 1:012x}"
    told = api.get(f"/v1/flows?after={before}&limit=2").ok().told
    assert [one["id"] for one in told["flows"]] == made[:2] and told["next"] == made[1]
    rest = api.get(f"/v1/flows?after={told['next']}&limit=2").ok().told
    assert [one["id"] for one in rest["flows"]] == made[2:] and rest["next"] is None
    running = api.get(f"/v1/flows?after={before}&state=running").ok().told
    assert [one["id"] for one in running["flows"]] == made[1:]
    api.get("/v1/flows?state=bored").refused(400, "invalid_argument", "/state")
    api.get("/v1/flows?after=x").refused(400, "invalid_argument", "/after")


def test_no_flow(api: Api) -> None:
    api.get("/v1/flows/f00000000ffff").refused(404, "flow_not_found")
    api.get("/v1/flows/m000000000001").refused(404, "flow_not_found")


def test_a_wait_ends_with_the_flow_or_by_its_time(api: Api, q: Queue) -> None:
    made = create(api, step("a", q))
    assert flow(api, made["id"], wait_ms=50)["state"] == "running"
    waiting = api.soon("GET", f"/v1/flows/{made['id']}?wait_ms=20000")
    q.ack(q.take()["lease_token"])
    assert waiting.result(20).ok()["state"] == "done"


def test_deleting_a_queue_cancels_its_steps(api: Api, q: Queue, undo: Queue) -> None:
    made = create(api, step("a", undo), step("b", undo), step("c", q, "a"))
    api.delete(undo.path).ok()
    assert flow(api, made["id"], wait_ms=10_000)["state"] == "failed"
    assert states(flow(api, made["id"])) == {"a": "cancelled", "b": "cancelled", "c": "dead"}
