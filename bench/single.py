"""Single-message requests over 64 keep-alive connections, driven by wrk: enqueues a second, latency, what limits them.

    python -m bench.single [--seconds 8] [--connections 64] [--size 256]

wrk is one C thread, so the servers have what is left of the machine. Reported beside the rate: how many log
entries the enqueues became (one fsync on each node an entry), and the leader's share of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from pathlib import Path

from bench.brokers.trivet import Trivet
from bench.compare import QUEUE
from bench.process import cpu_of, cpu_s
from trivet.client import Client

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"body":"' .. string.rep("x", %d) .. '"}'
local bad = 0
function response(status) if status ~= 201 then bad = bad + 1; print("status " .. status) end end
"""


async def measure(directory: Path, given: argparse.Namespace) -> int:
    broker = Trivet()
    try:
        await broker.start(directory / "cluster")
        await broker.prepare(QUEUE)
        leader = await broker.leader(QUEUE)
        pids = [broker.pid(node) for node in (1, 2, 3)]
        (directory / "enqueue.lua").write_text(SCRIPT % given.size)
        async with Client(broker.cluster.apis) as client:
            before, depth = await client.cluster(), await broker.depth(QUEUE)
            used, leading = cpu_of(pids), cpu_s(broker.pid(leader))
            wrk = await asyncio.create_subprocess_exec(
                *("wrk", "-t1", f"-c{given.connections}", f"-d{given.seconds}s", "--latency"),
                *("-s", str(directory / "enqueue.lua")),
                f"{broker.address(leader)}/v1/queues/{QUEUE}/messages",
                stdout=asyncio.subprocess.PIPE,
            )
            output = (await wrk.communicate())[0].decode()
            used, leading = cpu_of(pids) - used, cpu_s(broker.pid(leader)) - leading
            after, messages = await client.cluster(), await broker.depth(QUEUE) - depth
    finally:
        await broker.stop()
    if wrk.returncode or "status " in output or not messages:
        print(output)
        return 1
    entries = after["commit_index"] - before["commit_index"]
    percent = dict(re.findall(r"(\d\d)%\s+([\d.]+m?u?s)", output))
    print(f"{messages / given.seconds:,.0f} enqueues/s over {given.connections} connections, 256 B, fsync on")
    print(f"  latency p50 {percent['50']}, p99 {percent['99']}")
    print(f"  {messages / entries:.1f} messages an entry, {entries / given.seconds:,.0f} entries/s")
    print(
        f"  server CPU {used / messages * 1e6:.0f} µs a message, leader {leading / given.seconds:.2f} cores:"
        f" {'the leader is the limit' if leading / given.seconds > 0.85 else 'the cores are shared with wrk and followers'}"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.single", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        print("needs wrk (make bench installs it as root)")
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-single-") as directory:
        return asyncio.run(measure(Path(directory), given))


if __name__ == "__main__":
    sys.exit(main())
