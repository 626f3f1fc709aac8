"""R5: the table of births, and births over real directories."""

from __future__ import annotations

import random

import msgspec
import pytest

from tests.unit.consensus.lab import Lab
from trivet.consensus.birth import (
    BORN,
    EMPTY,
    PENDING,
    BecomeBorn,
    BecomePending,
    Decision,
    Join,
    Refuse,
    View,
    Wait,
    decide,
)
from trivet.storage.storage import StorageRefused

ALL = ("a", "b", "c")


def view(phase: str, cluster: str = "", bootstrap: bool = False, forbidden: bool = False) -> View:
    return View(phase, cluster, ALL, bootstrap, forbidden)


E, WISH = view(EMPTY), view(EMPTY, bootstrap=True)
PX, PY, BX, BY = view(PENDING, "X"), view(PENDING, "Y"), view(BORN, "X"), view(BORN, "Y")
MARKED = view(EMPTY, forbidden=True)


@pytest.mark.parametrize(
    ("me", "own", "others", "expected"),
    [
        ("a", WISH, {"b": E, "c": E}, BecomePending(None)),
        ("a", E, {"b": E, "c": WISH}, BecomePending(None)),
        ("b", WISH, {"a": E, "c": E}, Wait("a chooses the cluster id")),
        ("a", E, {"b": E, "c": E}, Wait("nobody wishes the cluster to be born")),
        ("a", WISH, {"b": E, "c": None}, Wait("no answer from c")),
        ("a", WISH, {"b": None, "c": None}, Wait("no answer from b, c")),
        ("b", E, {"a": PX, "c": E}, BecomePending("X")),
        ("b", E, {"a": PX, "c": PX}, BecomePending("X")),
        ("a", WISH, {"b": PX, "c": E}, BecomePending("X")),  # the chooser was wiped: the choice stays
        ("b", E, {"a": PX, "c": None}, Wait("no answer from c")),
        ("a", PX, {"b": PX, "c": E}, Wait("c not yet pending")),
        ("a", PX, {"b": PX, "c": None}, Wait("no answer from c")),
        ("a", PX, {"b": PX, "c": PX}, BecomeBorn()),
        ("a", PX, {"b": BX, "c": None}, BecomeBorn()),
        ("a", PX, {"b": BX, "c": E}, BecomeBorn()),
        ("a", E, {"b": BX, "c": None}, Join("X")),
        ("a", WISH, {"b": BX, "c": E}, Join("X")),  # one member with state forbids a birth
        ("a", MARKED, {"b": BX, "c": E}, Join("X")),
        (
            "a",
            MARKED,
            {"b": E, "c": E},
            Wait("this directory had begun to join a cluster; no member of it answers"),
        ),
        ("a", WISH, {"b": MARKED, "c": E}, Wait("a member may only join a living cluster")),
        ("a", PX, {"b": PY, "c": E}, Refuse("members belong to different clusters: X, Y")),
        ("a", PX, {"b": BY, "c": E}, Refuse("members belong to different clusters: X, Y")),
        ("a", E, {"b": BX, "c": BY}, Refuse("members belong to different clusters: X, Y")),
        ("a", BX, {"b": E, "c": E}, Wait("born")),
        ("a", BX, {"b": BY, "c": PY}, Wait("born")),
    ],
)
def test_the_table(me: str, own: View, others: dict[str, View | None], expected: Decision) -> None:
    assert decide(me, own, others) == expected


def test_other_members_are_another_cluster() -> None:
    other = View(EMPTY, "", ("a", "b", "d"))
    assert decide("a", WISH, {"b": other, "c": E}) == Refuse("b is configured with members a, b, d")


def test_alone_it_is_born_at_once_or_waits_for_the_wish() -> None:
    alone = View(EMPTY, "", ("a",), bootstrap=True)
    assert decide("a", alone, {}) == BecomePending(None)
    assert decide("a", View(PENDING, "X", ("a",)), {}) == BecomeBorn()
    assert decide("a", View(EMPTY, "", ("a",)), {}) == Wait("nobody wishes the cluster to be born")


def test_three_empty_directories_become_one_cluster() -> None:
    lab = Lab(identity=False, bootstrap=True)
    lab.run(2)
    ids = {node.replica.cluster_id for node in lab.nodes.values()}
    assert len(ids) == 1 and len(ids.pop()) == 32
    assert {node.replica.phase for node in lab.nodes.values()} == {"born"}
    assert all(node.replica.recovering is None for node in lab.nodes.values())
    lab.put(lab.leader(), 3)
    lab.run(0.3)
    assert lab.same()
    for name in "abc":
        lab.kill(name)
    for name in "abc":
        lab.start(name, identity=False)
    lab.put(lab.leader(), 1)
    lab.run(0.5)
    assert lab.same() and len(lab["a"].machine.kept) == 4


def test_alone_and_empty() -> None:
    lab = Lab("a", identity=False, bootstrap=True)
    got = lab.put(lab.leader(), 1)
    lab.run(0.1)
    assert len(got) == 1 and lab["a"].replica.phase == "born"
    lab = Lab("a", identity=False)
    lab.run(1)
    assert lab["a"].replica.phase == "empty" and not lab.leaders()
    assert "wishes" in lab["a"].replica.status().waiting_for


def test_without_all_members_nothing_is_born() -> None:
    lab = Lab(identity=False, bootstrap=True, down="c")
    lab.run(3)
    assert {lab[n].replica.phase for n in "ab"} == {"empty"} and not lab.leaders()
    assert lab["a"].replica.status().waiting_for == "no answer from c"
    lab.start("c", identity=False)
    lab.leader()
    assert {lab[n].replica.phase for n in "abc"} == {"born"}


@pytest.mark.parametrize("seed", range(12))
def test_a_birth_survives_crashes_at_any_point(seed: int) -> None:
    """Whatever dies while it happens, all end in one cluster and nobody twice."""
    rng = random.Random(seed)
    lab = Lab(identity=False, bootstrap=True, seed=seed)
    for _ in range(4):
        for name in lab.names:
            if rng.random() < 0.5:
                lab.kill(name)
        lab.step()
        for name in lab.names:
            if not lab[name].alive:
                lab.start(name, identity=False)
        for _ in range(rng.randrange(4)):
            lab.step()
    lab.run(3)
    assert len({node.replica.cluster_id for node in lab.nodes.values()}) == 1
    lab.put(lab.leader(), 2)
    lab.run(0.5)
    assert lab.same() and all(node.replica.recovering is None for node in lab.nodes.values())


def test_a_directory_of_other_members_is_refused() -> None:
    lab = Lab()
    lab.leader()
    lab.kill("a", power=False)
    lab.names = ["a", "b", "d"]
    with pytest.raises(StorageRefused, match="belongs to a cluster of a, b, c"):
        lab["a"].start()


def test_a_member_configured_otherwise_is_not_talked_to() -> None:
    lab = Lab()
    leader = lab.leader()
    a = lab.followers()[0]
    hello = msgspec.structs.replace(a.replica.hello(), members=["a", "b", "c", "d"])
    leader.replica.peer_up(a.name, hello)
    assert leader.saw("member_refused")[-1]["member"] == a.name
    assert any("configured with members" in alarm for alarm in leader.replica.status().alarms)
    for change in ({"protocol": 99}, {"node_id": "q"}, {"cluster_id": "other"}):
        leader.replica.peer_up(a.name, msgspec.structs.replace(a.replica.hello(), **change))
        assert not leader.engine.peers.get(a.name).connected
    leader.replica.peer_up(a.name, a.replica.hello())
    assert leader.replica.status().alarms == ()
    leader.replica.receive(a.name, hello)
    assert not leader.engine.peers.get(a.name).connected
