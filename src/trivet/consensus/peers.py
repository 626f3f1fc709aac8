"""What this node knows of the other members, leader or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trivet.consensus.contained import Member
from trivet.wire.frames import Health, Hello

NEVER = float("-inf")


@dataclass(slots=True)
class Peer:
    """Another member. `heard_at` is this node's monotonic second of its last message."""

    name: str
    node: Member
    connected: bool = False
    hello: Hello | None = None
    recovering: bool = False
    session: int = 0
    health: Health | None = None
    health_at: float = NEVER
    health_term: int = 0
    heard_at: float = NEVER
    match: int = 0
    """What it last said to hold of our log; 0 while we do not lead."""

    def take_health(self, health: Health, now: float, term: int) -> None:
        """What it said of itself in a message of `term`, at monotonic second `now`."""
        self.health, self.health_at, self.health_term = health, now, term


class Peers:
    """In order of ordinal, which is the order of every loop over peers (R37)."""

    def __init__(self, me: str, members: tuple[str, ...]) -> None:
        """Raises `ValueError` if `me` is not a member or a name comes twice."""
        if me not in members or len(set(members)) != len(members):
            raise ValueError(f"{me!r} among {members!r}: each member once, and this node one of them")
        self.members = tuple(sorted(members))
        nodes = {name: Member(name, i) for i, name in enumerate(self.members)}
        self.me = nodes[me]
        self._by_name = {name: Peer(name, node) for name, node in nodes.items() if name != me}

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Peer | None:
        return self._by_name.get(name)

    @property
    def quorum(self) -> int:
        """Members that make a majority, this node included."""
        return len(self.members) // 2 + 1
