"""What preview() shows: for each row, all that the model sees, and what it answers."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from rayllm_batch.show.row_table import (
    FIELDS,
    answers,
    counts,
    html_answer,
    html_fields,
    html_table,
    text_fields,
    wrapped,
)

PROMPT_CHARACTERS = 3000  # in a terminal; a notebook's table has the whole prompt, to scroll through
# A width of its own: JupyterLab's style would make it as wide as the longest paragraph.
_PROMPT = "width:36em;max-height:20em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;"
_PROMPT += "font-family:monospace;font-size:90%"


def as_text(rows: list[dict[str, Any]], column: str = "generated_text", notes: Sequence[str] = ()) -> str:
    """rows: with `prompt`, rendered, special tokens included, `media` (Thumbnails), where there are any, and the
    output's columns; column: the answer's.

    A row without a prompt, of a rollout, says how many requests it took. notes: lines on all rows together.
    """
    blocks = []
    for number, row in enumerate(rows, start=1):
        asked = "\n".join([_middle_left_out(_asked(row), PROMPT_CHARACTERS), *map(str, row.get("media") or ())])
        prompt = textwrap.indent(asked, "    | ", lambda line: True)
        lines = [wrapped(label, text) for label, text in answers(row, column)] + text_fields(row, column)
        blocks.append("\n".join([f"[{number}] {counts(row)}", prompt, *lines]))
    return "\n\n".join([*blocks, *notes])


def as_html(rows: list[dict[str, Any]], column: str = "generated_text", notes: Sequence[str] = ()) -> str:
    """A table; every text is escaped, since models write whatever they like."""
    cells = [
        (
            "".join(f"{one.as_html()} " for one in row.get("media") or ())
            + f"<div style='{_PROMPT}'>{html.escape(_asked(row))}</div>",
            html_answer(row, column),
            html_fields(row, column),
            html.escape(counts(row)),
        )
        for row in rows
    ]
    headings = ("prompt, as the model sees it", column, FIELDS, "tokens")
    return html_table(headings, cells) + "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _asked(row: dict[str, Any]) -> str:
    if row["prompt"] is not None:
        return row["prompt"]
    count = row["num_requests"]
    return f"(a rollout: {count:,} request{'' if count == 1 else 's'})"


def _middle_left_out(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
