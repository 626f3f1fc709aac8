"""Time that a process waited for a core is measured, and does not count against the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chaos.checker.facts import Facts
from chaos.checker.liveness import SERVICE_SECONDS, judge
from chaos.checker.records import Call
from chaos.history import OK
from chaos.starved import Starved, delay_s

SPIN = "import os\nos.sched_setaffinity(0, {%d})\nprint(flush=True)\nwhile True: pass"
SECOND = 1_000_000_000


def test_two_that_share_a_core_wait_for_each_other() -> None:
    core = min(os.sched_getaffinity(0))
    both = [subprocess.Popen([sys.executable, "-c", SPIN % core], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for one in both:
            assert one.stdout is not None
            one.stdout.readline()
        starved = Starved(lambda: [one.pid for one in both])
        began = time.monotonic()
        while starved.seconds() < 0.2:
            assert time.monotonic() < began + 20
        assert delay_s(both[0].pid) > 0
    finally:
        for one in both:
            one.kill()
            one.communicate()
    assert delay_s(both[0].pid) == 0.0  # it is gone


def test_nobody_there_takes_only_what_the_machine_takes() -> None:
    assert 0 <= Starved(list).seconds() < 1


@pytest.mark.parametrize(("starved_s", "caught"), [(0.9, True), (1.1, False)])
def test_the_bound_of_service_grows_by_it(starved_s: float, caught: bool, tmp_path: Path) -> None:
    facts = Facts()
    served = 16 * SECOND
    facts.calls = [Call(1, "p.0", "enqueue", OK, served - 1, served, (1, 0), False, None)]
    faults = [
        {"e": "fired", "n": 0, "t": SECOND},
        {"e": "healed", "n": 0, "t": 10 * SECOND},
        {"e": "back", "n": 0, "t": 17 * SECOND, "starved_s": starved_s},
    ]
    assert SERVICE_SECONDS == 5.0
    alive = judge(tmp_path, {"faults": [{"fault": "x"}]}, faults, {}, Counter(), facts)
    assert bool([one for one in alive.found.violations if one.law == "L1"]) is caught
