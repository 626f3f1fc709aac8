"""`make test` runs every test file, and each in one stage: a file that no stage names would never fail."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_by(command: tuple[str, ...]) -> set[Path]:
    """The test files that a stage's pytest is given."""
    left_out = [ROOT / word.partition("=")[2] for word in command if word.startswith("--ignore=")]
    found: set[Path] = set()
    for path in (ROOT / word for word in command if word.startswith("tests")):
        found |= {path} if path.is_file() else set(path.rglob("test_*.py"))
    return {file for file in found if not any(file.is_relative_to(ignored) for ignored in left_out)}


def test_each_test_file_is_in_one_stage() -> None:
    stages = runpy.run_path(str(ROOT / "scripts" / "stages.py"))["TEST"]
    runs = Counter(file for stage in stages for file in run_by(stage.command))
    files = set((ROOT / "tests").rglob("test_*.py"))
    assert len(files) > 100
    assert {str(file) for file in files if runs[file] != 1} == set()
    assert set(runs) == files
