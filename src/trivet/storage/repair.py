"""What follows from damage: keep the evidence, then cut. The recovering mark is durable before this runs."""

from __future__ import annotations

from trivet.storage.errors import StorageRefused
from trivet.storage.port import Disk
from trivet.storage.recovery import RecoveredLog, read_whole, used_length
from trivet.storage.segment import Segment

EVIDENCE = ".damaged"
PAGE = 4096
_CHUNK = 1 << 20


def keep_evidence(disk: Disk, name: str, limit: int) -> None:
    """Renames a damaged file that is of no more use."""
    disk.rename(name, _evidence_name(disk, name, limit))
    disk.sync_dir()


def copy_evidence(disk: Disk, name: str, limit: int) -> None:
    """Copies a damaged file of which a part is still needed. Raises `StorageRefused` without space."""
    target = _evidence_name(disk, name, limit)
    file = disk.create(target)
    source = disk.open(name)
    try:
        for offset in range(0, source.size, _CHUNK):
            file.write_at(offset, source.read_at(offset, _CHUNK))
        file.sync()
    except OSError as error:
        disk.unlink(target)
        raise StorageRefused(
            f"{name} is damaged and cannot be copied to {target} as evidence ({error}): nothing was cut; "
            f"make room for {source.size} bytes and start again"
        ) from error
    finally:
        source.close()
        file.close()
    disk.sync_dir()


def _evidence_name(disk: Disk, name: str, limit: int) -> str:
    kept = sorted((_number(other), other) for other in disk.names() if other.endswith(EVIDENCE))
    while kept and len(kept) >= limit:
        disk.unlink(kept.pop(0)[1])
    number = kept[-1][0] + 1 if kept else 1
    return f"{name}.{number}{EVIDENCE}"


def _number(name: str) -> int:
    digits = name[: -len(EVIDENCE)].rpartition(".")[2]
    return int(digits) if digits.isdigit() else 0


def cut_log(disk: Disk, found: RecoveredLog, limit: int) -> None:
    """Everything behind the first bad position goes, so that the log may be written on from there.

    Nothing old may stay behind the cut: a stale record could fit a later chain. Newest files first: a crash
    in between leaves the same verdict.
    """
    damage = found.verdict.state == "damage"
    if damage and found.last_file is not None and _zero_from(disk, found, dry=True):
        copy_evidence(disk, found.last_file, limit)
    for name in reversed(found.behind):
        if damage:
            keep_evidence(disk, name, limit)
        else:
            disk.unlink(name)
            disk.sync_dir()
    if found.last_file is not None:
        _zero_from(disk, found, dry=False)


def _zero_from(disk: Disk, found: RecoveredLog, dry: bool) -> bool:
    """Zeros behind the chain's end in its last file, in place (no space is needed). Answers if there was
    anything else."""
    assert found.last_file is not None
    start = found.segments[-1].offset_of(found.end)
    used = used_length(read_whole(disk, found.last_file))
    if used <= start or dry:
        return used > start
    file = disk.open(found.last_file)
    try:
        file.write_at(start, bytes(used - start))
        file.sync()
    finally:
        file.close()
    return True


def write_again(segment: Segment, proven: int, end: int) -> None:
    """Makes the tail durable that open has read but that no record proves synced.

    After a kill it may be in the page cache only. After a failed fsync it may even count as clean there
    while the disk never got it, and then another fsync alone does nothing: so the same bytes are written
    once more. The header was synced before the first record was written; without a record it goes along.
    """
    file = segment.file
    assert file is not None
    if proven >= end > segment.start:
        return
    start = segment.offset_of(proven) // PAGE * PAGE if end > segment.start else 0
    stop = segment.offset_of(end)
    for offset in range(start, stop, _CHUNK):
        file.write_at(offset, file.read_at(offset, min(_CHUNK, stop - offset)))
    file.sync()
