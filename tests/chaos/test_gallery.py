"""The bug gallery itself: every bug still fits the code, cheap ones are caught, and nothing is caught for nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.gallery.__main__ import BUGS, main
from chaos.gallery.bug import Bug, Edit, MovedOn
from chaos.gallery.hunt import ROOT, Controls, Ended, copied, hunt, judge, prove_copy
from chaos.gallery.instruments import Instrument, directed, random_logs, simulator

HARMLESS = Edit(
    "units.py", "from __future__ import annotations", "from __future__ import annotations  # as it was"
)


@pytest.fixture(scope="module")
def controls() -> Iterator[Controls]:
    with copied() as untouched:
        yield Controls(untouched)


def a_bug(edit: Edit, instrument: Instrument) -> Bug:
    return Bug("made-up", "nobody", "S1", (edit,), (instrument,))


def named(name: str) -> Bug:
    return next(bug for bug in BUGS if bug.name == name)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_still_fits_the_source(bug: Bug, tmp_path: Path) -> None:
    for edit in bug.edits:
        copy = tmp_path / "src" / "trivet" / edit.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((ROOT / "src" / "trivet" / edit.file).read_text())
    bug.apply(tmp_path)
    for edit in bug.edits:
        before = (ROOT / "src" / "trivet" / edit.file).read_text()
        after = (tmp_path / "src" / "trivet" / edit.file).read_text()
        assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before)), "the edit changes nothing"


def test_the_gallery_is_large_and_mostly_general() -> None:
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names) >= 30
    for bug in BUGS:
        assert bug.seen_in and bug.caught_by, bug.name
        assert all(re.fullmatch(r"[SLR]\d+", law) for law in bug.laws.split(", ")), bug.name
    only_directed = [bug.name for bug in BUGS if all(one.directed for one in bug.caught_by)]
    assert len(only_directed) * 3 <= len(names), only_directed


def test_text_that_is_gone_or_doubled_is_said_loudly(tmp_path: Path) -> None:
    path = tmp_path / "src" / "trivet" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\nx = 1\n")
    for edit, why in (
        (Edit("a.py", "x = 2", ""), "0 times"),
        (Edit("a.py", "x = 1", ""), "2 times"),
        (Edit("b.py", "x", ""), "no src/trivet/b.py"),
    ):
        with pytest.raises(MovedOn, match=why):
            edit.apply(tmp_path)
    assert path.read_text() == "x = 1\nx = 1\n"


def test_the_copy_is_what_runs(tmp_path: Path) -> None:
    bug = a_bug(HARMLESS, simulator("list", 1))
    with copied() as root:
        assert prove_copy(root, bug) is None
        (root / "src" / "trivet" / "units.py").write_text("import nothing_of_this_name\n")
        assert "cannot be imported" in (prove_copy(root, bug) or "")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    assert "not the copy" in (prove_copy(tmp_path, bug) or ""), "here the installed package answers"


@pytest.mark.parametrize("name", ["vote-not-stored", "read-without-quorum"])
def test_a_cheap_bug_is_caught_by_the_simulator(name: str, controls: Controls) -> None:
    bug = named(name)
    outcomes = hunt(replace(bug, caught_by=bug.caught_by[:1]), controls)
    assert [outcome.word for outcome in outcomes] == ["caught"], outcomes
    assert outcomes[0].effort and outcomes[0].said


def test_a_cheap_bug_is_caught_by_random_logs(controls: Controls) -> None:
    outcomes = hunt(replace(named("dead-letter-one-attempt-early"), caught_by=(random_logs(),)), controls)
    assert [outcome.word for outcome in outcomes] == ["caught"], outcomes


def test_what_is_no_bug_is_not_caught(controls: Controls) -> None:
    for instrument in (simulator("list", 1), random_logs(0)):
        (outcome,) = hunt(a_bug(HARMLESS, instrument), controls)
        assert outcome.word == "survived" and not outcome.caught


def test_a_broken_harness_catches_nothing(controls: Controls) -> None:
    """The edited modules can be imported, but what the instrument needs of them is gone."""
    gone = Edit("machine/invariants.py", "def check(", "def look(")
    (outcome,) = hunt(a_bug(gone, random_logs(0)), controls)
    assert outcome.word == "broken"
    (outcome,) = hunt(a_bug(HARMLESS, directed("tests/there_is_no_such_test.py")), controls)
    assert outcome.word == "broken"
    (outcome,) = hunt(
        a_bug(Edit("units.py", "from __future__", "import x from __future__"), random_logs(0)), controls
    )
    assert outcome.word == "broken"


def test_what_fails_without_the_bug_too_is_not_caught(controls: Controls, tmp_path: Path) -> None:
    always = tmp_path / "test_always.py"
    always.write_text("def test_always():\n    assert 1 == 2\n")
    (outcome,) = hunt(a_bug(HARMLESS, directed(str(always))), controls)
    assert outcome.word == "control failed"


@pytest.mark.parametrize(
    ("code", "output", "word"),
    [
        (1, "seed 7 FAILED: acked lost: 3 of 9\n", "caught"),
        (0, "20 seeds from 0, 0 with violations\n", "survived"),
        (None, "still at it\n", "survived"),
        (1, "Traceback (most recent call last):\nValueError: x\n", "broken"),
        (1, "ImportError: no\nseed 7 FAILED: acked lost: 3 of 9\n", "broken"),
    ],
)
def test_only_a_verdict_counts(code: int | None, output: str, word: str) -> None:
    assert judge(Ended(code, output, 1.0, simulator("list", 1).says.search(output))) == word


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SystemExit, match="no such bug: nonsense"):
        main(["--bug", "nonsense"])
