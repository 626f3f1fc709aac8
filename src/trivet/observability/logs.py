"""Log events: each name declared once, with the fields it carries and its level.

One JSON line off a terminal, a readable line on one. Nothing is logged per message or per request, and
no event carries a body, a key, a token or a secret: fields are ids of nodes, numbers and reasons.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Any, NamedTuple, TextIO

import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Event(NamedTuple):
    """`fields` are the only ones the event may carry (beside `node` and the time)."""

    name: str
    level: str
    fields: tuple[str, ...]


class Events(StrEnum):
    """The names. What each says is in `TABLE`."""

    NODE_STARTING = "node_starting"
    NODE_STARTED = "node_started"
    NODE_DRAINING = "node_draining"
    NODE_STOPPED = "node_stopped"
    NODE_FAILED = "node_failed"
    CLUSTER_BORN = "cluster_born"
    ROLE_CHANGED = "role_changed"
    RECOVERING = "recovering"
    RECOVERED = "recovered"
    SNAPSHOT_TAKEN = "snapshot_taken"
    SNAPSHOT_INSTALLED = "snapshot_installed"
    PEER_UP = "peer_up"
    PEER_DOWN = "peer_down"
    PEER_REFUSED = "peer_refused"
    PEER_SLOW = "peer_slow"
    FRAME_REFUSED = "frame_refused"
    LOOP_HELD = "loop_held"
    PRESSURE_CHANGED = "pressure_changed"
    ALARM_RAISED = "alarm_raised"
    ALARM_CLEARED = "alarm_cleared"
    DUTY_FAILED = "duty_failed"
    HTTP_FAILED = "http_failed"
    CONSENSUS = "consensus"
    STORAGE_REPAIRED = "storage_repaired"


TABLE: dict[str, Event] = {
    event.name: event
    for event in (
        Event(Events.NODE_STARTING, "info", ("version", "data_dir", "members", "api", "raft")),
        Event(Events.NODE_STARTED, "info", ("version", "api", "raft", "last_index", "took_ms")),
        Event(Events.NODE_DRAINING, "info", ("reason",)),
        Event(Events.NODE_STOPPED, "info", ("clean", "took_ms")),
        Event(Events.NODE_FAILED, "error", ("reason", "error")),
        Event(Events.CLUSTER_BORN, "info", ("cluster_id", "members")),
        Event(Events.ROLE_CHANGED, "info", ("role", "term", "leader")),
        Event(Events.RECOVERING, "warning", ("reason",)),
        Event(Events.RECOVERED, "info", ("index",)),
        Event(Events.SNAPSHOT_TAKEN, "info", ("index", "bytes", "took_ms")),
        Event(Events.SNAPSHOT_INSTALLED, "info", ("index", "bytes")),
        Event(Events.PEER_UP, "info", ("peer", "api_url", "version", "state", "recovering")),
        Event(Events.PEER_DOWN, "info", ("peer", "reason")),
        Event(Events.PEER_REFUSED, "warning", ("peer", "address", "reason")),
        Event(Events.PEER_SLOW, "warning", ("peer", "buffered_bytes")),
        Event(Events.FRAME_REFUSED, "warning", ("peer", "address", "reason")),
        Event(Events.LOOP_HELD, "warning", ("held_ms", "phase")),
        Event(Events.PRESSURE_CHANGED, "warning", ("disk", "memory", "free_bytes", "memory_bytes")),
        Event(Events.ALARM_RAISED, "warning", ("alarm",)),
        Event(Events.ALARM_CLEARED, "info", ("alarm",)),
        Event(Events.DUTY_FAILED, "warning", ("duty", "reason")),
        Event(Events.HTTP_FAILED, "error", ("route", "error")),
        Event(Events.CONSENSUS, "info", ("what", "detail")),
        Event(Events.STORAGE_REPAIRED, "warning", ("what", "detail")),
    )
}


class Log:
    """Writes declared events of one node. An undeclared event or field raises `KeyError`: a defect."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __call__(self, event: Events, **values: Any) -> None:
        declared = TABLE[event]
        unknown = [name for name in values if name not in declared.fields]
        if unknown:
            raise KeyError(f"log event {event} has no field {', '.join(unknown)}")
        getattr(self._logger, declared.level)(event.value, **values)


def open_log(node_id: str, *, level: str = "info", format: str = "auto", stream: TextIO | None = None) -> Log:
    """A log on `stream` (stderr). `format`: json, human, or auto: human only on a terminal."""
    out = stream if stream is not None else sys.stderr
    human = format == "human" or (format == "auto" and out.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if human
        else structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=True)
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return Log(logger.bind(node=node_id))


def silent_log() -> Log:
    """For tests and tools: checks events against the table and writes nothing."""
    return Log(
        structlog.wrap_logger(
            None, processors=[_drop], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
    )


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent
