"""An independent opinion on when a cron expression is due, by brute force.

It walks over every minute of a span, looks at the wall clock of the zone, and compares. It shares nothing with
`trivet.node.slots` or cronsim: its own reader of expressions, no arithmetic with wall clocks, no search.
The rules are those of Debian's cron (crontab(5) and cron(8)).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from importlib import resources
from zoneinfo import ZoneInfo

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MINUTE_S = 60

Wall = tuple[int, int, int, int, int]  # year, month, day, hour, minute
Looked = tuple[int, Wall, int, int]
"""Epoch seconds, what the wall clock shows, the day of the week (Sunday is 0), and the same as minutes of a calendar."""


def _number(text: str, names: tuple[str, ...], first: int) -> int:
    return names.index(text.lower()) + first if text.lower() in names else int(text)


def _values(field: str, low: int, high: int, names: tuple[str, ...] = (), first: int = 0) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            start, end = low, high
        elif "-" in span:
            start, end = (_number(side, names, first) for side in span.split("-"))
        else:
            start = _number(span, names, first)
            end = high if step else start
        found |= set(range(start, end + 1, int(step or 1)))
    return found


class Expression:
    def __init__(self, text: str) -> None:
        minute, hour, day, month, weekday = text.split()
        self.times = {(h, m) for h in _values(hour, 0, 23) for m in _values(minute, 0, 59)}
        self.days = _values(day, 1, 31)
        self.months = _values(month, 1, 12, MONTHS, 1)
        self.weekdays = {value % 7 for value in _values(weekday, 0, 7, DAYS)}
        self.both = day.startswith("*") or weekday.startswith("*")
        self.time_of_day = not minute.startswith("*") and not hour.startswith("*")

    def matches(self, wall: Wall, weekday: int) -> bool:
        _, month, day, hour, minute = wall
        if (hour, minute) not in self.times or month not in self.months:
            return False
        if self.both:
            return day in self.days and weekday in self.weekdays
        return day in self.days or weekday in self.weekdays


def zone(name: str) -> ZoneInfo:
    """The pinned data, whatever the machine has in /usr/share/zoneinfo."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def minutes(name: str, start_s: int, end_s: int) -> list[Looked]:
    """What the clock on the wall shows in each minute of [start_s, end_s), read off one by one."""
    where = zone(name)
    found: list[Looked] = []
    for at in range(start_s, end_s, MINUTE_S):
        shown = datetime.fromtimestamp(at, where)
        day, hour, minute = shown.toordinal(), shown.hour, shown.minute
        found.append(
            (at, (shown.year, shown.month, shown.day, hour, minute), day % 7, (day * 24 + hour) * 60 + minute)
        )
    return found


def slots(expression: Expression, looked: list[Looked]) -> Iterator[int]:
    """Epoch seconds of each slot in the span. A job of a time of day runs once for each time that was on the
    wall, or should have been and was passed by: then as soon as the clock has passed it."""
    times, matches = expression.times, expression.matches
    if not expression.time_of_day:
        for at, wall, weekday, _ in looked:
            if (wall[3], wall[4]) in times and matches(wall, weekday):
                yield at
        return
    seen = looked[0][3] - 1
    for at, wall, weekday, shown in looked:
        if shown <= seen:
            continue  # this time was on the wall before
        due = (wall[3], wall[4]) in times and matches(wall, weekday)
        if not due and shown > seen + 1:
            due = any(matches(*_read(missing)) for missing in range(seen + 1, shown))
        if due:
            yield at
        seen = shown


def _read(shown: int) -> tuple[Wall, int]:
    """A minute that the clock jumped over."""
    days, minute = divmod(shown, 1440)
    day = date.fromordinal(days)
    return (day.year, day.month, day.day, minute // 60, minute % 60), days % 7
