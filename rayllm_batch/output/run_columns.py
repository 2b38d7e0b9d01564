"""The columns of a run's output, and those that travel between its stages."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Container, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.read_options import BAD_LINE, RESERVED
from rayllm_batch.data.row_id import ID_TYPE
from rayllm_batch.engine.sampling import HALF_OF_A_PAIR
from rayllm_batch.errors import DatasetError, is_deep, shown
from rayllm_batch.media.medium import Medium
from rayllm_batch.tasks.base import Answer, Task

if TYPE_CHECKING:
    import ray.data

# Between the CPU stage and the engine stage; they never reach the output.
TOKEN_IDS = "_rayllm_prompt_token_ids"
REQUEST = "_rayllm_request"
STAGE_ERROR = "_rayllm_error"
# As JSON, where the answer may have to be asked for again; for an engine that tokenizes, also a text.
MESSAGES = "_rayllm_messages"
# Of a run with an output folder: each row's id, a digest of what is asked for it (see finished_rows.py), and, in a row
# without content, the ids of rows that were finished before.
ROW_ID = "_rayllm_row_id"
ASKED = "_rayllm_asked"
FINISHED_IDS = "_rayllm_finished_ids"
# Of one that keeps the order: in such a row of each batch, the ids of all its rows in their order.
ORDER = "_rayllm_order"
RUN_COLUMNS = {ROW_ID, ASKED, FINISHED_IDS, ORDER}
# Of each medium, once a row its bytes: null where they have come before in the row. Large: a block may have 2 GiB.
MEDIA = "_rayllm_media"
MEDIUM = pa.struct(
    [
        ("kind", pa.string()),
        ("data", pa.large_binary()),
        ("digest", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("seconds", pa.float64()),
        ("tokens", pa.int32()),
    ]
)
STAGE_SCHEMA = pa.schema(
    [
        (TOKEN_IDS, pa.list_(pa.int32())),
        (REQUEST, pa.string()),
        (STAGE_ERROR, pa.string()),
        (MESSAGES, pa.string()),
        (MEDIA, pa.large_list(MEDIUM)),
    ]
)
OF_THE_RUN = {*RUN_COLUMNS, *STAGE_SCHEMA.names}

_FAILED = "_rayllm_batch_failed"  # an attribute of a run's result


def check_input_columns(columns: list[str], task: Task) -> None:
    """Raise DatasetError when an input column has the name of an output column and would be lost."""
    taken = [name for name in dict.fromkeys(columns) if name in task.schema.names or name.startswith(RESERVED)]
    if taken:
        other = f"previous{'' if taken[0].startswith('_') else '_'}{taken[0]}"
        raise DatasetError(
            f"The dataset already has the column(s) {', '.join(map(repr, taken))}, which the output adds or a run uses."
            f" Rename or drop them in load_dataset: ds.rename_columns({{{taken[0]!r}: {other!r}}})."
        )


def with_stage_columns(table: pa.Table, *values: list) -> pa.Table:
    """The input rows with what the engine needs, in STAGE_SCHEMA's order; a column that is left out is null."""
    table = table.drop_columns([BAD_LINE] if BAD_LINE in table.column_names else [])
    for field, its in zip_longest(STAGE_SCHEMA, values):
        column = pa.nulls(table.num_rows, field.type) if its is None else pa.array(its, type=field.type)
        table = table.append_column(field, column)
    return table


def stage_rows(table: pa.Table) -> list[dict[str, Any]]:
    """What travelled between the stages, row by row; token ids as arrays (int32) that are not copied, or None."""
    rows = table.select([REQUEST, STAGE_ERROR, MESSAGES]).to_pylist()
    chunks = table.column(TOKEN_IDS).chunks  # of all in one, to_numpy would copy them
    arrays = [array for chunk in chunks for array in chunk.to_numpy(zero_copy_only=False)]
    media = table.column(MEDIA)
    for row, ids, its in zip(rows, arrays, media, strict=True):
        row[TOKEN_IDS], row[MEDIA] = ids, its if its.is_valid else None
    return rows


def media_of(row: dict[str, Any]) -> tuple[tuple[Medium, ...], int]:
    """Of a row of stage_rows, and the tokens that they take beside their placeholders."""
    first: dict[tuple[str, str], Medium] = {}  # the bytes of a film may also be asked for as a sound
    found, tokens = [], 0
    for one in row.get(MEDIA) or ():
        its = dict(one) if isinstance(one, dict) else one.as_py()  # of a rollout's call, it has been in no table
        tokens += its.pop("tokens")
        found.append(first.setdefault((its["kind"], its["digest"]), Medium(**its)))
    return tuple(found), tokens


def with_row_ids(table: pa.Table, ids: list[bytes], with_order: bool = False) -> pa.Table:
    """The rows with their ids, for a run with an output folder. with_order: and a place for the order of them all."""
    table = table.append_column(ROW_ID, pa.array(ids, type=ID_TYPE))
    table = table.append_column(ASKED, pa.nulls(len(ids), pa.uint64()))
    for name in (FINISHED_IDS, ORDER) if with_order else (FINISHED_IDS,):
        table = table.append_column(name, pa.nulls(len(ids), pa.binary()))
    return table


def finished_marker(schema: pa.Schema, finished_ids: list[bytes], order: Optional[list[bytes]] = None) -> pa.Table:
    """One row that stands for rows which were finished before, so that whoever counts the output still sees them.

    order: the ids of all rows of the batch, for a schema that has a column for them.
    """
    columns = {field.name: pa.nulls(1, field.type) for field in schema}
    columns[FINISHED_IDS] = pa.array([b"".join(finished_ids)], type=pa.binary())
    if order is not None:
        columns[ORDER] = pa.array([b"".join(order)], type=pa.binary())
    return pa.table(columns, schema=schema.remove_metadata())


def without_markers(table: pa.Table) -> pa.Table:
    """The answered rows alone, with their ids."""
    rows = table.filter(table.column(FINISHED_IDS).is_null())
    return rows.select([name for name in rows.column_names if name not in (FINISHED_IDS, ORDER)])


def with_answers(table: pa.Table, answers: list[Answer], task: Task) -> pa.Table:
    """The input columns and the answers, without what travelled between the stages."""
    table = table.drop_columns([name for name in STAGE_SCHEMA.names if name in table.column_names])
    rows = [{"num_input_tokens": one.num_input_tokens, "error": one.error, **task.columns(one)} for one in answers]
    for field in task.schema:
        table = table.append_column(field, _column([row[field.name] for row in rows], field.type))
    return columns.with_values(table, [answer.own_columns for answer in answers]) if task.has_own_columns else table


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Vectors of one size at once: one by one, Arrow looks at each of their numbers, 0.2 ms for 1,024 of them."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, type=kind)
    zeros = np.zeros(kind.list_size, dtype=kind.value_type.to_pandas_dtype())
    flat = np.concatenate([zeros, *(zeros if value is None else value for value in values)], dtype=zeros.dtype)
    is_null = pa.array([value is None for value in values], type=pa.bool_())
    numbers = pa.array(flat[kind.list_size :], type=kind.value_type)
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind, mask=is_null)


class NoColumns(TypeError):
    """What the user's code returned is no columns for the output."""


def checked_columns(returned: Any, taken: Container[str]) -> dict[str, Any]:
    """What `rollout` or `parse_answer` returned. taken: the row's own columns and the output's. Raises NoColumns."""
    if not isinstance(returned, dict) or not all(isinstance(name, str) and name for name in returned):
        raise NoColumns(f"it must return a dict of columns, but returned {shown(returned)}")
    if half := next((name for name in returned if HALF_OF_A_PAIR.search(name)), None):
        raise NoColumns(f"its column {half!a} has half of a surrogate pair in its name, which is no text")
    if again := next((name for name in returned if name in taken or name.startswith(RESERVED)), None):
        raise NoColumns(f"it returned the column {again!r}, which the row or the output has: give it another name")
    return {name: _kept(name, value) for name, value in returned.items()}


def _kept(name: str, value: Any) -> Any:
    """A copy, which later rows do not change. Raises NoColumns for what cannot be stored."""
    if isinstance(value, (str, int, float, type(None))):
        return value
    try:
        why = "that is read once" if isinstance(value, Iterator) else "in more than 100 levels" * is_deep(value)
        copied = value if why else copy.deepcopy(value)
        if not why:
            columns.check_stored(copied)
    except Exception:  # a connection, a lock, an instance of a notebook's class
        why = "that nobody has awaited" if isinstance(value, Awaitable) else "that cannot be stored"
    if why:
        raise NoColumns(f"its column {name!r} has a value {why}, {shown(value)}: return plain values")
    return copied


def tell_failed(dataset: ray.data.Dataset, failed: int) -> ray.data.Dataset:
    """The dataset, which from now on knows how many of its rows failed. What is made of it is another, and does not."""
    setattr(dataset, _FAILED, failed)
    return dataset


def failed_of(dataset: ray.data.Dataset) -> Optional[int]:
    """How many rows of a run's result failed; None where that would have to be counted."""
    return getattr(dataset, _FAILED, None)
