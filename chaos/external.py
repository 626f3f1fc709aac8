"""Somebody else's cluster: reached by its addresses, hurt by a command of its operator.

The command is called as `COMMAND fire NAME JSON` and `COMMAND heal NAME JSON`; JSON holds the fault's
parameters (`pick`, a number to choose by, and `hold_s`). `fire` prints its evidence as a JSON object and ends
with 0; any other end means that the fault did not take effect, and the drill is invalid.
"""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chaos.asking import Asker, not_ready_because
from chaos.faults.port import NotFired
from chaos.faults.processes import pick

if TYPE_CHECKING:
    from chaos.cluster import DrillCluster

HOOK_SECONDS = 120.0
START_SECONDS = 30.0


class HookFailed(Exception):
    """A fault could not be healed. The text has what the command said."""


@dataclass(frozen=True)
class HookFault:
    """A fault that the operator's command knows under this name."""

    name: str
    command: str
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"pick": pick(rng), "hold_s": round(rng.uniform(1.0, 6.0), 2)}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        """Its instant is the one before the command was called: a failover is never shown too short."""
        at = time.monotonic_ns()
        code, out, err = await self._call("fire", parameters)
        if code != 0:
            raise NotFired(f"the hook ended with {code}: {err or out}")
        try:
            evidence = json.loads(out)
        except ValueError:
            raise NotFired(f"the hook's evidence is not JSON: {out[:200]!r}") from None
        if not isinstance(evidence, dict) or not evidence:
            raise NotFired(f"the hook gave no evidence: {out[:200]!r}")
        return {"nodes": [], **evidence, "t": at}

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        code, out, err = await self._call("heal", parameters)
        if code != 0:
            raise HookFailed(f"{self.name} was not healed, the hook ended with {code}: {err or out}")

    async def _call(self, verb: str, parameters: dict[str, Any]) -> tuple[int | None, str, str]:
        hook = await asyncio.create_subprocess_exec(
            *shlex.split(self.command), verb, self.name, json.dumps(parameters),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(hook.communicate(), HOOK_SECONDS)
        except TimeoutError:
            hook.kill()
            await hook.wait()
            return None, "", f"no end within {HOOK_SECONDS:g} s"
        return hook.returncode, out.decode(errors="replace").strip(), err.decode(errors="replace").strip()


class ForeignCluster:
    """The nodes at `apis`. Call `meet` first."""

    def __init__(self, apis: Sequence[str]) -> None:
        self.apis = [url.rstrip("/") for url in apis]
        self.names: dict[str, str] = {}
        self._asker = Asker()

    @property
    def harness_host(self) -> str | None:
        return None

    async def meet(self) -> None:
        """Learn the nodes' ids. Raises `NotFired` if not every address answers as a node of one cluster."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = await self._asker.get_all(self.apis, "/v1/cluster")
            names = {body.get("node", ""): url for url, (_, body) in zip(self.apis, said, strict=True)}
            clusters = {body.get("cluster_id") for _, body in said}
            if len(names) == len(self.apis) and all(names) and len(clusters) == 1 and None not in clusters:
                self.names = names
                return
            if time.monotonic() > deadline:
                answers = {url: status for url, (status, _) in zip(self.apis, said, strict=True)}
                raise NotFired(f"these are not the nodes of one cluster: {answers}")
            await asyncio.sleep(0.2)

    async def leader_id(self) -> str | None:
        said = await self._asker.get_all(list(self.names.values()), "/leader")
        leaders = [name for name, (status, _) in zip(self.names, said, strict=True) if status == 200]
        return leaders[0] if len(leaders) == 1 else None

    def pids(self) -> list[int]:
        return []  # wherever they run, it is not known

    async def alive(self) -> int:
        return sum(status == 200 for status, _ in await self._asker.get_all(self.apis, "/livez"))

    async def not_ready(self) -> list[str]:
        said = await self._asker.get_all(list(self.names.values()), "/readyz?verbose")
        return [
            f"{name} {not_ready_because(status, body)}"
            for name, (status, body) in zip(self.names, said, strict=True)
            if status != 200
        ]

    async def at_rest(self) -> dict[str, dict[str, Any]]:
        said = await self._asker.get_all(list(self.names.values()), "/v1/cluster/digest?consistency=local")
        return {
            name: {"index": body["index"], "digest": body["digest"]}
            for name, (status, body) in zip(self.names, said, strict=True)
            if status == 200
        }

    async def start_down(self) -> None:
        """Its operator does that, in `heal`."""

    async def close(self) -> None:
        await self._asker.close()
