"""Server-sent events, read as they lie on the wire."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Event:
    id: int | None
    type: str
    data: Any


class Stream:
    """An open stream; `events` and `comments` so far. Reading ends with `TimeoutError`, or at the stream's end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.comments = 0
        self.ended = False

    def lines(self, until: float) -> Iterator[str]:
        while time.monotonic() < until:
            raw = self.response.readline()
            if not raw:
                self.ended = True
                return
            assert raw.endswith(b"\n") and b"\r" not in raw
            yield raw.decode()[:-1]

    def take(self, count: int, seconds: float = 10) -> list[Event]:
        """The next `count` events; fewer if the stream ends before."""
        found: list[Event] = []
        fields: dict[str, str] = {}
        for line in self.lines(time.monotonic() + seconds):
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                assert name in ("id", "event", "data", "retry") and name not in fields, line
                fields[name] = value
            elif "data" in fields:
                at = fields.get("id")
                found.append(
                    Event(None if at is None else int(at), fields["event"], json.loads(fields["data"]))
                )
                fields = {}
                if len(found) == count:
                    return found
            else:
                fields = {}
        if self.ended:
            return found
        raise TimeoutError(f"{len(found)} of {count} events")

    def comment(self, seconds: float) -> None:
        """Wait for the next comment; an event before it is a mistake."""
        before = self.comments
        for line in self.lines(time.monotonic() + seconds):
            if line.startswith(":"):
                self.comments += 1
                return
            assert not line.startswith("data"), line
        raise TimeoutError(f"no comment in {seconds} s, {before} before")


@contextmanager
def following(
    url: str, run_id: str, *, query: str = "", headers: dict[str, str] | None = None, hops: int = 3
) -> Iterator[Stream]:
    """A stream from the node at `url`, or where it sends to."""
    parts = urlsplit(url)
    path = f"/v1/runs/{run_id}/events{query}"
    for _ in range(hops):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            if response.status == 307:
                parts = urlsplit(response.headers["Location"])
                continue
            assert response.status == 200, (response.status, response.read())
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store" and response.headers["Trivet-Node"]
            yield Stream(response)
            return
        finally:
            connection.close()
    raise AssertionError("redirected in circles")
