"""Mutants of order, reads, metadata, the log, the nodes and the faults: S1–S3, S15–S19, S21, L1–L4, L8."""

from __future__ import annotations

from msgspec.structs import replace

from chaos.checker.mutant import mutant
from chaos.checker.script import PLAIN
from chaos.checker.spoil import Op, Spoiler

SECOND = 1_000_000_000

# --- S16: order and reads -----------------------------------------------------------------------------


@mutant("S16")
def two_indices_swapped(s: Spoiler) -> None:
    ops = s.all("ack")
    first = ops[0]
    second = s.one(op for op in reversed(ops) if op.inv["t"] > first.ret["t"])
    for name in ("index", "seq", "term"):
        first.ret[name], second.ret[name] = second.ret[name], first.ret[name]


@mutant("S16")
def stale_read(s: Spoiler) -> None:
    """A linearizable read one index behind what had been answered before it was asked."""
    writes = sorted((op.ret["t"], op.place[0]) for op in s.ops if op.place[0] > 0)
    read = s.one(op for op in reversed(s.all("read_queue")) if op.inv["t"] > writes[0][0])
    read.ret["asof"] = max(index for t, index in writes if t < read.inv["t"]) - 1


@mutant("S16")
def count_of_another_state(s: Spoiler) -> None:
    s.one(s.all("read_queue")).result["ready"] += 1


@mutant("S16")
def acked_message_reads_as_ready(s: Spoiler) -> None:
    done = {op.args["ids"][0]: op.ret["t"] for op in s.acks()}
    read = s.one(op for op in s.all("read_message") if done.get(op.args["id"], op.inv["t"]) < op.inv["t"])
    read.result["state"] = "ready"


@mutant("S16")
def read_of_the_future(s: Spoiler) -> None:
    s.all("read_queue")[-1].ret["asof"] = len(s.case.entries) + 5


# --- S21 ----------------------------------------------------------------------------------------------


@mutant("S21")
def queue_vanishes(s: Spoiler) -> None:
    op = s.one(op for op in s.all("read_queue") if not op.args.get("local"))
    for name in ("asof", "result"):
        op.ret.pop(name)
    op.ret |= {"type": "fail", "error": {"code": "queue_not_found"}}


@mutant("S21")
def revision_falls(s: Spoiler) -> None:
    op = s.one(op for op in reversed(s.all("read_queue")) if op.args["queue"] == PLAIN)
    op.result["revision"] = 0


@mutant("S21")
def configuration_not_saved(s: Spoiler) -> None:
    saved = s.one(op for op in reversed(s.all("patch_queue")))
    saved.args["config"]["lease_ms"] += 1
    for op in s.all("read_queue"):
        if op.result["queue"] == PLAIN:
            op.result["revision"] = max(op.result["revision"], saved.result["revision"])


@mutant("S21")
def queue_gone_at_the_end(s: Spoiler) -> None:
    del s.case.final["queues"][PLAIN]


# --- the log ------------------------------------------------------------------------------------------


def _alone(s: Spoiler) -> Op:
    """An enqueue of its own entry."""
    return s.one(op for op in s.all("enqueue") if len(s.requests(op.place[0])) == 1)  # type: ignore[no-any-return]


@mutant("S1")
def acknowledged_not_in_the_log(s: Spoiler) -> None:
    s.set_entry(_alone(s).place[0], requests=())


@mutant("S2")
def other_body_in_the_log(s: Spoiler) -> None:
    index = _alone(s).place[0]
    request = s.requests(index)[0]
    drafts = (replace(request.command.drafts[0], body=b'{"op":1,"i":0,"w":"x"}'), *request.command.drafts[1:])
    s.set_entry(index, requests=(replace(request, command=replace(request.command, drafts=drafts)),))


@mutant("S3")
def request_applied_twice(s: Spoiler) -> None:
    """The request of an enqueue without a key stands in the log once more, after its window."""
    op = _alone(s)
    index = op.place[0]
    request = s.requests(index)[0]
    drafts = tuple(replace(draft, key=None) for draft in request.command.drafts)
    request = replace(request, command=replace(request.command, drafts=drafts))
    s.set_entry(index, requests=(request,))
    term, now_ms, _ = s.case.entries[-1]
    s.case.entries.append((term, now_ms + 61_000, (request,)))
    for node in s.case.final["nodes"].values():
        node["index"] += 1


@mutant("S19")
def refused_in_answer_applied_in_log(s: Spoiler) -> None:
    op = s.one(op for op in s.all("cancel"))
    for name in ("index", "seq", "term", "result"):
        op.ret.pop(name)
    op.ret |= {"type": "fail", "error": {"code": "message_finished"}}


@mutant("S6")
def lease_longer_than_the_log_says(s: Spoiler) -> None:
    _, one = s.one(reversed(s.deliveries()))
    one["lease_expires_at_ms"] += 5000


@mutant("S6")
def leased_at_another_time(s: Spoiler) -> None:
    """The leader's stamp in the log is not the one the answer shows."""
    op, _ = s.one(s.deliveries())
    index = op.place[0]
    s.set_entry(index, now_ms=s.case.entries[index - 1][1] + 1)


@mutant("S5", "S7")
def ack_answered_of_a_dead_lease(s: Spoiler) -> None:
    """The log says stale, the answer says acked."""
    op = s.one(op for op in s.all("ack", "fail") if op.ret.get("index") and not op.args.get("enqueue"))
    op.ret.pop("error")
    op.ret |= {"type": "ok", "result": {"results": [{"status": "acked"}]}}


@mutant("S15")
def count_at_the_end(s: Spoiler) -> None:
    s.case.final["queues"][PLAIN]["ready"] += 1


@mutant("S17")
def digests_differ_at_the_end(s: Spoiler) -> None:
    s.case.final["nodes"]["n3"]["digest"] = "0" * 32


@mutant("S17")
def logs_differ_at_an_index(s: Spoiler) -> None:
    index = _alone(s).place[0]
    term, now_ms, requests = s.case.entries[index - 1]
    s.case.other[index] = (term, now_ms + 1, requests)


@mutant("S18")
def term_falls_in_the_log(s: Spoiler) -> None:
    s.set_entry(len(s.case.entries) - 3, term=1)


@mutant("S18")
def answer_of_another_term(s: Spoiler) -> None:
    s.all("enqueue")[0].ret["term"] = 0


@mutant("S18")
def two_leaders_of_one_term(s: Spoiler) -> None:
    s.case.nodes[-1] |= {"role": "leader", "node": "n3"}


@mutant("S18")
def term_of_a_node_falls(s: Spoiler) -> None:
    s.case.nodes[-1]["term"] = 1
    s.case.nodes[-1]["role"] = "follower"


@mutant("invalid")
def no_digests_at_all(s: Spoiler) -> None:
    s.case.final.clear()


@mutant("invalid")
def log_ends_early(s: Spoiler) -> None:
    del s.case.entries[-3:]


# --- liveness -----------------------------------------------------------------------------------------


@mutant("L1")
def nothing_served_after_the_heal(s: Spoiler) -> None:
    s.case.faults[-1]["t"] = s.last_t + 1


@mutant("L2")
def not_drained(s: Spoiler) -> None:
    s.case.history.append({"e": "note", "t": s.last_t, "what": "undrained", "left": {PLAIN: 3}})


@mutant("L2")
def message_left_over(s: Spoiler) -> None:
    """Listed as ready after everything had been drained."""
    repeated = {op.args["repeats"] for op in s.ops if "repeats" in op.args}
    op = s.one(op for op in s.all("enqueue") if op.args["queue"] == PLAIN and op.op not in repeated)
    name = op.result["messages"][0]["id"]
    s.drop(*(other for other in s.ops if other.f == "ack" and other.args["ids"] == [name]))
    browse = s.one(op for op in s.all("browse") if op.args["queue"] == PLAIN)
    s.one(one for one in browse.result["messages"] if one["id"] == name)["state"] = "ready"


@mutant("L3")
def a_node_stays_behind(s: Spoiler) -> None:
    s.case.final["nodes"]["n3"]["index"] -= 1


@mutant("L3")
def a_node_does_not_come_back(s: Spoiler) -> None:
    del s.case.final["nodes"]["n3"]


@mutant("L4")
def minority_stops_the_service(s: Spoiler) -> None:
    fired = s.one(line for line in s.case.faults if line["e"] == "fired")
    fired["struck"] = s.last_t - 40 * SECOND
    shift = 60 * SECOND
    for line in s.case.history:
        if line["t"] > s.last_t - 1000:
            line["t"] += shift
    s.case.faults[-1]["t"] = s.last_t + shift - 1


@mutant("invalid")
def fault_never_fired(s: Spoiler) -> None:
    s.case.faults[:] = [line for line in s.case.faults if line["e"] != "fired"]


@mutant("invalid")
def no_nack_ever_succeeded(s: Spoiler) -> None:
    s.drop(*s.all("nack", first=False))
