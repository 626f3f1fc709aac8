"""Mutants of what the clients saw: S1–S14, S19, S20."""

from __future__ import annotations

from itertools import pairwise

from chaos.checker.mutant import mutant
from chaos.checker.script import DEAD, DELAYS, GROUPS, PLAIN
from chaos.checker.spoil import NothingToSpoil, Op, Spoiler
from chaos.history import OK

# --- S1, S2 -------------------------------------------------------------------------------------------


@mutant("S1")
def lost_message(s: Spoiler) -> None:
    """Acknowledged, never seen again."""
    op = s.one(op for op in s.all("enqueue") if op.args["queue"] == PLAIN)
    s.hide(op.result["messages"][0]["id"])


@mutant("S1")
def lost_after_ack_without_answer(s: Spoiler) -> None:
    """Its ack's answer was lost, and then the message is not done: it is nowhere."""
    op = s.one(op for op in s.all("ack", "info") if not op.args.get("enqueue"))
    name = op.args["ids"][0]
    acks = [other for other in s.ops if other.f == "ack" and other.args["ids"] == [name] and other is not op]
    s.drop(*acks)
    s.unshow(name)


@mutant("S2")
def payload_changed(s: Spoiler) -> None:
    _, one = s.one(s.deliveries())
    one["body"]["pad"] = "something else"


@mutant("S2")
def message_from_nowhere(s: Spoiler) -> None:
    _, one = s.one(s.deliveries())
    one["body"]["op"] = 999_999


@mutant("S2")
def one_id_for_two_messages(s: Spoiler) -> None:
    first, second = s.all("enqueue")[:2]
    second.result["messages"][0]["id"] = first.result["messages"][0]["id"]


# --- S3, S4 -------------------------------------------------------------------------------------------


@mutant("S3", "S4")
def key_names_two_messages(s: Spoiler) -> None:
    op = s.one(op for op in s.all("enqueue") if op.result["messages"][0]["duplicate"])
    op.result["messages"][0] |= {"id": "mffffffffffff", "duplicate": False}


@mutant("S3")
def duplicate_said_to_be_new(s: Spoiler) -> None:
    op = s.one(op for op in s.all("enqueue") if op.result["messages"][0]["duplicate"])
    op.result["messages"][0]["duplicate"] = False


@mutant("S3")
def retry_made_a_second_message(s: Spoiler) -> None:
    """An unkeyed body exists twice: one delivery of it under another id."""
    op = s.one(op for op in s.all("ack") if op.args.get("enqueue") and "messages" in op.result)
    name = op.result["messages"][0]["id"]
    one = s.one(one for _, one in s.shown(name) if "lease_token" in one)
    one["id"] = "meeeeeeeeeeee"


# --- S5 -----------------------------------------------------------------------------------------------


@mutant("S5")
def stale_token_accepted(s: Spoiler) -> None:
    """An old token's nack, refused in truth, is said to have counted."""
    for op in s.all("nack", "fail") + s.all("release", "fail"):
        grants = s.by_message().get(op.args["ids"][0], [])
        if grants and grants[-1][0].place < op.place and len(grants) > 1:
            if grants[-1][1]["lease_token"] not in str(op.args):
                status = "nacked" if op.f == "nack" else "released"
                op.ret.pop("error")
                op.ret |= {"type": OK, "result": {"results": [{"status": status}]}}
                return
    raise NothingToSpoil


@mutant("S5")
def fence_falls(s: Spoiler) -> None:
    (_, first), (_, second) = s.deliveries()[0], s.deliveries()[-1]
    first["lease_token"], second["lease_token"] = second["lease_token"], first["lease_token"]


@mutant("S5")
def one_token_for_two_messages(s: Spoiler) -> None:
    (_, first), (_, second) = s.deliveries()[0], s.deliveries()[-1]
    second["lease_token"] = first["lease_token"]


@mutant("S5")
def forged_token_accepted(s: Spoiler) -> None:
    op = s.one(s.acks())
    op.args["acks"][0]["lease_token"] = "A" * 31 + "B"


@mutant("S5")
def lease_ended_twice(s: Spoiler) -> None:
    op = s.one(op for op in s.all("nack") if op.result["results"][0]["status"] == "nacked")
    token = op.args["nacks"][0]["lease_token"]

    def change(made: Op) -> None:
        made.inv |= {"f": "release", "args": {"leases": [{"lease_token": token}], "ids": op.args["ids"]}}
        made.ret["result"] = {"results": [{"status": "released"}]}

    s.again(op, (op.place[0], op.place[1] + 1), change)


# --- S6 -----------------------------------------------------------------------------------------------


@mutant("S6")
def second_lease_without_expiry(s: Spoiler) -> None:
    """The second lease came in time; now the first one is said to have been longer."""
    for grants in s.by_message().values():
        for (_, before), (op, _after) in pairwise(grants):
            if not s.settles(before["lease_token"]):
                before["lease_expires_at_ms"] = op.result["now_ms"] + 500
                return
    raise NothingToSpoil


@mutant("S6")
def second_lease_too_soon_in_real_time(s: Spoiler) -> None:
    """Longer leases in answer and log time alike; the clients' own clock knows better."""
    for grants in s.by_message().values():
        for (first, before), _ in pairwise(grants):
            if not s.settles(before["lease_token"]):
                first.result["now_ms"] -= 600_000
                return
    raise NothingToSpoil


# --- S7 -----------------------------------------------------------------------------------------------


@mutant("S7")
def resurrection(s: Spoiler) -> None:
    """An acked message is given once more, under a new token."""
    ack = s.one(s.acks())
    token = ack.args["acks"][0]["lease_token"]
    _, old = s.one((op, one) for op, one in s.deliveries() if one["lease_token"] == token)
    later = [(op, one) for op, one in s.deliveries() if op.place > ack.place and op.inv["t"] > ack.ret["t"]]
    _, victim = s.one(later)
    victim |= {"id": old["id"], "body": old["body"], "attempt": old["attempt"] + 1}


@mutant("S7")
def acked_twice(s: Spoiler) -> None:
    ack = s.one(s.acks())
    s.again(ack, s.end_place())


@mutant("S7", "S1")
def dropped_first_ack(s: Spoiler) -> None:
    """Only the repeat of an ack is left: a `repeated` of nothing."""
    ack = s.one(s.acks())

    def change(made: Op) -> None:
        made.ret["result"] = {"results": [{"status": "acked", "repeated": True}]}

    s.again(ack, s.end_place(), change)
    s.drop(ack)


# --- S8, S9 -------------------------------------------------------------------------------------------


@mutant("S8")
def effect_committed_twice(s: Spoiler) -> None:
    op = s.one(op for op in s.all("effect_commit") if not op.result.get("repeated"))
    s.again(op, s.end_place())


@mutant("S8")
def executed_twice(s: Spoiler) -> None:
    s.case.sink.append(dict(s.case.sink[0]))


@mutant("S8")
def granted_after_commit(s: Spoiler) -> None:
    op = s.one(op for op in s.all("effect_commit") if not op.result.get("repeated"))
    effect = op.args["effect_id"]
    begin = s.one(
        b for b in s.all("effect_begin") if b.args["effect_id"] == effect and b.result["state"] == "granted"
    )

    def change(made: Op) -> None:
        made.ret["result"]["effect_token"] = "_" * 31 + "A"

    s.again(begin, s.end_place(), change)


@mutant("S8")
def uncertain_forgotten(s: Spoiler) -> None:
    """The holder died between deed and commit; the next one is not told."""
    op = s.one(op for op in s.all("effect_begin") if op.result.get("uncertain"))
    op.result["uncertain"] = False


@mutant("S9")
def committed_never_executed(s: Spoiler) -> None:
    done = {op.args["effect_id"] for op in s.all("effect_commit")}
    gone = s.one(row for row in s.case.sink if row["effect_id"] in done)
    s.case.sink.remove(gone)


@mutant("S9")
def executed_without_grant(s: Spoiler) -> None:
    row = dict(s.case.sink[0], lease_token="A" * 32)
    s.case.sink[0] = row


@mutant("S9")
def committed_effect_is_open(s: Spoiler) -> None:
    op = s.one(op for op in s.all("effect_state") if op.result["state"] == "done")
    op.result["state"] = "open"


@mutant("S9")
def child_missing(s: Spoiler) -> None:
    op = s.one(s.acks(enqueue=True))
    s.hide(op.result["messages"][0]["id"])


@mutant("S9")
def child_doubled(s: Spoiler) -> None:
    """Two acks made a child of one parent."""
    first, second = s.acks(enqueue=True)[:2]
    parent = first.args["enqueue"][0]["body"]["parent"]
    for body in s.message_of(second.op, 0):
        body["parent"] = parent


# --- S10 ----------------------------------------------------------------------------------------------


@mutant("S10")
def attempt_not_counted(s: Spoiler) -> None:
    for grants in s.by_message().values():
        if len(grants) > 1 and grants[1][1]["attempt"] == 2:
            grants[1][1]["attempt"] = 1
            return
    raise NothingToSpoil


@mutant("S10")
def dead_too_early(s: Spoiler) -> None:
    for op in s.all("nack"):
        if op.result["results"][0]["status"] == "nacked" and op.args["ids"][0] in _dead_letters(s):
            op.result["results"][0] = {"status": "dead", "state": "dead"}
            return
    raise NothingToSpoil


@mutant("S10")
def dead_too_late(s: Spoiler) -> None:
    for op in s.all("nack"):
        if op.result["results"][0]["status"] == "dead":
            op.result["results"][0] = {"status": "nacked", "state": "delayed", "deliver_at_ms": 1}
            return
    raise NothingToSpoil


def _dead_letters(s: Spoiler) -> set[str]:
    return {one["id"] for _, one in s.deliveries() if one["queue"] == DEAD}


# --- S11–S14 ------------------------------------------------------------------------------------------


@mutant("S11")
def group_order_swapped(s: Spoiler) -> None:
    """Two messages of a group, given in the wrong order."""
    by_group: dict[str, list[tuple[Op, dict[str, object]]]] = {}
    for grants in s.by_message().values():
        if len(grants) == 1 and grants[0][1]["queue"] == GROUPS:
            by_group.setdefault(grants[0][1]["group"], []).append(grants[0])
    for members in by_group.values():
        members.sort(key=lambda pair: pair[0].place)
        for (_, first), (_, second) in pairwise(members):
            for name in ("id", "body", "idempotency_key", "enqueued_at_ms"):
                first[name], second[name] = second[name], first[name]
            return
    raise NothingToSpoil


@mutant("S12")
def producer_order_swapped(s: Spoiler) -> None:
    numbers: dict[str, tuple[int, int]] = {}
    for op in s.all("enqueue"):
        if op.args["queue"] != GROUPS or "repeats" in op.args:
            continue
        for i, one in enumerate(op.args["messages"]):
            before = numbers.get(one["group"])
            if before is not None and before[0] != op.op:
                a, b = list(s.message_of(*before)), list(s.message_of(op.op, i))
                first, second = a[0]["n"], b[0]["n"]
                for body in a:
                    body["n"] = second
                for body in b:
                    body["n"] = first
                return
            numbers[one["group"]] = (op.op, i)
    raise NothingToSpoil


@mutant("S13")
def delivered_before_its_delay(s: Spoiler) -> None:
    op, one = s.one((op, one) for op, one in s.deliveries() if one["queue"] == DELAYS)
    one["enqueued_at_ms"] = op.result["now_ms"] - 1


@mutant("S13")
def delivered_before_its_backoff(s: Spoiler) -> None:
    for grants in s.by_message().values():
        for (_, before), (op, _after) in pairwise(grants):
            for settle in s.settles(before["lease_token"]):
                told = settle.result["results"][0] if settle.f == "nack" and settle.result else {}
                if settle.ret["type"] == OK and "deliver_at_ms" in told and not told.get("repeated"):
                    told["deliver_at_ms"] = op.result["now_ms"] + 10
                    return
    raise NothingToSpoil


@mutant("S14")
def delivered_after_its_ttl(s: Spoiler) -> None:
    keyed = {
        one["idempotency_key"] for op in s.all("enqueue") for one in op.args["messages"] if "ttl_ms" in one
    }
    op, one = s.one((op, one) for op, one in s.deliveries() if one.get("idempotency_key") in keyed)
    one["enqueued_at_ms"] = op.result["now_ms"] - 600_001


@mutant("S14")
def expired_without_ttl(s: Spoiler) -> None:
    browse = s.one(op for op in s.all("browse") if op.args["queue"] == DEAD)
    one = s.one(one for one in browse.result["messages"] if one["state"] == "dead")
    one["dead_reason"] = "expired"


# --- S19, S20 -----------------------------------------------------------------------------------------


@mutant("S19")
def refused_enqueue_exists(s: Spoiler) -> None:
    repeated = {op.args["repeats"] for op in s.ops if "repeats" in op.args}
    op = s.one(op for op in s.all("enqueue") if op.op not in repeated and "repeats" not in op.args)
    for name in ("index", "seq", "term", "result"):
        op.ret.pop(name)
    op.ret |= {"type": "fail", "error": {"code": "queue_full"}}


@mutant("S19")
def done_without_an_ack(s: Spoiler) -> None:
    """Every ack of it is taken out: nobody asked for what happened."""
    ack = s.one(s.acks())
    name = ack.args["ids"][0]
    s.drop(*(op for op in s.ops if op.f == "ack" and op.args["ids"] == [name]))


@mutant("S19")
def cancelled_by_nobody(s: Spoiler) -> None:
    browse = s.one(op for op in s.all("browse") if op.result["messages"])
    browse.result["messages"][0]["state"] = "cancelled"


@mutant("S20")
def half_a_batch(s: Spoiler) -> None:
    repeated = {op.args["repeats"] for op in s.ops if "repeats" in op.args}
    for op in s.all("enqueue", "info"):
        if op.op in repeated or "repeats" in op.args or len(op.args["messages"]) < 2:
            continue
        body = op.args["messages"][0]["body"]
        names = [one["id"] for _, one in s.deliveries() if one["body"] == body]
        if names:
            s.hide(names[0])
            return
    raise NothingToSpoil


@mutant("S20")
def answer_shorter_than_batch(s: Spoiler) -> None:
    op = s.one(op for op in s.all("enqueue") if len(op.result["messages"]) > 1)
    op.result["messages"].pop()
