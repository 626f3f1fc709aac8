"""Reads: the shapes of api.md, and that every list is bounded."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from tests.unit.machine.kit import Kit, token
from trivet.machine import views
from trivet.machine.commands import (
    CODEC_BYTES,
    Backoff,
    Cancel,
    DeleteQueue,
    Draft,
    Extras,
    PatchMessage,
    Progress,
    PurgeDead,
)
from trivet.machine.ids import encode_token, message_id
from trivet.machine.replies import EnqueuedOne


def test_a_queue() -> None:
    kit = Kit()
    kit.queue("q", backoff=Backoff(factor_milli=1500, delays_ms=(1, 2)), max_leased=3)
    kit.put("a", "b")
    kit.now += 5
    kit.lease()
    view = views.queue(kit.m, "q")
    assert view is not None
    assert view["backoff"] == {
        "type": "exponential",
        "base_ms": 1000,
        "factor": views.Milli(1500),
        "max_ms": 300_000,
        "jitter": views.Milli(500),
        "delays_ms": [1, 2],
    }
    assert {name: view[name] for name in ("ready", "leased", "leasable", "bytes", "oldest_ready_age_ms")} == {
        "ready": 1,
        "leased": 1,
        "leasable": 1,
        "bytes": 6,
        "oldest_ready_age_ms": 5,
    }
    assert (view["max_leased"], view["ttl_ms"], view["lease_ms"]) == (3, None, 30_000)
    assert views.queue(kit.m, "q", kit.now + 7)["oldest_ready_age_ms"] == 12  # type: ignore[index]
    assert views.queue(kit.m, "q", 0)["oldest_ready_age_ms"] == 5  # type: ignore[index]
    assert views.queue(kit.m, "nobody") is None


def test_queues_by_name_page_by_page() -> None:
    kit = Kit()
    for name in ("b", "d", "a", "c"):
        kit.queue(name)
    seen = []
    after = None
    while True:
        page, after = views.queues(kit.m, 3, after)
        seen.append([each["queue"] for each in page])
        if after is None:
            break
    assert seen == [["a", "b", "c"], ["d"]]
    assert views.queues(kit.m, 4) == (views.queues(kit.m, 5)[0], None)


def test_messages_page_by_page_with_limit_and_bytes() -> None:
    kit = Kit()
    numbers = kit.put(*(Draft(b"x" * 100) for _ in range(5)))

    def pages(limit: int, max_bytes: int, state: str | None = None) -> list[list[str]]:
        seen, after = [], 0
        while True:
            page = views.messages(kit.m, "q", state, limit, after, max_bytes)
            assert page is not None
            seen.append([each["id"] for each in page[0]])
            if page[1] is None:
                return seen
            after = int(page[1][1:], 16)

    every = [message_id(number) for number in numbers]
    assert pages(1000, 10**6) == [every]
    assert pages(5, 500) == [every]
    assert pages(2, 10**6) == [every[:2], every[2:4], every[4:]]
    assert pages(1000, 200) == [every[:2], every[2:4], every[4:]]
    assert pages(1000, 1) == [[one] for one in every], "at least one, whatever its size"
    leased = [message_id(number) for number in kit.take(2)]
    assert pages(1000, 10**6, "leased") == [leased]
    assert pages(1000, 10**6, "dead") == [[]]
    assert views.messages(kit.m, "nobody", None, 1) is None


def test_a_search_for_a_rare_state_looks_at_so_many_and_gives_a_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit()
    numbers = kit.put(*"abcdef")
    kit(PatchMessage(numbers[4], deliver_at_ms=kit.now + 1000))
    monkeypatch.setattr(views, "SCAN_MAX", 3)
    page = views.messages(kit.m, "q", "delayed", 10)
    assert page == ([], message_id(numbers[2]))
    found, after = views.messages(kit.m, "q", "delayed", 10, numbers[2]) or ([], None)
    assert [each["id"] for each in found] == [message_id(numbers[4])] and after is None
    assert found[0]["deliver_at_ms"] == kit.now + 1000


def test_results_and_errors_count_as_bytes_of_a_page() -> None:
    kit = Kit()
    kit.queue(retention_ms=1000)
    kit.put("a", "b")
    for grant in kit.lease(2):
        kit.ack(grant, result=b"x" * 1000)
    page = views.messages(kit.m, "q", "done", 10, 0, 1500)
    assert page is not None and len(page[0]) == 1 and page[1] is not None


def test_dead_ones_and_who_a_redrive_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    kit.queue(max_attempts=1)
    numbers = kit.put(*"abcd")
    grants = kit.lease(4)
    kit.nack(*grants[:2], error="e")
    kit.nack(*grants[2:], dead_letter=True)

    def dead(**more: object) -> list[str]:
        found = views.dead(kit.m, "q", 10, **more)  # type: ignore[arg-type]
        assert found is not None
        return [each["id"] for each in found[0]]

    ids = [message_id(number) for number in numbers]
    assert dead() == ids
    assert dead(reason="rejected") == ids[2:]
    assert dead(after=numbers[0], reason="max_attempts") == ids[1:2]
    assert views.dead(kit.m, "nobody", 1) is None
    shown = views.message(kit.m, numbers[0])
    assert shown is not None
    assert (shown["dead_reason"], shown["dead_at_ms"], shown["attempts"][0]["error"]) == (
        "max_attempts",
        kit.now,
        "e",
    )

    assert views.redrive_candidates(kit.m, "q", None, None, 10) == (numbers, None)
    assert views.redrive_candidates(kit.m, "q", None, "rejected", 10) == (numbers[2:], None)
    assert views.redrive_candidates(kit.m, "q", None, None, 3) == (numbers[:3], numbers[2])
    assert views.redrive_candidates(kit.m, "q", None, None, 3, numbers[2]) == (numbers[3:], None)
    mixed = [numbers[3], numbers[1], numbers[1], 999]
    assert views.redrive_candidates(kit.m, "q", mixed, None, 10) == ([numbers[1], numbers[3]], None)
    monkeypatch.setattr(views, "SCAN_MAX", 2)
    assert views.redrive_candidates(kit.m, "q", None, "rejected", 10) == ([], numbers[1])
    monkeypatch.undo()
    kit(PurgeDead("q"))  # at once, before any sweep
    assert dead() == [] and views.redrive_candidates(kit.m, "q", None, None, 9) == ([], None)


def test_a_lease_shows_its_message_while_it_is_live() -> None:
    kit = Kit()
    extras = Extras("run", "step", "parent", "tenant", "user", "00-trace", max_attempts=9)
    draft = Draft(b"\x00", 1, "image/png", {"a": "b"}, 3, ttl_ms=50, group="g", key="k", extras=extras)
    (number,) = kit.put(draft)
    (grant,) = kit.lease(lease_ms=20)
    assert views.leased(kit.m, grant.fence) == {
        "id": message_id(number),
        "queue": "q",
        "body": views.Body(b"\x00", 1, "image/png"),
        "content_type": "image/png",
        "headers": {"a": "b"},
        "priority": 3,
        "group": "g",
        "attempt": 1,
        "max_attempts": 9,
        "idempotency_key": "k",
        "enqueued_at_ms": kit.now,
        "expires_at_ms": kit.now + 50,
        "run_id": "run",
        "step_id": "step",
        "parent_step_id": "parent",
        "tenant_id": "tenant",
        "user_id": "user",
        "traceparent": "00-trace",
        "lease_token": encode_token(grant.fence, token(grant).mac),
        "lease_expires_at_ms": kit.now + 20,
    }
    assert "lease_token" not in (views.message(kit.m, number) or {})
    kit.release(grant)
    assert views.leased(kit.m, grant.fence) is None
    assert views.leased(kit.m, 999) is None


@pytest.mark.parametrize(("percent", "note"), [(None, None), (5, None), (None, "n"), (5, "n")])
def test_progress_shows_what_was_said(percent: int | None, note: str | None) -> None:
    kit = Kit()
    (number,) = kit.put("a")
    (grant,) = kit.lease()
    kit(Progress(number, token(grant), percent, note))
    said = {"percent": percent, "note": note}
    shown = views.message(kit.m, number)
    assert shown is not None
    assert shown["progress"] == {"at_ms": kit.now, **{k: v for k, v in said.items() if v is not None}}


def test_a_blocked_message_shows_when_it_would_be_delivered() -> None:
    kit = Kit()
    (first,) = kit.put("a")
    waits = Extras(depends_on=(first,))
    plain, later = kit.put(Draft(extras=waits), Draft(extras=waits, delay_ms=70))
    assert "deliver_at_ms" not in (views.message(kit.m, plain) or {})
    assert (views.message(kit.m, later) or {})["deliver_at_ms"] == kit.now + 70
    assert (views.message(kit.m, later) or {})["depends_on"] == [message_id(first)]


def test_enqueued() -> None:
    kit = Kit()
    shown = {"id": message_id(5), "state": "ready", "duplicate": False}
    assert views.enqueued(kit.m, EnqueuedOne(5, "ready")) == shown
    done = views.enqueued(kit.m, EnqueuedOne(5, "done", True, b"1"))
    assert done == {"id": message_id(5), "state": "done", "duplicate": True, "result": views.Result(b"1")}


def test_a_marked_lease_says_cancelled_and_how_it_ended_is_told_once_it_is_gone() -> None:
    kit = Kit()
    kept, gone = kit.put(Draft(extras=Extras(run_id="r")), "b")
    first, second = kit.lease(2)
    kit(Cancel(gone))
    shown = views.message(kit.m, gone)
    assert shown is not None and shown["cancelled"] is True and shown["state"] == "leased"
    assert "cancelled" not in (views.message(kit.m, kept) or {})
    message = kit.m.messages[gone]
    assert views.ended(kit.m, message) is None, "not ended yet"
    kit.ack(first)
    assert views.ended(kit.m, kit.m.messages[kept]) is None, "kept: read it by its id"
    kit.nack(second)
    assert views.message(kit.m, gone) is None
    told = views.ended(kit.m, message)
    assert told is not None
    assert (told["state"], told["finished_at_ms"], told["id"]) == ("cancelled", kit.now, message_id(gone))


def test_leases_in_the_short_form_say_what_the_long_one_says() -> None:
    kit = Kit()
    kit.queue("q", max_attempts=7)
    rare: tuple[dict[str, Any], ...] = (
        {"headers": {"a": "b"}},
        {"content_type": "text/plain", "codec": CODEC_BYTES},
        {"group": "g"},
        {"key": "k"},
        {"extras": Extras(run_id="r")},
        {"ttl_ms": 9_000_000},
    )
    kit.put(Draft(b"1"), *(Draft(b"2", **fields) for fields in rare), Draft(b"\0", CODEC_BYTES))
    grants = kit.lease(20)
    shown = views.leases(kit.m, [grant.fence for grant in grants])
    assert [isinstance(one, tuple) for one in shown] == [True, *[False] * len(rare), True]
    for one, grant in zip(shown, grants, strict=True):
        long = views.leased(kit.m, grant.fence)
        assert long is not None
        if isinstance(one, dict):
            assert one == long
            continue
        number, queue, body, codec, priority, attempt, most, bare, enqueued_at, expires_at = one
        assert long == {
            "id": message_id(number),
            "queue": queue,
            "body": views.Body(body, codec, None),
            "priority": priority,
            "attempt": attempt,
            "max_attempts": most,
            "enqueued_at_ms": enqueued_at,
            "lease_token": urlsafe_b64encode(bare).decode(),
            "lease_expires_at_ms": expires_at,
        }


def test_leases_leave_out_what_is_over() -> None:
    kit = Kit()
    kit.queue("q")
    kit.queue("gone")
    kit.put("a", "b")
    kit.put("c", queue="gone")
    first, second = kit.lease(2)
    third = kit.lease(1, queue="gone")[0]
    kit.ack(first)
    kit(DeleteQueue("gone"))
    shown = views.leases(kit.m, [first.fence, third.fence, second.fence])
    assert [one[0] for one in shown if isinstance(one, tuple)] == [second.message] and len(shown) == 1
