"""What the queue should do, said once more: an executable model for the log-guided judge.

It imports nothing of `src/` (R38): a command is read by its attributes, a reply is a plain tuple. It is
written from rules.md and api.md. Unlike the dumb model of `tests/machine` it is quick enough for the log of
a whole drill (heaps instead of scans, check first instead of deep copies); `tests/chaos/test_model.py` holds
the two and the machine against each other.
"""

from chaos.model.model import Model

__all__ = ["Model"]
