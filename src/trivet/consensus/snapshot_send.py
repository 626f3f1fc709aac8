"""A snapshot on its way to a member that is behind the log: numbered pieces, a window, restart by name (r13e)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trivet.consensus.outbox import FREE
from trivet.consensus.peers import Peer
from trivet.consensus.port import Fatal
from trivet.storage.snapshots import SnapshotMeta, SnapshotReader
from trivet.wire.frames import SnapshotChunk, SnapshotReply

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


@dataclass(slots=True)
class _Outgoing:
    meta: SnapshotMeta
    reader: SnapshotReader
    sent: int = 0
    wanted: int = 0
    poke: int = 0
    """Number of the last empty piece; what was sent before it has arrived or is lost once it is answered."""
    sent_at_poke: int = 0


class SnapshotSender:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._of: dict[str, _Outgoing] = {}

    def send_to(self, peer: Peer, heartbeat: bool) -> None:
        """Pieces up to the window; with `heartbeat` at least an empty one."""
        engine = self._engine
        out = self._current(peer)
        chunk = engine.settings.snapshot_chunk_bytes
        window = chunk * engine.settings.snapshot_window
        sent_any = False
        while out.sent < out.meta.size and out.sent - out.wanted < window:
            data = out.reader.read_at(out.sent, chunk)
            if not data:
                raise Fatal(f"snapshot {out.meta.name} ends at {out.sent} instead of {out.meta.size}")
            self._send(peer, out, out.sent, data)
            out.sent += len(data)
            sent_any = True
        if heartbeat and not sent_any:
            out.poke = self._send(peer, out, out.sent, b"")
            out.sent_at_poke = out.sent

    def _current(self, peer: Peer) -> _Outgoing:
        """Goes on with an older snapshot as long as the log still follows it."""
        storage = self._engine.storage
        out = self._of.get(peer.name)
        if out is not None and out.meta.index >= storage.base_index:
            return out
        self.stop(peer.name)
        meta = storage.snapshots.latest
        if meta is None or meta.index < storage.base_index:
            raise Fatal(f"the log begins behind {storage.base_index} and no snapshot reaches it")
        out = self._of[peer.name] = _Outgoing(meta, storage.snapshots.reader(meta))
        self._engine.event("snapshot_sending", member=peer.name, index=meta.index, bytes=meta.size)
        return out

    def _send(self, peer: Peer, out: _Outgoing, offset: int, data: bytes) -> int:
        engine, meta = self._engine, out.meta
        number = engine.outbox.next_sequence()
        message = SnapshotChunk(
            engine.cluster_id,
            engine.me.id,
            engine.term,
            number,
            meta.name,
            meta.index,
            meta.term,
            list(meta.members),
            meta.size,
            meta.crc,
            meta.digest,
            offset,
            engine.health(),
            data,
        )
        engine.outbox.post(peer.name, message, FREE)
        return number

    def on_reply(self, peer: Peer, m: SnapshotReply) -> None:
        out = self._of.get(peer.name)
        if out is None or m.name != out.meta.name or m.offset > out.meta.size:
            return
        if m.seq == out.poke and out.sent == out.sent_at_poke:
            out.sent = out.wanted = m.offset
        else:
            out.wanted = min(max(out.wanted, m.offset), out.sent)

    def is_sending(self, name: str, snapshot: str) -> bool:
        """Whether this snapshot is on its way to this member."""
        out = self._of.get(name)
        return out is not None and out.meta.name == snapshot

    def stop(self, name: str) -> None:
        out = self._of.pop(name, None)
        if out is not None:
            out.reader.close()

    def stop_all(self) -> None:
        for name in list(self._of):
            self.stop(name)
