"""A simulated node whose calls are counted, and which a fault can strike inside any of them."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.crashpoints.points import CALLS, POWER
from tests.simulation.disk import SimCrash, SimDisk
from tests.simulation.node import SimNode
from trivet.wire import frames

FULL_SECONDS = 0.3
"""For so long a disk that ran out of space stays full."""

Torn = Callable[[float], None]


class Probe:
    """Counts the calls of one victim; `strike(call, n)` answers the fault that happens there, or None."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.victim: str | None = None  # counting, and striking, while it has a name
        self.fired: str | None = None
        self.strike: Callable[[str, int], str | None] = lambda call, n: None

    def fault_at(self, node: str, call: str) -> str | None:
        if node != self.victim:
            return None
        self.counts[call] += 1
        fault = self.strike(call, self.counts[call])
        if fault is not None:
            self.victim, self.fired = None, f"{fault} at {call} {self.counts[call]}"
        return fault


class WatchedDisk(SimDisk):
    """Asks before each operation whether it fails."""

    watch: Callable[[str, Torn | None], None] | None = None

    def enter(self, operation: str, name: str = "", torn: Torn | None = None) -> None:
        if self.watch is not None:
            self.watch(CALLS.get(operation, operation), torn)
        super().enter(operation, name, torn)

    def reseed(self, name: str) -> None:
        """What survives a power loss is drawn anew for each point, or all of them would share one draw."""
        self._rng = random.Random(name)


class StruckNode(SimNode):
    """`probe` says where it is struck; `on_power_all` takes all the others down in the same moment."""

    probe: Probe
    on_power_all: Callable[[SimNode], None]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.disk: WatchedDisk = WatchedDisk(self.world.stream(f"disk/{self.name}"))
        self.disk.watch = self._disk_call
        self._fate: str | None = None  # how the fault in this call ends it

    def _disk_call(self, call: str, torn: Torn | None) -> None:
        fault = self.probe.fault_at(self.name, call)
        if fault is None:
            return
        self._struck(fault, call)
        if fault == "eio":
            self.expected_errors += 1
            raise OSError(errno.EIO, f"simulated failure of {call}")
        if fault == "enospc":
            self.expected_errors += 1
            self.disk.capacity = self.disk.used_bytes()
            self.world.after(FULL_SECONDS, self._space_again)
            raise OSError(errno.ENOSPC, f"simulated failure of {call}")
        if fault.startswith("torn"):
            assert torn is not None
            torn(self.disk_rng(call).random())
        self.end(fault)

    def _struck(self, fault: str, call: str) -> None:
        self.disk.reseed(f"{self.world.seed}/{call}/{self.probe.counts[call]}/{fault}")
        self.world.trace(f"STRUCK {self.name}: {self.probe.fired}")

    def disk_rng(self, call: str) -> random.Random:
        return random.Random(f"{self.world.seed}/torn/{call}/{self.probe.counts[call]}")

    def _space_again(self) -> None:
        self.disk.capacity = None

    def end(self, fault: str) -> None:
        """The process ends inside this call."""
        self._fate = fault
        raise SimCrash(fault)

    def die(self, why: str, lose_unsynced: bool, silently: bool) -> None:
        fate, self._fate = self._fate, None
        if fate is not None:
            power = fate in (*POWER, "torn")
            why, lose_unsynced, silently = fate, power, power
        super().die(why, lose_unsynced, silently)
        if fate == "power_all":
            self.on_power_all(self)

    def _send(self, peer: str, message: frames.Message) -> None:
        fault = self.probe.fault_at(self.name, "send")
        if fault is None:
            return super()._send(peer, message)
        self._struck(fault, "send")
        if fault == "reset":
            self.network.reset(self.name, peer)
            return None
        if fault == "kill_after":
            super()._send(peer, message)
        return self.end(fault)

    def reply(self, answer: Callable[[], None]) -> None:
        """An answer leaves for its client."""
        fault = self.probe.fault_at(self.name, "reply")
        if fault is None:
            return answer()
        self._struck(fault, "reply")
        if fault == "kill_after":
            answer()
        return self.end(fault)
