"""R38: in CI a skip is a failure unless it is listed here with its reason.

`tests/conftest.py` takes these hooks in. Without ``CI=true`` skips are only counted, because a laptop may lack
what CI must have.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

NO_MOUNT = "needs root and mount(2) for a small file system"

ALLOWED: dict[str, str] = {
    NO_MOUNT: "a full disk is also simulated (tests/simulation, tests/unit/storage/test_space.py)",
    "power loss: ": "shutting a file system down needs root; SimDisk loses power in the storage and simulation tests",
    "needs strace to kill": "the same calls are struck in the simulator (tests/crashpoints/test_sample.py)",
    "no drill ground: ": "root, nftables, strace, gcc: `make drill` refuses by name where CI cannot have them",
    "no partitions: ": "needs root and nftables; partitions are also simulated (tests/simulation)",
    "no clock jumps: ": "needs gcc; clock jumps are also simulated (tests/simulation)",
    "needs strace": "it shows a defect of the stock library; what holds for ours is shown without strace",
}
"""Part of a skip's text → why CI may go without that test."""

_unlisted: dict[str, str] = {}  # nodeid → text of its skip


def unlisted(text: str, allowed: dict[str, str] | None = None) -> bool:
    """True for a skip that nobody has given a reason for."""
    return not any(part in text for part in (ALLOWED if allowed is None else allowed))


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped:  # an expected failure is reported as a skip too, and counts as one
        text = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        text = getattr(report, "wasxfail", "") or text
        if unlisted(text):
            _unlisted[report.nodeid] = text


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unlisted and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _unlisted and os.environ.get("CI") == "true":
        say: Callable[[str], None] = terminalreporter.write_line
        say("skipped without a reason in tests/skips.py (R38):")
        for nodeid, text in _unlisted.items():
            say(f"  {nodeid}: {text}")
