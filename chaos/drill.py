"""`make drill`: real nodes lose power, have their disks damaged and their leader killed; one verdict.

`--seed` fixes the plan of the damage; real time and the kernel's scheduling are not seeded.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from chaos import damage, demo, power


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--losses", type=int, default=5, help="power losses of all nodes (default 5)")
    parser.add_argument("--places", type=int, default=30, help="damaged places on a minority (default 30)")
    options = parser.parse_args()
    print(f"drill with seed {options.seed}: make drill SEED={options.seed}", flush=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="trivet-drill-") as root:
        try:
            losses = asyncio.run(power.drill(Path(root) / "power", options.losses))
            print(f"power loss: {losses.history.verdict()}{'' if losses.valid else ' · INVALID'}", flush=True)
            failed += [] if losses.clean else ["power loss"]
        except power.Unavailable as why:
            print(f"power loss not run: {why}", flush=True)
            failed.append("power loss (not run)")
        places = asyncio.run(damage.drill(Path(root) / "damage", options.places, options.seed))
        print(f"damage: {dict(places.ends)} · {places.history.verdict()}", flush=True)
        failed += [] if places.clean else ["damage"]
    if demo.main([]) != 0:
        failed.append("kills")
    print(f"drill: {'FAILED: ' + ', '.join(failed) if failed else 'clean'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
