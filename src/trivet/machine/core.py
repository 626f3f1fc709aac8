"""The machine: its tables, its time, and `apply`, which is total and deterministic (design 2).

An entry is applied by `begin_entry`, one `apply` for each of its requests, and `end_entry`. A refusal is
a reply and changes nothing; an exception means a broken invariant, and ends the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

import msgspec

from trivet.limits import (
    REQUEST_IDS_MAX,
    REQUEST_REPLIES_BYTES_MAX,
    REQUEST_WINDOW_MS,
    SETTLE_WINDOW_MS,
    SETTLED_TOKENS_MAX,
)
from trivet.machine import (
    admin,
    changes,
    commands,
    deadletter,
    delivery,
    dependencies,
    expiry,
    flows,
    intake,
    ledger,
    publishing,
    replaying,
    run_commands,
    runs,
    schedules,
    settle,
    topics,
    transitions,
)
from trivet.machine.commands import MACHINE_VERSION, EffectBegin, Request
from trivet.machine.effects import EntryEffects
from trivet.machine.flow_record import Flow
from trivet.machine.order import Fifo, Index, LazyHeap, Storage
from trivet.machine.persistent import (
    EffectData,
    Header,
    KeyData,
    MessageData,
    QueueData,
    SettledRun,
    StoredReply,
    SweepData,
)
from trivet.machine.replies import Answer, EffectState, Leased, Refusal, Reply, Settled
from trivet.machine.run_state import Run, RunEvent
from trivet.machine.settled import SettledTokens
from trivet.machine.state import (
    CURRENT_END,
    CURRENT_WAKE,
    LEASED,
    SWEEP_CATCH_UP,
    WAKE_EFFECT,
    WAKE_GRANT,
    WAKE_KEY,
    WAKE_LEASE,
    WAKE_MASK,
    EffectRecord,
    KeyRecord,
    Message,
    Queue,
    Sweep,
    is_gone,
    stored_bytes,
    wake_key,
)
from trivet.machine.tables import NumberTable, TextTable
from trivet.machine.topic_records import OfTopics, Topic, TopicKey
from trivet.machine.transitions import BrokenInvariant

Record = (
    Message | Queue | KeyRecord | EffectRecord | Sweep | schedules.Schedule | Flow | Run | RunEvent | OfTopics
)
Armed = Message | KeyRecord | EffectRecord | Flow | Run | Topic | TopicKey
W = TypeVar("W", Message, KeyRecord, EffectRecord, Flow, Topic, TopicKey)

RETAINED_OVERHEAD = 512  # what a kept message counts besides its bytes
TRASH_PER_ENTRY = 4096
MANY = 4096  # stale deadlines that are always allowed: batches of several consumers end in any order

_encode = msgspec.msgpack.Encoder().encode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode

HANDLERS: dict[type, Callable[[Any, Any], Reply]] = {
    commands.Genesis: admin.genesis,
    commands.PutQueue: admin.put_queue,
    commands.PatchQueue: admin.patch_queue,
    commands.DeleteQueue: admin.delete_queue,
    commands.PauseQueue: admin.pause_queue,
    commands.PurgeQueue: admin.purge_queue,
    commands.Enqueue: intake.enqueue,
    commands.Lease: delivery.lease,
    commands.Ack: settle.ack,
    commands.AckTokens: settle.ack_tokens,
    commands.AckLeases: settle.ack_leases,
    commands.Nack: settle.nack,
    commands.Extend: delivery.extend,
    commands.Release: settle.release,
    commands.ReleaseLeases: settle.release_leases,
    commands.Progress: delivery.progress,
    commands.Cancel: changes.cancel,
    commands.PatchMessage: changes.patch_message,
    commands.Redrive: deadletter.redrive,
    commands.PurgeDead: deadletter.purge_dead,
    commands.EffectBegin: ledger.effect_begin,
    commands.EffectCommit: ledger.effect_commit,
    commands.EffectAbort: ledger.effect_abort,
    commands.Expire: expiry.expire,
    commands.PutSchedule: schedules.put_schedule,
    commands.DeleteSchedule: schedules.delete_schedule,
    commands.PauseSchedule: schedules.pause_schedule,
    commands.FireSchedules: schedules.fire_schedules,
    commands.RunSchedule: schedules.run_schedule,
    commands.CreateFlow: flows.create_flow,
    commands.PutTopic: topics.put_topic,
    commands.DeleteTopic: topics.delete_topic,
    commands.PutGroup: topics.put_group,
    commands.DeleteGroup: topics.delete_group,
    commands.Publish: publishing.publish,
    commands.ReplayGroup: topics.replay_group,
    run_commands.AppendRunEvents: runs.append,
    run_commands.ReplayRun: replaying.replay_run,
}


class WalkPort(Protocol):
    """An open snapshot walk, as the machine sees it (R9)."""

    def write_out(self, record: Record) -> None:
        """Take the record as it is now and set its `mark` to `Machine.walk_mark`."""
        ...


class Machine:
    """The whole replicated state. Nothing outside `apply` changes what is persistent."""

    def __init__(self) -> None:
        # persistent scalars: see `Header`
        self.applied_index = 0
        self.clock_ms = 0
        self.cluster_id = ""
        self.secret = b""
        self.members: tuple[str, ...] = ()
        self.next_number = 1
        self.next_place = 1
        self.next_fence = 1
        self.next_revision = 1
        self.chain = bytes(16)
        self.settled_forgotten = 0
        self.retained_forgotten = 0
        self.dead_forgotten = 0
        self.runs_forgotten = 0
        # tables of records
        self.queues: dict[str, Queue] = {}
        self.dying: dict[int, Queue] = {}
        self.messages: NumberTable[Message] = NumberTable()
        self.effects_by_id: TextTable[EffectRecord] = TextTable()
        self.effect_index: Index[EffectRecord] = Index()
        self.sweeps: Index[Sweep] = Index()
        self.resolving: Index[Sweep] = Index()
        self.flow_index: Index[Flow] = Index()
        self.runs: TextTable[Run] = TextTable()
        self.run_index: Index[Run] = Index()
        self.topics: dict[str, Topic] = {}
        self.replies: Fifo[str, StoredReply] = Fifo(lambda record: record.request_id, TextTable())
        self.settled = SettledTokens()
        self.schedules = schedules.Schedules()
        # derived
        self.by_uid: dict[int, Queue] = {}
        self.topics_by_number: dict[int, Topic] = {}  # the deleted ones too, until they are swept
        self.catching_up: dict[int, Sweep] = {}  # by uid of the group's queue
        self.leases: NumberTable[Message] = NumberTable()
        self.expired: NumberTable[Message] = NumberTable()
        self.effect_fences: NumberTable[EffectRecord] = NumberTable()
        self.lease_effects: NumberTable[dict[int, EffectRecord]] = NumberTable()
        self.dependents: NumberTable[Index[Message]] = NumberTable()
        self.flow_steps: NumberTable[tuple[Flow, int]] = NumberTable()  # ~position: its compensation
        self.flow_work: Index[Flow] = Index()  # flows that owe work
        self.deadlines: LazyHeap[Armed] = LazyHeap(CURRENT_WAKE, MANY)
        self.lease_deadlines: LazyHeap[Message | KeyRecord | EffectRecord] = LazyHeap(CURRENT_WAKE, MANY)
        self.retained: LazyHeap[Message | Flow] = LazyHeap(CURRENT_END)
        self.retained_bytes = 0
        self.reply_bytes = 0  # of `replies`
        self.idle_runs: LazyHeap[Run] = LazyHeap(CURRENT_WAKE)  # none of whose messages is in the tables
        self.run_bytes = 0  # of the events of all runs
        # neither: storage that waits to be freed in small pieces, the open walk, the current entry
        self.trash: list[Storage] = []
        self.walk: WalkPort | None = None
        self.walk_mark = 0
        self.walk_count = 0
        self.hints = EntryEffects()
        self._seq = 0
        self._hash = blake2b(digest_size=16)

    # --- entries ----------------------------------------------------------------------------------

    def begin_entry(self, index: int, now_ms: int, version: int, entry_hash: bytes = b"") -> None:
        """Start the entry at `index` (the one after `applied_index`), stamped `now_ms` by its leader.

        `entry_hash` stands for the entry's bytes in the digest chain. Raises `BrokenInvariant` for an
        index out of turn or a version this machine does not know (R32).
        """
        if index != self.applied_index + 1 or version != MACHINE_VERSION:
            raise BrokenInvariant(f"entry {index} of version {version} after {self.applied_index}")
        self.applied_index = index
        if now_ms > self.clock_ms:
            self.clock_ms = now_ms
        self.hints = EntryEffects()
        self._seq = 0
        self._hash = blake2b(self.chain + index.to_bytes(8, "big") + entry_hash, digest_size=16)

    def apply(self, request: Request) -> Answer:
        """Answer one request. Repeats of a remembered request id change nothing (R12)."""
        seq = self._seq
        self._seq = seq + 1
        answer = None if request.request_id is None else self._repeat(request, seq)
        if answer is not None:
            self._hash.update(_encode(answer))
            return answer
        reply = HANDLERS[type(request.command)](self, request.command)
        if self.resolving.live or self.flow_work.live:
            flows.settle(self, dependencies.INLINE)
        encoded = _encode(reply)
        self._hash.update(encoded)
        if request.request_id is not None:
            self._remember(request.request_id, request.fingerprint, seq, reply, encoded)
        return Answer(reply, self.applied_index, seq)

    def end_entry(self) -> EntryEffects:
        """Close the entry; answers its hints."""
        self.chain = self._hash.digest()
        if self.trash:
            self._empty_trash()
        return self.hints

    def digest(self) -> bytes:
        """16 bytes that are equal on all machines that applied the same entries (R11)."""
        return self.chain

    def next_deadline_ms(self) -> int | None:
        """The earliest instant at which `Expire` has something to do, None for never."""
        return expiry.next_deadline_ms(self)

    # --- repeats (R12) ----------------------------------------------------------------------------

    def _repeat(self, request: Request, seq: int) -> Answer | None:
        assert request.request_id is not None
        stored = self.replies.get(request.request_id)
        if stored is None or stored.at_ms + REQUEST_WINDOW_MS <= self.clock_ms:
            return self._no_room(seq)
        if stored.fingerprint != request.fingerprint:
            refusal = Refusal("idempotency_conflict", "this request id came with other content before")
            return Answer(refusal, self.applied_index, seq)
        reply: Reply | None = _decode_reply(stored.reply)
        if isinstance(reply, Leased):
            reply = delivery.repeat(self, reply)
        elif isinstance(reply, EffectState) and isinstance(request.command, EffectBegin):
            reply = ledger.repeat_begin(self, reply)
        if reply is None:
            return None
        return Answer(reply, stored.index, stored.seq, repeated=True)

    def _no_room(self, seq: int) -> Answer | None:
        """Nothing is forgotten before its window is over: at the cap, new request ids are refused."""
        if len(self.replies) < REQUEST_IDS_MAX and self.reply_bytes < REQUEST_REPLIES_BYTES_MAX:
            return None
        oldest = self.replies.oldest()
        if oldest is not None and oldest.at_ms + REQUEST_WINDOW_MS <= self.clock_ms:
            return None  # `_remember` makes the room
        refusal = Refusal("overloaded", "too many request ids are remembered", None, REQUEST_IDS_MAX, 1000)
        return Answer(refusal, self.applied_index, seq)

    def _remember(self, request_id: str, fingerprint: bytes, seq: int, reply: Reply, encoded: bytes) -> None:
        if isinstance(reply, Refusal) or (isinstance(reply, Leased) and not reply.fences):
            return  # R12, R18
        self.trim_replies(2)
        self.replies.append(
            StoredReply(request_id, fingerprint, self.applied_index, seq, self.clock_ms, encoded)
        )
        self.reply_bytes += len(encoded)

    def trim_replies(self, most: int) -> int:
        """Drop at most `most` stored replies whose window is over; answers how many."""
        dropped = 0
        while dropped < most:
            oldest = self.replies.oldest()
            if oldest is None or oldest.at_ms + REQUEST_WINDOW_MS > self.clock_ms:
                break
            self.replies.drop_oldest()
            self.reply_bytes -= len(oldest.reply)
            dropped += 1
        return dropped

    def trim_settled(self, most: int) -> int:
        """Drop at most `most` settled tokens whose window is over (R14); answers how many."""
        return self.settled.drop_older(self.clock_ms - SETTLE_WINDOW_MS, most)

    def remember_settled(self, fences: Sequence[int], messages: Sequence[int], answer: Settled) -> None:
        """Keep how leases ended, for repeats (R14); at the cap the oldest are forgotten before their time."""
        settled = self.settled
        self.trim_settled(2 * len(fences))
        settled.extend(fences, messages, self.clock_ms, answer)
        while (over := len(settled) - SETTLED_TOKENS_MAX) > 0:
            in_time = (settled.oldest_at_ms() or 0) + SETTLE_WINDOW_MS > self.clock_ms
            dropped = settled.drop_oldest(over)
            if in_time:
                self.settled_forgotten += dropped

    # --- counters ---------------------------------------------------------------------------------

    def new_number(self) -> int:
        number = self.next_number
        self.next_number = number + 1
        return number

    def new_place(self) -> int:
        place = self.next_place
        self.next_place = place + 1
        return place

    def new_fence(self) -> int:
        fence = self.next_fence
        self.next_fence = fence + 1
        return fence

    # --- records ----------------------------------------------------------------------------------

    def touch(self, record: Record) -> None:
        """Call before a record changes or goes: an open walk takes it first (R9)."""
        if record.mark < self.walk_mark:
            assert self.walk is not None
            self.walk.write_out(record)

    def find(self, number: int) -> Message | None:
        """The message, unless it is unknown or counts as removed already (R25)."""
        message = self.messages.get(number)
        return None if message is None or is_gone(message) else message

    def live_lease(self, fence: int) -> Message | None:
        """The message leased under `fence` now (R13, R22)."""
        message = self.leases.get(fence)
        return None if message is None or message.queue.deleted else message

    @staticmethod
    def retained_size(message: Message) -> int:
        """What a kept finished message counts towards `RETAINED_BYTES_MAX` (R24)."""
        result = message.result
        return RETAINED_OVERHEAD + message.size + (0 if result is None else len(result))

    # --- deadlines --------------------------------------------------------------------------------

    def arm(self, record: W, at_ms: int, kind: int) -> None:
        """Give an unarmed record its deadline."""
        key = wake_key(at_ms, kind, record.number)
        record.wake_key = key
        self.deadlines.push(key, record)

    def arm_lease(self, message: Message, at_ms: int) -> None:
        key = wake_key(at_ms, WAKE_LEASE, message.number)
        message.wake_key = key
        self.lease_deadlines.push(key, message)

    def arm_effect(self, record: EffectRecord, at_ms: int, grant: bool) -> None:
        """`grant`: the deadline of a live grant, which rests while leases do (R1)."""
        kind = WAKE_GRANT if grant else WAKE_EFFECT
        record.wake_key = wake_key(at_ms, kind, record.number)
        (self.lease_deadlines if grant else self.deadlines).push(record.wake_key, record)

    def disarm(self, record: Armed) -> None:
        """Take a deadline back, if there is one. Not for leases: those end in `transitions`."""
        key = record.wake_key
        if key:
            record.wake_key = 0
            (self.lease_deadlines if key & WAKE_MASK == WAKE_GRANT else self.deadlines).drop()

    def _empty_trash(self) -> None:
        left = TRASH_PER_ENTRY
        while self.trash and left > 0:
            entries = self.trash[-1]
            size = len(entries)
            if isinstance(entries, deque):
                for _ in range(min(size, left)):
                    entries.pop()
            else:
                del entries[-left:]
            left -= size
            if not entries:
                self.trash.pop()

    # --- snapshots: the same machine again from its records ---------------------------------------

    def header(self) -> Header:
        """The scalars, as they are now."""
        return Header(*(getattr(self, name) for name in Header.__struct_fields__))

    def load_header(self, header: Header) -> None:
        for name in Header.__struct_fields__:
            setattr(self, name, getattr(header, name))

    def load_queue(self, data: QueueData) -> None:
        """A queue, before its messages and keys."""
        queue = Queue(data.uid, data.name, data.config, data.revision, data.created_at_ms, 0)
        queue.paused_enqueue = data.paused_enqueue
        queue.paused_lease = data.paused_lease
        queue.deleted = data.deleted
        queue.epoch = data.epoch
        queue.dead_epoch = data.dead_epoch
        queue.totals = data.totals
        self.by_uid[queue.uid] = queue
        if queue.deleted:
            self.dying[queue.uid] = queue
        else:
            self.queues[queue.name] = queue
            if ":" in queue.name:
                topics.load_group(self, queue)

    def load_message(self, data: MessageData) -> None:
        """A message of a loaded queue, in any order."""
        queue = self.by_uid[data.queue]
        message = Message(
            data.number,
            queue,
            data.draft if queue.topic is None else topics.shared(queue.topic, data.draft),
            data.state,
            data.priority,
            data.enqueued_at_ms,
            data.epoch,
            0,
            *(getattr(data, name) for name in MessageData.__struct_fields__[7:]),
        )
        message.size = stored_bytes(data.draft)
        self.messages[message.number] = message
        queue.index.add(message.number, message)
        for attempt in message.history:
            if attempt.outcome == "expired":
                self.expired[attempt.fence] = message
        transitions.load(self, message)

    def load_key(self, data: KeyData) -> None:
        """A key of a loaded queue. Its deadline is set by `load_keys`, when its message is there."""
        queue = self.by_uid[data.queue]
        record = KeyRecord(data.number, queue, data.key, data.fingerprint, data.expires_at_ms, 0, data.final)
        queue.keys[record.key] = record
        queue.key_index.add(record.number, record)

    def load_sweep(self, data: SweepData) -> None:
        sweep = Sweep(
            data.number, data.kind, data.queue, data.cursor, data.upto, 0, data.message, data.failed
        )
        (self.sweeps if sweep.queue else self.resolving).add(sweep.number, sweep)
        if sweep.kind == SWEEP_CATCH_UP:
            self.catching_up[sweep.queue] = sweep

    def load_reply(self, record: StoredReply) -> None:
        """In the order of the snapshot."""
        self.replies.append(record)
        self.reply_bytes += len(record.reply)

    def load_settled(self, record: SettledRun) -> None:
        """In the order of the snapshot."""
        self.settled.add(record)

    def load_effect(self, data: EffectData) -> None:
        ledger.load_effect(self, data)

    def load_keys(self, queue: Queue, after: int, most: int) -> int | None:
        """All messages are here: arm at most `most` keys behind `after`; answers the last, None at the end."""
        found = queue.key_index.slice_after(after, most)
        for record in found:
            message = self.messages.get(record.number)
            # Exactly the keys that `keys.finished` has armed: their message ended, or lives elsewhere.
            if record.final >= 0 or message is None or message.queue is not queue or message.state > LEASED:
                self.arm(record, record.expires_at_ms, WAKE_KEY)
        return found[-1].number if found else None
