"""Random commands that meet each other often: few queues, keys, groups and instants."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trivet.machine.commands import (
    Backoff,
    CreateFlow,
    Draft,
    EnqueueTo,
    Extras,
    Fire,
    FlowStepDraft,
    QueueConfig,
    ScheduleSpec,
    Token,
)
from trivet.machine.schedules import Schedule

QUEUES = ("a", "b", "c")
MINUTE = 60_000
HOUR = 60 * MINUTE

names = st.sampled_from(QUEUES)
bodies = st.sampled_from((b"1", b"22", b"333"))
delays = st.sampled_from((0, 0, 0, 1, 10, 1000, MINUTE))
maybe_ms = st.sampled_from((None, None, None, 1, 10, 1000, HOUR))
results = st.sampled_from((None, None, b"1", b'"ok"'))
request_ids = st.sampled_from((None,) * 6 + ("r1", "r2", "r3", "r4"))
priorities = st.sampled_from((0, 0, 0, 1, -1, 1000, -1000))

backoffs = st.builds(
    Backoff,
    type=st.sampled_from(("exponential", "fixed", "list")),
    base_ms=st.sampled_from((0, 10, 1000)),
    factor_milli=st.sampled_from((1000, 1500, 2000)),
    max_ms=st.sampled_from((500, 300_000)),
    jitter_milli=st.sampled_from((0, 500, 1000)),
    delays_ms=st.sampled_from(((), (5,), (0, 1000))),
)

configs = st.builds(
    QueueConfig,
    lease_ms=st.sampled_from((10, 1000, 30_000)),
    max_attempts=st.sampled_from((0, 1, 2, 5)),
    backoff=backoffs,
    ttl_ms=st.sampled_from((None, None, 1000, HOUR)),
    dead_retention_ms=st.sampled_from((0, 1000, 14 * 24 * HOUR)),
    max_dead=st.sampled_from((0, 1, 2, 100)),
    idempotency_window_ms=st.sampled_from((0, 1000, HOUR)),
    retention_ms=st.sampled_from((0, 0, 1000, HOUR)),
    result_retention_ms=st.sampled_from((0, 1000, HOUR)),
    max_messages=st.sampled_from((None, None, 1, 3, 6)),
    max_bytes=st.sampled_from((None, None, 3, 8)),
    on_full=st.sampled_from(("reject", "dead_letter_oldest")),
    max_leased=st.sampled_from((None, None, 0, 1, 3)),
    max_leased_per_group=st.sampled_from((1, 1, 2)),
)

_FIELDS = (
    "lease_ms", "max_attempts", "ttl_ms", "dead_retention_ms", "max_dead", "idempotency_window_ms",
    "retention_ms", "result_retention_ms", "max_messages", "max_bytes", "on_full", "max_leased",
    "max_leased_per_group",
)  # fmt: skip


@st.composite
def config_changes(draw: st.DrawFn) -> dict[str, object]:
    """Some fields of a configuration, and some of its backoff."""
    config = draw(configs)
    chosen = draw(st.lists(st.sampled_from(_FIELDS), min_size=0, max_size=3, unique=True))
    changes: dict[str, object] = {name: getattr(config, name) for name in chosen}
    if draw(st.booleans()):
        changes["backoff"] = {"base_ms": draw(st.sampled_from((0, 7, 1000)))}
    return changes


@st.composite
def drafts(draw: st.DrawFn, numbers: list[int], clock_ms: int) -> Draft:
    """A message; `numbers` are ids that exist or existed, for `depends_on`."""
    extras = None
    if draw(st.integers(0, 2)) == 0:
        known = st.sampled_from(numbers) if numbers else st.just(999_999)
        extras = Extras(
            run_id=draw(st.sampled_from((None, "run", "run2"))),
            step_id=draw(st.sampled_from((None, "s", "t"))),
            max_attempts=draw(st.sampled_from((None, None, 0, 1, 3))),
            backoff=draw(st.none() | backoffs),
            lease_ms=draw(st.sampled_from((None, 5, 1000))),
            depends_on=tuple(draw(st.lists(known, max_size=2))),
            on_dependency_failure=draw(st.sampled_from(("fail", "run"))),
            retention_ms=draw(st.sampled_from((None, None, 0, 1000))),
        )
    at = draw(st.sampled_from((None, None, None, -1, 0, 1, 1000)))
    return Draft(
        body=draw(bodies),
        priority=draw(priorities),
        delay_ms=draw(delays),
        deliver_at_ms=None if at is None else clock_ms + at,
        ttl_ms=draw(maybe_ms),
        group=draw(st.sampled_from((None, None, "g", "h"))),
        key=draw(st.sampled_from((None, None, None, "k1", "k2", "k3"))),
        key_window_ms=draw(st.sampled_from((None, None, 0, 1000))),
        extras=extras,
        content_type=draw(st.sampled_from((None, None, None, "t"))),
    )


@st.composite
def flows(draw: st.DrawFn, clock_ms: int) -> CreateFlow:
    """Up to five steps given in any order, each after some of those before it; hardly ever without an order."""
    count = draw(st.sampled_from((3, 2, 4, 5, 1)))
    given = draw(st.permutations(range(count)))  # the place in the request of the step that is made n-th
    undone = draw(st.sampled_from((True, True, False)))
    steps: list[FlowStepDraft | None] = [None] * count
    for at in range(count):
        draft = draw(drafts([], clock_ms)) if draw(st.integers(0, 3)) == 3 else Draft(draw(bodies))
        if draft.extras is not None:
            draft = replace(draft, extras=replace(draft.extras, depends_on=()))
        parents = draw(st.lists(st.sampled_from(range(at)), max_size=2, unique=True)) if at else []
        undo = None
        if undone and draw(st.booleans()):
            late = draw(delays) if draw(st.integers(0, 3)) == 3 else 0
            plain = Draft(draw(bodies), priority=draw(priorities), delay_ms=late, ttl_ms=draw(maybe_ms))
            undo = EnqueueTo(draw(names), plain)
        after = tuple(given[parent] for parent in parents)
        steps[given[at]] = FlowStepDraft(f"s{given[at]}", draw(names), draft, after, undo)
    order = tuple(given) if draw(st.integers(0, 15)) < 15 else tuple(reversed(given))
    made = tuple(step for step in steps if step is not None)
    return CreateFlow(made, order, draw(st.sampled_from((None, "run"))), not draw(st.booleans()))


places = st.tuples(
    st.sampled_from((None, None, 0, 1000, HOUR)),
    st.sampled_from((None, None, 0, 1, 4)),
    st.sampled_from((1, 2, 1000)),
)  # since when, from which offset, and how many at once


@st.composite
def published(draw: st.DrawFn, clock_ms: int) -> Draft:
    """A message of a topic: it depends on nothing, but one time in many it is refused for that."""
    draft = draw(drafts([], clock_ms))
    if draft.extras is not None and draw(st.integers(0, 9)):
        draft = replace(draft, extras=replace(draft.extras, depends_on=()))
    return draft


def tokens(issued: list[Token]) -> st.SearchStrategy[Token | None]:
    """Mostly recent ones; also old, malformed, forged and unknown ones."""
    wrong = st.sampled_from((None, Token(10**9, bytes(16))))
    if not issued:
        return wrong
    recent = st.sampled_from(issued[-6:])
    forged = st.builds(lambda token: Token(token.fence, bytes(16)), recent)
    return st.one_of(recent, recent, recent, recent, st.sampled_from(issued), forged, wrong)


@st.composite
def schedule_specs(draw: st.DrawFn) -> ScheduleSpec:
    """Few of them, so that a PUT often changes nothing, or only the message."""
    by_cron = draw(st.booleans())
    draft = Draft(draw(bodies), delay_ms=draw(st.sampled_from((0, 0, 10))), ttl_ms=draw(maybe_ms))
    return ScheduleSpec(
        draw(names),
        draft,
        cron=draw(st.sampled_from(("* * * * *", "0 * * * *"))) if by_cron else None,
        every_ms=None if by_cron else 1000,
        timezone=draw(st.sampled_from(("UTC", "UTC", "Asia/Tokyo"))),
        misfire=draw(st.sampled_from(("fire_once", "skip"))),
        overlap=draw(st.sampled_from(("allow", "skip"))),
    )


@st.composite
def fires(draw: st.DrawFn, schedules: Mapping[str, Schedule], now_ms: int) -> Fire:
    """What a leader may say: mostly of now, sometimes stale, early, of an old revision, or of none."""
    name = draw(st.sampled_from((*schedules, *schedules, "s", "nobody")))
    known = schedules.get(name)
    decided = now_ms if known is None else known.decided_ms
    slot = draw(st.sampled_from((now_ms, now_ms, now_ms - 1, decided, decided + 1, now_ms + 1, decided - 1)))
    return Fire(
        name,
        draw(st.sampled_from((1, *(1 if known is None else known.revision,) * 9))),
        slot,
        slot + draw(st.sampled_from((0, 1, 1, 1000, MINUTE))),
        enqueue=draw(st.sampled_from((True, True, True, False))),
        passed=draw(st.sampled_from((0, 0, 0, 3))),
        problem=draw(st.sampled_from((None,) * 9 + ("invalid_argument",))),
        after_ms=draw(st.sampled_from((*(decided,) * 9, decided - 1, now_ms, None))),
    )


def stateful(examples: int, steps: int) -> settings:
    """Of a machine beside its model. TRIVET_SHRINK=0 leaves a failure as long as it was found."""
    shrink = os.environ.get("TRIVET_SHRINK", "1") == "1"
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[phase for phase in Phase if shrink or phase is Phase.generate],
    )
