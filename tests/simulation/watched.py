"""The real storage, with the checker looking on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.checks import Checker
from trivet.storage.storage import Storage

if TYPE_CHECKING:
    from tests.simulation.node import SimNode


class WatchedStorage(Storage):
    """The real storage; the checker sees each change of the log as it is made."""

    checker: Checker
    owner: SimNode

    def append(self, index: int, term: int, data: bytes) -> None:
        self.checker.appended(self.owner.name, index, term, self.term_at(index - 1), data)
        super().append(index, term, data)

    def truncate_from(self, index: int) -> None:
        replica = self.owner.replica
        self.checker.truncated(self.owner.name, index, replica.commit_index if replica is not None else 0)
        self.owner.world.count("log truncated")
        super().truncate_from(index)
