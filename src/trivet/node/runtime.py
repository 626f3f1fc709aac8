"""The composition root: one node, put together, started, drained and stopped.

`http` is not known here: `trivet.http.server.serve(node)` puts the API in front of `node.broker`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable
from typing import Any

from trivet import __version__
from trivet.config import Config
from trivet.consensus.driver import Driver
from trivet.consensus.port import Outcome
from trivet.consensus.replica import Replica
from trivet.consensus.settings import ConsensusSettings
from trivet.consensus.transport import PeerLinks
from trivet.machine.commands import MACHINE_VERSION, Command, Genesis, Request
from trivet.machine.core import Machine
from trivet.machine.effects import EntryEffects
from trivet.node.broker import Broker
from trivet.node.clock import RealClock
from trivet.node.duties import SECRET_BYTES, Duties, DutySettings, End
from trivet.node.garbage import Garbage
from trivet.node.memory import MESSAGE_BYTES, MemoryGauge, memory_limit_bytes, resident_bytes
from trivet.node.stamps import Stamper
from trivet.node.watching import NodeObserver, TimedApplier, Watcher
from trivet.observability.logs import Events, Log, open_log
from trivet.observability.metrics import Metrics
from trivet.storage.port import Disk
from trivet.storage.real_disk import RealDisk
from trivet.storage.settings import StorageSettings
from trivet.storage.storage import Storage
from trivet.units import Clock
from trivet.wire.frames import AnyMessage, Hello

EXIT_FAILED = 70  # EX_SOFTWARE: the node ended itself because its promises could not be kept
PROPOSAL_DEADLINE_SECONDS = 10.0

Die = Callable[[str, BaseException | None], None]


class _Sizes:
    """`duties.LogSizes` over storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def free_bytes(self) -> int:
        return self._storage.free_bytes()

    def snapshot(self) -> tuple[int, int]:
        latest = self._storage.snapshots.latest
        return (0, 0) if latest is None else (latest.index, latest.size)

    def log_bytes(self) -> int:
        return self._storage.log_end


class Node:
    """One member. `start`, then `drain` and `stop`. `node.port.Host` for the broker.

    Raises `StorageRefused` from the constructor when the data directory must not be used by this node, and
    `OSError` when the disk fails.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        disk: Disk | None = None,
        log: Log | None = None,
        meters: Metrics | None = None,
        die: Die | None = None,
    ) -> None:
        """`die(reason, error)` ends the process; the default logs and leaves with `EXIT_FAILED`."""
        self.config = config
        self.node_id = config.node.id
        self.clock = clock or RealClock()
        self.rng = rng or random.SystemRandom()
        self.log = log or open_log(self.node_id, level=config.log.level, format=config.log.format)
        self.meters = meters or Metrics(process=True)
        self.draining = False
        self.members = tuple(sorted(config.members)) or (self.node_id,)
        self.urls: dict[str, str] = {self.node_id: config.api_url}
        self._die = die or self._exit
        self._started_at = self.clock.monotonic()
        self.watcher = Watcher(self)
        self.garbage = Garbage()
        self._disk = disk if disk is not None else RealDisk(config.node.data_dir)
        try:
            self._build()
        except BaseException:
            if disk is None:
                self._disk.close()  # type: ignore[attr-defined]
            raise

    def _build(self) -> None:
        config, clock = self.config, self.clock
        self.storage = Storage.open(
            self._disk,
            self.node_id,
            clock,
            StorageSettings(segment_bytes=config.storage.segment_bytes, salt=self.rng.getrandbits(32)),
        )
        self.applier = TimedApplier(self._entry_applied, self.meters)
        self.links = PeerLinks(
            self.node_id,
            {name: (address.host, address.port) for name, address in config.members.items()},
            hello=lambda: self.replica.hello(),
            cluster_id=lambda: self.storage.identity.cluster_id if self.storage.identity else None,
            events=self,
            clock=clock,
            rng=self.rng,
        )
        self.replica = Replica(
            self.node_id,
            list(self.members),
            self.storage,
            self.applier,
            clock,
            self.rng,
            self.links.send,
            self._consensus_settings(),
            self._consensus_event,
        )
        self.stamper = Stamper(clock, self.replica.quorum_wall_ms, alone=len(self.members) == 1)
        self.broker = Broker(
            consensus=self.replica,
            machine=lambda: self.applier.machine,
            host=self,
            clock=clock,
            stamp=lambda: self.stamper.now_ms(self.applier.machine.clock_ms),
            wake=lambda: self.driver.wake(),
            applying=lambda: self.applier.busy,
            peek_ms=lambda: self.stamper.peek_ms(self.applier.machine.clock_ms),
            auto_create_queues=config.api.auto_create_queues,
        )
        self.duties = Duties(
            office=self.replica,
            machine=lambda: self.applier.machine,
            sizes=_Sizes(self.storage),
            stamper=self.stamper,
            offer=self._offer,
            genesis=self._make_genesis,
            memory=MemoryGauge(
                resident_bytes, self._state_bytes, memory_limit_bytes(config.memory.limit_bytes)
            ),
            clock=clock,
            settings=DutySettings(
                snapshot_entries=config.storage.snapshot_entries,
                snapshot_bytes=config.storage.snapshot_bytes,
                disk_reserve_bytes=config.storage.disk_reserve_bytes,
                disk_floor_bytes=self._disk_floor_bytes,
                auto_create_queues=config.api.auto_create_queues,
            ),
            log=self.log,
        )
        self.driver = Driver(
            self.replica,
            self,
            flush=self.links.flush,
            die=self._failed,
            observer=NodeObserver(self.meters, self.log, clock),
            on_turn=self.watcher.look,
            on_timer=self._on_timer,
            proposal_deadline_s=PROPOSAL_DEADLINE_SECONDS,
            name=self.node_id,
        )

    @property
    def _disk_floor_bytes(self) -> int:
        """Above it there is always room for the next segment: a disk that is full keeps nobody from voting."""
        return max(self.config.storage.disk_floor_bytes, self.config.storage.segment_bytes)

    def _state_bytes(self) -> int:
        """What waits and is leased, as the queues count it, and the records."""
        machine = self.applier.machine
        bodies = sum(queue.bytes for queue in machine.queues.values())
        return bodies + MESSAGE_BYTES * len(machine.messages) + machine.run_bytes

    def _on_timer(self) -> None:
        self.duties.on_timer()
        self.garbage.on_timer()

    def _consensus_settings(self) -> ConsensusSettings:
        config = self.config
        return ConsensusSettings(
            heartbeat_ms=config.raft.heartbeat_ms,
            election_min_ms=config.raft.election_min_ms,
            election_max_ms=config.raft.election_max_ms,
            # A single node has nobody who could hold its past (R5): an empty directory is its birth.
            bootstrap=config.cluster.bootstrap or not config.cluster.members,
            disk_floor_bytes=self._disk_floor_bytes,
            api_url=config.api_url,
            software=__version__,
            machine_version=MACHINE_VERSION,
        )

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Binds the Raft address and begins to take part. Raises `OSError` if the address is taken."""
        self.log(
            Events.NODE_STARTING,
            version=__version__,
            data_dir=self.config.node.data_dir,
            members=list(self.members),
            api=self.config.api.listen,
            raft=str(self.config.raft_listen or ""),
        )
        for note in self.storage.notes:
            self.log(Events.STORAGE_REPAIRED, what="opened", detail=note)
        if self.storage.recovering is not None:
            self.log(Events.RECOVERING, reason=self.storage.recovering)
        self.duties.look_at_watermarks()
        self.garbage.start()
        self.driver.start()
        listen = self.config.raft_listen
        if listen is not None and len(self.members) > 1:
            try:
                await self.links.start((listen.host, listen.port))
            except BaseException:
                await self.driver.stop()
                raise
        self.log(
            Events.NODE_STARTED,
            version=__version__,
            api=self.config.api.listen,
            raft=str(listen or ""),
            last_index=self.storage.last_index,
            took_ms=round((self.clock.monotonic() - self._started_at) * 1000),
        )

    async def drain(self, reason: str = "signal") -> bool:
        """Refuse new work, finish what is under way, hand the office over: at most `api.drain_ms`.

        True if this node no longer leads, or nobody else could.
        """
        if self.draining:
            return not self.replica.is_leader
        self.draining = True
        self.log(Events.NODE_DRAINING, reason=reason)
        deadline = self.clock.monotonic() + self.config.api.drain_ms / 1000
        while self.broker.waiting[0] and self.clock.monotonic() < deadline:  # noqa: ASYNC110 no event says so
            await asyncio.sleep(0.01)
        asked_at = -1.0
        while self.replica.is_leader and len(self.members) > 1:
            now = self.clock.monotonic()
            if now >= deadline:
                return False
            if now - asked_at >= 0.5 and self.replica.transfer(None):
                asked_at = now
                self.driver.wake()
            await asyncio.sleep(0.01)
        return True

    async def stop(self) -> None:
        """Ends every wait, syncs, writes the watermark, unlocks the directory."""
        started = self.clock.monotonic()
        self.draining = True
        self.broker.close()
        self.replica.stop()
        self.links.flush()
        await self.driver.stop()
        await self.links.stop()
        self.garbage.stop()
        clean = self._close_storage()
        self.log(Events.NODE_STOPPED, clean=clean, took_ms=round((self.clock.monotonic() - started) * 1000))

    def _close_storage(self) -> bool:
        failed = self.storage.failed or self.driver.waits_for_space
        try:
            if not failed:
                self.storage.close()
        finally:
            close = getattr(self._disk, "close", None)
            if close is not None:
                close()
        return not failed

    def _failed(self, reason: str, error: BaseException | None) -> None:
        self._die(reason, error)

    def _exit(self, reason: str, error: BaseException | None) -> None:
        self.log(Events.NODE_FAILED, reason=reason, error=repr(error))
        sys.stderr.flush()
        os._exit(EXIT_FAILED)

    # --- what others call -------------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """The state now; an installed snapshot replaces it by another object."""
        return self.applier.machine

    def next_batch(self) -> tuple[bytes, Callable[[Outcome], None]] | None:
        """`driver.BatchSource`: the broker's, unless the disk is at its floor (R10)."""
        if self.duties.pressure.floor:
            return None
        batch = self.broker.next_batch()
        return None if batch is None else self.watcher.timed(batch)

    def _offer(self, command: Command, end: End) -> None:
        self.broker.offer(Request(command), end)

    def _make_genesis(self) -> Genesis | None:
        identity = self.storage.identity
        if identity is None or identity.phase != "born":
            return None
        return Genesis(identity.cluster_id, self.rng.randbytes(SECRET_BYTES), self.members)

    def _entry_applied(self, index: int, effects: EntryEffects) -> None:
        self.broker.entry_applied(effects)

    # --- links report (transport.TransportEvents) -------------------------------------------------------

    def link_up(self, peer: str, hello: Hello) -> None:
        self._learn(peer, hello)
        self.log(
            Events.PEER_UP,
            peer=peer,
            api_url=hello.api_url,
            version=hello.software,
            state=hello.phase,
            recovering=hello.recovering,
        )
        self.driver.peer_up(peer, hello)

    def link_down(self, peer: str, reason: str) -> None:
        self.log(Events.PEER_DOWN, peer=peer, reason=reason)
        self.driver.peer_down(peer)

    def refused(self, peer: str | None, address: str, reason: str) -> None:
        self.watcher.refused(peer, address, reason)

    def received(self, peer: str, message: AnyMessage) -> None:
        if isinstance(message, Hello):
            self._learn(peer, message)
        self.driver.receive(peer, message)

    def _learn(self, peer: str, hello: Hello) -> None:
        if hello.api_url:
            self.urls[peer] = hello.api_url

    def _consensus_event(self, what: str, fields: dict[str, Any]) -> None:
        self.watcher.consensus(what, fields)

    # --- node.port.Host ---------------------------------------------------------------------------------

    def api_url(self, node_id: str) -> str | None:
        return self.urls.get(node_id)

    def pressure(self) -> str | None:
        return self.duties.pressure.reason()

    def leader_contact_age_ms(self) -> int | None:
        return self.watcher.leader_contact_age_ms()

    def quorum_critical(self) -> bool:
        return self.watcher.quorum_critical()

    def caught_up(self) -> bool:
        return self.watcher.caught_up()

    def cluster(self) -> dict[str, Any]:
        return self.watcher.cluster()

    def metrics(self) -> bytes:
        return self.meters.render()
