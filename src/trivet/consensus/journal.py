"""What SyncObj calls its journal, over our storage. Every look is O(1): the stock code only reads the two ends."""

from __future__ import annotations

from pysyncobj.journal import Journal

from trivet.consensus.port import Fatal
from trivet.storage.storage import Storage

Item = tuple[bytes, int, int]
"""(command, index, term), as SyncObj wants it. The command is never looked at, so it is not read."""


class StorageJournal(Journal):  # type: ignore[misc]
    """Element 0 is the entry at the log's base (the last one compacted away), the last element the log's end."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.vote_position = storage.position
        """Where the term and vote now held were written: a message that shows the term waits for it."""

    def __len__(self) -> int:
        return self._storage.last_index - self._storage.base_index + 1

    def __getitem__(self, place: int) -> Item:
        storage = self._storage
        if place == -1:
            last = storage.last_index
            return (b"", last, self.term_at(last))
        if place == 0:
            return (b"", storage.base_index, storage.base_term)
        raise Fatal(f"SyncObj looked at place {place!r} of the journal")

    def term_at(self, index: int) -> int:
        term = self._storage.term_at(index)
        if term is None:
            raise Fatal(f"the log has no entry {index}")
        return term

    def add(self, command: bytes, index: int, term: int) -> None:
        self._storage.append(index, term, command)

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        self._storage.set_vote(term, voted_for)
        self.vote_position = self._storage.position

    def show_after_sync(self) -> None:
        """What is said from now on waits for all that is buffered by now."""
        self.vote_position = self._storage.position

    def getCurrentTerm(self) -> int:
        return self._storage.term

    def getVotedForNodeId(self) -> str | None:
        return self._storage.voted_for

    def getRaftCommitIndex(self) -> int:
        """r01c: a stored commit index may lie beyond the log. It is learnt anew; a snapshot sets it."""
        return self._storage.base_index

    def setRaftCommitIndex(self, index: int) -> None:
        """Not stored: see above."""

    def onOneSecondTimer(self) -> None:
        """The stock journal writes its meta file here."""

    def clear(self) -> None:
        raise Fatal("SyncObj tried to clear the log")

    def deleteEntriesFrom(self, place: int) -> None:
        raise Fatal("SyncObj tried to truncate the log (r03)")

    def deleteEntriesTo(self, place: int) -> None:
        raise Fatal("SyncObj tried to compact the log (r02)")

    def _destroy(self) -> None:
        """Storage is closed by its owner."""
