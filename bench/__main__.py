"""Trivet beside RabbitMQ quorum queues and NATS JetStream R3, three local nodes each, in interleaved rounds.

    python -m bench [--rounds 3] [--seconds 8] [--brokers trivet,nats-always,nats-always-c,rabbit] [--tests …] [--out DIR]

Only one broker runs at a time. A run in which something else used more than 0.15 cores, or the host took more
than 3 % of the machine, counts as disturbed: medians are of the clean runs, and the table says where there is
none. Ratios come first. *Bulk against pipelined*: Trivet's SDK sends requests of 500 messages, two at a time;
nats-py and pika send single messages, 1,000 unconfirmed; `200 a second` is single against single.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.brokers import BROKERS, Unavailable
from bench.compare import TESTS, Figure
from bench.table import is_clean, table, write


async def one_round(name: str, tests: list[str], given: argparse.Namespace, directory: Path) -> list[Figure]:
    broker = BROKERS[name]()
    figures = []
    try:
        await broker.start(directory)
        for test in tests:
            figure = await TESTS[test](broker, given.seconds, given.size)
            figures.append(figure)
            note = "" if is_clean(figure) else f"  (disturbed: {figure.other_cores} cores by others)"
            print(
                f"{figure.broker:<14} {figure.test:<14} {figure.per_second:>9,.0f}/s  servers {figure.server_us:>7} µs"
                f"  clients {figure.client_us:>7} µs{note}",
                flush=True,
            )
    finally:
        await broker.stop()
    return figures


async def rounds(given: argparse.Namespace) -> list[Figure]:
    running = asyncio.current_task()
    assert running is not None
    # A SIGTERM ends the brokers too: RabbitMQ's Erlang machine is a grandchild and would live on.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    figures: list[Figure] = []
    names = given.brokers.split(",")
    for number in range(given.rounds):
        print(f"round {number + 1} of {given.rounds}", flush=True)
        for name in list(names):
            with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as directory:
                try:
                    figures += await one_round(name, given.tests.split(","), given, Path(directory))
                except Unavailable as why:
                    print(f"{name} is left out: {why}", flush=True)
                    names.remove(name)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--size", type=int, default=256, help="bytes of a message")
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--tests", default=",".join(TESTS))
    parser.add_argument("--out", type=Path, help="keep figures.json and figures.svg there")
    given = parser.parse_args()
    figures = asyncio.run(rounds(given))
    print()
    print(table(figures, {name: broker.durability for name, broker in BROKERS.items()}))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "figures.json").write_bytes(msgspec.json.encode(figures))
        write(figures, given.out / "figures.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
