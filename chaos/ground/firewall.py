"""Cuts between nodes on loopback, by nftables rules on (source address, target address).

One table a drill, with its own name, that looks only at TCP with one of the drill's own ports: two drills on
one machine do not meet, and nothing else on it is touched. Packets are dropped where they arrive (a drop
where they leave would be reported to the sender, which no broken cable does). What was dropped is counted
for each directed pair: that is the evidence.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from chaos.ground.janitor import Janitor
from chaos.ground.tools import CommandFailed, Unavailable, find, missing, run

_TABLE = """table ip {table} {{
  set ports {{ type inet_service; elements = {{ {ports} }} }}
  set cut {{ type ipv4_addr . ipv4_addr; counter; }}
  set down {{ type ipv4_addr; counter; }}
  set resets {{ type ipv4_addr; counter; }}
  counter dropped {{ }}
  chain arriving {{
    type filter hook input priority -10; policy accept;
    tcp dport @ports jump judge
    tcp sport @ports jump judge
  }}
  chain judge {{
    ip saddr . ip daddr @cut counter name dropped drop
    ip saddr @down counter name dropped drop
    ip daddr @down counter name dropped drop
    ip saddr @resets reject with tcp reset
    ip daddr @resets reject with tcp reset
  }}
}}
"""


class Firewall:
    """Between the nodes at `addresses` (nodes are numbered from 1), which listen on `ports`.

    Raises `Unavailable` without nftables and the rights to use it.
    """

    def __init__(self, addresses: Sequence[str], ports: Iterable[int]) -> None:
        self._addresses = list(addresses)
        self._ports = sorted(ports)
        self.table = f"trivet_drill_{os.getpid()}_{secrets.token_hex(3)}"
        try:
            run("nft", "-f", "-", text=self._rules())
        except CommandFailed as error:
            raise Unavailable(f"no firewall: {error}") from error
        self._closed = False
        self._janitor = Janitor([[find("nft") or "nft", "delete", "table", "ip", self.table]])

    @staticmethod
    def available() -> str | None:
        """Why not, or None. Asks the kernel with a rule set like the real one, which it does not keep."""
        why = missing("nft")
        if why is None:
            try:
                run("nft", "--check", "-f", "-", text=_TABLE.format(table="trivet_drill_probe", ports=1))
            except CommandFailed as error:
                why = str(error)
        return why

    def _rules(self) -> str:
        return _TABLE.format(table=self.table, ports=", ".join(map(str, self._ports)))

    # --- cutting ------------------------------------------------------------------------------------

    def block(self, source: int, target: int) -> None:
        """Nothing from `source` arrives at `target` any more; the other direction is not touched."""
        self.block_all([(source, target)])

    def block_all(self, links: Iterable[tuple[int, int]]) -> None:
        """All these directed links at the same moment."""
        self._add("cut", [f"{self._address(source)} . {self._address(target)}" for source, target in links])

    def isolate(self, node: int) -> None:
        """The node's cable is pulled: nothing to or from it arrives, clients included, and no reset either."""
        self._add("down", [self._address(node)])

    def heal(self) -> None:
        """Everything arrives again. The counters of single links start anew, `dropped()` goes on."""
        self._change(f"flush set ip {self.table} {name}" for name in ("cut", "down", "resets"))

    def _add(self, name: str, elements: Sequence[str]) -> None:
        if elements:
            self._change([f"add element ip {self.table} {name} {{ {', '.join(elements)} }}"])

    def _change(self, commands: Iterable[str]) -> None:
        run("nft", "-f", "-", text="\n".join(commands) + "\n")

    def _address(self, node: int) -> str:
        return self._addresses[node - 1]

    # --- evidence -----------------------------------------------------------------------------------

    def dropped(self) -> int:
        """Packets dropped since the start, for whatever reason."""
        found = self._list("list", "counter", "ip", self.table, "dropped")
        return next(int(one["counter"]["packets"]) for one in found if "counter" in one)

    def dropped_between(self, source: int, target: int) -> int:
        """Packets dropped on this directed link since it was blocked."""
        return self._counts("cut").get(f"{self._address(source)} {self._address(target)}", 0)

    def dropped_around(self, node: int) -> int:
        """Packets to and from an isolated node, dropped since it was isolated."""
        return self._counts("down").get(self._address(node), 0)

    def _counts(self, name: str) -> dict[str, int]:
        found = self._list("list", "set", "ip", self.table, name)
        elements = [one["elem"] for one in next(f["set"] for f in found if "set" in f).get("elem", [])]
        return {_key(one["val"]): int(one["counter"]["packets"]) for one in elements}

    def _list(self, *words: str) -> list[dict[str, Any]]:
        return list(json.loads(run("nft", "-j", *words))["nftables"])

    # --- resets -------------------------------------------------------------------------------------

    def reset_connections(self, node: int) -> int:
        """Ends every connection of the node, on both sides, as a reset does; how many ends `ss` closed
        (1 or 2 a connection: the first may take the other along)."""
        address = self._address(node)
        ours = " or ".join(f"sport = :{port} or dport = :{port}" for port in self._ports)
        killed = run(
            "ss", "-K", "-H", "-t", "-n", "state", "connected",
            f"( src {address} or dst {address} ) and ( {ours} )",
        )  # fmt: skip
        return len(killed.splitlines())

    def close(self) -> None:
        """The table goes, and with it every cut. Idempotent."""
        if not self._closed:
            self._closed = True
            run("nft", "delete", "table", "ip", self.table)
            self._janitor.dismiss()


def _key(value: Any) -> str:
    return " ".join(value["concat"]) if isinstance(value, dict) else str(value)
