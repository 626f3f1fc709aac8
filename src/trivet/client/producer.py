"""Enqueues one by one, sends many at once."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trivet.client.batching import Batcher
from trivet.client.errors import ApiError
from trivet.client.messages import Message
from trivet.limits import ENQUEUE_BATCH_MAX

if TYPE_CHECKING:
    from trivet.client.client import Client


class Producer:
    """`await producer.enqueue(body)` answers when the message is durable, like `Client.enqueue`; messages
    that come while a request is under way share the next one.

    A request is all or nothing: when one message of it is refused for what it is (`error.retry` is
    `never`), its batch is sent again one by one, so that only the wrong one fails.
    """

    def __init__(self, client: Client, queue: str, *, batch: int = 100, in_flight: int = 2) -> None:
        if not 1 <= batch <= ENQUEUE_BATCH_MAX:
            raise ValueError(f"batch must be 1 … {ENQUEUE_BATCH_MAX}")
        self._client = client
        self._queue = queue
        self._batcher = Batcher(self._send, count_max=batch, in_flight=in_flight)

    async def enqueue(self, body: Any = None, **fields: Any) -> dict[str, Any]:
        """`{"id", "state", "duplicate"}`. `fields` as in `Message`."""
        answer: dict[str, Any] = await self._batcher.submit({"body": body, **fields})
        return answer

    async def send(self, message: Message) -> dict[str, Any]:
        answer: dict[str, Any] = await self._batcher.submit(message)
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._batcher.drain()

    async def _send(self, messages: Sequence[Any]) -> Sequence[Any]:
        try:
            answer = await self._client.enqueue_many(self._queue, messages)
        except ApiError as error:
            if len(messages) == 1 or error.status not in (400, 409, 413):
                raise
            return [await self._alone(one) for one in messages]
        results: Sequence[Any] = answer["messages"]
        return results

    async def _alone(self, message: Any) -> Any:
        try:
            answer = await self._client.enqueue_many(self._queue, [message])
        except ApiError as error:
            return error
        return answer["messages"][0]
