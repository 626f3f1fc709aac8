"""When a schedule is due: cron with time zones, and intervals. The only user of cronsim, zoneinfo and tzdata.

cronsim says which wall-clock minutes an expression means; it is never shown a time zone (docs/adr/0014 says
what it does with one). What becomes of a wall-clock minute that a zone skips or has twice is decided here, as
Debian's cron does it:

* minute and hour both fixed (neither begins with `*`): a job of a time of day. Each such wall-clock time has
  one slot: skipped ones are due together at the first instant after the gap, of doubled ones the first counts.
* else a job of a rhythm: a slot at each instant at which the wall clock shows a match, so none in a gap and
  both in a doubled hour.

The zones are those of the `tzdata` package and nothing else: `zoneinfo.ZoneInfo(name)` would take the
system's, which may differ from node to node (R2).
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import SYMBOLIC_DAYS, SYMBOLIC_MONTHS

from trivet.limits import CRON_BYTES_MAX
from trivet.units import DAY_MS

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - wall-clock times have no zone here
_SECOND = timedelta(seconds=1)
_FOLD_SECONDS = 25 * 3600  # no zone ever turned its clocks back further, or twice in this time
NEVER_MS = 400 * DAY_MS  # a timetable without a next slot is looked at again after this
_STEPS_LOOKED_AT = 24  # missed slots that are counted one by one

# The names cron(8) has for the common ones; `@reboot` is none of a cluster's.
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class BadTimetable(ValueError):
    """`field`: of the two texts, the wrong one (`cron` or `timezone`)."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


@dataclass(frozen=True, slots=True)
class Every:
    """An interval: `anchor_ms` plus 1, 2, 3 … times `every_ms`. It never drifts."""

    anchor_ms: int
    every_ms: int

    def after(self, at_ms: int) -> int:
        """The first slot later than `at_ms`."""
        return self.anchor_ms + max((at_ms - self.anchor_ms) // self.every_ms + 1, 1) * self.every_ms

    def latest(self, first_ms: int, now_ms: int) -> tuple[int, int]:
        """The latest slot not after `now_ms`, and how many come before it from the slot `first_ms` on."""
        before = (now_ms - first_ms) // self.every_ms
        return first_ms + before * self.every_ms, before


class Cron:
    """A cron expression in a time zone. Slots are on whole seconds."""

    def __init__(self, text: str, timezone: str) -> None:
        """Raises `BadTimetable`."""
        self._zone = zone(timezone)
        fields = _fields(text)
        self._fixed = not fields[0].startswith("*") and not fields[1].startswith("*")
        try:
            self._sim = CronSim(" ".join(fields), _EPOCH)
        except CronSimError as error:
            raise BadTimetable("cron", _said(str(error))) from None
        if next(self._walls(_EPOCH), None) is None:
            raise BadTimetable("cron", "matches no day of the next 50 years")

    def after(self, at_ms: int) -> int | None:
        """The first slot later than `at_ms`; None when there is none for 50 years. Takes 5 ms at the very most."""
        at = at_ms // 1000
        offset = self._offset(at)
        # Where clocks will be turned back, wall-clock times come again that are behind the present one.
        back = offset - self._offset(at + _FOLD_SECONDS)
        best: int | None = None
        for wall in self._walls(_EPOCH + (at + offset - max(back, 0)) * _SECOND):
            instants = self._instants(wall)
            for instant in instants:
                if instant > at and (best is None or instant < best):
                    best = instant
            # The first instants of later walls are later, so nothing better can come.
            if best is not None and instants and instants[0] >= best:
                break
        return None if best is None else best * 1000

    def latest(self, first_ms: int, now_ms: int) -> tuple[int, int]:
        """The latest slot not after `now_ms`, and how many come before it from the slot `first_ms` on.

        A few are counted. Of many the latest is found by halving, and the number is at least that.
        """
        low = first_ms
        for before in range(_STEPS_LOOKED_AT):
            following = self.after(low)
            if following is None or following > now_ms:
                return low, before
            low = following
        high = now_ms  # `low` is a slot; none is in (high, now_ms]
        while True:
            middle = (low + high) // 2
            following = self.after(middle)
            if following is not None and following <= now_ms:
                low = following
            else:
                high = middle
            if high - low < 1000:
                return low, _STEPS_LOOKED_AT

    # --- walls and instants, in whole seconds -------------------------------------------------------------

    def _walls(self, after: datetime) -> Iterator[datetime]:
        """The wall-clock times that match, later than `after`; ends when none comes for 50 years."""
        sim = copy.copy(self._sim)
        sim.dt = after
        return sim

    def _offset(self, at: int) -> int:
        offset = datetime.fromtimestamp(at, self._zone).utcoffset()
        assert offset is not None
        return offset // _SECOND

    def _instants(self, wall: datetime) -> list[int]:
        """When a slot of this wall-clock time is due, ascending."""
        first, second = (self._offset_of(wall, fold) for fold in (0, 1))
        shown = (wall - _EPOCH) // _SECOND
        if first == second:
            return [shown - first]
        if first > second:  # it is there twice
            return [shown - first] if self._fixed else [shown - first, shown - second]
        return [self._end_of_gap(shown - second, shown - first)] if self._fixed else []

    def _offset_of(self, wall: datetime, fold: int) -> int:
        offset = wall.replace(tzinfo=self._zone, fold=fold).utcoffset()
        assert offset is not None
        return offset // _SECOND

    def _end_of_gap(self, before: int, after: int) -> int:
        """The instant between the two at which the clocks were put forward."""
        wanted = self._offset(after)
        while after - before > 1:
            middle = (before + after) // 2
            if self._offset(middle) == wanted:
                after = middle
            else:
                before = middle
        return after


Timetable = Every | Cron


def _fields(text: str) -> list[str]:
    """The five fields, macros expanded."""
    if len(text.encode()) > CRON_BYTES_MAX or not text.isascii():
        raise BadTimetable("cron", f"at most {CRON_BYTES_MAX} ASCII characters")
    fields = MACROS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        known = ", ".join(MACROS)
        raise BadTimetable(
            "cron",
            f"has {len(fields)} fields and needs 5: minute, hour, day of month, month, day of week (or {known})",
        )
    return [",".join(_plain(term) for term in field.split(",")) for field in fields]


def _plain(term: str) -> str:
    """`5-5/2` is 5; cronsim takes it as `5/2`, which goes on to the end of the range."""
    span, slash, _ = term.partition("/")
    first, dash, last = span.partition("-")
    return first if slash and dash and _value(first) == _value(last) else term


def _value(text: str) -> str | int:
    name = text.upper()
    for names, start in ((SYMBOLIC_DAYS, 0), (SYMBOLIC_MONTHS, 1)):
        if name in names:
            return names.index(name) + start
    return int(text) if text.isdigit() else name


def _said(error: str) -> str:
    field = error.removeprefix("Bad ")
    return f"the field {field} cannot be read or never matches" if field != error else error


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@cache
def zone(name: str) -> ZoneInfo:
    """The zone of that name as the `tzdata` package has it. Raises `BadTimetable`."""
    if name not in _zone_names():
        raise BadTimetable("timezone", f'there is no time zone "{name[:64]}" (names are as in Europe/Berlin)')
    data = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    return ZoneInfo.from_file(io.BytesIO(data), key=name)


@lru_cache(maxsize=20_000)
def cron(text: str, timezone: str) -> Cron:
    """Read once, used at each slot. Raises `BadTimetable`."""
    return Cron(text, timezone)


def timetable(cron_text: str | None, every_ms: int | None, timezone: str, anchor_ms: int) -> Timetable:
    """Raises `BadTimetable`."""
    if cron_text is not None:
        return cron(cron_text, timezone)
    assert every_ms is not None
    return Every(anchor_ms, every_ms)
