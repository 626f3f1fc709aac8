"""Small helpers that make requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote


def at(*parts: str) -> str:
    """A path with each part escaped."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None: absent and null are different."""
    return {name: value for name, value in fields.items() if value is not None}


def query_of(query: Mapping[str, Any]) -> str:
    """`?a=1&b=2` of the parameters that are not None, or nothing."""
    text = "&".join(
        f"{name}={quote(str(value), safe='')}" for name, value in query.items() if value is not None
    )
    return "?" + text if text else ""
