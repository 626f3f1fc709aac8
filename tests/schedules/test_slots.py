"""When a schedule is due: by hand where it is strange, against the oracle where there is much of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.schedules import oracle
from trivet.limits import CRON_BYTES_MAX
from trivet.node import slots
from trivet.node.slots import BadTimetable, Cron, Every, cron

HOUR = 3600
DAY = 24 * HOUR

ODD_ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",  # its winter time is the exception
    "America/New_York",
    "America/St_Johns",  # half an hour off
    "America/Havana",  # midnight comes twice
    "America/Santiago",  # midnight is skipped
    "America/Asuncion",
    "America/Nuuk",
    "Africa/Cairo",  # midnight is skipped, on a Friday
    "Africa/Casablanca",  # summer time but for Ramadan
    "Asia/Beirut",
    "Asia/Jerusalem",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # turns its clocks by half an hour
    "Pacific/Chatham",
    "Antarctica/Troll",  # by two hours
    "Pacific/Apia",
)


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def upcoming(table: Cron, after_ms: int, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count and (at := table.after(found[-1] if found else after_ms)) is not None:
        found.append(at)
    return found


def fires(text: str, timezone: str, after: str, count: int) -> list[str]:
    """The next slots after an instant, as the clock on the wall shows them, with its offset."""
    found = upcoming(cron(text, timezone), utc(after), count)
    where = slots.zone(timezone)
    return [datetime.fromtimestamp(at / 1000, where).isoformat(timespec="minutes") for at in found]


def within(text: str, timezone: str, start_s: int, end_s: int) -> Iterator[int]:
    table = cron(text, timezone)
    at = table.after(start_s * 1000 - 1)
    while at is not None and at < end_s * 1000:
        yield at // 1000
        at = table.after(at)


# --- the strange hours, by hand ---------------------------------------------------------------------------


def test_a_time_of_day_that_is_skipped_is_due_at_the_end_of_the_gap() -> None:
    told = fires("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00", 3)
    assert told == ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_several_times_of_day_in_one_gap_are_due_once_together() -> None:
    told = fires("0,15,30 2,3 29 3 *", "Europe/Berlin", "2026-03-28T12:00", 4)
    assert told == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:15+02:00",
        "2026-03-29T03:30+02:00",
        "2027-03-29T02:00+02:00",
    ]


def test_a_time_of_day_that_comes_twice_is_due_the_first_time() -> None:
    told = fires("30 1 * * *", "Europe/London", "2026-10-24T12:00", 2)
    assert told == ["2026-10-25T01:30+01:00", "2026-10-26T01:30+00:00"]


@pytest.mark.parametrize("after", ["2026-10-25T01:00", "2026-10-25T01:15", "2026-10-25T01:29:59.999"])
def test_it_does_not_come_back_in_the_second_pass(after: str) -> None:
    """01:00 UTC is 01:00 in London for the second time."""
    assert fires("30 1 * * *", "Europe/London", after, 1) == ["2026-10-26T01:30+00:00"]
    assert fires("50 1 * * *", "Europe/London", after, 1) == ["2026-10-26T01:50+00:00"]


def test_a_rhythm_goes_on_through_both_changes() -> None:
    spring = upcoming(cron("*/15 * * * *", "Europe/London"), utc("2026-03-29T00:30"), 8)
    assert [b - a for a, b in pairwise(spring)] == [15 * 60_000] * 7
    assert fires("30 * * * *", "Europe/London", "2026-10-24T23:45", 3) == [
        "2026-10-25T01:30+01:00",
        "2026-10-25T01:30+00:00",
        "2026-10-25T02:30+00:00",
    ]


def test_a_rhythm_inside_a_gap_has_no_slot_that_day() -> None:
    told = fires("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2)
    assert told == ["2026-03-30T02:00+02:00", "2026-03-30T02:30+02:00"]


def test_a_rhythm_just_before_clocks_go_back_has_its_hour_again() -> None:
    told = fires("* 1 * * *", "Europe/London", "2026-10-25T00:59", 2)
    assert told == ["2026-10-25T01:00+00:00", "2026-10-25T01:01+00:00"]


def test_half_an_hour_of_lord_howe() -> None:
    """02:00 becomes 01:30; cronsim by itself would leave out what is left of hour 2 (see the next test)."""
    told = fires("*/30 1,2 5 4 *", "Australia/Lord_Howe", "2026-04-04T13:00", 5)
    assert told == [
        "2026-04-05T01:00+11:00",
        "2026-04-05T01:30+11:00",
        "2026-04-05T01:30+10:30",
        "2026-04-05T02:00+10:30",
        "2026-04-05T02:30+10:30",
    ]


def test_why_cronsim_is_not_shown_a_zone() -> None:
    """docs/adr/0014: what it makes of the same expressions. When these fail, the ADR may be read again."""
    where = ZoneInfo("America/Santiago")  # 2026-09-06 00:00 is skipped
    found = next(CronSim("* 0 6 9 *", datetime(2026, 9, 5, 12, tzinfo=where)))
    assert found.astimezone(UTC).astimezone(where) != found, "a minute that is on no clock"
    where = ZoneInfo(
        "Australia/Lord_Howe"
    )  # on 2026-04-05 02:00 becomes 01:30, and half an hour later it is 02:00
    assert next(CronSim("*/10 2 5 4 *", datetime(2026, 4, 5, tzinfo=where))).minute == 30
    where = ZoneInfo("Europe/London")  # asked in the second pass, it answers with the first
    asked = datetime(2026, 10, 25, 1, 15, fold=1, tzinfo=where)
    assert next(CronSim("30 1 * * *", asked)).astimezone(UTC) < asked.astimezone(UTC)


def test_a_day_that_never_was() -> None:
    """Samoa went from 29 to 31 December 2011."""
    told = fires("0 10 * * *", "Pacific/Apia", "2011-12-29T12:00", 3)
    assert told == ["2011-12-29T10:00-10:00", "2011-12-31T00:00+14:00", "2011-12-31T10:00+14:00"]


# --- expressions ------------------------------------------------------------------------------------------


def test_names_ranges_steps_and_lists() -> None:
    assert fires("0 9-17/4 * JAN,jul mon-Fri", "UTC", "2026-01-02T09:30", 3) == [
        "2026-01-02T13:00+00:00",
        "2026-01-02T17:00+00:00",
        "2026-01-05T09:00+00:00",
    ]
    assert fires("5/20 0 1 1 *", "UTC", "2026-06-01T00:00", 3) == [
        "2027-01-01T00:05+00:00",
        "2027-01-01T00:25+00:00",
        "2027-01-01T00:45+00:00",
    ]


def test_day_of_month_or_day_of_week() -> None:
    assert fires("0 0 13 * fri", "UTC", "2026-02-10T00:00", 3) == [
        "2026-02-13T00:00+00:00",
        "2026-02-20T00:00+00:00",
        "2026-02-27T00:00+00:00",
    ]
    both = fires("0 0 13 * *", "UTC", "2026-02-10T00:00", 2)
    assert both == ["2026-02-13T00:00+00:00", "2026-03-13T00:00+00:00"]
    assert fires("0 0 * * 7", "UTC", "2026-02-10T00:00", 1) == ["2026-02-15T00:00+00:00"]


def test_macros() -> None:
    assert fires("@Daily", "UTC", "2026-02-10T00:00", 1) == ["2026-02-11T00:00+00:00"]
    for macro in slots.MACROS:
        assert len(upcoming(cron(macro, "Asia/Tokyo"), utc("2026-02-10T00:00"), 5)) == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "0 0 12 * * ?",
        "@reboot",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "* * * * mond",
        "-1 * * * *",
        "1, * * * *",
        "0 0 31 2 *",
        "0 0 30 feb *",
        "0 0 31 4,6,9,11 *",
        "0 0 */29 2 1#2",
        "\u0661 * * * *",
        "* * * * *\n\n* *",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(BadTimetable) as refused:
        Cron(text, "UTC")
    assert refused.value.field == "cron"


def test_cron_bytes_max() -> None:
    """Limit CRON_BYTES_MAX."""
    text = "0 0 1 1 " + ",".join(["1"] * 124) + " "
    assert len(text) == CRON_BYTES_MAX
    Cron(text, "UTC")
    with pytest.raises(BadTimetable, match="256"):
        Cron(text + " ", "UTC")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "europe/berlin",
        "../../etc/passwd",
        "/etc/localtime",
        "EST5EDT4",
        "Factory/x",
        "zones",
    ],
)
def test_a_zone_that_is_none(name: str) -> None:
    with pytest.raises(BadTimetable) as refused:
        Cron("* * * * *", name)
    assert refused.value.field == "timezone"


@given(st.text("0123456789*/-,#LWMONFRIJAN ?@", max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_text_does_anything_else_than_read_or_refuse(text: str) -> None:
    try:
        table = Cron(text, "America/Havana")
    except BadTimetable:
        return
    at = table.after(utc("2026-01-01T00:00"))
    assert at is not None and at > utc("2026-01-01T00:00")


def test_a_search_is_short_even_for_what_comes_once_in_28_years() -> None:
    """CPU time, which other load does not change much; the ceiling is the 10 ms nothing may hold the loop."""
    for text in ("0 0 29 2 */7", "0 0 * 2 1#5", "0 0 29 2 *"):
        table = cron(text, "Europe/Berlin")
        assert table.after(utc("2026-01-01T00:00")) is not None
        took = []
        for _ in range(5):
            begun = time.process_time()
            table.after(utc("2097-01-01T00:00"))
            took.append(time.process_time() - begun)
        assert min(took) < 0.01, text


# --- the latest of many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["* * * * *", "*/7 3,4 * * *", "0 0 1-15 * *", "30 2 * * 0", "0 0 29 2 *"])
@pytest.mark.parametrize("gone_s", [59, HOUR, 3 * DAY, 700 * DAY])
def test_the_latest_slot_and_how_many_came_before_it(text: str, gone_s: int) -> None:
    table = cron(text, "Europe/Berlin")
    start = utc("2026-10-24T00:00")
    first = table.after(start)
    assert first is not None
    now = first + gone_s * 1000
    latest, before = table.latest(first, now)
    assert first <= latest <= now
    following = table.after(latest)
    assert following is not None and following > now, "a later one is not after now"
    assert table.after(latest - 1) == latest, "it is a slot"
    if gone_s <= 3 * DAY:
        exact = sum(1 for _ in islice(within(text, "Europe/Berlin", first // 1000, latest // 1000), 25))
        assert before == min(exact, 24)


def test_intervals_are_anchored() -> None:
    table = Every(1_000_003, 700)
    assert [table.after(at) for at in (0, 1_000_003, 1_000_702, 1_000_703)] == [
        1_000_703, 1_000_703, 1_000_703, 1_001_403,
    ]  # fmt: skip
    assert table.after(1_000_003 + 700 * 10**9 + 1) == 1_000_003 + 700 * (10**9 + 1)
    assert table.latest(1_000_703, 1_000_703) == (1_000_703, 0)
    assert table.latest(1_000_703, 1_002_802) == (1_002_103, 2)


# --- against the oracle ---------------------------------------------------------------------------------------


@lru_cache(maxsize=100)
def transitions(name: str, start_s: int, end_s: int) -> list[int]:
    """Instants around which the zone changes its offset, to the hour."""
    where = oracle.zone(name)
    offsets = [datetime.fromtimestamp(at, where).utcoffset() for at in range(start_s, end_s, HOUR)]
    return [start_s + i * HOUR for i in range(1, len(offsets)) if offsets[i] != offsets[i - 1]]


YEAR = (utc("2026-01-01T00:00") // 1000, utc("2027-01-01T00:00") // 1000)
NEAR = (
    "30 2 * * *", "0 0 * * *", "15,45 0,1,2,3 * * *", "* 1 * * *", "*/10 0-3 * * *", "0 * * * *",
    "7 */2 * * *", "59 1 * * 0", "0 0 1,15 * fri", "1-59/2 23 * * *", "*/5 2 * * 7", "0 3 29-31 3,10 *",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_ZONES)
def test_around_each_change_of_the_clocks(name: str) -> None:
    """Two days on both sides of each, every slot of each expression, from each instant in turn."""
    for change in transitions(name, *YEAR):
        start, end = change - 2 * DAY, change + 2 * DAY
        looked = oracle.minutes(name, start - DAY, end)
        for text in NEAR:
            wanted = [at for at in oracle.slots(oracle.Expression(text), looked) if at >= start]
            assert list(within(text, name, start, end)) == wanted, (text, name, change)


@lru_cache(maxsize=100)
def around(name: str, change: int) -> list[oracle.Looked]:
    return oracle.minutes(name, change - 2 * DAY, change + DAY)


@given(data=st.data())
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
def test_any_expression_around_a_change(data: st.DataObject) -> None:
    draw = data.draw

    def field(low: int, high: int) -> str:
        numbers = st.integers(low, high)
        kind = draw(st.integers(0, 4))
        if kind == 0:
            return "*"
        if kind == 1:
            return f"*/{draw(st.integers(1, 20))}"
        if kind == 2:
            a, b = sorted((draw(numbers), draw(numbers)))
            return f"{a}-{b}/{draw(st.integers(1, 5))}"
        return ",".join(str(draw(numbers)) for _ in range(draw(st.integers(1, 3))))

    name = draw(st.sampled_from(ODD_ZONES[1:]))
    changes = transitions(name, *YEAR)
    if not changes:
        return
    text = f"{field(0, 59)} {field(0, 4)} {field(1, 31)} * {field(0, 7)}"
    change = draw(st.sampled_from(changes))
    looked = around(name, change)
    wanted = [at for at in oracle.slots(oracle.Expression(text), looked) if at >= change - DAY]
    assert list(within(text, name, change - DAY, change + DAY)) == wanted, (text, name)
    probe = change + draw(st.integers(-3 * HOUR, 3 * HOUR))
    later = [at for at in wanted if at > probe]
    if later:
        assert cron(text, name).after(probe * 1000) == later[0] * 1000, (text, name, probe)


def test_no_zone_turns_its_clocks_back_twice_in_25_hours() -> None:
    """What `Cron.after` relies on: it looks for one change in that time."""
    start, end = utc("2026-01-01T00:00") // 1000, utc("2029-01-01T00:00") // 1000
    for name in sorted(slots._zone_names()):
        where = slots.zone(name)
        last, changes = None, []
        for at in range(start, end, 12 * HOUR):
            offset = datetime.fromtimestamp(at, where).utcoffset()
            if last is not None and offset != last:
                changes.append((at, last - offset))
            last = offset
        assert all(b[0] - a[0] > 2 * DAY for a, b in pairwise(changes)), name
        assert all(abs(size) <= timedelta(hours=25) for _, size in changes), name


# --- the pinned zones -----------------------------------------------------------------------------------------


def test_r2_the_zones_are_those_of_the_package_not_of_the_machine(tmp_path: Path) -> None:
    """A machine whose Berlin lies in Tokyo does not change what is due."""
    (tmp_path / "Europe").mkdir()
    tokyo = Path(slots.resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo"))  # type: ignore[arg-type]
    (tmp_path / "Europe" / "Berlin").write_bytes(tokyo.read_bytes())
    code = (
        "from datetime import datetime; from zoneinfo import ZoneInfo; from trivet.node import slots\n"
        "print(datetime(2026, 7, 1, tzinfo=ZoneInfo('Europe/Berlin')).utcoffset())\n"
        "print(datetime(2026, 7, 1, tzinfo=slots.zone('Europe/Berlin')).utcoffset())\n"
    )
    environment = {**os.environ, "PYTHONTZPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["9:00:00", "2:00:00"]
