"""Rows with their answers for a person to read: cells of a table in a notebook, wrapped text in a terminal."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

TEXT_WIDTH = 110
FIELDS = "fields"  # the heading of `html_fields`
MOST_CHARACTERS = 2000  # of one field's value
JSON = (dict, list, bool, int, float, type(None))
VECTOR = 8  # more numbers than these are not all shown
# Shown elsewhere, or too long to read.
TOLD = (
    *("prompt", "num_input_tokens", "num_generated_tokens", "num_requests", "finish_reason", "finish_reasons", "error"),
    *("logprobs", "prompt_logprobs", "media"),
)
_CELL = "text-align:left;vertical-align:top;padding:6px 10px;white-space:pre-wrap"
_TEXT = "overflow-wrap:anywhere;min-width:7em"  # compact JSON has few spaces, and pushed the next column off the page
_FIELD = "padding:2px 8px 2px 0"


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of numbered rows, without FIELDS where no row has any. Cells are HTML: escape what others wrote."""
    all_rows = list(rows)
    shown = [i for i, heading in enumerate(headings) if heading != FIELDS or any(row[i] for row in all_rows)]

    def line(tag: str, cells: Iterable[str]) -> str:
        number, *texts = cells
        told = "".join(f"<{tag} style='{_CELL};{_TEXT}'>{text}</{tag}>" for text in texts)
        return f"<tr><{tag} style='{_CELL}'>{number}</{tag}>{told}</tr>"

    head = line("th", ("", *(html.escape(headings[i]) for i in shown)))
    body = "".join(line("td", (str(number), *(row[i] for i in shown))) for number, row in enumerate(all_rows, start=1))
    return f"<table style='table-layout:auto;width:100%'><thead>{head}</thead><tbody>{body}</tbody></table>"


def html_answer(row: dict[str, Any], column: str = "generated_text") -> str:
    labels = {"error": "<b>error:</b> ", column: ""}
    return "\n".join(
        f"{labels.get(label, f'<b>{html.escape(label[len(column) + 1 :])}</b> ')}{html.escape(text)}"
        for label, text in answers(row, column)
    )


def answers(row: dict[str, Any], column: str = "generated_text") -> list[tuple[str, str]]:
    """Label and text: the error, if the row has one, and the texts there are (column: which one has them).

    Those of n > 1 are numbered: "generated_text [1]".
    """
    told = [("error", str(row["error"]))] if row.get("error") else []
    if (several := row.get(f"{column}s")) is not None:
        return told + [(f"{column} [{i}]", str(text)) for i, text in enumerate(several, start=1)]
    text = "" if row.get(column) is None else readable(row[column])
    return told + ([(column, text)] if text or not told else [])


def html_fields(row: dict[str, Any], column: str = "generated_text") -> str:
    """A small table; "" of a row that has no fields."""
    lines = [
        f"<tr><td style='{_CELL};{_FIELD};overflow-wrap:normal'>{html.escape(name)}</td>"
        + "".join(f"<td style='{_CELL};{_FIELD};{_TEXT}'>{html.escape(text)}</td>" for text in told)
        for name, told in fields(row, column).items()
    ]
    return f"<table style='font-size:90%'>{'</tr>'.join(lines)}</tr></table>" if lines else ""


def text_fields(row: dict[str, Any], column: str = "generated_text") -> list[str]:
    return [
        wrapped(name if len(told) == 1 else f"{name} [{i}]", text)
        for name, told in fields(row, column).items()
        for i, text in enumerate(told, start=1)
    ]


def fields(row: dict[str, Any], column: str = "generated_text") -> dict[str, list[str]]:
    """The further columns that an answer has, a struct's fields one by one; of `parsed`, with n > 1, each answer's.

    Values are text, what is nested compact JSON.
    """
    found: dict[str, list[str]] = {}
    for name, value in row.items():
        if value is None or name in (column, f"{column}s", *TOLD):
            continue
        each = value if name == "parsed" and row.get(f"{column}s") is not None else [value]
        keys = dict.fromkeys(key for one in each if isinstance(one, dict) for key in one)
        for key in keys or [""]:
            values = [(one or {}).get(key) if key else one for one in each]
            found[f"{name}.{key}" if key else name] = list(map(_value, values))
    return found


def _value(value: Any) -> str:
    text = readable(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 4]} ..."


def readable(value: Any) -> str:
    """Text as it is, of bytes how many, of a vector its length and first numbers, of what is nested compact JSON."""
    plain = _plain(value)
    if isinstance(plain, list) and len(plain) > VECTOR and all(isinstance(one, float) for one in plain):
        return f"{len(plain):,} numbers: {', '.join(f'{one:.4f}' for one in plain[:VECTOR])}, ..."
    if plain is not None and not isinstance(plain, (dict, list, bool)):
        return str(plain)
    try:
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys that JSON has not, or what holds itself
        return str(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    to_list = getattr(value, "tolist", None)  # of an array
    return to_list() if to_list else value if isinstance(value, JSON) else str(value)


def of_output(row: dict[str, Any], answer_column: str) -> dict[str, Any]:
    """Without the input's columns, which stand before the answer's."""
    names = list(row)
    return {name: row[name] for name in names[names.index(answer_column) :]}


def counts(row: dict[str, Any]) -> str:
    """As far as the row's task has such columns."""
    told = [f"{row['num_input_tokens']:,} in"]
    if "num_generated_tokens" in row:
        told += [f"{row['num_generated_tokens']:,} out", row["finish_reason"] or "no request"]
    if row.get("num_requests", 1) > 1:
        told.append(f"{row['num_requests']:,} requests")
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
