"""The cluster as the node asked sees it, hand-over, snapshot, digest."""

from __future__ import annotations

from msgspec import UNSET

from trivet.errors import TrivetError
from trivet.http import cluster_shapes, content
from trivet.http import schema as s
from trivet.http.call import Call, Reply, not_yet
from trivet.http.codec import Codec
from trivet.http.describing import CONSISTENCY, operation

_TRANSFER = Codec(s.TransferIn)
_NOTHING = Codec(s.In)


@operation(
    "Members, quorum, leader, elections and alarms, as the node asked sees them",
    note="Answered by any node at any time.",
    gives=cluster_shapes.Cluster,
)
async def get(call: Call) -> Reply:
    """Never blocks on the leader: what this node knows now."""
    broker = call.services.broker
    return call.reply(200, {**broker.host.cluster(), "as_of": broker.consensus.applied_index})


@operation(
    "Hand leadership over",
    note="To the member that is furthest along, or the one named.",
    takes=s.TransferIn,
    optional=True,
    gives={202: cluster_shapes.Transferring},
    problems=("no_eligible_member",),
    example={"to": "n2"},
)
async def transfer(call: Call) -> Reply:
    given = call.decode(_TRANSFER, optional=True)
    to = None if given.to is UNSET else content.text(given.to, "/to")
    consensus = call.services.broker.consensus
    if to == call.services.broker.host.node_id:
        return _accepted(call, {"to": to})  # it leads already
    if not consensus.transfer(to):
        raise TrivetError(
            "no_eligible_member",
            "no member can take over now" if to is None else f'"{to}" cannot take over now',
            field=None if to is None else "/to",
        )
    return _accepted(call, {"to": to})


@operation(
    "Take a snapshot on the node asked, in the background",
    takes=s.In,
    optional=True,
    gives={202: cluster_shapes.Accepted},
)
async def snapshot(call: Call) -> Reply:
    """Taken in the background, in slices (R9)."""
    call.decode(_NOTHING, optional=True)
    call.services.broker.consensus.snapshot_now()
    return _accepted(call, {})


def _accepted(call: Call, told: dict[str, object]) -> Reply:
    consensus = call.services.broker.consensus
    return call.reply(202, {**told, "index": consensus.applied_index, "seq": 0, "term": consensus.term})


@operation(
    "The digest of the node's state, to compare with another's at the same index",
    gives=cluster_shapes.Digest,
    query=(CONSISTENCY,),
)
async def digest(call: Call) -> Reply:
    """Of the node asked: equal indices have equal digests on any node (R11)."""
    index, told = await call.services.broker.read_local(lambda m: (m.applied_index, m.digest().hex()))
    return call.reply(200, {"index": index, "digest": told, "as_of": index})


@operation("Add a member (a later release)", problems=("not_implemented",))
async def add_member(call: Call) -> Reply:
    raise not_yet("membership changes")


@operation("Remove a member (a later release)", problems=("not_implemented",))
async def remove_member(call: Call) -> Reply:
    raise not_yet("membership changes")
