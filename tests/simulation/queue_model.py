"""The committed log, played on the dumb model (`tests/machine/model.py`) and on a machine of its own: every answer of
the cluster, of that machine and of the model must be the same. Dear, so for a part of the seeds only.
"""

from __future__ import annotations

from typing import Any

from tests.machine.harness import Pair, plain
from tests.machine.model_work import Model
from tests.machine.topics_compared import watch_births
from tests.simulation.world import World
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.machine.core import Machine
from trivet.wire.entry import decode_entry

REQUESTS_MAX = 1200
"""The model scans all it has for everything it does."""


class QuickModel(Model):
    """Without a copy of everything before each command: none is needed when the machine did not refuse, for then a
    refusal here is a difference and ends the run."""

    refusal_expected = False

    def kept_for_undo(self) -> dict[str, Any]:
        return super().kept_for_undo() if self.refusal_expected else {}


class Referee(Pair):
    """Fed entry by entry, in the order of the log."""

    def __init__(self, world: World) -> None:
        self.machine, self.model = Machine(), QuickModel()
        self.done: set[int] = set()
        self.world = world
        self.requests = 0
        self.left_behind = False

    def entry(self, index: int, data: bytes, answers: list[r.Answer]) -> None:
        """`answers`: what the cluster answered."""
        machine = self.machine
        if self.requests >= REQUESTS_MAX:
            return
        if not data:
            machine.begin_entry(index, machine.clock_ms, c.MACHINE_VERSION)
            machine.end_entry()
            return
        entry = decode_entry(data)
        machine.begin_entry(index, entry.now_ms, entry.version, b"")
        for request, given in zip(entry.requests, answers, strict=True):
            self.requests += 1
            self.world.count("requests judged by the model")
            watch_births(machine)
            answer = machine.apply(request)
            if answer != given:
                self._differ(index, request, f"the cluster says {given}, a fresh machine {answer}")
            reply = answer.reply
            self.model.refusal_expected = isinstance(reply, r.Refusal)
            expected, repeated = self.model.apply(entry.now_ms, request, self._hints(reply))
            free = reply.__class__ is r.Done and isinstance(request.command, c.Expire | c.Genesis)
            if not free and plain(reply) != expected:
                self._differ(index, request, f"machine {plain(reply)}, model {expected}")
            if answer.repeated != repeated:
                self._differ(index, request, f"repeated: machine {answer.repeated}, model {repeated}")
            if machine.resolving.live or machine.flow_work.live:
                # More than a command may do (R25) is left to `Expire`; the model does all of it at once.
                self.world.count("left the model behind")
                self.requests, self.left_behind = REQUESTS_MAX, True
                return
        machine.end_entry()
        if self.requests >= REQUESTS_MAX:
            self.close()

    def close(self) -> None:
        """The whole states, once."""
        if self.left_behind:
            return
        try:
            self.compare()
        except AssertionError as error:
            self.world.violate("model", f"states differ after index {self.machine.applied_index}: {error}")

    def _differ(self, index: int, request: c.Request, how: str) -> None:
        self.world.violate("model", f"{type(request.command).__name__} at {index}: {how}; {request}"[:1500])
