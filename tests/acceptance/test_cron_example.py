"""The cron replacement, as anybody would run it: its verdict is its exit code. And what it reads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cron_example", ROOT / "examples" / "cron" / "main.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cron_example"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_example_passes() -> None:
    ran = subprocess.run(
        [sys.executable, "examples/cron/main.py", "--seconds", "12", "--kills", "2"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "leader killed 2 times" in ran.stdout and "VERDICT: every slot ran, and ran once" in ran.stdout


def test_a_crontab_is_read(example: ModuleType) -> None:
    text = """
# a comment
MAILTO = "ops"
*/5 9-17 * * mon-fri  backup --all "with spaces"  # of the shell
CRON_TZ=Europe/Berlin
@daily  report
@every 15s  poll
"""
    first, second, third = example.read_crontab(text)
    assert first.when == {"cron": "*/5 9-17 * * mon-fri", "timezone": "UTC"}
    assert first.command == 'backup --all "with spaces"  # of the shell'
    assert first.variables == {"MAILTO": "ops"}
    assert second.when == {"cron": "@daily", "timezone": "Europe/Berlin"} and second.command == "report"
    assert third.when == {"every_ms": 15_000}
    assert len({first.name, second.name, third.name}) == 3
    assert [job.name for job in example.read_crontab(text)] == [first.name, second.name, third.name]


@pytest.mark.parametrize("line", ["* * * * *", "@daily", "@every 5s", "0 0 echo"])
def test_a_line_without_a_command(example: ModuleType, line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        example.read_crontab("A=1\n" + line)


def test_the_judge_sees_what_is_wrong(example: ModuleType, tmp_path: Path) -> None:
    schedule = {
        "anchor_at_ms": 1000, "decided_at_ms": 4500, "every_ms": 1000, "fired": 3, "skipped": 0, "last_skip": None,
    }  # fmt: skip
    ledger = tmp_path / "ledger"

    def judged(*lines: str, **changes: object) -> list[str]:
        ledger.write_text("".join(f"{line}\n" for line in lines))
        return list(example.judge(ledger, [("w", {**schedule, **changes})]))

    good = ("w 2000", "w 3000", "w 4000")
    assert judged(*good) == []
    assert judged("w 2000", "w 4000") == ["lost: w 3000"]
    assert judged(*good, "w 4000") == ["2 times: w 4000"]
    assert judged(*good, "w 4100") == ["never due: w 4100"]
    assert judged(*good, fired=2) and judged(*good, skipped=1)
    assert (
        judged("w 2000", "w 3000", fired=2, skipped=1, last_skip={"slot_ms": 4000, "reason": "paused"}) == []
    )
