"""How long things are remembered and how much of it: each just inside and just outside (R12, R27)."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import Kit, code
from trivet.limits import EFFECT_RETENTION_MS
from trivet.machine.commands import Draft, EffectBegin, EffectCommit, Enqueue, Expire, Token
from trivet.machine.replies import EffectState, Enqueued


def test_r12_replies_are_remembered_up_to_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    kit.ask(Enqueue("q", (Draft(),)), "r1")
    one = kit.m.reply_bytes
    monkeypatch.setattr("trivet.machine.core.REQUEST_REPLIES_BYTES_MAX", one + 1)
    assert isinstance(kit.ask(Enqueue("q", (Draft(),)), "r2").reply, Enqueued), "a byte was left"
    assert kit.m.reply_bytes > one
    assert code(kit.ask(Enqueue("q", (Draft(),)), "r3").reply) == "overloaded"
    assert kit.ask(Enqueue("q", (Draft(),)), "r1").repeated, "nothing was forgotten for it"
    assert isinstance(kit(Enqueue("q", (Draft(),))), Enqueued), "without an id nothing is remembered"


def test_r27_an_ended_effect_stays_for_seven_days() -> None:
    kit = Kit()
    grant = kit(EffectBegin("e", "o"))
    assert isinstance(grant, EffectState) and grant.fence is not None and grant.mac is not None
    assert kit(EffectCommit(Token(grant.fence, grant.mac), b"1")).state == "done"
    kit.now += EFFECT_RETENTION_MS - 1
    kit(Expire())
    assert kit(EffectBegin("e", "o")).state == "done"
    kit.now += 1
    kit(Expire())
    assert kit(EffectBegin("e", "o")).state == "granted"
