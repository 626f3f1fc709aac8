"""What the owner of a data directory may choose."""

from __future__ import annotations

from dataclasses import dataclass

from trivet.units import MIB


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """`segment_bytes`: size a log segment is preallocated to; a larger record gets a larger segment.
    `cache_bytes`: recent entries held in memory (un-synced ones always are).
    `watermark_s`: age in seconds at which a sync must be noted in the hard state; with the driver's turn
    and the write itself it has to stay below the second of R3.
    `damaged_files_max`: files kept as evidence of damage, oldest leave.
    `salt`: mixed into record checksums, so that bytes a client sent cannot pose as records; random in
    production, fixed in the simulator.
    """

    segment_bytes: int = 64 * MIB
    cache_bytes: int = 16 * MIB
    watermark_s: float = 0.7
    damaged_files_max: int = 8
    salt: int = 0
