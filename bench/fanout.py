"""What a publish costs: CPU µs per message published, by the number of groups it reaches, without network and disk.

    python -m bench.fanout [--groups 0,1,4,16,64] [--batch 1,50] [--size 256] [--rounds 5]

`leader` is a request's bytes → command → entry → apply → the answer's bytes, on the loopback of `bench.micro`;
`follower` the same entries applied; `enqueue` the same messages to one plain queue, to compare with. Then the
same for a lease and ack of all that came into one group. Each figure is the best of `--rounds`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from typing import Any

import msgspec

from bench.micro import NOW_MS, Loopback, _never
from trivet.http import messages, topics
from trivet.machine.commands import Genesis, PutGroup, PutQueue, PutTopic, QueueConfig, Request
from trivet.node.applier import Applier
from trivet.node.garbage import Garbage

MEDIA = "application/msgpack"
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode


async def _leader(
    groups: int | None, batch: int, given: argparse.Namespace
) -> tuple[dict[str, float], list[bytes], int]:
    """`groups` None: an enqueue to a queue instead."""
    node = Loopback()
    await node.broker.submit(Request(Genesis("c", b"s" * 32, ("n1",))))
    if groups is None:
        await node.broker.submit(Request(PutQueue("q", QueueConfig())))
        path, handler, work = "/v1/queues/q/messages", messages.enqueue, "q"
    else:
        await node.broker.submit(Request(PutTopic("t", 10**9, given.kept)))
        for n in range(groups):
            await node.broker.submit(Request(PutGroup("t", f"g{n}", QueueConfig())))
        path, handler, work = "/v1/topics/t/messages", topics.publish, "t:g0"
    start = len(node.entries)
    body = _encode({"messages": [{"body": b"x" * given.size}] * batch})
    if batch == 1:
        body = _encode({"body": b"x" * given.size})
    garbage = Garbage()
    garbage.start()
    spent = {"publish": 0.0, "work": 0.0}
    clock = time.process_time
    for _ in range(given.messages // batch):
        began = clock()
        await node.ask(handler, path, body, MEDIA)
        spent["publish"] += clock() - began
        garbage.on_timer()
    entries = node.entries[start:]
    if groups != 0:
        for _ in range(given.messages // 100):
            began = clock()
            asked = _encode({"consumer": "bench", "max_messages": 100})
            answer: Any = await node.ask(messages.lease, f"/v1/queues/{work}/lease", asked, MEDIA)
            tokens = [{"lease_token": one["lease_token"]} for one in _decode(answer)["messages"]]
            assert len(tokens) == 100
            await node.ask(messages.ack, "/v1/ack", _encode({"acks": tokens}), MEDIA)
            spent["work"] += clock() - began
            garbage.on_timer()
    garbage.stop()
    return spent, node.entries[:start] + entries, start


def _follower(entries: list[bytes], start: int) -> float:
    applier = Applier(lambda _index, _effects: None)
    garbage = Garbage()
    spent = 0.0
    for at, data in enumerate(entries):
        began = time.process_time()
        applier.start(at + 1, 1, data)
        while not applier.step(_never):
            pass
        if at >= start:
            spent += time.process_time() - began
        garbage.on_timer()
    return spent


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.fanout")
    options.add_argument("--groups", default="0,1,4,16,64")
    options.add_argument("--batch", default="1,50", help="messages a request, several with commas")
    options.add_argument("--size", type=int, default=256, help="bytes of a body")
    options.add_argument("--kept", type=int, default=100_000, help="messages the topic keeps")
    options.add_argument("--messages", type=int, default=5000, help="of each round; a multiple of the batch")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    assert NOW_MS
    print(f"CPU µs per message published, body {given.size} B, {given.kept} kept, best of {given.rounds}")
    print(f"  {'':<22}{'leader':>10}{'follower':>10}{'per group':>11}{'lease and ack of one group':>28}")
    for batch in (int(text) for text in given.batch.split(",")):
        for groups in (None, *(int(text) for text in given.groups.split(","))):
            lead, follow, work = [], [], []
            for _ in range(given.rounds):
                spent, entries, start = asyncio.run(_leader(groups, batch, given))
                lead.append(spent["publish"])
                work.append(spent["work"])
                follow.append(_follower(entries, start))
                gc.collect()
            us = [min(each) * 1e6 / given.messages for each in (lead, follow, work)]
            name = f"enqueue ×{batch}" if groups is None else f"{groups} groups ×{batch}"
            each = f"{us[0] / groups:11.2f}" if groups else f"{'':11}"
            print(f"  {name:<22}{us[0]:10.2f}{us[1]:10.2f}{each}{us[2]:28.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
