"""Order: place, priority, delay, backoff, groups (R21, api.md "Order")."""

from __future__ import annotations

from tests.unit.machine.kit import START_MS, Kit, code
from trivet.machine import commands as c
from trivet.machine.backoff import delay_ms, nominal_ms
from trivet.machine.commands import Backoff, Draft

NONE = Backoff("list")


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"backoff": NONE, "max_attempts": 0, **config})
    return kit


def g(name: str = "g", **more: object) -> Draft:
    return Draft(group=name, **more)  # type: ignore[arg-type]


def test_higher_priority_first_first_in_first_out_inside() -> None:
    kit = make()
    a, b, d, e = kit.put("a", Draft(priority=1000), Draft(priority=-1000), Draft(priority=1000))
    assert kit.take() == [b, e, a, d]


def test_nacked_and_expired_go_to_the_tail_released_to_its_place() -> None:
    kit = make(lease_ms=100)
    a, b, d, e = kit.put("a", "b", "c", "d")
    one, two, three = kit.lease(3)
    kit.nack(one)
    kit.release(two)
    kit.pass_ms(100)
    del three
    assert kit.take() == [b, e, a, d]


def test_a_delayed_message_gets_its_place_when_due() -> None:
    kit = make()
    late = kit.put(Draft(delay_ms=100))[0]
    early = kit.put(Draft(deliver_at_ms=START_MS + 50))[0]
    assert kit.counts() == {"delayed": 2} and kit.take() == []
    assert kit.m.next_deadline_ms() == START_MS + 50
    kit.pass_ms(200)
    assert list(kit.hints.ready) == ["q"] and kit.take() == [early, late]


def test_expire_handles_at_most_its_limit_and_says_more() -> None:
    kit = make()
    kit.put(*[Draft(delay_ms=10) for _ in range(10)])
    kit.now += 10
    first = kit(c.Expire(4))
    assert (first.count, first.more) == (4, True) and list(kit.hints.ready) == ["q"]
    assert kit(c.Expire(4)).more
    last = kit(c.Expire(4))
    assert (last.count, last.more) == (2, False)


def test_patching_priority_and_time() -> None:
    kit = make()
    a, b, d = kit.put("a", "b", Draft(delay_ms=1000))
    kit(c.PatchMessage(b, priority=5))
    assert kit(c.PatchMessage(a, deliver_at_ms=START_MS + 10)).state == "delayed"
    assert kit(c.PatchMessage(d, deliver_at_ms=START_MS - 5)).state == "ready"
    assert kit.take() == [b, d]
    kit(c.PatchMessage(a, deliver_at_ms=START_MS + 20))
    kit.pass_ms(19)
    assert kit.take() == []
    kit.pass_ms(1)
    assert kit.take() == [a]


def test_patching_a_ready_message_to_the_past_keeps_its_place() -> None:
    kit = make()
    a, b = kit.put("a", "b")
    assert kit(c.PatchMessage(a, deliver_at_ms=5)).state == "ready"
    assert kit.take() == [a, b]


def test_patching_priority_while_delayed_or_leased_counts_later() -> None:
    kit = make()
    a, b, d = kit.put(Draft(delay_ms=10), "b", "c")
    (grant,) = kit.lease()
    assert grant.message == b
    kit(c.PatchMessage(a, priority=9))
    kit(c.PatchMessage(b, priority=5))
    kit.pass_ms(10)
    kit.nack(grant)
    assert kit.take() == [a, b, d]


def test_patch_refusals() -> None:
    kit = make(retention_ms=1000)
    kit.put("a")
    (grant,) = kit.lease()
    assert code(kit(c.PatchMessage(grant.message, deliver_at_ms=5))) == "invalid_argument"
    kit.ack(grant)
    assert code(kit(c.PatchMessage(grant.message, priority=1))) == "message_finished"
    assert code(kit(c.PatchMessage(99, priority=1))) == "message_not_found"


def test_patching_the_time_of_a_delayed_message_with_a_ttl() -> None:
    kit = make()
    (a,) = kit.put(Draft(delay_ms=100, ttl_ms=150))
    kit(c.PatchMessage(a, deliver_at_ms=START_MS + 500))
    kit.pass_ms(150)
    assert kit.m.messages[a].dead_reason == "expired"


# --- backoff ------------------------------------------------------------------------------------------


def test_backoff_nominal_delays() -> None:
    growing = Backoff("exponential", 1000, 2000, 10_000, 0)
    assert [nominal_ms(growing, n) for n in range(1, 6)] == [1000, 2000, 4000, 8000, 10_000]
    assert nominal_ms(growing, 1_000_000) == 10_000
    assert [nominal_ms(Backoff("fixed", 70), n) for n in (1, 9)] == [70, 70]
    assert [nominal_ms(Backoff("list", delays_ms=(5, 6)), n) for n in (1, 2, 3)] == [5, 6, 6]
    assert nominal_ms(NONE, 3) == 0
    assert [nominal_ms(Backoff("exponential", 1000, 1500, 10**9, 0), n) for n in (2, 3)] == [1500, 2250]


def test_backoff_jitter_takes_off_a_share_and_is_the_same_everywhere() -> None:
    backoff = Backoff("fixed", 1000, jitter_milli=500)
    drawn = [delay_ms(backoff, n, 1, b"k") for n in range(200)]
    assert drawn == [delay_ms(backoff, n, 1, b"k") for n in range(200)]
    assert 500 <= min(drawn) < 560 and 940 < max(drawn) <= 1000
    assert delay_ms(Backoff("fixed", 1000, jitter_milli=0), 1, 1, b"k") == 1000
    assert [delay_ms(backoff, 1, n, b"k") for n in range(1, 9)] != [
        delay_ms(backoff, 2, n, b"k") for n in range(1, 9)
    ]


def test_nack_waits_for_its_delay_else_for_the_backoff_of_message_or_queue() -> None:
    kit = make(backoff=Backoff("fixed", 100, jitter_milli=0))
    kit.put("a", "b", Draft(extras=c.Extras(backoff=Backoff("list", delays_ms=(7,), jitter_milli=0))))
    one, two, three = kit.lease(3)
    assert kit.nack(one, delay_ms=30)[0].deliver_at_ms == START_MS + 30
    assert kit.nack(two)[0].deliver_at_ms == START_MS + 100
    assert kit.nack(three)[0].deliver_at_ms == START_MS + 7


# --- groups -------------------------------------------------------------------------------------------


def test_r21_only_the_head_of_a_group_is_leasable_and_waiting_counts_as_ready() -> None:
    kit = make()
    a, b, d = kit.put(g(), g(), g("h"))
    queue = kit.m.queues["q"]
    assert (kit.counts(), queue.leasable) == ({"ready": 3}, 2)
    one, two = kit.lease(5)
    assert [one.message, two.message] == [a, d] and queue.leasable == 0
    kit.ack(one)
    assert list(kit.hints.ready) == ["q"] and kit.take() == [b]


def test_r21_priority_orders_groups_by_their_head() -> None:
    kit = make()
    a, b, d = kit.put(g("g"), g("g", priority=900), g("h", priority=5))
    assert kit.take() == [d, a]
    del b


def test_r21_a_backing_off_head_blocks_its_group() -> None:
    kit = make()
    a, b = kit.put(g(), g())
    kit.nack(*kit.lease(), delay_ms=100)
    assert kit.take() == []
    kit.pass_ms(100)
    assert kit.take() == [a]
    del b


def test_r21_a_delayed_head_blocks_its_group_from_the_start() -> None:
    kit = make()
    a, b = kit.put(g("g", delay_ms=100), g())
    assert kit.take() == []
    kit.pass_ms(100)
    assert kit.take() == [a]
    del b


def test_r21_done_dead_or_cancelled_frees_the_group() -> None:
    kit = make()
    numbers = kit.put(g(), g(), g(), g("g", ttl_ms=50), g())
    kit.ack(*kit.lease())
    (grant,) = kit.lease()
    kit.nack(grant, dead_letter=True)
    kit(c.Cancel(numbers[2]))
    kit.pass_ms(50)
    assert kit.take() == [numbers[4]]
    assert kit.m.queues["q"].busy


def test_r21_a_released_head_is_first_again() -> None:
    kit = make()
    a, b = kit.put(g(), g())
    kit.release(*kit.lease())
    assert kit.take() == [a]
    del b


def test_r21_redrive_puts_a_message_at_its_groups_end() -> None:
    kit = make()
    a, b, d = kit.put(g(), g(), g())
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Redrive("q"))
    order = []
    for _ in range(3):
        (grant,) = kit.lease()
        order.append(grant.message)
        kit.ack(grant)
    assert order == [b, d, a]
    assert kit.m.queues["q"].groups == {}


def test_r21_more_than_one_lease_in_a_group() -> None:
    kit = make(max_leased_per_group=2)
    a, b, d = kit.put(g(), g(), g())
    assert kit.take() == [a, b]
    kit(c.PatchQueue("q", {"max_leased_per_group": 3}))
    assert list(kit.hints.ready) == ["q"] and kit.take() == [d]
    kit(c.PatchQueue("q", {"max_leased_per_group": 1}))
    (e,) = kit.put(g())
    assert kit.take() == []
    del e


def test_r21_lowering_the_limit_takes_an_offer_back() -> None:
    kit = make(max_leased_per_group=2)
    kit.put(g(), g())
    kit.lease()
    assert kit.m.queues["q"].leasable == 1
    kit(c.PatchQueue("q", {"max_leased_per_group": 1}))
    assert kit.m.queues["q"].leasable == 0


def test_r21_patching_the_priority_of_a_head_moves_its_group() -> None:
    kit = make()
    a, b = kit.put(g("g"), g("h"))
    kit(c.PatchMessage(b, priority=5))
    assert kit.take() == [b, a]


def test_purge_empties_groups_and_a_leased_head_goes_on_blocking() -> None:
    kit = make()
    a, b, d = kit.put(g(), g(), g("h"))
    (grant,) = kit.lease()
    assert kit(c.PurgeQueue("q")).count == 2
    (e,) = kit.put(g())
    assert kit.take() == []
    kit.pass_ms(0)
    kit.ack(grant)
    assert kit.take() == [e]
    del a, b, d
