"""`trivet topic …` against a real node, and a worker that consumes a group."""

from __future__ import annotations

import asyncio
import json

from tests.acceptance.conftest import Run, Start
from tests.acceptance.test_cli import said
from trivet.client import BlockingClient, Client, Lease, TopicNotFound, Worker, group_queue


def test_a_topic_from_the_first_command_to_the_last(dev: Start, trivet: Run) -> None:
    nodes = dev(nodes=1).apis
    assert (
        said(trivet("topic", "create", "orders", "--retention-messages", "9", "-o", "json", nodes=nodes))[
            "retention_messages"
        ]
        == 9
    )
    assert trivet("topic", "publish", "orders", '{"n":0}', nodes=nodes).returncode == 0
    made = trivet(
        "topic", "group", "create", "orders", "mail", "max_attempts=3", "--from-offset", "0", nodes=nodes
    )
    assert made.returncode == 0 and "orders:mail" in made.stdout
    published = said(
        trivet(
            "topic",
            "publish",
            "orders",
            '{"n":1}',
            "--key",
            "k",
            "--header",
            "a=b",
            "-o",
            "json",
            nodes=nodes,
        )
    )
    assert published["offset"] == 1 and published["ids"].keys() == {"mail"}  # type: ignore[attr-defined]
    again = said(trivet("topic", "publish", "orders", '{"n":1}', "--key", "k", "-o", "json", nodes=nodes))
    assert (again["offset"], again["duplicate"]) == (1, True)
    leased = said(trivet("lease", "orders:mail", "--max", "5", "-o", "json", nodes=nodes))["messages"]
    assert [one["offset"] for one in leased] == [0, 1]  # type: ignore[attr-defined,index]
    tokens = [str(one["lease_token"]) for one in leased]  # type: ignore[attr-defined]
    assert trivet("ack", *tokens, nodes=nodes).returncode == 0
    replayed = said(
        trivet("topic", "group", "replay", "orders", "mail", "--from-offset", "1", "-o", "json", nodes=nodes)
    )
    assert replayed["replayed"] == 1
    assert "mail" in trivet("topic", "list", nodes=nodes).stdout
    kept = trivet("topic", "messages", "orders", "--limit", "1", nodes=nodes)
    assert '{"n":0}' in kept.stdout.replace(" ", "") and "--from-offset 1" in kept.stdout + kept.stderr
    assert said(trivet("topic", "group", "show", "orders", "mail", "-o", "json", nodes=nodes))["ready"] == 1
    assert trivet("queue", "show", "orders:mail", nodes=nodes).returncode == 0
    assert trivet("topic", "group", "delete", "orders", "mail", "--yes", nodes=nodes).returncode == 0
    assert said(trivet("topic", "show", "orders", "-o", "json", nodes=nodes))["groups"] == []
    assert trivet("topic", "delete", "orders", "--yes", nodes=nodes).returncode == 0
    missing = trivet("topic", "show", "orders", nodes=nodes)
    assert missing.returncode == 1 and "topic_not_found" in missing.stderr


def test_what_is_wrong_is_said(dev: Start, trivet: Run) -> None:
    nodes = dev(nodes=1).apis
    assert trivet("topic", "create", "t", nodes=nodes).returncode == 0
    assert trivet("topic", "group", "create", "t", "g", nodes=nodes).returncode == 0
    assert trivet("topic", "group", "replay", "t", "g", nodes=nodes).returncode == 2
    refused = trivet("enqueue", "t:g", "1", nodes=nodes)
    assert refused.returncode == 1 and "publish to the topic" in refused.stderr
    assert trivet("topic", "publish", "t", "@nothing", nodes=nodes).returncode == 2


def test_every_worker_of_every_group_gets_its_share(dev: Start) -> None:
    """Two groups, one of them with two workers: each group works on each message once."""
    nodes = dev(nodes=1).apis
    total = 40
    seen: dict[str, list[int]] = {"mail": [], "audit": []}

    async def go() -> None:
        async with Client(nodes) as client:
            await client.put_topic("orders")
            for group in seen:
                await client.put_group("orders", group)
            done = asyncio.Event()

            def handler(group: str):  # type: ignore[no-untyped-def]
                async def handle(lease: Lease) -> None:
                    assert lease.offset is not None
                    seen[group].append(lease.offset)
                    if all(len(each) >= total for each in seen.values()):
                        done.set()

                return handle

            workers = [
                Worker(client, group_queue("orders", g), handler(g)) for g in ("mail", "mail", "audit")
            ]
            running = [asyncio.create_task(worker.run()) for worker in workers]
            await client.publish("orders", {"n": 0})
            answer = await client.publish_many("orders", [{"body": {"n": n}} for n in range(1, total)])
            assert [one["offset"] for one in answer["messages"]] == list(range(1, total))
            await asyncio.wait_for(done.wait(), 20)
            await asyncio.gather(*(worker.stop() for worker in workers))
            await asyncio.gather(*running)

    asyncio.run(go())
    assert {group: sorted(each) for group, each in seen.items()} == {
        group: list(range(total)) for group in seen
    }


def test_the_sdk_without_await(dev: Start) -> None:
    with BlockingClient(dev(nodes=1).apis) as client:
        assert client.put_topic("t", retention_ms=60_000)["retention_ms"] == 60_000
        first = client.put_group("t", "g", max_attempts=2)
        assert client.put_group("t", "g", if_revision=first["revision"])["max_attempts"] == 5
        assert client.publish("t", 7, idempotency_key="k")["offset"] == 0
        assert client.topic("t")["next_offset"] == 1
        assert [one["topic"] for one in client.topics()["topics"]] == ["t"]
        assert client.group("t", "g")["ready"] == 1
        assert client.replay_group("t", "g", from_at_ms=0)["replayed"] == 1
        assert json.dumps(client.topic_messages("t")["messages"][0]["body"]) == "7"
        assert client.delete_group("t", "g")["removed"] == 2
        assert client.delete_topic("t")["removed"] == 0
        try:
            client.topic("t", local=True)
        except TopicNotFound as error:
            assert error.status == 404
        else:
            raise AssertionError("the topic is gone")
