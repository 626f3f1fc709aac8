"""The SDK's flows: what is sent, and how long a wait waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.client.fake import FakeNode, answer, problem
from tests.unit.client.test_blocking import node  # noqa: F401 - a fixture
from trivet.client import BlockingClient, Client
from trivet.client.errors import FlowNotFound
from trivet.client.leases import Lease
from trivet.client.session import SystemClock


def with_node(*steps: Any) -> FakeNode:
    return FakeNode(steps=list(steps))


async def asked(made: FakeNode, ask: Any) -> Any:
    await made.start()
    try:
        async with Client([made.url]) as client:
            return await ask(client)
    finally:
        await made.stop()


def test_a_flow_is_written_down_step_by_step() -> None:
    made = with_node(answer({"id": "f1", "run_id": "r", "steps": []}, 201))

    async def ask(client: Client) -> Any:
        flow = client.flow("r")
        pay = flow.step("pay", "payments", {"eur": 5}, priority=3, compensate={"queue": "refunds", "body": 1})
        stock = flow.step("stock", "shelves", compensate="returns")
        flow.step("ship", "parcels", after=[pay, stock], on_dependency_failure="run")
        return await flow.create(request_id="once")

    assert asyncio.run(asked(made, ask))["id"] == "f1"
    assert made.seen[0].path == "/v1/flows" and made.seen[0].headers["Idempotency-Key"] == "once"
    assert made.seen[0].body == {
        "run_id": "r",
        "steps": [
            {
                "step_id": "pay",
                "queue": "payments",
                "body": {"eur": 5},
                "priority": 3,
                "compensate": {"queue": "refunds", "body": 1},
            },
            {"step_id": "stock", "queue": "shelves", "body": None, "compensate": {"queue": "returns"}},
            {
                "step_id": "ship",
                "queue": "parcels",
                "body": None,
                "depends_on": ["pay", "stock"],
                "on_dependency_failure": "run",
            },
        ],
    }


def test_a_wait_asks_again_until_the_flow_has_ended() -> None:
    running, ended = {"id": "f1", "state": "compensating"}, {"id": "f1", "state": "compensated"}
    made = with_node(answer(running), answer(ended))
    assert asyncio.run(asked(made, lambda client: client.wait_flow("f1", 60))) == ended
    assert [one.path for one in made.seen] == ["/v1/flows/f1?wait_ms=20000"] * 2


def test_a_wait_ends_by_its_time() -> None:
    running = {"id": "f1", "state": "running"}
    made = with_node(answer(running))
    assert asyncio.run(asked(made, lambda client: client.wait_flow("f1", 0.0))) == running
    assert [one.path for one in made.seen] == ["/v1/flows/f1"]


def test_flows_are_read_and_listed() -> None:
    made = with_node(answer({"flows": [], "next": None}), problem("flow_not_found", 404, "never"))

    async def ask(client: Client) -> None:
        assert (await client.flows(state="running", limit=2, after="f1"))["flows"] == []
        with pytest.raises(FlowNotFound):
            await client.get_flow("f1", local=True)

    asyncio.run(asked(made, ask))
    assert [one.path for one in made.seen] == [
        "/v1/flows?state=running&limit=2&after=f1",
        "/v1/flows/f1?consistency=local",
    ]


def test_the_blocking_skin_writes_flows_too(node: FakeNode) -> None:  # noqa: F811 - the fixture
    node.steps = [answer({"id": "f1", "run_id": "f1", "steps": []}, 201)]
    with BlockingClient([node.url]) as client:
        flow = client.flow()
        flow.step("a", "q")
        assert flow.create()["id"] == "f1"
    assert node.seen[0].body == {"steps": [{"step_id": "a", "queue": "q", "body": None}]}


def test_a_lease_has_the_results_of_its_parents() -> None:
    told = {"id": "m1", "queue": "q", "lease_token": "t", "lease_expires_at_ms": 5}
    assert Lease(told, 0, 0.0, SystemClock()).parents == {}
    assert Lease({**told, "parents": {"a": 1}}, 0, 0.0, SystemClock()).parents == {"a": 1}
