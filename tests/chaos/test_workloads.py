"""The clients of a drill: what they write down of calls that go wrong, and a whole load on one node."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chaos.history import Operation, Recorder, lines, notes, operations
from chaos.sink import Sink
from chaos.workloads import WORKLOADS, Load
from chaos.workloads.base import Role, Surroundings, run
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Doubts, Process, described

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import ApiError, Lease, NotPerformed, OutcomeUnknown, StaleLease
from trivet.client.session import SystemClock

Answer = Callable[[bytes], bytes | None]


def packed(status: int, data: dict[str, Any]) -> bytes:
    body = msgspec.msgpack.encode(data)
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/msgpack\r\nTrivet-Node: n1\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def against(answer: Answer, use: Callable[[Process], Awaitable[Any]], path: Path) -> list[Operation]:
    """`use` of a process whose only node answers each request with `answer` (None: it hangs up)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.startswith(b"Content-Length")), 0
        )
        said = answer(head + await reader.readexactly(length))
        if said is not None:
            writer.write(said.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            node = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with Process([node], recorder, "w.role-0", OneAttempt(), Doubts()) as process:
                await use(process)

    recorder = Recorder(path / "history.jsonl", run="run")
    asyncio.run(main())
    recorder.close()
    return list(operations(recorder.path))


class OneAttempt(random.Random):
    """Draws the least patience."""

    def choice(self, among: Any) -> Any:
        return min(among)


def test_an_answer_that_never_came_is_unknown_and_retires_the_process(tmp_path: Path) -> None:
    async def use(process: Process) -> None:
        assert process.proc == "w.role-0.0"
        with pytest.raises(OutcomeUnknown):
            await process.enqueue("q", {"a": 1})
        assert process.proc == "w.role-0.1"
        with pytest.raises(ApiError):  # a read has no effect: it failed, and nobody retires
            await process.queue("q")
        assert process.proc == "w.role-0.1"

    write, read = against(lambda _: None, use, tmp_path)
    assert (write.type, write.code, write.unknown_attempts) == ("info", "outcome_unknown", 1)
    assert write.args == {"queue": "q", "messages": [{"body": {"a": 1}}], "request_id": "run-1"}
    assert (read.type, read.f, read.proc) == ("fail", "read_queue", "w.role-0.1")


def test_doubts_name_what_only_the_broker_knows(tmp_path: Path) -> None:
    leased = {
        "id": "m1",
        "queue": "q",
        "lease_token": "t1",
        "lease_expires_at_ms": 2000,
        "attempt": 1,
        "body": {"op": 1, "i": 0, "pad": "x"},
        "headers": {},
        "group": None,
    }

    def answer(request: bytes) -> bytes | None:
        if b"/lease" in request:
            return packed(200, {"messages": [leased], "now_ms": 1000, "index": 5, "seq": 0, "term": 2})
        if b"effects/begin" in request:
            return packed(200, {"state": "granted", "effect_token": "e1", "uncertain": False, "index": 6})
        return None

    seen: list[Doubts] = []

    async def use(process: Process) -> None:
        (lease,) = await process.lease("q", "c")
        await process.effect_begin("effect", "c", lease=lease)
        for call in (process.effect_commit("e1"), process.ack_many([lease, "forged"])):
            with pytest.raises(OutcomeUnknown):
                await call
        seen.append(process._doubts)

    lease, _, commit, ack = against(answer, use, tmp_path)
    assert (lease.index, lease.seq, lease.term, lease.asof) == (5, 0, 2, None)
    assert "headers" not in lease.result["messages"][0] and lease.result["messages"][0]["body"]["pad"] == "x"
    assert commit.args["effect_id"] == "effect"
    assert ack.args["ids"] == ["m1", None]
    assert (list(seen[0].messages), list(seen[0].effects)) == (["m1"], ["effect"])


def test_a_settle_of_which_every_item_was_refused_has_failed(tmp_path: Path) -> None:
    results = [{"status": "stale_lease"}, {"status": "acked"}]

    def answer(request: bytes) -> bytes:
        return packed(200, {"results": results, "index": 9, "seq": 2, "term": 1, "repeated": True})

    async def use(process: Process) -> None:
        await process.ack_many(["a", "b"], strict=False)
        results.pop()
        with pytest.raises(StaleLease):
            await process.ack_many(["a"])

    some, none = against(answer, use, tmp_path)
    assert (some.type, some.index, some.repeated) == ("ok", 9, True)
    assert (none.type, none.code, none.index, none.result) == (
        *("fail", "stale_lease", 9),
        {"results": [{"status": "stale_lease"}]},
    )


def test_an_empty_lease_was_a_read(tmp_path: Path) -> None:
    async def use(process: Process) -> None:
        assert not await process.lease("q", "c")

    nothing = {"messages": [], "now_ms": 1, "index": 9, "seq": 0, "term": 1}
    (lease,) = against(lambda _: packed(200, nothing), use, tmp_path)
    assert (lease.type, lease.asof, lease.index) == ("ok", 9, None)


def test_unknown_enqueues_are_said_again_under_the_same_keys(tmp_path: Path) -> None:
    asked = []

    def answer(request: bytes) -> bytes | None:
        asked.append(request)
        if len(asked) < 4:
            return None
        one = {"id": "m1", "state": "ready", "duplicate": True}
        return packed(201, {"messages": [one], "index": 3, "seq": 0, "term": 1})

    async def use(process: Process) -> None:
        sink = Sink(tmp_path / "sink.jsonl")
        keyed = Keyed(Surroundings(["http://127.0.0.1:1"], process.recorder, sink, 1), 1.0)
        op = process.reserve()
        assert await keyed.until_known(process, op, [keyed.message(op, 0, process)])
        sink.close()

    calls = against(answer, use, tmp_path)
    assert [one.type for one in calls] == ["info", "info", "info", "ok"]
    assert [one.args.get("repeats") for one in calls] == [None, 1, 1, 1]
    assert len({str(one.args["messages"]) for one in calls}) == 1
    assert calls[0].args["messages"][0]["idempotency_key"] == "run-1-0"
    for one in calls:
        assert one.args["request_id"] in ("run-1", f"run-{one.op}")


class Repeats(OneAttempt):
    def random(self) -> float:
        return 0.6


def test_what_stayed_unknown_is_said_again_as_the_same_request(tmp_path: Path) -> None:
    recorders: list[Recorder] = []

    def answer(request: bytes) -> bytes | None:
        f = "lease" if b"/lease" in request else "ack"
        if not recorders[0].counts[f]["info"]:
            return None
        if f == "lease":
            return packed(200, {"messages": [], "lost": 1, "now_ms": 1, "index": 4, "seq": 0, "term": 1})
        return packed(200, {"results": [{"status": "acked"}], "index": 5, "repeated": True})

    async def use(process: Process) -> None:
        process.rng = Repeats()
        recorders.append(process.recorder)
        sink = Sink(tmp_path / "sink.jsonl")
        keyed = Keyed(Surroundings(["http://127.0.0.1:1"], process.recorder, sink, 1), 1.0)
        await keyed.lease(process, 1)
        await keyed.ack(process, [{"lease_token": "t"}])
        sink.close()

    calls = against(answer, use, tmp_path)
    told = [(one.f, one.type, one.args["request_id"], one.args.get("repeats"), one.repeated) for one in calls]
    assert told == [
        ("lease", "info", "run-1", None, False),
        ("lease", "ok", "run-1", 1, False),
        ("ack", "info", "run-3", None, False),
        ("ack", "ok", "run-3", 3, True),
    ]


def test_a_defect_of_the_drill_is_written_down_and_raised(tmp_path: Path) -> None:
    problem = {"code": "invalid_argument", "detail": "no", "retry": "never", "status": 400}

    async def use(process: Process) -> None:
        async def step(process: Process) -> None:
            await process.put_queue("q", nonsense=1)

        with pytest.raises(ApiError):
            await run(Role("r", step), process, asyncio.Event())

    against(lambda _: packed(400, problem), use, tmp_path)
    (note,) = notes(tmp_path / "history.jsonl")
    assert (note["what"], note["proc"]) == ("defect", "w.role-0.0")


def test_a_call_that_no_workload_should_make_is_refused() -> None:
    with pytest.raises(ValueError, match="no operation"):
        described("POST", "/v1/queues/q/purge", {})
    assert described("GET", "/v1/queues/a%2Fb?consistency=local", None) == (
        *("read_queue", {"queue": "a/b", "local": True}),
    )


def test_the_sink_does_it_twice_when_told_twice_and_nothing_under_a_short_lease(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "sink.jsonl")
    data = {"id": "m1", "queue": "q", "lease_token": "t", "lease_expires_at_ms": 2000}
    lease = Lease(data, 0, time.monotonic(), SystemClock())
    assert not sink.has("e:m1")
    sink.execute("e:m1", lease, "p.0")
    sink.execute("e:m1", lease, "p.0")
    short = Lease({**data, "id": "m2"}, 1800, time.monotonic(), SystemClock())
    with pytest.raises(NotPerformed):
        sink.execute("e:m2", short, "p.0")
    sink.close()
    assert sink.has("e:m1") and not sink.has("e:m") and not sink.has("e:m2")
    assert [one["effect_id"] for one in lines(sink.path)] == ["e:m1", "e:m1"]


def test_what_is_asked_of_a_load_is_looked_at(tmp_path: Path) -> None:
    recorder, sink = Recorder(tmp_path / "h"), Sink(tmp_path / "s")
    with pytest.raises(ValueError, match="rate"):
        Load([], recorder, sink, 1, ["enqueue"], 0)
    with pytest.raises(ValueError, match="queue"):
        Load([], recorder, sink, 1, ["reads"])
    with pytest.raises(KeyError):
        Load([], recorder, sink, 1, ["nonsense"])
    recorder.close()
    sink.close()


OPERATIONS = frozenset(
    {
        *("ack", "browse", "cancel", "dead_letters", "effect_begin", "effect_commit", "enqueue", "extend"),
        *("publish", "put_topic", "append_events", "read_events", "follow"),
        *("lease", "nack", "patch_queue", "put_queue", "read_message", "read_queue", "redrive", "release"),
        *("create_flow", "read_flow", "put_schedule", "read_schedule"),
    }
)


def everything_happened(load: Load) -> bool:
    succeeded = {f for f, by_type in load.counts().items() if by_type.get("ok")}
    return succeeded >= OPERATIONS and b'"proc":"zombies.zombie-1' in load.recorder.path.read_bytes()


@pytest.mark.slow
def test_a_whole_load_drains_and_knows_the_end_of_every_message(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = LocalCluster(tmp_path / "cluster", 1, free_base_port(1))
        await cluster.start()
        load = Load(cluster.apis, recorder, sink, 3, WORKLOADS, rate=100)
        try:
            await cluster.wait_for_leader()
            await load.prepare()
            load.start()
            async with asyncio.timeout(60):
                while not everything_happened(load):  # noqa: ASYNC110 nothing tells of a count
                    await asyncio.sleep(0.1)
            await load.stop()
            await load.drain(30)
        finally:
            await load.close()
            await cluster.stop()

    recorder, sink = Recorder(tmp_path / "history.jsonl"), Sink(tmp_path / "sink.jsonl")
    asyncio.run(main())
    recorder.close()
    sink.close()
    calls = list(operations(recorder.path))
    states = _ends(calls)
    unknown = {one.op for one in calls if one.f in ("enqueue", "ack", "publish") and one.type == "info"}
    assert _enqueued(calls) <= set(states)
    assert {op for op, _, _ in states.values()} <= {one.op for one in calls if one.type == "ok"} | unknown
    assert {state for _, _, state in states.values()} == {"done", "dead", "cancelled"}
    assert {w for _, w, state in states.values() if state != "done"} == {"dead_letters", "flows", "mixes"}
    assert _made_by_schedules(calls) == {"done"}
    # The broker let no zombie through, and the outside world saw each deed once.
    zombie = [one for one in calls if one.proc.startswith("zombies.zombie-1")]
    assert zombie and not any(one.type == "ok" for one in zombie)
    executed = Counter(one["effect_id"] for one in lines(sink.path))
    assert len(executed) == Counter(w for _, w, _ in states.values())["work"]
    assert set(executed.values()) == {1}
    phases = [one["phase"] for one in lines(recorder.path) if one["e"] == "note"]
    assert phases == ["load", "stop", "drain", "drained", "resolved"]


def _enqueued(calls: list[Operation]) -> set[str]:
    return {
        one["id"]
        for call in calls
        if call.f in ("enqueue", "ack") and call.type == "ok"
        for one in call.result.get("messages", ())
    }


def _ends(calls: list[Operation]) -> dict[str, tuple[int, str, str]]:
    """Message → its operation, workload and state, as the browse at the end says."""
    return {
        one["id"]: (one["body"]["op"], one["body"]["w"], one["state"])
        for call in calls
        if call.f == "browse" and call.proc.startswith("load.drain")
        for one in call.result["messages"]
        if "op" in one["body"]
    }


def _made_by_schedules(calls: list[Operation]) -> set[str]:
    """In which states the browse at the end saw them."""
    return {
        one["state"]
        for call in calls
        if call.f == "browse" and call.proc.startswith("load.drain")
        for one in call.result["messages"]
        if "schedule" in one["body"]
    }
