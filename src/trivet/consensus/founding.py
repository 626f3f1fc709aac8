"""Carries out what `birth.decide` says (R5), and keeps the reason why the cluster is not born yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.consensus import birth
from trivet.consensus.birth import View
from trivet.storage.storage import Identity, StorageRefused

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


class Founding:
    """Each step is durable before anybody is told of it."""

    def __init__(self, engine: Engine) -> None:
        """Raises `StorageRefused` if the directory belongs to a cluster of other members."""
        self._engine = engine
        self._refused: dict[str, str] = {}
        self.waiting_for = ""
        self.refusal = ""
        identity = engine.storage.identity
        if identity is not None and sorted(identity.members) != list(engine.peers.members):
            raise StorageRefused(
                f"the data directory belongs to a cluster of {', '.join(identity.members)}, "
                f"but the configuration names {', '.join(engine.peers.members)}"
            )

    def refused(self, member: str, why: str) -> None:
        self._refused[member] = why
        self.refusal = "; ".join(f"{name}: {text}" for name, text in sorted(self._refused.items()))

    def accepted(self, member: str) -> None:
        if self._refused.pop(member, None) is not None:
            self.refusal = "; ".join(f"{name}: {text}" for name, text in sorted(self._refused.items()))

    def check(self) -> None:
        """After each hello and each tick; does nothing once born."""
        while not self._engine.born and self._step():
            pass

    def _step(self) -> bool:
        """One durable step; False when there is nothing to do yet."""
        engine = self._engine
        decision = birth.decide(engine.me.id, self._own(), {p.name: self._view(p.name) for p in engine.peers})
        self.waiting_for = ""
        if isinstance(decision, birth.BecomePending):
            cluster_id = decision.cluster_id or f"{engine.rng.getrandbits(128):032x}"
            self._become(cluster_id, "pending")
        elif isinstance(decision, birth.BecomeBorn):
            self._become(engine.cluster_id, "born")
        elif isinstance(decision, birth.Join):
            # The mark first: a crash between the two must not leave an empty member that counts (R6)
            engine.storage.mark_recovering("an empty directory of a cluster that lives")
            self._become(decision.cluster_id, "born")
        else:
            self.waiting_for = decision.why
            if isinstance(decision, birth.Refuse) and self.refusal != decision.why:
                self.refusal = decision.why
                engine.event("birth_refused", why=decision.why)
            return False
        return True

    def _become(self, cluster_id: str, phase: str) -> None:
        engine = self._engine
        engine.storage.set_identity(Identity(cluster_id, engine.peers.members, phase))
        engine.outbox.cluster_id = cluster_id
        engine.event("birth", cluster_id=cluster_id, phase=phase)
        if phase == "born":
            engine.elections.postpone()
            if not engine.peers:
                engine.election_deadline = engine.now() - 1.0
        engine.acquaintance.say_hello()

    def _own(self) -> View:
        engine = self._engine
        forbidden = engine.storage.recovering is not None
        return View(
            engine.phase, engine.cluster_id, engine.peers.members, engine.settings.bootstrap, forbidden
        )

    def _view(self, name: str) -> View | None:
        peer = self._engine.peers.get(name)
        if peer is None or not peer.connected or peer.hello is None:
            return None
        hello = peer.hello
        forbidden = bool(hello.recovering)
        return View(hello.phase, hello.cluster_id, tuple(hello.members), hello.bootstrap, forbidden)
