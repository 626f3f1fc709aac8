"""A drill on somebody else's cluster: its addresses, and a command that hurts it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from chaos.cluster import DrillCluster, pid_of
from chaos.external import ForeignCluster, HookFailed, HookFault
from chaos.faults.port import NotFired
from chaos.faults.processes import state_of

from tests.chaos.kit import ready

HOOK = """
import json, os, pathlib, signal, sys
verb, name, parameters = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pids = pathlib.Path(__file__).with_name("pids").read_text().split()
pid = int(pids[parameters["pick"] % len(pids)])
if name == "mute":
    sys.exit(0)
if name == "broken":
    sys.exit("the switch does not answer")
if verb == "fire":
    os.kill(pid, signal.SIGSTOP)
    print(json.dumps({"stopped": pid}))
else:
    os.kill(pid, signal.SIGCONT)
"""


def test_a_hook_hurts_and_heals(tmp_path: Path) -> None:
    async def scenario() -> None:
        own = DrillCluster(tmp_path / "own", 3)
        theirs = ForeignCluster([f"{api}/" for api in own.apis])
        (tmp_path / "hook.py").write_text(HOOK)
        command = f"{sys.executable} {tmp_path / 'hook.py'}"
        try:
            await own.start()
            await own.leader(60)
            await ready(own)
            await theirs.meet()
            assert theirs.names == own.names and await theirs.leader_id() == (await own.leader()).id
            assert await theirs.alive() == 3 and await theirs.not_ready() == []
            assert await theirs.at_rest() == await own.at_rest()
            (tmp_path / "pids").write_text(" ".join(str(pid_of(node)) for node in own.nodes))

            async def fire(name: str, **parameters: Any) -> dict[str, Any]:
                return await HookFault(name, command).fire(own, {"pick": 4, **parameters})

            seen = await fire("pause")
            assert seen["stopped"] == pid_of(own.node("n2")) and seen["nodes"] == [] and seen["t"] > 0
            assert state_of(seen["stopped"]) == "T" and await theirs.alive() == 2
            assert [one.split()[0] for one in await theirs.not_ready()] == ["n2"]
            await HookFault("pause", command).heal(own, {"pick": 4})
            await ready(own)
            with pytest.raises(NotFired, match="evidence is not JSON"):
                await fire("mute")
            with pytest.raises(NotFired, match="the switch does not answer"):
                await fire("broken")
            with pytest.raises(HookFailed, match="was not healed"):
                await HookFault("broken", command).heal(own, {"pick": 0})
        finally:
            await theirs.close()
            await own.close()

    asyncio.run(scenario())


def test_addresses_that_are_no_cluster_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.external.START_SECONDS", 0.0)

    async def scenario() -> None:
        nobody = ForeignCluster(["http://127.0.0.1:9", "http://127.0.0.1:10"])
        with pytest.raises(NotFired, match="not the nodes of one cluster"):
            await nobody.meet()
        await nobody.close()

    asyncio.run(scenario())
