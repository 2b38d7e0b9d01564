"""Rows of a finished run for a person to read: a table in a notebook, wrapped text in a terminal."""

from __future__ import annotations

import html
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray.data

INPUT_CHARACTERS = 400
TEXT_WIDTH = 110


def show_results(dataset: ray.data.Dataset, input_column: str, n: int = 16, only_failures: bool = False) -> None:
    """Show the first `n` rows of a run's output side by side: the input (shortened), the answer or the error, counts.

    only_failures: show only rows whose `error` is set.
    """
    if only_failures:
        from ray.data.expressions import col

        dataset = dataset.filter(expr=col("error").is_not_null())
    rows = dataset.take(n)
    if not rows:
        print("No row failed." if only_failures else "There are no rows.")
    elif _in_notebook():
        from IPython.display import HTML, display

        display(HTML(as_html(rows, input_column)))
    else:
        print(as_text(rows, input_column))


def as_text(rows: list[dict[str, Any]], input_column: str) -> str:
    """One paragraph a row, for terminals and logs."""
    blocks = []
    for number, row in enumerate(rows, start=1):
        answer, label = _answer(row)
        blocks.append("\n".join([
            f"[{number}] {_counts(row)}",
            _wrapped(input_column, _shortened(row.get(input_column), 2 * TEXT_WIDTH)),
            _wrapped(label, answer),
        ]))
    return "\n\n".join(blocks)


def as_html(rows: list[dict[str, Any]], input_column: str) -> str:
    """A table; every text is escaped, since models write whatever they like."""
    left = "style='text-align:left;vertical-align:top;padding:6px 10px;white-space:pre-wrap'"
    body = "".join(
        f"<tr><td {left}>{number}</td>"
        f"<td {left}>{html.escape(_shortened(row.get(input_column), INPUT_CHARACTERS))}</td>"
        f"<td {left}>{'<b>error:</b> ' if row.get('error') else ''}{html.escape(_answer(row)[0])}</td>"
        f"<td {left}>{html.escape(_counts(row))}</td></tr>"
        for number, row in enumerate(rows, start=1)
    )
    head = "".join(f"<th {left}>{html.escape(name)}</th>" for name in ("", input_column, "generated_text", "tokens"))
    return f"<table style='table-layout:auto;width:100%'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _answer(row: dict[str, Any]) -> tuple[str, str]:
    return (row["error"], "error") if row.get("error") else (row["generated_text"], "generated_text")


def _counts(row: dict[str, Any]) -> str:
    return f"{row['num_input_tokens']:,} in, {row['num_generated_tokens']:,} out, {row['finish_reason']}"


def _shortened(value: Any, most: int) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 4].rsplit(" ", 1)[0] + " ..."


def _wrapped(label: str, text: str) -> str:
    return textwrap.fill(
        " ".join(str(text).split()) or "(empty)", TEXT_WIDTH, initial_indent=f"    {label}: ", subsequent_indent="        "
    )


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
