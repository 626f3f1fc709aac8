"""Who is talked to at all, and what a member short of space does with a snapshot (R5, R10)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.consensus.lab import Lab
from tests.unit.consensus.test_snapshots import SMALL, behind
from trivet.consensus.port import Fatal
from trivet.storage.snapshots import BODY_AT
from trivet.wire.frames import PROTOCOL


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"protocol": PROTOCOL + 1}, f"it speaks protocol {PROTOCOL + 1}, not {PROTOCOL}"),
        ({"node_id": "c"}, "it says it is c"),
        ({"members": ["a", "b"]}, "it is configured with members a, b"),
        ({"cluster_id": "other"}, "it belongs to cluster other"),
    ],
)
def test_only_members_of_this_cluster_configured_alike_are_talked_to(
    change: dict[str, Any], why: str
) -> None:
    lab = Lab(down="bc")
    lab.start("b")
    lab.disconnect("a", "b")
    node, hello = lab["a"], lab["b"].replica.hello()
    node.replica.peer_up("b", msgspec.structs.replace(hello, **change))
    assert node.saw("member_refused") == [{"member": "b", "why": why}]
    lab.run(2.0)
    assert not node.replica.has_quorum and lab.leaders() == []


def test_a_node_that_is_no_member_is_ignored() -> None:
    lab = Lab()
    leader = lab.leader()
    leader.replica.peer_up("z", lab.followers()[0].replica.hello())
    leader.replica.peer_down("z")
    lab.run(0.3)
    assert lab.leaders() == [leader.name] and not leader.saw("member_refused")


def test_a_link_that_is_up_again_without_having_gone_down() -> None:
    """The transport replaces an older connection; consensus begins anew with that member."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    follower = lab.followers()[0]
    leader.replica.peer_up(follower.name, follower.replica.hello())
    follower.replica.peer_up(leader.name, leader.replica.hello())
    lab.put(leader, 3)
    lab.until(lambda: len(follower.machine.kept) == 3, 3)
    assert lab.leaders() == [leader.name]


@pytest.mark.parametrize("room", [0, BODY_AT + 500])
def test_a_full_disk_under_a_received_snapshot_is_waited_out(room: int) -> None:
    """R10: a full follower lives; the transfer goes on when there is space."""
    lab = Lab(**SMALL)
    leader, late = behind(lab)
    lab.start(late.name)
    late.disk.capacity = late.disk.used_bytes() + room
    lab.run(1.0)
    assert bool(late.saw("snapshot_dropped")) == bool(room), "some of it was there already"
    assert late.alive and not late.saw("snapshot_installed")
    assert late.replica.leader == leader.name
    late.disk.capacity = None
    lab.until(lab.same, 10)
    assert late.saw("snapshot_installed")


def test_a_machine_that_refuses_an_entry_ends_the_process() -> None:
    """r07: an entry of an unknown version; going on without it would diverge."""
    lab = Lab("a")
    leader = lab.leader()

    def refuse(index: int, term: int, data: bytes) -> None:
        raise ValueError("a version this node does not know")

    leader.machine.start = refuse  # type: ignore[method-assign]
    lab.put(leader, 1)
    with pytest.raises(Fatal, match="refused index"):
        lab.run(0.2)
