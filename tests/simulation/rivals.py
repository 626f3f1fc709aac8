"""Randomness that members share, so that elections are split."""

from __future__ import annotations

import random

from tests.simulation.network import Network
from tests.simulation.world import World


class Rival(random.Random):
    """Members that draw the same numbers in the same second: they stand against each other, in the same term, again
    and again. Once the faults have ended each draws its own, without which no election need ever end."""

    def __init__(self, world: World, network: Network, seed: int) -> None:
        self._world, self._network = world, network
        super().__init__(seed)

    def random(self) -> float:
        if self._network.perfect:
            return super().random()
        return random.Random(self._world.seed * 1_000_003 + int(self._world.now)).random()
