"""The parts of an output folder as one Dataset: in the order of reading or answered rows first, one type a column."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.fs

from rayllm_batch.cluster.shipping import ship_package
from rayllm_batch.data.column_types import is_sure
from rayllm_batch.data.columns import fitting, merged, together
from rayllm_batch.data.row_id import sorting
from rayllm_batch.output.part_file import decoded, readable

if TYPE_CHECKING:
    import ray.data

TASK_BYTES = 32 << 20  # of files: one task reads several small parts


@dataclass(frozen=True)
class Piece:
    """Rows of one part. schema: serialised. as_text: see PartFile. rows: how many. size: of the file, in bytes.

    taken: which rows of the part, shape (rows,); None: all. places: where each goes among the rows of its task.
    """

    path: str
    schema: bytes
    as_text: tuple[str, ...]
    rows: int
    size: int
    taken: Optional[np.ndarray] = None
    places: Optional[np.ndarray] = None

    def read(self, fs: pyarrow.fs.FileSystem, output_format: str) -> pa.Table:
        with fs.open_input_stream(self.path) as file:
            table = decoded(file.read_buffer(), output_format, schema_of(self.schema), self.as_text)
        return table if self.taken is None else table.take(pa.array(self.taken))


def schema_of(serialised: bytes) -> pa.Schema:
    if b"ray.data." in serialised:
        import ray.data.extensions  # noqa: F401 (it tells Arrow of its types)
    return readable(pa.ipc.read_schema(pa.BufferReader(serialised)))


def one_after_the_other(parts: Sequence[Piece]) -> list[list[Piece]]:
    tasks: list[list[Piece]] = []
    size = TASK_BYTES
    for part in parts:
        if size + part.size > TASK_BYTES:
            tasks.append([])
            size = 0
        tasks[-1].append(part)
        size += part.size
    return tasks


def in_order(parts: Sequence[Piece], ids: np.ndarray, order: np.ndarray) -> Optional[list[list[Piece]]]:
    """The parts' rows, whose ids these are one after the other, in an order of ids; None where it is of other rows.

    ids, order: shape (n, 2). Rows of one id are equal: any of them may take the place of any other.
    """
    by_id, by_order = sorting(ids), sorting(order)
    if not np.array_equal(ids[by_id], order[by_order]):
        return None
    rows = np.empty(len(ids), dtype=np.int64)  # of all parts together, which row comes where
    rows[by_order] = by_id
    begins = np.cumsum([0, *(part.rows for part in parts)])
    tasks = []
    for wanted in np.array_split(rows, max(1, -(-sum(part.size for part in parts) // TASK_BYTES))):
        part_of = np.searchsorted(begins, wanted, side="right") - 1
        pieces = []
        for i in np.unique(part_of):
            places = np.flatnonzero(part_of == i)
            taken = wanted[places] - begins[i]
            pieces.append(replace(parts[i], rows=len(places), taken=taken, places=places))
        tasks.append(pieces)
    return tasks


def read_pieces(tasks: list[list[Piece]], fs: pyarrow.fs.FileSystem, output_format: str) -> ray.data.Dataset:
    """Each task's pieces in their order, and the tasks in theirs, whatever is read first."""
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    every = [piece for pieces in tasks for piece in pieces]
    wanted = common_schema(every, fs, output_format)

    class Parts(Datasource):
        def estimate_inmemory_data_size(self) -> int:
            return sum(piece.size for piece in every)

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            return [read_task(pieces) for pieces in tasks]

    def read_task(pieces: list[Piece]) -> ReadTask:
        rows, size = sum(piece.rows for piece in pieces), sum(piece.size for piece in pieces)
        files = [piece.path for piece in pieces]
        metadata = BlockMetadata(num_rows=rows, size_bytes=size, input_files=files, exec_stats=None)
        return ReadTask(functools.partial(_read, pieces, fs, output_format, wanted), metadata, schema=wanted)

    ship_package()
    dataset = ray.data.read_datasource(Parts(), override_num_blocks=len(tasks))
    dataset.context.execution_options.preserve_order = True
    return dataset


def common_schema(pieces: Sequence[Piece], fs: pyarrow.fs.FileSystem, output_format: str) -> pa.Schema:
    """Of all parts together. Values are looked at where the types alone do not tell whether one type has them all."""
    schemas = {serialised: schema_of(serialised) for serialised in dict.fromkeys(piece.schema for piece in pieces)}
    wanted, looked_at = together(list(schemas.values())), set()
    for piece in pieces:
        kinds = schemas[piece.schema]
        unsure = [field.name for field in kinds if not is_sure(field.type, wanted.field(field.name).type)]
        if unsure and piece.path not in looked_at:
            looked_at.add(piece.path)
            wanted = fitting(replace(piece, taken=None).read(fs, output_format).select(unsure), wanted)
    return wanted


def _read(pieces: list[Piece], fs: pyarrow.fs.FileSystem, output_format: str, wanted: pa.Schema) -> Iterator[pa.Table]:
    """What one read task does."""
    tables = (merged(piece.read(fs, output_format), wanted) for piece in pieces)
    if pieces[0].places is None:
        yield from tables
    else:
        order = np.argsort(np.concatenate([piece.places for piece in pieces]))
        yield pa.concat_tables(tables).take(pa.array(order))
