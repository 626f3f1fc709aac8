"""The second judge: the committed log, replayed on the model, against what the clients were told.

Membership (an ok is in the log where its answer says, a fail nowhere, an unknown at most once), every
answer and every read equal to the model's, conservation at each index (S15), repeats as R12 has them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from chaos.checker.committed import CommittedLog
from chaos.checker.expected import (
    Expected,
    Place,
    Read,
    Told,
    body_digest,
    group_of,
    in_group,
    number_of,
    slot_digest,
    stored_body,
    stored_digest,
)
from chaos.checker.verdict import Findings
from chaos.history import FAIL
from chaos.model import Model
from chaos.model.records import Message, lease_mac
from trivet.wire.entry import EntryReader

REGULAR = b"\0"  # the consensus layer's mark of an entry for the machine

_LAW_OF = {"effect_begin": "S8", "effect_commit": "S8", "effect_abort": "S8", "redrive": "S10", "cancel": "S19",
           "put_queue": "S21", "patch_queue": "S21", "put_topic": "S21", "put_schedule": "S21",
           "pause_schedule": "S21", "publish": "S3", "append_events": "S3"}  # fmt: skip


class Replay:
    def __init__(self, expected: Expected, found: Findings) -> None:
        self.expected, self.found = expected, found
        self.model = Model()
        self.model.name = self.name
        self.model.due_hint = expected.dues.get
        self.given: dict[bytes, int] = Counter()  # bodies that were born, how often
        self.applied: dict[str, list[Place]] = {}  # request id → where it took effect
        self.met: set[Place] = set()
        self.bodies: dict[int, bytes] = {}  # serial → digest of the stored body
        self.counts: Counter[str] = Counter()

    # --- the log ----------------------------------------------------------------------------------------

    def play(self, log: CommittedLog) -> None:
        term_before = 0
        for index, term, data in log.read():
            if term < term_before:
                self.found.add("S18", f"entry {index} has term {term}, the one before it {term_before}")
            term_before = term
            self.told_term(index, term)
            if data[:1] == REGULAR:  # else a leader's no-op
                self.entry(index, data[1:])
            self.conserve(index)
            for read in self.expected.reads.pop(index, ()):
                self.read(index, read)
        self.after(len(log.chain), whole=not log.problems)

    def told_term(self, index: int, term: int) -> None:
        told = self.expected.terms.get(index)
        if told is not None and told[0] < term:
            self.found.add("S18", f"entry {index} is of term {term}, its answer says {told[0]}", (told[1],))

    def entry(self, index: int, data: bytes) -> None:
        reader = EntryReader(data)
        self.model.begin_entry(reader.now_ms)
        seq = 0
        while (request := reader.next()) is not None:
            self.counts["commands"] += 1
            place = (index, seq)
            told = self.expected.told.get(place, ())
            reply, repeated = self.model.apply(request)
            if told:
                self.met.add(place)
            for one in told:
                self.compare(place, one, request, reply, repeated)
            self.effective(place, request, reply, repeated)
            seq += 1

    def name(self, message: Message, draft: Any) -> None:
        """A message is born: its body says which id its client was told, or will be."""
        body = stored_body(draft.body, draft.codec)
        digest = self.bodies[message.serial] = body_digest(body)
        digest = in_group(message.queue.name, digest)
        if isinstance(body, dict) and "schedule" in body:
            digest = slot_digest(message.queue.name, draft.key or "")
        numbers = self.expected.numbers.get(digest, [])
        if not numbers and isinstance(body, dict):
            listed = self.expected.origins.get((body.get("op"), body.get("i"), group_of(message.queue.name)))
            numbers = [] if listed is None else [listed]
        at = self.given[digest]
        self.given[digest] = at + 1
        if at < len(numbers):
            try:
                self.model.bind(message, numbers[at])
            except ValueError as error:
                self.found.add("S2", str(error))

    # --- membership -------------------------------------------------------------------------------------

    def effective(self, place: Place, request: Any, reply: Any, repeated: bool) -> None:
        rid = request.request_id
        if rid is None or repeated or not took_effect(reply):
            return
        self.applied.setdefault(rid, []).append(place)

    def after(self, last_index: int, whole: bool) -> None:
        """`whole`: what is not in the chain is not in the log; else the archive may only lack it."""
        expected, found = self.expected, self.found
        for place, many in expected.told.items():
            if place not in self.met and (whole or place[0] <= last_index):
                text = f"{many[0].f} was answered at {place}, where the log has no command"
                found.add("S1", text, [one.op for one in many])
        for rid, places in self.applied.items():
            known = expected.unplaced.get(rid)
            if known is None:
                self.counts["foreign"] += 1
                continue
            op, type = known
            if type == FAIL:
                found.add("S19", f"op {op} was refused, and took effect at {places[0]}", (op,))
            if len(places) > 1:
                found.add(
                    "S3", f"the request of op {op} took effect {len(places)} times: {places[:3]}", (op,)
                )
        for index, first, second in expected.split:
            found.add("S18", f"entry {index} was answered under two terms", (first, second))
        for asof, reads in expected.reads.items():
            if asof > last_index and whole:
                text = f"{reads[0].f} shows index {asof}, the committed log ends at {last_index}"
                found.add("S16", text, [one.op for one in reads])

    # --- answers ----------------------------------------------------------------------------------------

    def compare(self, place: Place, told: Told, request: Any, reply: Any, repeated: bool) -> None:
        self.counts["answers"] += 1
        if request.request_id != told.request_id:
            text = f"{told.f} was answered at {place}, which holds the request {request.request_id!r}"
            self.found.add("S1", text, (told.op,))
            return
        self.sent_bodies(place, told, request)
        if repeated and not told.repeated:
            self.found.add("S3", f"{told.f} at {place} repeats an earlier request", (told.op,))
        difference = self.difference(told, reply)
        if difference is not None:
            law, text = difference
            self.found.add(law, f"{told.f} at {place}: {text}", (told.op,))

    def sent_bodies(self, place: Place, told: Told, request: Any) -> None:
        if not told.bodies:
            return
        c = request.command
        if told.f in ("enqueue", "publish"):
            drafts = c.drafts
        else:
            drafts = [entry.draft for entry in (c.steps if told.f == "create_flow" else c.enqueue)]
        if tuple(stored_digest(draft.body, draft.codec) for draft in drafts) != told.bodies:
            self.found.add(
                "S2", f"{told.f} at {place}: the log holds other bodies than were sent", (told.op,)
            )

    def difference(self, told: Told, reply: Any) -> tuple[str, str] | None:
        """(law, text) of the first thing that the model would have said otherwise."""
        if reply[0] == "refused":
            return (_LAW_OF.get(told.f, "S5"), f"the model refuses it: {reply[1]}")
        if told.reply is None or told.reply[0] != reply[0]:
            return ("S19", f"answered {told.code}, the model says {reply[0]}")
        return getattr(self, "differs_" + reply[0])(told, reply)  # type: ignore[no-any-return]

    def differs_enqueued(self, told: Told, reply: Any) -> tuple[str, str] | None:
        return self.births(told.reply[1], reply[1])

    def differs_flow(self, told: Told, reply: Any) -> tuple[str, str] | None:
        return self.births(told.reply[1], [(message, state, False, None) for message, state in reply[1]])

    def births(self, said: list[Any], model: list[Any]) -> tuple[str, str] | None:
        if len(said) != len(model):
            return ("S20", f"{len(said)} messages answered, the model has {len(model)}")
        for one, (message, state, duplicate, _) in zip(said, model, strict=True):
            if one[2] != duplicate:
                return ("S3", f"answered duplicate {one[2]}, the model says {duplicate}")
            if message.number is not None and one[0] != message.number:
                return ("S3", f"answered m{one[0] or 0:012x}, it is m{message.number:012x}")
            if one[1] != state:
                return ("S10", f"answered {one[1]}, the model says {state}")
        return None

    def differs_appended(self, told: Told, reply: Any) -> tuple[str, str] | None:
        said = told.reply[1]
        if len(said) != len(reply[1]):
            return ("S20", f"{len(said)} events answered, the model has {len(reply[1])}")
        return None if said == reply[1] else ("S3", f"answered {said}, the model says {reply[1]}")

    def differs_leased(self, told: Told, reply: Any) -> tuple[str, str] | None:
        _, now, _, grants = told.reply
        known = {fence: (m, expires, attempt) for m, fence, expires, attempt in reply[3]}
        if not told.repeated:
            if now != reply[1]:
                return ("S6", f"answered the time {now}, the log says {reply[1]}")
            if len(grants) != len(reply[3]):
                return ("S11", f"{len(grants)} leases answered, the model gives {len(reply[3])}")
        for at, (number, token, expires, attempt) in enumerate(grants):
            fence, mac = token or (0, b"")
            if fence not in known:
                return (
                    "S5",
                    f"a lease was answered under fence {fence}, the model gives {sorted(known)[:3]}",
                )
            m, ends, tries = known[fence]
            if m.number != number:
                text = f"m{number or 0:012x} was given, the model gives m{m.number or 0:012x}"
                return ("S11" if m.group is not None else "S7", text)
            if self.bodies[m.serial] != told.given[at]:
                return ("S2", f"m{number:012x} was given with another body than the log holds")
            if mac != lease_mac(self.model.secret, fence, number):
                return ("S5", f"the token of m{number:012x} is not the one of its fence")
            if attempt != tries:
                return ("S10", f"m{number:012x}: attempt {attempt}, the model counts {tries}")
            if expires != ends and not told.repeated:
                return ("S6", f"m{number:012x}: the lease ends at {expires}, the model says {ends}")
        return None

    def differs_settled(self, told: Told, reply: Any) -> tuple[str, str] | None:
        _, said, messages = told.reply
        if len(said) != len(reply[1]):
            return ("S20", f"{len(said)} results answered, the model has {len(reply[1])}")
        for one, model in zip(said, reply[1], strict=True):
            if one[0] != model[0]:
                law = "S10" if {one[0], model[0]} == {"nacked", "dead"} else "S5"
                return (law, f"answered {one[0]}, the model says {model[0]}")
            if one[1] != model[1]:
                return ("S7", f"answered repeated {one[1]}, the model says {model[1]}")
            if one[3] != model[3] or one[2] != model[2]:
                return (
                    "S13",
                    f"answered {one[2]} until {one[3]}, the model says {model[2]} until {model[3]}",
                )
            if one[4] != model[4]:
                return ("S6", f"answered the end {one[4]}, the model says {model[4]}")
        if (messages is None) != (reply[2] is None):
            return ("S9", "the children of the ack are missing, or there are some that nobody asked for")
        found = None if messages is None else self.births(messages, reply[2])
        return None if found is None else ("S9" if found[0] == "S20" else found[0], found[1])

    def differs_effect(self, told: Told, reply: Any) -> tuple[str, str] | None:
        _, state, uncertain, fence, _ = told.reply
        if state != reply[1]:
            return ("S8", f"answered {state}, the model says {reply[1]}")
        if state == "granted" and (uncertain, fence) != (reply[2], reply[3]):
            text = f"uncertain {uncertain} under fence {fence}, the model: {reply[2]} under {reply[3]}"
            return ("S8", text)
        return None

    def differs_queue(self, told: Told, reply: Any) -> tuple[str, str] | None:
        if told.reply[3] != reply[3]:
            return ("S21", f"answered revision {told.reply[3]}, the model has {reply[3]}")
        return None

    def differs_schedule(self, told: Told, reply: Any) -> tuple[str, str] | None:
        return self.differs_queue(told, reply)

    def differs_done(self, told: Told, reply: Any) -> tuple[str, str] | None:
        return None

    def differs_topic(self, told: Told, reply: Any) -> tuple[str, str] | None:
        return None

    def differs_published(self, told: Told, reply: Any) -> tuple[str, str] | None:
        _, said, groups = told.reply
        wanted = list(zip(reply[1], reply[2], strict=True))
        if said != wanted:
            return ("S3", f"answered offsets {said[:4]}, the model says {wanted[:4]}")
        if groups.keys() != reply[3].keys():
            return ("S20", f"reached the groups {sorted(groups)}, the model {sorted(reply[3])}")
        for group, numbers in groups.items():
            known = [m.number for m in reply[3][group]]
            if len(known) != len(numbers) or any(
                b is not None and a != b for a, b in zip(numbers, known, strict=True)
            ):
                return ("S3", f"answered {numbers[:4]} in {group}, the model has {known[:4]}")
        return None

    def differs_redriven(self, told: Told, reply: Any) -> tuple[str, str] | None:
        numbers = [m.number for m in reply[1]]
        if told.reply[1] != numbers:
            return ("S10", f"answered {len(told.reply[1])} redriven, the model has {len(numbers)}")
        return None

    def differs_changed(self, told: Told, reply: Any) -> tuple[str, str] | None:
        if told.reply[2] != reply[2]:
            return ("S19", f"answered {told.reply[2]}, the model says {reply[2]}")
        return None

    # --- reads and counts -------------------------------------------------------------------------------

    def read(self, index: int, read: Read) -> None:
        self.counts["reads"] += 1
        difference = getattr(self, "read_" + read.f)(read)
        if difference is not None:
            self.found.add("S16", f"{read.f} of {read.what} at index {index}: {difference}", (read.op,))

    def read_read_queue(self, read: Read) -> str | None:
        queue = self.model.queues.get(read.what)
        if queue is None:
            return "the model has no such queue"
        for name, said in read.told.items():
            wanted = queue.counts.get(name, getattr(queue, name, None))
            if said != wanted:
                return f"{name} {said}, the model has {wanted}"
        return None

    def read_read_message(self, read: Read) -> str | None:
        number = number_of(read.what)
        message = None if number is None else self.model.find(number)
        if message is None:
            return "the model has no such message"
        wanted = (message.state, message.attempt, message.reason)
        return None if read.told == wanted else f"{read.told}, the model has {wanted}"

    def read_read_flow(self, read: Read) -> str | None:
        first = self.expected.flows.get(read.what)
        message = None if first is None else self.model.by_number.get(first)
        if message is None or message.serial not in self.model.flow_of:
            return None  # nobody was told that it was made, or its first step is gone
        flow = self.model.flow_of[message.serial][0]
        wanted = (flow.shown, {step.message.number: step.message.state for step in flow.steps})
        return None if read.told == wanted else f"{read.told}, the model has {wanted}"

    def read_read_events(self, read: Read) -> str | None:
        run = self.model.runs.get(read.what)
        newest = None if run is None else run.events
        return None if read.told == newest else f"ends at {read.told}, the model at {newest}"

    def read_read_schedule(self, read: Read) -> str | None:
        one = self.model.schedules.get(read.what)
        if one is None:
            return "the model has no such schedule"
        wanted = (one.fired, one.skipped, one.decided, one.paused, one.revision)
        return None if read.told == wanted else f"{read.told}, the model has {wanted}"

    def read_effect_state(self, read: Read) -> str | None:
        effect = self.model.effects.get(read.what)
        wanted = None if effect is None else (effect.state, effect.uncertain)
        return None if read.told == wanted else f"{read.told}, the model has {wanted}"

    def read_browse(self, read: Read) -> str | None:
        for name, state, attempt in read.told:
            number = number_of(name)
            message = None if number is None else self.model.find(number)
            if message is None:
                return f"{name} is {state}, the model does not have it"
            if (message.state, message.attempt) != (state, attempt):
                return f"{name} is {state}, attempt {attempt}; the model: {message.state}, {message.attempt}"
        return None

    read_dead_letters = read_browse

    def conserve(self, index: int) -> None:
        """S15: what was enqueued is somewhere, at every index."""
        for queue in self.model.queues.values():
            if queue.enqueued + queue.revived != queue.live + queue.ended + queue.vanished:
                self.found.add(
                    "S15", f"{queue.name} at index {index}: {queue.enqueued} enqueued, {queue.live} live"
                )


def took_effect(reply: Any) -> bool:
    """Whether it changed something that a client could see."""
    kind = reply[0]
    if kind == "enqueued":
        return any(not duplicate for _, _, duplicate, _ in reply[1])
    if kind == "leased":
        return bool(reply[3])
    if kind == "appended":
        return not all(duplicate for _, duplicate in reply[1])
    if kind == "published":
        return not all(reply[2])
    if kind == "settled":
        return any(
            one[0] in ("acked", "nacked", "dead", "extended", "released") and not one[1] for one in reply[1]
        )
    if kind == "effect":
        return reply[1] != "done" or not reply[6]
    return kind in ("changed", "redriven", "flow")


def check_nodes(final: dict[str, Any], found: Findings) -> None:
    """The cluster at rest: all nodes have one digest (S17)."""
    nodes = final.get("nodes", {})
    if len({(one["index"], one["digest"]) for one in nodes.values()}) > 1:
        found.add("S17", f"nodes differ at the end: {nodes}")


def check_counts(replay: Replay, final: dict[str, Any], found: Findings) -> None:
    """The cluster at rest: its counts are the model's (S15)."""
    for name, counts in final.get("queues", {}).items():
        queue = replay.model.queues.get(name)
        if queue is None:
            found.add("S15", f"{name} exists at the end, the model does not have it")
            continue
        for state in ("ready", "delayed", "leased", "dead", "blocked"):
            if state in counts and counts[state] != queue.counts[state]:
                text = f"{name} has {counts[state]} {state} at the end, the model {queue.counts[state]}"
                found.add("S15", text)
    for name in replay.model.queues:
        if final.get("queues") and name not in final["queues"]:
            found.add("S21", f"{name} does not exist at the end")
