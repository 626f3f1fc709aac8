"""Hints that an applied entry leaves for the leader. Losing one costs latency, never a message (contract 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.machine.state import Message


class EntryEffects:
    """`ready`: queues where something may have become leasable (a dict, for its order). `finished`: messages
    by number that reached done, dead or cancelled, also those that left the tables with it. `deleted`: names of
    queues deleted. `flows`: numbers of flows that ended. `runs`: ids of runs with new events, or forgotten."""

    __slots__ = ("deleted", "finished", "flows", "ready", "runs")

    def __init__(self) -> None:
        self.ready: dict[str, None] = {}
        self.finished: dict[int, Message] = {}
        self.deleted: list[str] = []
        self.flows: list[int] = []
        self.runs: dict[str, None] = {}
