"""Leases, keeper and guard against a scripted node: what is sent, and what is believed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.unit.client.desk import GRANTED, Desk, after, all_status, drive, empty_poll, granted
from tests.unit.client.fake import FakeNode, reset
from trivet.client import Client, EffectUncertain, Happened, Lease, LeaseLost, NotPerformed, RetryPolicy
from trivet.client.keeper import LeaseKeeper

# --- the lease ----------------------------------------------------------------------------------------


def test_r35_a_lease_is_trusted_from_the_send_time_of_its_first_attempt() -> None:
    async def slow(node: FakeNode, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response(
            body=msgspec.msgpack.encode(granted(1, lease_ms=1000)),
            content_type="application/msgpack",
            headers={"Trivet-Node": "fake"},
        )

    desk = Desk()
    desk.node.steps = [reset, slow]

    async def test(client: Client) -> None:
        before = client.clock.monotonic()
        (lease,) = await client.lease("q", "w")
        assert lease.lease_ms == 1000
        assert before + 1.0 <= lease.trusted_until_s < before + 1.1
        assert lease.remaining_s() < 0.81

    drive(desk, test)


@pytest.mark.parametrize(("waited_s", "extended"), [(0.05, False), (0.3, True), (0.6, True)])
def test_r35_a_poll_that_waited_brings_leases_that_can_be_trusted(waited_s: float, extended: bool) -> None:
    desk = Desk(
        lease=lambda body: after(waited_s, granted(2, lease_ms=500)),
        extend=all_status("extended", "extensions"),
    )

    async def test(client: Client) -> None:
        leases = await client.lease("q", "w", max_messages=2, wait_ms=5000)
        assert [lease.id for lease in leases] == ["m0", "m1"] and leases.lost == 0
        assert all(lease.remaining_s() > 0.25 for lease in leases)

    drive(desk, test)
    items = [{"lease_token": f"t{n}", "lease_ms": 500} for n in range(2)]
    assert desk.sent("extend") == ([{"extensions": items}] if extended else [])


def test_what_ended_while_the_poll_waited_is_not_given_to_the_caller() -> None:
    ends = {"results": [{"status": "extended"}, {"status": "stale_lease"}]}
    desk = Desk(lease=lambda body: after(0.2, granted(2, lease_ms=200)), extend=lambda body: ends)

    async def test(client: Client) -> None:
        leases = await client.lease("q", "w", max_messages=2, wait_ms=5000)
        assert [lease.id for lease in leases] == ["m0"] and leases.lost == 1

    drive(desk, test)


# --- the keeper ---------------------------------------------------------------------------------------


def test_a_lease_is_extended_at_half_of_its_length() -> None:
    desk = Desk(extend=all_status("extended", "extensions"), lease=lambda body: granted(3, lease_ms=200))

    async def test(client: Client) -> None:
        lost: list[Any] = []
        leases = await client.lease("q", "w", max_messages=3)
        keeper = LeaseKeeper(client, lambda lease, why: lost.append(why))
        for lease in leases:
            keeper.hold(lease)
        await asyncio.sleep(0.45)
        await keeper.close()
        assert lost == [] and all(lease.remaining_s() > 0 for lease in leases)

    drive(desk, test)
    batches = desk.sent("extend")
    assert 3 <= len(batches) <= 6, "one request for all three leases every 100 ms"
    assert all(len(one["extensions"]) == 3 for one in batches)
    assert batches[0]["extensions"][0] == {"lease_token": "t0", "lease_ms": 200}


@pytest.mark.parametrize("status", ["stale_lease", "not_found"])
def test_a_lease_the_cluster_disowns_is_lost(status: str) -> None:
    desk = Desk(extend=all_status(status, "extensions"), lease=lambda body: granted(1, lease_ms=100))

    async def test(client: Client) -> None:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (lease,) = await client.lease("q", "w")
        keeper = LeaseKeeper(client, lambda lease, why: told.set_result((lease.id, why)))
        keeper.hold(lease)
        async with asyncio.timeout(2):
            assert await told == ("m0", status)
        assert lease.lost and lease.remaining_s() == 0 and len(keeper) == 0
        await keeper.close()

    drive(desk, test)


def test_a_lease_nobody_extends_is_lost_when_its_time_is_over_not_when_the_retries_end() -> None:
    desk = Desk(extend=lambda body: empty_poll(), lease=lambda body: granted(1, lease_ms=120))

    async def test(client: Client) -> None:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (lease,) = await client.lease("q", "w")
        keeper = LeaseKeeper(client, lambda lease, why: told.set_result((why, time.monotonic())))
        keeper.hold(lease)
        async with asyncio.timeout(2):
            why, at_s = await told
        assert why == "expired" and 0 <= at_s - lease.trusted_until_s < 0.05
        await keeper.close()

    drive(desk, test)


def test_a_lease_ends_while_the_extension_of_another_is_tried_again_and_again() -> None:
    """A keeper that waited for the one answer once left a handler at work for the whole retry time."""
    long, short = granted(1, lease_ms=600), granted(1, lease_ms=300, first=1)
    answers = [long, short]
    desk = Desk(extend=lambda body: empty_poll(), lease=lambda body: answers.pop())

    async def test(client: Client) -> None:
        lost: dict[str, float] = {}
        keeper = LeaseKeeper(client, lambda lease, why: lost.setdefault(lease.id, time.monotonic()))
        leases = [*await client.lease("q", "w"), *await client.lease("q", "w")]
        for lease in leases:
            keeper.hold(lease)
        async with asyncio.timeout(2):
            while len(lost) < 2:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0.005)
        assert all(0 <= lost[one.id] - one.trusted_until_s < 0.1 for one in leases)
        await keeper.close()

    drive(desk, test, policy=RetryPolicy(total_s=6, attempt_s=6, attempt_max_s=6))


@pytest.mark.parametrize("wrong", [{}, {"results": []}, {"results": [{"status": "extended"}] * 3}])
def test_the_keeper_outlives_wrong_answers_and_callbacks_that_raise(wrong: dict[str, Any]) -> None:
    answers = [granted(2, lease_ms=200), granted(1, lease_ms=200, first=2)]
    disowned = {"t0"}

    def extend(body: Any) -> dict[str, Any]:
        tokens = [one["lease_token"] for one in body["extensions"]]
        if "t2" in tokens and len(desk.sent("extend")) < 3:
            return wrong
        return {"results": [{"status": "stale_lease" if one in disowned else "extended"} for one in tokens]}

    desk = Desk(extend=extend, lease=lambda body: answers.pop(0))

    async def test(client: Client) -> None:
        lost: list[str] = []

        def tell(lease: Lease, why: str) -> None:
            lost.append(lease.id)
            raise RuntimeError("a broken callback")

        keeper = LeaseKeeper(client, tell)
        for _ in range(2):
            for lease in await client.lease("q", "w", max_messages=2):
                keeper.hold(lease)
        await asyncio.sleep(0.6)
        assert lost == ["m0"] and len(keeper) == 2
        await keeper.close()

    drive(desk, test)


def test_a_message_that_was_cancelled_meanwhile_is_lost_at_once() -> None:
    desk = Desk(
        lease=lambda body: after(0.15, granted(1, lease_ms=200)),
        extend=all_status("extended", "extensions", cancelled=True),
    )

    async def test(client: Client) -> None:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (lease,) = await client.lease("q", "w", wait_ms=1000)
        keeper = LeaseKeeper(client, lambda lease, why: told.set_result(why))
        keeper.hold(lease)
        async with asyncio.timeout(0.08):
            assert await told == "cancelled"
        await keeper.close()

    drive(desk, test)


def test_leases_that_may_be_trusted_are_not_held_back_until_they_may_not() -> None:
    desk = Desk(lease=lambda body: after(0.3, granted(1, lease_ms=500)), extend=lambda body: empty_poll())

    async def test(client: Client) -> None:
        began = client.clock.monotonic()
        (lease,) = await client.lease("q", "w", wait_ms=1000)
        assert client.clock.monotonic() - began < 0.5 and lease.remaining_s() > 0

    drive(desk, test, policy=RetryPolicy())


@pytest.mark.parametrize(
    ("left_ms", "waited_s", "asked_ms", "length_ms"),
    [(3000, 0.3, None, 3300), (3000, 0.0, 9000, 9000), (20, 0.0, None, 1000), (990, 0.0, None, 1000)],
)
def test_of_a_repeated_answer_leases_are_extended_by_more_than_what_is_left(
    left_ms: int, waited_s: float, asked_ms: int | None, length_ms: int
) -> None:
    """It was given after the request was sent: so it is at most by the time since then longer."""
    desk = Desk(
        lease=lambda body: after(waited_s, {**granted(1, lease_ms=left_ms), "repeated": True}),
        extend=all_status("extended", "extensions"),
    )

    async def test(client: Client) -> None:
        (lease,) = await client.lease("q", "w", lease_ms=asked_ms, wait_ms=1000)
        assert length_ms <= lease.lease_ms < length_ms + 200
        assert lease.remaining_s() > 0.5

    drive(desk, test)


# --- the guard ----------------------------------------------------------------------------------------


def test_an_effect_commits_its_result() -> None:
    desk = Desk(begin=lambda body: GRANTED, commit=lambda body: {"state": "done"})

    async def test(client: Client) -> None:
        async with client.effect("run:step:1", owner="me") as effect:
            assert not effect.done
            effect.result = {"paid": 3}

    drive(desk, test)
    assert desk.calls == [
        ("begin", {"effect_id": "run:step:1", "owner": "me"}),
        ("commit", {"effect_token": "e1", "result": {"paid": 3}}),
    ]


def test_an_effect_that_is_done_gives_its_stored_result() -> None:
    desk = Desk(begin=lambda body: {"state": "done", "result": 7})

    async def test(client: Client) -> None:
        async with client.effect("e") as effect:
            assert effect.done and effect.result == 7

    drive(desk, test)
    assert [name for name, _ in desk.calls] == ["begin"]


def test_an_exception_leaves_the_effect_uncertain_and_not_performed_aborts_it() -> None:
    desk = Desk(begin=lambda body: GRANTED, abort=lambda body: {"state": "aborted"})

    async def test(client: Client) -> None:
        with pytest.raises(ZeroDivisionError):
            async with client.effect("e"):
                raise ZeroDivisionError
        assert [name for name, _ in desk.calls] == ["begin"]
        with pytest.raises(NotPerformed):
            async with client.effect("e"):
                raise NotPerformed
        assert [name for name, _ in desk.calls] == ["begin", "begin", "abort"]

    drive(desk, test)


def test_r27_an_uncertain_effect_never_runs_by_itself() -> None:
    desk = Desk(begin=lambda body: {**GRANTED, "uncertain": True})

    async def test(client: Client) -> None:
        with pytest.raises(EffectUncertain):
            async with client.effect("e"):
                raise AssertionError("the body ran")

    drive(desk, test)
    assert [name for name, _ in desk.calls] == ["begin"], "neither commit nor abort: it stays uncertain"


@pytest.mark.parametrize("found", [Happened("receipt"), None])
def test_an_uncertain_effect_is_reconciled(found: Happened | None) -> None:
    desk = Desk(begin=lambda body: {**GRANTED, "uncertain": True}, commit=lambda body: {"state": "done"})
    asked: list[str] = []

    async def reconcile(effect_id: str) -> Happened | None:
        asked.append(effect_id)
        return found

    async def test(client: Client) -> None:
        async with client.effect("e", reconcile=reconcile) as effect:
            assert effect.done is (found is not None)
            if not effect.done:
                effect.result = "fresh"

    drive(desk, test)
    assert asked == ["e"]
    wanted = "receipt" if found else "fresh"
    assert desk.sent("commit") == [{"effect_token": "e1", "result": wanted}]


def test_an_effect_never_begins_under_a_lease_that_ended() -> None:
    desk = Desk(
        lease=lambda body: granted(1, lease_ms=1),
        begin=lambda body: GRANTED,
        abort=lambda body: {"state": "aborted"},
    )

    async def test(client: Client) -> None:
        (lease,) = await client.lease("q", "w")
        await asyncio.sleep(0.005)
        with pytest.raises(LeaseLost):
            async with client.effect("e", lease=lease):
                raise AssertionError("the body ran")

    drive(desk, test)
    assert desk.sent("abort") == [{"effect_token": "e1"}]


def test_with_ack_the_commit_travels_in_the_ack() -> None:
    desk = Desk(lease=lambda body: granted(1), begin=lambda body: GRANTED, ack=all_status("acked", "acks"))

    async def test(client: Client) -> None:
        (lease,) = await client.lease("q", "w")
        async with client.effect("e", lease=lease, with_ack=True) as effect:
            effect.result = 5
        await client.ack(lease)

    drive(desk, test)
    effects = [{"effect_id": "e", "effect_token": "e1", "result": 5}]
    assert desk.sent("ack") == [{"acks": [{"lease_token": "t0", "effects": effects}]}]
