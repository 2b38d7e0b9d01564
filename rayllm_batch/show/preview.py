"""What preview() shows: for each row, all that the model sees, and what it answers."""

from __future__ import annotations

import html
import textwrap
from typing import Any

from rayllm_batch.show.row_table import answer, counts, further, html_answer, html_further, html_table, wrapped

PROMPT_CHARACTERS = 3000  # in a terminal; a notebook's table has the whole prompt, to scroll through
# A width of its own: JupyterLab's style would make it as wide as the longest paragraph.
_PROMPT = "width:36em;max-height:20em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;font-size:90%"


def as_text(rows: list[dict[str, Any]], column: str = "generated_text") -> str:
    """rows: with `prompt`, the rendered prompt, special tokens included, and the output's columns; column: the answer's."""
    blocks = []
    for number, row in enumerate(rows, start=1):
        text, label = answer(row, column)
        prompt = textwrap.indent(_middle_left_out(row["prompt"], PROMPT_CHARACTERS), "    | ", lambda line: True)
        lines = [prompt] if prompt else []
        lines += [wrapped(label, text), *(wrapped(name, its) for name, its in further(row, column).items())]
        blocks.append("\n".join([f"[{number}] {counts(row)}", *lines]))
    return "\n\n".join(blocks)


def as_html(rows: list[dict[str, Any]], column: str = "generated_text") -> str:
    """A table; every text is escaped, since models write whatever they like."""
    return html_table(
        ("prompt, as the model sees it", column, "tokens"),
        (
            (
                f"<div style='{_PROMPT}'>{html.escape(row['prompt'])}</div>",
                html_answer(row, column) + html_further(row, column),
                html.escape(counts(row)),
            )
            for row in rows
        ),
    )


def _middle_left_out(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
