"""Runs in the simulation (R29): who appends to them, who follows them from node to node, and what must hold.

A reader goes to any node that is up and not recovering, reads what that node's own state has behind the reader's
position, and goes to another one. Whatever fails meanwhile, it must see each event once, in order, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.queue_calls import Callers
from tests.simulation.queue_facts import Fact
from tests.simulation.world import World
from trivet.machine import run_views
from trivet.machine.run_commands import (
    AppendRunEvents,
    NewRunEvent,
    ReplayRun,
    RunEventsAppended,
    RunReplayed,
)
from trivet.machine.state import LEASED

RUNS = ("run", "run2")
READERS = 4
NEXT_STATES: dict[str, tuple[str, ...]] = {
    "": ("blocked", "delayed", "ready"),
    "blocked": ("delayed", "ready", "dead", "cancelled"),
    "delayed": ("ready", "dead", "cancelled"),
    "ready": ("leased", "delayed", "dead", "cancelled"),
    "leased": ("ready", "delayed", "done", "dead", "cancelled"),
    "done": (),
    "dead": ("ready", "blocked"),
    "cancelled": (),
}


class RunReader:
    """One reader of one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.number = 0  # which run of that name
        self.position = 0
        self.node = ""


class RunLaws:
    """The log's appends and replays, and what readers are told."""

    def __init__(self, world: World, facts: dict[int, Fact], rank: Callable[[], int]) -> None:
        self.world = world
        self._facts = facts
        self._rank = rank
        self.machine: Any = None  # of the node that applies an entry first
        self._told: dict[tuple[int, int], run_views.Event] = {}  # (run, id)
        self._appended: dict[tuple[int, int], NewRunEvent] = {}
        self._ids: dict[tuple[int, str], int] = {}  # (run, event id) -> id
        self._states: dict[tuple[int, str], str] = {}  # (run, message) -> the state told last
        # The entry that is judged moves no ended message, perhaps after a replay in it.
        self.undisturbed = True
        self._seen: dict[int, int] = {}  # run -> the highest event that was told to anybody

    def appended(self, index: int, command: AppendRunEvents, reply: RunEventsAppended) -> None:
        run = self.machine.runs[command.run_id]
        newest = 0
        for new, one in zip(command.events, reply.events, strict=True):
            known = None if new.event_id is None else self._ids.get((run.number, new.event_id))
            if one.duplicate != (known is not None) or (known or one.id) != one.id:
                self.world.violate("event id", f"{new} at {index} is {one}, known as {known}")
            if one.duplicate:
                self.world.count("repeated events dropped")
                continue
            if one.id <= newest or (run.number, one.id) in self._appended:
                self.world.violate("event id", f"{one} at {index} after {newest} was given before")
            newest = one.id
            self._appended[run.number, one.id] = new
            if new.event_id is not None:
                self._ids[run.number, new.event_id] = one.id

    def replayed(self, index: int, clock_ms: int, reply: RunReplayed) -> None:
        for one in reply.messages:
            self.world.count("steps replayed")
            if one.message in self._facts or one.origin not in self._facts:
                self.world.violate("replay", f"{one} at {index}")
            origin = self.machine.find(one.origin)
            if self.undisturbed and (origin is None or origin.state <= LEASED):
                self.world.violate("replay", f"{one} at {index}: its origin has not ended, or is gone")
            message = self.machine.find(one.message)
            if message is not None:
                mortal = bool(message.expires_at_ms)
                self._facts[one.message] = Fact(
                    message.queue.name, message.draft, self._rank(), clock_ms, mortal
                )

    # --- readers ----------------------------------------------------------------------------------------

    def read(self, reader: RunReader, node: str, machine: Any, most: int) -> bool:
        """From this node's state; False if it has nothing for this reader, or is behind it."""
        run = machine.runs.get(reader.run_id)
        if run is None:
            return False
        if run.number != reader.number:
            if run.number < reader.number:
                return False  # it has not heard yet that the run was forgotten and made anew
            reader.number, reader.position = run.number, 0
        if reader.position >= run.next_id:
            self.world.count("nodes behind their reader")
            return False
        page = run_views.events(machine, reader.run_id, reader.position, most)
        assert page is not None
        if page.first_id > reader.position + 1:
            reader.position = page.first_id - 1  # told by a gap
            self.world.count("gaps told")
        for event in page.events:
            self._one(reader, node, event)
        if page.events and reader.node not in ("", node):
            self.world.count("readers went on at another node")
        reader.node = node
        return bool(page.events)

    def _one(self, reader: RunReader, node: str, event: run_views.Event) -> None:
        what = f"{event} to a reader of {reader.run_id} at {reader.position}, by {node}"
        if event.id != reader.position + 1:
            self.world.violate("events in order", what)
        first = self._told.setdefault((reader.number, event.id), event)
        if first != event:
            self.world.violate("events are the same", f"{what}; first {first}")
        reader.position = event.id
        self.world.count("events read")
        appended = self._appended.get((reader.number, event.id))
        if appended is not None and (appended.type, appended.data) != (event.type, event.data):
            self.world.violate("events are the same", f"{what}; appended {appended}")
        if self._seen.get(reader.number, 0) < event.id:
            self._seen[reader.number] = event.id
            if event.type.startswith("message."):
                self._transition(what, reader.number, event)

    def _transition(self, what: str, number: int, event: run_views.Event) -> None:
        """What is told of one message is a path through the life cycle."""
        message = event.data.split(b'"')[3].decode()
        state = event.type.removeprefix("message.")
        before = self._states.get((number, message))
        if before is not None and state not in NEXT_STATES[before]:
            self.world.violate("audit", f"{what}: {message} was {before}")
        self._states[number, message] = state

    def close(self, name: str, machine: Any, readers: list[RunReader]) -> None:
        """The cluster is healed: everybody comes to the end, and nothing that was appended is missing."""
        for reader in readers:
            while self.read(reader, name, machine, 100):
                pass
            run = machine.runs.get(reader.run_id)
            if run is not None and run.number == reader.number and reader.position != run.next_id - 1:
                self.world.violate(
                    "events in order", f"{reader.run_id} ends at {reader.position}, {run.next_id}"
                )
        numbers = {reader.number for reader in readers}
        for (number, at), new in self._appended.items():
            run = next((run for run in machine.run_index.after(0) if run.number == number), None)
            if (
                run is not None
                and number in numbers
                and (number, at) not in self._told
                and at >= run.first_id
            ):
                self.world.violate("event lost", f"{new} of {run.run_id} at {at}")


class RunActs(Callers):
    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        super().__init__(world, options, nodes)
        self.readers = [RunReader(RUNS[at % len(RUNS)]) for at in range(READERS)]
        self.run_laws: RunLaws | None = None
        self._told_before: list[tuple[str, tuple[NewRunEvent, ...]]] = []
        self._tokens = 0

    def begin_reading(self) -> None:
        for reader in self.readers:
            self.world.after(self.rng.uniform(0.1, 0.5), lambda reader=reader: self._read_on(reader))

    def _read_on(self, reader: RunReader) -> None:
        if self.stopped:
            return
        up = [node for node in self.nodes.values() if node.replica is not None and node.machine is not None]
        fit = [node for node in up if node.replica.recovering is None and not node.machine.busy]  # type: ignore[union-attr]
        if fit and self.run_laws is not None:
            node = self.rng.choice(fit)
            machine = node.machine.machine  # type: ignore[union-attr]
            self.run_laws.read(reader, node.name, machine, self.rng.choice((1, 5, 50)))
        self.world.after(self.rng.uniform(0.05, 0.4), lambda: self._read_on(reader))

    def _tell(self) -> None:
        """A worker tells how far it is; or says again what it may have said, under another request id."""
        rng = self.rng
        if self._told_before and rng.random() < 0.3:
            run_id, events = rng.choice(self._told_before[-10:])
        else:
            run_id = rng.choice(RUNS)
            made = []
            for _ in range(rng.choice((1, 1, 3, 10))):
                self._tokens += 1
                event_id = f"t{self._tokens}" if rng.random() < 0.8 else None
                made.append(NewRunEvent("token", b"%d" % self._tokens, event_id))
            events = tuple(made)
            self._told_before.append((run_id, events))
        self.call(AppendRunEvents(run_id, events))

    def _rerun(self) -> None:
        self.call(ReplayRun(self.rng.choice(RUNS), None, self.rng.choice((1, 3))))
