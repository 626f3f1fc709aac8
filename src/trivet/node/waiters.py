"""Long polls (R26): who waits for messages, who for one message's end.

A parked poll lives only in the leader's memory and writes nothing to the log. When something becomes
leasable, as many leases are proposed as there is to lease and no more: consumers are dealt to one by
one in the order they came. What an enqueue is sure to bring is dealt right behind it, so that a waiting
consumer's lease is in the very entry that feeds it. Losing all of this costs latency, never a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from trivet.errors import TrivetError
from trivet.limits import ANSWER_BYTES_MAX, PARKED_POLLS_MAX
from trivet.machine import views
from trivet.machine.commands import Lease, ReleaseLeases, Request
from trivet.machine.replies import Answer, Leased
from trivet.node.ahead import coming
from trivet.node.broker import Broker, Committed, hand_over, leasable
from trivet.units import SECOND_MS

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.effects import EntryEffects

# Why there is nothing to wait for any more; or the message as it ended, if it is not kept; or None: look again.
_News = asyncio.Future[TrivetError | dict[str, Any] | None]

FINISHED = ("done", "dead", "cancelled", "compensated", "failed")  # of messages and of flows


@dataclass(frozen=True, slots=True)
class Ask:
    """A lease request as a consumer made it. `wait_ms` 0: answer at once."""

    queues: tuple[str, ...]
    consumer: str
    max_messages: int = 1
    lease_ms: int | None = None
    wait_ms: int = 0
    max_bytes: int = ANSWER_BYTES_MAX
    request_id: str | None = None
    fingerprint: bytes = b""


@dataclass(slots=True, eq=False)
class _Caller:
    """One HTTP request that waits for a poll; a repeat of a parked request joins the same poll."""

    future: asyncio.Future[Committed | None]
    timer: asyncio.TimerHandle | None = None
    expired: bool = False  # its wait is over: the proposal in flight is its last chance


@dataclass(slots=True, eq=False)
class _Poll:
    ask: Ask
    callers: list[_Caller] = field(default_factory=list)
    busy: bool = False  # a Lease of it is in the log's line
    hand: int = 0
    cards: dict[str, int] = field(default_factory=dict)
    news: int = 0


def show_leases(machine: Machine, answer: Answer) -> list[views.PlainLease | dict[str, Any]]:
    """What the grants show of their messages, read right after their entry (a grant may be gone again)."""
    assert isinstance(answer.reply, Leased)
    return views.leases(machine, answer.reply.fences)


class Waiters:
    """The leader's parked polls. One thread; every wait ends by an answer, an error or its time."""

    def __init__(self, broker: Broker, parked_max: int = PARKED_POLLS_MAX) -> None:
        self._broker = broker
        self._parked_max = parked_max
        self._lines: dict[str, dict[_Poll, None]] = {}  # per queue, in the order they came
        self._proposed: dict[str, int] = {}  # per queue: leases on their way through the log
        self._coming: dict[str, int] = {}  # per queue with a line: messages of the entry to be made
        self._by_request: dict[str, _Poll] = {}
        self._endings: dict[int, set[_News]] = {}  # message number: who waits for its end
        self._callers = 0
        self._streams = 0
        self._news = 0
        broker.on_offered.append(self._offered)
        broker.on_batch.append(self._deal_ahead)
        broker.on_effects.append(self._effects)
        broker.on_role.append(self._role)

    @property
    def parked(self) -> int:
        """Requests waiting now, streams too."""
        return self._callers + self._streams + sum(map(len, self._endings.values()))

    def take_place(self) -> None:
        """A stream begins. Raises `overloaded`."""
        self._check_room()
        self._streams += 1

    def give_place(self) -> None:
        self._streams -= 1

    def _check_room(self) -> None:
        if self.parked >= self._parked_max:
            raise TrivetError(
                "overloaded",
                "too many requests wait on this node",
                limit=self._parked_max,
                retry_after_ms=SECOND_MS,
            )

    # --- leasing ------------------------------------------------------------------------------------

    async def lease(self, ask: Ask) -> Committed | None:
        """The grants with `shown` messages, or None when the wait ended with nothing to give.

        Raises `TrivetError`. When cancelled (the client is gone) with leases on their way and no
        request id to ask for them again, they are released as soon as they commit.
        """
        request = self._request(ask, ask.max_messages)
        if self._broker.is_repeat(request):
            return await self._broker.submit(request, show_leases)
        poll = self._join(ask) or _Poll(ask)
        caller = _Caller(asyncio.get_running_loop().create_future(), expired=ask.wait_ms == 0)
        try:
            confirmed = not (poll.callers or poll.busy or self._may_wait(ask))
            if confirmed:
                await self._broker.read(partial(self._enter_existing, poll=poll, caller=caller))
            else:
                self._enter(poll, caller)
            committed = await caller.future
            if committed is None and not confirmed:
                await self._broker.read(lambda machine: self._check_queues(machine, ask))
            return committed
        except BaseException:  # an error may come in the turn in which it entered: nobody waits then
            self._gone(poll, caller)
            raise
        finally:
            del poll, caller  # an error of the future holds this frame: no cycle, as in `Broker.submit`

    def _may_wait(self, ask: Ask) -> bool:
        """Something is here, or the wait begins now: "nothing" is said by a confirmed leader only, and only of
        queues that exist, but that can be confirmed at the end of the wait. Who does not lead says so at once."""
        if not self._broker.consensus.can_propose:
            return False
        if any(self._free(name) > 0 for name in ask.queues):
            return True
        machine = self._broker.machine
        return ask.wait_ms > 0 and all(leasable(machine, name) is not None for name in ask.queues)

    def _join(self, ask: Ask) -> _Poll | None:
        """A repeat of a request that is still parked waits with it; other content is refused (R12)."""
        poll = self._by_request.get(ask.request_id) if ask.request_id is not None else None
        if poll is not None and poll.ask.fingerprint != ask.fingerprint:
            raise TrivetError("idempotency_conflict", "this request id waits with other content")
        return poll

    def _enter_existing(self, machine: Machine, poll: _Poll, caller: _Caller) -> None:
        self._check_queues(machine, poll.ask)
        self._enter(poll, caller)

    @staticmethod
    def _check_queues(machine: Machine, ask: Ask) -> None:
        for at, name in enumerate(ask.queues):
            if leasable(machine, name) is None:
                raise queue_not_found(name, f"/queues/{at}" if len(ask.queues) > 1 else None)

    def _enter(self, poll: _Poll, caller: _Caller) -> None:
        """Into the line, and to be dealt to; a caller without a wait is answered here if nothing is."""
        if self._broker.host.draining:
            raise TrivetError("draining", "this node is stopping and grants no more leases")
        self._check_room()
        poll.callers.append(caller)
        self._callers += 1
        self._park(poll)
        if not caller.expired:
            loop = asyncio.get_running_loop()
            caller.timer = loop.call_later(poll.ask.wait_ms / 1000, self._time_up, poll, caller)
        self._deal(poll.ask.queues)
        if caller.expired and not poll.busy:
            self._answer(poll, caller, None)

    def _gone(self, poll: _Poll, caller: _Caller) -> None:
        """The client hung up. What is on its way is released in `_ended`; what has come, here."""
        future = caller.future
        if future.done() and not future.cancelled() and future.exception() is None:
            committed = future.result()
            if committed is not None:
                self.release(poll.ask, committed)
        self._forget(poll, caller)

    def release(self, ask: Ask, committed: Committed) -> None:
        """Give back leases nobody will ever hear of (R26). With a request id the client can ask again."""
        reply = committed.answer.reply
        assert isinstance(reply, Leased)
        if ask.request_id is not None or not reply.fences:
            return
        try:
            self._broker.offer(Request(ReleaseLeases(reply.fences)), lambda _result: None)
        except TrivetError:
            # Overloaded: the leases then end by their own time, as those of a crashed worker do.
            return

    # --- dealing ------------------------------------------------------------------------------------

    def _free(self, name: str) -> int:
        """How many leases of this queue nobody has been promised yet."""
        return (leasable(self._broker.machine, name) or 0) - self._proposed.get(name, 0)

    def _deal(self, names: Iterable[str]) -> None:
        """Hand out what is leasable, and propose it."""
        served: dict[_Poll, None] = {}
        for name in names:
            for poll, count in self._shares(name, self._free(name) if name in self._lines else 0):
                poll.cards[name] = poll.cards.get(name, 0) + count
                served[poll] = None
        for poll in served:
            self._widen(poll)
            self._propose(poll)

    def _shares(self, name: str, free: int) -> Iterator[tuple[_Poll, int]]:
        """`free` messages as if dealt one by one, to each that waits in its order."""
        if free <= 0:
            return
        line = self._lines[name]
        hungry = list(islice((p for p in line if not p.busy and p.hand < p.ask.max_messages), free))
        while free and hungry:
            share = max(1, free // len(hungry))
            for poll in hungry:
                take = min(share, poll.ask.max_messages - poll.hand, free)
                poll.hand += take
                yield poll, take
                free -= take
                if not free:
                    break
            hungry = [poll for poll in hungry if poll.hand < poll.ask.max_messages]

    def _offered(self, request: Request) -> None:
        found = coming(self._broker.machine, request) if self._lines else None
        if found is not None and found[0] in self._lines:
            self._coming[found[0]] = self._coming.get(found[0], 0) + found[1]

    def _deal_ahead(self) -> None:
        """What is still on its way into the queues is neither leasable nor promised, so no card is kept of it."""
        if not self._coming:
            return
        found, self._coming = self._coming, {}
        served: dict[_Poll, None] = {}
        for name, count in found.items():
            if name in self._lines:
                served.update((poll, None) for poll, _ in self._shares(name, count))
        for poll in served:
            self._propose(poll, ahead=True)

    def _widen(self, poll: _Poll) -> None:
        """`leasable` counts one message a group. Where a group may have several in flight (R21), a poll that
        nobody waits beside asks for all it wants, so that one call gets them; the others get theirs in turns."""
        queues = self._broker.machine.queues
        several = any(name in queues and queues[name].config.max_leased_per_group > 1 for name in poll.cards)
        if several and all(len(self._lines[name]) == 1 for name in poll.ask.queues):
            poll.hand = poll.ask.max_messages

    def _propose(self, poll: _Poll, ahead: bool = False) -> None:
        poll.busy = True
        poll.news = self._news
        for name, count in poll.cards.items():
            self._proposed[name] = self._proposed.get(name, 0) + count
        request = self._request(poll.ask, poll.hand)
        try:
            self._broker.offer(request, lambda result: self._ended(poll, result), show_leases)
        except TrivetError as error:
            self._take_back(poll)
            if not ahead:  # nothing is there yet: it goes on waiting
                self._finish(poll, error)

    def _request(self, ask: Ask, count: int) -> Request:
        command = Lease(ask.queues, ask.consumer, count, ask.lease_ms, ask.max_bytes)
        return Request(command, ask.request_id, ask.fingerprint)

    def _take_back(self, poll: _Poll) -> None:
        for name, count in poll.cards.items():
            left = self._proposed[name] - count
            if left:
                self._proposed[name] = left
            else:
                del self._proposed[name]
        poll.cards.clear()
        poll.hand = 0
        poll.busy = False

    def _ended(self, poll: _Poll, result: Committed | TrivetError) -> None:
        """A proposed lease came back: with grants, with none (it goes on waiting), or refused."""
        self._take_back(poll)
        if isinstance(result, TrivetError):
            self._finish(poll, result)
            if self._broker.consensus.can_propose:
                self._deal(poll.ask.queues)  # what it was promised is free again
            return
        reply = result.answer.reply
        assert isinstance(reply, Leased)
        if reply.fences or result.answer.repeated:
            if all(caller.future.done() for caller in poll.callers):  # gone, or going in this very turn
                self.release(poll.ask, result)
            self._finish(poll, result)
            self._deal(poll.ask.queues)
            return
        for caller in [caller for caller in poll.callers if caller.expired]:
            self._answer(poll, caller, None)
        self._leave_if_empty(poll)
        if poll.news != self._news:
            # Something became ready while this one could not be dealt to. Without news a second try
            # would end as the first did.
            self._deal(poll.ask.queues)

    # --- the lines ------------------------------------------------------------------------------------

    def _park(self, poll: _Poll) -> None:
        for name in poll.ask.queues:
            self._lines.setdefault(name, {})[poll] = None
        if poll.ask.request_id is not None:
            self._by_request[poll.ask.request_id] = poll

    def _leave(self, poll: _Poll) -> None:
        for name in poll.ask.queues:
            line = self._lines.get(name)
            if line is not None:
                line.pop(poll, None)
                if not line:
                    del self._lines[name]
        request_id = poll.ask.request_id
        if request_id is not None and self._by_request.get(request_id) is poll:
            del self._by_request[request_id]

    def _leave_if_empty(self, poll: _Poll) -> None:
        if not poll.callers and not poll.busy:
            self._leave(poll)

    def _finish(self, poll: _Poll, result: Committed | TrivetError) -> None:
        """The poll is over, for all that wait with it."""
        self._leave(poll)
        for caller in list(poll.callers):
            self._answer(poll, caller, result)

    def _answer(self, poll: _Poll, caller: _Caller, result: Committed | TrivetError | None) -> None:
        self._forget(poll, caller)
        hand_over(caller.future, result)

    def _forget(self, poll: _Poll, caller: _Caller) -> None:
        if caller.timer is not None:
            caller.timer.cancel()
            caller.timer = None
        if caller in poll.callers:
            poll.callers.remove(caller)
            self._callers -= 1
        self._leave_if_empty(poll)

    def _time_up(self, poll: _Poll, caller: _Caller) -> None:
        caller.expired = True
        if not poll.busy:
            self._answer(poll, caller, None)

    # --- waiting for the end of a message or a flow ----------------------------------------------------------------------

    async def message(
        self, number: int, wait_ms: int, look: Callable[[Machine], dict[str, Any] | None], *, local: bool
    ) -> dict[str, Any] | None:
        """`look` at the message, once it is finished or `wait_ms` is over. None: there is none (any more).

        Who waited for a message that is not kept gets it as it ended, with `as_of`: it is in no table now.
        """
        deadline = self._broker.clock.monotonic() + wait_ms / 1000
        read = self._broker.read_local if local else self._broker.read
        while True:
            news: _News = asyncio.get_running_loop().create_future()

            def view(machine: Machine, news: _News = news) -> tuple[dict[str, Any] | None, float]:
                found = look(machine)
                left = deadline - self._broker.clock.monotonic()
                if found is None or found["state"] in FINISHED or left <= 0:
                    return found, 0.0
                self._check_room()
                self._endings.setdefault(number, set()).add(news)
                return found, left

            try:
                found, left = await read(view)
                if left <= 0:
                    return found
                await asyncio.wait((news,), timeout=left)
                told = news.result() if news.done() else None
                if isinstance(told, dict):
                    return told
                if told is not None and not local:
                    raise told
            finally:
                waiting = self._endings.get(number)
                if waiting is not None:
                    waiting.discard(news)
                    if not waiting:
                        del self._endings[number]

    # --- news from the node ---------------------------------------------------------------------------------

    def _effects(self, effects: EntryEffects) -> None:
        for number in self._endings.keys() & effects.finished.keys() if self._endings else ():
            machine = self._broker.machine
            last = views.ended(machine, effects.finished[number])
            for news in self._endings[number]:
                if not news.done():
                    news.set_result(None if last is None else {**last, "as_of": machine.applied_index})
        for number in self._endings.keys() & set(effects.flows) if self._endings else ():
            for news in self._endings[number]:
                if not news.done():
                    news.set_result(None)
        for name in effects.deleted:
            # Those with a lease on its way get their answer from the machine.
            for poll in [poll for poll in self._lines.get(name, ()) if not poll.busy]:
                self._finish(poll, queue_not_found(name))
        if effects.ready:
            self._news += 1
            self._deal(effects.ready)

    def _role(self, leader: bool) -> None:
        self._coming.clear()
        if not leader:
            self.end_all("lost_leadership", "this node no longer leads; nothing was leased")

    def end_all(self, code: str, detail: str) -> None:
        """End every wait that has nothing on its way; the others end with their proposals."""
        polls = {poll: None for line in self._lines.values() for poll in line}
        for poll in polls:
            if not poll.busy:
                self._finish(poll, TrivetError(code, detail))
        for waiting in list(self._endings.values()):
            for news in waiting:
                if not news.done():
                    news.set_result(TrivetError(code, detail))


def queue_not_found(name: str, field: str | None = None) -> TrivetError:
    return TrivetError("queue_not_found", f'there is no queue "{name}"', field=field)
