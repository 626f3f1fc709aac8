"""How a worker tells the cluster what became of a message: acks and nacks in batches, one end for each."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trivet.client.batching import Batcher
from trivet.client.client import Client, ack_item, nack_item
from trivet.client.errors import ApiError, EffectUncertain, LeaseLost, OutcomeUnknown, StaleLease
from trivet.client.leases import Lease
from trivet.client.settle import item_error
from trivet.limits import ERROR_BYTES_MAX, SETTLE_BATCH_MAX

log = logging.getLogger("trivet.client.worker")

Verb = Callable[..., Awaitable[dict[str, Any]]]
OnSettled = Callable[[Lease, dict[str, Any] | None, Exception | None], None]


class Reject(Exception):
    """Raised by a handler: this message can never succeed; to the dead letters with it."""


class RetryLater(Exception):
    """Raised by a handler: try again after `delay_ms`; counts as a failed attempt."""

    def __init__(self, delay_ms: int, error: str = "") -> None:
        super().__init__(error or f"again in {delay_ms} ms")
        self.delay_ms = delay_ms


@dataclass(slots=True)
class WorkerStats:
    """Messages since the start. `unknown`: acks whose outcome stayed unknown; `repeated`: acks answered
    with the stored answer of an earlier attempt; `stale`: settled too late, another worker has it."""

    leased: int = 0
    acked: int = 0
    nacked: int = 0
    dead_lettered: int = 0
    released: int = 0
    lost: int = 0
    stale: int = 0
    unknown: int = 0
    repeated: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class Settler:
    """Each message's end is counted in `stats` and told to `on_settled`, once; what that raises is logged."""

    def __init__(self, client: Client, stats: WorkerStats, on_settled: OnSettled | None) -> None:
        self._client = client
        self._stats = stats
        self._on_settled = on_settled
        self._acks = Batcher(self._send_acks, count_max=SETTLE_BATCH_MAX, in_flight=2)
        self._nacks = Batcher(self._send_nacks, count_max=SETTLE_BATCH_MAX, in_flight=1)

    async def succeeded(self, lease: Lease, result: Any) -> None:
        try:
            answer = await self._acks.submit(ack_item(lease, result, ()))
        except StaleLease as error:
            self._stats.stale += 1
            self.tell(lease, None, error)
        except OutcomeUnknown as error:
            self._stats.unknown += 1
            self.tell(lease, None, error)
        except Exception as error:  # noqa: BLE001 - refused for what it is: the handler's fault
            await self.failed(lease, error)
        else:
            self._stats.acked += 1
            self._stats.repeated += bool(answer.get("repeated"))
            self.tell(lease, answer, None)

    async def failed(self, lease: Lease, error: BaseException) -> None:
        told = error if isinstance(error, Exception) else RuntimeError(repr(error))
        if isinstance(error, LeaseLost | StaleLease):
            self._stats.stale += 1
            self.tell(lease, None, told)
            return
        text = f"{type(error).__name__}: {error}".encode(errors="replace")[:ERROR_BYTES_MAX]
        dead = isinstance(error, EffectUncertain | Reject)
        delay_ms = error.delay_ms if isinstance(error, RetryLater) else None
        item = nack_item(lease, text.decode("utf-8", "ignore"), delay_ms, dead)
        try:
            answer = await self._nacks.submit(item)
        except Exception as refused:  # noqa: BLE001 - whatever it is, the message has no other end
            log.warning("nack of %s failed (its lease will expire): %s", lease.id, refused)
            self.tell(lease, None, refused)
            return
        self._stats.dead_lettered += answer["status"] == "dead"
        self._stats.nacked += answer["status"] == "nacked"
        self.tell(lease, answer, told)

    def tell(self, lease: Lease, result: dict[str, Any] | None, error: Exception | None) -> None:
        if self._on_settled is None:
            return
        try:
            self._on_settled(lease, result, error)
        except Exception:
            log.exception("on_settled failed for %s; the worker goes on", lease.id)

    async def drain(self) -> None:
        await self._acks.drain()
        await self._nacks.drain()

    async def _send_acks(self, items: Sequence[Any]) -> Sequence[Any]:
        return await self._send(self._client.ack_many, items)

    async def _send_nacks(self, items: Sequence[Any]) -> Sequence[Any]:
        return await self._send(self._client.nack_many, items)

    async def _send(self, verb: Verb, items: Sequence[Any]) -> Sequence[Any]:
        try:
            answer = await verb(items, strict=False)
        except ApiError as error:
            if len(items) == 1 or error.status not in (400, 413):
                raise
            return [one for item in items for one in await self._alone(verb, item)]
        results = answer["results"]
        # One request, one stored answer: `repeated` of the whole is true of each item.
        whole = {"repeated": True} if answer.get("repeated") else {}
        return [item_error(one, results) or {**whole, **one} for one in results]

    async def _alone(self, verb: Verb, item: Any) -> Sequence[Any]:
        """A batch was refused for one item's fault: find it."""
        try:
            return await self._send(verb, [item])
        except ApiError as error:
            return [error]
