"""The examples of flows, as anybody would run them: their verdict is their exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("payment_saga", ("--orders", "14", "--kills", "2")),
        ("rag_ingestion", ("--documents", "8", "--kills", "1")),
    ],
)
def test_an_example_passes(name: str, options: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, f"examples/{name}/main.py", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "VERDICT: every" in ran.stdout
