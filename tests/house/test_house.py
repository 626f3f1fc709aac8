"""The rules of the house, held by a test: who may import whom, one door a library, modules of a size."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "trivet"

FOUNDATION = {"units", "limits", "errors"}
SERVER = {"machine", "wire", "storage", "consensus", "node", "http"}
ALLOWED: dict[str, set[str]] = {
    "units": set(),
    "limits": {"units"},
    "errors": {"units"},
    "machine": FOUNDATION,
    "wire": FOUNDATION | {"machine"},
    "storage": FOUNDATION | {"wire", "machine"},
    "consensus": FOUNDATION | {"storage", "wire", "machine"},
    "observability": FOUNDATION,
    "config": FOUNDATION,
    "node": FOUNDATION | {"consensus", "storage", "wire", "machine", "observability", "config"},
    "http": FOUNDATION | {"node", "machine", "observability", "config"},
    "client": FOUNDATION,
    "cli": FOUNDATION | SERVER | {"client", "observability", "config"},
    "__init__": {"client"} | FOUNDATION,
    "__main__": {"cli"},
}
DOORS = {
    "pysyncobj": {"consensus"},
    "prometheus_client": {"observability"},
    "uvloop": {"cli"},
    "cronsim": {"node"},
    "zoneinfo": {"node"},
    "tzdata": {"node"},
    "aiohttp": {"http", "client"},
    "httptools": {"client"},
    "structlog": {"observability"},
    "click": {"cli"},
    "rich": {"cli"},
}
MACHINE_MAY_IMPORT = {
    "array",
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "dataclasses", "enum", "functools",
    "hashlib", "heapq", "itertools", "msgspec", "operator",
    "struct", "trivet", "typing",
}  # fmt: skip
LINES_MAX = 500


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).parts[0].removesuffix(".py"), path


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> Iterator[str]:
    for found in nodes(path):
        if isinstance(found, ast.Import):
            yield from (name.name for name in found.names)
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 0, f"{path}: relative import; say the whole name"
            yield from (f"{found.module}.{name.name}" for name in found.names)


def test_packages_import_only_downwards() -> None:
    wrong = []
    for package, path in modules():
        allowed = ALLOWED[package] | {package}
        for name in imports(path):
            parts = name.split(".")
            known = parts[0] == "trivet" and len(parts) > 1 and parts[1] in ALLOWED
            if known and parts[1] not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_one_library_has_one_door() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, path in modules()
        for name in imports(path)
        if package not in DOORS.get(name.split(".")[0], {package})
    ]
    assert not wrong, "\n".join(wrong)


def test_the_dumb_model_knows_nothing_of_the_code_it_judges() -> None:
    """R38. The chaos model too, but for the formula of tokens."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "tests" / "machine").glob("model*.py"))
        for name in imports(path)
        if name.split(".")[0] == "trivet"
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_decodes_pickle() -> None:
    banned = {"pickle", "marshal", "shelve", "dill"}
    wrong = [
        f"{path}: {name}" for _, path in modules() for name in imports(path) if name.split(".")[0] in banned
    ]
    assert not wrong, "\n".join(wrong)


def test_the_machine_is_pure() -> None:
    wrong = []
    for package, path in modules():
        if package != "machine":
            continue
        place = path.relative_to(ROOT)
        wrong += [f"{place} imports {n}" for n in imports(path) if n.split(".")[0] not in MACHINE_MAY_IMPORT]
        for found in nodes(path):
            if isinstance(found, ast.Constant) and isinstance(found.value, float):
                wrong.append(f"{place}:{found.lineno} has a float")
            if isinstance(found, ast.BinOp) and isinstance(found.op, ast.Div):
                wrong.append(f"{place}:{found.lineno} divides into a float")
            if (
                isinstance(found, ast.Call)
                and isinstance(found.func, ast.Name)
                and found.func.id in {"hash", "id", "float", "open", "print"}
            ):
                wrong.append(f"{place}:{found.lineno} calls {found.func.id}()")
            if isinstance(found, ast.For | ast.comprehension) and isinstance(
                found.iter, ast.Set | ast.SetComp
            ):
                wrong.append(f"{place} iterates over a set")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tree", ["src", "tests", "chaos", "bench", "scripts"])
def test_modules_fit_in_the_head(tree: str) -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sorted((ROOT / tree).rglob("*.py"))
        if (count := len(path.read_text().splitlines())) > LINES_MAX
    }
    assert not long, f"longer than {LINES_MAX} lines: {long}"


def test_no_error_is_swallowed() -> None:
    """Yuan 2014: most catastrophic failures are wrong handling of a signalled error."""
    wrong = []
    for _, path in modules():
        for found in nodes(path):
            if not isinstance(found, ast.ExceptHandler):
                continue
            broad = found.type is None or (
                isinstance(found.type, ast.Name) and found.type.id in {"Exception", "BaseException"}
            )
            empty = all(isinstance(line, ast.Pass | ast.Continue) for line in found.body)
            if broad and empty:
                wrong.append(f"{path.relative_to(ROOT)}:{found.lineno}")
    assert not wrong, "\n".join(wrong)


def test_readme_links_resolve() -> None:
    missing = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http:", "https:", "mailto:")) and not (page.parent / target).exists():
                missing.append(f"{page.relative_to(ROOT)} → {target}")
    assert not missing, "\n".join(missing)


def test_reference_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/make_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
