"""The facade everybody uses: one member of the replicated log (docs/internals/architecture.md, consensus/)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from trivet.consensus.contained import ROLES, Turn
from trivet.consensus.engine import Engine, EventSink
from trivet.consensus.port import Outcome, StateMachine
from trivet.consensus.quorum_clock import quorum_wall_ms
from trivet.consensus.settings import ConsensusSettings
from trivet.consensus.status import ReplicaStatus, build
from trivet.consensus.syncing import SyncJob
from trivet.storage.storage import Storage
from trivet.units import Clock
from trivet.wire.frames import Hello, Message

Send = Callable[[str, Message], None]


class Replica:
    """One thread calls everything here. `send` is called at the end of an input, for what may leave by then.

    Any input may raise `Fatal` (safety can no longer be vouched for) or `OSError` (the disk failed): the process
    ends without another call.
    """

    def __init__(
        self,
        node_id: str,
        members: Sequence[str],
        storage: Storage,
        machine: StateMachine,
        clock: Clock,
        rng: random.Random,
        send: Send,
        settings: ConsensusSettings | None = None,
        on_event: EventSink | None = None,
    ) -> None:
        """Loads the newest snapshot into `machine`, which must be empty.

        Raises `ValueError` if `node_id` is not in `members`, `StorageRefused` if the directory belongs to a cluster
        of other members, `Fatal` if the library is not the audited one or the snapshot cannot be read.
        """
        self._turn = Turn(clock.monotonic, rng)
        self._send = send
        with self._turn:
            self._engine = Engine(
                node_id,
                members,
                storage,
                machine,
                clock,
                rng,
                settings or ConsensusSettings(),
                on_event or (lambda name, fields: None),
            )

    # --- inputs -----------------------------------------------------------------------------------------

    def peer_up(self, peer: str, hello: Hello) -> None:
        """A connection is there and this is what the peer said first. Ends an older connection of that peer."""
        with self._turn:
            self._engine.acquaintance.peer_up(peer, hello)
            self._flush()

    def peer_down(self, peer: str) -> None:
        with self._turn:
            self._engine.acquaintance.peer_down(peer)
            self._flush()

    def receive(self, peer: str, message: Message) -> None:
        with self._turn:
            self._engine.receive(peer, message)
            self._flush()

    def tick(self) -> None:
        """At least every 20 ms, and after messages and syncs."""
        with self._turn:
            self._engine.tick()
            self._flush()

    def propose(self, data: bytes, done: Callable[[Outcome], None], deadline_s: float = 10.0) -> None:
        """One entry. `done` is called exactly once, maybe before this returns.

        Raises `ValueError` if `data` is over `ENTRY_BYTES_MAX`.
        """
        with self._turn:
            self._engine.proposals.propose(data, done, deadline_s)
            self._flush()

    def read(self, done: Callable[[bool], None]) -> None:
        """`done(True)` once the state applied here is linearizable, `done(False)` if this node cannot vouch."""
        with self._turn:
            self._engine.reads.read(done)
            self._flush()

    def transfer(self, to: str | None = None, *, with_space: bool = False) -> bool:
        """Hand leadership over to `to` or the best member; False when this node does not lead or nobody is eligible
        (`with_space`: whoever is below the disk's floor is not).
        Until it happens or `transfer_ms` have passed nothing is proposed."""
        with self._turn:
            reason = "the disk is full" if with_space else "asked"
            started = self._engine.handover.start(to, reason, with_space=with_space)
            self._flush()
            return started

    def snapshot_now(self) -> bool:
        """Begin a snapshot in slices; False when there is nothing new or one is under way."""
        return self._engine.taker.ask()

    def take_sync(self, snapshots: bool = True) -> SyncJob | None:
        """Work for the disk; at most one job at a time. Then `synced`, or the end if it raised.

        Without `snapshots` theirs is left to `take_snapshot_job`."""
        with self._turn:
            job: SyncJob | None = self._engine.take_sync(snapshots)
            return job

    def take_snapshot_job(self) -> SyncJob | None:
        """The blocking parts of snapshots, for a lane beside that of the log, which must not wait for them. At most
        one at a time, then `synced`."""
        with self._turn:
            job: SyncJob | None = self._engine.take_snapshot_job()
            return job

    def synced(self, job: SyncJob) -> None:
        with self._turn:
            self._engine.synced(job)
            self._flush()

    def stop(self) -> None:
        """Everything that waits ends; later inputs do nothing. Storage stays open."""
        with self._turn:
            self._engine.stop()
            self._flush()

    def _flush(self) -> None:
        for peer, message in self._engine.outbox.ready():
            self._send(peer, message)

    # --- state ------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """What to say first on a new connection."""
        return self._engine.acquaintance.hello()

    @property
    def cluster_id(self) -> str:
        """Empty until the node belongs to a cluster."""
        return self._engine.cluster_id

    @property
    def phase(self) -> str:
        """empty | pending | born (R5)"""
        return self._engine.phase

    @property
    def role(self) -> str:
        """leader | follower | candidate"""
        return ROLES[self._engine.state]

    @property
    def term(self) -> int:
        return self._engine.term

    @property
    def leader(self) -> str | None:
        return self._engine.leader

    @property
    def is_leader(self) -> bool:
        return self._engine.is_leader

    @property
    def caught_up(self) -> bool:
        """Leads, and all that earlier leaders committed is applied here."""
        return self._engine.caught_up

    @property
    def can_propose(self) -> bool:
        return self._engine.why_not_propose() is None

    @property
    def commit_index(self) -> int:
        return self._engine.commit_index

    @property
    def applied_index(self) -> int:
        return self._engine.applied_index

    @property
    def durable_index(self) -> int:
        return self._engine.storage.durable_index

    @property
    def recovering(self) -> str | None:
        """Why this node may not vote, lead or answer reads (R6); None in health."""
        return self._engine.storage.recovering

    @property
    def has_quorum(self) -> bool:
        return self._engine.has_quorum

    @property
    def busy(self) -> bool:
        """More slices wait: tick again without waiting. Not while the next one waits for the disk: what a sync ends
        asks for a turn by itself."""
        engine = self._engine
        return engine.taker.working or engine.installer.working or engine.applying.urgent

    @property
    def steady(self) -> bool:
        """Nothing to commit, elect, hand over, or apply in a hurry: until the next input a tick brings only what
        time does (heartbeats, deadlines), and the timer's ticks are often enough for that."""
        return self._engine.steady

    @property
    def settled(self) -> bool:
        """Steady, and nothing waits to be stored: a turn now would do nothing."""
        return self._engine.steady and not self._engine.storage.dirty

    @property
    def standing(self) -> object:
        """Equal as long as role, term and leader are."""
        engine = self._engine
        return engine.state, engine.term, engine.leader_node

    @property
    def leader_contact_ms(self) -> int | None:
        """Since the leader was last heard of; 0 on the leader, None when there is none."""
        engine = self._engine
        if engine.is_leader:
            return 0
        peer = engine.peers.get(engine.leader or "")
        return None if peer is None else int((engine.now() - peer.heard_at) * 1000)

    @property
    def leader_commit(self) -> int | None:
        """The commit index of the leader, as it last told it in this term; None until something of this term is known
        to be committed here, too: before its no-op is, a new leader does not know what earlier ones committed. (The
        own commit index knows nothing of a log that does not fit here yet.)"""
        engine = self._engine
        if engine.is_leader:
            return engine.commit_index if engine.caught_up else None
        peer = engine.peers.get(engine.leader or "")
        if peer is None or peer.health is None or peer.health_term != engine.term:
            return None
        return peer.health.commit if engine.storage.term_at(engine.commit_index) == engine.term else None

    @property
    def memory_pressure(self) -> bool:
        return self._engine.memory_pressure

    @memory_pressure.setter
    def memory_pressure(self, pressed: bool) -> None:
        self._engine.memory_pressure = pressed

    def quorum_wall_ms(self) -> int | None:
        """R1's W: the lower median of a quorum's wall clocks, in Unix ms; None until a quorum reported."""
        return quorum_wall_ms(self._engine)

    def status(self) -> ReplicaStatus:
        return build(self._engine)

    def debug(self) -> dict[str, Any]:
        """A few internals for logs and the simulator."""
        engine = self._engine
        return {
            "state": engine.state,
            "pending": len(engine.proposals),
            "reads": len(engine.reads),
            "verified": engine.receiver.verified,
        }
