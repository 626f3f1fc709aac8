"""Topics: publish once, and each consumer group gets its message. A group is leased from as the queue
`group_queue(topic, group)`, by a `Worker` too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trivet.client.calls import Calls, locally
from trivet.client.messages import Message
from trivet.client.paths import at, given


def group_queue(topic: str, group: str) -> str:
    """The name of a consumer group's queue."""
    return f"{topic}:{group}"


class Topics(Calls):
    """Mixed into `Client`."""

    # --- topics -------------------------------------------------------------------------------------

    async def put_topic(
        self,
        topic: str,
        *,
        retention_ms: int | None = None,
        retention_messages: int | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Create, or replace how much it keeps: what is not given is its default (24 h, 100 000 messages)."""
        body = given(retention_ms=retention_ms, retention_messages=retention_messages)
        return await self._write("PUT", at("topics", topic), body, request_id=request_id)

    async def topic(self, topic: str, *, local: bool = False) -> dict[str, Any]:
        """`{"topic", "retention_ms", "retention_messages", "first_offset", "next_offset", "groups"}`."""
        return await self._read(at("topics", topic), locally(local))

    async def topics(self, *, limit: int | None = None, after: str | None = None) -> dict[str, Any]:
        """By name: `{"topics": […], "next"}`."""
        return await self._read("/v1/topics", {"limit": limit, "after": after})

    async def delete_topic(self, topic: str, *, request_id: str | None = None) -> dict[str, Any]:
        """With its groups and their messages."""
        return await self._write("DELETE", at("topics", topic), request_id=request_id)

    # --- publish ------------------------------------------------------------------------------------

    async def publish(
        self, topic: str, body: Any = None, *, request_id: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """One message to every group: `{"offset", "duplicate", "ids": {group: id}, "index", …}`. `fields` as in
        `Message`."""
        path = at("topics", topic, "messages")
        answer = await self._write("POST", path, {"body": body, **fields}, request_id=request_id)
        first = answer.pop("messages")[0]
        return {**answer, **first}

    async def publish_many(
        self,
        topic: str,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Up to 1000 in one log entry, all or nothing (times the groups at most 4096): `{"messages": [{"offset",
        "duplicate", "ids"}], "index", …}`, aligned."""
        path = at("topics", topic, "messages")
        return await self._write("POST", path, {"messages": list(messages)}, request_id=request_id)

    async def topic_messages(
        self, topic: str, *, from_offset: int | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """What the topic keeps, by offset: `{"messages": […], "next"}`; `next` is the `from_offset` to go on from."""
        query = {"from_offset": from_offset, "limit": limit}
        return await self._read(at("topics", topic, "messages"), query)

    # --- groups -------------------------------------------------------------------------------------

    async def put_group(
        self,
        topic: str,
        group: str,
        *,
        from_offset: int | None = None,
        from_at_ms: int | None = None,
        if_revision: int | None = None,
        request_id: str | None = None,
        **config: Any,
    ) -> dict[str, Any]:
        """Create a consumer group, or replace the configuration of its queue. A new one starts at the end, unless
        `from_offset` or `from_at_ms` says from which of the messages kept."""
        body = {**given(from_offset=from_offset, from_at_ms=from_at_ms), **config}
        path = at("topics", topic, "groups", group)
        return await self._write("PUT", path, body, request_id=request_id, if_revision=if_revision)

    async def group(self, topic: str, group: str) -> dict[str, Any]:
        """Configuration and counts of its queue."""
        return await self._read(at("topics", topic, "groups", group))

    async def delete_group(
        self, topic: str, group: str, *, if_revision: int | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """With its messages."""
        path = at("topics", topic, "groups", group)
        return await self._write("DELETE", path, request_id=request_id, if_revision=if_revision)

    async def replay_group(
        self,
        topic: str,
        group: str,
        *,
        from_offset: int | None = None,
        from_at_ms: int | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """What the topic keeps from a place on comes into the group again: `{"replayed": n, "from_offset",
        "more"}`."""
        body = given(from_offset=from_offset, from_at_ms=from_at_ms)
        path = at("topics", topic, "groups", group, "replay")
        return await self._write("POST", path, body, request_id=request_id)
