"""The trivial machine of the simulator: an append-only list of ids behind the `StateMachine` port.

An entry carries ids and padding. Everything is sliced as the port allows: a slice may end after each id, so
the engine is shown entries, snapshots and installs that take many turns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from trivet.consensus.port import OutOfTime

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def encode_ids(ids: list[int], padding: int) -> bytes:
    return _encode([ids, b"." * padding])


class ListMachine:
    """`applied_index`, and the ids in the order they were applied. `chain` is a digest of all of them."""

    def __init__(self, on_applied: Callable[[int, int, bytes], None]) -> None:
        self.applied_index = 0
        self.ids: list[int] = []
        self.chain = 0
        self.result: Any = None
        self._on_applied = on_applied
        self._now: tuple[int, int, bytes] | None = None
        self._todo: list[int] = []
        self._done: list[int] = []
        self.walks = 0

    def start(self, index: int, term: int, data: bytes) -> None:
        if index != self.applied_index + 1 or self._now is not None:
            raise RuntimeError(f"entry {index} started after {self.applied_index} (open: {self._now})")
        self._now = (index, term, data)
        self._todo = list(reversed(_decode(data)[0])) if data else []
        self._done = []

    def step(self, out_of_time: OutOfTime) -> bool:
        assert self._now is not None
        while self._todo:
            self._done.append(self._todo.pop())
            if self._todo and out_of_time():
                return False
        index, term, data = self._now
        self._now = None
        self.ids.extend(self._done)
        self.chain = zlib.crc32(b"%d %d " % (index, term) + data, self.chain)
        self.applied_index = index
        self.result = tuple(self._done)
        self._on_applied(index, term, data)
        return True

    def digest(self) -> bytes:
        return b"%d/%d/%08x" % (self.applied_index, len(self.ids), self.chain)

    def open_snapshot(self) -> _Source:
        if self._now is not None:
            raise RuntimeError("a snapshot in the middle of an entry")
        self.walks += 1
        return _Source(self)

    def begin_install(self) -> _Sink:
        return _Sink(self)


class _Source:
    """The ids up to `index`; later ones are not seen because the list only grows (copy on write)."""

    def __init__(self, machine: ListMachine) -> None:
        self.index = machine.applied_index
        self._left = machine.ids[:]
        self._head: bytes | None = _encode([machine.applied_index, machine.chain, len(machine.ids)])
        self._at = 0

    def read(self, out_of_time: OutOfTime) -> bytes | None:
        if self._head is not None:
            head, self._head = self._head, None
            return len(head).to_bytes(2, "big") + head
        if self._at >= len(self._left):
            return None
        out = bytearray()
        while self._at < len(self._left):
            out += self._left[self._at].to_bytes(8, "big")
            self._at += 1
            if self._at % 16 == 0 and out_of_time():
                break
        return bytes(out)

    def close(self) -> None:
        self._left = []


class _Sink:
    """Rebuilds beside the old state; swaps in `finish`."""

    def __init__(self, machine: ListMachine) -> None:
        self._machine = machine
        self._bytes = bytearray()
        self._ids: list[int] = []
        self._head: list[int] | None = None

    def write(self, piece: bytes, out_of_time: OutOfTime) -> bytes:
        half = len(piece) // 2
        if len(piece) > 64 and out_of_time():
            self._bytes += piece[:half]
            return piece[half:]
        self._bytes += piece
        return b""

    def check(self, index: int, out_of_time: OutOfTime) -> bool:
        if self._head is None:
            size = int.from_bytes(self._bytes[:2], "big")
            self._head = _decode(bytes(self._bytes[2 : 2 + size]))
            del self._bytes[: 2 + size]
        while self._bytes:
            self._ids.append(int.from_bytes(self._bytes[:8], "big"))
            del self._bytes[:8]
            if len(self._ids) % 64 == 0 and out_of_time():
                return False
        at, _, count = self._head
        if at != index or count != len(self._ids):
            raise ValueError(f"snapshot of {at} with {len(self._ids)} ids, expected {index} with {count}")
        return True

    def finish(self) -> None:
        assert self._head is not None
        index, chain, _ = self._head
        machine = self._machine
        machine._now = None
        machine.ids, machine.chain, machine.applied_index = self._ids, chain, index

    def abort(self) -> None:
        self._bytes.clear()
        self._ids = []
