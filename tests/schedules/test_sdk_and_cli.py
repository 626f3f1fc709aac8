"""The SDK's and the command line's verbs for schedules, against a real node."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conformance.conftest import NodeInThread
from trivet.cli.main import main
from trivet.cli.schedules import length_ms
from trivet.client import ApiError, BlockingClient, Client, ScheduleNotFound


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="trivet-schedules-") as data_dir, NodeInThread(data_dir) as node:
        yield node.url


def test_the_sdk(url: str) -> None:
    async def play() -> None:
        async with Client([url]) as client:
            made = await client.put_schedule(
                "nightly",
                "reports",
                {"kind": "daily"},
                cron="30 2 * * *",
                timezone="Europe/Berlin",
                priority=5,
            )
            assert made["message"] == {"body": {"kind": "daily"}, "priority": 5}
            again = await client.put_schedule(
                "nightly",
                "reports",
                {"kind": "daily"},
                cron="30 2 * * *",
                timezone="Europe/Berlin",
                priority=5,
            )
            assert again["revision"] == made["revision"]
            with pytest.raises(ApiError) as changed:
                await client.put_schedule("nightly", "reports", cron="0 0 * * *", if_revision=10**6)
            assert changed.value.code == "revision_changed"
            with pytest.raises(ApiError) as wrong:
                await client.put_schedule("nightly", "reports", cron="0 0 31 2 *")
            assert (wrong.value.code, wrong.value.field) == ("invalid_argument", "/cron")
            assert (await client.pause_schedule("nightly"))["paused"]
            ran = await client.run_schedule("nightly", request_id="once")
            assert (await client.run_schedule("nightly", request_id="once"))["message_id"] == ran[
                "message_id"
            ]
            assert not (await client.resume_schedule("nightly"))["paused"]
            shown = await client.schedule("nightly", local=True)
            assert (
                shown["last_fire"]["message_id"] == ran["message_id"] and len(shown["next_fires_at_ms"]) == 5
            )
            listed = await client.schedules(limit=1, after="n")
            assert [one["name"] for one in listed["schedules"]] == ["nightly"]
            await client.delete_schedule("nightly", if_revision=made["revision"])
            with pytest.raises(ScheduleNotFound):
                await client.schedule("nightly")

    asyncio.run(play())


def test_a_schedule_wakes_a_worker_that_waits(url: str) -> None:
    """Without polling: the lease is parked before anything is due."""

    async def play() -> None:
        async with Client([url]) as client:
            await client.put_queue("ticks")
            await client.put_schedule("tick", "ticks", {"n": 1}, every_ms=300)
            keys = []
            for _ in range(3):
                leases = await client.lease("ticks", consumer="w", wait_ms=5000)
                keys += [lease.data["idempotency_key"] for lease in leases]
                await client.ack(leases[0])
            await client.delete_schedule("tick")
            slots = [int(key.removeprefix("tick@")) for key in keys]
            assert all(b > a and (b - a) % 300 == 0 for a, b in pairwise(slots))

    asyncio.run(play())


def test_the_blocking_client(url: str) -> None:
    with BlockingClient([url]) as client:
        client.put_schedule("b", "q", every_ms=60_000)
        assert client.schedule("b")["every_ms"] == 60_000
        client.delete_schedule("b")


def run(url: str, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["schedule", *arguments, "--nodes", url])
    return result.exit_code, result.stdout, result.stderr


def told(url: str, *arguments: str) -> Any:
    code, out, err = run(url, *arguments, "-o", "json")
    assert code == 0, err
    return json.loads(out)


def test_the_command_line(url: str) -> None:
    made = told(
        url, "put", "c", "mail", '{"to": 1}', "--cron", "0 9 * * mon-fri", "--timezone", "Asia/Tokyo",
        "--misfire", "skip", "--overlap", "skip", "--message", "priority=7", "--message", "group=g",
    )  # fmt: skip
    assert made["message"] == {"body": {"to": 1}, "priority": 7, "group": "g"}
    assert (made["misfire"], made["overlap"], made["timezone"]) == ("skip", "skip", "Asia/Tokyo")
    code, out, _ = run(url, "list")
    assert code == 0 and "0 9 * * mon-fri" in out and "T00:00:00Z" in out
    assert told(url, "pause", "c")["paused"]
    code, out, _ = run(url, "list")
    assert "paused" in out
    ran = told(url, "run", "c")
    assert told(url, "show", "c")["last_fire"]["message_id"] == ran["message_id"]
    assert not told(url, "resume", "c")["paused"]
    code, out, _ = run(url, "show", "c")
    assert code == 0 and out.count("T00:00:00Z") == 5
    assert told(url, "put", "c", "mail", "--every", "15m")["every_ms"] == 900_000
    code, out, _ = run(url, "list")
    assert "every 900000 ms" in out
    told(url, "delete", "c")
    code, _, err = run(url, "show", "c")
    assert code == 1 and "trivet schedule list" in err
    code, out, _ = run(url, "list", "--limit", "1")
    assert code == 0 and "no schedules yet" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "c", "q"),
        ("put", "c", "q", "--cron", "* * * * *", "--every", "5s"),
        ("put", "c", "q", "--every", "5 years"),
        ("put", "c", "q", "--every", "s"),
        ("put", "c", "q", "@/no/such/file", "--every", "5s"),
    ],
)
def test_wrong_usage(url: str, arguments: tuple[str, ...]) -> None:
    code, _, err = run(url, *arguments)
    assert code == 2 and "Error" in err


def test_a_wrong_expression_says_where(url: str) -> None:
    code, _, err = run(url, "put", "c", "q", "--cron", "0 0 31 2 *")
    assert code == 1 and "/cron" in err and "day-of-month" in err


def test_lengths() -> None:
    assert [length_ms(text) for text in ("500ms", "30s", "15m", "6h", "1d")] == [
        500, 30_000, 900_000, 21_600_000, 86_400_000,
    ]  # fmt: skip
