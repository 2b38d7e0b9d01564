"""Rows with their answers for a person to read: cells of a table in a notebook, wrapped text in a terminal."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

TEXT_WIDTH = 110
TOLD = ("prompt", "num_input_tokens", "num_generated_tokens", "num_requests", "finish_reason", "error")  # elsewhere
_CELL = "text-align:left;vertical-align:top;padding:6px 10px;white-space:pre-wrap"


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of numbered rows. Cells are HTML already: escape what a model or a user wrote."""

    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag} style='{_CELL}'>{cell}</{tag}>" for cell in cells) + "</tr>"

    head = line("th", ("", *map(html.escape, headings)))
    body = "".join(line("td", (str(number), *row)) for number, row in enumerate(rows, start=1))
    return f"<table style='table-layout:auto;width:100%'><thead>{head}</thead><tbody>{body}</tbody></table>"


def html_answer(row: dict[str, Any], column: str = "generated_text") -> str:
    text, label = answer(row, column)
    return f"{'<b>error:</b> ' if label == 'error' else ''}{html.escape(text)}"


def html_further(row: dict[str, Any], column: str = "generated_text") -> str:
    lines = (f"<b>{html.escape(name)}:</b> {html.escape(its)}" for name, its in further(row, column).items())
    return "".join(f"\n{line}" for line in lines)


def answer(row: dict[str, Any], column: str = "generated_text") -> tuple[str, str]:
    """The answer (column: which one has it), or the error in its place, and which of the two it is."""
    if row.get("error"):
        return row["error"], "error"
    return "" if row[column] is None else str(row[column]), column


def further(row: dict[str, Any], column: str = "generated_text") -> dict[str, str]:
    """The other columns that an answer has, as text; a struct's fields one by one. Nothing of a row that failed."""
    told = {}
    for name, value in row.items():
        if row.get("error") or value is None or name in (column, *TOLD):
            continue
        fields = {f"{name}.{key}": its for key, its in value.items()} if isinstance(value, dict) else {name: value}
        for label, its in fields.items():
            told[label] = its if isinstance(its, str) else json.dumps(its, ensure_ascii=False, default=str)
    return told


def counts(row: dict[str, Any]) -> str:
    """As far as the row's task has such columns."""
    told = [f"{row['num_input_tokens']:,} in"]
    if "num_generated_tokens" in row:
        told += [f"{row['num_generated_tokens']:,} out", row["finish_reason"]]
    if row.get("num_requests", 1) != 1:
        told.append(f"{row['num_requests']} requests")
    return ", ".join(told)


def shortened(value: Any, most: int) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 4].rsplit(" ", 1)[0] + " ..."


def wrapped(label: str, text: str) -> str:
    return textwrap.fill(
        " ".join(str(text).split()) or "(empty)",
        TEXT_WIDTH,
        initial_indent=f"    {label}: ",
        subsequent_indent="        ",
    )
