"""The nodes a client may ask: which one first, which one next, and who leads."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

SCHEMES = {"http": 80, "https": 443}


@lru_cache(maxsize=64)  # every answer names the leader
def origin_of(address: str) -> str:
    """`http://host:port` of a URL or of a bare `host:port`. Raises ValueError."""
    text = address.strip()
    if "://" not in text:
        text = "http://" + text
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(f"{address!r} is not an address like http://127.0.0.1:7480")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong into a node's address; use token=")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or SCHEMES[parts.scheme]}"


class Ring:
    """Known members, the leader as last heard, and how fresh each node's last failure is.

    `members` were given by the caller: they alone get credentials. `learned` were named by a member
    (redirect, `Trivet-Leader`): they are asked too, without credentials.
    """

    def __init__(self, addresses: Iterable[str], start: int = 0) -> None:
        self.members: list[str] = list(dict.fromkeys(origin_of(one) for one in addresses))
        if not self.members:
            raise ValueError("a client needs the address of at least one node")
        self.learned: list[str] = []
        self.leader: str | None = None
        self._term = -1
        self._bad_until: dict[str, float] = {}
        self._turn = start % len(self.members)

    def __len__(self) -> int:
        return len(self.members) + len(self.learned)

    def learn(self, leader: str | None, term: int | None) -> None:
        """Note what an answer's headers say. An older term's word is ignored."""
        if not leader or (term is not None and term < self._term):
            return
        try:
            origin = origin_of(leader)
        except ValueError:
            return  # a header we cannot read is worth less than the leader we know
        if term is not None:
            self._term = term
        if origin not in self.members and origin not in self.learned:
            self.learned.append(origin)
            del self.learned[:-16]  # a liar cannot make the ring grow
        self.leader = origin

    def failed(self, origin: str, now_s: float, for_s: float) -> None:
        """It did not answer: ask the others first for `for_s` seconds."""
        self._bad_until[origin] = now_s + for_s
        if self.leader == origin:
            self.leader = None

    def answered(self, origin: str) -> None:
        self._bad_until.pop(origin, None)

    def is_bad(self, origin: str, now_s: float) -> bool:
        return self._bad_until.get(origin, 0.0) > now_s

    def pick(self, tried: set[str], now_s: float) -> str | None:
        """The best node not yet tried in this round: the leader, then the healthy, then the rest."""
        if self.leader and self.leader not in tried and not self.is_bad(self.leader, now_s):
            return self.leader
        left = [one for one in self.in_turn() if one not in tried]
        if not left:
            return None
        return next((one for one in left if not self.is_bad(one, now_s)), left[0])

    def in_turn(self) -> list[str]:
        """All nodes, beginning with the one whose turn it is."""
        order = self.members + [one for one in self.learned if one not in self.members]
        start = self._turn % len(order)
        return order[start:] + order[:start]

    def turn(self) -> None:
        """Begin the next round at the next node."""
        self._turn = (self._turn + 1) % len(self)
