"""The model's idempotency keys (R16)."""

from __future__ import annotations

from typing import Any

UNFINISHED = ("blocked", "delayed", "ready", "leased")


class Keys:
    """Mixed into the model, which has the queues and the messages."""

    def key_of(self: Any, name: str, key: str | None) -> dict[str, Any] | None:
        """The key if it still counts."""
        queue = self.queues.get(name)
        known = None if queue is None else queue["keys"].get(key)
        if queue is None or known is None:
            return None
        m = self.messages.get(known["number"])
        unfinished = m is not None and m["queue"] == name and m["state"] in UNFINISHED
        return known if unfinished or known["expires"] > self.clock else None

    def key_forgets(self: Any, m: dict[str, Any], state: str) -> None:
        queue = self.queues.get(m["queue"])
        known = None if queue is None or m["draft"].key is None else queue["keys"].get(m["draft"].key)
        if known is not None and known["number"] == m["number"]:
            known["final"] = state

    def key_ends(self: Any, m: dict[str, Any]) -> None:
        """Its message ended: a key whose window is over goes with it."""
        queue = self.queues[m["queue"]]
        known = queue["keys"].get(m["draft"].key)
        if known is not None and known["number"] == m["number"] and known["expires"] <= self.clock:
            known["final"] = m["state"]  # an enqueue that displaced it may have found it before
            del queue["keys"][m["draft"].key]

    def fingerprint(self, draft: Any) -> Any:
        return (draft.body, draft.codec, draft.content_type)
