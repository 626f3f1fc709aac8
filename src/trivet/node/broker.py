"""The broker: requests in, one log entry of everything that waits, answers out (design 2, "One batch").

`offer` puts a request in line; the driver pulls `next_batch` as soon as the log can take another entry,
so batches grow by themselves under load and are single commands when idle. Each request ends exactly
once: `Committed`, or a `TrivetError` whose `retry` says what a client may do (design 1, "Honest outcomes").

One thread: all methods are called from the event loop that owns the machine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from trivet.consensus.port import Applied, NotProposed, Outcome, Unknown
from trivet.errors import TrivetError
from trivet.limits import ENTRY_BYTES_TARGET
from trivet.machine import keys, publishing, tokens
from trivet.machine.commands import (
    MACHINE_VERSION,
    Ack,
    AckTokens,
    Command,
    CreateFlow,
    EffectBegin,
    Enqueue,
    FireSchedules,
    Lease,
    Publish,
    PutGroup,
    ReplayGroup,
    Request,
    RunSchedule,
)
from trivet.machine.replies import Answer, Refusal
from trivet.machine.run_commands import AppendRunEvents, ReplayRun
from trivet.units import MIB, SECOND_MS, Clock
from trivet.wire.entry import encode_command, encode_request, join_entry, join_request

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.effects import EntryEffects
    from trivet.node.port import Consensus, Host

T = TypeVar("T")

WAITING_BYTES_MAX = 64 * MIB  # offered and not yet proposed; beyond it new requests are 429 overloaded
WAITING_MAX = 50_000
OFFER_DEADLINE_S = 5.0  # an offer no entry took by then ends as definitely not applied
BARRIER_DEADLINE_S = 5.0
_SWEEP_S = 0.5
# Commands that make messages: refused under pressure (R10).
ADDS = (
    AppendRunEvents,
    CreateFlow,
    Enqueue,
    FireSchedules,
    Publish,
    ReplayGroup,
    ReplayRun,
    RunSchedule,
)


@dataclass(frozen=True, slots=True)
class Committed:
    """A request's end in the log. `shown`: what its `show` made of the state right after its entry."""

    answer: Answer
    term: int
    shown: Any = None


Show = Callable[["Machine", Answer], Any]
End = Callable[[Committed | TrivetError], None]


@dataclass(slots=True)
class _Offer:
    request: Request
    piece: bytes
    show: Show | None
    end: End
    since: float


class Broker:
    """The use cases' way into the log and out of the state. Times are seconds of `clock.monotonic`."""

    def __init__(
        self,
        *,
        consensus: Consensus,
        machine: Callable[[], Machine],
        host: Host,
        clock: Clock,
        stamp: Callable[[], int],
        wake: Callable[[], None],
        applying: Callable[[], bool] = lambda: False,
        peek_ms: Callable[[], int] | None = None,
        auto_create_queues: bool = True,
    ) -> None:
        """`machine`: the current one (an install replaces it). `stamp`: the next entry's `now_ms` (R1);
        `peek_ms`: what it would be, without taking it (default: this node's wall clock).
        `wake`: tells the driver that a batch waits. `applying`: whether an entry is half applied."""
        self.consensus = consensus
        self.host = host
        self.clock = clock
        self.auto_create_queues = auto_create_queues
        self._machine = machine
        self._stamp = stamp
        self._peek_ms = peek_ms or clock.wall_ms
        self._wake = wake
        self._applying = applying
        self._waiting: deque[_Offer] = deque()
        self._waiting_bytes = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._round: list[Callable[[bool], None]] | None = None  # the read round in flight
        self._next_round: list[Callable[[bool], None]] = []
        self._whole: list[Callable[[], None]] = []  # local reads waiting for a half-applied entry
        self._leader_news: set[asyncio.Future[None]] = set()
        self._was_leader = False
        self._gathering = False
        self.on_offered: list[Callable[[Request], None]] = []  # after it took its place in line
        self.on_batch: list[
            Callable[[], None]
        ] = []  # before the next entry is made of the line: may offer more
        self.on_effects: list[Callable[[EntryEffects], None]] = []
        self.on_role: list[Callable[[bool], None]] = []

    @property
    def machine(self) -> Machine:
        return self._machine()

    @property
    def now_ms(self) -> int:
        """The cluster's time now: for checks at the edge and ages in answers only, never stored (R1)."""
        return max(self.machine.clock_ms, self._peek_ms())

    @property
    def waiting(self) -> tuple[int, int]:
        """Requests offered and not proposed, and their bytes."""
        return len(self._waiting), self._waiting_bytes

    # --- writes ---------------------------------------------------------------------------------

    def offer(self, request: Request, end: End, show: Show | None = None, piece: bytes | None = None) -> None:
        """Put a request in line. `end` is called once, maybe before this returns, never raises through.

        Raises `TrivetError` at once (and never calls `end`) when the node refuses to take it. `piece`: what
        `encode_request` would make of the request, if it is there already.
        """
        self._admit(request)
        if piece is None:
            written = self._written(request.command)
            if written is not request.command:
                request = replace(request, command=written)
            piece = encode_request(request)
        self._waiting.append(_Offer(request, piece, show, end, self.clock.monotonic()))
        self._waiting_bytes += len(piece)
        self._arm_sweeper()
        if (
            not self._gathering
        ):  # else it goes into the entry being made, or stands behind others that wait for one
            self._wake()
        for listener in self.on_offered:
            listener(request)

    def encoded(
        self, command: Command, request_id: str | None, fingerprint: Callable[[bytes], bytes]
    ) -> tuple[Request, bytes]:
        """The request and its `piece` for `offer`, of a command that holds no map: its bytes are the same in every
        codec, so that those of the log are what `fingerprint` is made of, too, and the command is encoded once."""
        data = encode_command(command)
        told = b"" if request_id is None else fingerprint(data)
        written = self._written(command)
        if written is not command:
            data = encode_command(written)
        request = Request(written, request_id, told)
        return request, join_request(data, request)

    def _written(self, command: Command) -> Command:
        """What the log holds of a command: of tokens the leader can judge, their fences (ADR 0019)."""
        return tokens.checked(self.machine, command) if isinstance(command, AckTokens) else command

    async def submit(
        self, request: Request, show: Show | None = None, piece: bytes | None = None
    ) -> Committed:
        """`offer` and wait. Raises the `TrivetError` it ended with, a machine's refusal included."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.offer(request, partial(hand_over, future), show, piece)
        try:
            return await future
        finally:
            del (
                future
            )  # its error holds this frame by its traceback: no cycle, the collector may never see it

    def next_batch(self) -> tuple[bytes, Callable[[Outcome], None]] | None:
        """One entry of what waits, up to `ENTRY_BYTES_TARGET` (one request may exceed it), or None."""
        if not self._waiting:
            return None
        self._gathering = True
        try:
            for listener in self.on_batch:
                listener()
        finally:
            self._gathering = False
        batch: list[_Offer] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].piece) <= ENTRY_BYTES_TARGET):
            offer = self._waiting.popleft()
            size += len(offer.piece)
            batch.append(offer)
        self._waiting_bytes -= size
        data = join_entry(MACHINE_VERSION, self._stamp(), [offer.piece for offer in batch])

        def done(outcome: Outcome) -> None:
            self._finish(batch, outcome)

        return data, done

    def _finish(self, batch: list[_Offer], outcome: Outcome) -> None:
        if isinstance(outcome, Applied):
            machine = self.machine
            for offer, answer in zip(batch, outcome.result, strict=True):
                offer.end(_ended(machine, offer, answer, outcome.term))
            return
        error = not_proposed(outcome) if isinstance(outcome, NotProposed) else unknown(outcome)
        for offer in batch:
            offer.end(error)

    # --- admission (R10, R12) ---------------------------------------------------------------------

    def _admit(self, request: Request) -> None:
        """Refuse what the node cannot take now; a repeat is looked up before every refusal (R12)."""
        refusal = self._refusal_for(request)
        if refusal is not None and not self.is_repeat(request):
            raise refusal

    def _refusal_for(self, request: Request) -> TrivetError | None:
        command = request.command
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            return TrivetError(
                "overloaded",
                "too many requests wait for the log",
                limit=WAITING_MAX,
                retry_after_ms=SECOND_MS,
            )
        adds = isinstance(command, ADDS)
        if isinstance(command, Ack):
            adds = bool(command.enqueue)
        elif isinstance(command, PutGroup):
            adds = command.from_at_ms is not None or command.from_offset is not None
        if self.host.draining and (adds or isinstance(command, Lease | EffectBegin)):
            return TrivetError("draining", "this node is stopping and takes no new work")
        if not adds:
            return None
        pressure = self.host.pressure()
        if pressure == "memory":
            return TrivetError(
                "memory_pressure",
                "the node is over its memory limit; acknowledging still works",
                retry_after_ms=SECOND_MS,
            )
        if pressure == "disk":
            return TrivetError(
                "disk_full",
                "free disk space is below the reserve; acknowledging still works",
                retry_after_ms=5 * SECOND_MS,
            )
        return None

    def is_repeat(self, request: Request) -> bool:
        """Whether the applied state already holds this request's id, or every key it enqueues or appends under."""
        machine = self.machine
        if request.request_id is not None and machine.replies.get(request.request_id) is not None:
            return True
        command = request.command
        if isinstance(command, Publish):
            return publishing.is_repeat(machine, command)
        if isinstance(command, AppendRunEvents):
            run = machine.runs.get(command.run_id)
            return run is not None and all(new.event_id in run.event_ids for new in command.events)
        if not isinstance(command, Enqueue):
            return False
        queue = machine.queues.get(command.queue)
        return queue is not None and all(
            draft.key is not None and keys.lookup(machine, queue, draft.key) is not None
            for draft in command.drafts
        )

    # --- reads ------------------------------------------------------------------------------------

    async def read(self, view: Callable[[Machine], T]) -> T:
        """`view` of a state that is linearizable: it runs in the turn in which the quorum round ends.

        Raises `lost_leadership` when this node cannot confirm its office in time.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._next_round.append(partial(self._look, view, future))
        if self._round is None:
            self._start_round()
        try:
            async with asyncio.timeout(BARRIER_DEADLINE_S):
                return await future
        except TimeoutError:
            raise TrivetError("lost_leadership", "no quorum answered in time; nothing was read") from None
        finally:
            del future  # as in `submit`

    def _look(self, view: Callable[[Machine], T], future: asyncio.Future[T], ok: bool) -> None:
        if future.done():
            return
        if not ok:
            future.set_exception(TrivetError("lost_leadership", "no quorum confirmed this node's office"))
            return
        _run(view, self.machine, future)

    async def read_local(self, view: Callable[[Machine], T]) -> T:
        """`view` of this node's own state, never of a half-applied entry (R25)."""
        if not self._applying():
            return view(self.machine)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._whole.append(partial(self._look, view, future, True))
        try:
            return await future
        finally:
            del future

    def _start_round(self) -> None:
        """One quorum round serves every read that was waiting when it began (design 4)."""
        # A loop, not recursion: a single node answers inside the call.
        while self._round is None and self._next_round:
            waiting, self._next_round = self._next_round, []
            self._round = waiting

            def done(ok: bool, waiting: list[Callable[[bool], None]] = waiting) -> None:
                if self._round is waiting:
                    self._round = None
                for look in waiting:
                    look(ok)
                self._start_round()

            self.consensus.read(done)
            self._wake()  # its question leaves with the turn

    # --- leadership -------------------------------------------------------------------------------

    async def wait_for_leader(self, timeout_s: float) -> bool:
        """Wait until this node can propose or knows another leader with an address. False: it did not come."""
        deadline = self.clock.monotonic() + timeout_s
        while not self.leader_known():
            left = deadline - self.clock.monotonic()
            if left <= 0:
                return False
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._leader_news.add(news)
            # A peer's address may arrive without a change of role: look again a few times a second.
            await asyncio.wait((news,), timeout=min(left, 0.1))
            self._leader_news.discard(news)
        return True

    def leader_known(self) -> bool:
        if self.consensus.is_leader:
            return self.consensus.can_propose
        leader = self.consensus.leader
        return leader is not None and leader != self.host.node_id and self.host.api_url(leader) is not None

    def leader_url(self) -> str | None:
        leader = self.consensus.leader
        return None if leader is None else self.host.api_url(leader)

    # --- what the node tells the broker -------------------------------------------------------------

    def entry_applied(self, effects: EntryEffects) -> None:
        """The applier, after each whole entry, before its proposal's `done`."""
        whole, self._whole = self._whole, []
        for look in whole:
            look()
        for listener in self.on_effects:
            listener(effects)

    def role_changed(self) -> None:
        """The runtime, whenever role, leader, term or the right to propose changed."""
        leader = self.consensus.is_leader
        if self._was_leader and not leader:
            self._fail_waiting(TrivetError("lost_leadership", "another node leads; nothing was proposed"))
        if leader != self._was_leader:
            self._was_leader = leader
            for listener in self.on_role:
                listener(leader)
        for news in list(self._leader_news):
            if not news.done():
                news.set_result(None)
        if leader and self._waiting:
            self._wake()

    def close(self) -> None:
        """The node stops: whatever still waits was not proposed and never will be."""
        self._fail_waiting(TrivetError("draining", "the node stopped; nothing was proposed"))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # --- waiting too long -----------------------------------------------------------------------------

    def _arm_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Offers no entry took (no quorum, a stalled disk) end as not applied: they never were proposed."""
        self._sweeper = None
        horizon = self.clock.monotonic() - OFFER_DEADLINE_S
        late: list[_Offer] = []
        while self._waiting and self._waiting[0].since <= horizon:
            late.append(self._waiting.popleft())
        self._waiting_bytes -= sum(len(offer.piece) for offer in late)
        if self._waiting:
            self._arm_sweeper()
        for offer in late:
            offer.end(_no_leader("the log took no entry in time; nothing was proposed"))

    def _fail_waiting(self, error: TrivetError) -> None:
        failed, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        for offer in failed:
            offer.end(error)


def hand_over(future: asyncio.Future[T], result: T | TrivetError) -> None:
    """A result becomes its future's. A client that is gone hears nothing; what it asked for has happened."""
    if future.done():
        return
    if isinstance(result, TrivetError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _ended(machine: Machine, offer: _Offer, answer: Answer, term: int) -> Committed | TrivetError:
    reply = answer.reply
    if isinstance(reply, Refusal):
        return TrivetError(
            reply.code,
            reply.detail,
            field=reply.field,
            limit=reply.limit,
            retry_after_ms=reply.retry_after_ms,
        )
    return Committed(answer, term, offer.show(machine, answer) if offer.show else UNSET)


def _run(view: Callable[[Machine], T], machine: Machine, future: asyncio.Future[T]) -> None:
    """A view's end becomes its future's: `TrivetError` is an answer, anything else is still raised there."""
    if future.done():
        return
    try:
        future.set_result(view(machine))
    except Exception as error:  # noqa: BLE001 - handed on to whoever awaits
        future.set_exception(error)


def _no_leader(detail: str) -> TrivetError:
    return TrivetError("no_leader", detail, retry_after_ms=SECOND_MS)


def leasable(machine: Machine, name: str) -> int | None:
    """How many messages a lease would get now; None if there is no such queue."""
    queue = machine.queues.get(name)
    return None if queue is None else queue.leasable


def not_proposed(outcome: NotProposed) -> TrivetError:
    """Definitely not applied: another node, or this one later, may take it."""
    if outcome.reason == "overloaded":
        return TrivetError("overloaded", "the log takes no more now", retry_after_ms=SECOND_MS)
    if outcome.reason in ("stopped", "draining"):
        return TrivetError("draining", "this node is stopping; nothing was proposed")
    return TrivetError("lost_leadership", f"not proposed: {outcome.reason}")


def unknown(outcome: Unknown) -> TrivetError:
    return TrivetError(
        "outcome_unknown",
        f"the write may or may not have happened ({outcome.reason}): repeat it with the same request id",
    )
