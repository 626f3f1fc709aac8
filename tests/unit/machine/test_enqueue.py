"""Enqueue and the limits of a queue: api.md "Messages"."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import Kit, code
from trivet.machine import commands as c
from trivet.machine.commands import Draft


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"result_retention_ms": 0, "backoff": c.Backoff("list"), **config})
    return kit


def test_enqueue_creates_the_queue_with_the_defaults_unless_told_not_to() -> None:
    kit = Kit()
    refused = kit(c.Enqueue("new", (Draft(),), auto_create=False))
    assert (code(refused), refused.field) == ("queue_not_found", "/messages/0/queue")
    assert kit.put("a", queue="new") and kit.m.queues["new"].config == c.QueueConfig()


def test_at_most_so_many_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.intake.QUEUES_MAX", 2)
    monkeypatch.setattr("trivet.machine.admin.QUEUES_MAX", 2)
    kit = make()
    kit.put("a", queue="r")
    assert code(kit(c.Enqueue("s", (Draft(),)))) == "too_many_queues"
    assert code(kit(c.PutQueue("s", c.QueueConfig()))) == "too_many_queues"


def test_paused_enqueue_refuses_and_resume_takes_again() -> None:
    kit = make()
    kit(c.PauseQueue("q", enqueue=True))
    assert code(kit(c.Enqueue("q", (Draft(),)))) == "queue_paused"
    kit(c.PauseQueue("q", enqueue=False))
    assert kit.put("a")


def test_a_batch_is_all_or_nothing() -> None:
    kit = make(max_messages=2)
    assert code(kit(c.Enqueue("q", (Draft(), Draft(), Draft())))) == "queue_full"
    assert kit.counts() == {}
    kit.put("a", "b")
    refused = kit(c.Enqueue("q", (Draft(),)))
    assert (refused.code, refused.limit) == ("queue_full", 2) and refused.retry_after_ms
    kit.ack(*kit.lease())
    assert kit.put("c")


def test_max_bytes_counts_bodies_and_headers_of_unfinished_messages() -> None:
    kit = make(max_bytes=10)
    kit.put(Draft(b"12345", headers={"a": "é"}))
    assert kit.m.queues["q"].bytes == 8
    assert code(kit(c.Enqueue("q", (Draft(b"123"),)))) == "queue_full"
    kit.put(Draft(b"12"))
    grants = kit.lease(2)
    assert kit.m.queues["q"].bytes == 10
    kit.nack(grants[0], dead_letter=True)
    kit.ack(grants[1])
    assert kit.m.queues["q"].bytes == 0


def test_on_full_the_oldest_ready_ones_become_dead_letters() -> None:
    kit = make(max_messages=3, on_full="dead_letter_oldest")
    a, b, d = kit.put(Draft(delay_ms=50), Draft(priority=5), "c")
    (e,) = kit.put("d")
    assert kit.m.messages[b].dead_reason == "queue_full" and kit.state(a) == "delayed"
    assert kit.put("e", "f") and kit.state(d) == kit.state(e) == "dead"
    assert code(kit(c.Enqueue("q", tuple(Draft() for _ in range(4))))) == "queue_full"


def test_on_full_by_bytes_and_what_cannot_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make(max_bytes=10, on_full="dead_letter_oldest")
    a, b = kit.put(Draft(b"1234"), Draft(b"1234"))
    kit.put(Draft(b"12345"))
    assert kit.state(a) == "dead" and kit.state(b) == "ready"
    kit.lease(1)
    assert code(kit(c.Enqueue("q", (Draft(b"1234567"),)))) == "queue_full"
    monkeypatch.setattr("trivet.machine.intake.DISPLACE_MAX", 0)
    assert code(kit(c.Enqueue("q", (Draft(b"12345"),)))) == "queue_full"
