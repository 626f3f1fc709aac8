"""Real clusters of real processes, each with ports and a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trivet.cli.local import free_base_port
from trivet.cli.main import main

TRIVET = (sys.executable, "-m", "trivet")


@dataclass
class Dev:
    """A running `trivet dev --json`."""

    process: subprocess.Popen[bytes]
    nodes: list[dict[str, Any]]
    data: Path
    base_port: int
    errors: Path

    @property
    def apis(self) -> str:
        return ",".join(node["api"] for node in self.nodes)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


Start = Callable[..., Dev]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Start]:
    """`dev(nodes=3)` starts one and reads its line; all are ended after the test."""
    with ExitStack() as stack:

        def start(nodes: int = 3, data: Path | None = None, base_port: int | None = None) -> Dev:
            data = data or tmp_path / "cluster"
            base_port = base_port or free_base_port(nodes)
            errors = tmp_path / "dev.err"
            command = [*TRIVET, "dev", "--nodes", str(nodes), "--base-port", str(base_port), "--json"]
            process = subprocess.Popen(
                [*command, "--data", str(data)],
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(errors.open("ab")),
            )
            stack.callback(_end, process)
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, errors.read_text()
            return Dev(process, json.loads(line)["nodes"], data, base_port, errors)

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()  # its nodes end with it (PR_SET_PDEATHSIG)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@dataclass
class Said:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Said]


@pytest.fixture
def trivet() -> Run:
    """Runs `trivet …` inside this process: the same code without a second's start-up each."""

    def run(*arguments: str, nodes: str | None = None, stdin: str = "") -> Said:
        ended = CliRunner().invoke(main, arguments, input=stdin, env={"TRIVET_NODES": nodes})
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return Said(ended.exit_code, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def shell() -> Run:
    """Runs `python -m trivet …` as a shell would."""

    def run(*arguments: str, nodes: str | None = None, stdin: str = "") -> Said:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET")}
        if nodes is not None:
            environment["TRIVET_NODES"] = nodes
        ended = subprocess.run(
            [*TRIVET, *arguments],
            capture_output=True,
            text=True,
            input=stdin,
            env=environment,
            timeout=60,
            check=False,
        )
        return Said(ended.returncode, ended.stdout, ended.stderr)

    return run


def is_alive(pid: int) -> bool:
    """True while the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
