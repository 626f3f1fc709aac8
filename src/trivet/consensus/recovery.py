"""The recovering node's own side of R6: when it may vote, lead and count again.

It may have promised things it no longer knows of. Until an entry proposed after its hello is committed by a majority
without it, and it holds the log through that entry durably, it promises nothing new: any vote or acknowledgement it
has forgotten is then harmless, since every later leader has that entry and all before it. Another leader means
another release: the term of the message that named it must still be current.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.wire.frames import Append

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


class Recovery:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._release = 0
        self._release_term = -1

    @property
    def active(self) -> bool:
        return self._engine.storage.recovering is not None

    def told(self, m: Append) -> None:
        """Each message of the leader may carry the release of this run of the process."""
        if self.active and m.release and m.session == self._engine.session:
            self._release, self._release_term = m.release, m.term
            self.check()

    def check(self) -> None:
        """After a message of the leader and after each sync."""
        engine = self._engine
        if not self.active or not self._release or self._release_term != engine.term:
            return
        if engine.receiver.verified < self._release or engine.storage.durable_index < self._release:
            return
        engine.storage.clear_recovering()  # with the next sync:
        engine.journal.show_after_sync()  # nobody hears of it, and no vote leaves, before that
        engine.event("recovered", index=self._release, term=engine.term)
        self._release = 0
        engine.acquaintance.say_hello()
