"""The plan of a drill: what is done to the cluster and when, all of it drawn from one seed.

A swarm: each seed takes some kinds of faults and leaves others out, with a weight for each and a tempo of
its own, because a fault that is always there hides what only happens without it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos.faults.port import Fault

FIRST_AT_S = 3.0  # the load comes to speed
TAIL_S = 3.0  # the load goes on after the last fault
KINDS_MIN = 4
SHARE = 0.6  # of the kinds, on average, in one drill
BACK_S = 3.0  # what a cluster needs to be whole again, as a rule
TEMPO_S = (1.0, 8.0)  # the mean quiet time between two faults is drawn from this range


class BadPlan(Exception):
    """The plan cannot be made or read; the text says why."""


@dataclass(frozen=True)
class Planned:
    """One fault: not before `at_s` seconds after the load began, and not before the last one is over."""

    at_s: float
    fault: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A drill, before anything happened. `cluster` is `own` or `foreign`; `apis` and `hook` are of a foreign one."""

    seed: int
    nodes: int
    seconds: float
    workloads: list[str]
    rate: float
    faults: list[Planned]
    cluster: str = "own"
    apis: list[str] = field(default_factory=list)
    hook: str = ""

    @property
    def kinds(self) -> list[str]:
        return sorted({one.fault for one in self.faults})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Plan:
        """A plan file, or the directory of a run. Raises `BadPlan`."""
        place = path / "plan.json" if path.is_dir() else path
        try:
            given = json.loads(place.read_text(encoding="utf-8"))
            return Plan(**{**given, "faults": [Planned(**one) for one in given["faults"]]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadPlan(f"{place} is not a plan: {error}") from error


def draw(
    seed: int,
    kinds: Mapping[str, Fault],
    *,
    nodes: int,
    seconds: float,
    only: Sequence[str] = (),
    count: int | None = None,
) -> list[Planned]:
    """The faults of a drill. `kinds`: those that can be had here. `only`: exactly these, each at least
    once, however long it takes. `count`: so many; else as many as fit into `seconds`."""
    rng = random.Random(seed)
    chosen = list(only) or _some(rng, sorted(kinds))
    unknown = [name for name in chosen if name not in kinds]
    if unknown:
        raise BadPlan(f"no such fault: {', '.join(unknown)}; there are {', '.join(sorted(kinds))}")
    weights = [rng.uniform(0.3, 1.0) for _ in chosen]
    tempo_s = rng.uniform(*TEMPO_S)
    first = list(chosen)
    rng.shuffle(first)
    faults: list[Planned] = []
    at_s = FIRST_AT_S
    while chosen:
        name = first.pop() if first else rng.choices(chosen, weights)[0]
        parameters = kinds[name].plan(rng, nodes)
        length_s = float(parameters.get("hold_s", 0.0)) + BACK_S
        if count is not None:
            enough = len(faults) >= count
        else:
            enough = bool(faults) and at_s + length_s + TAIL_S > seconds
        if enough and not (only and len(faults) < len(chosen)):
            break
        faults.append(Planned(round(at_s, 2), name, parameters))
        at_s += length_s + rng.uniform(0.5, 1.5) * tempo_s
    return faults


def _some(rng: random.Random, names: list[str]) -> list[str]:
    chosen = [name for name in names if rng.random() < SHARE]
    while len(chosen) < min(KINDS_MIN, len(names)):
        chosen.append(rng.choice([name for name in names if name not in chosen]))
    return sorted(chosen)
