"""The example of topics, as anybody would run it: its verdict is its exit code; and the judge of it can say no."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_order_events() -> None:
    ran = subprocess.run(
        [sys.executable, "examples/order_events/main.py", "--orders", "30", "--kills", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "VERDICT: every reader" in ran.stdout
    assert "killed 1 times" in ran.stdout


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "order_events", ROOT / "examples" / "order_events" / "main.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_judge_names_what_is_missing_and_what_is_doubled(example: ModuleType, tmp_path: Path) -> None:
    journal = example.Journal(tmp_path / "journal.sqlite")
    for reader, orders in (("mail", (0, 1)), ("stock", (0,)), ("search", (0, 1, 1))):
        for n in orders:
            journal.add(reader, n)
    assert example.judge(2, journal, {0: {0}, 1: {1}}) == [
        "stock: missing [1], once too often []",
        "search: missing [], once too often [1]",
    ]
    assert any("several offsets" in one for one in example.judge(2, journal, {0: {0}, 1: {1, 2}}))
    assert any("offsets are not" in one for one in example.judge(2, journal, {0: {0}, 1: {2}}))
