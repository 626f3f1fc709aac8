"""Who this directory belongs to, in two copies (R5), and the recovering mark (R6)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from trivet.storage.blocks import BlockKind, decode_block, encode_block, read_file, replace_file
from trivet.storage.errors import BadBlock, StorageRefused
from trivet.storage.port import Disk

COPIES = ("identity-a", "identity-b")
MARK = "recovering"
PHASES = ("pending", "born")
_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """`phase` is "pending" while the cluster is being born, "born" after (R5)."""

    cluster_id: str
    members: tuple[str, ...]
    phase: str = "born"


class IdentityStored(msgspec.Struct, array_like=True, frozen=True):
    node_id: str
    generation: int
    cluster_id: str
    members: tuple[str, ...]
    phase: str


class IdentityFiles:
    """The two copies. `current` is None in a directory that has none."""

    def __init__(self, disk: Disk, node_id: str) -> None:
        self._disk = disk
        self._node_id = node_id
        self._generation = 0
        self.current: Identity | None = None

    def load(self) -> list[str]:
        """Reads both; answers the names of copies that need `repair`. Raises `StorageRefused` for a
        foreign node, and if copies exist but none is readable."""
        found, broken = read_copies(self._disk)
        if not found:
            if broken:
                raise StorageRefused(
                    f"the data directory's identity is unreadable ({'; '.join(broken)}): it belongs to some node, "
                    "so it is not used as empty; restore the identity files or move the directory away"
                )
            return []
        best = max(found.values(), key=lambda stored: stored.generation)
        if best.node_id != self._node_id:
            raise StorageRefused(
                f"the data directory belongs to node {best.node_id!r}, this node is {self._node_id!r}"
            )
        self._generation = best.generation
        self.current = Identity(best.cluster_id, best.members, best.phase)
        return [name for name in COPIES if found.get(name) != best]

    def save(self, identity: Identity) -> None:
        """Durable, both copies, when it returns."""
        if identity.phase not in PHASES:
            raise ValueError(f"no such phase: {identity.phase}")
        if self.current is not None and self.current.cluster_id != identity.cluster_id:
            raise StorageRefused(
                f"the data directory belongs to cluster {self.current.cluster_id!r}, not to {identity.cluster_id!r}"
            )
        self._generation += 1
        self._write(identity, COPIES)
        self.current = identity

    def repair(self, names: list[str]) -> None:
        """Writes the current identity over missing or unreadable copies."""
        if self.current is not None:
            self._write(self.current, names)

    def _write(self, identity: Identity, names: tuple[str, ...] | list[str]) -> None:
        stored = IdentityStored(
            self._node_id, self._generation, identity.cluster_id, tuple(identity.members), identity.phase
        )
        data = encode_block(BlockKind.IDENTITY, msgspec.msgpack.encode(stored))
        for name in names:
            replace_file(self._disk, name, data)


def read_copies(disk: Disk) -> tuple[dict[str, IdentityStored], list[str]]:
    """The readable copies by name, and what is wrong with the others that exist."""
    found: dict[str, IdentityStored] = {}
    broken: list[str] = []
    for name in COPIES:
        if not disk.exists(name):
            continue
        try:
            raw = decode_block(BlockKind.IDENTITY, read_file(disk, name, _LIMIT), name)
            found[name] = msgspec.msgpack.decode(raw, type=IdentityStored)
        except (BadBlock, msgspec.DecodeError) as error:
            broken.append(str(error))
    return found, broken


def read_mark(disk: Disk) -> str | None:
    """Why the node is recovering. The mark holds by its name alone: an unreadable one counts too."""
    if not disk.exists(MARK):
        return None
    try:
        return decode_block(BlockKind.RECOVERING, read_file(disk, MARK, _LIMIT), MARK).decode()
    except BadBlock as error:
        return f"the recovering mark is there but unreadable ({error})"


def write_mark(disk: Disk, why: str) -> None:
    replace_file(disk, MARK, encode_block(BlockKind.RECOVERING, why.encode()[: _LIMIT // 2]))
