"""Every event and metric is declared once; what is written is one JSON line, or for people."""

from __future__ import annotations

import io
import json

import pytest

from trivet.observability import metrics as m
from trivet.observability.logs import TABLE, Events, open_log, silent_log
from trivet.observability.metrics import Metrics


def test_every_event_is_declared_once_and_carries_nothing_secret() -> None:
    assert set(TABLE) == {event.value for event in Events}
    banned = {"body", "token", "lease_token", "secret", "key", "headers"}
    assert not [event for event in TABLE.values() if banned & set(event.fields)]


def test_off_a_terminal_an_event_is_one_json_line() -> None:
    out = io.StringIO()
    log = open_log("n1", stream=out)
    log(Events.PEER_DOWN, peer="n2", reason="line\nbreak")
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert found["event"] == "peer_down" and found["node"] == "n1" and found["peer"] == "n2"
    assert found["at"].endswith("Z")


def test_levels_are_kept_and_human_is_not_json() -> None:
    out = io.StringIO()
    open_log("n1", level="error", stream=out)(Events.PEER_DOWN, peer="n2", reason="x")
    assert out.getvalue() == ""
    open_log("n1", format="human", stream=out)(Events.PEER_DOWN, peer="n2", reason="x")
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue())


def test_undeclared_fields_are_a_defect() -> None:
    with pytest.raises(KeyError):
        silent_log()(Events.PEER_DOWN, peer="n2", body="x")


def test_names_follow_the_rules_of_prometheus() -> None:
    for name, metric in m.TABLE.items():
        assert name == metric.name and name.startswith("trivet_") and metric.help
        assert (metric.kind == "counter") == name.endswith("_total")
        assert "queue" not in metric.labels or metric.kind == "gauge"


def test_two_nodes_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.inc(m.REQUESTS, 2, route="/x", method="GET", status="200")
    assert one.value(m.REQUESTS, route="/x", method="GET", status="200") == 2
    assert two.value(m.REQUESTS, route="/x", method="GET", status="200") == 0


def test_a_refresher_runs_at_each_scrape_and_counters_only_rise() -> None:
    meters = Metrics()
    values = iter([5.0, 7.0, 3.0])
    meters.on_scrape(lambda it: it.set(m.FRAMES_IN, next(values)))
    for expected in (5.0, 7.0, 7.0):
        assert f"{m.FRAMES_IN.name} {expected}" in meters.render().decode()


def test_cleared_gauges_are_gone() -> None:
    meters = Metrics()
    meters.set(m.ALARM, 1, alarm="x")
    meters.clear(m.ALARM)
    assert 'alarm="x"' not in meters.render().decode()
    meters.set(m.ALARM, 1, alarm="y")
    assert 'alarm="y"' in meters.render().decode()
