"""The model's effects ledger (R27)."""

from __future__ import annotations

from typing import Any

from tests.machine.model import DAY, EFFECT_RETENTION, EFFECT_TTL, UNFINISHED, Model, Refused


class Effects(Model):
    """A grant is a dict of the effect's record: `fence`, `mac`, `lease` (fence or None), `ends`."""

    def holder_lives(self, record: dict[str, Any]) -> bool:
        if record["state"] != "granted":
            return False
        return record["lease"] is None or self.lease_by_fence(record["lease"]) is not None

    def ends_at(self, record: dict[str, Any]) -> int:
        if record["lease"] is None:
            return int(record["ends"])
        m = self.lease_by_fence(record["lease"])
        assert m is not None
        return int(m["lease"]["expires"])

    def repeat_begin(self, reply: Any) -> Any:
        for record in self.effects.values():
            if record["fence"] == reply[3] and self.holder_lives(record):
                return (*reply[:5], self.ends_at(record), *reply[6:])
        return None

    def do_EffectBegin(self, c: Any) -> Any:
        m = None
        if c.has_lease:
            m = self.leased_under(c.lease)
            if m is None:
                raise Refused("stale_lease")
        record = self.effects.get(c.effect_id)
        if record is not None and record["state"] == "done":
            return ("effect", "done", False, None, record["result"], None, False)
        if record is not None and record["state"] == "granted":
            raise Refused("effect_held")
        if record is None:
            record = self.effects[c.effect_id] = {"uncertain": False, "old": [], "message": None}
        else:
            record["old"].append((record["fence"], record["mac"]))
        fence, mac = self.hints.fences[0]
        assert fence > self.last_fence, "fences rise"
        self.last_fence = fence
        ttl = EFFECT_TTL if c.ttl_ms is None else c.ttl_ms
        record.update(
            state="granted", owner=c.owner, fence=fence, mac=mac, aborted=False, result=None,
            lease=None if m is None else m["lease"]["fence"], ends=None if m is not None else self.clock + ttl,
        )  # fmt: skip
        if m is not None:
            record["message"] = m["number"]
        return ("effect", "granted", record["uncertain"], fence, None, self.ends_at(record), False)

    def issued(self, token: Any) -> dict[str, Any]:
        for record in self.effects.values():
            if token is not None and (token.fence, token.mac) in [
                *record["old"],
                (record["fence"], record["mac"]),
            ]:
                return record
        raise Refused("effect_not_found")

    def do_EffectCommit(self, c: Any) -> Any:
        record = self.issued(c.token)
        if record["fence"] == c.token.fence and record["state"] == "done":
            return ("effect", "done", False, None, record["result"], None, True)
        if record["fence"] != c.token.fence or not self.holder_lives(record):
            raise Refused("stale_effect")
        self.committed(record, c.result)
        return ("effect", "done", False, None, c.result, None, False)

    def do_EffectAbort(self, c: Any) -> Any:
        record = self.issued(c.token)
        if record["fence"] == c.token.fence and record["aborted"]:
            return ("effect", "aborted", record["uncertain"], None, None, None, True)
        if record["fence"] != c.token.fence or not self.holder_lives(record):
            raise Refused("stale_effect")
        self.over(record, "open")
        record["aborted"] = True
        return ("effect", "aborted", record["uncertain"], None, None, None, False)

    def over(self, record: dict[str, Any], state: str) -> None:
        record["state"] = state
        record["forget"] = self.clock + EFFECT_RETENTION

    def committed(self, record: dict[str, Any], result: Any) -> None:
        self.over(record, "done")
        record["uncertain"] = False
        record["result"] = result

    def end_bound_effects(self, m: dict[str, Any]) -> None:
        for record in self.effects.values():
            if record["state"] == "granted" and record["lease"] == m["lease"]["fence"]:
                self.over(record, "open")
                record["uncertain"] = True

    # --- with an ack ------------------------------------------------------------------------------------

    def refused_effect(self, m: dict[str, Any], effects: Any) -> str | None:
        for effect in effects:
            record = self.effects.get(effect.effect_id)
            if effect.token is not None:
                tokens = [] if record is None else [*record["old"], (record["fence"], record["mac"])]
                if (effect.token.fence, effect.token.mac) not in tokens:
                    return "effect_not_found"
                assert record is not None
                newest = record["fence"] == effect.token.fence
                if not newest or not (record["state"] == "done" or self.holder_lives(record)):
                    return "stale_effect"
            elif record is not None:
                mine = record["lease"] == m["lease"]["fence"] and record["state"] != "open"
                if not mine:
                    return "effect_held" if self.holder_lives(record) else "stale_effect"
        return None

    def commit_with_ack(self, m: dict[str, Any], effect: Any) -> None:
        record = self.effects.get(effect.effect_id)
        if record is None:
            record = self.effects[effect.effect_id] = {
                "owner": m["lease"]["consumer"], "fence": 0, "mac": b"", "old": [], "lease": m["lease"]["fence"],
                "message": m["number"], "aborted": False, "ends": None, "uncertain": False, "state": "open",
            }  # fmt: skip
        if record["state"] != "done":
            self.committed(record, effect.result)

    # --- time -------------------------------------------------------------------------------------------

    def expire_effects(self, leases: bool) -> None:
        for effect_id, record in list(self.effects.items()):
            if record["state"] == "granted":
                if leases and record["lease"] is None and record["ends"] <= self.clock:
                    self.over(record, "open")
                    record["uncertain"] = True
            elif record["forget"] <= self.clock:
                m = self.messages.get(record["message"])
                if m is not None and m["state"] in UNFINISHED:
                    record["forget"] = self.clock + DAY
                else:
                    del self.effects[effect_id]
