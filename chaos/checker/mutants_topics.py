"""Mutants of topics: S1–S3, S20."""

from __future__ import annotations

from chaos.checker.mutant import mutant
from chaos.checker.script import FAN
from chaos.checker.spoil import Op, Spoiler
from chaos.history import OK


def published(s: Spoiler) -> list[Op]:
    return [op for op in s.all("publish") if not any(one["duplicate"] for one in op.result["messages"])]


@mutant("S1")
def group_never_gets_a_message(s: Spoiler) -> None:
    """One group has it, the other never."""
    op = s.one(published(s))
    s.hide(op.result["messages"][0]["ids"]["b"])


@mutant("S3")
def group_gets_a_message_twice(s: Spoiler) -> None:
    """As two messages of different ids."""
    op, one = s.one((op, one) for op, one in s.deliveries() if one["queue"] == FAN[1])

    def another(again: Op) -> None:
        again.result["messages"] = [{**one, "id": "mfffffffffff0", "lease_token": "A" * 32}]

    s.again(op, s.end_place(), another)


@mutant("S3")
def offset_given_to_two_messages(s: Spoiler) -> None:
    first, second = published(s)[:2]
    second.result["messages"][0]["offset"] = first.result["messages"][0]["offset"]


@mutant("S3")
def offsets_with_a_gap(s: Spoiler) -> None:
    """Everybody is told one more than there is."""
    for op in published(s)[3:]:
        for one in op.result["messages"]:
            one["offset"] += 1


@mutant("S3")
def key_of_a_topic_names_two_entries(s: Spoiler) -> None:
    """Said again under its keys, it was new."""
    op = s.one(
        op
        for op in s.ops
        if op.f == "publish" and op.ret["type"] == OK and op.result["messages"][0]["duplicate"]
    )
    op.result["messages"][0] |= {"duplicate": False, "ids": {"a": "mffffffffffe", "b": "mfffffffffff"}}


@mutant("S20")
def group_left_out_of_a_publish(s: Spoiler) -> None:
    """The answer names one group only."""
    op = s.one(published(s))
    for one in op.result["messages"]:
        del one["ids"]["b"]
