"""Check each file of deploy/ with its own linter. A linter that this machine does not have is named
with the reason; in CI that is a failure unless it stands in `MAY_BE_MISSING` (R38)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

MAY_BE_MISSING = {
    "haproxy": "a Debian package, not installed on every CI machine",
    "systemd-analyze": "part of systemd, absent from small containers",
}

CHECKS: list[tuple[str, list[str]]] = [
    ("hadolint", ["hadolint", "--ignore", "DL3008", "--ignore", "DL3042", "Dockerfile"]),
    (
        "check-jsonschema",
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose/compose.yaml"],
    ),
    (
        "yamllint",
        [
            "yamllint",
            "-d",
            "{extends: default, rules: {line-length: {max: 120}, document-start: disable, braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}",
            "deploy/compose/compose.yaml",
        ],
    ),
    ("haproxy", ["haproxy", "-c", "-f", "deploy/haproxy/haproxy.cfg"]),
    (
        "systemd-analyze",
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", "deploy/systemd/trivet.service"],
    ),
]


def tool(name: str) -> str | None:
    beside = BIN / name
    return (
        str(beside) if beside.exists() else shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    )


def main() -> int:
    passed = failed = 0
    for name, command in CHECKS:
        path = tool(name)
        if path is None:
            reason = MAY_BE_MISSING.get(name)
            print(f"  not run  {name}: {reason or 'missing, and not listed as one that may be'}")
            failed += reason is None and bool(os.environ.get("CI"))
            continue
        done = subprocess.run([path, *command[1:]], cwd=ROOT, capture_output=True, text=True)
        ok = done.returncode == 0
        passed, failed = passed + ok, failed + (not ok)
        print(f"  {'ok' if ok else 'FAILED':>7}  {name} {command[-1]}")
        if not ok:
            print(done.stdout + done.stderr)
    print(f"lint: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
