"""Latencies in buckets of 5 %: quantiles within that, in little memory, over millions of calls."""

from __future__ import annotations

import math
from collections import Counter

_STEP = math.log(1.05)


class Histogram:
    """Of lengths in seconds."""

    __slots__ = ("_buckets", "count", "longest_s")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.longest_s = 0.0

    def add(self, length_s: float) -> None:
        self._buckets[round(math.log(max(length_s, 1e-6)) / _STEP)] += 1
        self.count += 1
        self.longest_s = max(self.longest_s, length_s)

    def quantile_s(self, share: float) -> float | None:
        """The length that `share` (0 … 1) of them do not exceed; None of nothing."""
        wanted = max(1, math.ceil(share * self.count))
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return min(math.exp(bucket * _STEP), self.longest_s)
        return None
