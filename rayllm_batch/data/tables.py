"""What `load_dataset` may return: a Ray Dataset, or a table of another library, which becomes one."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.column_values import column_of_any, is_null, table_of_any
from rayllm_batch.data.dataset_file import FEW_BLOCKS, blocks_of, in_blocks
from rayllm_batch.data.streamed_dataset import streamed
from rayllm_batch.errors import WorkloadError

if TYPE_CHECKING:
    import ray.data

SPREAD_BYTES = 1 << 30  # which are copied, in the object store

# How a Dataset is made of what is not in this process's memory, or no table.
MADE_BY = {
    **{name: f"ray.data.from_{name}(...) makes one." for name in ("dask", "modin", "daft", "numpy", "torch")},
    "pyspark": "ray.data.from_spark(...) makes one.",
    "tensorflow": "ray.data.from_tf(...) makes one.",
    "duckdb": "A relation of it is taken, such as what sql(...) returns.",
    "polars": "A DataFrame or a LazyFrame of it is taken.",
    "pyarrow": "A table of it is taken, a RecordBatchReader, or a Dataset.",
}


def as_dataset(given: Any, whose: str) -> ray.data.Dataset:
    """A table in memory becomes a Dataset, and a stream of the datasets library one that reads it later.

    Columns keep their types; of images and audio come the files' bytes. whose: method, for the error. Raises
    WorkloadError for anything else, DatasetError for columns that cannot be told apart.
    """
    import ray.data

    kind, library = type(given).__name__, type(given).__module__.partition(".")[0].lstrip("_")
    if isinstance(given, ray.data.Dataset):
        return _spread(given)
    if library == "pandas" and kind == "DataFrame":
        given = _of_pandas(given)
    elif library == "polars" and kind in ("DataFrame", "LazyFrame"):
        frame = given.collect() if kind == "LazyFrame" else given
        given = pa.table({series.name: _of_polars(series) for series in frame})
    elif library == "duckdb" and kind == "DuckDBPyRelation":
        given = given.to_arrow_table()
    elif library == "datasets" and kind == "Dataset":
        # What set_transform makes of the rows is made when they are taken.
        given = list(given) if given.format["type"] == "custom" else given.with_format("arrow")[:]
    elif library == "datasets" and kind == "IterableDataset":
        return streamed(given)
    elif isinstance(given, pa.RecordBatchReader):
        given = given.read_all()
    elif library == "pyarrow" and hasattr(given, "to_table"):  # its Datasets, which are imported apart
        given = given.to_table()
    elif isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    if isinstance(given, pa.Table):
        columns.check_names(given.column_names)
        return in_blocks(given)
    if isinstance(given, (list, tuple)) and given and all(isinstance(row, dict) for row in given):
        if any(isinstance(value, np.ndarray) for row in given for value in row.values()):
            return ray.data.from_items(list(given))  # which keeps them arrays
        return in_blocks(table_of_any(given))
    raise WorkloadError(f"{whose} must return a ray.data.Dataset, but returned {_described(given, kind, library)}")


def _spread(given: ray.data.Dataset) -> ray.data.Dataset:
    """Of one in memory that is one large block, as ray.data.from_pandas makes, several: a block is one task's work."""
    import ray.data
    from ray.data.block import BlockAccessor

    if not isinstance(given, ray.data.dataset.MaterializedDataset):
        return given
    references = given.get_internal_block_refs()
    wanted = blocks_of(given.count())
    if not 0 < len(references) < min(FEW_BLOCKS, wanted) or given.size_bytes() > SPREAD_BYTES:
        return given
    rows, parts = math.ceil(given.count() / wanted), []
    for block in (BlockAccessor.for_block(ray.get(reference)) for reference in references):
        count = block.num_rows()
        parts += [block.slice(begin, min(begin + rows, count)) for begin in range(0, count, rows)]
    return ray.data.from_blocks(parts)


def _of_pandas(frame: Any) -> pa.Table:
    """An index that has a name, or not whole numbers, is data, and becomes a column; else it only numbers the rows."""
    from pandas.api.types import is_integer_dtype

    levels = zip(frame.index.names, getattr(frame.index, "levels", [frame.index]), strict=True)
    is_data = [not is_integer_dtype(its) if name is None else name not in frame.columns for name, its in levels]
    kept = [level for level, is_kept in enumerate(is_data) if is_kept]
    frame = frame.reset_index(level=kept) if kept else frame
    names = [str(name) for name in frame.columns]
    columns.check_names(names)
    return pa.table({name: _column(frame.iloc[:, i]) for i, name in enumerate(names)})


def _column(series: Any) -> pa.Array:
    if series.dtype != object:
        try:
            return pa.array(series, from_pandas=True)
        except Exception:  # sparse values, which Arrow has no type for
            pass
    return column_of_any([None if is_null(value) else value for value in series])


def _of_polars(series: Any) -> pa.Array:
    """Of its Object columns, polars gives Arrow the addresses of the values; and Arrow has no integers of 128 bits."""
    unfit = any(word in str(series.dtype) for word in ("Object", "Int128"))
    return column_of_any(series.to_list()) if unfit else series.to_arrow()


def _described(given: Any, kind: str, library: str) -> str:  # noqa: PLR0911 (a line a kind)
    """What it is, and how a Dataset is made of it."""
    if given is None:
        return "None. Does it end without a return?"
    if library == "datasets" and kind.endswith("Dict"):
        first, splits = next(iter(given), "train"), ", ".join(map(str, given))
        return f"a {kind} of datasets, of several splits ({splits}): return one of them, such as given[{first!r}]."
    if isinstance(given, (str, os.PathLike)):
        return f"a {kind}. Where it is the path of a file, set dataset_file to it, and leave load_dataset out."
    if isinstance(given, dict):
        return f"a {kind}. Return one table of it; pyarrow.table(...) makes one of lists by column."
    if isinstance(given, (list, tuple)):
        what = f"whose first element is a {type(given[0]).__name__}" if given else "without any row"
        return f"a {kind} {what}. A list of dicts, one a row, is taken."
    if library in MADE_BY:
        return f"a {library} {kind}. {MADE_BY[library]}"
    if hasattr(given, "__next__"):
        return f"a {kind}. list(...) makes a list of it, which is taken where its elements are dicts, one a row."
    return f"a {kind}. ray.data.from_items, from_pandas, from_arrow and from_huggingface make one."
