"""The checker: two judges that share no code look at what a run left behind; a third looks at its liveness.

`clients.py` believes only what clients were told and what the outside world saw. `replay.py` reads the
committed log from the segment files and replays it on the model. `docs/internals/proof.md` has the files of
a run, `reference/reliability.md` the laws.
"""

from chaos.checker.judging import check
from chaos.checker.verdict import Verdict, Violation

__all__ = ["Verdict", "Violation", "check"]
