"""``python -m chaos.gallery [--bug NAME…] [--list] [--jobs 2]``: puts each known bug back and sees it caught.

Every bug is an edit of a copy of the source; the instrument runs against that copy. It must give its own verdict,
and the case that caught the bug must pass on the code without it. The last line is ``gallery n / m``; exit 1 unless
all are caught.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from chaos.gallery import consensus, edges, machine, storage
from chaos.gallery.bug import Bug
from chaos.gallery.hunt import Controls, Outcome, copied, hunt

BUGS: tuple[Bug, ...] = (*storage.BUGS, *consensus.BUGS, *machine.BUGS, *edges.BUGS)


def listing() -> str:
    """All bugs, one a line."""
    lines = []
    for bug in BUGS:
        by = ", ".join(instrument.name for instrument in bug.caught_by)
        lines.append(f"{bug.name:<38} {bug.laws:<12} {by:<46} {bug.seen_in}")
    return "\n".join(lines)


def line(outcome: Outcome) -> str:
    """One row of the table."""
    by = outcome.instrument.name if outcome.instrument else "-"
    effort = f"{outcome.effort}, " if outcome.effort else ""
    took = f"{effort}{outcome.seconds:.1f} s"
    word = "" if outcome.caught else f"{outcome.word.upper()}: "
    return f"{outcome.bug.name:<38} {by:<22} {took:<18} {outcome.bug.laws:<12} {word}{outcome.said[:200]}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.gallery", description=__doc__)
    parser.add_argument(
        "--bug", action="append", default=[], metavar="NAME", help="this one only; may come again"
    )
    parser.add_argument("--list", action="store_true", help="the bugs, without running anything")
    parser.add_argument("--jobs", type=int, default=2, help="bugs at once (2)")
    parser.add_argument("--json", metavar="FILE", help="the outcomes, also as JSON lines")
    return parser.parse_args(arguments)


def chosen(names: list[str]) -> list[Bug]:
    """Raises `SystemExit` for a name that is not in the gallery."""
    unknown = sorted(set(names) - {bug.name for bug in BUGS})
    if unknown:
        raise SystemExit(f"no such bug: {', '.join(unknown)} (--list shows all)")
    return [bug for bug in BUGS if not names or bug.name in names]


def write(path: str, outcomes: list[Outcome]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        for outcome in outcomes:
            row = {
                "bug": outcome.bug.name,
                "instrument": outcome.instrument.name if outcome.instrument else None,
                "outcome": outcome.word,
                "seconds": round(outcome.seconds, 1),
                "effort": outcome.effort,
                "laws": outcome.bug.laws,
                "said": outcome.said,
            }
            file.write(json.dumps(row) + "\n")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        print(listing())
        return 0
    bugs = chosen(options.bug)
    caught = 0
    began = time.monotonic()
    with copied() as untouched, ThreadPoolExecutor(max(1, options.jobs)) as pool:
        controls = Controls(untouched)
        for outcomes in pool.map(lambda bug: hunt(bug, controls), bugs):
            for outcome in outcomes:
                print(line(outcome), flush=True)
                if not outcome.caught and outcome.said:
                    print("    " + outcome.said.replace("\n", "\n    "), flush=True)
            caught += all(outcome.caught for outcome in outcomes)
            if options.json:
                write(options.json, outcomes)
    print(f"took {time.monotonic() - began:.0f} s; each case that caught a bug passes without it")
    print(f"gallery {caught} / {len(bugs)}")
    return 0 if caught == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
