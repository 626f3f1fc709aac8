"""What the log has said so far of messages, queues and keys: the bookkeeping under `queue_laws.py`."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from trivet.machine import commands as c

DEFAULTS = c.QueueConfig()


@dataclass
class Fact:
    """One message. `rank`: its place among all messages, new with a redrive (R21, R23), 0 for unknown."""

    queue: str
    draft: c.Draft
    rank: int
    not_before: int  # not delivered before this instant
    mortal: bool  # it has a ttl
    attempt: int = 0
    leased_until: int = 0
    ended: str = ""  # done | dead | cancelled, as far as an answer said so
    marked: bool = False  # cancelled while leased (R22)
    redriven: bool = False
    children: tuple[int, ...] = ()


class Queues:
    """The configurations as the log has set them."""

    def __init__(self) -> None:
        self._configs: dict[str, c.QueueConfig] = {}
        self._loose: set[str] = set()

    def config(self, name: str) -> c.QueueConfig:
        """An unknown one was made by an enqueue, with the defaults."""
        return self._configs.get(name, DEFAULTS)

    def loose_groups(self, name: str) -> bool:
        """Whether the queue ever let two of a group run at once (R21)."""
        return name in self._loose

    def put(self, name: str, config: c.QueueConfig) -> None:
        self._configs[name] = config
        if config.max_leased_per_group > 1:
            self._loose.add(name)

    def note(self, command: c.Command) -> None:
        """A command on a queue that was not refused."""
        if isinstance(command, c.PutQueue):
            self._configs[command.name] = command.config
        elif isinstance(command, c.PatchQueue):
            changes = {name: value for name, value in command.changes.items() if name != "backoff"}
            self._configs[command.name] = msgspec.structs.replace(self.config(command.name), **changes)
        elif isinstance(command, c.DeleteQueue):
            self._configs.pop(command.name, None)
        else:
            return
        if self.config(command.name).max_leased_per_group > 1:
            self._loose.add(command.name)


class Keys:
    """R16: a key names one message for its window, whatever happens to the message."""

    def __init__(self) -> None:
        self._bound: dict[tuple[str, str], tuple[int, int]] = {}  # (queue, key) -> message, end of its window

    def bind(self, queue: str, key: str, message: int, clock_ms: int, window_ms: int) -> int | None:
        """The other message that the key still names, None if all is well."""
        known = self._bound.get((queue, key))
        if known is not None and known[0] == message:
            return None
        if known is not None and clock_ms < known[1]:
            return known[0]
        self._bound[queue, key] = (message, clock_ms + window_ms)
        return None

    def forget_queue(self, queue: str) -> None:
        for pair in [pair for pair in self._bound if pair[0] == queue]:
            del self._bound[pair]
