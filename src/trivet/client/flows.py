"""Flows: steps that wait for each other, made in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trivet.client.calls import Calls, locally
from trivet.client.paths import at, given

ENDED = ("done", "compensated", "failed")


class Flow:
    """A flow that is being written down; `create` makes it.

    flow = client.flow()
    fetch = flow.step("fetch", "pages", {"url": "…"})
    flow.step("index", "documents", after=[fetch], compensate={"queue": "removals"})
    made = await flow.create()
    """

    def __init__(self, create: Callable[..., Any], run_id: str | None = None) -> None:
        self.steps: list[dict[str, Any]] = []
        self._create = create
        self._run_id = run_id

    def step(
        self,
        step_id: str,
        queue: str,
        body: Any = None,
        *,
        after: Sequence[str] = (),
        compensate: Mapping[str, Any] | str | None = None,
        **fields: Any,
    ) -> str:
        """One step; answers its name, for `after` of others. `fields` as in `Message`.

        `compensate`: the message that undoes it, with its `queue`; or only a queue (the worker finds the
        step's result in `parents`). One is enough to make the flow a saga.
        """
        step = {"step_id": step_id, "queue": queue, "body": body, **fields}
        if after:
            step["depends_on"] = list(after)
        if compensate is not None:
            step["compensate"] = {"queue": compensate} if isinstance(compensate, str) else dict(compensate)
        self.steps.append(step)
        return step_id

    def create(self, *, request_id: str | None = None) -> Any:
        """All or nothing: `{"id", "run_id", "steps": [{"step_id", "message_id", "state"}], …}`."""
        return self._create(self.steps, run_id=self._run_id, request_id=request_id)


class Flows(Calls):
    """Mixed into `Client`."""

    def flow(self, run_id: str | None = None) -> Flow:
        """Write a flow down step by step, then `await flow.create()`."""
        return Flow(self.create_flow, run_id)

    async def create_flow(
        self, steps: Sequence[Mapping[str, Any]], *, run_id: str | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """The same with the steps as in api.md."""
        body = given(run_id=run_id, steps=list(steps))
        return await self._write("POST", "/v1/flows", body, request_id=request_id)

    async def get_flow(self, flow_id: str, *, local: bool = False) -> dict[str, Any]:
        """Its state, and of each step its message, state and compensation."""
        return await self._read(at("flows", flow_id), locally(local))

    async def wait_flow(self, flow_id: str, timeout_s: float) -> dict[str, Any]:
        """The flow once it has ended (`done`, `compensated`, `failed`), or as it is after `timeout_s` seconds."""
        return await self._read_once(ENDED, at("flows", flow_id), timeout_s)

    async def flows(
        self, *, state: str | None = None, limit: int | None = None, after: str | None = None
    ) -> dict[str, Any]:
        """Flows, oldest first: `{"flows": […], "next"}`."""
        query = {"state": state, "limit": limit, "after": after}
        return await self._read("/v1/flows", query)
