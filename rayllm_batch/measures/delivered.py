"""Rows that replicas have handed on: each block once, also one that was computed again, its process having died."""

from __future__ import annotations

from collections import OrderedDict

from rayllm_batch.measures.row_stats import RowStats

KEPT = 4096  # blocks, some 10 MB: before one comes again, as many others may come


class Delivered:
    """Kept by the run's monitor. A replica says what it is about to hand on; whether it then does, nobody can say."""

    def __init__(self) -> None:
        self._totals: dict[str, RowStats] = {}
        self._blocks: OrderedDict[str, tuple[str, RowStats]] = OrderedDict()

    def add(self, replica: str, block: str, stats: RowStats) -> None:
        """stats: of the block's rows. block: the same when it is computed again."""
        if earlier := self._blocks.pop(block, None):
            self.of(earlier[0]).merge(earlier[1], -1)
        self._blocks[block] = (replica, stats)
        self.of(replica).merge(stats)
        if len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)

    def of(self, replica: str) -> RowStats:
        return self._totals.setdefault(replica, RowStats())
