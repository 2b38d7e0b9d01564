"""The rows that were finished before this run, and which of them came again while the data was read."""

from __future__ import annotations

import numpy as np

from rayllm_batch.data.row_id import RowCounts, as_pairs


class FinishedRows:
    def __init__(self, counts: RowCounts) -> None:
        self.counts = counts
        self._seen = np.zeros(len(counts), dtype=np.int64)

    def saw(self, ids: bytes) -> None:
        places = self.counts.find(as_pairs(ids))
        if (places < 0).any():
            raise ValueError("a row was left out as finished that is not")
        np.add.at(self._seen, places, 1)

    def owed(self) -> dict[bytes, int]:
        """Of rows that are in the data several times, how many more there are than were finished."""
        more = self._seen - self.counts.counts
        pairs = self.counts.pairs().astype(">u8")
        return {pairs[i].tobytes(): int(more[i]) for i in np.flatnonzero(more > 0)}

    def missing(self) -> int:
        """Finished rows that are not in the data any more."""
        return int(self._gone().sum())

    def missing_ids(self) -> bytes:
        return np.repeat(self.counts.pairs(), self._gone(), axis=0).astype(">u8").tobytes()

    def _gone(self) -> np.ndarray:
        return np.maximum(self.counts.counts - self._seen, 0)
