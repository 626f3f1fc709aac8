"""Every test leaves the stock library as it found it.

PySyncObj leaves files for the garbage collector to close (its meta and dump files): those warnings are its own, and
they are collected here so that they do not turn up in somebody else's test.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hazards.stock import put_back

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(autouse=True)
def library_put_back() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    put_back()
    logging.disable(logging.NOTSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
