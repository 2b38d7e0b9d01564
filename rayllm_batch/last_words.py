"""What a run says when it is over: rows answered, rows failed and why, where the answers are, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from rayllm_batch.failures import CHARACTERS, OTHERS
from rayllm_batch.row_table import shortened

MOST_FREQUENT = 3


def most_frequent(counts: Mapping[str, tuple[int, str]]) -> list[str]:
    """A line each, the most frequent first, and one for the rest."""
    ordered = sorted(counts.values(), key=lambda item: (item[1].endswith(OTHERS), -item[0]))
    lines = [f"  {rows:,} x {shortened(example, CHARACTERS)}" for rows, example in ordered[:MOST_FREQUENT]]
    if rest := sum(rows for rows, _ in ordered[MOST_FREQUENT:]):
        lines.append(f"  {rest:,} x other errors")
    return lines


def of_memory(rows: int, failed: int, took: object, errors: Mapping[str, tuple[int, str]]) -> str:
    lines = [_first(rows, failed, took), *most_frequent(errors)]
    where = "in memory only, in the Dataset that run() returns: run(output_path) writes them as they come."
    lines.append(f"The answers are {where}")
    return "\n".join(lines)


def of_folder(
    rows: int, failed: int, took: object, errors: Mapping[str, tuple[int, str]],
    *, path: str, output_format: str, id_column: Optional[str], answer_column: str = "generated_text",
) -> str:  # fmt: skip
    lines = [_first(rows, failed, took), *most_frequent(errors)]
    read = f'ray.data.read_json("{path}", file_extensions=["jsonl"]).to_pandas()'
    if output_format == "parquet":
        read = f'pd.read_parquet("{path}")'
    lines.append(f"The answers are in {path}, each beside the columns of its row: {read}.")
    if id_column:
        answers = f'{read}[["{id_column}", "{answer_column}", "error"]]'
        lines.append(f'  With your table: table.merge({answers}, on="{id_column}", how="left")')
    if failed:
        how = "with the same call and retry_failed=True (--retry-failed)"
        lines.append(f"  Failed rows run again, also after a fix, {how}.")
    return "\n".join(lines)


def _first(rows: int, failed: int, took: object) -> str:
    return f"{rows:,} rows, {failed:,} failed, {rows - failed:,} answered; {took}"
