"""The same rows answered by several configs, side by side: which model is worth it?"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.report.estimate import Estimate
from rayllm_batch.report.html_file import rendered, save
from rayllm_batch.show.row_table import answers, html_answer, html_fields, html_table, shortened, text_fields, wrapped
from rayllm_batch.show.status import duration

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 20  # rows in a notebook and a terminal; the page has them all
INPUT_CHARACTERS = 600  # of a row's input columns


@dataclass(frozen=True)
class Compared:
    """One config's part. name: of its column. rows: the output's columns of each row, in the order of the others' rows.

    metrics: of its run with these rows. estimate: of a job of `Comparison.MILLION` rows; None of a rollout.
    """

    name: str
    rows: list[dict[str, Any]]
    metrics: RunMetrics
    estimate: Optional[Estimate]


class Comparison:
    """What `RayLLMBatch.compare` returns: print it, or leave it as a notebook cell's last line.

    inputs: the rows' own columns. of: a Compared each config. column: of the answers. for_people: a row as it is shown.
    """

    MILLION = 1_000_000  # rows that times and costs are of

    def __init__(
        self, inputs: list[dict[str, Any]], of: Sequence[Compared], column: str, for_people: Callable = dict
    ) -> None:
        self.inputs, self.of, self.column = inputs, tuple(of), column
        self._shown = [[for_people(row) for row in one.rows] for one in of]

    def figures(self) -> dict[str, list[str]]:
        """What is measured, by what it is called: a text each config."""
        figures = {
            "rows answered": self._each(
                lambda one: f"{one.metrics.rows - one.metrics.failed:,} of {one.metrics.rows:,}"
            ),
            f"same answer as {self.of[0].name}": self._each(self._agreement),
            "input tokens a row": self._each(lambda one: _a_row(one.metrics.num_input_tokens, one.metrics)),
            "output tokens a row": self._each(
                lambda one: one.metrics.num_generated_tokens and _a_row(one.metrics.num_generated_tokens, one.metrics)
            ),
            "start-up": self._each(lambda one: one.estimate and duration(one.estimate.start_s)),
            "a million rows take": self._each(lambda one: one.estimate and duration(one.estimate.run_s)),
            "from, to": self._each(
                lambda one: one.estimate and f"{duration(one.estimate.low_s)}, {duration(one.estimate.high_s)}"
            ),
            "GPU-hours": self._each(
                lambda one: one.estimate and one.estimate.gpus and f"{one.estimate.gpu_hours:,.1f}"
            ),
            "cost": self._each(lambda one: one.estimate and one.estimate.cost_usd and f"${one.estimate.cost_usd:,.2f}"),
        }
        return {name: its for name, its in figures.items() if any(its)}

    def to_pandas(self) -> pd.DataFrame:
        """A row each: its own columns, then every output column of each config as `config: column`."""
        import pandas as pd

        return pd.DataFrame(
            {**row, **{f"{one.name}: {name}": value for one in self.of for name, value in one.rows[i].items()}}
            for i, row in enumerate(self.inputs)
        )

    def save(self, path: Union[str, os.PathLike] = "comparison.html") -> str:
        """Write it as one HTML file, which needs no network, and show it in a notebook. Returns the file's whole path.

        path: replaced if it is there. Raises RayLLMBatchError when the file cannot be written.
        """
        names = [one.name for one in self.of]
        content = rendered(
            "comparison.html",
            title=" and ".join(names),
            names=names,
            figures=self.figures(),
            rows=len(self.inputs),
            answers=self._html_rows(len(self.inputs)),
        )
        return save(content, path, "comparison")

    def __str__(self) -> str:
        names = [one.name for one in self.of]
        figures = [("", *names), *((name, *its) for name, its in self.figures().items())]
        widths = [max(map(len, column)) for column in zip(*figures, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in figures
        ]
        for i, row in enumerate(self.inputs[:MOST_SHOWN]):
            lines += ["", f"[{i + 1}] {shortened(_values(row), INPUT_CHARACTERS)}"]
            for one, shown in zip(self.of, self._shown, strict=True):
                lines += [f"  {one.name}", *(wrapped(*told) for told in answers(shown[i], self.column))]
                lines += text_fields(shown[i], self.column)
        return "\n".join([*lines, *self._left_out()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = [("", *(one.name for one in self.of)), *((name, *its) for name, its in self.figures().items())]
        cells = ("".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in line) for line in lines)
        head = f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"
        return head + self._html_rows(MOST_SHOWN) + "".join(f"<p>{html.escape(line)}</p>" for line in self._left_out())

    def _html_rows(self, most: int) -> str:
        cells = (
            [
                html.escape(shortened(_values(row), INPUT_CHARACTERS)),
                *(html_answer(rows[i], self.column) + html_fields(rows[i], self.column) for rows in self._shown),
            ]
            for i, row in enumerate(self.inputs[:most])
        )
        return html_table(["row", *(one.name for one in self.of)], cells)

    def _left_out(self) -> list[str]:
        more = len(self.inputs) - MOST_SHOWN
        return [f"{more:,} more rows: save() writes all of them, to_pandas() has them."] if more > 0 else []

    def _each(self, told: Callable[[Compared], Any]) -> list[str]:
        return [str(told(one) or "") for one in self.of]

    def _agreement(self, other: Compared) -> str:
        """Of the rows that both answered; vectors and scores are never the same."""
        first = self.of[0]
        both = [
            (a, b)
            for a, b in zip(first.rows, other.rows, strict=True)
            if a.get("error") is None and b.get("error") is None
        ]
        if other is first or not both or any(isinstance(b.get(self.column), (float, list)) for _, b in both):
            return ""
        return f"{sum(_answer(a, self.column) == _answer(b, self.column) for a, b in both) / len(both):.0%}"


def _answer(row: dict[str, Any], column: str) -> str:
    return json.dumps(row.get("parsed", row.get(column)), sort_keys=True, default=str)


def _a_row(tokens: int, metrics: RunMetrics) -> str:
    return f"{tokens / max(metrics.rows, 1):,.0f}"


def _values(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in row.items() if value is not None)
