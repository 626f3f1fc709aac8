"""Replay of a run or of one of its steps: finished messages again, as new ones that name where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from trivet.machine import deadletter, flow_steps, intake
from trivet.machine.commands import Draft
from trivet.machine.ids import message_id
from trivet.machine.replies import Refusal
from trivet.machine.run_commands import ReplayedOne, ReplayRun, RunReplayed
from trivet.machine.run_state import Run
from trivet.machine.runs import REPLAY
from trivet.machine.state import CANCELLED, DEAD, LEASED, Message, extras_of, is_gone

if TYPE_CHECKING:
    from trivet.machine.core import Machine

SCAN_MAX = 10_000  # messages looked at in one command, whether or not they are replayed


def replay_run(m: Machine, command: ReplayRun) -> RunReplayed | Refusal:
    """Enqueue the run's finished messages again, oldest first, those of one step if one is named.

    A message that has a replay in the tables is passed over: its replay stands for it, and is replayed in
    its turn once it is finished. Refuses `run_not_found`, `step_not_found`, and `queue_full` or
    `queue_paused` when the first message cannot be taken in; a later one ends the command early, with `next`.
    """
    run = m.runs.get(command.run_id)
    if run is None:
        return Refusal("run_not_found", f"no run {command.run_id!r}")
    upto = m.next_number - 1 if command.upto is None else command.upto
    looked = run.messages.slice_after(command.after, SCAN_MAX + 1)
    more = len(looked) > SCAN_MAX
    made: list[ReplayedOne] = []
    last = command.after
    known = command.step_id is None
    for message in looked[:SCAN_MAX]:
        if message.number > upto:
            more = False
            break
        if len(made) == command.limit:
            return RunReplayed(tuple(made), last, upto)
        if command.step_id is None or extras_of(message.draft).step_id == command.step_id:
            known = True
            if message.state > LEASED and message.number not in run.replays and _may_replay(m, message):
                refusal = _refusal(message)
                if refusal is not None:
                    return RunReplayed(tuple(made), last, upto) if made else refusal
                made.append(ReplayedOne(_again(m, run, message), message.number))
        last = message.number
    if not known and not more and not command.after:
        return Refusal("step_not_found", f"no step {command.step_id!r} in this run", "/step_id")
    return RunReplayed(tuple(made), last if more else None, upto)


def _may_replay(m: Machine, message: Message) -> bool:
    """Not what a purge has taken, nor a step or compensation of a saga: a saga that has turned round undid what
    came before, and a compensation must not happen twice (as `flow_steps.may_redrive`)."""
    if is_gone(message) or not flow_steps.may_redrive(message):
        return False
    found = flow_steps.step_of(m, message)
    if found is not None and (found[0].saga or found[2]):
        return False
    return message.origin is None or message.origin[0] != flow_steps.COMPENSATION


def _refusal(message: Message) -> Refusal | None:
    queue = message.queue
    if queue.paused_enqueue:
        return Refusal("queue_paused", f"enqueue to {queue.name!r} is paused")
    return deadletter.full(queue, message)


def _again(m: Machine, run: Run, message: Message) -> int:
    """The same message from its start: without its key, due now. Answers its number.

    What it depends on is the newest replay of each dependency; one that failed or is gone is not waited for:
    who replays a step has decided about those before it (as `deadletter.revive`).
    """
    depends_on: dict[int, None] = {}
    for number in extras_of(message.draft).depends_on:
        newest = number
        while newest in run.replays:
            newest = run.replays[newest]
        dependency = m.find(newest)
        if dependency is not None and dependency.state not in (DEAD, CANCELLED):
            depends_on[newest] = None
    draft: Draft = replace(
        message.draft,
        priority=message.priority,
        delay_ms=0,
        deliver_at_ms=None,
        key=None,
        key_window_ms=None,
        extras=replace(extras_of(message.draft), depends_on=tuple(depends_on)),
    )
    made = intake.create(m, message.queue, draft, origin=(REPLAY, message_id(message.number)))
    return made.message
