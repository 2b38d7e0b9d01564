"""Which row is which: an id made of a row's content, or of the column that the user names.

Rows that are equal have equal ids, and are interchangeable: what counts is how many of them there are. So a resumed
run needs neither the order nor the place of a row, which Ray Data does not promise to repeat.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import pickle
import uuid
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.read_options import BAD_LINE
from rayllm_batch.errors import DatasetError

ID_BYTES = 16  # of BLAKE2b: among 100 million rows two share an id with a probability of about 1e-23
ID_TYPE = pa.binary(ID_BYTES)
EXACT = 2**53  # up to here a float holds every whole number
# Their text is the same in every process.
TEXT_IS_STABLE = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


def row_id(row: dict[str, Any], id_column: Optional[str] = None) -> bytes:
    """16 bytes. The order of the columns does not matter, nor does a column that is null rather than absent."""
    value = _canonical(row if id_column is None else [row.get(id_column)])
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def row_ids(table: pa.Table, id_column: Optional[str]) -> list[bytes]:
    """Of each row of a table that is as `columns.carried` gives it. A kept bad line's id is its content's."""
    return [row_id(row, None if row.get(BAD_LINE) else id_column) for row in columns.rows(table)]


def as_pairs(ids: bytes) -> np.ndarray:
    """Concatenated ids as an array of shape (n, 2) of uint64, which NumPy can sort and search."""
    return np.frombuffer(ids, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def sorting(ids: np.ndarray) -> np.ndarray:
    """Where each id, of shape (n, 2), comes from when they are sorted. Nearly always the first halves decide."""
    order = np.argsort(ids[:, 0])
    high, low = ids[order].T
    is_sorted = (high[1:] > high[:-1]) | (low[1:] >= low[:-1])
    return order if is_sorted.all() else np.lexsort((ids[:, 1], ids[:, 0]))


class RowCounts:
    """How many rows there are of each id: 24 bytes an id, sorted, so that it can be shared without a copy.

    Not a Counter: it takes 106 bytes an id (measured), in each process that asks.
    ids: shape (n, 2), in any order, with repetitions.
    """

    def __init__(self, ids: np.ndarray) -> None:
        ids = ids[sorting(ids)]
        first = np.ones(len(ids), dtype=bool)
        first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
        self.high, self.low = np.ascontiguousarray(ids[first, 0]), np.ascontiguousarray(ids[first, 1])
        self.counts = np.diff(np.append(np.flatnonzero(first), len(ids))).astype(np.int64)

    def __len__(self) -> int:
        return len(self.high)

    def pairs(self) -> np.ndarray:
        """Each id once, sorted, shape (n, 2)."""
        return np.stack([self.high, self.low], axis=1)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The place of each id, shape (n,) of int64; -1 where it is not among these."""
        places = np.full(len(ids), -1, dtype=np.int64)
        if not len(self):
            return places
        first = np.minimum(np.searchsorted(self.high, ids[:, 0]), len(self) - 1)
        same_half = self.high[first] == ids[:, 0]
        hit = same_half & (self.low[first] == ids[:, 1])
        places[hit] = first[hit]
        for i in np.flatnonzero(same_half & ~hit):  # two ids with one first half: as good as never
            end = np.searchsorted(self.high, ids[i, 0], side="right")
            at = first[i] + np.searchsorted(self.low[first[i] : end], ids[i, 1])
            if at < end and self.low[at] == ids[i, 1]:
                places[i] = at
        return places


class UniqueIds:
    """The ids that came so far: 24 bytes an id, in sorted runs that are merged as they grow: adding is cheap."""

    def __init__(self) -> None:
        self._runs: list[RowCounts] = []

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds ids of shape (n, 2), and says which came before, or come twice among these; (n,) of bool."""
        run = RowCounts(ids)
        twice = run.counts[run.find(ids)] > 1
        for earlier in self._runs:
            twice |= earlier.find(ids) >= 0
        while self._runs and len(self._runs[-1]) <= len(run):
            run = RowCounts(np.concatenate([self._runs.pop().pairs(), run.pairs()]))
        self._runs.append(run)
        return twice


def _canonical(value: Any) -> Any:  # noqa: PLR0911 (a line a kind)
    """What JSON can write, equal for equal values, whatever rows came in the same block.

    Arrow gives all rows of a block one schema: a 1 beside a 2.5 becomes 1.0, and a field that others have becomes null.
    Which rows share a block differs from run to run.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if abs(value) < EXACT else hex(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < EXACT else value
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, np.ndarray):
        return _canonical(value.tolist())
    if isinstance(value, np.generic):
        item = value.item()
        return repr(item) if isinstance(item, np.generic) else _canonical(item)
    if isinstance(value, (set, frozenset)):  # their own order differs between processes
        return {"set": sorted(json.dumps(_canonical(item), sort_keys=True) for item in value)}
    if isinstance(value, TEXT_IS_STABLE):
        return f"{value}"
    try:  # any Python object, which Ray Data carries as such; its text may show its address
        return {"pickle": pickle.dumps(value, protocol=4).hex()}
    except Exception as error:
        raise DatasetError(
            f"A row holds a {type(value).__name__}, which does not tell it from others ({error}). Name a column whose "
            "values are unique, run(id_column=...), or drop or convert that column in load_dataset."
        ) from None
