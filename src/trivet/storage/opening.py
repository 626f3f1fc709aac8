"""Opening a data directory: read everything, decide, make the recovering mark durable, only then change.

A crash at any point leaves a directory that the next open judges the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from trivet.storage import hard_state, identity, recovery, repair
from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.hard_state import HardRecord
from trivet.storage.identity import IdentityFiles
from trivet.storage.port import Disk
from trivet.storage.recovery import RecoveredLog
from trivet.storage.settings import StorageSettings
from trivet.storage.snapshots import SnapshotStore

TEMPORARY = ".tmp"
OURS = ("identity-", "hard-", "log-", "snap-", f"{identity.MARK}.")


@dataclass(slots=True)
class Opened:
    """What was found, after repair. `base`: where the log has to start anew (a RESET is to be written)."""

    identity: IdentityFiles
    hard: HardRecord
    log: RecoveredLog
    snapshots: SnapshotStore
    recovering: str | None
    base: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)


def open_directory(disk: Disk, node_id: str, settings: StorageSettings) -> Opened | None:
    """None for an empty directory. Raises `StorageRefused`."""
    files = IdentityFiles(disk, node_id)
    copies = files.load()
    if files.current is None:
        _check_empty(disk)
        return None
    owner = files.current
    hard, wrong = hard_state.read_slots(disk)
    if hard is not None:
        hard_state.check_owner(hard, node_id, owner.cluster_id, "the hard state")
    snapshots = SnapshotStore(disk)
    snapshots.cluster_id = owner.cluster_id
    snapshots.load()
    known = hard or HardRecord(node_id, owner.cluster_id)
    found = recovery.recover_log(disk, node_id, owner.cluster_id, known.watermark, known.first_segment)
    reasons = _damage(found)
    if hard is None:
        reasons.append(f"both copies of the hard state are unreadable ({'; '.join(wrong)})")
    base = _align(found, snapshots, reasons)
    recovering = _marked(disk, hard)
    if reasons:
        # R6: durable before anything is cut, and never taken back by a later, cleaner open.
        recovering = "; ".join(([recovering] if recovering else []) + reasons)[:2000]
        identity.write_mark(disk, recovering)
    _repair(disk, files, copies, found, snapshots, settings)
    hard = _settle_hard(disk, hard, found, node_id, owner.cluster_id, recovering is not None)
    disk.sync_dir()  # after a mere kill: what we saw may have been in the page cache only
    notes = [*wrong, *(text for _, text in snapshots.damaged)]
    return Opened(files, hard, found, snapshots, recovering, base, notes)


def is_ours(name: str) -> bool:
    return name == identity.MARK or name.startswith(OURS)


def _check_empty(disk: Disk) -> None:
    """Nothing but the leftovers of an interrupted birth (R5): anything else without identity is damage."""
    ours = [name for name in disk.names() if is_ours(name)]
    left = [name for name in ours if name != identity.MARK and not _is_leftover(disk, name)]
    if left:
        raise StorageRefused(
            f"the data directory holds {left[0]}{' and more' if len(left) > 1 else ''} but no identity: "
            "it is not used as empty; restore the identity files or move the directory away"
        )
    for name in ours:
        if name != identity.MARK:
            disk.unlink(name)
    disk.sync_dir()


def _is_leftover(disk: Disk, name: str) -> bool:
    """A temporary file, or a hard state slot as birth writes it before the identity."""
    if name.endswith(TEMPORARY):
        return True
    if name not in hard_state.SLOTS:
        return False
    try:
        slot = hard_state.read_slot(disk, name)
    except BadBlock:
        return False
    return slot.generation == 0 and slot.term == 0 and slot.watermark == 0


def _damage(found: RecoveredLog) -> list[str]:
    verdict = found.verdict
    if verdict.state != "damage":
        return []
    if found.last_file is not None:
        where = f"{found.last_file} at byte {found.segments[-1].offset_of(verdict.position)}"
    else:
        where = found.behind[0] if found.behind else "the log (no file of it is left)"
    return [f"{where} (log position {verdict.position}) is damaged: {verdict.reason}"]


def _align(found: RecoveredLog, snapshots: SnapshotStore, reasons: list[str]) -> tuple[int, int] | None:
    """Where log and snapshot do not meet, the log starts anew; whether that is damage goes to `reasons`."""
    tables = found.tables
    latest = snapshots.latest
    index, term = (latest.index, latest.term) if latest else (0, 0)
    if tables.base_index > index:
        bad = "; ".join(text for _, text in snapshots.damaged) or "there is none"
        reasons.append(
            f"no whole snapshot reaches the log, which starts behind entry {tables.base_index}: {bad}"
        )
        return index, term
    if index and tables.term_at(index) != term:
        # A crash between the commit of an installed snapshot and the RESET behind it.
        return index, term
    return None


def _marked(disk: Disk, hard: HardRecord | None) -> str | None:
    mark = identity.read_mark(disk)
    if mark is None and hard is not None and hard.recovering:
        return "the hard state says recovering, the mark with the reason is gone"
    return mark


def _repair(
    disk: Disk,
    files: IdentityFiles,
    copies: list[str],
    found: RecoveredLog,
    snapshots: SnapshotStore,
    settings: StorageSettings,
) -> None:
    for name in disk.names():
        if name.endswith(TEMPORARY) and is_ours(name):
            disk.unlink(name)
    for name in found.obsolete:
        disk.unlink(name)
    files.repair(copies)
    for name, _ in snapshots.damaged:
        repair.keep_evidence(disk, name, settings.damaged_files_max)
    if found.verdict.state != "clean" or found.behind:
        repair.cut_log(disk, found, settings.damaged_files_max)


def _settle_hard(
    disk: Disk, hard: HardRecord | None, found: RecoveredLog, node_id: str, cluster_id: str, recovering: bool
) -> HardRecord:
    """Both slots say the same again, and the watermark is where the log now ends."""
    old = hard or HardRecord(node_id, cluster_id, term=found.max_term)
    new = msgspec.structs.replace(
        old, generation=old.generation + 1, watermark=min(old.watermark, found.end), recovering=recovering
    )
    hard_state.settle_slots(disk, new)
    return new
