"""What is known of the log in memory: per entry its term, place and size, behind a base."""

from __future__ import annotations

from array import array


class Tables:
    """The log is `base_index` + 1 .. `last_index`; everything up to the base is in a snapshot (or nothing)."""

    def __init__(self, base_index: int = 0, base_term: int = 0) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self.terms = array("Q")
        self.places = array("Q")  # log position of the record
        self.sizes = array("Q")  # payload bytes

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.terms)

    @property
    def last_term(self) -> int:
        return self.terms[-1] if self.terms else self.base_term

    def term_at(self, index: int) -> int | None:
        """None outside base..last."""
        slot = index - self.base_index - 1
        if slot == -1:
            return self.base_term
        return self.terms[slot] if 0 <= slot < len(self.terms) else None

    def slot(self, index: int) -> int:
        """Raises `IndexError` for an entry that is not in the log."""
        slot = index - self.base_index - 1
        if not 0 <= slot < len(self.terms):
            raise IndexError(f"entry {index} is not in the log ({self.base_index + 1}..{self.last_index})")
        return slot

    def bytes_of(self, first: int, last: int) -> int:
        return sum(self.sizes[first - self.base_index - 1 : last - self.base_index]) if first <= last else 0

    def append(self, term: int, place: int, size: int) -> None:
        self.terms.append(term)
        self.places.append(place)
        self.sizes.append(size)

    def truncate_from(self, index: int) -> None:
        slot = index - self.base_index - 1
        del self.terms[slot:], self.places[slot:], self.sizes[slot:]

    def reset(self, index: int, term: int) -> None:
        self.base_index, self.base_term = index, term
        del self.terms[:], self.places[:], self.sizes[:]

    def forget_to(self, index: int, term: int) -> None:
        """The base moves up to `index`; entries behind it stay."""
        count = index - self.base_index
        del self.terms[:count], self.places[:count], self.sizes[:count]
        self.base_index, self.base_term = index, term
