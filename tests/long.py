"""`TRIVET_LONG=1` (`make nightly`): the exhaustive variants of tests that `make test` runs with chosen cases."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("TRIVET_LONG") == "1"


def pick(usual: T, long: T) -> T:
    """The size of a test: what `make test` takes, and what a night has time for."""
    return long if LONG else usual
