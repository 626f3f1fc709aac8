"""Crash points: ``python -m tests.crashpoints.run`` strikes every scenario at every call (see --help).

The N-th disk call, send or answer of the leader, then of a follower, fails for N = 1, 2, 3 … until the scenario passes
without reaching it, with each fault that makes sense there; then the node comes back, clients repeat what they do not
know, and the judge decides. A failing point prints the one command that replays it. Exit 1 with violations.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.crashpoints.cluster import Result
from tests.crashpoints.judge import verdict
from tests.crashpoints.play import CONTROLS, replay
from tests.crashpoints.points import FAULTS, VICTIMS, Point
from tests.crashpoints.scenarios import SCENARIOS
from tests.crashpoints.walk import Walk

COLUMNS = ("points", "recoveries", "restarts", "repeats", "lost", "doubled", "broken")
SHOWN_MAX = 20


class Tally:
    """One line for each scenario. A recovery is a point at which at least one process ended and the verdict was clean;
    `repeats` are requests answered from memory."""

    def __init__(self, control: str | None = None) -> None:
        self.control = control
        self.rows: dict[str, Counter[str]] = {}
        self.calls: Counter[str] = Counter()
        self.failed: list[Point] = []

    def took(self, point: Point, result: Result) -> None:
        row = self.rows.setdefault(point.scenario, Counter())
        row["points"] += 1
        row["restarts"] += result.deaths
        row["repeats"] += result.repeats
        self.calls[f"{point.call} × {point.fault}"] += 1
        if result.fired is None and not result.violations:
            result.violations.append("not reached: the scenario passed without the fault")
        if not result.violations:
            row["recoveries"] += result.deaths > 0
            return
        row[verdict(result.violations[0])] += 1
        self.failed.append(point)
        if len(self.failed) <= SHOWN_MAX:
            print(f"FAILED {result.violations[0]}\n  replay: {point.command(self.control)}", flush=True)

    @property
    def points(self) -> int:
        return sum(row["points"] for row in self.rows.values())

    def print(self) -> None:
        print(f"{'scenario':<14}" + "".join(f"{name:>12}" for name in COLUMNS))
        total: Counter[str] = Counter()
        for name, row in self.rows.items():
            print(f"{name:<14}" + "".join(f"{row[column]:>12,}" for column in COLUMNS))
            total.update(row)
        print(f"{'total':<14}" + "".join(f"{total[column]:>12,}" for column in COLUMNS))


def walks(options: argparse.Namespace, tally: Tally) -> list[Walk]:
    names = [options.scenario] if options.scenario else list(SCENARIOS)
    victims = [options.victim] if options.victim else list(VICTIMS)
    return [
        Walk(name, story, victim, options.jobs, tally.took, options.control)
        for story in range(options.first, options.first + options.stories)
        for name in names
        for victim in victims
    ]


def choose(all_walks: list[Walk], size: int, seed: int) -> None:
    """A sample of all points that the clean runs show."""
    points = [point for walk in all_walks for point in walk.points]
    picked = random.Random(seed).sample(points, min(size, len(points)))
    for walk in all_walks:
        walk.chosen = frozenset(picked) & frozenset(walk.points)


def one_point(options: argparse.Namespace) -> int:
    point = Point(options.scenario, options.story, options.victim, options.call, options.n, options.fault)
    result = replay(point, options.control, options.trace)
    print("\n".join(result.log))
    print(f"{result.fired or 'not reached'}; {result.deaths} deaths, {result.seconds:.3f} virtual s")
    print(f"trace {result.trace_hash}")
    for violation in result.violations:
        print(f"FAILED {violation}")
    return 1 if result.violations else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints.run", description=__doc__)
    parser.add_argument("--scenario", choices=tuple(SCENARIOS), help="only this one")
    parser.add_argument("--victim", choices=VICTIMS, help="only this one")
    parser.add_argument(
        "--stories", type=int, default=1, help="variants of each scenario: links, disks, sizes (1)"
    )
    parser.add_argument("--first", type=int, default=0, help="the first of them (0: the plainest)")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="N points drawn from all of them")
    parser.add_argument("--seed", type=int, help="of the sample; without it a fresh one, printed")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (2)")
    parser.add_argument("--progress", action="store_true", help="a line after each walk, also into a file")
    parser.add_argument("--control", choices=CONTROLS, help="put a known defect in: the loop must find it")
    one = parser.add_argument_group("replay of one point (with --scenario and --victim)")
    one.add_argument("--story", type=int, default=0)
    one.add_argument("--call", choices=tuple(FAULTS))
    one.add_argument("--n", type=int)
    one.add_argument("--fault", choices=sorted({fault for faults in FAULTS.values() for fault in faults}))
    one.add_argument("--trace", action="store_true", help="print what happens")
    options = parser.parse_args(arguments)
    wanted = [options.scenario, options.victim, options.call, options.n, options.fault]
    if options.call is not None and None in wanted:
        parser.error("a point is --scenario, --victim, --call, --n and --fault")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.call is not None:
        return one_point(options)
    if options.seed is None:
        options.seed = time.time_ns() // 1_000_000
    started = time.perf_counter()
    tally = Tally(options.control)
    all_walks = walks(options, tally)
    if options.sample:
        choose(all_walks, options.sample, options.seed)
    for number, walk in enumerate(all_walks, 1):
        walk.run()
        if sys.stdout.isatty() or options.progress:
            print(
                f"{number} of {len(all_walks)}: {walk.scenario} story {walk.story} {walk.victim}, "
                f"{tally.points:,} points, {len(tally.failed)} failed, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    took = time.perf_counter() - started
    tally.print()
    print(
        f"calls struck: {len(tally.calls)} kinds; {took:.0f} s, {took * 1000 / max(1, tally.points):.0f} ms a point"
    )
    if options.sample:
        print(f"sample seed {options.seed}")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
