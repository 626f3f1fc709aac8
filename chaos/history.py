"""The history of a drill: what its clients called and what they were told, as JSON lines.

The shape of the lines and of each operation is in docs/internals/proof.md. A line is written with one
`write` before the call goes out and one after it came back, so a harness that dies loses nothing it knew.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

OK, FAIL, INFO = "ok", "fail", "info"
TYPES = frozenset({OK, FAIL, INFO})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_TOLD = (
    *("type", "attempts", "unknown_attempts", "node", "index", "seq", "term", "asof"),
    *("repeated", "result", "error"),
)


class Recorder:
    """Writes a history. `path` must not exist. One event loop; not thread-safe.

    `counts`: by operation how many ended `ok`, `fail`, `info`. `run`: a random word that tells this run's
    queues and request ids from those of every other run on the same cluster.
    """

    def __init__(self, path: Path, run: str | None = None) -> None:
        self.path = path
        self.run = run or secrets.token_hex(4)
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._open: dict[int, str] = {}  # op → f, of calls under way
        self._next = 0
        wall_ms = time.time_ns() // 1_000_000
        self._write({"e": "open", "t": time.monotonic_ns(), "wall_ms": wall_ms, "run": self.run})

    def reserve(self) -> int:
        """The number of an operation that `invoke` will be told: for bodies that carry their operation."""
        self._next += 1
        return self._next

    def invoke(self, proc: str, f: str, args: dict[str, Any], op: int | None = None) -> int:
        """Call before the request leaves. `op`: from `reserve`; else a new number. Answers the number."""
        op = self.reserve() if op is None else op
        self._open[op] = f
        self._write({"e": "inv", "op": op, "proc": proc, "f": f, "t": time.monotonic_ns(), "args": args})
        return op

    def returned(self, op: int, type: str, **known: Any) -> None:
        """`type` is `ok`, `fail` or `info`; `known`: attempts, node, index, seq, term, result, error …;
        those that are None are left out. Raises KeyError if `op` was not invoked, or returned before."""
        if type not in TYPES:
            raise ValueError(f"type is {type!r}")
        self.counts[self._open.pop(op)][type] += 1
        told = {name: value for name, value in known.items() if value is not None}
        self._write({"e": "ret", "op": op, "t": time.monotonic_ns(), "type": type, **told})

    def note(self, what: str, **fields: Any) -> None:
        """Something about the load itself: its phases, what it could not do."""
        self._write({"e": "note", "t": time.monotonic_ns(), "what": what, **fields})

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        data = _encode(line) + b"\n"
        if os.write(self._file, data) != len(data):  # a regular file takes all, or the disk is full
            raise OSError(f"{self.path}: the history could not be written")


@dataclass(slots=True)
class Operation:
    """One call. Instants: monotonic nanoseconds. A call that never returned is `info` with `ret_ns` None."""

    op: int
    proc: str
    f: str
    inv_ns: int
    args: dict[str, Any]
    ret_ns: int | None = None
    type: str = INFO
    attempts: int = 0
    unknown_attempts: int = 0
    node: str | None = None
    index: int | None = None
    seq: int | None = None
    term: int | None = None
    asof: int | None = None
    repeated: bool = False
    result: Any = None
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str | None:
        """The error's code, if there was one."""
        return self.error.get("code")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every line of a JSON-lines file of a run; a last line that was cut off is passed over.

    Raises ValueError, with its number, for any other line that is no JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found = _decode(line)
            except msgspec.DecodeError as error:
                if line.endswith(b"\n"):
                    raise ValueError(f"{path.name}, line {number}: {error}") from error
                return
            if not isinstance(found, dict):
                raise ValueError(f"{path.name}, line {number} is not an object")
            yield found


def notes(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are no calls, without the cost of reading all others."""
    with path.open("rb") as file:
        for line in file:
            if b'"note"' in line and line.endswith(b"\n") and (found := _decode(line))["e"] == "note":
                yield found


def operations(path: Path) -> Iterator[Operation]:
    """The calls of a history in the order of their returns; then those that never returned, oldest first.

    Raises ValueError for a history that contradicts itself."""
    under_way: dict[int, Operation] = {}
    for line in lines(path):
        match line.get("e"):
            case "inv":
                made = Operation(line["op"], line["proc"], line["f"], line["t"], line["args"])
                if under_way.setdefault(made.op, made) is not made:
                    raise ValueError(f"{path.name}: operation {made.op} was invoked twice")
            case "ret":
                found = under_way.pop(line["op"], None)
                if found is None:
                    raise ValueError(f"{path.name}: operation {line['op']} returned, but was not under way")
                yield _returned(found, line)
    yield from sorted(under_way.values(), key=lambda one: one.op)


def _returned(found: Operation, line: dict[str, Any]) -> Operation:
    found.ret_ns = line["t"]
    for name in _TOLD:
        if name in line:
            setattr(found, name, line[name])
    if found.type not in TYPES:
        raise ValueError(f"operation {found.op} has the type {found.type!r}")
    return found
