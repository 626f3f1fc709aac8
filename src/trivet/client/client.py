"""The SDK: one method a verb of the API. Async; `trivet.client.blocking` is the same without `await`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from trivet.client.admin import Admin
from trivet.client.calls import locally
from trivet.client.effects import EffectGuard, Effects, Reconcile
from trivet.client.errors import ApiError, MessageFailed
from trivet.client.flows import Flows
from trivet.client.leases import Lease, Leases, token_of
from trivet.client.messages import Message
from trivet.client.paths import at, given
from trivet.client.retry import RetryPolicy
from trivet.client.ring import Ring
from trivet.client.runs import Runs
from trivet.client.schedules import Schedules
from trivet.client.session import Attempt, Session, Stats
from trivet.client.settle import raise_refused
from trivet.client.topics import Topics
from trivet.units import Clock

FINISHED = ("done", "dead", "cancelled")


class Client(Admin, Effects, Flows, Runs, Schedules, Topics):
    """A cluster of nodes, any of which may be down.

    `nodes`: their addresses (`http://host:port`); the more are named, the more may be down at the start.
    `token`: sent to these nodes only. `retry`: see `RetryPolicy`; the whole retry time stays under the
    cluster's request window of 60 s. `on_attempt` is told every HTTP request (drills, tracing).

    Every write takes `request_id`: the same id with the same content inside 60 s gives the first answer
    with `repeated: true`. By default each call makes its own and keeps it through its retries.
    Raises: `OutcomeUnknown` when it may or may not have happened, another `TrivetError` when it did not.
    """

    def __init__(
        self,
        nodes: Sequence[str] | str,
        *,
        token: str | None = None,
        retry: RetryPolicy | None = None,
        codec: str = "msgpack",
        clock: Clock | None = None,
        rng: random.Random | None = None,
        connections: int = 100,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        rng = rng or random.Random()  # which node first, and jitter
        addresses = nodes.split(",") if isinstance(nodes, str) else list(nodes)
        self.session = Session(
            Ring(addresses, start=rng.randrange(64)),
            policy=retry or RetryPolicy(),
            token=token,
            codec=codec,
            clock=clock,
            rng=rng,
            connections=connections,
            on_attempt=on_attempt,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self.session.close()

    @property
    def stats(self) -> Stats:
        return self.session.stats

    @property
    def clock(self) -> Clock:
        return self.session.clock

    # --- produce ------------------------------------------------------------------------------------

    async def enqueue(
        self, queue: str, body: Any = None, *, request_id: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """One message: `{"id", "state", "duplicate", "index", …}`. `fields` as in `Message`."""
        answer = await self._write(
            "POST", at("queues", queue, "messages"), {"body": body, **fields}, request_id=request_id
        )
        first = answer.pop("messages")[0]
        return {**answer, **first}

    async def enqueue_many(
        self,
        queue: str,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Up to 1000 messages in one log entry, all or nothing: `{"messages": [{"id", "state",
        "duplicate"}], "index", …}`, aligned."""
        return await self._write(
            "POST", at("queues", queue, "messages"), {"messages": list(messages)}, request_id=request_id
        )

    # --- consume ------------------------------------------------------------------------------------

    async def lease(
        self,
        queue: str | Sequence[str],
        consumer: str,
        *,
        max_messages: int = 1,
        lease_ms: int | None = None,
        wait_ms: int = 0,
        request_id: str | None = None,
        extend_late: bool = True,
    ) -> Leases:
        """Up to `max_messages`; with `wait_ms` (up to 60 000) waits for the first. Several queues are
        looked at in the order given. A lost answer is asked for again, and brings the same leases. Leases
        that came so late that less than half of them may be trusted are extended before they are returned
        (not with `extend_late` False: for who only gives them back)."""
        body = given(consumer=consumer, max_messages=max_messages, lease_ms=lease_ms, wait_ms=wait_ms or None)
        if isinstance(queue, str):
            path = at("queues", queue, "lease")
        else:
            path = at("lease")
            body["queues"] = list(queue)
        result = await self.session.call("POST", path, body, request_id=request_id, wait_ms=wait_ms)
        leases = Leases(result.data, result.sent_at_s, self.clock, lease_ms)
        if extend_late:
            await self._freshen(leases)
        return leases

    async def _freshen(self, leases: Leases) -> None:
        """They are trusted from the send time on (R35), and a poll may wait longer than a lease is: an extension has
        a send time of its own. What is no longer live goes; where nobody answers in time they stay as they are."""
        stale = [one for one in leases if one.remaining_s() < one.lease_ms / 2000]
        if not stale:
            return
        # Those that may be trusted yet are not held back until they may not.
        limit_s = max(one.remaining_s() for one in stale) / 2 or max(one.lease_ms for one in stale) / 1000
        try:
            async with asyncio.timeout(limit_s):
                await self.extend_many([(one, one.lease_ms) for one in stale], strict=False)
        except (ApiError, TimeoutError):
            return
        live = [one for one in leases if not one.lost]
        leases.lost += len(leases) - len(live)
        leases[:] = live

    async def ack(
        self,
        lease: Lease | str,
        *,
        result: Any = None,
        effects: Sequence[Mapping[str, Any]] = (),
        enqueue: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """The work is done: `{"status": "acked", "repeated"?}`. `enqueue`: follow-up messages, each with
        its `queue`, in the same log entry, all or nothing. Raises `StaleLease` if the lease is not live."""
        item = ack_item(lease, result, effects)
        answer = await self.ack_many([item], enqueue=enqueue, request_id=request_id)
        first = answer.pop("results")[0]
        return {**answer, **first}

    async def ack_many(
        self,
        acks: Sequence[Lease | str | Mapping[str, Any]],
        *,
        enqueue: Sequence[Mapping[str, Any]] = (),
        strict: bool = True,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Up to 1000 acks in one log entry: leases, tokens or items as in api.md. With `strict` an item
        that was refused raises (the others are acked all the same; `error.results` has them all)."""
        items = [one if isinstance(one, Mapping) else ack_item(one, None, ()) for one in acks]
        body: dict[str, Any] = {"acks": items}
        if enqueue:
            body["enqueue"] = list(enqueue)
        return await self._settle("/v1/ack", body, strict, request_id)

    async def nack(
        self,
        lease: Lease | str,
        *,
        error: str | None = None,
        delay_ms: int | None = None,
        dead_letter: bool = False,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """It failed: back with backoff or `delay_ms`, or straight to the dead letters."""
        item = nack_item(lease, error, delay_ms, dead_letter)
        answer = await self.nack_many([item], request_id=request_id)
        first = answer.pop("results")[0]
        return {**answer, **first}

    async def nack_many(
        self, nacks: Sequence[Mapping[str, Any]], *, strict: bool = True, request_id: str | None = None
    ) -> dict[str, Any]:
        return await self._settle("/v1/nack", {"nacks": list(nacks)}, strict, request_id)

    async def extend(
        self, lease: Lease | str, lease_ms: int | None = None, *, request_id: str | None = None
    ) -> dict[str, Any]:
        """Sets the rest of the lease to `lease_ms` from now (None: its length again)."""
        lease_ms = lease_ms or (lease.lease_ms if isinstance(lease, Lease) else None)
        if lease_ms is None:
            raise ValueError("extend of a bare token needs lease_ms")
        answer = await self.extend_many([(lease, lease_ms)], request_id=request_id)
        first = answer.pop("results")[0]
        return {**answer, **first}

    async def extend_many(
        self,
        extensions: Sequence[tuple[Lease | str, int]],
        *,
        strict: bool = True,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Up to 1000 at once; the `Lease` objects given learn their new end, or that they are lost."""
        items = [{"lease_token": token_of(lease), "lease_ms": lease_ms} for lease, lease_ms in extensions]
        # Ahead of the other calls: a worker whose handlers use every connection must not lose its leases by it.
        result = await self.session.call(
            "POST", "/v1/extend", {"extensions": items}, request_id=request_id, ahead=True
        )
        for (lease, lease_ms), answer in zip(extensions, result.data["results"], strict=True):
            if isinstance(lease, str):
                continue
            lease.cancelled = lease.cancelled or bool(answer.get("cancelled"))
            if answer["status"] == "extended":
                lease.extended(lease_ms, result.sent_at_s)
            else:
                lease.lost = True
        if strict:
            raise_refused(result.data["results"])
        data: dict[str, Any] = result.data
        return data

    async def release(self, lease: Lease | str, *, request_id: str | None = None) -> dict[str, Any]:
        """Give it back untouched: to its place, the attempt not counted."""
        answer = await self.release_many([lease], request_id=request_id)
        first = answer.pop("results")[0]
        return {**answer, **first}

    async def release_many(
        self, leases: Sequence[Lease | str], *, strict: bool = True, request_id: str | None = None
    ) -> dict[str, Any]:
        body = {"leases": [{"lease_token": token_of(one)} for one in leases]}
        return await self._settle("/v1/release", body, strict, request_id)

    async def _settle(
        self, path: str, body: dict[str, Any], strict: bool, request_id: str | None
    ) -> dict[str, Any]:
        answer = await self._write("POST", path, body, request_id=request_id)
        if strict:
            raise_refused(answer["results"])
        return answer

    # --- one message --------------------------------------------------------------------------------

    async def message(self, message_id: str, *, local: bool = False) -> dict[str, Any]:
        """Its state, attempts, result. `local`: from whichever node answers, perhaps a little old."""
        return await self._read(at("messages", message_id), locally(local))

    async def wait(self, message_id: str, timeout_s: float) -> dict[str, Any]:
        """The message once it is finished, or as it is after `timeout_s` seconds."""
        return await self._read_once(FINISHED, at("messages", message_id), timeout_s)

    async def result(self, message_id: str, timeout_s: float) -> Any:
        """The message's result once it is done (null without one). Raises `MessageFailed` if it is dead or
        cancelled, `TimeoutError` if it is not finished in time, `MessageNotFound` if it is not kept: R24."""
        message = await self.wait(message_id, timeout_s)
        if message["state"] == "done":
            return message.get("result")
        if message["state"] in ("dead", "cancelled"):
            raise MessageFailed(message)
        raise TimeoutError(f"message {message_id} is {message['state']} after {timeout_s:g} s")

    async def cancel(self, message_id: str, *, request_id: str | None = None) -> dict[str, Any]:
        return await self._write("DELETE", at("messages", message_id), request_id=request_id)

    async def patch_message(
        self, message_id: str, *, request_id: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """`priority`, `deliver_at_ms`."""
        return await self._write("PATCH", at("messages", message_id), changes, request_id=request_id)

    async def progress(
        self,
        lease: Lease | str,
        *,
        message_id: str | None = None,
        percent: int | None = None,
        note: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Shows how far the work is; counts as a heartbeat: the lease gets its length again from now. A bare token
        needs the `message_id`."""
        message_id = message_id or (lease.id if isinstance(lease, Lease) else None)
        if message_id is None:
            raise ValueError("progress of a bare token needs message_id")
        body = given(lease_token=token_of(lease), percent=percent, note=note)
        path = at("messages", message_id, "progress")
        result = await self.session.call("POST", path, body, request_id=request_id)
        answer: dict[str, Any] = result.data
        if isinstance(lease, Lease):
            lease.cancelled = lease.cancelled or bool(answer.get("cancelled"))
            lease.extended(lease.lease_ms, result.sent_at_s)
        return answer

    # --- effects ------------------------------------------------------------------------------------

    def effect(
        self,
        effect_id: str,
        *,
        lease: Lease | None = None,
        owner: str | None = None,
        ttl_ms: int | None = None,
        reconcile: Reconcile | None = None,
        with_ack: bool = False,
    ) -> EffectGuard:
        """A guard around something that must happen once: see `EffectGuard`."""
        return EffectGuard(self, effect_id, lease, owner, ttl_ms, reconcile, with_ack)


def ack_item(lease: Lease | str, result: Any, effects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    item: dict[str, Any] = {"lease_token": token_of(lease)}
    if result is None and not effects and (isinstance(lease, str) or not lease.effects):
        return item
    if result is not None:
        item["result"] = result
    done = [*effects, *(lease.effects if isinstance(lease, Lease) else ())]
    if done:
        item["effects"] = done
    return item


def nack_item(
    lease: Lease | str, error: str | None, delay_ms: int | None, dead_letter: bool
) -> dict[str, Any]:
    return given(lease_token=token_of(lease), error=error, delay_ms=delay_ms, dead_letter=dead_letter or None)
