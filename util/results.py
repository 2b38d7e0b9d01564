"""Rows of a finished run for a person to read: a table in a notebook, wrapped text in a terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rayllm_batch.display import framed, in_notebook, show
from rayllm_batch.errors import DatasetError, did_you_mean
from rayllm_batch.output.run_columns import failed_of
from rayllm_batch.show.row_table import (
    TEXT_WIDTH,
    answers,
    counts,
    of_output,
    readable,
    shortened,
    text_fields,
    wrapped,
)

if TYPE_CHECKING:
    import ray.data

TEXT_ROWS = 16


@dataclass
class Totals:
    """What a result adds up to. finish_reasons: rows by finish reason."""

    rows: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)


def add_up(dataset: ray.data.Dataset) -> Totals:
    """Read the result once, block by block: it may be larger than memory."""
    totals = Totals()
    columns = ["num_input_tokens", "num_generated_tokens", "finish_reason", "error"]
    for table in dataset.select_columns(columns).iter_batches(batch_size=None, batch_format="pyarrow"):
        totals.rows += table.num_rows
        totals.failed += table.num_rows - table.column("error").null_count
        totals.input_tokens += sum(table.column("num_input_tokens").to_pylist())
        totals.output_tokens += sum(table.column("num_generated_tokens").to_pylist())
        totals.finish_reasons.update(table.column("finish_reason").to_pylist())
    return totals


def show_results(dataset: ray.data.Dataset, input_column: str, n: int = 1000) -> None:
    """Show rows of a run's output, failed ones first; half of them at most, where others were answered.

    In a notebook, with itables, a table of `n` rows to sort, search and filter, each of which opens. Elsewhere text of
    the first TEXT_ROWS. Raises DatasetError where they have no `input_column`.
    """
    from ray.data.expressions import col

    failed, answered = [], dataset
    if (known := failed_of(dataset)) != 0:
        failed = dataset.filter(expr=col("error").is_not_null()).take(n)
        answered = dataset.filter(expr=col("error").is_null())
    others = answered.take(n)
    rows = _failed_first(failed, others, n)
    if not rows:
        print("There are no rows.")
        return
    if input_column not in rows[0]:
        raise DatasetError(
            f"The rows have no column {input_column!r}, but: {', '.join(rows[0])}.{did_you_mean(input_column, rows[0])}"
        )
    total = dataset.count()
    many = f"{known or len(failed):,}{'+' if known is None and len(failed) == n else ''}"
    note = f"{total:,} rows, {many} failed{', which come first' if failed else ''}."
    few = _failed_first(failed, others, min(n, TEXT_ROWS))
    text = f"{as_text(few, input_column)}\n\n{note} Here are {len(few):,} of them."
    if in_notebook() and find_spec("itables"):
        from util.results_page import results_page

        shown = "" if len(rows) == total else f" Here are {len(rows):,} of them."
        page = results_page(rows, input_column, answer_column(rows[0]), f"{note}{shown} A click on a row opens it.")
        show(framed(page, "Results", scripts=True), text)
    else:
        print(text, flush=True)


def _failed_first(failed: list[dict[str, Any]], answered: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    answered = answered[: n - min(len(failed), n // 2)]
    return failed[: n - len(answered)] + answered


def answer_column(row: dict[str, Any]) -> str:
    """The output's column that people read first; the input's stand before it."""
    if "generated_text" in row:
        return "generated_text"
    # The last one, as a table of the user's may have a column `label`; a task of a package of one's own has another.
    found = [name for name in row if name in ("embedding", "label", "score")]
    return found[-1] if found else "num_input_tokens"


def as_text(rows: list[dict[str, Any]], input_column: str) -> str:
    """One paragraph a row, for terminals and logs."""
    blocks = []
    for number, row in enumerate(rows, start=1):
        column = answer_column(row)
        lines = [
            f"[{number}] {counts(row)}",
            wrapped(input_column, shortened(readable(row.get(input_column)), 2 * TEXT_WIDTH)),
            *(wrapped(label, text) for label, text in answers(row, column)),
            *text_fields(of_output(row, column), column),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
