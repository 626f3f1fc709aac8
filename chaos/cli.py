"""`python -m chaos run | replay | check | report`: exit code 0 clean, 1 violation, 2 invalid.

run     [--seed N] [--seconds 60 | --count N] [--nodes 3] [--faults a,b] [--workloads a,b] [--rate N]
        [--out DIR] [--cluster URL,URL,URL --hook COMMAND]
replay  DIR | plan.json    the same plan once more, in a new directory
check   DIR                judge a run again; needs no cluster
report  DIR                write its report.html again
faults                     what can be done to a cluster, and what cannot be had here
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from chaos import plan as planning
from chaos import report
from chaos.archive import Archive
from chaos.cluster import DrillCluster
from chaos.external import ForeignCluster, HookFault
from chaos.faults import FAULTS
from chaos.faults.port import Fault, NotFired
from chaos.ground.tools import Unavailable, missing
from chaos.history import Recorder
from chaos.plan import BadPlan, Plan
from chaos.runner import Runner, System
from chaos.sink import Sink
from chaos.verdict import INVALID, judge, summary
from chaos.workloads import WORKLOADS, Load
from trivet.cli.local import ClusterFailed

NEEDS = {"root": (), "strace": ("strace",), "nft": ("nft", "ss"), "gcc": ("gcc",)}
INTERRUPTED = 130
RUNS = Path(".drills")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="a drill against real processes")
    run.set_defaults(command=_run)
    run.add_argument("--seed", type=int, default=None, help="default: a fresh one, printed")
    run.add_argument("--seconds", type=float, default=60.0, help="of load and faults (default 60)")
    run.add_argument("--count", type=int, default=None, help="so many faults, however long they take")
    run.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    run.add_argument("--faults", type=_words, default=[], help="exactly these; default: drawn from the seed")
    run.add_argument("--workloads", type=_words, default=sorted(WORKLOADS), help="default: all")
    run.add_argument("--rate", type=float, default=100.0, help="new messages a second (default 100)")
    run.add_argument("--out", type=Path, default=None, help="default: .drills/SEED")
    run.add_argument("--keep", action="store_true", help="keep the nodes' data also of a clean run")
    run.add_argument("--cluster", type=_words, default=[], help="addresses of a cluster of yours")
    run.add_argument("--hook", default="", help="command that fires and heals faults on that cluster")
    replay = commands.add_parser("replay", help="the same plan once more")
    replay.set_defaults(command=_replay)
    replay.add_argument("plan", type=Path, help="the directory of a run, or a plan.json")
    replay.add_argument("--out", type=Path, default=None)
    replay.add_argument("--keep", action="store_true")
    for name, command, help_ in (
        ("check", _check, "judge a run again; needs no cluster"),
        ("report", _report, "write its report.html again"),
    ):
        one = commands.add_parser(name, help=help_)
        one.set_defaults(command=command)
        one.add_argument("directory", type=Path)
    commands.add_parser("faults", help="what can be had here").set_defaults(command=_faults)
    given = parser.parse_args(argv)
    try:
        return int(given.command(given))
    except (BadPlan, Unavailable, ClusterFailed, NotFired) as error:
        print(f"invalid: {error}", file=sys.stderr)
        return INVALID
    except Exception:  # noqa: BLE001 a defect of the harness is no violation by the cluster: not exit 1
        traceback.print_exc()
        return INVALID


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


# --- the commands --------------------------------------------------------------------------------------


def _run(given: argparse.Namespace) -> int:
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown:
        raise BadPlan(f"no such workload: {', '.join(unknown)}; there are {', '.join(sorted(WORKLOADS))}")
    kinds = _hooks(given) if given.cluster else _kinds(given.faults)
    nodes = len(given.cluster) or given.nodes
    faults = planning.draw(
        seed, kinds, nodes=nodes, seconds=given.seconds, only=given.faults, count=given.count
    )
    plan = Plan(seed, nodes, given.seconds, given.workloads, given.rate, faults)
    if given.cluster:
        plan = replace(plan, cluster="foreign", apis=given.cluster, hook=given.hook)
    return drill(plan, kinds, out_directory(given.out, seed), given.keep)


def _hooks(given: argparse.Namespace) -> dict[str, Fault]:
    """The faults that the operator names, done by the operator's command."""
    if given.faults and not given.hook:
        raise BadPlan("--faults on a cluster of yours needs --hook, the command that does them")
    return {name: HookFault(name, given.hook) for name in given.faults}


def _kinds(wanted: list[str]) -> dict[str, Fault]:
    """The faults that can be had here; says which cannot. Raises `BadPlan` if those are wanted."""
    absent = {name: why for name, fault in FAULTS.items() if (why := why_not(fault))}
    refused = [f"{name}: {absent[name]}" for name in wanted if name in absent]
    if refused:
        raise BadPlan("cannot be had here: " + "; ".join(refused))
    if not wanted:
        for name, why in sorted(absent.items()):
            print(f"NOT IN THIS DRILL: {name}: {why}")
    return {name: fault for name, fault in FAULTS.items() if name not in absent}


def _replay(given: argparse.Namespace) -> int:
    plan = Plan.read(given.plan)
    if plan.cluster == "foreign":
        kinds: dict[str, Fault] = {name: HookFault(name, plan.hook) for name in plan.kinds}
    else:
        kinds = _kinds(plan.kinds)
    unknown = [name for name in plan.kinds if name not in kinds]
    if unknown:
        raise BadPlan(f"no such fault: {', '.join(unknown)}")
    return drill(plan, kinds, out_directory(given.out, plan.seed), given.keep)


def _check(given: argparse.Namespace) -> int:
    told = judge(given.directory)
    print("\n".join(summary(told)))
    return int(told["exit"])


def _report(given: argparse.Namespace) -> int:
    print(report.write(given.directory))
    return 0


def _faults(_: argparse.Namespace) -> int:
    for name, fault in sorted(FAULTS.items()):
        why = why_not(fault)
        print(f"{name:<28} {'' if why is None else 'not here: ' + why}".rstrip())
    return 0


def why_not(fault: Fault) -> str | None:
    """Why this machine cannot have the fault, or None."""
    for need in sorted(fault.needs):
        if need == "own_disks":
            why = missing("mkfs.ext4", "losetup", "mount")
        else:
            why = missing(*NEEDS[need], root=need in ("root", "nft"))
        if why is not None:
            return why
    return None


def out_directory(given: Path | None, seed: int) -> Path:
    """A new, empty directory. Raises `BadPlan` if the one asked for holds something."""
    if given is not None:
        if given.exists() and any(given.iterdir()):
            raise BadPlan(f"{given} is not empty")
        given.mkdir(parents=True, exist_ok=True)
        return given
    RUNS.mkdir(exist_ok=True)
    for n in range(1000):
        directory = RUNS / (str(seed) if n == 0 else f"{seed}.{n}")
        if not directory.exists():
            directory.mkdir()
            return directory
    raise BadPlan(f"{RUNS} holds a thousand runs of seed {seed}")


# --- one drill -----------------------------------------------------------------------------------------


def drill(plan: Plan, faults: Mapping[str, Fault], directory: Path, keep: bool) -> int:
    """Run it, judge it, report it. The exit code."""
    plan.write(directory / "plan.json")
    kinds = ", ".join(plan.kinds) or "none"
    print(f"drill with seed {plan.seed}: {len(plan.faults)} faults of {kinds} · {directory}", flush=True)
    try:
        asyncio.run((own_cluster if plan.cluster == "own" else foreign_cluster)(plan, faults, directory))
    except asyncio.CancelledError:
        print(f"interrupted: not judged · {directory}", file=sys.stderr)
        return INTERRUPTED
    told = judge(directory)
    report.write(directory)
    if not keep and told["exit"] == 0:
        for name in ("data", "disks", "clocks"):
            shutil.rmtree(directory / name, ignore_errors=True)
    print("\n".join([f"report: {directory / 'report.html'}", *summary(told)]))
    return int(told["exit"])


async def own_cluster(plan: Plan, faults: Mapping[str, Fault], directory: Path) -> None:
    """The whole run, from nothing to nodes that have ended."""
    needs = frozenset[str]().union(*(faults[name].needs for name in plan.kinds))
    cluster = DrillCluster(directory, plan.nodes, needs=needs, rate=plan.rate)
    archive = Archive(directory, cluster.data, cluster.mounts)
    try:
        with _signals():
            archive.start()
            await cluster.start()
            await cluster.leader()
            await _play(plan, faults, directory, cluster)
            await cluster.finish()
            await archive.stop()
            archive.collect()
    finally:
        await archive.stop()
        await cluster.close()


async def foreign_cluster(plan: Plan, faults: Mapping[str, Fault], directory: Path) -> None:
    cluster = ForeignCluster(plan.apis)
    try:
        with _signals():
            await cluster.meet()
            await _play(plan, faults, directory, cluster)
    finally:
        await cluster.close()


async def _play(plan: Plan, faults: Mapping[str, Fault], directory: Path, system: System) -> None:
    recorder = Recorder(directory / "history.jsonl")
    sink = Sink(directory / "sink.jsonl")
    load = Load(system.apis, recorder, sink, plan.seed, plan.workloads, plan.rate)
    try:
        await Runner(plan, directory, system, load, faults, lambda text: print(text, flush=True)).run()
    finally:
        await load.close()
        recorder.close()
        sink.close()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C cancel the current task, so that everything is taken down in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
