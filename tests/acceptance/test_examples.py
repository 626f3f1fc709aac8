"""Each example, as anybody would run it: its verdict is its exit code. And the judges of them can say no."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Its name, its options, and what it says when all went well.
RUNS = [
    ("cron", ("--seconds", "12", "--kills", "2"), ("leader killed 2 times", "every slot ran, and ran once")),
    ("llm_run", ("--users", "4", "--tokens", "250", "--kills", "2"), ("killed 2 times", "every")),
    ("order_events", ("--orders", "30", "--kills", "1"), ("killed 1 times", "every reader")),
    ("payment_saga", ("--orders", "14", "--kills", "2"), ("killed 2 times", "every")),
    ("rag_ingestion", ("--documents", "8", "--kills", "1"), ("killed 1 times", "every")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "said"), RUNS, ids=[name for name, _, _ in RUNS])
def test_an_example_passes(name: str, options: tuple[str, ...], said: tuple[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, f"examples/{name}/main.py", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    happened, verdict = said
    assert happened in ran.stdout and f"VERDICT: {verdict}" in ran.stdout


def test_there_is_no_other_example() -> None:
    assert {path.parent.name for path in (ROOT / "examples").glob("*/main.py")} == {
        name for name, _, _ in RUNS
    }


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_example", ROOT / "examples" / name / "main.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- cron ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cron() -> ModuleType:
    return _module("cron")


def test_a_crontab_is_read(cron: ModuleType) -> None:
    text = """
# a comment
MAILTO = "ops"
*/5 9-17 * * mon-fri  backup --all "with spaces"  # of the shell
CRON_TZ=Europe/Berlin
@daily  report
@every 15s  poll
"""
    first, second, third = cron.read_crontab(text)
    assert first.when == {"cron": "*/5 9-17 * * mon-fri", "timezone": "UTC"}
    assert first.command == 'backup --all "with spaces"  # of the shell'
    assert first.variables == {"MAILTO": "ops"}
    assert second.when == {"cron": "@daily", "timezone": "Europe/Berlin"} and second.command == "report"
    assert third.when == {"every_ms": 15_000}
    assert len({first.name, second.name, third.name}) == 3
    assert [job.name for job in cron.read_crontab(text)] == [first.name, second.name, third.name]


@pytest.mark.parametrize("line", ["* * * * *", "@daily", "@every 5s", "0 0 echo"])
def test_a_line_without_a_command(cron: ModuleType, line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        cron.read_crontab("A=1\n" + line)


def test_its_judge_sees_what_is_wrong(cron: ModuleType, tmp_path: Path) -> None:
    schedule = {
        "anchor_at_ms": 1000, "decided_at_ms": 4500, "every_ms": 1000, "fired": 3, "skipped": 0, "last_skip": None,
    }  # fmt: skip
    ledger = tmp_path / "ledger"

    def judged(*lines: str, **changes: object) -> list[str]:
        ledger.write_text("".join(f"{line}\n" for line in lines))
        return list(cron.judge(ledger, [("w", {**schedule, **changes})]))

    good = ("w 2000", "w 3000", "w 4000")
    assert judged(*good) == []
    assert judged("w 2000", "w 4000") == ["lost: w 3000"]
    assert judged(*good, "w 4000") == ["2 times: w 4000"]
    assert judged(*good, "w 4100") == ["never due: w 4100"]
    assert judged(*good, fired=2) and judged(*good, skipped=1)
    assert (
        judged("w 2000", "w 3000", fired=2, skipped=1, last_skip={"slot_ms": 4000, "reason": "paused"}) == []
    )


# --- order_events -------------------------------------------------------------------------------------


def test_its_judge_names_what_is_missing_and_what_is_doubled(tmp_path: Path) -> None:
    example = _module("order_events")
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
