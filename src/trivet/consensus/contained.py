"""The door to PySyncObj: the only module that names its private parts.

PySyncObj 0.3.17 keeps: starting an election, the rule of granting a vote, counting votes, becoming leader with a
no-op, the commit rule (majority and own term) and stepping down without a quorum. Everything else is unsafe for
our promises (the audit gives each a hazard number, ``rNN``) and is overridden here. Overridden names are private,
so the release and the very bytes of its source are pinned: another source refuses to start.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable
from operator import attrgetter
from types import TracebackType
from typing import Any, NoReturn

import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from trivet.consensus.port import Fatal
from trivet.consensus.settings import ConsensusSettings

PINNED_VERSION = "0.3.17"
PINNED_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
ROLES = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}

REGULAR = b"\x00"
NO_OP = b"\x01"
"""The first byte of each entry in the log, as SyncObj writes it for its own no-op."""

_verified = False


def verify_source() -> None:
    """Raises `Fatal` unless the library is the audited one, byte for byte."""
    global _verified
    if _verified:
        return
    source = inspect.getsource(library)
    digest = hashlib.sha256(source.encode()).hexdigest()
    if VERSION != PINNED_VERSION or digest != PINNED_SHA256:
        raise Fatal(f"pysyncobj {VERSION} (sha256 {digest}) is not the audited {PINNED_VERSION}")
    _verified = True


class Member(Node):  # type: ignore[misc]
    """A node whose hash is its place among the members.

    SyncObj walks sets of nodes; with text hashes the order of messages would change with PYTHONHASHSEED and a
    seed of the simulator would not replay (R37).
    """

    def __init__(self, name: str, ordinal: int) -> None:
        super().__init__(name)
        self.ordinal = ordinal

    def __hash__(self) -> int:
        return self.ordinal

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Member) and self.id == other.id)

    def __ne__(self, other: object) -> bool:
        return not self == other


class Turn:
    """Gives SyncObj this replica's clock and randomness for one turn.

    Both are globals of its module, and several replicas with clocks of their own live in one process in the
    simulator. What was there before comes back, so a callback may enter another replica.
    """

    def __init__(self, monotonic: Callable[[], float], rng: random.Random) -> None:
        self._ours = (monotonic, rng)
        self._before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._before.append((library.monotonicTime, library.random))
        library.monotonicTime, library.random = self._ours

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        library.monotonicTime, library.random = self._before.pop()


class _NoPoller:
    """SyncObj ends each tick in a poll of its sockets; it has none here."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


class _Private:
    """A field of SyncObj under a name of ours. Read a hundred times a write, so that no Python may run for it."""

    def __init__(self, name: str) -> None:
        self._key = "_SyncObj__" + name

    def __set_name__(self, owner: type, name: str) -> None:
        key = self._key

        def write(member: Any, value: Any) -> None:
            member.__dict__[key] = value

        setattr(owner, key, None)  # found while SyncObj.__init__ walks dir(self)
        setattr(owner, name, property(attrgetter(key), write))


def _private(name: str) -> Any:
    return _Private(name)


class Fields(SyncObj):  # type: ignore[misc]
    """SyncObj's private fields that we use, under names of ours."""

    term: int = _private("raftCurrentTerm")
    voted_for: str | None = _private("votedForNodeId")
    state: int = _private("raftState")
    leader_node: Member | None = _private("raftLeader")
    commit_index: int = _private("raftCommitIndex")
    last_applied: int = _private("raftLastApplied")
    election_deadline: float = _private("raftElectionDeadline")
    counted_match: dict[Member, int] = _private("raftMatchIndex")
    """What the commit rule counts for each member; ours to write."""
    last_response: dict[Member, float] = _private("lastResponseTime")
    """What SyncObj's check of its quorum looks at; ours to write."""
    transfer_pending: bool = _private("transferInProgress")
    no_op_index: int | None = _private("noopIDx")
    next_heartbeat: float = _private("newAppendEntriesTime")


class Contained(Fields):
    """SyncObj without its unsafe parts. `Engine` fills in what is abstract here."""

    def __init__(
        self, me: Member, others: list[Member], journal: Any, transport: Any, settings: ConsensusSettings
    ) -> None:
        verify_source()
        self._journal = journal
        configuration = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,  # no pipe, no message per command (r10)
            appendEntriesPeriod=settings.heartbeat_ms / 1000,
            raftMinTimeout=settings.election_min_ms / 1000,
            raftMaxTimeout=settings.election_max_ms / 1000,
            leaderFallbackTimeout=settings.election_max_ms / 1000,  # CheckQuorum; the default is 30 s (r09a)
            connectionTimeout=settings.election_max_ms / 1000,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
            logCompactionMinEntries=2**62,
            logCompactionMinTime=2**62,
        )
        super().__init__(me, others, configuration, nodeClass=Member, transport=transport)
        self._poller = _NoPoller()

    # --- what Engine gives ---------------------------------------------------------------------------

    def may_count(self, index: int) -> bool:
        """Whether the leader's own copy of `index` is durable (R8)."""
        raise NotImplementedError

    def apply_committed(self) -> None:
        raise NotImplementedError

    def send_round(self) -> None:
        raise NotImplementedError

    def state_changed(self, old: int, new: int) -> None:
        raise NotImplementedError

    def election_timeout_s(self) -> float:
        raise NotImplementedError

    # --- what Engine calls ---------------------------------------------------------------------------

    def stock_tick(self) -> None:
        """Elections, the commit rule, CheckQuorum; applies and sends through the overrides below."""
        SyncObj._onTick(self, 0.0)

    def stock_connected(self, member: Member) -> None:
        SyncObj._SyncObj__onNodeConnected(self, member)

    def stock_disconnected(self, member: Member) -> None:
        SyncObj._SyncObj__onNodeDisconnected(self, member)

    def stock_request_vote(self, sender: Member, term: int, last_index: int, last_term: int) -> None:
        message = {
            "type": "request_vote",
            "term": term,
            "last_log_index": last_index,
            "last_log_term": last_term,
        }
        SyncObj._SyncObj__onMessageReceived(self, sender, message)

    def stock_vote(self, sender: Member, term: int) -> None:
        SyncObj._SyncObj__onMessageReceived(self, sender, {"type": "response_vote", "term": term})

    def stock_timeout_now(self, sender: Member, term: int) -> None:
        SyncObj._SyncObj__onMessageReceived(self, sender, {"type": "timeout_now", "term": term})

    def adopt_term(self, term: int) -> None:
        """A later term was seen: follow in it, vote not given."""
        SyncObj._SyncObj__setCurrentTerm(self, term, None)

    def become_follower(self) -> None:
        self._SyncObj__setState(FOLLOWER)

    # --- overrides -----------------------------------------------------------------------------------

    @property
    def _SyncObj__raftLog(self) -> Any:
        """r01, r02: our journal over storage in place of the mmap file, which is neither synced nor checksummed.

        A data descriptor of the class, so it also swallows the assignment in SyncObj.__init__.
        """
        return self._journal

    @_SyncObj__raftLog.setter
    def _SyncObj__raftLog(self, _stock: Any) -> None:
        """The stock journal made by SyncObj.__init__ is dropped."""

    def _SyncObj__getEntries(
        self, index: int, count: int | None = None, max_bytes: int | None = None
    ) -> list[tuple[bytes, int, int]]:
        """r11, R8: only the commit rule asks, one entry at a time, and it counts the leader as soon as it has
        appended. An entry not durable here is not shown, so commit stays at or below the durable index in a
        cluster of any size. (The stock one also copies the whole tail, r14.)"""
        if count != 1:
            raise Fatal("SyncObj asked for entries outside the commit rule")
        if not self.may_count(index):
            return []
        return [(b"", index, self._journal.term_at(index))]

    def _SyncObj__applyLogEntries(self) -> bool:
        """r07: a raising command is repeated for ever, a raising callback applies twice, and nothing bounds the
        work of one tick. r08: entries are unpickled."""
        self.apply_committed()
        return False

    def _SyncObj__sendAppendEntries(self) -> None:
        """r03b, r10, r14b, r15a: sends the whole backlog in one loop, again and again, without a window, pickles
        entries longer than its batch and spins while a snapshot is made."""
        self.next_heartbeat = library.monotonicTime() + self.conf.appendEntriesPeriod
        self.send_round()

    def _SyncObj__setState(self, new: int) -> None:
        """r15c: on stepping down the stock code leaves callbacks waiting for ever, and its per-peer tables stay."""
        old = self.state
        SyncObj._SyncObj__setState(self, new)
        # A candidate whose election failed stands again without leaving its state: the votes of the earlier term must
        # not count as given, or those voters are never heard again (simulator, list seed 30010).
        if old != new or new == CANDIDATE:
            self.state_changed(old, new)

    def _SyncObj__generateRaftTimeout(self) -> float:
        """R34: right after a lost leader the rounds follow each other quickly."""
        return self.election_timeout_s()

    def _checkCommandsToApply(self) -> None:
        """r15c: a follower forwards commands whose answer may be lost. `Proposals` appends on the leader only, so
        the stock queue is always empty."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """r02, r13: pickled dumps, no fsync, a fork inside the loop. Snapshots are ours."""

    def _applyCommand(self, command: bytes, callback: Any, commandType: int | None = None) -> NoReturn:
        raise Fatal("commands go through Proposals")

    def _SyncObj__onMessageReceived(self, node: Any, message: Any) -> NoReturn:
        """r03-r05, r09, r15b: the stock handlers truncate without conflict, count replies of older terms, commit
        unverified logs and count repeated votes. Messages enter by `Engine.receive`."""
        raise Fatal("a message reached the stock dispatcher")

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> NoReturn:
        """r06: swallows every error and starts empty."""
        raise Fatal("a stock dump file was asked for")

    def _SyncObj__doApplyCommand(self, command: bytes) -> NoReturn:
        """r08: unpickles."""
        raise Fatal("a command reached the stock apply")

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> NoReturn:
        """r08: unpickles. r12: the guard against a second change is dead code."""
        raise Fatal("a membership change reached the stock code")
