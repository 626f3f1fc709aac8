"""The faults, and the atlas that keeps them inside what Trivet promises to survive.

Any node may be killed, paused, cut off or robbed of what it had not synced, all of them at once; but only a
minority may be damaged, wiped or still recovering at a time (promise 5, R3-R7).
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.world import World

YEAR_MS = 365 * 24 * 3600 * 1000

AIMS = (("write", "hard-", 2), ("unlink", "log-", 4), ("create", "log-", 6), ("rename", "snap", 4))
"""Where a power cut asks most of the order of disk calls: (call, file, how many changing calls from it at the most)."""


class Nemesis:
    """Draws one fault after the other from the seed's swarm until `stop`."""

    def __init__(self, world: World, options: Options, network: Network, nodes: dict[str, SimNode]) -> None:
        self.world, self.options, self.network, self.nodes = world, options, network, nodes
        self.names = list(nodes)
        self.rng = world.stream("nemesis")
        self.minority = (len(self.names) - 1) // 2
        self.stopped = False
        self.wrong_clocks_max = len(self.names)
        self._wrong_clocks: set[str] = set()
        self.jumps_ms: tuple[int, ...] = (1_000, 60_000, 3_600_000, YEAR_MS)
        self._after_ack = False
        self._aimed = world.stream("nemesis/aimed")
        self._faults: dict[str, Callable[[SimNode], bool]] = {
            "cut_one_way": self._cut_one_way,
            "cut_pair": self._cut_pair,
            "isolate": self._isolate,
            "split": self._split,
            "reset": self._reset,
            "kill": lambda node: self._kill(node, silently=False),
            "lose_machine": lambda node: self._kill(node, silently=True),
            "kill_at_disk_call": self._kill_at_disk_call,
            "kill_majority": self._kill_majority,
            "power_loss": self._power_loss,
            "pause": self._pause,
            "wall_jump": self._wall_jump,
            "snapshot": lambda node: node.snapshot_now(),
            "transfer": self._transfer,
            "bit_rot": self._bit_rot,
            "wipe": self._wipe,
            "sync_error": lambda node: node.fail_disk("sync", self.rng.randint(1, 4)),
            "write_error": lambda node: node.fail_disk("write", self.rng.randint(1, 6)),
            "disk_full": self._disk_full,
            "slow_disk": self._slow_disk,
            "clean_stop": self._clean_stop,
            "power_after_ack": self._power_after_ack,
            "read_error": self._read_error,
        }
        self._kinds = sorted(options.weights)
        self._weights = [options.weights[kind] for kind in self._kinds]

    def start(self) -> None:
        if self._kinds:
            self.world.after(self.rng.uniform(0.0, 2.0), self._next)
        if self.options.aimed_every:
            self.world.after(self._aimed.uniform(0.0, 2.0), self._next_aimed)

    def stop(self) -> None:
        self.stopped = True

    def _next(self) -> None:
        if self.stopped:
            return
        kind = self.rng.choices(self._kinds, self._weights)[0]
        victim = self._victim()
        if self._faults[kind](victim):
            self.world.count(f"fault {kind}")
            self.world.trace(f"fault {kind} {victim.name}")
        self.world.after(self.rng.expovariate(1.0 / self.options.fault_every), self._next)

    def _next_aimed(self) -> None:
        """A power cut at one kind of disk call: one drawn blindly almost never meets it."""
        if self.stopped:
            return
        rng = self._aimed
        node = self.nodes[rng.choice(self.names)]
        operation, prefix, within = rng.choice(AIMS)
        if node.running:
            node.disk.crash_near(operation, prefix, rng.randint(1, within))
            self.world.count(f"aimed at {operation} of {prefix}")
        self.world.after(rng.expovariate(1.0 / self.options.aimed_every), self._next_aimed)

    def _victim(self) -> SimNode:
        """Any node, with a liking for whoever leads."""
        leaders = [node for node in self.nodes.values() if node.is_leader]
        if leaders and self.rng.random() < 0.4:
            return self.rng.choice(leaders)
        return self.nodes[self.rng.choice(self.names)]

    def _other(self, node: SimNode) -> str | None:
        others = [name for name in self.names if name != node.name]
        return self.rng.choice(others) if others else None

    def _short(self) -> float:
        return self.rng.choice((0.05, 0.3, 1.0, 3.0)) * (0.5 + self.rng.random())

    # --- network --------------------------------------------------------------------------------------

    def _cut(self, links: list[tuple[str, str]]) -> bool:
        if links:
            self.network.cut(links, self._short())
        return bool(links)

    def _cut_one_way(self, node: SimNode) -> bool:
        other = self._other(node)
        return self._cut([(node.name, other)] if other else [])

    def _cut_pair(self, node: SimNode) -> bool:
        other = self._other(node)
        return self._cut([(node.name, other), (other, node.name)] if other else [])

    def _isolate(self, node: SimNode) -> bool:
        shape = self.rng.choice(("both", "deaf", "mute"))
        links = []
        for other in self.names:
            if other != node.name:
                links += [(other, node.name)] if shape != "mute" else []
                links += [(node.name, other)] if shape != "deaf" else []
        return self._cut(links)

    def _split(self, node: SimNode) -> bool:
        """Halves, or a bridge: one node that still reaches both."""
        names = self.names[:]
        self.rng.shuffle(names)
        middle = len(names) // 2
        left, right = names[:middle], names[middle:]
        if self.rng.random() < 0.4 and len(right) > 1:
            right = right[1:]
        return self._cut([(a, b) for a in left for b in right] + [(b, a) for a in left for b in right])

    def _reset(self, node: SimNode) -> bool:
        other = self._other(node)
        if other is None or not self.network.connected(node.name, other):
            return False
        self.network.reset(node.name, other)
        return True

    # --- processes and machines -----------------------------------------------------------------------

    def _kill(self, node: SimNode, silently: bool) -> bool:
        """A killed process keeps what it wrote; a lost machine also loses what was not synced."""
        if not node.running:
            return False
        node.die("killed" if not silently else "machine lost", lose_unsynced=silently, silently=silently)
        self._restart_later(node)
        return True

    def _kill_at_disk_call(self, node: SimNode) -> bool:
        nth = self.rng.randint(1, 12)
        if not node.running:
            node.disk.crash_at(nth)  # it loses its power again while it boots
            return True
        return node.fail_disk("crash", nth)

    def _kill_majority(self, node: SimNode) -> bool:
        names = self.names[:]
        self.rng.shuffle(names)
        hit = False
        for name in names[: len(names) // 2 + 1]:
            hit |= self._kill(self.nodes[name], silently=self.rng.random() < 0.5)
        return hit

    def _power_loss(self, node: SimNode) -> bool:
        for each in self.nodes.values():
            if each.running:
                each.die("power loss", lose_unsynced=True, silently=True)
            self._restart_later(each)
        return True

    def _power_after_ack(self, node: SimNode) -> bool:
        self._after_ack = True
        return True

    def acknowledged(self, node: SimNode) -> None:
        """A client has just been told: who told it loses its power, and one who may know more is cut off, so that
        the others must have it (R8)."""
        if not self._after_ack or self.stopped:
            return
        self._after_ack = False
        life = node.incarnation

        def strike() -> None:
            if node.running and node.incarnation == life:
                self.world.count("power lost after an ack")
                self._kill(node, silently=True)
                if len(self.names) > 1 and self.rng.random() < 0.7:
                    self._isolate(self.nodes[self._other(node) or node.name])

        self.world.after(0.0, strike)

    def _clean_stop(self, node: SimNode) -> bool:
        if not node.running or node.paused:
            return False
        node.stop_cleanly()
        self._restart_later(node)
        return True

    def _restart_later(self, node: SimNode) -> None:
        self.world.after(self._short(), node.start)

    def node_died(self, node: SimNode) -> None:
        """A death the nemesis did not deal itself (an injected disk call): it comes back all the same."""
        if not self.stopped:
            self._restart_later(node)

    def _pause(self, node: SimNode) -> bool:
        if not node.running:
            return False
        node.pause(self.rng.choice((0.1, 0.6, 2.0, 6.0)) * (0.5 + self.rng.random()))
        return True

    def _wall_jump(self, node: SimNode) -> bool:
        """Of the clocks that may be wrong at all, one jumps. A lone node that boots must believe its clock (R1)."""
        if len(self._wrong_clocks | {node.name}) > self.wrong_clocks_max:
            return False
        if len(self.names) == 1 and not node.running:
            return False
        self._wrong_clocks.add(node.name)
        self.world.count("one wrong clock" if len(self._wrong_clocks) == 1 else "several wrong clocks")
        node.clock.jump_wall(self.rng.choice(self.jumps_ms) * self.rng.choice((-1, 1)))
        return True

    def _transfer(self, node: SimNode) -> bool:
        leaders = [each for each in self.nodes.values() if each.is_leader]
        return bool(leaders) and self.rng.choice(leaders).transfer()

    # --- disks ----------------------------------------------------------------------------------------

    def damaged(self) -> set[str]:
        return {node.name for node in self.nodes.values() if node.damaged}

    def _may_damage(self, node: SimNode) -> bool:
        born = any(each.born for each in self.nodes.values())
        return born and len(self.damaged() | {node.name}) <= self.minority

    def _bit_rot(self, node: SimNode) -> bool:
        """Synced bytes change under the node; it finds out when it next reads them."""
        if not self._may_damage(node) or not node.rot():
            return False
        if node.gently or self.rng.random() < 0.7:
            if node.running:
                lose = not node.gently and self.rng.random() < 0.5
                node.die("killed after rot", lose_unsynced=lose, silently=False)
            self._restart_later(node)
        return True

    def _wipe(self, node: SimNode) -> bool:
        if not self._may_damage(node):
            return False
        if node.running:
            node.die("wiped", lose_unsynced=True, silently=self.rng.random() < 0.5)
        node.wipe()
        self._restart_later(node)
        return True

    def _read_error(self, node: SimNode) -> bool:
        if self.rng.random() < 0.5 or not node.running:
            return node.running and node.fail_reads(self.rng.randint(1, 20))
        node.die("killed", lose_unsynced=False, silently=False)
        node.fail_reads(self.rng.randint(1, 40))
        self._restart_later(node)
        return True

    def _disk_full(self, node: SimNode) -> bool:
        node.fill_disk(True)
        self.world.after(self._short(), lambda: node.fill_disk(False))
        return True

    def _slow_disk(self, node: SimNode) -> bool:
        node.sync_factor = self.rng.choice((5.0, 30.0, 200.0))
        self.world.after(self._short(), node.disk_is_fast)
        return True
