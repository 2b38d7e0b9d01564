"""How fast a run goes now, from what its counters were a moment ago."""

from __future__ import annotations

from collections import deque
from typing import Optional

from rayllm_batch.measures.row_stats import Counts

NOW_S = 10.0  # what "now" means; rows count when they are done, so that less would jump
ETA_S = 60.0  # engines finish in waves


class Rates:
    """Samples of counts, which grow, or fall back where a replica died with rows. Memory does not grow with the run."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Counts]] = deque()

    def add(self, at_s: float, counts: Counts) -> None:
        """at_s: seconds on any clock that does not go back."""
        self._samples.append((at_s, counts))
        while len(self._samples) > 2 and self._samples[1][0] <= at_s - ETA_S:
            self._samples.popleft()

    def per_s(self, name: str, over_s: float = NOW_S) -> Optional[float]:
        """Of one of the Counts over the last `over_s` seconds, or as many as there are; None before one has passed."""
        if not self._samples:
            return None
        last_s, last = self._samples[-1]
        first_s, first = next(sample for sample in self._samples if sample[0] >= last_s - over_s)
        if last_s - first_s < 1:
            return None
        return max(0.0, (getattr(last, name) - getattr(first, name)) / (last_s - first_s))

    def left_s(self, total: int) -> Optional[float]:
        """Seconds until there are `total` rows; None while nothing moves, or when they are there."""
        rate, rows = self.per_s("rows", ETA_S), self._samples[-1][1].rows if self._samples else total
        return (total - rows) / rate if rate and rows < total else None
