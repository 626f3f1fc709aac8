"""The leader's side: what each member has, what is on the way to it, and what its answers count for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from trivet.consensus.outbox import FREE
from trivet.consensus.peers import NEVER, Peer
from trivet.wire.frames import Append, AppendReply, SnapshotReply

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

LOST_DATA_ALARM = 10


class Progress:
    """One member's log as far as this leadership knows it.

    `counts` is False while the member is recovering (R6): its answers move nothing but the transfer of data.
    `release` is then the index of the first entry proposed after its hello.
    """

    __slots__ = (
        "barrier",
        "counts",
        "echo",
        "in_flight",
        "in_flight_bytes",
        "match",
        "next",
        "not_before",
        "probing",
        "refusals",
        "release",
    )

    def __init__(self, next_index: int) -> None:
        self.next = next_index
        self.match = 0
        self.counts = True
        self.release = 0
        self.echo = 0
        self.barrier = 0
        self.not_before = 0
        self.probing = True
        self.refusals = 0
        self.in_flight: deque[tuple[int, int]] = deque()  # (last index, bytes)
        self.in_flight_bytes = 0

    def sent(self, last: int, size: int) -> None:
        self.in_flight.append((last, size))
        self.in_flight_bytes += size
        self.next = last + 1

    def arrived(self, match: int) -> None:
        self.match = max(self.match, match)
        self.next = max(self.next, self.match + 1)
        self.probing = False
        self.refusals = 0
        while self.in_flight and self.in_flight[0][0] <= self.match:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    def go_back(self, next_index: int) -> None:
        """What was on the way is of no use; one message at a time until the logs meet again."""
        self.next = next_index
        self.probing = True
        self.in_flight.clear()
        self.in_flight_bytes = 0


class Replication:
    """Built anew in each leadership; empty while this node does not lead."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._of: dict[str, Progress] = {}

    # --- leadership -----------------------------------------------------------------------------------

    def lead(self) -> None:
        """SyncObj appends its no-op right after this: the first entry proposed after every hello known by now."""
        no_op = self._engine.storage.last_index + 1
        self._of = {}
        for peer in self._engine.peers:
            progress = self._of[peer.name] = Progress(no_op)
            progress.not_before = self._engine.outbox.sequence
            peer.match = 0
            if peer.recovering:
                progress.counts = False
                progress.release = no_op

    def stop(self) -> None:
        self._of = {}
        for peer in self._engine.peers:
            peer.match = 0
        self._engine.snapshot_sender.stop_all()

    def of(self, peer: Peer) -> Progress | None:
        return self._of.get(peer.name)

    def counts(self, peer: Peer) -> bool:
        progress = self._of.get(peer.name)
        return progress is not None and progress.counts

    def member_came(self, peer: Peer) -> None:
        """A new connection: nothing of the old one is on its way. A recovering member starts from nothing (R6)."""
        progress = self._of.get(peer.name)
        if progress is None:
            return
        engine = self._engine
        progress.not_before = engine.outbox.sequence  # answers to older messages are an earlier life's
        self._engine.snapshot_sender.stop(peer.name)
        if peer.recovering:
            self._start_over(peer, progress)
        else:
            progress.go_back(progress.match + 1 if progress.match else engine.storage.last_index + 1)
            self.send_to(peer, progress, heartbeat=True)

    def member_gone(self, peer: Peer) -> None:
        progress = self._of.get(peer.name)
        if progress is not None:
            progress.go_back(progress.match + 1 if progress.match else progress.next)
            self._engine.snapshot_sender.stop(peer.name)

    def _start_over(self, peer: Peer, progress: Progress) -> None:
        """R6: forget what it had. The release entry must be proposed after its hello: one is made now, and as the
        member counts for nothing it can only be committed by a majority without it."""
        engine = self._engine
        progress.counts = False
        progress.match = progress.echo = 0
        progress.not_before = engine.outbox.sequence
        peer.match = 0
        engine.counted_match[peer.node] = 0
        engine.last_response[peer.node] = NEVER
        progress.release = engine.append_no_op()
        progress.go_back(engine.storage.last_index + 1)
        engine.event("member_recovering", member=peer.name, release=progress.release)
        self.pump_all()

    # --- sending --------------------------------------------------------------------------------------

    def heartbeats(self) -> None:
        """One message to every member: entries where the window has room, else an empty one."""
        for peer in self._engine.peers:
            progress = self._of.get(peer.name)
            if progress is not None and not progress.counts:
                self._engine.last_response[peer.node] = NEVER
            if progress is not None and peer.connected:
                self.send_to(peer, progress, heartbeat=True)

    def pump_all(self) -> None:
        for peer in self._engine.peers:
            progress = self._of.get(peer.name)
            if progress is not None and peer.connected:
                self.send_to(peer, progress, heartbeat=False)

    def send_to(self, peer: Peer, progress: Progress, heartbeat: bool) -> None:
        """Never the whole backlog at once (r14b): up to the window, each message bounded."""
        engine = self._engine
        storage, settings = engine.storage, engine.settings
        if progress.next - 1 < storage.base_index:
            engine.snapshot_sender.send_to(peer, heartbeat)
            return
        frames = 1 if progress.probing else settings.window_frames
        while (
            progress.next <= storage.last_index
            and len(progress.in_flight) < frames
            and progress.in_flight_bytes < settings.window_bytes
        ):
            batch = storage.entries(progress.next, storage.last_index + 1, settings.append_bytes)
            self._append(peer, progress, [(term, data) for _, term, data in batch])
            progress.sent(batch[-1][0], sum(len(data) for _, _, data in batch))
            heartbeat = False
        if heartbeat:
            self._append(peer, progress, [])

    def _append(self, peer: Peer, progress: Progress, entries: list[tuple[int, bytes]]) -> None:
        engine = self._engine
        previous = progress.next - 1
        released = not progress.counts and 0 < progress.release <= engine.commit_index
        message = Append(
            engine.cluster_id,
            engine.me.id,
            engine.term,
            engine.outbox.next_sequence(),
            previous,
            engine.journal.term_at(previous),
            engine.commit_index,
            progress.release if released else 0,
            peer.session if released else 0,
            engine.health(),
            entries,
        )
        engine.outbox.post(peer.name, message, FREE)  # may overtake our own disk: R8 caps what it counts for

    # --- answers --------------------------------------------------------------------------------------

    def on_append_reply(self, peer: Peer, m: AppendReply) -> None:
        progress = self._accept(peer, m)
        if progress is None:
            return
        last = self._engine.storage.last_index
        if m.ok:
            self._matched(peer, progress, min(m.match, last))
        elif (
            m.seq > progress.barrier
        ):  # r16: one step back for each window of messages, not one for each answer
            progress.barrier = self._engine.outbox.sequence
            if m.next <= progress.match:
                self._refused_below(peer, progress)
            progress.go_back(max(min(m.next, last + 1), progress.match + 1))
        self._after(peer, progress)

    def on_snapshot_reply(self, peer: Peer, m: SnapshotReply) -> None:
        progress = self._accept(peer, m)
        if progress is None:
            return
        if m.installed:
            self._matched(peer, progress, min(m.match, self._engine.storage.last_index))
            # Every piece of the window is answered so; going back once is enough, and once for each would send
            # what is on its way again, as often.
            if self._engine.snapshot_sender.is_sending(peer.name, m.name):
                self._engine.snapshot_sender.stop(peer.name)
                progress.go_back(progress.match + 1)
        else:
            self._engine.snapshot_sender.on_reply(peer, m)
        self._after(peer, progress)

    def _accept(self, peer: Peer, m: AppendReply | SnapshotReply) -> Progress | None:
        """r04: an answer of another term counts nothing; nor does one of an earlier life of the member (R6)."""
        engine = self._engine
        progress = self._of.get(peer.name)
        if progress is None or not engine.is_leader or m.term != engine.term:
            return None
        if not progress.not_before < m.seq <= engine.outbox.sequence or m.session != peer.session:
            return None
        if m.recovering and progress.counts:
            if m.seq <= progress.echo:
                return None  # late: a later message was answered by the whole member
            peer.recovering = True
            self._start_over(peer, progress)
        elif not m.recovering and not progress.counts:
            peer.recovering = False
            progress.counts = True
            progress.release = 0
            engine.event("member_whole", member=peer.name, match=progress.match)
            self._count(peer, progress)
        peer.take_health(m.health, engine.now(), m.term)
        if progress.counts:
            engine.last_response[peer.node] = engine.now()
            progress.echo = max(progress.echo, m.seq)
        return progress

    def _matched(self, peer: Peer, progress: Progress, match: int) -> None:
        progress.arrived(match)
        peer.match = progress.match
        self._count(peer, progress)

    def _count(self, peer: Peer, progress: Progress) -> None:
        """What SyncObj's commit rule sees."""
        if progress.counts:
            counted = self._engine.counted_match
            counted[peer.node] = max(counted.get(peer.node, 0), progress.match)

    def _refused_below(self, peer: Peer, progress: Progress) -> None:
        """An answer below what it had acknowledged: overtaken by its own later one, or it has lost durable data."""
        progress.refusals += 1
        if progress.refusals == LOST_DATA_ALARM:
            self._engine.event("member_lost_data", member=peer.name, match=progress.match)

    def _after(self, peer: Peer, progress: Progress) -> None:
        self.send_to(peer, progress, heartbeat=False)
        self._engine.reads.check()
        self._engine.handover.check()

    # --- quorum ---------------------------------------------------------------------------------------

    def heard_quorum(self, sequence: int) -> bool:
        """Whether a majority of whole members, this node included, answered message `sequence` or a later one."""
        heard = 1 + sum(1 for p in self._of.values() if p.counts and p.echo >= sequence)
        return heard >= self._engine.peers.quorum

    def can_commit(self) -> bool:
        """Whether a majority, this node included, holds the entry after the last committed one durably."""
        engine = self._engine
        index = engine.commit_index + 1
        if engine.storage.durable_index < index:
            return False
        return 1 + sum(1 for match in engine.counted_match.values() if match >= index) >= engine.peers.quorum

    def counted_peers(self) -> list[Peer]:
        return [peer for peer in self._engine.peers if self.counts(peer)]
