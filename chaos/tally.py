"""What the clients of a drill saw, and the verdict that follows from it alone.

*Lost*: an enqueue was acknowledged, and after the drain the message was not acked: no ack of it was
answered, and where one was sent and its answer lost, the broker does not say `done` either.
*Doubled*: two first-time `acked` for one id (R38), or a message delivered again after its ack was
acknowledged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class History:
    acknowledged: set[str] = field(default_factory=set)  # message ids of enqueues answered 2xx
    first_acks: Counter[str] = field(default_factory=Counter)  # `acked` without `repeated`
    delivered: Counter[str] = field(default_factory=Counter)
    delivered_after_ack: set[str] = field(default_factory=set)
    ack_sent: set[str] = field(default_factory=set)
    found_done: set[str] = field(default_factory=set)  # an ack's answer was lost; the message says it counted
    unknown: int = 0  # calls that ended unknown
    refused: int = 0  # calls that ended with a definite error
    repeated: int = 0

    def enqueued(self, ids: list[str]) -> None:
        self.acknowledged.update(ids)

    def leased(self, message: str) -> None:
        self.delivered[message] += 1
        if self.first_acks[message]:
            self.delivered_after_ack.add(message)

    def acked(self, message: str, repeated: bool) -> None:
        """`repeated` is set when this is known to be the answer to a repeat: it counts as settled once."""
        if repeated:
            self.repeated += 1
            self.first_acks[message] = max(1, self.first_acks[message])
        else:
            self.first_acks[message] += 1

    @property
    def open_acks(self) -> set[str]:
        """Acks sent whose answer never came: only the broker can tell what became of them."""
        return {one for one in self.ack_sent & self.acknowledged if not self.first_acks[one]}

    @property
    def lost(self) -> set[str]:
        return {one for one in self.acknowledged if not self.first_acks[one]} - self.found_done

    @property
    def doubled(self) -> set[str]:
        return {one for one, count in self.first_acks.items() if count > 1} | self.delivered_after_ack

    def verdict(self) -> str:
        return f"{len(self.acknowledged)} sent · {len(self.lost)} lost · {len(self.doubled)} doubled"

    @property
    def clean(self) -> bool:
        return bool(self.acknowledged) and not self.lost and not self.doubled
