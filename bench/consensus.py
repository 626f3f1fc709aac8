"""How fast the replicated log is by itself: three real processes on loopback, fsync on, no HTTP.

    python -m bench.consensus run [--seconds 5] [--size 256] [--data DIR]     closed loops of K single enqueues
    python -m bench.consensus failover [--rounds 5] [--data DIR]              kill -9 of the leader, as proposals see it

The clients live in the leader's process, so this is the upper bound of what the API can give. One line of
JSON for each measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trivet.cli.local import free_base_port
from trivet.config import from_values
from trivet.errors import TrivetError
from trivet.machine.commands import Draft, Enqueue, PutQueue, QueueConfig, Request
from trivet.node.broker import Committed
from trivet.node.runtime import Node
from trivet.observability import metrics as m

MODES = ((1, 4.0), (64, 4.0), (1000, 4.0))


def free_ports(count: int) -> list[int]:
    base = free_base_port((count + 1) // 2)
    return [base + i for i in range(count)]


# --- inside a node's process ----------------------------------------------------------------------------


async def measure(node: Node, clients: int, seconds: float, size: int) -> dict[str, Any]:
    """A closed loop of `clients`, each with one enqueue under way."""
    draft = Draft(body=json.dumps("x" * (size - 2)).encode())
    latencies: list[float] = []
    going = True

    def one() -> None:
        began = time.perf_counter()

        def end(result: Committed | TrivetError) -> None:
            if isinstance(result, Committed):
                latencies.append(time.perf_counter() - began)
            if going:
                one()

        node.broker.offer(Request(Enqueue("bench", (draft,))), end)

    syncs, entries = node.meters.value(m.FSYNC_SECONDS), node.meters.value(m.PROPOSALS)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(clients):
        one()
    await asyncio.sleep(seconds)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    going = False
    await asyncio.sleep(0.3)
    latencies.sort()
    count = len(latencies)
    return {
        "clients": clients,
        "ops_s": round(count / took),
        "entries_s": round((node.meters.value(m.PROPOSALS) - entries) / took),
        "syncs_s": round((node.meters.value(m.FSYNC_SECONDS) - syncs) / took),
        "p50_ms": round(latencies[count // 2] * 1000, 2),
        "p99_ms": round(latencies[int(count * 0.99)] * 1000, 2),
        "max_ms": round(latencies[-1] * 1000, 1),
        "leader_cpu": round(cpu / took, 2),
        "leader_cpu_us_per_op": round(cpu / count * 1e6, 1),
        "fsync_ms": round(fsync_seconds(node) / max(1, node.meters.value(m.FSYNC_SECONDS)) * 1000, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def fsync_seconds(node: Node) -> float:
    return sum(
        float(line.split()[1])
        for line in node.metrics().decode().splitlines()
        if line.startswith(m.FSYNC_SECONDS.name + "_sum")
    )


def config_level(job: dict[str, Any]) -> str:
    return "info" if job["what"] == "failover" else "warning"


async def serve(config: dict[str, Any], job: dict[str, Any]) -> None:
    node = Node(
        from_values(
            {**config, "cluster.members": tuple(config["cluster.members"]), "log.level": config_level(job)}
        )
    )
    await node.start()
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, gone.set)
    work = run_when_leading(node, job) if job["what"] == "run" else write_for_ever(node)
    task = asyncio.ensure_future(work)
    await gone.wait()
    task.cancel()
    await node.stop()


async def run_when_leading(node: Node, job: dict[str, Any]) -> None:
    while not (node.replica.can_propose and node.machine.cluster_id):  # noqa: ASYNC110 the node tells nobody
        await asyncio.sleep(0.05)
    await node.broker.submit(Request(PutQueue("bench", QueueConfig())))
    await asyncio.sleep(1)
    cpu = time.process_time()
    await asyncio.sleep(2)
    print(json.dumps({"idle_leader_cpu": round((time.process_time() - cpu) / 2, 4)}), flush=True)
    for clients, seconds in MODES:
        profile = None
        if job.get("profile") == clients:
            import cProfile

            profile = cProfile.Profile()
            profile.enable()
        print(
            json.dumps(await measure(node, clients, job.get("seconds") or seconds, job["size"])), flush=True
        )
        if profile is not None:
            import pstats

            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)
    print("DONE", flush=True)


async def write_for_ever(node: Node) -> None:
    """While leading, one enqueue after the other; each commit is a line with its time."""
    told = False
    while True:
        if not node.replica.can_propose or not node.machine.cluster_id:
            if not told and node.caught_up() and node.replica.leader != node.node_id:
                told = True
                print(
                    json.dumps({"node": node.node_id, "follows": node.replica.leader, "at": time.time()}),
                    flush=True,
                )
            await asyncio.sleep(0.001)
            continue
        try:
            await node.broker.submit(Request(Enqueue("bench", (Draft(body=b'"x"'),))))
        except TrivetError as error:
            print(json.dumps({"node": node.node_id, "error": error.code, "at": time.time()}), flush=True)
            continue
        print(json.dumps({"node": node.node_id, "ok": 1, "at": time.time()}), flush=True)
        await asyncio.sleep(0.002)


def main_node(argument: str) -> None:
    import uvloop

    sys.setswitchinterval(float(os.environ.get("SWITCH", "0.005")))

    given = json.loads(argument)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given["config"], given["job"]))


# --- outside --------------------------------------------------------------------------------------------


class Processes:
    """Three nodes; their output goes to files."""

    def __init__(self, root: Path, job: dict[str, Any]) -> None:
        self.root, self.job = root, job
        ports = free_ports(6)
        self.names = ["n1", "n2", "n3"]
        self.members = [f"{name}=127.0.0.1:{port}" for name, port in zip(self.names, ports[:3], strict=True)]
        self.api = dict(zip(self.names, ports[3:], strict=True))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        config = {
            "node.id": name,
            "node.data_dir": str(self.root / name),
            "cluster.members": self.members,
            "cluster.bootstrap": True,
            "api.listen": f"127.0.0.1:{self.api[name]}",
        }
        with open(self.root / f"{name}.out", "ab") as out, open(self.root / f"{name}.err", "ab") as err:
            self.running[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bench.consensus",
                    "node",
                    json.dumps({"config": config, "job": self.job}),
                ],
                stdout=out,
                stderr=err,
            )

    def lines(self, name: str) -> list[str]:
        return (self.root / f"{name}.out").read_text().splitlines()

    def errors(self) -> str:
        return "".join(f"--- {n}\n{(self.root / f'{n}.err').read_text()[-60000:]}" for n in self.names)

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def run(options: argparse.Namespace) -> None:
    root = Path(tempfile.mkdtemp(prefix="trivet-bench-", dir=options.data))
    nodes = Processes(
        root, {"what": "run", "size": options.size, "seconds": options.seconds, "profile": options.profile}
    )
    try:
        for name in nodes.names:
            nodes.start(name)
        end = time.time() + 90
        while time.time() < end:
            done = [name for name in nodes.names if "DONE" in nodes.lines(name)]
            if done:
                print("\n".join(line for line in nodes.lines(done[0]) if line != "DONE"))
                break
            time.sleep(0.3)
        else:
            print("no result")
        text = nodes.errors()
        if options.profile or "Traceback" in text or "failed" in text:
            print(text)
    finally:
        nodes.end()
        shutil.rmtree(root, ignore_errors=True)


def failover(options: argparse.Namespace) -> None:
    root = Path(tempfile.mkdtemp(prefix="trivet-bench-", dir=options.data))
    nodes = Processes(root, {"what": "failover"})
    gaps: list[float] = []
    try:
        for name in nodes.names:
            nodes.start(name)
        for _ in range(options.rounds):
            leader = wait_for_writer(nodes, time.time())
            time.sleep(1.0)
            killed_at = time.time()
            nodes.running[leader].kill()
            nodes.running[leader].wait()
            wait_for_writer(nodes, killed_at, but=leader)
            first = min(
                at for name in nodes.names for at in commits(nodes, name) if name != leader and at > killed_at
            )
            gaps.append(first - killed_at)
            if options.verbose:
                print(json.dumps({"killed": leader, "at": stamp(killed_at), "gap": round(gaps[-1], 3)}))
            nodes.start(leader)
            wait_for_follower(nodes, leader, time.time())
        gaps.sort()
        print(
            json.dumps(
                {
                    "kills": len(gaps),
                    "median_s": round(gaps[len(gaps) // 2], 3),
                    "worst_s": round(gaps[-1], 3),
                    "all_s": [round(g, 3) for g in gaps],
                }
            )
        )
    finally:
        nodes.end()
        print(nodes.errors() if options.verbose else "", end="")
        shutil.rmtree(root, ignore_errors=True)


def stamp(at: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at)) + f"{at % 1:.3f}"[1:]


def commits(nodes: Processes, name: str) -> list[float]:
    found = [json.loads(line) for line in nodes.lines(name) if line.endswith("}")]
    return [one["at"] for one in found if "ok" in one]


def wait_for_writer(nodes: Processes, since: float, but: str = "") -> str:
    end = time.time() + 20
    while time.time() < end:
        for name in nodes.names:
            if name != but and name in nodes.running and any(at > since for at in commits(nodes, name)):
                return name
        time.sleep(0.02)
    raise SystemExit("nobody writes\n" + nodes.errors())


def wait_for_follower(nodes: Processes, name: str, since: float) -> None:
    end = time.time() + 20
    while time.time() < end:
        found = [json.loads(line) for line in nodes.lines(name) if "follows" in line]
        if any(one["at"] > since for one in found):
            return
        time.sleep(0.02)
    raise SystemExit(f"{name} does not come back\n" + nodes.errors())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "failover"):
        sub = commands.add_parser(name)
        sub.add_argument("--data", default=None)
        sub.add_argument("--seconds", type=float, default=None)
        sub.add_argument("--size", type=int, default=256)
        sub.add_argument("--rounds", type=int, default=5)
        sub.add_argument("--profile", type=int, default=None)
        sub.add_argument("--verbose", action="store_true")
    node = commands.add_parser("node")
    node.add_argument("given")
    options = parser.parse_args()
    if options.command == "node":
        main_node(options.given)
    elif options.command == "run":
        run(options)
    else:
        failover(options)


if __name__ == "__main__":
    main()
