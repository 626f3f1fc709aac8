"""The machine's records and tables. What is persistent stands apart from what is derived.

* A **record** (`Message`, `Queue`, `KeyRecord`, `EffectRecord`, `Sweep`) can change. Each has a `mark`:
  before a record changes or goes, `Machine.touch(record)` hands it to an open snapshot walk that has not
  reached it yet; the walk sets `mark` to its number. New records are born with ``Machine.walk_mark``
  (0 when no walk is open), so a walk never hands out what came after it was opened.
* `StoredReply` and `SettledRun` (`persistent.py`) never change and leave in the order they came: a walk keeps
  ``replies.chunks()`` and ``settled.frozen()`` from its start and needs no marks for them.
* `to_data()` gives the persistent fields as plain data, first to last in the order of the class;
  `from_data` makes the record again. Everything derived (heaps, indices, counts, sums, wake-ups) is a
  pure function of the persistent fields: `core.Machine.load_*` rebuilds it with the same code that keeps
  it up in normal work. Never let a decision depend on anything else.

Tables of `Machine` (see `core.py`): ``queues`` (name → Queue), ``dying`` (uid → deleted Queue still being
swept), ``messages`` (number → Message), ``leases`` (fence → leased Message), ``expired`` (fence → Message,
leases that ended by expiry), ``effects`` (effect id → EffectRecord), ``effect_fences`` (fence →
EffectRecord), ``effect_index`` (Index of the same by number), ``replies`` (Fifo), ``settled``, ``sweeps`` and
``resolving`` (Index of Sweep by number: all kinds but SWEEP_DEPENDENTS, and that one),
``topics`` (name → Topic), ``topics_by_number`` (also the deleted ones that are still being swept),
``catching_up`` (uid of a group's queue → its Sweep), ``dependents`` (message number → Index of the blocked messages that wait for it).
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from trivet.machine.commands import Backoff, Draft, Extras, QueueConfig
from trivet.machine.order import Index, LazyHeap
from trivet.machine.persistent import Attempt, LeaseInfo, ProgressNote, Totals
from trivet.machine.tables import TextTable

if TYPE_CHECKING:
    from trivet.machine.topic_records import Topic

# --- the states of a message (R19) ------------------------------------------------------------------
BLOCKED, DELAYED, READY, LEASED, DONE, DEAD, CANCELLED = range(7)
STATE_NAMES = ("blocked", "delayed", "ready", "leased", "done", "dead", "cancelled")
STATE_CODES = {name: code for code, name in enumerate(STATE_NAMES)}

LIVE_STATES = (BLOCKED, DELAYED, READY, LEASED)
WAITING_MAX = READY  # state <= WAITING_MAX: waiting, to be purged; state <= LEASED: unfinished

DEAD_REASONS = ("max_attempts", "expired", "rejected", "dependency_failed", "queue_full")

# --- kinds of wake-ups: the low bits of a wake key ----------------------------------------------------
WAKE_MESSAGE, WAKE_LEASE, WAKE_KEY, WAKE_EFFECT, WAKE_GRANT, WAKE_RUN, WAKE_TOPIC, WAKE_FLOW = range(8)
WAKE_BITS = 3
WAKE_MASK = (1 << WAKE_BITS) - 1


def wake_key(at_ms: int, kind: int, number: int) -> int:
    """The place of a deadline among all deadlines: by time, then number, then kind. Never 0."""
    return at_ms << 64 | number << WAKE_BITS | kind


def wake_at_ms(key: int) -> int:
    """The instant of a wake key."""
    return key >> 64


# The order among ready messages: higher priority first, then place. Places are above 0 and below 2**52.
_PLACE_BITS = 52


def ready_order(priority: int, place: int) -> int:
    """The key of a ready message in its queue's heap: never 0, and without a priority the very object `place`
    (another one would be 48 bytes of each message)."""
    return place - (priority << _PLACE_BITS) if priority else place


class Message(Struct, eq=False, gc=False):
    """A message. The draft is shared with the log's command and never changed.

    The cycle collector does not look at messages: it would have to look at each of a million again and again.
    The cycles through a queue are taken apart by whoever lets go of a machine (`snapshotting.dismantle`).

    * `epoch`: while waiting the queue's `epoch` and while dead the queue's `dead_epoch` at the time the
      message got there; a purge raises the queue's epoch, and what has an older one is gone at once (R25)
      though a sweep removes it later: always look messages up through `Machine.find`.
    * `place`: the order number inside the set the message is in: among the ready (tail = newest), the
      dead (order of death), the finished (order of finish). From one counter, unique.
    * `group_order`: place in its group (R21), 0 without a group.
    * `due_at_ms`: delayed: when it becomes ready; finished: when it is forgotten; else the last value.
    * `expires_at_ms`: end of its ttl, 0 for none. `ready_at_ms`: when it last became ready.
    * `pending`: numbers of the dependencies it still waits for.
    * `attempt`: deliveries that count; `history`: the last `ATTEMPTS_KEPT` ended ones.
    """

    number: int
    queue: Queue
    draft: Draft
    state: int
    priority: int
    enqueued_at_ms: int
    epoch: int
    mark: int
    place: int = 0
    group_order: int = 0
    due_at_ms: int = 0
    expires_at_ms: int = 0
    ready_at_ms: int = 0
    attempt: int = 0
    pending: tuple[int, ...] = ()
    lease: LeaseInfo | None = None
    history: tuple[Attempt, ...] = ()
    progress: ProgressNote | None = None
    result: bytes | None = None
    finished_at_ms: int = 0
    dead_reason: str | None = None
    origin: tuple[str, str] | None = None  # ("redrive", name of the queue it died in)
    # derived
    size: int = 0  # bytes of body and headers (api.md, Sizes)
    ready_key: int = 0  # its key in the queue's ready heap, 0 when not offered
    age_key: int = 0  # its key in the queue's ages heap: place while READY, else 0
    wait_key: int = 0  # its key in its group's heap: group_order while waiting, else 0
    end_key: int = 0  # its key in the heap of dead or of retained messages: place, else 0
    wake_key: int = 0  # its key in a deadline heap, 0 for none
    group: Group | None = None

    def to_data(self) -> list[Any]:
        """The persistent fields; the queue is named by its uid."""
        return [
            self.number,
            self.queue.uid,
            self.draft,
            self.state,
            self.priority,
            self.enqueued_at_ms,
            self.epoch,
            self.place,
            self.group_order,
            self.due_at_ms,
            self.expires_at_ms,
            self.ready_at_ms,
            self.attempt,
            self.pending,
            None if self.lease is None else self.lease.to_data(),
            self.history,
            self.progress,
            self.result,
            self.finished_at_ms,
            self.dead_reason,
            self.origin,
        ]


class Queue:
    """A queue: configuration, flags, totals, and everything derived from its messages."""

    __slots__ = (
        "ages",
        "busy",
        "config",
        "counts",
        "created_at_ms",
        "dead",
        "dead_epoch",
        "dead_order",
        "deleted",
        "epoch",
        "groups",
        "index",
        "key_index",
        "keys",
        "leased_bytes",
        "mark",
        "name",
        "paused_enqueue",
        "paused_lease",
        "ready",
        "ready_bytes",
        "revision",
        "topic",
        "totals",
        "uid",
        "waiting_bytes",
    )

    def __init__(
        self, uid: int, name: str, config: QueueConfig, revision: int, at_ms: int, mark: int
    ) -> None:
        # persistent
        self.uid = uid
        self.name = name
        self.config = config
        self.revision = revision
        self.created_at_ms = at_ms
        self.paused_enqueue = False
        self.paused_lease = False
        self.deleted = False
        self.epoch = 1
        self.dead_epoch = 1
        self.totals = Totals()
        self.mark = mark
        # derived
        self.counts = [0] * len(STATE_NAMES)  # by state; purged ones do not count, retained done ones do
        self.waiting_bytes = 0  # blocked, delayed and ready
        self.ready_bytes = 0
        self.leased_bytes = 0
        self.index: Index[Message] = Index()  # every message, by number, purged and finished ones too
        self.dead: Index[Message] = Index()  # the dead, by number; purged ones until they are swept
        self.dead_order: LazyHeap[Message] = LazyHeap(CURRENT_END)  # the dead, oldest death first
        self.ready: LazyHeap[Message] = LazyHeap(CURRENT_READY)  # what may be leased now, best first
        self.ages: LazyHeap[Message] = LazyHeap(CURRENT_AGE)  # every ready message, longest ready first
        self.groups: TextTable[Group] = TextTable()
        self.busy: dict[str, Group] = {}  # groups with a lease
        self.keys: TextTable[KeyRecord] = TextTable()  # idempotency keys (R16)
        self.key_index: Index[KeyRecord] = Index()  # the same, by the number of the key's message
        self.topic: Topic | None = None  # whose consumer group this is, while both are there

    @property
    def bytes(self) -> int:
        """Bytes of all unfinished messages."""
        return self.waiting_bytes + self.leased_bytes

    @property
    def live(self) -> int:
        """Unfinished messages: what `max_messages` limits."""
        counts = self.counts
        return counts[BLOCKED] + counts[DELAYED] + counts[READY] + counts[LEASED]

    @property
    def leasable(self) -> int:
        """How many could be leased right now (R21): 0 while leasing is paused."""
        if self.paused_lease:
            return 0
        most = self.config.max_leased
        return self.ready.live if most is None else max(0, min(self.ready.live, most - self.counts[LEASED]))

    def oldest_ready(self) -> Message | None:
        """The message that has been ready for longest."""
        entry = self.ages.peek()
        return None if entry is None else entry[1]

    def to_data(self) -> list[Any]:
        return [
            self.uid,
            self.name,
            self.config,
            self.revision,
            self.created_at_ms,
            self.paused_enqueue,
            self.paused_lease,
            self.deleted,
            self.epoch,
            self.dead_epoch,
            self.totals,
        ]


class Group:
    """The waiting messages of one group in one queue, in log order (R21). All derived.

    `offered` is the head when it may be leased: the only message of the group in the queue's ready heap.
    `epoch` is the queue's when `waiting` was last emptied by a purge (done late, by `grouping.current`).
    """

    __slots__ = ("epoch", "leased", "name", "offered", "waiting")

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.epoch = epoch
        self.waiting: LazyHeap[Message] = LazyHeap(CURRENT_WAIT)
        self.leased = 0
        self.offered: Message | None = None


class KeyRecord(Struct, eq=False):
    """An idempotency key of a queue (R16). `number`: its first message.

    `final`: the state code its message ended in once that message is no longer in the tables, else -1.
    The key is gone when ``expires_at_ms <= clock_ms`` and its message is not unfinished in this queue; it
    is armed in the deadline heap only while its message is finished (or elsewhere).
    """

    number: int
    queue: Queue
    key: str
    fingerprint: bytes
    expires_at_ms: int
    mark: int
    final: int = -1
    wake_key: int = 0  # derived

    def __lt__(self, other: KeyRecord) -> bool:
        """Among keys of one message (redriven to another queue) that end together: by queue."""
        return self.queue.uid < other.queue.uid

    def to_data(self) -> list[Any]:
        return [self.number, self.queue.uid, self.key, self.fingerprint, self.expires_at_ms, self.final]


class EffectRecord(Struct, eq=False):
    """One effect id of the ledger (R27). `number` orders the records (from `Machine.next_number`).

    * `state`: "granted" (a live holder), "open" (nobody holds it, not committed), "done".
    * `fence`: of the newest grant, 0 if it was never granted (committed by an ack).
    * `lease_fence`, `message`: the lease a grant is bound to and its message, 0 for none.
    * `expires_at_ms`: granted without a lease: end of the grant; ended: when the record is forgotten.
    * `uncertain`: an earlier holder was granted and never committed. A grant leaves the flag as it is, an
      abort too; any other end but a commit sets it. `aborted`: how the newest grant ended.
    * `older`: fences of earlier grants, newest last, at most `EFFECT_TOKENS_KEPT`: their tokens are
      `stale_effect`, not unknown.
    """

    number: int
    effect_id: str
    state: str
    owner: str
    fence: int
    mark: int
    lease_fence: int = 0
    message: int = 0
    expires_at_ms: int = 0
    uncertain: bool = False
    aborted: bool = False
    result: bytes | None = None
    older: tuple[int, ...] = ()
    wake_key: int = 0  # derived

    def to_data(self) -> list[Any]:
        return [
            self.number,
            self.effect_id,
            self.state,
            self.owner,
            self.fence,
            self.lease_fence,
            self.message,
            self.expires_at_ms,
            self.uncertain,
            self.aborted,
            self.result,
            self.older,
        ]


# --- kinds of sweeps ----------------------------------------------------------------------------------
SWEEP_PURGE = "purge"  # waiting messages with an old epoch
SWEEP_DEAD = "dead"  # dead messages with an old dead_epoch
SWEEP_DELETED = "deleted"  # a deleted queue: its messages, then its keys
SWEEP_EXCESS = "excess"  # dead messages above a lowered max_dead
SWEEP_DEPENDENTS = "dependents"  # tell the dependents of `message` that it ended
SWEEP_CATCH_UP = "catch_up"  # a topic's group: the entries behind `cursor`; those to `upto` it has had before
SWEEP_TOPIC = "topic"  # a deleted topic: its entries, then its keys


class Sweep(Struct, eq=False):
    """Bounded work that is owed: what it removes counts as gone already (R25).

    `cursor`: the last number handled; `upto`: the last one to handle. `failed`: of SWEEP_DEPENDENTS.
    """

    number: int
    kind: str
    queue: int  # uid, 0 for SWEEP_DEPENDENTS; of SWEEP_TOPIC the topic's
    cursor: int
    upto: int
    mark: int
    message: int = 0
    failed: bool = False

    def to_data(self) -> list[Any]:
        return [self.number, self.kind, self.queue, self.cursor, self.upto, self.message, self.failed]


CURRENT_READY = attrgetter("ready_key")
CURRENT_AGE = attrgetter("age_key")
CURRENT_WAIT = attrgetter("wait_key")
CURRENT_END = attrgetter("end_key")
CURRENT_WAKE = attrgetter("wake_key")

NO_EXTRAS = Extras()


def is_gone(message: Message) -> bool:
    """Removed by a purge or with its queue, though no sweep has come by yet (R25)."""
    queue = message.queue
    if queue.deleted:
        return True
    state = message.state
    if state <= WAITING_MAX:
        return message.epoch != queue.epoch
    return state == DEAD and message.epoch != queue.dead_epoch


def extras_of(draft: Draft) -> Extras:
    """The rarer fields of a draft, with their defaults."""
    return draft.extras or NO_EXTRAS


def backoff_of(message: Message) -> Backoff:
    """The message's backoff, else its queue's of the moment."""
    return extras_of(message.draft).backoff or message.queue.config.backoff


def max_attempts_of(message: Message) -> int:
    """The message's limit of attempts, else its queue's of the moment; 0: no limit."""
    own = extras_of(message.draft).max_attempts
    return message.queue.config.max_attempts if own is None else own


def stored_bytes(draft: Draft) -> int:
    """What a message counts: its body and the names and values of its headers (api.md, Sizes)."""
    size = len(draft.body)
    if draft.headers:
        for name, value in draft.headers.items():
            size += len(name.encode()) + len(value.encode())
    return size
