"""The blocking part of making things durable. It touches only what it was given and runs in any thread."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from trivet.storage.errors import DiskFull, StorageFailed
from trivet.storage.hard_state import HardSlots
from trivet.storage.identity import MARK
from trivet.storage.log import Piece
from trivet.storage.port import Disk, File
from trivet.storage.segment import Segment
from trivet.units import KIB

LIGHT_BYTES_MAX = 64 * KIB


@dataclass(slots=True)
class SyncJob:
    """`position`: the logical write position that is durable once this has run."""

    disk: Disk
    slots: HardSlots | None
    position: int
    hard: bytes | None = None  # the new hard state, if it changed
    watermark: int = 0
    pieces: list[Piece] = field(default_factory=list)
    gone: list[Segment] = field(default_factory=list)
    unmark: bool = False
    done: bool = False
    failed: bool = False

    @property
    def light(self) -> bool:
        """One small write to a segment that is there and its `fdatasync`: nothing that needs space, none of the
        files that are slow to make, to delete or to write in order."""
        if self.hard is not None or self.gone or self.unmark or len(self.pieces) != 1:
            return False
        piece = self.pieces[0]
        return piece.header is None and piece.size <= LIGHT_BYTES_MAX

    def run(self) -> None:
        """Raises `DiskFull` (nothing was written, may be called again) or `StorageFailed` (fatal)."""
        try:
            made = self._allocate()
            if self.hard is not None and self.slots is not None:
                self.slots.write_first(self.hard)  # R4: before anything may leave
            for piece in self.pieces:
                self._write(piece, made)
            if self.hard is not None and self.slots is not None:
                self.slots.write_second(self.hard)
            self._remove()
        except DiskFull:
            raise
        except OSError as error:
            self.failed = True
            raise StorageFailed(error.errno, f"the disk failed in a sync: {error}") from error
        self.done = True

    def _allocate(self) -> dict[int, File]:
        """The files of new segments, before anything else is written: only this may run out of space."""
        made: dict[int, File] = {}
        new = [piece.segment for piece in self.pieces if piece.header is not None]
        try:
            for segment in new:
                made[segment.sequence] = file = self.disk.create(segment.name)
                file.allocate(segment.capacity)
        except OSError as error:
            for segment in new[: len(made)]:
                made[segment.sequence].close()
                self.disk.unlink(segment.name)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(error.errno, f"no space for {len(new)} log segment(s)") from error
            raise
        return made

    def _write(self, piece: Piece, made: dict[int, File]) -> None:
        segment = piece.segment
        if piece.header is not None:
            # The header is durable before the first record: a segment with content and no header is damage.
            file = made[segment.sequence]
            file.write_at(0, piece.header)
            file.sync()
            self.disk.sync_dir()
            segment.file = file
        assert segment.file is not None
        segment.file.write_at(piece.offset, b"".join(piece.parts))
        segment.file.sync()

    def _remove(self) -> None:
        """Compacted segments; the hard state just written names the first that counts, so what a crash
        leaves over of them is never read again."""
        for segment in self.gone:
            if segment.file is not None:
                segment.file.close()
            self.disk.unlink(segment.name)
        if self.unmark and self.disk.exists(MARK):
            self.disk.unlink(MARK)
        if self.gone or self.unmark:
            self.disk.sync_dir()
