"""The list of mutants: filled by `mutants_clients.py` and `mutants_log.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.checker.spoil import Spoiler


@dataclass(frozen=True)
class Mutant:
    """`laws`: any of these is the right one to catch it; `invalid`: the run must be called invalid."""

    name: str
    laws: tuple[str, ...]
    spoil: Callable[[Spoiler], None]


MUTANTS: list[Mutant] = []


def mutant(*laws: str) -> Callable[[Callable[[Spoiler], None]], Callable[[Spoiler], None]]:
    """Registers the function as a mutant under its name."""

    def register(spoil: Callable[[Spoiler], None]) -> Callable[[Spoiler], None]:
        MUTANTS.append(Mutant(spoil.__name__, laws, spoil))
        return spoil

    return register
