"""The rows of a workload: read, limited, and tried on the driver before any engine starts."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Optional, TypeVar

import numpy as np
import pyarrow as pa

from rayllm_batch.cluster import connection, resources
from rayllm_batch.data import columns
from rayllm_batch.data.column_values import is_null
from rayllm_batch.data.dataset_file import Room, bytes_of, count_rows, first_rows, known_rows, local_files
from rayllm_batch.data.read_options import BAD_LINE
from rayllm_batch.data.row_id import row_id
from rayllm_batch.data.tables import as_dataset
from rayllm_batch.errors import DatasetError, RayLLMBatchError, WorkloadError, causes, did_you_mean
from rayllm_batch.output import run_columns
from rayllm_batch.run.null_values import warn_of_nulls
from rayllm_batch.tasks.base import Task
from rayllm_batch.tasks.chat import describe_error
from rayllm_batch.tasks.generate import Generate

if TYPE_CHECKING:
    import ray.data

# Rows read on the driver before any engine starts: parse_row is tried on the first PARSED_ROWS of them, and a job
# that ends within them is a small one, whose size is then known.
SAMPLE_ROWS = 256
SAMPLE_BYTES = 64 << 20  # of these, where they have media: fewer rows are then looked at
PARSED_ROWS = 8
COUNTED_ROWS = 10_000  # of a lazy dataset, where dataset_fraction may be far above what there is: a second or two
NOTICE_S = 60.0
SURE = 0.5  # of the rows that a size speaks for: later ones may be longer than the first
BLOCK_BYTES = 16 << 20  # some 4,000 articles of 4 KB, or half as many with their token ids

T = TypeVar("T")
log = logging.getLogger("rayllm_batch")


@dataclass(frozen=True)
class Rows:
    """dataset: lazy; sample: its first rows, up to SAMPLE_ROWS and SAMPLE_BYTES; total: their number where it is known
    for free.

    chats: what parse_row makes of the first PARSED_ROWS, without those for which it fails. failed: the errors of these.
    known: the types that the first rows' columns have. others: chats and errors of as many rows, all over the sample.
    total_is_a_limit: of a lazy dataset with a dataset_fraction above 1, total is that number: it may have fewer.
    at_least: where total is None, so many there are almost surely, by the size of the files.
    files: on the driver's disk, which tasks on any node read; by their paths, their sizes in bytes.
    whole: the workload's, of which dataset may be the first rows.
    """

    dataset: ray.data.Dataset
    sample: list[dict[str, Any]]
    total: Optional[int]
    total_is_a_limit: bool = False
    chats: tuple[dict[str, Any], ...] = ()
    failed: tuple[str, ...] = ()
    known: pa.Schema = pa.schema([])
    others: Callable[[], tuple[list[dict[str, Any]], list[str]]] = lambda: ([], [])
    task: Task = Generate()
    files: Mapping[str, int] = field(default_factory=dict)
    at_least: int = 0
    whole: Optional[ray.data.Dataset] = None

    @property
    def with_media(self) -> bool:
        return any("media" in chat for chat in self.chats)

    @property
    def exact_total(self) -> Optional[int]:
        return None if self.total_is_a_limit else self.total

    def __str__(self) -> str:
        """`2,000 rows`, `at most 2,000 rows`, `more than 256 rows`: what is known of their number, and no more."""
        if self.total is None:
            return f"more than {len(self.sample):,} rows"
        return f"{'at most ' if self.total_is_a_limit else ''}{self.total:,} rows"

    def carried(self, most: Optional[int] = None) -> ray.data.Dataset:
        """The dataset, or its first `most` rows, as they travel: see columns.py."""
        rows = self.dataset if most is None else self.dataset.limit(most)
        return columns.carry(rows, self.known, self.task.schema.names)

    def at_hand(self, most: int) -> list[pa.Table]:
        """The first `most` rows as they travel, of a dataset in memory, without Ray Data, whose executor takes seconds.

        Else none.
        """
        left, tables = min(most, self.total or most), []
        for block in _blocks(self.whole):
            tables.append(columns.carried(block.slice(0, left), self.known, self.task.schema.names))
            left -= tables[-1].num_rows
            if left <= 0:
                break
        return tables


def read_rows(
    workload: Any, preserve_order: bool = False, id_column: Optional[str] = None, task: Optional[Task] = None
) -> Rows:
    """Raises DatasetError or WorkloadError. task: None for `generate`."""
    import ray.data
    from ray.data.context import DEFAULT_TARGET_MAX_BLOCK_SIZE

    name, task = type(workload).__name__, task or Generate()
    whole = as_dataset(_read(workload.load_dataset, name), f"{name}.load_dataset")
    connection.set_output(whole.context)
    # Ray Data's own blocks of 128 MiB would keep the engine waiting for 15,000 articles, and be one task's work.
    if whole.context.target_max_block_size == DEFAULT_TARGET_MAX_BLOCK_SIZE:  # else the user has chosen
        whole.context.target_max_block_size = BLOCK_BYTES
    counted = known_rows(whole)
    fraction, limit = getattr(workload, "dataset_fraction", 1.0), None
    if fraction > 1:
        limit = int(fraction)
    elif fraction < 1:
        # rounded first: 0.07 of 100 rows are 7, but 0.07 * 100 is a little more
        of = _read(lambda: count_rows(whole), name) if counted is None else counted
        limit = max(1, math.ceil(round(fraction * of, 6)))
    if preserve_order or limit is not None:  # else "the first rows" are whichever come first
        whole.context.execution_options.preserve_order = True
    rows = whole if limit is None else whole.limit(limit)
    most = min(SAMPLE_ROWS, limit or SAMPLE_ROWS)
    sample, is_cut = _read(lambda: _sample(whole, rows, most), name)
    if not sample:
        raise DatasetError(f"The dataset of {name} has no rows.")
    found, why = len(sample), sample[0].get(BAD_LINE)
    sample = [row for row in sample if row.pop(BAD_LINE, None) is None]
    if not sample:
        raise DatasetError(f"None of the first {found} line(s) of the dataset can be read. The first: {why}")
    known = columns.reference(whole, sample)
    run_columns.check_input_columns([*known.names, *(column for row in sample for column in row)], task)
    _check_sample(sample, name, id_column)
    # Of no more rows than these: parse_row is the user's code, and may be slow.
    chats, failed = _parsed(workload, task, sample[:PARSED_ROWS])
    if not chats:  # a few bad rows get their error column; all of them, and the code is wrong
        why = f"{name}.parse_row fails on each of the first {len(failed)} row(s). The first: {failed[0]}"
        if not task.rows_may_all_fail:
            raise WorkloadError(why)
        log.warning("%s", why)
    warn_of_nulls(workload, task, sample)
    total, is_a_limit = limit, fraction > 1
    if counted is None and isinstance(whole, ray.data.dataset.MaterializedDataset):
        counted = whole.count()
    if found < SAMPLE_ROWS and not is_cut:
        total, is_a_limit = found, False
    elif counted is not None:
        total, is_a_limit = min(counted, limit or counted), False
    if is_a_limit and (counted := _read(rows.limit(COUNTED_ROWS).count, name)) < COUNTED_ROWS:
        total, is_a_limit = counted, False
    spread = sample[PARSED_ROWS :: max(1, (len(sample) - PARSED_ROWS) // PARSED_ROWS)][:PARSED_ROWS]
    others = partial(_parsed, workload, task, spread)
    files, at_least = local_files(whole), 0 if total else int(bytes_of(whole) / _row_bytes(sample) * SURE)
    return Rows(
        rows, sample, total, is_a_limit, tuple(chats), tuple(failed), known, others, task, files, at_least, whole
    )


def _row_bytes(sample: list[dict[str, Any]]) -> float:
    """Of a row as text, on average: files that are compressed hold more rows than their size over this."""
    return sum(len(str(row)) for row in sample) / len(sample)


def _sample(whole: ray.data.Dataset, rows: ray.data.Dataset, most: int) -> tuple[list[dict[str, Any]], bool]:
    """The first rows, and whether SAMPLE_BYTES cut them short. rows: of the whole dataset, those that are wanted."""
    for look, dataset in ((first_rows, whole), (_in_memory, whole), (_by_ray, rows)):
        room = Room(SAMPLE_BYTES)
        if found := look(dataset, most, room):
            return found, room.is_spent
    return [], False


def _by_ray(dataset: ray.data.Dataset, most: int, room: Room) -> list[dict[str, Any]]:
    """As take(), which knows no sizes."""
    return list(itertools.takewhile(lambda row: room.fits(_size(row)), dataset.limit(most).iter_rows()))


def _size(value: Any) -> int:
    """In bytes, nearly: of a long list by its first elements."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, (list, tuple)) and value:
        return sum(map(_size, value[:100])) * len(value) // len(value[:100])
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    try:  # a PIL image
        return 4 * int(value.width) * int(value.height)
    except Exception:
        return 8


def _in_memory(dataset: ray.data.Dataset, most: int, room: Room) -> list[dict[str, Any]]:
    """The first rows of a dataset in memory, without Ray Data, whose executor takes seconds to start; else none."""
    rows: list[dict[str, Any]] = []
    for block in _blocks(dataset):
        rows += columns.rows(room.fitting(block.slice(0, most - len(rows))))
        if len(rows) == most or room.is_spent:
            break
    return rows


def _blocks(dataset: Optional[ray.data.Dataset]) -> Iterator[pa.Table]:
    """Of a dataset in memory; else none."""
    import ray.data
    from ray.data.block import BlockAccessor

    for ref in dataset.get_internal_block_refs() if isinstance(dataset, ray.data.dataset.MaterializedDataset) else ():
        yield BlockAccessor.for_block(ray.get(ref)).to_arrow()


def _check_sample(sample: list[dict[str, Any]], name: str, id_column: Optional[str]) -> None:
    """Of the first rows. Raises DatasetError."""
    if not sample[0]:
        raise DatasetError(f"The rows of {name} have no columns.")
    if id_column is None:
        return
    if id_column not in sample[0]:
        near = did_you_mean(id_column, sample[0])
        raise DatasetError(
            f"id_column={id_column!r} is not a column of the dataset, which has: {', '.join(sample[0])}.{near}"
        )
    seen: set[bytes] = set()
    for number, row in enumerate(sample, start=1):
        if is_null(value := row.get(id_column)):
            raise DatasetError(
                f"id_column={id_column!r} is null in row {number:,}, so it does not tell rows apart. Name a column "
                "without gaps."
            )
        if (key := row_id(row, id_column)) in seen:
            raise DatasetError(
                f"id_column={id_column!r} is not unique: {value!r} comes more than once in the first {number:,} rows. "
                "Name a column whose values are, or leave id_column out: then a row's content tells it from others."
            )
        seen.add(key)


def _read(question: Callable[[], T], name: str) -> T:
    """What is asked of the dataset; an error of it explained, and a long wait not silent. name: the workload's."""

    def say() -> None:
        log.warning("Reading the first rows of %s takes more than %.0f s. %s", name, NOTICE_S, resources.free())

    notice = threading.Timer(NOTICE_S, say)
    notice.daemon = True
    notice.start()
    try:
        return question()
    except Exception as error:
        raise explain_read(error) from None
    finally:
        notice.cancel()


def explain_read(error: BaseException) -> BaseException:
    """One of our own errors inside one of Ray's, such as that of a bad line, or the error as it is."""
    for cause in causes(error):
        if isinstance(cause, RayLLMBatchError):
            return cause
    if twice := re.search(r'Field "(.*)" exists \d+ times in schema', str(error)):
        return DatasetError(
            f"The dataset has more than one column named {twice[1]!r}. Rename one in load_dataset, or in the file."
        )
    return error


def _copied(row: dict[str, Any]) -> dict[str, Any]:
    """What parse_row does to its row stays there; of an object that cannot be copied, it does not."""
    try:
        return copy.deepcopy(row)
    except Exception:
        return dict(row)


def _parsed(workload: Any, task: Task, sample: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The chats, and the errors of the others."""
    problems, chats = [], []
    for row in sample:
        try:
            if isinstance(row, columns.UnreadableRow):
                raise row.error
            chats.append(task.parse(getattr(workload, "parse_row", dict), _copied(row)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problems.append(describe_error(error, row))
    return chats, problems
