"""The way out when no quorum of whole nodes is left (R7): `trivet recover --inspect DIR...` and
`--from DIR... --accept-loss`.

The union of all valid records of the given directories (evidence files too) is put together backwards from
the newest entry, as an election would choose it, down to the newest whole snapshot. By log matching, an
(index, term) names one entry and one predecessor, so a hole in one log is filled from another. What a
majority of the members does not hold cannot be proven committed, and is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trivet.storage import hard_state
from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.identity import Identity, IdentityStored, read_copies, read_mark
from trivet.storage.port import Disk
from trivet.storage.records import (
    ALIGN,
    MAGIC,
    Record,
    RecordKind,
    parse_header,
    parse_loose,
    payload_is_whole,
    payload_of,
    record_bytes,
)
from trivet.storage.recovery import is_zero, read_whole
from trivet.storage.repair import EVIDENCE
from trivet.storage.segment import HEADER_BYTES, PREFIX, decode_header
from trivet.storage.settings import StorageSettings
from trivet.storage.snapshots import SnapshotMeta, SnapshotReader, snapshot_files, verify_snapshot
from trivet.storage.storage import Storage
from trivet.units import Clock

Key = tuple[int, int]
"""(index, term): by log matching the name of one entry."""

_COPY_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry's record lies."""

    disk: Disk
    file: str
    record: Record

    def read(self) -> bytes:
        file = self.disk.open(self.file)
        try:
            raw = file.read_at(self.record.offset, record_bytes(self.record.length))
        finally:
            file.close()
        return payload_of(raw, self.record.moved_to(0))


@dataclass(slots=True)
class Copy:
    """What one directory holds. `entries`: every valid one; `before`: the term of an entry's predecessor,
    where the log shows it."""

    label: str
    disk: Disk
    node_id: str = "?"
    cluster_id: str | None = None
    members: tuple[str, ...] = ()
    term: int = 0
    snapshots: list[SnapshotMeta] = field(default_factory=list)
    entries: dict[Key, Place] = field(default_factory=dict)
    before: dict[Key, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    end: int = 0  # the log position behind the last valid record

    @property
    def snapshot_index(self) -> int:
        return max((meta.index for meta in self.snapshots), default=0)


@dataclass(slots=True)
class Plan:
    """The best history. `chain`: entries behind the base, in order. `unproven`: ranges (first, last, copies)
    held by fewer members than a majority. `guessed`: entries whose predecessor no log shows. `lost`: ranges
    of indices that were seen and cannot be joined."""

    copies: list[Copy]
    base: Key
    snapshot: tuple[Copy, SnapshotMeta] | None
    chain: list[tuple[Key, Place]]
    quorum: int
    unproven: list[tuple[int, int, int]] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.chain[-1][0][0] if self.chain else self.base[0]

    @property
    def term(self) -> int:
        return max([self.base[1], *(copy.term for copy in self.copies), *(key[1] for key, _ in self.chain)])

    @property
    def proven(self) -> bool:
        return not (self.unproven or self.guessed or self.lost or any(copy.problems for copy in self.copies))

    def lines(self) -> list[str]:
        """The report, for people."""
        text = []
        for copy in self.copies:
            indices = sorted(index for index, _ in copy.entries)
            held = f"entries {indices[0]}..{indices[-1]}" if indices else "no entries"
            text.append(
                f"{copy.label}: node {copy.node_id}, term {copy.term}, snapshot at {copy.snapshot_index}, {held}"
            )
            text += [f"{copy.label}: {problem}" for problem in copy.problems]
        text.append(f"recoverable: snapshot at {self.base[0]}, then entries to {self.last_index}")
        for first, last, copies in self.unproven:
            text.append(
                f"not proven committed: entries {first}..{last}, on {copies} of the {self.quorum} needed"
            )
        for index in self.guessed:
            text.append(
                f"not proven: what preceded entry {index} is taken from another log by its term alone"
            )
        for first, last in self.lost:
            text.append(f"lost: entries {first}..{last} were seen, but something before them is missing")
        if self.proven:
            text.append("all of it is proven by a majority; what only the missing members held is unknown")
        return text


def inspect(directories: Sequence[tuple[str, Disk]]) -> Plan:
    """Reads (label, disk) pairs, changes nothing. Raises `StorageRefused` if they are of several clusters
    or of a newer format, `ValueError` without any."""
    if not directories:
        raise ValueError("no directory to inspect")
    copies = [_read_copy(label, disk) for label, disk in directories]
    clusters = sorted({copy.cluster_id for copy in copies if copy.cluster_id is not None})
    if len(clusters) > 1:
        raise StorageRefused(f"the directories belong to different clusters: {', '.join(clusters)}")
    members = max((len(copy.members) for copy in copies), default=0) or len(copies)
    best: tuple[Copy, SnapshotMeta] | None = None
    for copy in copies:
        for meta in copy.snapshots:
            if best is None or (meta.index, meta.term) > (best[1].index, best[1].term):
                best = (copy, meta)
    base = (best[1].index, best[1].term) if best else (0, 0)
    plan = Plan(copies, base, best, [], members // 2 + 1)
    _join(plan)
    _weigh(plan)
    return plan


def _read_copy(label: str, disk: Disk) -> Copy:
    copy = Copy(label, disk)
    found, broken = read_copies(disk)
    copy.problems += broken
    if found:
        best: IdentityStored = max(found.values(), key=lambda stored: stored.generation)
        copy.node_id, copy.cluster_id, copy.members = best.node_id, best.cluster_id, best.members
    hard, wrong = hard_state.read_slots(disk)
    copy.problems += wrong
    copy.term = hard.term if hard else 0
    mark = read_mark(disk)
    if mark is not None:
        copy.problems.append(f"it is recovering: {mark}")
    for name in snapshot_files(disk):
        try:
            copy.snapshots.append(verify_snapshot(disk, name, None))
        except BadBlock as error:
            copy.problems.append(str(error))
    # Evidence first: where a position was written anew, the log as it is now has the last word on order.
    logs = [name for name in disk.names() if name.startswith(PREFIX)]
    for name in sorted(logs, key=lambda name: (not name.endswith(EVIDENCE), name)):
        _read_segment(copy, name)
    copy.term = max([copy.term, *(term for _, term in copy.entries)])
    if hard is not None and hard.watermark > copy.end:
        copy.problems.append(f"the log ends at position {copy.end}, {hard.watermark} was durable")
    return copy


def _read_segment(copy: Copy, name: str) -> None:
    raw = read_whole(copy.disk, name)
    try:
        header = decode_header(raw, name)
        salt, start, last = header.salt, header.start, (header.last_index, header.last_term)
    except BadBlock as error:
        if not is_zero(raw, HEADER_BYTES):
            copy.problems.append(str(error))
        salt, start, last = None, None, None
    expected = HEADER_BYTES
    for record in _valid_records(raw, start, salt):
        if record.offset != expected:
            copy.problems.append(f"{name} is unreadable from byte {expected} to {record.offset}")
            last = None
        expected = record.offset + record_bytes(record.length)
        copy.end = max(copy.end, record.end)
        if record.kind == RecordKind.ENTRY:
            key = (record.index, record.term)
            copy.entries[key] = Place(copy.disk, name, record)
            if last is not None and last[0] == record.index - 1:
                copy.before[key] = last[1]
            last = key
        elif record.kind == RecordKind.RESET:
            last = (record.index, record.term)
        else:
            last = None  # the entry before is known from where it was appended, or not at all
    if not is_zero(raw, expected):
        copy.problems.append(f"{name} is unreadable from byte {expected} on")


def _valid_records(raw: bytes, start: int | None, salt: int | None) -> Iterator[Record]:
    """Every record of which header and payload are whole. Without a segment header by the chain alone."""
    offset = HEADER_BYTES
    while (offset := raw.find(MAGIC, offset)) >= 0:
        if offset % ALIGN:
            offset += 1
            continue
        if salt is None or start is None:
            record = parse_loose(raw, offset)
        else:
            record = parse_header(raw, offset, start + offset - HEADER_BYTES, salt)
        if record is None or not payload_is_whole(raw, record):
            offset += ALIGN
            continue
        yield record
        offset += record_bytes(record.length)


def _join(plan: Plan) -> None:
    """Walks back from the newest entry that leads to the base."""
    pool: dict[Key, Place] = {}
    before: dict[Key, int] = {}
    by_index: dict[int, list[int]] = {}
    for copy in plan.copies:
        pool.update(copy.entries)
        before.update(copy.before)
    for index, term in sorted(pool):
        by_index.setdefault(index, []).append(term)
    dead: set[Key] = set()
    for top in sorted(pool, key=lambda key: (key[1], key[0]), reverse=True):
        if top[0] <= plan.base[0] or top in dead:
            continue
        chain: list[tuple[Key, Place]] = []
        guessed: list[int] = []
        key: Key | None = top
        while key is not None and key in pool and key not in dead and key[0] > plan.base[0]:
            chain.append((key, pool[key]))
            key = _predecessor(key, before, by_index, plan.base, guessed)
        if key == plan.base:
            plan.chain, plan.guessed = chain[::-1], guessed[::-1]
            break
        dead.update(key for key, _ in chain)
    seen = sorted(index for index in by_index if index > plan.last_index)
    plan.lost = _ranges(seen)


def _predecessor(
    key: Key, before: dict[Key, int], by_index: dict[int, list[int]], base: Key, guessed: list[int]
) -> Key | None:
    index, term = key
    known = before.get(key)
    if known is not None:
        return index - 1, known
    guessed.append(index)
    if index - 1 == base[0]:
        return base
    terms = [other for other in by_index.get(index - 1, []) if other <= term]
    return (index - 1, terms[-1]) if terms else None


def _weigh(plan: Plan) -> None:
    """How many members hold each entry; what a snapshot covers was committed."""
    weights: list[tuple[int, int]] = []
    for key, _ in plan.chain:
        holders = {
            copy.node_id for copy in plan.copies if key in copy.entries or copy.snapshot_index >= key[0]
        }
        if len(holders) < plan.quorum:
            weights.append((key[0], len(holders)))
    for index, count in weights:
        if plan.unproven and plan.unproven[-1][1] == index - 1 and plan.unproven[-1][2] == count:
            plan.unproven[-1] = (plan.unproven[-1][0], index, count)
        else:
            plan.unproven.append((index, index, count))


def _ranges(indices: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def rebuild(
    plan: Plan,
    target: Disk,
    node_id: str,
    identity: Identity,
    clock: Clock,
    settings: StorageSettings,
    *,
    accept_loss: bool,
) -> None:
    """Writes the plan into the empty directory `target` of `node_id`, under a new cluster id (R7).

    Until it is whole the directory is marked recovering. Raises `StorageRefused` if the target is not empty,
    the cluster id is not new, or something is unproven and the loss was not accepted.
    """
    if not accept_loss and not plan.proven:
        raise StorageRefused("not everything can be proven: read the report and accept the loss")
    if any(copy.cluster_id == identity.cluster_id for copy in plan.copies):
        raise StorageRefused(
            "the recovered cluster needs a new cluster id: the old one may still have live nodes"
        )
    storage = Storage.open(target, node_id, clock, settings)
    if storage.identity is not None:
        raise StorageRefused("the target directory is not empty")
    storage.mark_recovering("a salvage into this directory did not finish: empty it and start again")
    storage.set_identity(identity)
    if plan.snapshot is not None:
        _copy_snapshot(storage, *plan.snapshot, members=identity.members)
        storage.reset_to(*plan.base)
    storage.set_vote(plan.term, None)
    waiting = 0
    for (index, term), place in plan.chain:
        data = place.read()
        storage.append(index, term, data)
        waiting += len(data)
        if waiting >= _BATCH_BYTES:
            storage.flush()
            waiting = 0
    storage.flush()
    storage.clear_recovering()
    storage.close()


def _copy_snapshot(storage: Storage, copy: Copy, meta: SnapshotMeta, members: tuple[str, ...]) -> None:
    writer = storage.snapshots.writer(SnapshotMeta(meta.index, meta.term, members, digest=meta.digest))
    reader = SnapshotReader(copy.disk, meta)
    try:
        for offset in range(0, meta.size, _COPY_BYTES):
            writer.write(reader.read_at(offset, _COPY_BYTES))
    finally:
        reader.close()
    job = writer.commit(crc=meta.crc)
    job.run()
    job.finish()
