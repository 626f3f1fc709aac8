"""Leases, keeper, guard and worker against a scripted node: what is sent, and what is believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.unit.client.fake import FakeNode, problem, reset
from trivet.client import (
    Client,
    EffectUncertain,
    Happened,
    Lease,
    LeaseLost,
    NotPerformed,
    OutcomeUnknown,
    Reject,
    RetryPolicy,
    StaleEffect,
    Worker,
)
from trivet.client.errors import Forbidden
from trivet.client.keeper import LeaseKeeper

NO_REQUEST: Any = None  # a scripted refusal does not look at it
FAST = RetryPolicy(
    total_s=0.5, attempt_s=0.3, attempt_max_s=0.3, connect_s=0.2, backoff_s=0.005, backoff_max_s=0.02
)


class Desk:
    """Answers by path: a function of the request's body, or a step."""

    def __init__(self, **routes: Any) -> None:
        self.routes = routes
        self.calls: list[tuple[str, Any]] = []
        self.node = FakeNode([self._step])

    async def _step(self, node: FakeNode, request: web.Request) -> web.StreamResponse:
        name = request.path.rsplit("/", 1)[1]
        body = node.seen[-1].body
        self.calls.append((name, body))
        route = self.routes[name]
        made = route(body) if not asyncio.iscoroutinefunction(route) else None
        if made is None or asyncio.iscoroutine(made):
            return await (made or route(node, request))
        return web.Response(
            body=msgspec.msgpack.encode({"index": 1, "seq": 0, "term": 1, **made}),
            content_type="application/msgpack",
            headers={"Trivet-Node": "fake"},
        )

    def sent(self, name: str) -> list[Any]:
        return [body for one, body in self.calls if one == name]


def drive(desk: Desk, test: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        await desk.node.start()
        try:
            async with Client([desk.node.url], retry=FAST) as client:
                return await test(client)
        finally:
            await desk.node.stop()

    return asyncio.run(run())


def granted(count: int, lease_ms: int = 10_000, first: int = 0) -> dict[str, Any]:
    now_ms = 1_000_000
    messages = [
        {
            "id": f"m{n}",
            "queue": "q",
            "body": n,
            "attempt": 1,
            "lease_token": f"t{n}",
            "lease_expires_at_ms": now_ms + lease_ms,
        }
        for n in range(first, first + count)
    ]
    return {"messages": messages, "now_ms": now_ms}


def once(answer: dict[str, Any]) -> Callable[[Any], Any]:
    """The leases at the first request, then an empty poll that waits."""
    left = [answer]

    def route(body: Any) -> Any:
        return left.pop() if left else _empty_poll()

    return route


async def _empty_poll() -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def all_status(status: str, key: str, **more: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda body: {"results": [{"status": status, **more} for _ in body[key]]}


async def work(client: Client, handler: Any, until: Callable[[Worker], bool], **options: Any) -> Worker:
    worker = Worker(client, "q", handler, wait_ms=5000, **options)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        while not until(worker):  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.002)
    await worker.stop(grace_s=1)
    await running
    return worker


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
    desk = Desk(extend=lambda body: _empty_poll(), lease=lambda body: granted(1, lease_ms=120))

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


# --- the guard ----------------------------------------------------------------------------------------

GRANTED = {"state": "granted", "effect_token": "e1", "uncertain": False}


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
        return _empty_poll() if len(polls) == 1 else granted(2)

    desk = Desk(lease=lease, release=all_status("released", "leases"))
    drive(desk, lambda c: work(c, lambda one: None, lambda w: len(polls) == 1))
    assert len(polls) == 2 and polls[0] == polls[1]
    assert len(desk.sent("release")[0]["leases"]) == 2


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
