"""The rows that were finished before this run: which came again while the data was read, and what was asked for each.

What was asked is kept as a digest, and compared with what today's code would ask. Code is a poor witness of that: a
comment, another Python, a new field with a default or a fix for the rows that failed all change it, and ask the same of
the rows that are finished.
"""

from __future__ import annotations

import hashlib
from typing import Optional

import numpy as np

from rayllm_batch.data.row_id import RowCounts, as_pairs

# In files; 8 bytes: that one of 100 million other requests is taken for equal has a probability of 5e-12.
DIGEST = np.dtype(">u8")
UNKNOWN = 0  # of a failed row, and of answers of before digests were kept


def digest(token_ids: Optional[np.ndarray], request: Optional[str], prompt: Optional[str] = None) -> int:
    """Of a row's token ids (int32) and its own settings and adapter, as `chat.request` writes them.

    prompt: in place of token ids, where the engine makes them: the messages or the text, as JSON.
    """
    if token_ids is None and prompt is None:
        return UNKNOWN
    ids = b"" if token_ids is None else np.ascontiguousarray(token_ids, dtype="<i4").tobytes()
    asked = hashlib.blake2b(ids if prompt is None else prompt.encode("utf-8", "surrogatepass"), digest_size=8)
    asked.update((request or "").encode("utf-8", "surrogatepass"))
    return int.from_bytes(asked.digest(), "big") or 1


class Asked:
    """The digests of finished rows: 24 bytes a row, sorted by id, so that they can be shared without a copy.

    ids: shape (n, 2), in any order. digests: shape (n,) of uint64.
    """

    def __init__(self, ids: np.ndarray, digests: np.ndarray) -> None:
        self.rows = RowCounts(ids)
        self.digests = np.zeros(len(self.rows), dtype=np.uint64)
        self.digests[self.rows.find(ids)] = digests  # rows with one id are equal, and so is what is asked of them

    @property
    def unknown(self) -> int:
        """Rows whose digest is not known."""
        return int(self.rows.counts[self.digests == UNKNOWN].sum())


class FinishedRows:
    """Counts those that are seen while the data is read."""

    def __init__(self, counts: RowCounts) -> None:
        self.counts = counts
        self._seen = np.zeros(len(counts), dtype=np.int64)
        self._taken_out = np.zeros(len(counts), dtype=np.int64)

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

    def missing(self) -> np.ndarray:
        """Of each id, how many finished rows are not in the data any more, those left out that were taken out."""
        return np.maximum(self.counts.counts - self._seen - self._taken_out, 0)

    def take_out(self, ids: bytes) -> np.ndarray:
        """Of rows with these ids, the finished ones that are missing, shape (n,) of bool; of equal rows no more than
        are.
        """
        places = self.counts.find(as_pairs(ids))
        if not len(self.counts):
            return places >= 0
        order = np.argsort(places, kind="stable")
        alike = places[order]
        turn = np.empty(len(places), dtype=np.int64)  # of each row, how many before it have its id
        turn[order] = np.arange(len(alike)) - np.searchsorted(alike, alike)
        gone = (places >= 0) & (turn < self.missing()[places])
        np.add.at(self._taken_out, places[gone], 1)
        return gone

    def missing_ids(self) -> bytes:
        return np.repeat(self.counts.pairs(), self.missing(), axis=0).astype(">u8").tobytes()
