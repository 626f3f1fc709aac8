"""The model's effects ledger (R27)."""

from __future__ import annotations

from typing import Any

from chaos.model.records import (
    DAY,
    EFFECT_RETENTION,
    EFFECT_TOKENS_KEPT,
    EFFECT_TTL,
    UNFINISHED,
    WAKE_EFFECT,
    WAKE_GRANT,
    Effect,
    Lease,
    Message,
    Refused,
    effect_mac,
)
from chaos.model.topics import Topics


class Ledger(Topics):
    def leased_under(self, token: Any) -> Message | None:
        raise NotImplementedError

    def held(self, record: Effect) -> bool:
        if record.state != "granted":
            return False
        return not record.lease_fence or record.lease_fence in self.leases

    def ends_at(self, record: Effect) -> int:
        if not record.lease_fence:
            return record.ends
        lease = self.leases[record.lease_fence].lease
        assert lease is not None
        return lease.expires

    def repeat_begin(self, reply: Any) -> Any:
        record = self.effect_fences.get(reply[3])
        if record is None or record.fence != reply[3] or not self.held(record):
            return None
        return (*reply[:5], self.ends_at(record), *reply[6:])

    def do_EffectBegin(self, c: Any) -> Any:
        m = None
        if c.has_lease:
            m = self.leased_under(c.lease)
            if m is None:
                raise Refused("stale_lease")
        record = self.effects.get(c.effect_id)
        if record is not None and record.state == "done":
            return ("effect", "done", False, None, record.result, None, False)
        if record is not None and record.state == "granted":
            raise Refused("effect_held")
        if record is None:
            record = self.new_effect(c.effect_id)
        if record.fence:
            record.older.append(record.fence)
            for fence in record.older[:-EFFECT_TOKENS_KEPT]:
                del self.effect_fences[fence]
            record.older = record.older[-EFFECT_TOKENS_KEPT:]
        self.fences += 1
        record.state, record.owner, record.fence = "granted", c.owner, self.fences
        record.aborted, record.result, record.wake = False, None, None
        self.effect_fences[record.fence] = record
        if m is None:
            record.lease_fence, record.holder = 0, None
            record.ends = self.clock + (EFFECT_TTL if c.ttl_ms is None else c.ttl_ms)
            self.arm(record, record.ends, WAKE_GRANT, of_lease=True)
        else:
            assert m.lease is not None
            record.lease_fence, record.holder, record.message = m.lease.fence, m, m
            m.lease.effects[record.id] = record
        return ("effect", "granted", record.uncertain, record.fence, None, self.ends_at(record), False)

    def new_effect(self, effect_id: str) -> Effect:
        self.serial += 1
        record = self.effects[effect_id] = Effect(self.serial, effect_id)
        return record

    def issued(self, token: Any) -> Effect | None:
        record = None if token is None else self.effect_fences.get(token.fence)
        if record is None or effect_mac(self.secret, token.fence, record.id) != token.mac:
            return None
        return record

    def do_EffectCommit(self, c: Any) -> Any:
        record = self.issued(c.token)
        if record is None:
            raise Refused("effect_not_found")
        if record.fence == c.token.fence and record.state == "done":
            return ("effect", "done", False, None, record.result, None, True)
        if record.fence != c.token.fence or not self.held(record):
            raise Refused("stale_effect")
        self.commit(record, c.result)
        return ("effect", "done", False, None, c.result, None, False)

    def do_EffectAbort(self, c: Any) -> Any:
        record = self.issued(c.token)
        if record is None:
            raise Refused("effect_not_found")
        if record.fence == c.token.fence and record.aborted:
            return ("effect", "aborted", record.uncertain, None, None, None, True)
        if record.fence != c.token.fence or not self.held(record):
            raise Refused("stale_effect")
        self.end_grant(record, "open")
        record.aborted = True
        return ("effect", "aborted", record.uncertain, None, None, None, False)

    def end_grant(self, record: Effect, state: str) -> None:
        if record.holder is not None and record.holder.lease is not None:
            record.holder.lease.effects.pop(record.id, None)
        record.state, record.holder = state, None
        record.forget = self.clock + EFFECT_RETENTION
        self.arm(record, record.forget, WAKE_EFFECT)

    def commit(self, record: Effect, result: bytes | None) -> None:
        self.end_grant(record, "done")
        record.uncertain, record.result = False, result

    def end_bound_effects(self, lease: Lease) -> None:
        for record in list(lease.effects.values()):
            self.end_grant(record, "open")
            record.uncertain = True
        lease.effects.clear()

    # --- with an ack ------------------------------------------------------------------------------------

    def refused_effect(self, m: Message, effects: Any, claimed: dict[str, Message]) -> str | None:
        """`claimed`: by the other items of the same request."""
        for effect in effects:
            code = self.refused_one(m, effect)
            if code is None and claimed.get(effect.effect_id, m) is not m:
                code = "stale_effect"
            if code is not None:
                return code
        for effect in effects:
            claimed[effect.effect_id] = m
        return None

    def refused_one(self, m: Message, effect: Any) -> str | None:
        record = self.effects.get(effect.effect_id)
        if effect.token is not None:
            if record is None or self.issued(effect.token) is not record:
                return "effect_not_found"
            newest = record.fence == effect.token.fence
            return None if newest and (record.state == "done" or self.held(record)) else "stale_effect"
        assert m.lease is not None
        if record is None or (record.lease_fence == m.lease.fence and record.state != "open"):
            return None
        return "effect_held" if self.held(record) else "stale_effect"

    def commit_with_ack(self, m: Message, effects: Any) -> None:
        for effect in effects:
            record = self.effects.get(effect.effect_id)
            if record is None:
                assert m.lease is not None
                record = self.new_effect(effect.effect_id)
                record.owner, record.lease_fence, record.message = m.lease.consumer, m.lease.fence, m
            if record.state != "done":
                self.commit(record, effect.result)

    # --- time -------------------------------------------------------------------------------------------

    def effect_due(self, record: Effect) -> None:
        record.wake = None
        if record.state == "granted":
            self.end_grant(record, "open")
            record.uncertain = True
            return
        m = record.message
        if m is not None and not m.gone and m.state in UNFINISHED:
            record.forget = self.clock + DAY
            self.arm(record, record.forget, WAKE_EFFECT)
            return
        del self.effects[record.id]
        for fence in (*record.older, record.fence):
            self.effect_fences.pop(fence, None)
