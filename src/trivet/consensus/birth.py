"""How a cluster is born, once (R5): a pure decision over what the members said, and nothing else.

Two phases. A member becomes *pending* in cluster X only when all members answered "empty, or pending in X"; the
lowest id chooses X. It becomes *born* only when all members are durably pending in X, or one is born in the X it is
pending in itself. An empty directory that meets a born member belongs to a node that was wiped: it joins *recovering*
(R6). One member with state therefore forbids a birth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EMPTY, PENDING, BORN = "empty", "pending", "born"


@dataclass(frozen=True, slots=True)
class View:
    """What a member says of itself. `forbidden`: it may only join, since it has begun to before."""

    phase: str
    cluster_id: str
    members: tuple[str, ...]
    bootstrap: bool = False
    forbidden: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    why: str


@dataclass(frozen=True, slots=True)
class BecomePending:
    """`cluster_id` None: choose one."""

    cluster_id: str | None


@dataclass(frozen=True, slots=True)
class BecomeBorn:
    pass


@dataclass(frozen=True, slots=True)
class Join:
    """Recovering, in a cluster that lives."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    why: str


Decision = Wait | BecomePending | BecomeBorn | Join | Refuse


def decide(me: str, own: View, others: Mapping[str, View | None]) -> Decision:
    """`others`: every other member; None while it is not connected (what it said earlier may be stale)."""
    if own.phase == BORN:
        return Wait("born")
    known = {name: view for name, view in sorted(others.items()) if view is not None}
    for name, view in known.items():
        if sorted(view.members) != sorted(own.members):
            return Refuse(f"{name} is configured with members {', '.join(view.members)}")
    ids = sorted({view.cluster_id for view in (own, *known.values()) if view.phase != EMPTY})
    if len(ids) > 1:
        return Refuse(f"members belong to different clusters: {', '.join(ids)}")
    somebody_born = any(view.phase == BORN for view in known.values())
    if somebody_born:
        return BecomeBorn() if own.phase == PENDING else Join(ids[0])
    if own.forbidden:
        return Wait("this directory had begun to join a cluster; no member of it answers")
    missing = sorted(set(others) - set(known))
    if missing:
        return Wait(f"no answer from {', '.join(missing)}")
    if own.phase == PENDING:
        late = [name for name, view in known.items() if view.phase != PENDING]
        return Wait(f"{', '.join(late)} not yet pending") if late else BecomeBorn()
    if any(view.forbidden for view in known.values()):
        return Wait("a member may only join a living cluster")
    if ids:
        return BecomePending(ids[0])
    if not any(view.bootstrap for view in (own, *known.values())):
        return Wait("nobody wishes the cluster to be born")
    if me != min(own.members):
        return Wait(f"{min(own.members)} chooses the cluster id")
    return BecomePending(None)
