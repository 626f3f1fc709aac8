"""Kills at the exact system call: each dies in the call that was meant, and the cluster goes on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from chaos.faults import inside
from chaos.faults.inside import Inside, any_file
from chaos.faults.port import NotFired
from chaos.ground.tools import missing

from tests.chaos.kit import loaded, through

FAULTS = {fault.name: fault for fault in inside.FAULTS}
# The call that strace saw last, and on what.
CALLS = {
    "kill_leader_at_log_write": r"pwrite64\(\d+<.*/log-.*\.seg>",
    "kill_leader_at_fdatasync": r"fdatasync\(\d+<.*/(log|hard|snap)",
    "kill_follower_at_fdatasync": r"fdatasync\(\d+<.*/(log|hard|snap)",
    "kill_leader_after_sync": r"write\(\d+<anon_inode:\[eventfd\]>",
    "kill_leader_at_append": r"write\(\d+<TCP:\[127\.0\.0\.1\d:\d+->127\.0\.0\.1\d:\d+\]>",
    "kill_follower_at_reply": r"write\(\d+<TCP:\[127\.0\.0\.1\d:\d+->127\.0\.0\.1\d:\d+\]>",
    "kill_leader_at_answer": r'write\(\d+<TCP:\[127\.0\.0\.1\d:\d+->127\.0\.0\.1:\d+\]>, "HTTP/1\.1',
    "kill_leader_in_snapshot": r"(rename|unlink)\w*\(",
    "pause_leader_in_commit": r"fdatasync\(",
}


def require_strace() -> None:
    why = missing("strace", root=False)
    if why is not None:
        pytest.skip(f"kills inside a system call: needs strace: {why}")


@pytest.mark.timeout(300)  # every node is started many times
def test_each_ends_in_the_call_that_was_meant(tmp_path: Path) -> None:
    require_strace()
    assert set(CALLS) == set(FAULTS)

    async def scenario() -> None:
        async with loaded(tmp_path) as (cluster, traffic):
            for name, call in CALLS.items():
                parameters: dict[str, Any] = {"target": FAULTS[name].target, "pick": 0, "when": 2}  # type: ignore[attr-defined]
                struck = (await cluster.resolve(parameters["target"]))[0]
                seen = await through(cluster, traffic, FAULTS[name], parameters)
                assert seen["nodes"] == [struck.id], name
                assert re.search(call, str(seen["strace"])), (name, seen["strace"])
                if name == "pause_leader_in_commit":
                    assert seen["state"] == "T"
                else:
                    assert seen["killed"] == {struck.id: {"pid": seen["pid"], "ended": -9}}, name

    asyncio.run(scenario())


def test_the_call_that_did_not_return_is_found_among_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        """7 fdatasync(3</d/log-1.seg>) = 0
7 fdatasync(3</d/log-2.seg> <unfinished ...>
8 write(5<TCP:[a->b]>, "x", 1) = 1
7 <... fdatasync resumed>) = ?
8 +++ killed by SIGKILL +++
"""
    )
    assert inside._call_in(log, "fdatasync,write") == "7 fdatasync(3</d/log-2.seg> <unfinished ...>"
    log.write_text("7 fdatasync(3</d/log-1.seg>) = 0\n7 --- stopped by SIGSTOP ---\n")
    assert inside._call_in(log, "fdatasync") == "7 fdatasync(3</d/log-1.seg>) = 0"
    assert inside._call_in(log, "write") is None


def test_a_call_that_never_comes_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_strace()
    monkeypatch.setattr(inside, "FIRE_SECONDS", 1.0)

    async def scenario() -> None:
        async with loaded(tmp_path) as (cluster, traffic):
            never = Inside("never", "leader", "mkdirat", any_file, 1)
            leader = await cluster.leader()
            with pytest.raises(NotFired, match="did not come to mkdirat number 1"):
                await never.fire(cluster, {"target": "leader", "pick": 0, "when": 1})
            await traffic.more()  # strace let go of it
            assert leader.is_running and (await cluster.leader()) is leader

    asyncio.run(scenario())
