"""For all tests: no skip unseen (R38), and Hypothesis the same each time unless fresh examples are asked for.

``TRIVET_LONG=1`` (`make nightly`) takes fresh examples and the long variants of the tests that have them.
"""

from __future__ import annotations

import os

from hypothesis import settings

from tests.skips import (
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

__all__ = [
    "pytest_collectreport",
    "pytest_runtest_logreport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
]

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("fresh", deadline=None, print_blob=True)
settings.load_profile("fresh" if os.environ.get("TRIVET_LONG") == "1" else "same")
