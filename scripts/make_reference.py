"""Write the pages of docs/reference/ that come from tables in the code. `--check` only compares (a test does)."""

from __future__ import annotations

import sys
from pathlib import Path

from trivet import config, errors

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def configuration() -> str:
    lines = [
        "# Configuration",
        "",
        "Made from `src/trivet/config.py` by `scripts/make_reference.py`. Later sources win: the TOML file (`--config`), the environment (`TRIVET__SECTION__KEY`, lists separated by commas), flags (`--set section.key=value`). An unknown key is refused with a suggestion; all problems are listed at once.",
        "",
        "| key | type | default | range | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in config.reference():
        default = "empty" if one.default in ("", (), None) else one.default
        lines.append(
            f"| `{one.key}` | {one.type} | {default} | {(one.range or '—').replace('|', 'or')} | {one.help} |"
        )
    return "\n".join(lines) + "\n"


def problems() -> str:
    lines = [
        "# Errors",
        "",
        "Made from `src/trivet/errors.py`. Every error is `application/problem+json` (RFC 9457) with a stable `code`; the text is not part of the API. `retry` says what a client may do: `never` (the request is wrong), `elsewhere` (definitely not applied here, another node may take it), `later` (definitely not applied, it may succeed later), `same_key` (unknown: repeat it with the same request id).",
        "",
        "| code | status | retry | meaning |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{code}` | {kind.status} | `{kind.retry}` | {kind.title} |"
            for code, kind in errors.CODES.items()
        ),
    ]
    return "\n".join(lines) + "\n"


MADE = {"configuration.md": configuration, "errors.md": problems}


def stale() -> list[str]:
    """The pages that differ from what the code says now."""
    return [
        name
        for name, make in MADE.items()
        if not (PAGES / name).exists() or (PAGES / name).read_text() != make()
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"run `python scripts/make_reference.py`: {stale()}" if stale() else 0)
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, make in MADE.items():
        (PAGES / name).write_text(make())
