"""Hints that an applied entry leaves for the leader. Losing one costs latency, never a message (contract 5)."""

from __future__ import annotations


class EntryEffects:
    """`ready`: queues where something may have become leasable (a dict, for its order). `finished`: numbers
    of messages that reached done, dead or cancelled. `deleted`: names of queues deleted."""

    __slots__ = ("deleted", "finished", "ready")

    def __init__(self) -> None:
        self.ready: dict[str, None] = {}
        self.finished: list[int] = []
        self.deleted: list[str] = []
