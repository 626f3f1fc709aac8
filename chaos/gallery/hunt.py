"""One bug in one copy of the repository: is it there, and who notices?"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.gallery.bug import Bug, MovedOn
from chaos.gallery.instruments import HARNESS_BROKE, Arguments, Instrument

ROOT = Path(__file__).resolve().parents[2]
TREES = ("src", "tests", "chaos")
FILES = ("pyproject.toml",)
PROBE_S = 60.0
TAIL = 1500
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.pyc", ".demo")


@dataclass(frozen=True, slots=True)
class Ended:
    """A run of an instrument. `match`: its verdict, if it gave one."""

    code: int | None  # None: it was stopped at its time limit
    output: str
    seconds: float
    match: re.Match[str] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`word`: caught | survived | broken | moved on | control failed."""

    bug: Bug
    instrument: Instrument | None
    word: str
    seconds: float = 0.0
    effort: str = ""
    said: str = ""

    @property
    def caught(self) -> bool:
        return self.word == "caught"


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of what the instruments need, without compiled files."""
    with tempfile.TemporaryDirectory(prefix="trivet-gallery-") as directory:
        root = Path(directory)
        for tree in TREES:
            shutil.copytree(ROOT / tree, root / tree, ignore=_LEFT_OUT)
        for name in FILES:
            shutil.copy2(ROOT / name, root / name)
        yield root


def environment(root: Path, instrument: Instrument | None = None) -> dict[str, str]:
    """PYTHONPATH comes before site-packages, so before an editable install; `prove_copy` proves it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TRIVET"))}
    clean["PYTHONPATH"] = os.pathsep.join((str(root / "src"), str(root)))
    clean["COLUMNS"] = "240"
    return {**clean, **(instrument.environment if instrument else {})}


def prove_copy(root: Path, bug: Bug) -> str | None:
    """None when the edited modules can be imported and come from the copy; else what is wrong."""
    modules = ["trivet", "tests", *dict.fromkeys(edit.module for edit in bug.edits)]
    program = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program, *modules],
        cwd=root, env=environment(root), capture_output=True, text=True, timeout=PROBE_S,
    )  # fmt: skip
    if done.returncode:
        return f"the edited code cannot be imported: {done.stderr[-TAIL:]}"
    foreign = [line for line in done.stdout.splitlines() if not Path(line).is_relative_to(root)]
    return f"not the copy is imported but {foreign}" if foreign else None


def run(root: Path, instrument: Instrument, arguments: Arguments) -> Ended:
    """The instrument against the copy, in a process group of its own, which is ended at the time limit."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root, env=environment(root, instrument), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    late = threading.Event()

    def stop() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(instrument.limit_s, stop)
    timer.start()
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if instrument.at_once and instrument.says.search("".join(lines[-2:])):
                break
    finally:
        timer.cancel()
        if instrument.at_once or late.is_set():
            _end(process)
        process.stdout.close()
        code = process.wait()
    output = "".join(lines)
    match = instrument.says.search(output)
    return Ended(None if late.is_set() else code, output, time.monotonic() - began, match)


def _end(process: subprocess.Popen[str]) -> None:
    """Our own process group only."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def judge(ended: Ended) -> str:
    """caught | survived | broken: only the instrument's own verdict catches."""
    if ended.match is not None and not HARNESS_BROKE.search(ended.output):
        return "caught"
    return "survived" if ended.code in (0, None) and ended.match is None else "broken"


class Controls:
    """Whether the case that caught a bug passes on the code without it. Each is run once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Arguments, Ended] = {}
        self._lock = threading.Lock()

    def passes(self, instrument: Instrument, case: str) -> str | None:
        """None when it passes; else what it said."""
        arguments = instrument.control(case)
        with self._lock:
            ended = self._known.get(arguments)
        if ended is None:
            ended = run(self._root, instrument, arguments)
            with self._lock:
                self._known[arguments] = ended
        if ended.code == 0 and ended.match is None and instrument.clean.search(ended.output):
            return None
        return f"exit {ended.code}: {ended.output[-TAIL:]}"


def hunt(bug: Bug, controls: Controls) -> list[Outcome]:
    """One outcome for each instrument that must catch the bug."""
    with copied() as root:
        try:
            bug.apply(root)
        except MovedOn as error:
            return [Outcome(bug, None, "moved on", said=str(error))]
        wrong = prove_copy(root, bug)
        if wrong is not None:
            return [Outcome(bug, None, "broken", said=wrong)]
        return [_one(root, bug, instrument, controls) for instrument in bug.caught_by]


def _one(root: Path, bug: Bug, instrument: Instrument, controls: Controls) -> Outcome:
    ended = run(root, instrument, instrument.arguments)
    word = judge(ended)
    if word != "caught" or ended.match is None:
        said = "time limit" if ended.code is None else ended.output[-TAIL:] if word == "broken" else ""
        return Outcome(bug, instrument, word, ended.seconds, said=said)
    case, said = ended.match["case"], ended.match["said"]
    objection = controls.passes(instrument, case)
    if objection is not None:
        return Outcome(bug, instrument, "control failed", ended.seconds, said=objection)
    return Outcome(bug, instrument, "caught", ended.seconds, instrument.effort(case), said)
