"""The cluster as the node asked sees it, hand-over, snapshot, digest."""

from __future__ import annotations

from msgspec import UNSET

from trivet.errors import TrivetError
from trivet.http import content
from trivet.http import schema as s
from trivet.http.call import Call, Reply, not_yet
from trivet.http.codec import Codec

_TRANSFER = Codec(s.TransferIn)
_NOTHING = Codec(s.In)


async def get(call: Call) -> Reply:
    """Never blocks on the leader: what this node knows now."""
    broker = call.services.broker
    return call.reply(200, {**broker.host.cluster(), "as_of": broker.consensus.applied_index})


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


async def snapshot(call: Call) -> Reply:
    """Taken in the background, in slices (R9)."""
    call.decode(_NOTHING, optional=True)
    call.services.broker.consensus.snapshot_now()
    return _accepted(call, {})


def _accepted(call: Call, told: dict[str, object]) -> Reply:
    consensus = call.services.broker.consensus
    return call.reply(202, {**told, "index": consensus.applied_index, "seq": 0, "term": consensus.term})


async def digest(call: Call) -> Reply:
    """Of the node asked: equal indices have equal digests on any node (R11)."""
    index, told = await call.services.broker.read_local(lambda m: (m.applied_index, m.digest().hex()))
    return call.reply(200, {"index": index, "digest": told, "as_of": index})


async def members(call: Call) -> Reply:
    raise not_yet("membership changes")
