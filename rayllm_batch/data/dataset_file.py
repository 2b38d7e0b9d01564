"""`dataset_file`: one file, a folder or a glob of jsonl, json, csv or parquet, local or remote, as a Ray Dataset."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.data import columns
from rayllm_batch.data.column_values import together
from rayllm_batch.data.data_files import DatasetFiles, find_files
from rayllm_batch.data.file_part import Reader, dataset_of, tasks_of, whole
from rayllm_batch.data.read_options import RAISE, ReadOptions
from rayllm_batch.errors import DatasetError
from rayllm_batch.file_kind import codec_of

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

__all__ = ["find_files", "first_rows", "in_blocks", "known_rows", "read_dataset_file"]
IN_MEMORY_BYTES = 64 << 20  # local files up to this size together are read by the driver
UNPACKED = 4  # how much larger a compressed file is, as a rule
THREADS = 4
HEAD_ROWS = 1000  # are looked at before the run; a bad line further on is named when the read meets it
HEAD_BYTES = 1 << 20
ROWS_A_BLOCK, ROWS_A_LARGE_BLOCK = 128, 1024  # of few, of many
FEW_BLOCKS, MOST_BLOCKS = 8, 200
OPENED_FILES = 8  # for the first rows, one after the other; where they have not enough, Ray reads side by side
COUNTED_FILES = 200  # parquet files whose footers are read for the number of rows: seconds on object storage
_FILES = "_rayllm_batch_files"  # an attribute of a Dataset: its DatasetFiles and Reader
_BYTES = "_rayllm_batch_bytes"  # another: of these files together


def read_dataset_file(
    dataset_file: str | os.PathLike,
    *,
    bad_lines: str = RAISE,
    encoding: Optional[str] = None,
    column_types: Optional[Mapping[str, Any]] = None,
    beside: Optional[str] = None,
) -> ray.data.Dataset:
    """The rows of `dataset_file`, the same wherever it is, whatever its size, compressed or not.

    json:    each value is what Python's json gives: text is text, 1 is not 1.0, whole numbers keep every digit. Columns
             that a row lacks are null; of a key that comes twice the last counts. A column with values of several
             kinds, or with objects of other keys, is one of Python objects.
    csv:     all cells are text as it stands there, an empty one is "". The separator is a comma, or the tab, semicolon
             or `|` that divides the header.
    parquet: the types of the file.

    Names of folders such as lang=de become columns of text. A large job reads best from parquet or from JSON lines,
    which many tasks share; a CSV, a compressed file or one JSON array is read by one task, as a stream.

    bad_lines:    "raise", or "keep": a line of JSON or CSV that cannot be read is a failed row of the output, whose
                  `error` names file and line. In the Dataset it has nulls, and the reason in the column
                  `_rayllm_bad_line`.
    encoding:     of JSON and CSV; else UTF-8, or what a byte order mark says (UTF-16, UTF-32).
    column_types: of CSV columns that are not text, {"age": "int64"}: Arrow types or their names. An empty cell is
                  then null.
    beside:       a file, such as __file__: a relative path that is not there from the working folder is looked for
                  from this file's folder.

    Raises DatasetError when nothing is there, when it is empty, or when its first lines are not what its name says; a
    bad line further on is a DatasetError of the task that reads it, with file and line.
    """
    options = ReadOptions(bad_lines, encoding, column_types or {})
    files = find_files(dataset_file, beside)
    _check_options(files, options)
    return read_files(files, Reader(files.fs, files.format, options))


def read_files(files: DatasetFiles, reader: Reader) -> ray.data.Dataset:
    """As read_dataset_file, with a reader of the caller's, such as one of its own kind."""
    options = reader.options
    try:
        sizes = [info.size or 0 for info in files.fs.get_file_info(files.paths)]
    except OSError as error:
        raise DatasetError(f"dataset_file {files.given!r} cannot be read: {error}") from None
    if not any(sizes):
        raise DatasetError(f"dataset_file {files.given!r} is empty (0 bytes).")
    unpacked = sum(size * (UNPACKED if codec_of(path) else 1) for path, size in zip(files.paths, sizes, strict=True))
    is_small = files.is_local and unpacked <= IN_MEMORY_BYTES
    if is_small and (table := _read_local(files, reader, sizes)) is not None:
        return in_blocks(table)
    first = next(path for path, size in zip(files.paths, sizes, strict=True) if size)
    head = _first_of(reader.tables(whole(files, first), HEAD_BYTES), HEAD_ROWS)
    if not head.num_rows and sum(size > 0 for size in sizes) == 1:
        raise DatasetError(f"dataset_file {files.given!r} has no rows.")
    reader = dataclasses.replace(reader, names=tuple(head.column_names) if head.num_rows else ())
    dataset = dataset_of(reader, tasks_of(files, sizes, options), sum(sizes))
    setattr(dataset, _BYTES, sum(sizes))
    setattr(dataset, _FILES, (files, reader))  # whatever is made of it is another Dataset, and does not have this
    return dataset


def known_rows(dataset: ray.data.Dataset) -> Optional[int]:
    """The number of rows of a Dataset that read_dataset_file has made, where it costs no reading of them; None else.

    From the footers of parquet files, if these are not many.
    """
    return _footers(dataset, COUNTED_FILES)


def count_rows(dataset: ray.data.Dataset) -> int:
    """The number of rows, if they must all be read for it."""
    counted = _footers(dataset)
    return dataset.count() if counted is None else counted


class Room:
    """Of so many bytes for rows that are looked at. is_spent: whether some were left out, of which there may be more.

    The first row has room, whatever its size.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._left, self._is_new, self.is_spent = most, True, False

    def fitting(self, table: pa.Table) -> pa.Table:
        """Its first rows, as many as fit by their mean size."""
        rows = table.num_rows
        if rows and table.nbytes > self._left:
            rows = max(int(max(0, self._left) * rows / table.nbytes), int(self._is_new))
            self.is_spent |= rows < table.num_rows
        self._take(table.nbytes, rows)
        return table.slice(0, rows)

    def fits(self, size: int) -> bool:
        """Whether one more row does, of so many bytes."""
        is_fitting = size <= self._left or self._is_new
        self.is_spent |= not is_fitting
        self._take(size, 1)
        return is_fitting

    def _take(self, size: int, rows: int) -> None:
        self._left -= size
        self._is_new &= not rows


def first_rows(dataset: ray.data.Dataset, most: int, room: Optional[Room] = None) -> Optional[list[dict[str, Any]]]:
    """Of the same Datasets, without Ray, whose tasks would cost seconds; None where that is not possible."""
    room = room or Room()
    if (found := getattr(dataset, _FILES, None)) is None:
        return None
    files, reader = found
    tables = (table for path in files.paths[:OPENED_FILES] for table in reader.tables(whole(files, path), HEAD_BYTES))
    table = _first_of(tables, most, room)
    is_enough = table.num_rows == most or room.is_spent or len(files.paths) <= OPENED_FILES
    return columns.rows(table) if is_enough else None


def bytes_of(dataset: ray.data.Dataset) -> int:
    """Of the files of the same Datasets, as they are stored; 0 where it is not known."""
    return getattr(dataset, _BYTES, 0)


def local_files(dataset: ray.data.Dataset) -> dict[str, int]:
    """Of the same Datasets, the files that tasks will read on the disks of their nodes, with their sizes in bytes."""
    files, _ = getattr(dataset, _FILES, (None, None))
    return {path: os.stat(path).st_size for path in files.paths} if files and files.is_local else {}


def _first_of(tables: Iterable[pa.Table], most: int, room: Optional[Room] = None) -> pa.Table:
    """Their first rows."""
    room, kept, taken = room or Room(), [], 0
    for table in tables:
        kept.append(room.fitting(table.slice(0, most - taken)))
        taken += kept[-1].num_rows
        if taken == most or room.is_spent:
            break
    return together(kept)


def in_blocks(table: pa.Table) -> ray.data.Dataset:
    """A table as a Dataset of several blocks, so that the tasks before the engine share the work."""
    import ray.data

    return ray.data.from_arrow(table, override_num_blocks=blocks_of(table.num_rows))


def blocks_of(rows: int) -> int:
    """Into how many blocks such a table is cut. Each is a task: 20 of them took 3 s less than 150 (20,000 rows)."""
    return max(1, min(FEW_BLOCKS, rows // ROWS_A_BLOCK), min(MOST_BLOCKS, rows // ROWS_A_LARGE_BLOCK))


def _read_local(files: DatasetFiles, reader: Reader, sizes: Sequence[int]) -> Optional[pa.Table]:
    """None where there is much more in the files than their size says: of highly compressed ones, or of few values."""
    # A small local file needs no read tasks, which cost seconds of worker start-up and another look for the row count;
    # and it is then readable wherever the tasks run, on whichever node.
    tables, taken = [], 0
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:

        def each(parse: Callable, blocks: Iterable) -> Iterator:
            """As threads.map, which would have read all blocks before it gives the first."""
            waiting: deque[Future] = deque()
            for block in blocks:
                waiting.append(threads.submit(parse, block))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft().result()
            yield from (done.result() for done in waiting)

        for path, size in zip(files.paths, sizes, strict=True):
            for table in reader.tables(whole(files, path), each=each) if size else ():
                tables.append(table)
                taken += table.nbytes
                if taken > UNPACKED * IN_MEMORY_BYTES:
                    return None
    table = together(tables)
    if not table.num_rows:
        raise DatasetError(f"dataset_file {files.given!r} has no rows.")
    return table


def _check_options(files: DatasetFiles, options: ReadOptions) -> None:
    file = f"dataset_file {files.given!r} is {files.format}"
    if options.column_types and files.format != "csv":
        raise DatasetError(f"column_types is for CSV, whose cells are text, but {file}.")
    if options.encoding and files.format == "parquet":
        raise DatasetError(f"dataset_encoding is for CSV and JSON, but {file}. Leave it out.")


def _footers(dataset: ray.data.Dataset, most: float = math.inf) -> Optional[int]:
    files, _ = getattr(dataset, _FILES, (None, None))
    if files is None or files.format != "parquet" or len(files.paths) > most:
        return None
    import pyarrow.dataset

    try:
        return pyarrow.dataset.dataset(files.paths, filesystem=files.fs, format="parquet").count_rows()
    except Exception:  # the read itself will say what is wrong
        return None
