"""One member's Raft: SyncObj's rules (`contained.py`) and our parts around them, over one storage and one machine.

Everything runs in one thread, in turns. Components ask each other through the engine; none keeps a copy of what
another one owns.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trivet.consensus.acquaintance import Acquaintance
from trivet.consensus.applying import Applying
from trivet.consensus.contained import CANDIDATE, FOLLOWER, LEADER, NO_OP, Contained, Member
from trivet.consensus.elections import DEPOSED, Elections
from trivet.consensus.founding import Founding
from trivet.consensus.handover import Handover
from trivet.consensus.journal import StorageJournal
from trivet.consensus.outbox import Outbox
from trivet.consensus.peers import Peer, Peers
from trivet.consensus.port import OutOfTime, StateMachine
from trivet.consensus.proposals import Proposals
from trivet.consensus.reads import Reads
from trivet.consensus.receiver import Receiver
from trivet.consensus.recovery import Recovery
from trivet.consensus.replication import Replication
from trivet.consensus.settings import ConsensusSettings
from trivet.consensus.snapshot_install import SnapshotInstaller, load
from trivet.consensus.snapshot_send import SnapshotSender
from trivet.consensus.snapshot_take import SnapshotTaker
from trivet.consensus.status import ELECTIONS_KEPT, Election
from trivet.storage.storage import Storage
from trivet.units import Clock
from trivet.wire.frames import (
    Append,
    AppendReply,
    Health,
    Hello,
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    StaleTerm,
    TimeoutNow,
    Vote,
)

T = TypeVar("T")
EventSink = Callable[[str, dict[str, Any]], None]
FREE_BYTES_EVERY_S = 1.0


class Engine(Contained):
    """Made and driven by `Replica`, which holds SyncObj's clock and randomness around every call."""

    def __init__(
        self,
        node_id: str,
        members: Sequence[str],
        storage: Storage,
        machine: StateMachine,
        clock: Clock,
        rng: random.Random,
        settings: ConsensusSettings,
        on_event: EventSink,
    ) -> None:
        self.storage = storage
        self.machine = machine
        self.clock = clock
        self.now = clock.monotonic
        self.rng = rng
        self.settings = settings
        self.on_event = on_event
        self.peers = Peers(node_id, tuple(members))
        self.me: Member = self.peers.me
        self.session = rng.getrandbits(62)
        self.stopped = False
        self.memory_pressure = False
        self.disk_full = False
        self.standing_alarms: list[str] = []
        self.elections_seen: deque[Election] = deque(maxlen=ELECTIONS_KEPT)
        self._free_bytes = storage.free_bytes()
        self._free_bytes_at = clock.monotonic()
        self.journal = StorageJournal(storage)
        self.outbox = Outbox(storage, node_id)
        self.elections = Elections(self, rng)
        self.receiver = Receiver(self)
        self.recovery = Recovery(self)
        self.replication = Replication(self)
        self.proposals = Proposals(self)
        self.reads = Reads(self)
        self.handover = Handover(self)
        self.applying = Applying(self)
        self.taker = SnapshotTaker(self)
        self.snapshot_sender = SnapshotSender(self)
        self.installer = SnapshotInstaller(self)
        self.founding = Founding(self)
        self.acquaintance = Acquaintance(self)
        self._handlers: dict[type, Callable[[Peer, Any], None]] = {
            PreVote: self.elections.on_pre_vote,
            PreVoteReply: self.elections.on_pre_vote_reply,
            RequestVote: self.elections.on_request_vote,
            Vote: self.elections.on_vote,
            StaleTerm: self.elections.on_stale_term,
            TimeoutNow: self.elections.on_timeout_now,
            Append: self.receiver.on_append,
            AppendReply: self.replication.on_append_reply,
            SnapshotChunk: self.installer.on_chunk,
            SnapshotReply: self.replication.on_snapshot_reply,
        }
        self._deadline = 0.0
        super().__init__(self.me, [p.node for p in self.peers], self.journal, self.outbox, settings)
        self.outbox.cluster_id = self.cluster_id
        self._load_snapshot()
        self.founding.check()
        if not self.peers:
            self.election_deadline = self.now() - 1.0  # alone: nobody to wait for

    def _load_snapshot(self) -> None:
        """The newest snapshot into an empty machine. At the start nobody waits for the loop."""
        meta = self.storage.snapshots.latest
        if meta is not None and self.machine.applied_index < meta.index:
            load(self.machine, self.storage.snapshots.reader(meta))
        self.last_applied = self.machine.applied_index
        self.commit_index = max(self.storage.base_index, self.machine.applied_index)

    # --- what is so -----------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        identity = self.storage.identity
        return identity.cluster_id if identity is not None else ""

    @property
    def phase(self) -> str:
        identity = self.storage.identity
        return identity.phase if identity is not None else "empty"

    @property
    def born(self) -> bool:
        return self.phase == "born"

    @property
    def is_leader(self) -> bool:
        return self.state == LEADER

    @property
    def leader(self) -> str | None:
        node = self.leader_node
        return node.id if node is not None else None

    @property
    def may_vote(self) -> bool:
        """R5, R6: a node that may have forgotten a promise makes none, and does not stand."""
        return self.born and not self.recovery.active and not self.stopped

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    @property
    def caught_up(self) -> bool:
        """Leading, and everything committed under earlier leaders is applied here."""
        no_op = self.no_op_index
        return self.is_leader and no_op is not None and self.machine.applied_index >= no_op

    @property
    def has_quorum(self) -> bool:
        """A leader has not been told otherwise by CheckQuorum; others count live connections."""
        if self.is_leader:
            return True
        return 1 + sum(1 for peer in self.peers if peer.connected) >= self.peers.quorum

    @property
    def waiting_for(self) -> str:
        return self.founding.waiting_for

    @property
    def refusal(self) -> str:
        return self.founding.refusal

    def why_not_propose(self) -> str | None:
        """A reason of `NotProposed`, or None when a proposal would be taken."""
        if self.stopped:
            return "stopped"
        if not self.caught_up:
            return "not_leader"
        if self.handover.under_way:
            return "draining"
        return "overloaded" if self.proposals.full else None

    @property
    def steady(self) -> bool:
        if not self.born or self.stopped or self.taker.busy or self.installer.busy or self.applying.urgent:
            return False
        if self.state == LEADER:
            return not (self.handover.under_way or self.replication.can_commit())
        settled = self.state == FOLLOWER and self.leader_node is not None and not self.transfer_pending
        return settled and not self.elections.asking and self.election_deadline >= self.now()

    def health(self) -> Health:
        return Health(
            self.clock.wall_ms(),
            self._free_bytes,
            self.memory_pressure,
            self.commit_index,
            self.applied_index,
        )

    # --- for components -------------------------------------------------------------------------------

    def event(self, name: str, /, **fields: Any) -> None:
        self.on_event(name, fields)

    def call(self, done: Callable[[T], None], value: T) -> None:
        """r07: what a waiter raises must not reach the tick, or its entry would be applied twice."""
        try:
            done(value)
        except Exception as error:  # noqa: BLE001 reported; the waiter's defect is not ours to die of
            self.event("callback_raised", error=repr(error))

    def append_own(self, command: bytes) -> int:
        index = self.storage.last_index + 1
        self.storage.append(index, self.term, command)
        return index

    def append_no_op(self) -> int:
        return self.append_own(NO_OP)

    def truncate_from(self, index: int) -> None:
        self.event("log_truncated", index=index, last=self.storage.last_index)
        self.storage.truncate_from(index)

    def follow(self, peer: Peer) -> None:
        """A valid leader of the current term spoke."""
        if self.leader_node is not peer.node:
            self.leader_node = peer.node
            self._note_election(peer.name, self.elections.reason)

    def _note_election(self, leader: str, reason: str) -> None:
        self.elections_seen.append(Election(self.term, leader, self.clock.wall_ms(), reason))
        self.event("leader", term=self.term, leader=leader, reason=reason)

    # --- what SyncObj asks ------------------------------------------------------------------------------

    def may_count(self, index: int) -> bool:
        return index <= self.storage.durable_index

    def apply_committed(self) -> None:
        self.applying.run(self._out_of_time)

    def send_round(self) -> None:
        self.replication.heartbeats()

    def election_timeout_s(self) -> float:
        return self.elections.timeout_s()

    def state_changed(self, old: int, new: int) -> None:
        if new == CANDIDATE:
            self.elections.campaign_began()
        elif new == LEADER:
            self.replication.lead()
            self._note_election(self.me.id, self.elections.reason)
            self.elections.reason = DEPOSED
        if old == LEADER:
            self.event("stepped_down", term=self.term)
            self.replication.stop()
            self.handover.lost_leadership()
            self.elections.postpone()
            self.proposals.end_all("lost_leadership")
            self.reads.fail_all()

    # --- inputs -----------------------------------------------------------------------------------------

    def receive(self, name: str, message: Message) -> None:
        peer = self.peers.get(name)
        if peer is None or not peer.connected or message.node_id != name or self.stopped:
            return
        if isinstance(message, Hello):
            self.acquaintance.hello_again(peer, message)
            return
        if not self.born or message.cluster_id != self.cluster_id:
            return
        peer.heard_at = self.now()
        self._handlers[type(message)](peer, message)

    def tick(self) -> None:
        """Elections, commit, apply, heartbeats, deadlines: everything that time or a quorum brings."""
        now = self.now()
        self._deadline = now + self.settings.slice_ms / 1000
        if now - self._free_bytes_at >= FREE_BYTES_EVERY_S:
            self._look_at_disk(now)
        self.founding.check()
        if not self.born or self.stopped:
            return
        self.elections.gate()
        self.stock_tick()
        self.installer.step(self._out_of_time)
        self.taker.step(self._out_of_time)
        self.proposals.expire()
        self.reads.check()
        self.handover.check()

    @property
    def _out_of_time(self) -> OutOfTime:
        deadline, monotonic = self._deadline, self.clock.monotonic
        return lambda: monotonic() >= deadline

    def _look_at_disk(self, now: float) -> None:
        self._free_bytes_at = now
        self._free_bytes = self.storage.free_bytes()
        self.disk_full = self._free_bytes < self.settings.disk_floor_bytes

    def take_sync(self, snapshots: bool) -> Any:
        """The log first; with `snapshots` the blocking part of one goes in between."""
        if snapshots and self._snapshot_first:
            self._snapshot_first = False
            job = self.take_snapshot_job()
            if job is not None:
                return job
        job = self.storage.begin_sync()
        if job is not None:
            self._snapshot_first = True
            self.elections.turns.sync_began()
            return job
        return self.take_snapshot_job() if snapshots else None

    _snapshot_first = False

    def take_snapshot_job(self) -> Any:
        return self.installer.take_job() or self.taker.take_job()

    def synced(self, job: Any) -> None:
        if not self.installer.job_done(job) and not self.taker.job_done(job):
            self.elections.turns.sync_ended()
            self.storage.end_sync(job)
        self.recovery.check()
        self.handover.check()

    def stop(self) -> None:
        """No more turns count; everything that waits ends."""
        if self.stopped:
            return
        self.stopped = True
        self.proposals.end_all("stopped")
        self.reads.fail_all()
        self.taker.abort("stopped")
        self.installer.abort("stopped")
        self.snapshot_sender.stop_all()
