"""Messages wait here until what they tell of is durable (design 3: flush before send).

SyncObj hands its own three kinds of message to `send`; everything else is `post`ed by the engine.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pysyncobj.transport import Transport

from trivet.consensus.port import Fatal
from trivet.storage.storage import Storage
from trivet.wire.frames import Message, RequestVote, Vote

FREE = 0
"""The barrier of a message that promises nothing about this disk: entries and heartbeats of a leader."""


class Outbox(Transport):  # type: ignore[misc]
    """In order per peer among messages of equal barrier; a free message may overtake one that waits."""

    def __init__(self, storage: Storage, node_id: str) -> None:
        super().__init__(None, None, [])
        self._storage = storage
        self._node_id = node_id
        self.cluster_id = ""
        self.sequence = 0
        """Number of the last leader message; replies carry it back (r04)."""
        self._free: list[tuple[str, Message]] = []
        self._waiting: deque[tuple[int, str, Message]] = deque()

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def post(self, peer: str, message: Message, barrier: int) -> None:
        """Leaves once `durable_position` has reached `barrier`. Barriers of one node only grow, except for those
        already passed."""
        if barrier <= self._storage.durable_position:
            self._free.append((peer, message))
        else:
            self._waiting.append((barrier, peer, message))

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        """SyncObj's own door. A vote or a request for one shows the term and vote: both wait for the disk (r01b)."""
        kind, term = message["type"], message["term"]
        barrier = self._storage.position
        if kind == "request_vote":
            index, last_term = message["last_log_index"], message["last_log_term"]
            self.post(node.id, RequestVote(self.cluster_id, self._node_id, term, index, last_term), barrier)
        elif kind == "response_vote":
            self.post(node.id, Vote(self.cluster_id, self._node_id, term), barrier)
        else:
            raise Fatal(f"SyncObj sent a {kind!r}")
        return True

    def ready(self) -> list[tuple[str, Message]]:
        """What may leave now."""
        out, self._free = self._free, []
        durable = self._storage.durable_position
        if self._waiting:
            still: deque[tuple[int, str, Message]] = deque()
            for barrier, peer, message in self._waiting:
                if barrier <= durable:
                    out.append((peer, message))
                else:
                    still.append((barrier, peer, message))
            self._waiting = still
        return out

    def drop_peer(self, peer: str) -> None:
        """The connection is gone: what was meant for it must not enter the next one (r15d)."""
        self._free = [item for item in self._free if item[0] != peer]
        self._waiting = deque(item for item in self._waiting if item[1] != peer)
