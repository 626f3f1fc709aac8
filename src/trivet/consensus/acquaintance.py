"""Meeting other members: what is said first, who is talked to at all, and what a hello changes (R5, R6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.consensus.birth import BORN
from trivet.consensus.peers import Peer
from trivet.wire.frames import PROTOCOL, Hello

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


class Acquaintance:
    """Connections come and go here; everybody else reads `Peer.connected`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def hello(self) -> Hello:
        engine, settings = self._engine, self._engine.settings
        return Hello(
            engine.cluster_id,
            engine.me.id,
            engine.term,
            PROTOCOL,
            engine.phase,
            list(engine.peers.members),
            settings.bootstrap,
            (engine.storage.recovering or "")[:1000],
            engine.session,
            settings.api_url,
            settings.software,
            settings.machine_version,
            engine.health(),
        )

    def say_hello(self) -> None:
        """To everybody connected: something in it has changed."""
        engine, hello = self._engine, self.hello()
        for peer in engine.peers:
            if peer.connected:
                engine.outbox.post(peer.name, hello, engine.journal.vote_position)

    def peer_up(self, name: str, hello: Hello) -> None:
        engine = self._engine
        peer = engine.peers.get(name)
        if peer is None:
            return
        if peer.connected:
            self.peer_down(name)
        if not self._fits(peer, hello):
            return
        peer.connected = True
        self._learn(peer, hello)
        engine.stock_connected(peer.node)
        engine.founding.check()
        engine.replication.member_came(peer)
        engine.elections.member_came(peer)
        # The hello that opened the connection may be older than the end of our recovery, and `say_hello` reaches
        # only those connected then: a peer left in that belief never counts our votes (simulator, queue seed 10).
        engine.outbox.post(name, self.hello(), engine.journal.vote_position)

    def peer_down(self, name: str) -> None:
        engine = self._engine
        peer = engine.peers.get(name)
        if peer is None or not peer.connected:
            return
        peer.connected = False
        engine.outbox.drop_peer(name)
        engine.stock_disconnected(peer.node)
        engine.replication.member_gone(peer)
        engine.elections.member_gone(name)
        if engine.leader == name:
            engine.elections.lost_leader(name)

    def hello_again(self, peer: Peer, hello: Hello) -> None:
        """A member's state has changed while connected. Becoming whole is believed from its answers only."""
        if not self._fits(peer, hello):
            self.peer_down(peer.name)
            return
        begins_again = hello.session != peer.session
        was_recovering = peer.recovering
        self._learn(peer, hello)
        self._engine.founding.check()
        if begins_again or (peer.recovering and not was_recovering):
            self._engine.replication.member_came(peer)

    def _fits(self, peer: Peer, hello: Hello) -> bool:
        """Only members of this very cluster, configured alike, are talked to."""
        engine = self._engine
        why = ""
        if hello.protocol != PROTOCOL:
            why = f"it speaks protocol {hello.protocol}, not {PROTOCOL}"
        elif hello.node_id != peer.name:
            why = f"it says it is {hello.node_id}"
        elif sorted(hello.members) != list(engine.peers.members):
            why = f"it is configured with members {', '.join(hello.members)}"
        elif hello.cluster_id and engine.cluster_id and hello.cluster_id != engine.cluster_id:
            why = f"it belongs to cluster {hello.cluster_id}"
        if why:
            engine.event("member_refused", member=peer.name, why=why)
            engine.founding.refused(peer.name, why)
        return not why

    def _learn(self, peer: Peer, hello: Hello) -> None:
        engine = self._engine
        peer.hello = hello
        peer.session = hello.session
        peer.recovering = bool(hello.recovering) or hello.phase != BORN
        peer.heard_at = engine.now()
        peer.take_health(hello.health, peer.heard_at, hello.term)
        engine.founding.accepted(peer.name)
