"""The columns of a run's output, and those that travel between its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import pyarrow as pa

from rayllm_batch.errors import DatasetError

OUTPUT_SCHEMA = pa.schema([
    ("generated_text", pa.string()),
    ("num_input_tokens", pa.int64()),
    ("num_generated_tokens", pa.int64()),
    ("finish_reason", pa.string()),
    ("error", pa.string()),
])

# Between the CPU stage and the engine stage; they never reach the output.
TOKEN_IDS = "_rayllm_prompt_token_ids"
REQUEST = "_rayllm_request"
STAGE_ERROR = "_rayllm_error"
STAGE_SCHEMA = pa.schema([(TOKEN_IDS, pa.list_(pa.int32())), (REQUEST, pa.string()), (STAGE_ERROR, pa.string())])


@dataclass
class Answer:
    """What one row gets. A failed row has `error` set, no text, and `finish_reason` "error".

    Its other columns keep their types (no nulls), so that the output of any mix of rows has one schema.
    """

    generated_text: str = ""
    num_input_tokens: int = 0
    num_generated_tokens: int = 0
    finish_reason: str = "error"
    error: Optional[str] = None


def check_input_columns(columns: list[str]) -> None:
    """Raise DatasetError when an input column has the name of an output column and would be lost."""
    taken = [name for name in columns if name in OUTPUT_SCHEMA.names or name in STAGE_SCHEMA.names]
    if taken:
        raise DatasetError(
            f"The dataset already has the column(s) {', '.join(map(repr, taken))}, which the output adds. Rename or drop "
            f"them in load_dataset: ds.rename_columns({{{taken[0]!r}: 'previous_{taken[0]}'}})."
        )


def with_stage_columns(table: pa.Table, token_ids: list, requests: list, errors: list) -> pa.Table:
    """The input rows with what the engine needs: token ids, the request's own settings as JSON, an error so far."""
    for field, values in zip(STAGE_SCHEMA, (token_ids, requests, errors), strict=True):
        table = table.append_column(field, pa.array(values, type=field.type))
    return table


def with_answers(table: pa.Table, answers: list[Answer]) -> pa.Table:
    """The input columns and the answers, without what travelled between the stages."""
    table = table.drop_columns([name for name in STAGE_SCHEMA.names if name in table.column_names])
    for field in OUTPUT_SCHEMA:
        values = [getattr(answer, field.name) for answer in answers]
        table = table.append_column(field, pa.array(values, type=field.type))
    return table
