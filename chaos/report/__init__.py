"""One self-contained page about a run, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from chaos.report.data import gather
from chaos.report.numbers import as_json
from chaos.report.page import render

__all__ = ["write"]


def write(directory: Path) -> Path:
    """Writes `report.html` and `report.json` from the files of a run directory; the page's path.

    Files that are missing leave their parts empty and are named. Raises ValueError for a file that is not
    what it should be."""
    run = gather(directory)
    page = directory / "report.html"
    page.write_text(render(run), encoding="utf-8")
    (directory / "report.json").write_text(json.dumps(as_json(run), indent=1) + "\n", encoding="utf-8")
    return page
