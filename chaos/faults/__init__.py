"""Everything that can be done to a cluster, by name."""

from __future__ import annotations

from chaos.faults import clocks, damage, disks, inside, network, overload, processes
from chaos.faults.port import Fault

_ALL: tuple[Fault, ...] = (
    *clocks.FAULTS,
    *damage.FAULTS,
    *disks.FAULTS,
    *inside.FAULTS,
    *network.FAULTS,
    *overload.FAULTS,
    *processes.FAULTS,
)
FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
