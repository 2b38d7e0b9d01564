"""Rows that replicas have handed on: each block once, also one that was computed again because its process died just then."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from rayllm_batch.row_stats import RowStats

NOTHING = {"rows": 0, "failed": 0, "input_tokens": 0, "output_tokens": 0}
KEPT = 4096  # blocks, some 10 MB: before one comes again, as many others may come


class Delivered:
    """Kept by the run's monitor. A replica says what it is about to hand on; whether it then does, nobody knows who could say."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[dict[str, int], RowStats]] = {}
        self._blocks: OrderedDict[str, tuple[str, dict[str, int], dict[str, Any]]] = OrderedDict()

    def add(self, replica: str, block: str, counts: dict[str, int], row_stats: dict[str, Any]) -> None:
        """block: the same when it is computed again. counts: as NOTHING. row_stats: `RowStats.as_dict` of the block's rows."""
        if earlier := self._blocks.pop(block, None):
            self._count(-1, *earlier)
        self._blocks[block] = (replica, counts, row_stats)
        self._count(1, replica, counts, row_stats)
        if len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)

    def of(self, replica: str) -> dict[str, Any]:
        """`delivered`, its counts, and `row_stats`; nothing of a replica that has handed on nothing."""
        if replica not in self._totals:
            return {}
        counts, row_stats = self._totals[replica]
        return {"delivered": dict(counts), "row_stats": row_stats.as_dict()}

    def _count(self, sign: int, replica: str, counts: dict[str, int], row_stats: dict[str, Any]) -> None:
        total, stats = self._totals.setdefault(replica, (dict(NOTHING), RowStats()))
        for name in total:
            total[name] += sign * counts[name]
        stats.merge(row_stats, sign)
