"""Workers against a scripted node: what is sent, and what is believed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.client.desk import (
    NO_REQUEST,
    Desk,
    after,
    all_status,
    drive,
    empty_poll,
    granted,
    once,
    work,
)
from tests.unit.client.fake import problem
from trivet.client import (
    Client,
    EffectUncertain,
    Lease,
    OutcomeUnknown,
    Reject,
    StaleEffect,
    Worker,
)
from trivet.client.errors import Forbidden

# --- the worker ---------------------------------------------------------------------------------------


def test_a_worker_acks_results_and_nacks_errors() -> None:
    def nacked(body: Any) -> dict[str, Any]:
        return {
            "results": [{"status": "dead" if one.get("dead_letter") else "nacked"} for one in body["nacks"]]
        }

    desk = Desk(lease=once(granted(5)), ack=all_status("acked", "acks"), nack=nacked)

    async def handler(lease: Lease) -> Any:
        if lease.body == 1:
            raise ValueError("odd")
        if lease.body == 2:
            raise Reject("never")
        if lease.body == 3:
            raise EffectUncertain("who knows")
        return {"n": lease.body}

    worker = drive(
        desk,
        lambda c: work(c, handler, lambda w: w.stats.acked + w.stats.nacked + w.stats.dead_lettered == 5),
    )
    acks = [one for body in desk.sent("ack") for one in body["acks"]]
    nacks = [one for body in desk.sent("nack") for one in body["nacks"]]
    assert sorted(acks, key=str) == [
        {"lease_token": "t0", "result": {"n": 0}},
        {"lease_token": "t4", "result": {"n": 4}},
    ]
    assert nacks[0] == {"lease_token": "t1", "error": "ValueError: odd"}
    assert nacks[1] == {"lease_token": "t2", "error": "Reject: never", "dead_letter": True}
    assert nacks[2]["dead_letter"] is True and "effect_uncertain" in nacks[2]["error"]
    assert (worker.stats.acked, worker.stats.nacked, worker.stats.dead_lettered) == (2, 1, 2)


def test_acks_share_requests_under_load() -> None:
    desk = Desk(lease=once(granted(200)), ack=all_status("acked", "acks"))

    async def handler(lease: Lease) -> None:
        await asyncio.sleep(0)

    drive(desk, lambda c: work(c, handler, lambda w: w.stats.acked == 200, concurrency=100))
    assert len(desk.sent("ack")) <= 40


def test_a_lost_lease_cancels_its_handler_and_is_not_acked() -> None:
    desk = Desk(lease=once(granted(1, lease_ms=100)), extend=all_status("stale_lease", "extensions"))
    ends: list[str] = []

    async def handler(lease: Lease) -> None:
        try:
            await asyncio.sleep(1.0)
            ends.append("went on")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    drive(desk, lambda c: work(c, handler, lambda w: w.stats.lost == 1 and bool(ends)))
    assert ends == ["cancelled"], "before the worker stops, which would cancel it too"
    assert not desk.sent("ack") and not desk.sent("nack") and not desk.sent("release")


def test_leases_that_are_lost_before_their_handlers_begin_cost_the_worker_no_place() -> None:
    """A task that is cancelled before its first step never runs: such leases once filled a worker for good, and it
    kept the ones behind them alive."""
    left = [granted(1, first=4), granted(4, lease_ms=50)]
    desk = Desk(
        lease=lambda body: after(0.1, left.pop()) if left else empty_poll(),
        extend=lambda body: problem("forbidden", 403, "never")(desk.node, NO_REQUEST),
        ack=all_status("acked", "acks"),
    )
    begun: list[str] = []
    told: list[str] = []
    drive(
        desk,
        lambda c: work(
            c,
            lambda lease: begun.append(lease.id),
            lambda w: w.stats.acked == 1 and len(told) == 5,
            concurrency=2,
            prefetch=2,
            on_settled=lambda lease, result, error: told.append(f"{lease.id} {type(error).__name__}"),
        ),
    )
    assert begun == ["m4"]
    assert sorted(told) == [*(f"m{n} LeaseLost" for n in range(4)), "m4 NoneType"]


def test_a_cancelled_message_stops_its_handler() -> None:
    desk = Desk(
        lease=once(granted(1, lease_ms=100)),
        extend=all_status("extended", "extensions", cancelled=True),
        release=all_status("released", "leases"),
    )

    async def handler(lease: Lease) -> None:
        await asyncio.Event().wait()

    worker = drive(desk, lambda c: work(c, handler, lambda w: w.stats.lost == 1))
    assert worker.stats.acked == 0


def test_stop_gives_back_what_was_not_begun_and_waits_for_what_was() -> None:
    desk = Desk(
        lease=once(granted(5)), ack=all_status("acked", "acks"), release=all_status("released", "leases")
    )
    begun: list[int] = []

    async def handler(lease: Lease) -> None:
        begun.append(lease.body)
        await asyncio.sleep(0.1)

    worker = drive(desk, lambda c: work(c, handler, lambda w: len(begun) == 2, concurrency=2, prefetch=3))
    released = [one["lease_token"] for body in desk.sent("release") for one in body["leases"]]
    assert sorted(begun) == [0, 1] and sorted(released) == ["t2", "t3", "t4"]
    assert (worker.stats.acked, worker.stats.released) == (2, 3)


def test_stop_asks_again_for_the_poll_it_cut_off_and_releases_what_it_brings() -> None:
    """R18: the same request id brings the leases whose answer was not waited for."""
    polls: list[Any] = []

    def lease(body: Any) -> Any:
        polls.append(desk.node.seen[-1].headers["Idempotency-Key"])
        return empty_poll() if len(polls) == 1 else granted(2)

    desk = Desk(lease=lease, release=all_status("released", "leases"))
    drive(desk, lambda c: work(c, lambda one: None, lambda w: len(polls) == 1))
    assert len(polls) == 2 and polls[0] == polls[1]
    assert len(desk.sent("release")[0]["leases"]) == 2


def test_a_run_that_is_cancelled_gives_its_poll_and_all_it_holds_back() -> None:
    polls: list[Any] = []

    def lease(body: Any) -> Any:
        polls.append(desk.node.seen[-1].headers["Idempotency-Key"])
        return empty_poll() if len(polls) == 2 else granted(2, first=len(polls) - 1)

    desk = Desk(lease=lease, release=all_status("released", "leases"))
    begun: list[int] = []

    async def handler(lease: Lease) -> None:
        begun.append(lease.body)
        await asyncio.Event().wait()

    async def test(client: Client) -> None:
        worker = Worker(client, "q", handler, concurrency=1, prefetch=3, wait_ms=5000)
        worker._grace_s = 0.05
        running = asyncio.create_task(worker.run())
        while len(polls) < 2:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.002)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    drive(desk, test)
    assert begun == [0] and polls[1] == polls[2]
    released = [one["lease_token"] for body in desk.sent("release") for one in body["leases"]]
    assert sorted(released) == ["t0", "t1", "t2", "t3"]


def test_a_handler_that_outlasts_the_grace_is_cancelled_and_its_lease_released() -> None:
    desk = Desk(lease=once(granted(1)), release=all_status("released", "leases"))
    begun: list[int] = []

    async def handler(lease: Lease) -> None:
        begun.append(1)
        await asyncio.Event().wait()

    async def test(client: Client) -> Worker:
        worker = Worker(client, "q", handler, wait_ms=5000)
        running = asyncio.create_task(worker.run())
        while not begun:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.002)
        await worker.stop(grace_s=0.05)
        await running
        return worker

    worker = drive(desk, test)
    assert worker.stats.released == 1 and len(desk.sent("release")) == 1


def test_an_unknown_ack_is_counted_and_not_nacked() -> None:
    desk = Desk(
        lease=once(granted(1)),
        ack=lambda body: problem("outcome_unknown", 504, "same_key")(desk.node, NO_REQUEST),
    )
    told: list[Any] = []
    worker = drive(
        desk,
        lambda c: work(
            c, lambda lease: None, lambda w: w.stats.unknown == 1, on_settled=lambda *one: told.append(one)
        ),
    )
    assert worker.stats.acked == 0 and isinstance(told[0][2], OutcomeUnknown) and not desk.sent("nack")


def test_one_bad_ack_does_not_take_its_batch_with_it() -> None:
    def ack(body: Any) -> Any:
        if any(one.get("result") == "huge" for one in body["acks"]):
            return problem("payload_too_large", 413, "never", limit=262144)(desk.node, NO_REQUEST)
        return {"results": [{"status": "acked"} for _ in body["acks"]]}

    desk = Desk(lease=once(granted(10)), ack=ack, nack=all_status("nacked", "nacks"))
    worker = drive(
        desk,
        lambda c: work(
            c,
            lambda lease: "huge" if lease.body == 4 else None,
            lambda w: w.stats.acked + w.stats.nacked == 10,
        ),
    )
    assert (worker.stats.acked, worker.stats.nacked) == (9, 1)
    assert "payload_too_large" in desk.sent("nack")[0]["nacks"][0]["error"]


def test_an_ack_whose_effect_was_refused_is_a_failure() -> None:
    desk = Desk(
        lease=once(granted(1)), ack=all_status("stale_effect", "acks"), nack=all_status("nacked", "nacks")
    )
    told: list[Any] = []
    drive(
        desk,
        lambda c: work(
            c, lambda lease: None, lambda w: w.stats.nacked == 1, on_settled=lambda *one: told.append(one)
        ),
    )
    assert isinstance(told[0][2], StaleEffect)


def test_a_wrong_request_ends_the_worker() -> None:
    desk = Desk(lease=lambda body: problem("forbidden", 403, "never")(desk.node, NO_REQUEST))

    async def test(client: Client) -> None:
        with pytest.raises(Forbidden):
            await Worker(client, "q", lambda lease: None).run()

    drive(desk, test)
