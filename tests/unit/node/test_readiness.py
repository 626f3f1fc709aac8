"""What `/readyz` and `/quorum-critical` are answered from (api.md, Cluster)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trivet.node.clock import RealClock
from trivet.node.watching import CAUGHT_UP_ENTRIES, CONTACT_FRESH_MS, Watcher
from trivet.observability.metrics import Metrics


def watcher(**replica: Any) -> Watcher:
    node = SimpleNamespace(
        meters=Metrics(),
        node_id="n1",
        members=("n1", "n2", "n3"),
        clock=RealClock(),
        log=lambda *_told, **_more: None,
        broker=SimpleNamespace(role_changed=lambda: None),
        duties=SimpleNamespace(take_office=lambda: None),
        replica=SimpleNamespace(role="follower", leader="n2", term=1, **replica),
    )
    made = Watcher(node)  # type: ignore[arg-type]
    if "leader_commit" in replica:
        made.look()
    return made


HEALTHY = {
    "recovering": None,
    "leader_commit": 1000,
    "applied_index": 1000,
    "is_leader": False,
    "caught_up": False,
    "leader_contact_ms": 0,
}


@pytest.mark.parametrize(
    ("changed", "caught_up"),
    [
        ({}, True),
        ({"applied_index": 999}, False),  # what was committed when it first heard of its leader
        ({"leader_commit": None}, False),  # no leader of this term has told yet
        ({"leader_commit": 0, "applied_index": 0}, False),  # nor one that has not committed anything
        ({"leader_contact_ms": CONTACT_FRESH_MS - 1}, True),
        ({"leader_contact_ms": CONTACT_FRESH_MS}, False),
        ({"leader_contact_ms": None}, False),
        ({"recovering": "wiped"}, False),
        ({"is_leader": True}, False),  # its own no-op is not applied yet
        ({"is_leader": True, "caught_up": True}, True),
    ],
)
def test_who_is_caught_up(changed: dict[str, Any], caught_up: bool) -> None:
    assert watcher(**(HEALTHY | changed)).caught_up() is caught_up


def test_who_was_level_once_may_be_a_little_behind() -> None:
    looks = watcher(**HEALTHY)
    assert looks.caught_up()
    replica = looks._node.replica
    replica.leader_commit += CAUGHT_UP_ENTRIES  # type: ignore[misc]
    assert looks.caught_up()
    replica.leader_commit += 1  # type: ignore[misc]
    assert not looks.caught_up()
    replica.applied_index += 1  # type: ignore[misc]
    assert looks.caught_up()


def member(name: str, **changed: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"node_id": name, "reachable": True, "recovering": False, "lag": 0, **changed})


@pytest.mark.parametrize(
    ("third", "critical"),
    [
        ({}, False),
        ({"lag": CAUGHT_UP_ENTRIES}, False),
        ({"lag": CAUGHT_UP_ENTRIES + 1}, True),
        ({"lag": None}, False),  # only a leader knows
        ({"reachable": False}, True),
        ({"recovering": True}, True),
    ],
)
def test_whose_stop_would_cost_the_quorum(third: dict[str, Any], critical: bool) -> None:
    members = (member("n1"), member("n2"), member("n3", **third))
    assert watcher(status=lambda: SimpleNamespace(members=members)).quorum_critical() is critical
