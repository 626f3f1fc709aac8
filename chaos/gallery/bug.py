"""A bug as a small record: what was wrong elsewhere, the edits that put it back here, and who must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chaos.gallery.instruments import Instrument


class MovedOn(Exception):
    """The text that a bug replaces is not there exactly once: the code moved on, the bug must be mended."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`old`, which occurs exactly once in `src/trivet/<file>`, becomes `new`."""

    file: str
    old: str
    new: str

    @property
    def module(self) -> str:
        """The name under which Python imports the file."""
        return "trivet." + self.file.removesuffix(".py").replace("/", ".")

    def apply(self, root: Path) -> None:
        """Changes the file below `root`, a copy of the repository. Raises `MovedOn`."""
        path = root / "src" / "trivet" / self.file
        if not path.is_file():
            raise MovedOn(f"there is no src/trivet/{self.file} any more")
        text = path.read_text()
        found = text.count(self.old)
        if found != 1:
            raise MovedOn(f"src/trivet/{self.file} has this text {found} times, not once:\n{self.old}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True, slots=True)
class Bug:
    """`seen_in`: who had it, or which hazard of ours it is. `laws`: of reliability.md (S1…S24, L1…L8) or of the rules
    (R1…R38). `caught_by`: every one of them must notice, general instruments first."""

    name: str
    seen_in: str
    laws: str
    edits: tuple[Edit, ...]
    caught_by: tuple[Instrument, ...]

    def apply(self, root: Path) -> None:
        """Puts the bug into a copy of the repository. Raises `MovedOn`."""
        for edit in self.edits:
            edit.apply(root)
