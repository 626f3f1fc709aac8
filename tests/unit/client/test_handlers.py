"""Workers whose handlers, callbacks and threads misbehave: each message has an end, and each place comes free."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.unit.client.desk import Desk, all_status, drive, empty_poll, granted, once, work
from trivet.client import Client, Lease, RunWriter, Worker

SETTLES = {
    "ack": all_status("acked", "acks"),
    "nack": all_status("nacked", "nacks"),
    "release": all_status("released", "leases"),
    "extend": all_status("extended", "extensions"),
}


def in_turn(*answers: dict[str, Any]) -> Any:
    """Lease answers, one a poll, then polls that wait."""
    left = [*answers]
    return lambda body: left.pop(0) if left else empty_poll()


def test_what_on_settled_raises_ends_nothing() -> None:
    desk = Desk(lease=in_turn(granted(3), granted(3, first=3)), **SETTLES)

    def on_settled(*told: Any) -> None:
        raise RuntimeError("a broken callback")

    worker = drive(
        desk, lambda c: work(c, str, lambda w: w.stats.acked == 6, concurrency=1, on_settled=on_settled)
    )
    assert worker.stats.lost == 0


@pytest.mark.parametrize("bad", [object(), 1 << 70, "\udc80"])
def test_a_result_that_cannot_be_encoded_fails_its_own_message_only(bad: Any) -> None:
    desk = Desk(lease=once(granted(10)), **SETTLES)

    def handler(lease: Lease) -> Any:
        return bad if lease.body == 3 else lease.body

    drive(desk, lambda c: work(c, handler, lambda w: (w.stats.acked, w.stats.nacked) == (9, 1)))
    [nack] = [one for body in desk.sent("nack") for one in body["nacks"]]
    assert nack["lease_token"] == "t3" and "cannot be encoded" in nack["error"]


@pytest.mark.parametrize(
    "error", [StopIteration("x"), asyncio.CancelledError(), ValueError("\udc80"), KeyError(1)]
)
@pytest.mark.parametrize("plain", [True, False])
def test_whatever_a_handler_raises_is_a_failure(error: BaseException, plain: bool) -> None:
    desk = Desk(lease=in_turn(granted(2), granted(1, first=2)), **SETTLES)

    def handler(lease: Lease) -> None:
        if lease.body < 2:
            raise error

    async def waiting(lease: Lease) -> None:
        handler(lease)

    until = lambda w: (w.stats.nacked, w.stats.acked) == (2, 1)  # noqa: E731
    drive(desk, lambda c: work(c, handler if plain else waiting, until, concurrency=1))
    assert not desk.sent("release")


def test_events_that_cannot_be_told_do_not_keep_a_message_from_its_end() -> None:
    one = granted(1)
    one["messages"][0]["run_id"] = "r"
    desk = Desk(lease=once(one), **SETTLES)

    async def handler(lease: Lease) -> None:
        assert isinstance(lease.writer, RunWriter)
        await lease.emit("token", object())
        raise ValueError("and then it failed")

    drive(desk, lambda c: work(c, handler, lambda w: w.stats.nacked == 1))
    assert "and then it failed" in desk.sent("nack")[0]["nacks"][0]["error"]


# --- threads ------------------------------------------------------------------------------------------


def test_so_many_plain_handlers_run_at_once_as_asked_for() -> None:
    desk = Desk(lease=once(granted(40)), **SETTLES)
    together = threading.Barrier(40)

    def handler(lease: Lease) -> None:
        together.wait(timeout=4)

    drive(desk, lambda c: work(c, handler, lambda w: w.stats.acked == 40, concurrency=40))


def test_a_place_is_free_when_its_thread_is_not_when_its_lease_is_lost() -> None:
    """Else later messages are leased and extended, and wait for a thread that does not come."""
    disowned = {"t0", "t1"}

    def extend(body: Any) -> dict[str, Any]:
        tokens = [one["lease_token"] for one in body["extensions"]]
        return {"results": [{"status": "stale_lease" if one in disowned else "extended"} for one in tokens]}

    desk = Desk(
        lease=in_turn(granted(2, lease_ms=100), granted(2, lease_ms=100, first=2), granted(1, first=4)),
        **{**SETTLES, "extend": extend},
    )
    end = threading.Event()
    begun: list[str] = []

    def handler(lease: Lease) -> None:
        begun.append(lease.id)
        if lease.token in disowned:
            end.wait(5)

    async def test(client: Client) -> Worker:
        def let_go(worker: Worker) -> bool:
            if worker.stats.lost == 2 and len(desk.sent("release")) == 1 and not end.is_set():
                assert begun == ["m0", "m1"]
                end.set()
            return worker.stats.acked == 1

        return await work(client, handler, let_go, concurrency=2, prefetch=2)

    worker = drive(desk, test)
    assert begun == ["m0", "m1", "m4"]
    assert {one["lease_token"] for one in desk.sent("release")[0]["leases"]} == {"t2", "t3"}
    assert worker.stats.released == 2


def test_leases_are_extended_while_plain_handlers_have_every_thread() -> None:
    desk = Desk(lease=once(granted(10, lease_ms=300)), **SETTLES)

    def handler(lease: Lease) -> None:
        time.sleep(0.8)

    worker = drive(desk, lambda c: work(c, handler, lambda w: w.stats.acked == 10))
    assert worker.stats.lost == 0


def test_leases_are_extended_while_handlers_have_every_connection() -> None:
    def wait(body: Any) -> Any:
        return empty_poll()

    desk = Desk(lease=once(granted(4, lease_ms=200)), wait=wait, **SETTLES)

    async def test(client: Client) -> None:
        async def handler(lease: Lease) -> None:
            await client.session.call("POST", "/v1/wait", {}, wait_ms=5000)

        worker = Worker(client, "q", handler, concurrency=4, prefetch=0)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(5):
            while len(desk.sent("extend")) < 4:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0.01)
        assert worker.stats.lost == 0
        await worker.stop(grace_s=0)
        await running

    drive(desk, test, connections=4)


# --- the end ------------------------------------------------------------------------------------------


def test_stop_returns_where_run_never_began() -> None:
    async def test(client: Client) -> None:
        async with asyncio.timeout(2):
            worker = Worker(client, "q", str)
            await worker.stop()
            await worker.run()  # at once: it was stopped
            cancelled = Worker(client, "q", str)
            running = asyncio.create_task(cancelled.run())
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await cancelled.stop()

    drive(Desk(), test)


def test_a_handler_that_goes_on_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.client.worker.CANCELLED_S", 0.2)
    desk = Desk(lease=once(granted(1, lease_ms=100)), **SETTLES)
    begun = asyncio.Event()

    async def handler(lease: Lease) -> None:
        begun.set()
        while True:
            try:
                await asyncio.sleep(5)
                return
            except asyncio.CancelledError:
                continue

    async def test(client: Client) -> None:
        worker = Worker(client, "q", handler, wait_ms=5000)
        running = asyncio.create_task(worker.run())
        await begun.wait()
        async with asyncio.timeout(2):
            await worker.stop(grace_s=0.1)
            await running
        extensions = len(desk.sent("extend"))
        await asyncio.sleep(0.3)
        assert len(desk.sent("extend")) == extensions, "its lease ends, and others may try"

    drive(desk, test)


def test_an_empty_queue_is_not_asked_without_a_pause() -> None:
    desk = Desk(lease=lambda body: granted(0))

    async def test(client: Client) -> None:
        worker = Worker(client, "q", str, wait_ms=0)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0.7)
        await worker.stop()
        await running

    drive(desk, test)
    assert 1 <= len(desk.sent("lease")) <= 3


@pytest.mark.parametrize(("options", "good"), [({"prefetch": -1}, False), ({"prefetch": 0}, True)])
def test_limits(options: dict[str, int], good: bool) -> None:
    async def test(client: Client) -> None:
        if good:
            Worker(client, "q", str, **options)
            return
        with pytest.raises(ValueError, match="prefetch"):
            Worker(client, "q", str, **options)

    drive(Desk(), test)
