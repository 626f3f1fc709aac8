"""What each step of the hot path costs: CPU µs per message, without network, consensus and disk.

    python -m bench.micro [--batch 100,1000] [--size 256] [--depth 0] [--rounds 5] [--only TEXT] [--json]
    python -m bench.micro --against OTHER/src     # the same with another source tree, in turns, as ratios

Roles: `leader` is a request's bytes → command → entry → apply → the answer's bytes; `follower` is the same
entries → apply; both through the node's own `Applier` and `Broker`, on a loopback that commits at once. The
other lines are single steps of it. Each figure is the best of `--rounds` (process CPU time, so that a
neighbour on the same cores changes little); with `--against`, rounds of both trees take turns in child
processes and `ratio` is other / this: above 1 this tree is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from msgspec import msgpack

from trivet.http import messages
from trivet.http.app import Services, Settings
from trivet.http.call import Call
from trivet.http.routes import make_router
from trivet.machine.commands import MACHINE_VERSION, Genesis, PutQueue, QueueConfig, Request
from trivet.node.applier import Applier
from trivet.node.broker import Broker
from trivet.node.garbage import Garbage
from trivet.node.waiters import Waiters
from trivet.wire import frames
from trivet.wire.entry import EntryReader, encode_request, join_entry

QUEUE = "bench"
NOW_MS = 1_700_000_000_000

Steps = dict[str, float]
"""Name of a step → CPU seconds of one round."""


class Loopback:
    """A leader alone: what is offered is applied at once, and every entry is kept for the follower."""

    role, term, leader, is_leader, can_propose = "leader", 1, "n1", True, True
    recovering = None
    draining = False
    node_id = "n1"

    def __init__(self) -> None:
        self.applier = Applier(lambda _index, effects: self.broker.entry_applied(effects))
        self.entries: list[bytes] = []
        self.now_ms = NOW_MS
        self.broker = Broker(
            consensus=self,  # type: ignore[arg-type]
            machine=lambda: self.applier.machine,
            host=self,  # type: ignore[arg-type]
            clock=self,
            stamp=lambda: self.now_ms,
            wake=self.commit,
        )
        self.waiters = Waiters(self.broker)
        self.services = Services(self.broker, self.waiters, Settings())

    @property
    def applied_index(self) -> int:
        return self.applier.applied_index

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def wall_ms(self) -> int:
        return self.now_ms

    def read(self, done: Callable[[bool], None]) -> None:
        done(True)

    def pressure(self) -> None:
        return None

    def api_url(self, _node: str) -> str:
        return "http://127.0.0.1:1"

    def commit(self) -> None:
        from trivet.consensus.port import Applied

        batch = self.broker.next_batch()
        if batch is None:
            return
        data, done = batch
        index = self.applier.applied_index + 1
        self.applier.start(index, 1, data)
        while not self.applier.step(_never):
            pass
        self.entries.append(data)
        done(Applied(index, 1, self.applier.result))

    async def ask(
        self, handler: Callable[[Call], Awaitable[Any]], path: str, body: bytes, media: str
    ) -> bytes:
        """A POST as `http.app` hands it to its handler; the answer's body."""
        route, params = ROUTER.find("POST", path)
        request: Any = SimpleNamespace(headers={}, transport=SimpleNamespace(is_closing=lambda: False))
        call = Call(request, self.services, route, path, params, {}, media, media, body, f"r{self.now_ms}")
        self.now_ms += 1
        reply = await handler(call)
        data: bytes = reply.body
        return data


def _never() -> bool:
    return False


ROUTER = make_router()


def codec(media: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    if media.endswith("json"):
        return msgspec.json.encode, msgspec.json.decode
    return msgpack.encode, msgpack.decode


async def _leader(batch: int, media: str, log: list[bytes], given: argparse.Namespace) -> Steps:
    """One round of the leader's work. `log` gets its entries; an empty one stands where the round begins."""
    size = given.size
    node = Loopback()
    encode, decode = codec(media)
    enqueue, lease, ack = messages.enqueue, messages.lease, messages.ack
    path = f"/v1/queues/{QUEUE}"
    made = {"body": b"x" * size if media.endswith("msgpack") else "x" * (size - 2)}
    await node.broker.submit(Request(Genesis("c", b"s" * 32, ("n1",))))
    await node.broker.submit(Request(PutQueue(QUEUE, QueueConfig())))
    full = encode({"messages": [made] * 1000})
    for _ in range(given.depth // 1000):
        await node.ask(enqueue, path + "/messages", full, media)
    log += node.entries
    node.entries.clear()
    garbage = Garbage()
    garbage.start()
    spent = {"enqueue": 0.0, "lease": 0.0, "ack": 0.0}
    clock = time.process_time
    for _ in range(given.messages // batch):
        body = encode({"messages": [made] * batch})
        began = clock()
        await node.ask(enqueue, path + "/messages", body, media)
        spent["enqueue"] += clock() - began
        body = encode({"consumer": "bench", "max_messages": batch})
        began = clock()
        answer = await node.ask(lease, path + "/lease", body, media)
        spent["lease"] += clock() - began
        tokens = [{"lease_token": one["lease_token"]} for one in decode(answer)["messages"]]
        assert len(tokens) == batch
        body = encode({"acks": tokens})
        began = clock()
        answer = await node.ask(ack, "/v1/ack", body, media)
        spent["ack"] += clock() - began
        assert decode(answer)["results"][-1]["status"] == "acked"
        began = clock()
        garbage.on_timer()
        spent["ack"] += clock() - began
    garbage.stop()
    log.append(b"")
    log += node.entries
    return {f"leader {media[12:]} {name}": s for name, s in spent.items()}


def _follower(log: list[bytes]) -> Steps:
    """The same entries, applied as a follower does."""
    applier = Applier(lambda _index, _effects: None)
    garbage = Garbage()
    spent = {"enqueue": 0.0, "lease": 0.0, "ack": 0.0}
    names = list(spent)
    clock = time.process_time
    split = log.index(b"")
    for at, data in enumerate(log[:split]):
        applier.start(at + 1, 1, data)
        applier.step(_never)
    garbage.start()
    for at, data in enumerate(log[split + 1 :]):
        began = clock()
        applier.start(split + at + 1, 1, data)
        applier.step(_never)
        if at % 3 == 2:
            garbage.on_timer()
        spent[names[at % 3]] += clock() - began
    garbage.stop()
    return {f"follower {name}": s for name, s in spent.items()}


def _steps(log: list[bytes]) -> Steps:
    """Single steps over the round's entries."""
    split = log.index(b"")
    entries = log[split + 1 :]
    found: Steps = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        found[name] = time.process_time() - began
        return result

    requests: dict[str, list[Request]] = {}
    for place, name in enumerate(("enqueue", "lease", "ack")):
        readers = [EntryReader(data) for data in entries[place::3]]
        taken = timed(f"entry decode {name}", partial(_read, readers))
        requests[name] = [request for request in taken if request is not None]
        timed(f"entry encode {name}", partial(_write, requests[name]))
    append = [
        frames.Append("c" * 32, "n1", 1, at, at, 1, at, 0, 0, frames.Health(0, 0, False), [(1, data)])
        for at, data in enumerate(entries)
    ]
    sent = timed("frame encode", lambda: [frames.encode(one) for one in append])

    def receive() -> None:
        reader = frames.FrameReader()
        for data in sent:
            for body in reader.feed(data):
                frames.decode_body(body, None)

    timed("frame decode", receive)
    timed("log append", lambda: _log(entries))
    return found


def _read(readers: list[EntryReader]) -> list[Request | None]:
    return [reader.next() for reader in readers]


def _write(requests: list[Request]) -> None:
    for request in requests:
        join_entry(MACHINE_VERSION, NOW_MS, [encode_request(request)])


def _log(entries: list[bytes]) -> None:
    """The bytes of the log's records, with their checksums."""
    from trivet.storage.records import RecordKind, encode_record

    chain = position = 0
    for at, data in enumerate(entries):
        *parts, chain = encode_record(RecordKind.ENTRY, position, position, at, 1, data, chain, 7)
        position += len(b"".join(parts))


def one_round(batch: int, given: argparse.Namespace) -> Steps:
    found: Steps = {}
    for media in ("application/json", "application/msgpack"):
        log: list[bytes] = []
        found |= asyncio.run(_leader(batch, media, log, given))
        gc.collect()
    found |= _follower(log)
    gc.collect()
    found |= _steps(log)
    return {f"{name} ×{batch}": seconds * 1e6 / given.messages for name, seconds in found.items()}


def best(rounds: list[Steps]) -> Steps:
    return {name: min(one[name] for one in rounds if name in one) for name in rounds[0]}


def with_sums(steps: Steps) -> Steps:
    """A role's sum before its parts."""
    sums: Steps = {}
    for name, us in steps.items():
        role, _, rest = name.rpartition(" ")[0].rpartition(" ")
        if role.startswith(("leader", "follower")) and rest in ("enqueue", "lease", "ack"):
            total = f"{role} all three ×{name.rpartition('×')[2]}"
            sums[total] = sums.get(total, 0.0) + us
    return sums | steps


def child(source: Path, given: argparse.Namespace) -> Steps:
    """One round in a process of its own, with that source tree."""
    command = [sys.executable, __file__, "--child", "--batch", given.batch]
    command += ["--size", str(given.size), "--depth", str(given.depth), "--messages", str(given.messages)]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the round with {source} failed:\n{done.stderr}")
    found: Steps = json.loads(done.stdout)
    return found


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.micro")
    options.add_argument("--batch", default="100,1000", help="messages a request, several with commas")
    options.add_argument("--size", type=int, default=256, help="bytes of a body")
    options.add_argument("--depth", type=int, default=0, help="messages waiting in the queue all the time")
    options.add_argument(
        "--messages", type=int, default=20_000, help="of each round; a multiple of the batch"
    )
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--against", type=Path, help="the src directory of another tree")
    options.add_argument("--only", default="", help="only lines with this text")
    options.add_argument("--json", action="store_true")
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    batches = [int(text) for text in given.batch.split(",")]
    if given.child:
        found: Steps = {}
        for batch in batches:
            found |= one_round(batch, given)
        print(json.dumps(found))
        return 0
    mine: list[Steps] = []
    theirs: list[Steps] = []
    here = Path(__file__).resolve().parent.parent / "src"
    for _ in range(given.rounds):
        mine.append(child(here, given))
        if given.against is not None:
            theirs.append(child(given.against, given))
    _show(with_sums(best(mine)), with_sums(best(theirs)) if theirs else {}, given)
    return 0


def _show(mine: Steps, theirs: Steps, given: argparse.Namespace) -> None:
    names = [name for name in mine if given.only in name]
    if given.json:
        print(json.dumps([
            {"step": name, "us": round(mine[name], 3)}
            | ({"other_us": round(theirs[name], 3), "ratio": round(theirs[name] / mine[name], 2)} if theirs else {})
            for name in names
        ]))  # fmt: skip
        return
    print(f"CPU µs per message, body {given.size} B, depth {given.depth}, best of {given.rounds}")
    for name in names:
        other = f"{theirs[name]:9.2f}{theirs[name] / max(mine[name], 1e-9):8.2f} ×" if theirs else ""
        print(f"  {name:<36}{mine[name]:9.2f}{other}")


if __name__ == "__main__":
    sys.exit(main())
