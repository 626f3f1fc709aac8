"""Things that must happen once: the effect ledger's verbs and the guard around them (R27)."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trivet.client.calls import Calls
from trivet.client.errors import EffectUncertain, LeaseLost, StaleEffect
from trivet.client.leases import Lease
from trivet.client.paths import at, given

if TYPE_CHECKING:
    from trivet.client.client import Client


@dataclass(frozen=True, slots=True)
class Happened:
    """What `reconcile` returns when the effect did happen; `result` is then committed for it."""

    result: Any = None


class NotPerformed(Exception):
    """Raise it inside the guard to say: the effect did certainly not happen. The guard aborts the effect
    and the exception goes on. Any other exception leaves the effect uncertain."""


Reconcile = Callable[[str], Awaitable[Happened | None]]
"""Finds out whether the effect of this id happened: `Happened`, or None if it did not."""


class Effects(Calls):
    """Mixed into `Client`."""

    async def effect_begin(
        self,
        effect_id: str,
        owner: str,
        *,
        lease: Lease | str | None = None,
        ttl_ms: int | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """`{"state": "granted", "effect_token", "uncertain"}` or `{"state": "done", "result"}`. Raises
        `EffectHeld` while another holder has it. With a lease the grant lives exactly as long as it."""
        token = lease.token if isinstance(lease, Lease) else lease
        body = given(effect_id=effect_id, owner=owner, lease_token=token, ttl_ms=ttl_ms)
        return await self._effect("begin", body, request_id)

    async def effect_commit(
        self, effect_token: str, result: Any = None, *, request_id: str | None = None
    ) -> dict[str, Any]:
        """Raises `StaleEffect` if another holder has been granted the effect since."""
        return await self._effect("commit", given(effect_token=effect_token, result=result), request_id)

    async def effect_abort(self, effect_token: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Says that the effect did not happen."""
        return await self._effect("abort", {"effect_token": effect_token}, request_id)

    async def effect_state(self, effect_id: str) -> dict[str, Any]:
        return await self._read(at("effects", effect_id))

    async def _effect(self, verb: str, body: dict[str, Any], request_id: str | None) -> dict[str, Any]:
        return await self._write("POST", "/v1/effects/" + verb, body, request_id=request_id)


def default_owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class EffectGuard:
    """`async with client.effect(id, lease=lease) as effect:` and inside

        if not effect.done:
            effect.result = await charge_the_card()

    Leaving the block commits `effect.result`; with `with_ack` the commit travels in the lease's ack, in
    the same log entry. `done` is True when it had already happened: `result` is then the stored one.

    An *uncertain* effect (an earlier holder vanished between doing and committing) is never run again by
    itself: `reconcile` is asked whether it happened; without it `EffectUncertain` is raised.
    An exception out of the block leaves the effect uncertain, except `NotPerformed`, which aborts it.
    """

    def __init__(
        self,
        client: Client,
        effect_id: str,
        lease: Lease | None,
        owner: str | None,
        ttl_ms: int | None,
        reconcile: Reconcile | None,
        with_ack: bool,
    ) -> None:
        if with_ack and lease is None:
            raise ValueError("with_ack needs the lease whose ack commits the effect")
        self.effect_id = effect_id
        self.done = False
        self.uncertain = False
        self.result: Any = None
        self._client = client
        self._lease = lease
        self._owner = owner or default_owner()
        self._ttl_ms = ttl_ms
        self._reconcile = reconcile
        self._with_ack = with_ack
        self._token: str | None = None

    async def __aenter__(self) -> Self:
        answer = await self._client.effect_begin(
            self.effect_id, self._owner, lease=self._lease, ttl_ms=self._ttl_ms
        )
        if answer["state"] == "done":
            self.done = True
            self.result = answer.get("result")
            return self
        self._token = answer["effect_token"]
        self.uncertain = bool(answer.get("uncertain"))
        if self.uncertain:
            await self._settle_doubt()
        if not self.done and self._lease is not None and self._lease.remaining_s() <= 0:
            # The grant may have ended with the lease, and another worker may be at it (R35). Nothing
            # was done under this grant, and saying so keeps the next one from being uncertain.
            await self._abort_unless_over()
            raise LeaseLost(f"the lease ended before effect {self.effect_id} could begin")
        return self

    async def _settle_doubt(self) -> None:
        if self._reconcile is None:
            raise EffectUncertain(
                f"effect {self.effect_id} may have happened under an earlier holder; "
                "give reconcile= to find out"
            )
        found = await self._reconcile(self.effect_id)
        if found is None:
            return
        self.done = True
        self.result = found.result
        await self._commit()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.done or self._token is None:
            return
        if error is None:
            await self._commit()
            self.done = True
        elif isinstance(error, NotPerformed):
            await self._abort_unless_over()

    async def _abort_unless_over(self) -> None:
        assert self._token is not None
        try:
            await self._client.effect_abort(self._token)
        except StaleEffect:
            return  # the grant ended first: the ledger says uncertain, which only costs a reconciliation

    async def _commit(self) -> None:
        assert self._token is not None
        if self._with_ack:
            assert self._lease is not None
            self._lease.effects.append(
                given(effect_id=self.effect_id, effect_token=self._token, result=self.result)
            )
        else:
            await self._client.effect_commit(self._token, self.result)
