"""The hook of R38 itself: an unlisted skip, expected failure or skipped module fails a run in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOKS = "from tests.skips import *\nfrom tests import skips\nskips.ALLOWED['listed'] = 'a reason'\n"
CASES = {
    "skip": "import pytest\ndef test_a():\n    pytest.skip('no such tool')\n",
    "mark": "import pytest\n@pytest.mark.skipif(True, reason='no such tool')\ndef test_a(): pass\n",
    "module": "import pytest\npytest.skip('no such tool', allow_module_level=True)\n",
    "xfail": "import pytest\n@pytest.mark.xfail(reason='no such tool')\ndef test_a(): assert False\n",
}


def run(directory: Path, ci: bool, **files: str) -> subprocess.CompletedProcess[str]:
    (directory / "conftest.py").write_text(HOOKS)
    for name, text in {**files, "passes": "def test_passes(): pass\n"}.items():
        (directory / f"test_{name}.py").write_text(text)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(directory),
            str(directory),
        ],
        cwd=ROOT,
        env={**os.environ, "CI": "true" if ci else "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_unlisted_skips_fail_in_ci(tmp_path: Path) -> None:
    listed = CASES["mark"].replace("no such tool", "listed")
    done = run(tmp_path, True, listed=listed, **CASES)
    assert done.returncode == 1, done.stdout
    named = done.stdout.partition("skipped without a reason")[2]
    assert {case for case in (*CASES, "listed") if f"test_{case}.py" in named} == set(CASES)
    assert named.count("no such tool") == len(CASES)


def test_elsewhere_they_do_not(tmp_path: Path) -> None:
    assert run(tmp_path, False, **CASES).returncode == 0


def test_a_listed_skip_passes_in_ci(tmp_path: Path) -> None:
    done = run(tmp_path, True, listed=CASES["mark"].replace("no such tool", "listed"))
    assert done.returncode == 0, done.stdout
