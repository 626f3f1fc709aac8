"""The demo's judge: what the cluster, the journals and the sink say, held against each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos.demo_sink import rows_by_effect
from trivet.client import Client


@dataclass
class Verdict:
    sent: int = 0
    lost: int = 0
    doubled: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a SIGKILL may have cut the last one."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line) for line in whole.splitlines()]


async def judge(
    client: Client,
    queue: str,
    *,
    sent: dict[int, str],
    journals: list[Path],
    sink: Path,
    first_kill_s: float | None,
    kills: int,
    producer_unknown: int,
) -> Verdict:
    states = await all_states(client, queue)
    lines = [line for journal in journals for line in journal_lines(journal)]
    settled = [line for line in lines if line["event"] == "settled"]
    acked = Counter(line["id"] for line in settled if line["status"] == "acked" and not line["repeated"])
    repeated = [line for line in settled if line["status"] == "acked" and line["repeated"]]
    uncertain = [line for line in lines if line["event"] == "uncertain"]
    rows = rows_by_effect(sink)
    of = Counter(line["event"] for line in lines)

    lost = sorted(n for n, message in sent.items() if states.get(message) != "done")
    unpaid = sorted(n for n in sent if f"pay:{n}" not in rows)
    twice_acked = [message for message, count in acked.items() if count > 1]
    twice_paid = [effect for effect, count in rows.items() if count > 1]
    late_repeats = [line for line in repeated if first_kill_s is not None and line["at_s"] > first_kill_s]

    verdict = Verdict(len(sent), len(lost), len(twice_acked) + len(twice_paid))
    verdict.facts = {
        "leader kills": kills,
        "redeliveries": of["redelivered"],
        "attempts with unknown outcome (workers)": of["unknown_attempt"],
        "attempts with unknown outcome (producer)": producer_unknown,
        "acks answered `repeated` after a kill": len(late_repeats),
        "effects that came back uncertain": len(uncertain),
        "… reconciled: the payment had happened": sum(line["happened"] for line in uncertain),
        "rows in the sink": sum(rows.values()),
        "payments": len(rows),
        "first-time acks seen by workers": sum(acked.values()),
    }
    checks = {
        f"{len(lost)} acknowledged messages are not done, e.g. {lost[:5]}": not lost,
        f"{len(unpaid)} acknowledged messages have no payment, e.g. {unpaid[:5]}": not unpaid,
        f"messages acked twice: {twice_acked[:5]}": not twice_acked,
        f"payments made twice: {twice_paid[:5]}": not twice_paid,
        "the leader was killed less than three times": kills >= 3,
        "nothing was redelivered: the kills hit nothing (R38)": of["redelivered"] > 0,
        "no outcome was unknown: the kills hit nothing (R38)": of["unknown_attempt"] > 0,
        "no ack came back `repeated` after a kill (R38)": bool(late_repeats),
    }
    verdict.problems = [text for text, held in checks.items() if not held]
    return verdict


async def all_states(client: Client, queue: str) -> dict[str, str]:
    """State by message id, of every message the queue still knows (finished ones stay for their result)."""
    states: dict[str, str] = {}
    for state in ("ready", "delayed", "blocked", "leased", "done", "dead", "cancelled"):
        after: str | None = None
        while True:
            page = await client.messages(queue, state=state, limit=1000, after=after)
            states.update((one["id"], one["state"]) for one in page["messages"])
            after = page["next"]
            if after is None:
                break
    return states
