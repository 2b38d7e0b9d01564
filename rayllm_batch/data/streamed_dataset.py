"""An IterableDataset of the datasets library, which is read as the run goes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.data.column_values import steady
from rayllm_batch.errors import DatasetError, one_line

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

ROWS_AT_ONCE = 1000


def streamed(given: Any) -> ray.data.Dataset:
    """Its rows, in their order. The task that reads them raises DatasetError for what is no column."""
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class StreamedDataset(Datasource):
        def estimate_inmemory_data_size(self) -> Optional[int]:
            return None

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: Optional[int] = None, data_context: Any = None
        ) -> list[ReadTask]:
            facts = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            # One, whatever shards it has: take(n) of uneven ones would give each a share of the n, and lose rows.
            return [ReadTask(functools.partial(_tables, given), facts, per_task_row_limit=per_task_row_limit)]

    # Not ray.data.from_huggingface: where the Hub has a dataset of this one's name, it reads that from there, without
    # what map, filter and take have made of it.
    return ray.data.read_datasource(StreamedDataset(), override_num_blocks=1)


def _tables(given: Any) -> Iterator[pa.Table]:
    import pyarrow as pa

    schema = None if given.features is None else given.features.arrow_schema.remove_metadata()
    tables = (table.replace_schema_metadata() for table in given.with_format("arrow").iter(ROWS_AT_ONCE))
    try:
        # Of a stream that does not say its types, those of the first rows may not be those of later ones.
        yield from steady(tables) if schema is None else (its.select(schema.names).cast(schema) for its in tables)
    except (pa.ArrowException, OverflowError) as error:
        raise DatasetError(
            f"A column of the streamed dataset has values of several types, or not in all rows: {one_line(error)}. Say "
            "which it has, given.cast(features), give each row all columns, or load it without streaming=True."
        ) from None
