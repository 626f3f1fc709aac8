"""Run seeds: ``python -m tests.simulation.run --seeds 1000`` (see --help).

Prints the counts of every fault and rare state; a failing seed prints the one command that replays it, bit for
bit. Exit 1 with violations.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

from tests.simulation.cluster import CONTROLS, Result, Simulation
from tests.simulation.sometimes import SEEDS_TO_FAIL, SEEDS_TO_TELL, unreached

Task = tuple[int, int | None, float, str, bool]


def simulation(task: Task, control: str | None = None) -> Result:
    """One seed. A world is one big cycle of references (its queue holds the nodes, they hold the world), and so is
    every replica that a crash leaves behind: only the collector frees them. It is called here, because a process
    whose thresholds a node has raised (`trivet.node.garbage`) would keep every world for good."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 20, 50)
    try:
        return _play(task, control)
    finally:
        gc.set_threshold(*before)
        gc.collect()


def _play(task: Task, control: str | None) -> Result:
    seed, nodes, seconds, machine, log = task
    if machine == "queue":
        from tests.simulation.queue_cluster import QueueSimulation

        return QueueSimulation(seed, nodes, log, control).run(seconds)
    return Simulation(seed, nodes, log, control).run(seconds)


def replay_command(task: Task, control: str | None = None) -> str:
    seed, nodes, seconds, machine, _ = task
    parts = [f"python -m tests.simulation.run --seed {seed} --seconds {seconds:g} --machine {machine}"]
    if nodes is not None:
        parts.append(f"--nodes {nodes}")
    if control is not None:
        parts.append(f"--control {control}")
    return " ".join(parts)


def results(tasks: list[Task], jobs: int, control: str | None = None) -> Iterator[Result]:
    play = partial(simulation, control=control)
    if jobs <= 1:
        yield from map(play, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(play, tasks, chunksize=1)


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
    parser.add_argument(
        "--control", choices=sorted(CONTROLS), help="a known evil: the run must find violations (exit 1)"
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
    longest: dict[str, float] = {}
    played = results(tasks, 1 if one else options.jobs, options.control)
    for task, result in zip(tasks, played, strict=True):
        for phase, (took_s, _) in result.took.items():
            longest[phase] = max(longest.get(phase, 0.0), took_s)
        totals.update(result.counts)
        totals["nodes: " + str(result.options.nodes)] += 1
        virtual += result.virtual_seconds
        if one:
            print("\n".join(result.log))
            print(f"swarm: {result.options.line()}\ntrace {result.trace_hash} ({result.events} events)")
        if result.violations:
            failed.append(result.seed)
            print(
                f"seed {result.seed} FAILED: {result.violations[0]}\n  replay: {replay_command(task, options.control)}",
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
    never = unreached(totals, options.machine) if len(seeds) >= SEEDS_TO_TELL else []
    for name in never:
        print(f"never reached: {name}")
    for phase, seconds in sorted(longest.items()):
        print(f"longest until {phase} agreed after the heal: {seconds:.1f} virtual s")
    print(
        f"{len(seeds)} seeds from {seeds[0]}, {virtual:,.0f} virtual seconds in {took:.1f} s "
        f"({len(seeds) / took:.2f} seeds/s), {len(failed)} with violations"
    )
    if never and len(seeds) >= SEEDS_TO_FAIL:
        print(f"FAILED: {len(never)} states were never reached in {len(seeds)} seeds")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
