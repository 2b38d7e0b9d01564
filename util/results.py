"""Rows of a finished run for a person to read: a table in a notebook, wrapped text in a terminal."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayllm_batch.display import show
from rayllm_batch.output.run_columns import failed_of
from rayllm_batch.show.row_table import (
    FIELDS,
    TEXT_WIDTH,
    answers,
    counts,
    html_answer,
    html_fields,
    html_table,
    shortened,
    text_fields,
    wrapped,
)

if TYPE_CHECKING:
    import ray.data

INPUT_CHARACTERS = 400


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


def show_results(dataset: ray.data.Dataset, input_column: str, n: int = 16, only_failures: bool = False) -> None:
    """Show `n` rows of a run's output side by side: the input (shortened), the answer or the error, its fields, counts.

    The first answered ones, and failed ones only where these are too few; a line says how many failed.
    only_failures: show only rows whose `error` is set.
    """
    from ray.data.expressions import col

    rows = dataset.filter(expr=col("error").is_not_null()).take(n) if only_failures else dataset.take(n)
    looked_at, failed = len(rows), [row for row in rows if row["error"] is not None]
    if failed and not only_failures:
        rows = dataset.filter(expr=col("error").is_null()).take(n)
        rows += failed[: n - len(rows)]
    if not rows:
        print("No row failed." if only_failures else "There are no rows.")
    else:
        show(as_html(rows, input_column), as_text(rows, input_column))
    if not only_failures and (said := _failed(dataset, len(failed), looked_at)):
        print(said)


def _failed(dataset: ray.data.Dataset, found: int, looked_at: int) -> str:
    """found: failed ones of the `looked_at` first rows. "" where none is known."""
    failed = failed_of(dataset)
    of = f"{found:,} of the first {looked_at:,}" if failed is None else f"{failed:,} of {dataset.count():,}"
    return f"{of} rows failed: only_failures=True shows them." if failed or found else ""


def as_text(rows: list[dict[str, Any]], input_column: str) -> str:
    """One paragraph a row, for terminals and logs."""
    blocks = []
    for number, row in enumerate(rows, start=1):
        lines = [
            f"[{number}] {counts(row)}",
            wrapped(input_column, shortened(row.get(input_column), 2 * TEXT_WIDTH)),
            *(wrapped(label, text) for label, text in answers(row)),
            *text_fields(_answer_of(row)),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def as_html(rows: list[dict[str, Any]], input_column: str) -> str:
    """A table; every text is escaped, since models write whatever they like."""
    return html_table(
        (input_column, "generated_text", FIELDS, "tokens"),
        (
            (
                html.escape(shortened(row.get(input_column), INPUT_CHARACTERS)),
                html_answer(row),
                html_fields(_answer_of(row)),
                html.escape(counts(row)),
            )
            for row in rows
        ),
    )


def _answer_of(row: dict[str, Any]) -> dict[str, Any]:
    """Without the input's columns: those of an answer begin with its text."""
    names = list(row)
    return {name: row[name] for name in names[names.index("generated_text") :]}
