"""The machine behind consensus: entries in, in slices; snapshots out and in (`consensus.port.StateMachine`).

Others hold the applier and read `applier.machine`: an install replaces the machine by another object.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from hashlib import sha256
from typing import Any

from trivet.consensus.port import OutOfTime, SnapshotSink, SnapshotSource
from trivet.machine.commands import MACHINE_VERSION
from trivet.machine.core import Machine
from trivet.machine.effects import EntryEffects
from trivet.machine.replies import Answer
from trivet.machine.snapshotting import Builder, Walk, dismantle
from trivet.wire.entry import EntryReader
from trivet.wire.snapshot import SnapshotReader, SnapshotWriter

OnEffects = Callable[[int, EntryEffects], None]
"""Called with the index of a whole applied entry and what it leaves for the leader (contract 5)."""


class Applier:
    """Applies entries one after the other; at most one is under way.

    `result` is the list of `Answer`s of the last whole entry, one for each of its requests (empty for the
    consensus layer's no-op, an entry of no bytes). What raises here (an entry this code cannot read, a
    broken invariant) ends the node.
    """

    result: Any

    def __init__(self, on_effects: OnEffects, machine: Machine | None = None) -> None:
        self.machine = Machine() if machine is None else machine
        self.result = []
        self._on_effects = on_effects
        self._reader: EntryReader | None = None
        self._index = 0  # of the entry under way, 0 for none
        self._answers: list[Answer] = []
        self._retired: list[Generator[None, None, None]] = []  # replaced machines, freed between entries

    @property
    def applied_index(self) -> int:
        """The last whole entry in the machine's state (the machine counts the one under way, too)."""
        return self._index - 1 if self._index else self.machine.applied_index

    @property
    def busy(self) -> bool:
        """An entry is under way: reads wait for the whole of it (R25)."""
        return self._index != 0

    def start(self, index: int, term: int, data: bytes) -> None:
        """Begin the entry at `index` (= applied_index + 1). `term` does not enter the state."""
        assert not self._index, f"entry {self._index} is still under way"
        assert index == self.machine.applied_index + 1, f"entry {index} after {self.machine.applied_index}"
        self._answers = []
        if data:
            reader = EntryReader(data)
            entry_hash = sha256(data).digest()  # most processors have it built in: 2.5 times BLAKE2b
            self.machine.begin_entry(index, reader.now_ms, reader.version, entry_hash)
            self._reader = reader
        else:
            self.machine.begin_entry(index, self.machine.clock_ms, MACHINE_VERSION)
            self._reader = None
        self._index = index

    def step(self, out_of_time: OutOfTime) -> bool:
        """Go on with the entry, request by request; True when it is whole."""
        assert self._index, "no entry is under way"
        reader, machine = self._reader, self.machine
        while reader is not None:
            request = reader.next()
            if request is None:
                break
            self._answers.append(machine.apply(request))
            if out_of_time():
                return False
        effects = machine.end_entry()
        index, self._index = self._index, 0
        self._reader = None
        self.result = self._answers
        self._answers = []
        self._on_effects(index, effects)
        while self._retired and not out_of_time():
            if next(self._retired[0], self) is self:
                self._retired.pop(0)
        return True

    def open_snapshot(self) -> SnapshotSource:
        """A frozen view of the state now, between two entries; at most one is open."""
        assert not self._index, "a snapshot stands between two entries"
        return MachineSource(self.machine)

    def begin_install(self) -> SnapshotSink:
        """A machine built beside this one, to take its place at `finish`."""
        return MachineSink(self)

    def replace(self, machine: Machine) -> None:
        """The machine of an installed snapshot takes over; an entry under way goes with the old one."""
        self._retired.append(dismantle(self.machine))
        self.machine = machine
        self._index = 0
        self._reader = None
        self._answers = []


class MachineSource:
    """`consensus.port.SnapshotSource` over a walk."""

    def __init__(self, machine: Machine) -> None:
        self._walk = Walk(machine)
        self._writer = SnapshotWriter(self._walk)
        self.index = self._walk.index

    def read(self, out_of_time: OutOfTime) -> bytes | None:
        """The next piece, empty when the time ran out, None after the last."""
        piece = self._writer.read(out_of_time)
        if piece is None:
            self._walk.close()
        return piece

    def close(self) -> None:
        """Given up or done: the machine stops keeping what changes."""
        self._walk.close()


class MachineSink:
    """`consensus.port.SnapshotSink`: bytes in, a machine out."""

    def __init__(self, applier: Applier) -> None:
        self._applier = applier
        self._builder = Builder()
        self._reader = SnapshotReader(self._builder)
        self._machine: Machine | None = None

    def write(self, piece: bytes, out_of_time: OutOfTime) -> bytes:
        """Take the bytes; answers those not taken when the time ran out. Raises `ValueError`."""
        return self._reader.write(piece, out_of_time)

    def check(self, index: int, out_of_time: OutOfTime) -> bool:
        """Call until True: the new machine is whole. Raises `ValueError`."""
        if not self._reader.finish(out_of_time):
            return False
        while not self._builder.arm_some():
            if out_of_time():
                return False
        header, trailer = self._reader.header, self._reader.trailer
        machine = self._builder.finish()
        if header is None or trailer is None or not header.index == machine.applied_index == index:
            raise ValueError(f"snapshot of index {machine.applied_index}, expected {index}")
        if trailer.chain_digest != machine.digest():
            raise ValueError("snapshot's chain digest differs from its state's")
        self._machine = machine
        return True

    def finish(self) -> None:
        """The new machine replaces the old one."""
        assert self._machine is not None, "finish before check"
        self._applier.replace(self._machine)
        self._machine = None

    def abort(self) -> None:
        """Drop what was built."""
        self._machine = None
        self._builder = Builder()
        self._reader = SnapshotReader(self._builder)
