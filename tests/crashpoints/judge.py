"""The judge: what the clients were told against what the log says and what every node holds in the end.

It sees each entry once, when the first node applies it, and knows nothing of how the machine works: only which
answers may not come twice. Losses and doublings are told apart, all other broken laws count as such.
"""

from __future__ import annotations

from collections import Counter

from tests.simulation.world import World
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.machine.core import Machine
from trivet.machine.ids import message_id, split_tokens
from trivet.wire.entry import decode_entry

LOST = "lost"
DOUBLED = "doubled"
LOSSES = frozenset(
    (LOST, "leader completeness", "two commits", "state machine safety", "committed entry cut")
)
"""Laws of the simulator's checker whose breaking means that something committed is gone."""


def verdict(violation: str) -> str:
    """lost | doubled | broken"""
    law = violation.partition(":")[0]
    if law in LOSSES:
        return LOST
    return DOUBLED if law == DOUBLED else "broken"


class Judge:
    """One run's memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.first: dict[str, r.Reply] = {}  # request id → its first answer in the log
        self.grants: Counter[int] = Counter()  # message → leases granted, less those given back
        self.message_of: dict[int, int] = {}  # fence → message
        self.acked: set[int] = set()
        self.dead: set[int] = set()
        self.effects: set[str] = set()
        self.effect_of: dict[int, str] = {}  # fence of a grant → effect
        self.last_fence = 0
        self.repeats = 0  # answers from memory, in the log
        self.bodies: dict[int, bytes] = {}  # of the messages leased: what their workers saw
        self.machine = Machine()  # of the node that applied the newest entry, as it was right after it

    def lost(self, text: str) -> None:
        self.world.violate(LOST, text)

    def doubled(self, text: str) -> None:
        self.world.violate(DOUBLED, text)

    # --- the log ------------------------------------------------------------------------------------------

    def witness(self, index: int, data: bytes, answers: list[r.Answer], machine: Machine) -> None:
        """The first node has applied this entry."""
        if not data:
            return
        self.machine = machine
        for request, answer in zip(decode_entry(data).requests, answers, strict=True):
            if isinstance(answer.reply, r.Refusal):
                continue
            if answer.repeated:
                self._repeat(index, request, answer.reply)
            else:
                self._first(index, request, answer.reply)

    def _repeat(self, index: int, request: c.Request, reply: r.Reply) -> None:
        self.repeats += 1
        first = self.first.get(request.request_id or "")
        if first is None:
            self.world.violate("repeat", f"{request.request_id} at {index} repeats nothing")
        elif isinstance(first, r.Leased) and isinstance(reply, r.Leased):
            if not set(reply.grants) <= set(first.grants):
                self.doubled(f"lease {request.request_id} granted anew at {index}: {reply} after {first}")
        elif reply != first:
            self.world.violate("repeat", f"{request.request_id} at {index}: {reply}, first was {first}")

    def _first(self, index: int, request: c.Request, reply: r.Reply) -> None:
        if request.request_id is not None:
            before = self.first.get(request.request_id)
            if before is not None and not (isinstance(before, r.Leased) and not before.grants):
                self.doubled(f"{request.request_id} took effect again at {index}: {reply} after {before}")
            self.first[request.request_id] = reply
        command = request.command
        if isinstance(reply, r.Leased):
            for grant in reply.grants:
                self._granted(index, grant)
        elif isinstance(reply, r.SettledAll):
            self._settled(index, command, reply)
        elif isinstance(reply, r.EffectState):
            self._effect(index, command, reply)

    def _granted(self, index: int, grant: r.Grant) -> None:
        if grant.message in self.acked | self.dead:
            self.doubled(f"{message_id(grant.message)} is delivered at {index}, it had ended")
        self._fence(index, grant.fence)
        shown = self.machine.find(grant.message)
        self.bodies[grant.message] = b"" if shown is None else shown.draft.body
        self.message_of[grant.fence] = grant.message
        self.grants[grant.message] += 1
        if grant.attempt != self.grants[grant.message]:
            self.world.violate("attempt", f"{grant}, the log has {self.grants[grant.message]} at {index}")

    def _fence(self, index: int, fence: int) -> None:
        if fence <= self.last_fence:
            self.world.violate("fence", f"{fence} at {index} after {self.last_fence}")
        self.last_fence = fence

    def _settled(self, index: int, command: c.Command, reply: r.SettledAll) -> None:
        items: tuple[c.Token | c.AckItem | c.NackItem, ...]
        if isinstance(command, c.AckLeases):
            items = tuple(c.Token(fence, b"") for fence in command.fences)
        elif isinstance(command, c.AckTokens):
            items = tuple(split_tokens(command.tokens))
        else:
            items = command.tokens if isinstance(command, c.Release) else command.items  # type: ignore[union-attr]
        for item, settled in zip(items, reply.results, strict=True):
            token = item if isinstance(item, c.Token) else item.token
            if settled.repeated or token is None or settled.status not in ("acked", "dead", "released"):
                continue
            message = self.message_of[token.fence]
            if settled.status == "released":
                self.grants[message] -= 1
                continue
            self._ended(index, message, settled.status)
            for effect in getattr(item, "effects", ()):
                self._committed(index, effect.effect_id)

    def _ended(self, index: int, message: int, status: str) -> None:
        if message in self.acked | self.dead:
            self.doubled(f"{message_id(message)} is {status} at {index}, it had ended")
        (self.acked if status == "acked" else self.dead).add(message)

    def _effect(self, index: int, command: c.Command, reply: r.EffectState) -> None:
        if isinstance(command, c.EffectBegin) and reply.fence is not None and not reply.repeated:
            self._fence(index, reply.fence)
            self.effect_of[reply.fence] = command.effect_id
        elif isinstance(command, c.EffectCommit) and reply.state == "done" and not reply.repeated:
            assert command.token is not None
            self._committed(index, self.effect_of[command.token.fence])

    def _committed(self, index: int, effect_id: str) -> None:
        if effect_id in self.effects:
            self.doubled(f"effect {effect_id} commits again at {index}")
        self.effects.add(effect_id)

    # --- the clients ----------------------------------------------------------------------------------------

    def told(self, request_id: str, answer: r.Answer) -> None:
        """A client has this answer: what it says must be the log's, and stay."""
        first = self.first.get(request_id)
        if isinstance(answer.reply, r.Refusal):
            return
        if first is None:
            self.lost(f"{request_id} was answered {answer.reply} and is not in the log")
        if not isinstance(first, r.Leased) and answer.reply != first:
            self.world.violate("answer", f"{request_id} was answered {answer.reply}, the log says {first}")
