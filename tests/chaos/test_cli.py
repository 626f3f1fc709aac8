"""The commands: what is refused is invalid (2), never clean and never a violation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "--faults", "meteor"], "no such fault: meteor"),
        (["run", "--workloads", "poetry"], "no such workload: poetry"),
        (["run", "--cluster", "http://127.0.0.1:9", "--faults", "cut"], "needs --hook"),
        (["replay", "/nowhere"], "is not a plan"),
        (["check", "/nowhere"], "is not a plan"),
    ],
)
def test_what_cannot_be_done_is_invalid(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_fault_that_cannot_be_had_here_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("chaos.ground.tools.find", lambda tool: None)
    assert main(["run", "--faults", "kill_leader_at_fdatasync", "--out", str(tmp_path / "out")]) == 2
    assert "kill_leader_at_fdatasync: not installed: strace" in capsys.readouterr().err
    assert main(["faults"]) == 0
    assert "not here: not installed: strace" in capsys.readouterr().out


def test_a_directory_that_holds_something_is_not_written_into(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["run", "--out", str(tmp_path), "--faults", "kill_leader"]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_an_interrupted_drill_takes_everything_down_and_is_not_judged(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "chaos",
        "run",
        "--seconds",
        "60",
        "--faults",
        "kill_follower",
        "--rate",
        "10",
    ]
    drill = subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 60
    while not (out / "faults.jsonl").exists() or not (out / "faults.jsonl").read_bytes():
        assert time.monotonic() < deadline and drill.poll() is None
        time.sleep(0.1)
    nodes = [json.loads(line) for line in (out / "nodes.jsonl").read_text().splitlines()]
    assert {one["node"] for one in nodes} == {"n1", "n2", "n3"}
    drill.send_signal(signal.SIGTERM)
    said = drill.communicate(timeout=60)[0].decode()
    assert drill.returncode == 130 and "interrupted: not judged" in said, said
    assert not (out / "verdict.json").exists()
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(out).encode() in command_of(pid)]


def command_of(pid: str) -> bytes:
    """Of a running process; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
