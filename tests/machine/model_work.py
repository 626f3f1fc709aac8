"""The model's other half: leases, settling, changes, dead letters, time; and the effects ledger."""

from __future__ import annotations

from types import SimpleNamespace as Plain
from typing import Any

from tests.machine.model import (
    BLOCKED,
    CANCELLED,
    CHECKED,
    DEAD,
    DELAYED,
    DONE,
    LEASED,
    READY,
    SETTLE_WINDOW,
    UNFINISHED,
    WAITING,
    Refused,
    longest_backoff,
    plain_backoff,
    size_of,
)
from tests.machine.model_effects import Effects
from tests.machine.model_flows import Flows
from tests.machine.model_schedules import Schedules
from tests.machine.model_topics import Topics

Settled = tuple[Any, ...]  # (status, repeated, state, deliver_at_ms, lease_expires_at_ms, cancelled)


def settled(
    status: str, state: Any = None, due: Any = None, ends: Any = None, cancelled: bool = False
) -> Settled:
    return (status, False, state, due, ends, cancelled)


NOT_FOUND = settled("not_found")
STALE = settled("stale_lease")


class Model(Schedules, Topics, Flows, Effects):
    """The whole model."""

    def do_Genesis(self, c: Any) -> Any:
        return ("done", 0)

    # --- leases -----------------------------------------------------------------------------------------

    def offered(self, queue: dict[str, Any]) -> list[dict[str, Any]]:
        """What may be leased now, best first: of a group only its head (R21)."""
        found = [m for m in self.of(queue, READY) if m["draft"].group is None]
        waiting = [m for m in self.of(queue, *WAITING) if m["draft"].group is not None]
        for group in {m["draft"].group: None for m in waiting}:
            head = min((m for m in waiting if m["draft"].group == group), key=lambda m: m["group_order"])
            out = sum(1 for m in self.of(queue, LEASED) if m["draft"].group == group)
            if head["state"] == READY and out < queue["config"]["max_leased_per_group"]:
                found.append(head)
        return sorted(found, key=lambda m: (-m["priority"], m["place"]))

    def do_Lease(self, c: Any) -> Any:
        queues = [self.queue(name) for name in c.queues]
        grants: list[tuple[int, int, int, int]] = []
        fences = iter(self.hints.fences)
        left = c.max_bytes
        for queue in queues:
            if queue["paused_lease"]:
                continue
            config = queue["config"]
            room = c.max_messages - len(grants)
            if config["max_leased"] is not None:
                room = min(room, config["max_leased"] - len(self.of(queue, LEASED)))
            while room > 0 and (offered := self.offered(queue)):
                m = offered[0]
                if self.overdue(m):
                    self.finish(m, DEAD, "expired")
                    continue
                if self.is_stopped(m):
                    self.stop(m)
                    continue
                size = size_of(m["draft"]) + self.parents_size(m)
                if grants and size > left:
                    left = 0
                    break
                left -= size
                room -= 1
                length = c.lease_ms or self.extra(m, "lease_ms") or config["lease_ms"]
                grants.append(self.grant(m, c.consumer, length, *next(fences)))
                if left <= 0:
                    break
            if left <= 0 or len(grants) >= c.max_messages:
                break
        return ("leased", self.clock, 0, grants)

    def grant(self, m: dict[str, Any], consumer: str, length: int, fence: int, mac: bytes) -> tuple[int, ...]:
        assert fence > self.last_fence, "fences rise"
        self.last_fence = fence
        m["state"] = LEASED
        m["attempt"] += 1
        m["lease"] = {
            "fence": fence, "mac": mac, "consumer": consumer, "started": self.clock, "length": length,
            "expires": self.clock + length, "cancelled": False,
        }  # fmt: skip
        self.note(m)
        return (m["number"], fence, self.clock + length, m["attempt"])

    def overdue(self, m: dict[str, Any]) -> bool:
        return m["expires"] is not None and m["expires"] <= self.clock

    def renew(self, m: dict[str, Any], length: int) -> int:
        m["lease"]["length"] = length
        m["lease"]["expires"] = self.clock + length
        return self.clock + length

    def do_Extend(self, c: Any) -> Any:
        results = []
        for item in c.items:
            m = self.leased_under(item.token)
            if m is None:
                results.append(self.ended(item.token, "extend"))
                continue
            ends = self.renew(m, item.lease_ms or self.extra(m, "lease_ms") or self.config(m)["lease_ms"])
            results.append(settled("extended", ends=ends, cancelled=m["lease"]["cancelled"]))
        return ("settled", results, None)

    def do_Progress(self, c: Any) -> Any:
        if c.message not in self.messages:
            raise Refused("message_not_found")
        m = self.leased_under(c.token)
        if m is None or m["number"] != c.message:
            raise Refused("stale_lease")
        m["progress"] = (c.percent, c.note, self.clock)
        ends = self.renew(m, m["lease"]["length"])
        return ("changed", m["number"], LEASED, m["lease"]["cancelled"], ends)

    # --- settling ---------------------------------------------------------------------------------------

    def ended(self, token: Any, verb: str) -> Settled:
        """What a token that is not live gets (R14)."""
        if token is None:
            return NOT_FOUND
        for old in self.settled:
            if self.issued_as(token, old) and old["at"] + SETTLE_WINDOW > self.clock:
                return (old["answer"][0], True, *old["answer"][2:]) if old["verb"] == verb else STALE
        for m in self.messages.values():
            for attempt in m["history"]:
                if attempt["outcome"] == "expired" and self.issued_as(token, attempt):
                    return STALE
        return NOT_FOUND

    @staticmethod
    def issued_as(token: Any, lease: dict[str, Any]) -> bool:
        """A token without a mac was checked before it came here."""
        return token.fence == lease["fence"] and token.mac in (lease["mac"], CHECKED)

    def end_lease(self, m: dict[str, Any], outcome: str, error: str | None = None) -> None:
        lease = m["lease"]
        attempt = {
            "attempt": m["attempt"], "consumer": lease["consumer"], "started": lease["started"],
            "ended": self.clock, "outcome": outcome, "error": error, "fence": lease["fence"], "mac": lease["mac"],
        }  # fmt: skip
        m["history"] = [*m["history"], attempt][-20:]
        self.end_bound_effects(m)

    def remember(self, lease: dict[str, Any], verb: str, answer: Settled) -> Settled:
        self.settled.append(
            {"fence": lease["fence"], "mac": lease["mac"], "verb": verb, "answer": answer, "at": self.clock}
        )
        return answer

    def do_AckLeases(self, c: Any) -> Any:
        return self.ack_plain([(fence, CHECKED) for fence in c.fences])

    def do_AckTokens(self, c: Any) -> Any:
        pieces = [c.tokens[at : at + 24] for at in range(0, len(c.tokens), 24)]
        return self.ack_plain([(int.from_bytes(piece[:8], "big"), piece[8:]) for piece in pieces])

    def ack_plain(self, tokens: list[tuple[int, Any]]) -> Any:
        items = [Plain(token=Plain(fence=f, mac=mac), result=None, effects=()) for f, mac in tokens]
        return self.do_Ack(Plain(items=items, enqueue=(), auto_create=True))

    def do_Ack(self, c: Any) -> Any:
        if c.enqueue:
            self.check_all(c.items)
        results = []
        acked = []
        for item in c.items:
            m = self.leased_under(item.token)
            if m is None:
                results.append(self.ended(item.token, "ack"))
                continue
            code = self.refused_effect(m, item.effects)
            if code is not None:
                results.append(settled(code))
                continue
            acked.append(m["number"])
            results.append(self.ack(m, item))
        if not c.enqueue:
            return ("settled", results, None)
        pairs = [(entry.queue, entry.draft) for entry in c.enqueue]
        return ("settled", results, self.take(pairs, c.auto_create, tuple(acked)))

    def check_all(self, items: Any) -> None:
        """All or nothing (R15): each in turn, before any is acked; no effect for two messages."""
        claimed: dict[str, int] = {}
        for item in items:
            m = self.leased_under(item.token)
            if m is None:
                raise Refused("stale_lease")
            code = self.refused_effect(m, item.effects)
            for effect in item.effects if code is None else ():
                if claimed.setdefault(effect.effect_id, m["number"]) != m["number"]:
                    code = "stale_effect"
            if code is not None:
                raise Refused(code)

    def ack(self, m: dict[str, Any], item: Any) -> Settled:
        lease = m["lease"]
        for effect in item.effects:
            self.commit_with_ack(m, effect)
        m["result"] = item.result
        self.end_lease(m, "acked")
        self.finish(m, DONE)
        return self.remember(lease, "ack", settled("acked"))

    def do_Nack(self, c: Any) -> Any:
        return ("settled", [self.nack(item) for item in c.items], None)

    def nack(self, item: Any) -> Settled:
        m = self.leased_under(item.token)
        if m is None:
            return self.ended(item.token, "nack")
        lease = m["lease"]
        error = None if item.error is None else item.error.encode()[:4096].decode(errors="ignore")
        self.end_lease(m, "nacked", error)
        if item.dead_letter and not lease["cancelled"]:
            self.finish(m, DEAD, "rejected")
        else:
            self.fail(m, item.delay_ms)
        due = {DELAYED: m["due"], READY: self.clock}.get(m["state"])
        status = "dead" if m["state"] == DEAD else "nacked"
        answer = settled(status, m["state"], due, cancelled=lease["cancelled"])
        return self.remember(lease, "nack", answer)

    def fail(self, m: dict[str, Any], delay: int | None) -> None:
        most = self.extra(m, "max_attempts")
        most = self.config(m)["max_attempts"] if most is None else most
        if m["lease"]["cancelled"]:
            self.finish(m, CANCELLED)
        elif self.overdue(m):
            self.finish(m, DEAD, "expired")
        elif most and m["attempt"] >= most:
            self.finish(m, DEAD, "max_attempts")
        elif self.is_stopped(m):
            self.finish(m, CANCELLED)
        else:
            m["lease"] = None
            due = self.clock + (self.backoff(m) if delay is None else delay)
            self.wait_until(m, due, m["history"][-1])

    def backoff(self, m: dict[str, Any]) -> int:
        own = self.extra(m, "backoff")
        value = self.config(m)["backoff"] if own is None else plain_backoff(own)
        nominal = longest_backoff(value, m["attempt"])
        shortest = nominal - nominal * value["jitter_milli"] // 1000 - 2
        actual = max(0, self.hints.due(m["number"]) - self.clock)
        assert shortest <= actual <= nominal, f"backoff {actual}, not in {shortest} … {nominal}"
        return actual

    def do_Release(self, c: Any) -> Any:
        return ("settled", [self.release(token) for token in c.tokens], None)

    def release(self, token: Any) -> Settled:
        m = self.leased_under(token)
        if m is None:
            return self.ended(token, "release")
        lease = m["lease"]
        self.end_lease(m, "released")
        m["attempt"] -= 1
        if lease["cancelled"]:
            self.finish(m, CANCELLED)
            return self.remember(lease, "release", settled("released", CANCELLED, cancelled=True))
        if self.overdue(m):
            self.finish(m, DEAD, "expired")
            return self.remember(lease, "release", settled("released", DEAD))
        if self.is_stopped(m):
            self.finish(m, CANCELLED)
            return self.remember(lease, "release", settled("released", CANCELLED))
        m["lease"] = None
        m["state"] = READY  # its place is the one it had
        self.note(m, m["history"][-1])
        return self.remember(lease, "release", settled("released"))

    # --- changes ----------------------------------------------------------------------------------------

    def do_Cancel(self, c: Any) -> Any:
        m = self.unfinished(c.message)
        if m["state"] == LEASED:
            m["lease"]["cancelled"] = True
            return ("changed", m["number"], LEASED, True, m["lease"]["expires"])
        self.finish(m, CANCELLED)
        return ("changed", c.message, CANCELLED, False, None)

    def unfinished(self, number: int) -> dict[str, Any]:
        if number not in self.messages:
            raise Refused("message_not_found")
        if self.messages[number]["state"] not in UNFINISHED:
            raise Refused("message_finished")
        return self.messages[number]

    def do_PatchMessage(self, c: Any) -> Any:
        m = self.unfinished(c.message)
        if c.deliver_at_ms is not None and m["state"] == LEASED:
            raise Refused("invalid_argument")
        if c.priority is not None:
            m["priority"] = c.priority
        if c.deliver_at_ms is not None:
            if m["state"] == BLOCKED or (m["state"] == DELAYED and c.deliver_at_ms > self.clock):
                m["due"] = c.deliver_at_ms  # it stays as it is: no event of a run (api.md: transitions)
            elif m["state"] == DELAYED or (m["state"] == READY and c.deliver_at_ms > self.clock):
                self.wait_until(m, c.deliver_at_ms)
        return ("changed", m["number"], m["state"], m["lease"] is not None and m["lease"]["cancelled"], None)

    def do_Redrive(self, c: Any) -> Any:
        origin = self.queue(c.queue)
        target = origin if c.to is None else self.queue(c.to)
        if target is not origin:
            self.not_a_group(target["name"])
        picked = [
            m
            for m in self.of(origin, DEAD)
            if m["number"] > c.after
            and (m["origin"] is None or m["origin"][0] != "saga")
            and (c.ids is None or m["number"] in c.ids)
            and (c.reason is None or m["reason"] == c.reason)
        ][: c.limit]
        done = []
        for m in picked:
            config = target["config"]
            live = self.of(target, *UNFINISHED)
            held = sum(size_of(other["draft"]) for other in live) + size_of(m["draft"])
            full = config["max_messages"] is not None and len(live) >= config["max_messages"]
            if full or (config["max_bytes"] is not None and held > config["max_bytes"]):
                if not done:
                    raise Refused("queue_full")
                break
            done.append(m["number"])
            self.redrive(m, origin, target)
        return ("redriven", done)

    def redrive(self, m: dict[str, Any], origin: dict[str, Any], target: dict[str, Any]) -> None:
        ttl = m["draft"].ttl_ms if m["draft"].ttl_ms is not None else target["config"]["ttl_ms"]
        m.update(
            queue=target["name"], attempt=0, expires=None if ttl is None else self.clock + ttl,
            finished=None, reason=None, forget=None, group_order=self.next_tick(), progress=None,
            due=self.clock, origin=("redrive", origin["name"]) if m["replay_of"] is None else m["origin"],
        )  # fmt: skip
        self.redriven_key(m, origin, target)
        self.flow_redriven(m)
        depends_on = dict.fromkeys(m["draft"].extras.depends_on if m["draft"].extras else ())
        m["pending"] = [
            n for n in depends_on if n in self.messages and self.messages[n]["state"] in UNFINISHED
        ]
        self.to_tail(m)
        if m["pending"]:
            m["state"] = BLOCKED
        self.note(m, reason="redriven")

    def redriven_key(self, m: dict[str, Any], origin: dict[str, Any], target: dict[str, Any]) -> None:
        """The key must last as long as its message; in another queue it is bound if it is free there."""
        key = None if ":" in target["name"] else m["draft"].key
        old = origin["keys"].get(key)
        if key is None or (old is not None and old["number"] != m["number"]):
            old = None
        if key is None or (old is not None and target is origin):
            return
        expires = self.clock
        if old is not None:
            expires = old["expires"]
            old["final"] = DEAD
        if self.key_of(target["name"], key) is None:
            target["keys"][key] = {
                "number": m["number"], "fingerprint": self.fingerprint(m["draft"]), "expires": expires,
                "final": None,
            }  # fmt: skip

    # --- time -------------------------------------------------------------------------------------------

    def do_Expire(self, c: Any) -> Any:
        """All that is due, earliest first. (The limit is tested elsewhere: here it is never reached.)"""
        for ghost in self.ghosts:
            self.gone(ghost)
        self.ghosts, self.finished_ghosts = [], []
        self.owed += [(number, True) for number in self.swept_later]
        for number in self.swept_later:
            self.flow_hears(number, CANCELLED)
        self.swept_later = []
        for queue in self.queues.values():
            self.drop_excess_dead(queue, all_of_them=True)
        self.catch_up()
        while due := self.due_messages(c.leases):
            self.wake(min(due, key=lambda pair: (pair[0], pair[1]["number"]))[1])
        for queue in self.queues.values():
            for key in [key for key in queue["keys"] if self.key_of(queue["name"], key) is None]:
                del queue["keys"][key]
        self.expire_effects(c.leases)
        self.forget_flows()
        self.forget_runs()
        return ("done", 0)

    def due_messages(self, leases: bool) -> list[tuple[int, dict[str, Any]]]:
        due = []
        for m in self.messages.values():
            at = [m["expires"]] if m["state"] in WAITING else [m["forget"]]
            if m["state"] == DELAYED:
                at.append(m["due"])
            if m["state"] == LEASED:
                at = [m["lease"]["expires"]] if leases else []
            due += [(instant, m) for instant in at if instant is not None and instant <= self.clock]
        return due

    def wake(self, m: dict[str, Any]) -> None:
        if m["state"] == LEASED:
            self.end_lease(m, "expired")
            self.fail(m, 0)
        elif m["state"] not in UNFINISHED:
            self.forget(m)
        elif self.overdue(m):
            self.finish(m, DEAD, "expired")
        else:
            self.to_tail(m)
            self.note(m)
