"""Run seeds: ``python -m tests.simulation.run --seeds 1000`` (see --help).

Prints the counts of every fault and rare state; a failing seed prints the one command that replays it, bit for
bit. Exit 1 with violations.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.simulation.cluster import Result, Simulation

Task = tuple[int, int | None, float, str, bool]

RARE = (
    "elections won", "event stepped_down", "log truncated", "recovering at boot", "link found dead",
    "died: power cut in a disk call", "fault power_loss", "fault kill_majority", "sync job waits for space",
)  # fmt: skip


def simulation(task: Task) -> Result:
    seed, nodes, seconds, machine, log = task
    if machine == "queue":
        from tests.simulation.queue_cluster import QueueSimulation

        return QueueSimulation(seed, nodes, log).run(seconds)
    return Simulation(seed, nodes, log).run(seconds)


def replay_command(task: Task) -> str:
    seed, nodes, seconds, machine, _ = task
    parts = [f"python -m tests.simulation.run --seed {seed} --seconds {seconds:g} --machine {machine}"]
    if nodes is not None:
        parts.append(f"--nodes {nodes}")
    return " ".join(parts)


def results(tasks: list[Task], jobs: int) -> Iterator[Result]:
    if jobs <= 1:
        yield from map(simulation, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=25) as pool:
        yield from pool.imap(simulation, tasks, chunksize=1)


def report(totals: Counter[str]) -> None:
    width = max(map(len, totals), default=0)
    for name in sorted(totals):
        print(f"  {name:<{width}} {totals[name]:>12,}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds (20)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument(
        "--fresh", action="store_true", help="start at a seed taken from the clock, never used before"
    )
    parser.add_argument("--seed", type=int, help="this seed only, with its swarm and trace hash")
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), help="else the seed decides")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--seconds", type=float, default=20.0, help="virtual seconds of faults (20)")
    parser.add_argument(
        "--machine", choices=("list", "queue"), default="list", help="trivial or real machine"
    )
    parser.add_argument("--trace", action="store_true", help="print the readable trace (with --seed)")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    first = time.time_ns() // 1_000_000 if options.fresh else options.first
    seeds = [options.seed] if options.seed is not None else list(range(first, first + options.seeds))
    one = options.seed is not None
    tasks: list[Task] = [
        (seed, options.nodes, options.seconds, options.machine, one and options.trace) for seed in seeds
    ]
    totals: Counter[str] = Counter()
    failed: list[int] = []
    virtual = 0.0
    started = time.perf_counter()
    for task, result in zip(tasks, results(tasks, 1 if one else options.jobs), strict=True):
        totals.update(result.counts)
        totals["nodes: " + str(result.options.nodes)] += 1
        virtual += result.virtual_seconds
        if one:
            print("\n".join(result.log))
            print(f"swarm: {result.options.line()}\ntrace {result.trace_hash} ({result.events} events)")
        if result.violations:
            failed.append(result.seed)
            print(
                f"seed {result.seed} FAILED: {result.violations[0]}\n  replay: {replay_command(task)}",
                flush=True,
            )
    took = time.perf_counter() - started
    if options.json:
        print(
            json.dumps(
                {"seeds": len(seeds), "first": seeds[0], "failed": failed, "counts": totals, "seconds": took}
            )
        )
    else:
        report(totals)
    print(
        f"{len(seeds)} seeds from {seeds[0]}, {virtual:,.0f} virtual seconds in {took:.1f} s "
        f"({len(seeds) / took:.2f} seeds/s), {len(failed)} with violations"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
