"""Shims in C, compiled when first used: `build("clock")` makes a shared object of `clock.c` beside this file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from chaos.ground.tools import CommandFailed, Unavailable, find, run

FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


def cache_directory() -> Path:
    """Of this user alone: what lies there is loaded into processes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trivet-drill"


def build(name: str, cache: Path | None = None) -> Path:
    """The shared object of `name`.c, from the cache if the source has not changed. Raises `Unavailable`."""
    source = Path(__file__).with_name(f"{name}.c")
    digest = hashlib.sha256(source.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    cache = cache or cache_directory()
    made = cache / f"{name}-{digest}.so"
    if made.exists():
        return made
    if find("gcc") is None:
        raise Unavailable(f"gcc is not installed (Debian: gcc, libc6-dev): {source.name} cannot be compiled")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=cache, suffix=".so")
    os.close(handle)
    try:
        run("gcc", *FLAGS, "-o", draft, str(source), "-ldl")
        os.replace(draft, made)  # whole or not at all: two drills may compile at once
    except CommandFailed as error:
        os.unlink(draft)
        raise Unavailable(f"{source.name} does not compile here: {error}") from error
    return made
