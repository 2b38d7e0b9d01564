"""Parts of data files: what one task of Ray Data reads, and the tables of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import pyarrow as pa

from rayllm_batch.data.column_values import steady
from rayllm_batch.data.csv_rows import check_names, csv_tables
from rayllm_batch.data.data_files import DatasetFiles
from rayllm_batch.data.file_text import BLOCK_BYTES, FileText, in_batches
from rayllm_batch.data.json_rows import json_tables
from rayllm_batch.data.read_options import ReadOptions
from rayllm_batch.errors import DatasetError
from rayllm_batch.file_kind import HEAD_BYTES, check_kind, codec_of
from rayllm_batch.uri import RETRY_S, passes

if TYPE_CHECKING:
    import pyarrow.fs
    import ray.data

TASK_BYTES = 16 << 20  # of files; some 4,000 articles of 4 KB: what one task reads, and then makes prompts of
MOST_TASKS = 2000
READ_BYTES = 1 << 20
BATCH_ROWS = 512  # a row of a dictionary may be much larger than what the file has of it


@dataclass(frozen=True)
class FilePart:
    """Bytes start to stop of a JSON file, the row groups of one of `of` equal parts of a parquet file, or a file."""

    path: str
    partition: tuple[tuple[str, Optional[str]], ...] = ()
    start: int = 0
    stop: Optional[int] = None
    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class Reader:
    """How parts are read; it travels to the tasks. names: columns that all tables have."""

    fs: pyarrow.fs.FileSystem
    format: str
    options: ReadOptions
    names: tuple[str, ...] = ()

    def tables(self, part: FilePart, size: int = BLOCK_BYTES, each: Callable = map) -> Iterator[pa.Table]:
        """Of about `size` bytes each. Raises DatasetError with the file, and the line where it has lines."""
        if self.format == "parquet":
            tables = _parquet_tables(part, self.fs, size)
        else:
            text = FileText(part.path, self.fs, self.format, self.options, part.start, part.stop)
            tables = json_tables(text, size, each) if self.format == "json" else csv_tables(text, size)
        for table_of_file in tables:
            table, own = table_of_file, set(table_of_file.column_names)
            for name, value in part.partition:
                if name not in own:
                    table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
            yield table

    def _patiently(self, part: FilePart) -> Iterator[pa.Table]:
        """Its tables; where a storage is busy or out of reach for a while, from the one that it failed at."""
        given = 0
        for wait_s in (*RETRY_S, None):
            try:
                for table in itertools.islice(self.tables(part), given, None):
                    given += 1
                    yield table
                return
            except DatasetError as error:
                if wait_s is None or not passes(error):
                    raise
                time.sleep(wait_s)

    def __call__(self, parts: Sequence[FilePart]) -> Iterator[pa.Table]:
        """Of all parts, one after the other; of each column the types go together."""
        tables = steady((table for part in parts for table in self._patiently(part)), self.names)
        # Where there is nothing to read, Ray Data would make a block without columns.
        yield next(tables, pa.table({name: pa.nulls(0) for name in self.names}))
        yield from tables


def whole(files: DatasetFiles, path: str) -> FilePart:
    return FilePart(path, tuple(files.partition(path).items()))


def tasks_of(files: DatasetFiles, sizes: Sequence[int], options: ReadOptions) -> list[list[FilePart]]:
    """What each task reads, in the order of the rows. A file whose bad lines are kept, and numbered, is read by one."""
    most = max(TASK_BYTES, sum(sizes) // MOST_TASKS)
    tasks: list[list[FilePart]] = [[]]
    taken = 0
    for path, size in zip(files.paths, sizes, strict=True):
        if not size:
            continue  # writers leave empty parts
        lines = files.format == "json" and not codec_of(path) and options.encoding is None and not options.keeps
        if lines and size > most:  # the parts of what cannot be divided would read nothing
            text = FileText(path, files.fs, files.format, options)
            with text.opened():
                lines = text.can_be_divided
        of = -(-size // most) if lines or files.format == "parquet" else 1
        ends = [size * number // of for number in range(of)]
        for number, (start, stop) in enumerate(zip(ends, [*ends[1:], None], strict=True)):
            if taken and taken + size // of > most:
                tasks.append([])
                taken = 0
            place = {"start": start, "stop": stop} if lines else {"number": number, "of": of}
            tasks[-1].append(dataclasses.replace(whole(files, path), **place))
            taken += size // of
    return tasks


def dataset_of(reader: Reader, tasks: list[list[FilePart]], size: int) -> ray.data.Dataset:
    """tasks: what each task reads. size: in bytes, of all."""
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class FileDatasource(Datasource):
        def get_name(self) -> str:
            return reader.format.upper()

        def estimate_inmemory_data_size(self) -> int:
            return size

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: Optional[int] = None, data_context: Any = None
        ) -> list[ReadTask]:
            made = []
            for parts in tasks:
                paths = tuple(part.path for part in parts)
                facts = BlockMetadata(num_rows=None, size_bytes=size // len(tasks), exec_stats=None, input_files=paths)
                made.append(ReadTask(functools.partial(reader, parts), facts, per_task_row_limit=per_task_row_limit))
            return made

    # As many blocks as tasks: of fewer tasks Ray Data would cut up the blocks.
    return ray.data.read_datasource(FileDatasource(), override_num_blocks=len(tasks))


def _parquet_tables(part: FilePart, fs: pyarrow.fs.FileSystem, size: int) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    try:
        with fs.open_input_file(part.path) as raw:
            check_kind(part.path, raw.read(HEAD_BYTES), "parquet")
        # Microseconds: in Spark's and Impala's INT96, years such as 9999 would overflow nanoseconds without a word.
        # Buffered: else a whole row group comes into memory. Of four files with one of 400 MB each, a pyarrow Dataset's
        # head() took 3.2 GB, this takes 46 MB.
        with pq.ParquetFile(
            part.path, filesystem=fs, pre_buffer=False, buffer_size=READ_BYTES, coerce_int96_timestamp_unit="us"
        ) as file:
            check_names(file.schema_arrow.names, part.path)
            facts = file.metadata
            first, end = (facts.num_row_groups * number // part.of for number in (part.number, part.number + 1))
            groups = list(range(first, end))
            bytes_ = sum(facts.row_group(group).total_byte_size for group in groups)
            rows = sum(facts.row_group(group).num_rows for group in groups)
            at_once = min(BATCH_ROWS, max(1, size * rows // max(1, bytes_)))
            found = file.iter_batches(batch_size=at_once, row_groups=groups) if rows else ()
            for batches in in_batches(((batch, batch.nbytes) for batch in found), size):
                yield pa.Table.from_batches(batches).combine_chunks()
            if not rows and not part.number:
                yield file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"dataset_file {part.path!r} cannot be read as parquet: {error}") from None
