"""Finished rows as a page that a notebook shows: sorted, searched, filtered and opened in place, without a network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rayllm_batch.show.row_table import answers, counts, html_answer, html_fields, of_output, readable, shortened
from rayllm_batch.show.thumbnail import Thumbnail

GENERATED = "num_generated_tokens"  # of tasks that generate
MOST_PICTURES = 100  # rows with thumbnails: to decode more takes too long
SHORT = 120  # characters of a cell; the row has all of it when it is opened
MOST_CHARACTERS = 20_000  # of one text of an opened row
MOST_BYTES = 5_000_000  # of all rows
# It unpacks the page: DataTables has 700 KB, and a notebook keeps what it shows.
UNPACK = (
    "<script>new Response(new Blob([Uint8Array.from(atob('{}'), c => c.charCodeAt(0))]).stream().pipeThrough("
    "new DecompressionStream('gzip'))).text().then(t => {{ document.open(); document.write(t); document.close() }})"
    "</script>"
)


def results_page(rows: Iterable[dict[str, Any]], input_column: str, answer_column: str, note: str = "") -> str:
    """rows: of a run's output, in the order of the table: as many as MOST_BYTES allows. note: a line above it."""
    import jinja2
    from itables.utils import find_package_file

    told: list[dict[str, Any]] = []
    size, given = 0, list(rows)
    for number, row in enumerate(given, start=1):
        one = _told(number, row, input_column, answer_column)
        size += len(one["details"])
        if told and size > MOST_BYTES:
            note += f" The table has the first {len(told):,} of them: more would be too large for a notebook."
            break
        told.append(one)
    headings = ["", input_column, answer_column, "tokens in"]
    headings += ["tokens out", "finish"] if GENERATED in of_output(given[0], answer_column) else ["outcome"]
    path = find_package_file("html/dt_bundle.js")
    bundle = path.read_text(encoding="utf-8")
    names = re.search(r"export ?\{([^}]*)\}", bundle)
    exported = {name: local for local, name in re.findall(r"([\w$]+) as (\w+)", names[1] if names else "")}
    source = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    template = jinja2.Template(source, autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.render(
        css=path.with_suffix(".css").read_text(encoding="utf-8"),
        bundle=bundle,
        exported=exported,
        rows=json.dumps({"headings": headings, "rows": told}).replace("<", "\\u003c"),
        note=note.strip(),
    )
    return UNPACK.format(base64.b64encode(gzip.compress(page.encode("utf-8", "replace"))).decode())


def _told(number: int, row: dict[str, Any], input_column: str, answer_column: str) -> dict[str, Any]:
    row = {name: _bounded(value) for name, value in row.items()}
    own = of_output(row, answer_column)
    inputs = sorted((name for name in row if name not in own), key=lambda name: name != input_column)
    answer = "; ".join(f"{label}: {text}" if label == "error" else text for label, text in answers(row, answer_column))
    parts = [(name, _input(row[name], number <= MOST_PICTURES)) for name in inputs]
    parts += [(answer_column, html_answer(row, answer_column)), ("fields", html_fields(own, answer_column))]
    parts.append(("tokens", html.escape(counts(own))))
    details = "".join(f"<b>{html.escape(name)}</b><div>{text}</div>" for name, text in parts if text)
    failed = own.get("error") is not None
    cells = [number, shortened(_readable(row.get(input_column, "")), SHORT), shortened(answer, SHORT)]
    cells.append(own["num_input_tokens"])
    if GENERATED in own:
        cells += [own[GENERATED], shortened(own["finish_reason"] or "no request", 40)]
    else:
        cells.append("error" if failed else "answered")
    return {"cells": cells, "details": f"<div class='details'>{details}</div>", "failed": failed}


def _input(value: Any, with_picture: bool) -> str:
    if value is None:
        return ""
    thumbnail = Thumbnail.of_value(value) if with_picture else None
    return thumbnail.as_html() if thumbnail else html.escape(_bounded(_readable(value)))


def _bounded(value: Any) -> Any:
    """A text without its middle, where it is very long; also those of a list."""
    if isinstance(value, list):
        return [_bounded(one) if isinstance(one, str) else one for one in value]
    if not isinstance(value, str) or len(value) <= MOST_CHARACTERS:
        return value
    half = MOST_CHARACTERS // 2
    return f"{value[:half]}\n[... {len(value) - 2 * half:,} characters ...]\n{value[-half:]}"


def _readable(value: Any) -> str:
    return readable(value["bytes"] if isinstance(value, dict) and value.get("bytes") else value)
