"""What is counted, and which faults make sense at which call.

A point is one fault at the N-th call of one kind that one victim makes. Calls are counted from the moment the
scenario's act begins. A fault of the disk strikes *before* its call takes effect: what comes after the call is what
comes before the next one. Sends and replies are also followed by a kill right behind them, because others act on
them at once.
"""

from __future__ import annotations

from dataclasses import dataclass

VICTIMS = ("leader", "follower")

POWER = ("power", "power_all")
DEATH = ("kill", *POWER)

FAULTS: dict[str, tuple[str, ...]] = {
    "write": (*DEATH, "eio", "enospc", "torn", "torn_kill"),
    "fdatasync": (*DEATH, "eio", "enospc"),
    "create": (*DEATH, "eio", "enospc"),
    "allocate": (*DEATH, "eio", "enospc"),
    "rename": (*DEATH, "eio", "enospc"),
    "unlink": (*DEATH, "eio"),
    "truncate": (*DEATH, "eio"),
    "dirsync": (*DEATH, "eio"),
    "read": ("eio",),
    "send": (*DEATH, "kill_after", "reset"),
    "reply": (*DEATH, "kill_after"),
}
"""Call → faults. `kill`: the process ends, the page cache lives on. `power`: that machine loses what it had not
synced, and nobody gets a reset. `power_all`: all machines at once. `torn`: part of the write is on its way to the disk
when power goes; `torn_kill`: part of the write is in the page cache when the process is killed. `enospc`: this call and
whatever needs space in the next moments. `reset`: the connection breaks instead of the send. `reply`: an answer to a
client. The log never truncates a file (a cut of the log is a record in it), so `truncate` finds nothing to strike: if
that changes, it will."""

CALLS = {"sync": "fdatasync", "sync_dir": "dirsync"}
"""The simulated disk's names where they differ."""


@dataclass(frozen=True, order=True)
class Point:
    """Replays exactly: the story's seed decides everything else."""

    scenario: str
    story: int
    victim: str
    call: str
    n: int
    fault: str

    def command(self, control: str | None = None) -> str:
        words = f"--scenario {self.scenario} --story {self.story} --victim {self.victim}"
        words += f" --call {self.call} --n {self.n} --fault {self.fault}"
        if control is not None:
            words += f" --control {control}"
        return f"python -m tests.crashpoints.run {words}"
