"""Tools for the mutants: finding what to spoil in a clean run, and spoiling it.

`Spoiler` works on a copy of the case. What it looks for must be there: a mutant that finds nothing to spoil
is an error (`NothingToSpoil`), not a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from chaos.checker.scene import Case, Line

SETTLES = ("ack", "nack", "extend", "release")


class NothingToSpoil(Exception):
    """The clean run has no such thing."""


@dataclass
class Op:
    inv: Line
    ret: Line

    @property
    def op(self) -> int:
        return int(self.inv["op"])

    @property
    def f(self) -> str:
        return str(self.inv["f"])

    @property
    def args(self) -> Line:
        return self.inv["args"]  # type: ignore[no-any-return]

    @property
    def result(self) -> Any:
        return self.ret.get("result")

    @property
    def place(self) -> tuple[int, int]:
        return (self.ret.get("index", -1), self.ret.get("seq", -1))


class Spoiler:
    def __init__(self, case: Case) -> None:
        self.case = case
        invs = {line["op"]: line for line in case.history if line["e"] == "inv"}
        self.ops = [Op(invs[line["op"]], line) for line in case.history if line["e"] == "ret"]
        self.last_t = max(line["t"] for line in case.history)

    # --- looking ----------------------------------------------------------------------------------------

    def all(self, f: str, type: str = "ok", first: bool = True) -> list[Op]:
        """Those with this outcome; of writes that are ok only first answers, not repeats."""
        found = [one for one in self.ops if one.f == f and one.ret["type"] == type]
        return [one for one in found if not (first and one.ret.get("repeated"))]

    def one(self, found: Iterator[Any] | list[Any]) -> Any:
        for each in found:
            return each
        raise NothingToSpoil

    def deliveries(self) -> list[tuple[Op, Line]]:
        return [(op, one) for op in self.all("lease") for one in op.result["messages"]]

    def by_message(self) -> dict[str, list[tuple[Op, Line]]]:
        found: dict[str, list[tuple[Op, Line]]] = {}
        for op, one in sorted(self.deliveries(), key=lambda pair: pair[0].place):
            found.setdefault(one["id"], []).append((op, one))
        return found

    def settles(self, token: str) -> list[Op]:
        return [op for op in self.ops if op.f in SETTLES and token in str(op.args)]

    def acks(self, enqueue: bool = False, effects: bool = False) -> list[Op]:
        """First-time acks that counted."""
        return [
            op
            for op in self.all("ack")
            if op.result["results"] == [{"status": "acked"}]
            and bool(op.args.get("enqueue")) == enqueue
            and ("effects" in op.args["acks"][0]) == effects
        ]

    def shown(self, name: str) -> Iterator[tuple[Line, Line]]:
        """Every place where a message with this id is shown to a client: (line, the message)."""
        for line in self.case.history:
            result = line.get("result")
            if not isinstance(result, dict):
                continue
            if result.get("id") == name:
                yield line, result
            for one in result.get("messages", ()):
                if one.get("id") == name and "body" in one:
                    yield line, one

    def message_of(self, op: int, i: int) -> Iterator[Line]:
        """Every body of this origin, sent or shown."""

        def walk(value: Any) -> Iterator[Line]:
            if isinstance(value, dict):
                if value.get("op") == op and value.get("i") == i and "w" in value:
                    yield value
                for each in value.values():
                    yield from walk(each)
            elif isinstance(value, list):
                for each in value:
                    yield from walk(each)

        for line in self.case.history:
            yield from walk(line.get("args", line.get("result")))

    # --- spoiling ---------------------------------------------------------------------------------------

    def drop(self, *ops: Op) -> None:
        gone = {op.op for op in ops}
        self.case.history = [line for line in self.case.history if line.get("op") not in gone]

    def hide(self, name: str) -> None:
        """The message is never shown: not delivered, not listed, not read, not settled."""
        self.unshow(name, deliveries=True)
        for op in list(self.ops):
            if op.f in SETTLES and op.args.get("ids") == [name]:
                self.drop(op)

    def unshow(self, name: str, deliveries: bool = False) -> None:
        """It is in no list and no read any more."""
        for line, one in list(self.shown(name)):
            if "lease_token" in one and not deliveries:
                continue
            if line["result"].get("id") == name:
                line |= {"type": "fail", "error": {"code": "message_not_found"}}
                for field in ("result", "asof"):
                    line.pop(field, None)
            else:
                line["result"]["messages"] = [one for one in line["result"]["messages"] if one["id"] != name]

    def again(
        self, op: Op, place: tuple[int, int] | None = None, change: Callable[[Op], None] | None = None
    ) -> Op:
        """The same call once more, by another client, at the end of the history; answered at `place`."""
        number = 1 + max(one.op for one in self.ops)
        inv, ret = deepcopy(op.inv), deepcopy(op.ret)
        self.last_t += 2_000_000
        inv |= {"op": number, "t": self.last_t - 1_000_000, "proc": "mutant-0.0"}
        ret |= {"op": number, "t": self.last_t}
        if place is not None:
            ret |= {"index": place[0], "seq": place[1]}
        made = Op(inv, ret)
        if change is not None:
            change(made)
        self.ops.append(made)
        self.case.history += [inv, ret]
        return made

    def end_place(self) -> tuple[int, int]:
        return (len(self.case.entries), 999)

    def set_entry(self, index: int, **change: Any) -> None:
        term, now_ms, requests = self.case.entries[index - 1]
        self.case.entries[index - 1] = (
            change.get("term", term),
            change.get("now_ms", now_ms),
            change.get("requests", requests),
        )

    def requests(self, index: int) -> tuple[Any, ...]:
        return self.case.entries[index - 1][2]
