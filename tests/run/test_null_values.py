"""A null that parse_row has written into the prompt is said before an engine starts."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.run.null_values import MOST_COLUMNS, warn_of_nulls
from rayllm_batch.tasks.embed import Embed
from rayllm_batch.tasks.generate import Generate


class Work(ChatWorkloadBase):
    asked: int = 0

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        return {"messages": [{"role": "user", "content": f"Translate: {row['title']}"}]}


ROWS = [{"title": "None of them", "note": None}, {"title": "b", "note": "x"}, {"title": "c", "note": None}]


@pytest.mark.parametrize(
    ("null", "word"), [(None, "'None'"), (math.nan, "'nan'"), (pd.NA, "'<NA>'"), (pd.NaT, "'NaT'")]
)
def test_it_is_said_which_column_and_how_often(null: Any, word: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_nulls(Work(), Generate(), [*ROWS, {"title": null, "note": "y"}, {"title": null, "note": "y"}])
    [record] = caplog.records
    said = record.getMessage()
    assert "'title' is null in 2 of the first 5 rows" in said and f"writes {word} into the prompt" in said
    assert "ValueError" in said


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], [{"title": "None", "note": None}]])
def test_a_null_that_is_not_asked_about_is_none_of_it(rows: Any, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_nulls(Work(), Generate(), rows)
    assert not caplog.records


def test_what_parse_row_does_with_a_null_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Careful(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            if row["a"] is None:
                raise ValueError("nothing there")
            return {"prompt": row["a"] + (row["b"] or "no b") + json_of(row["c"])}

    def json_of(value: Any) -> str:
        return "" if value is None else str(value)

    for task in (Generate(), Embed()):
        warn_of_nulls(Careful(), task, [{"a": None, "b": "b", "c": 1}, {"a": "a", "b": None, "c": None}])
    assert not caplog.records


def test_a_wide_table_is_not_parsed_a_hundred_times(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    warn_of_nulls(work, Generate(), [{"title": "t", **dict.fromkeys(map(str, range(100)))}] * 256)
    assert work.asked <= 2 * MOST_COLUMNS and not caplog.records
