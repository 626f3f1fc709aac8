"""`trivet serve` under py-spy or cProfile: what each role of a cluster spends its CPU on.

    python -m bench.profiled [--how py-spy|cprofile] [--seconds 8] [--batch 100] [--lines 40]

Runs `bench.first_figure`'s load against three nodes and prints, for the leader and one follower, the functions
by own time. The profile switch lives here and not in the product: the nodes run `python -m bench.profiled
serve …`, which is `trivet` with a profiler around it. py-spy (a sampler, nothing of it in the node) shifts
the weights less than cProfile, which charges every call; it must be installed by hand (`pip install py-spy`).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.first_figure import Counts, Pair
from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy

DIRECTORY = "TRIVET_BENCH_PROFILES"
WARM_UP_S = 2.0


def serve() -> None:
    """What a node runs for `--how cprofile`: SIGUSR1 starts the profiler, SIGUSR2 writes what it saw."""
    from trivet.cli.main import main

    profiler = cProfile.Profile()

    def write(_number: int, _frame: object) -> None:
        profiler.disable()
        profiler.dump_stats(Path(os.environ[DIRECTORY]) / f"{os.getpid()}.prof")

    signal.signal(signal.SIGUSR1, lambda _number, _frame: profiler.enable())
    signal.signal(signal.SIGUSR2, write)
    sys.exit(main())


async def run(directory: Path, given: argparse.Namespace) -> None:
    command = (sys.executable, "-m", "bench.profiled") if given.how == "cprofile" else None
    cluster = LocalCluster(
        directory,
        3,
        free_base_port(3),
        environment={DIRECTORY: str(directory)},
        command=command or (sys.executable, "-m", "trivet"),
    )
    counts = Counts()
    try:
        await cluster.start()
        leader = cluster.node(await cluster.wait_for_leader())
        follower = next(node for node in cluster.nodes if node is not leader)
        async with Client(cluster.apis, retry=RetryPolicy(total_s=20)) as client:
            pairs = [Pair(client, f"bench-{n}", given.batch, given.size, counts) for n in range(4)]
            for pair in pairs:
                await client.put_queue(pair.queue)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for pair in pairs for one in (pair.produce(), pair.consume())]
                await asyncio.sleep(WARM_UP_S)
                before = counts.acked
                shown = await _watch(directory, [leader, follower], given)
                acked = counts.acked - before
                for task in tasks:
                    task.cancel()
        for name, text in zip(("leader", "follower"), shown, strict=True):
            print(f"=== {name}, {acked} messages in {given.seconds:g} s\n{text}")
    finally:
        await cluster.stop()


async def _watch(directory: Path, nodes: list[LocalNode], given: argparse.Namespace) -> list[str]:
    if given.how == "py-spy":
        return await _sample(directory, nodes, given)
    for node in nodes:
        _signal(node, signal.SIGUSR1)
    await asyncio.sleep(given.seconds)
    for node in nodes:
        _signal(node, signal.SIGUSR2)
    await asyncio.sleep(1.0)
    return [_stats(directory / f"{node.pid}.prof", given.lines) for node in nodes]


def _signal(node: LocalNode, number: int) -> None:
    assert node.pid is not None
    os.kill(node.pid, number)


def _stats(path: Path, lines: int) -> str:
    import io

    out = io.StringIO()
    pstats.Stats(str(path), stream=out).sort_stats("tottime").print_stats(lines)
    return out.getvalue()


async def _sample(directory: Path, nodes: list[LocalNode], given: argparse.Namespace) -> list[str]:
    found = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise SystemExit("py-spy is not installed: pip install py-spy, or use --how cprofile")
    files = [directory / f"{node.id}.folded" for node in nodes]
    running = [
        subprocess.Popen(  # noqa: ASYNC220 it only starts
            [found, "record", "-p", str(node.pid), "-d", str(int(given.seconds)), "-r", "400"]
            + ["--native"] * given.native
            + ["-f", "raw", "-o", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node, file in zip(nodes, files, strict=True)
    ]
    for process in running:
        await asyncio.to_thread(process.wait)
    return [_folded(file, given.lines) for file in files]


def _folded(path: Path, lines: int) -> str:
    """Own and whole share of each function, from py-spy's folded stacks of the loop's thread."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in path.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        count = int(samples)
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        total += count
        own[frames[-1]] += count
        for frame in dict.fromkeys(frames):
            whole[frame] += count
    shown = [f"{total} samples", "  own%  whole%  function"]
    for frame, count in own.most_common(lines):
        shown.append(f"{count / total:6.1%} {whole[frame] / total:6.1%}  {frame}")
    shown.append("  by whole share")
    for frame, count in whole.most_common(lines):
        shown.append(f"{own[frame] / total:6.1%} {count / total:6.1%}  {frame}")
    return "\n".join(shown)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.profiled")
    options.add_argument("--how", choices=("py-spy", "cprofile"), default="py-spy")
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--lines", type=int, default=40)
    options.add_argument("--native", action="store_true", help="py-spy: C frames, too")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-profile-") as directory:
        asyncio.run(run(Path(directory), given))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    sys.exit(main())
