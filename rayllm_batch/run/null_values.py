"""Nulls that parse_row writes into a prompt: a model that is asked about None makes something up."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from typing import Any

from rayllm_batch.data.column_values import is_null
from rayllm_batch.tasks.base import Task

MARK = "rayllm-batch-null"
MOST_COLUMNS = 8  # of those with nulls; parse_row is tried twice for each
log = logging.getLogger("rayllm_batch")


def warn_of_nulls(workload: Any, task: Task, sample: Sequence[dict[str, Any]]) -> None:
    """One line a column whose null becomes text in the prompt. sample: the first rows."""
    for column in list(dict.fromkeys(name for row in sample for name in row if is_null(row[name])))[:MOST_COLUMNS]:
        without = [row for row in sample if is_null(row.get(column, ""))]
        if word := _written(workload, task, without[0], column):
            log.warning(
                "The column %r is null in %d of the first %d rows, and parse_row writes %r into the prompt there: a "
                "model that is asked about nothing makes something up. Raise ValueError in parse_row, which becomes "
                "that row's error, or leave these rows out.",
                column,
                len(without),
                len(sample),
                word,
            )


def _written(workload: Any, task: Task, row: dict[str, Any], column: str) -> str:
    """What parse_row writes for the null; "" where it writes nothing of the kind, or fails."""
    try:
        as_it_is, marked = (
            json.dumps(task.parse(getattr(workload, "parse_row", dict), copy.deepcopy(given)), default=str)
            for given in (row, {**row, column: MARK})
        )
    except Exception:
        return ""
    word = str(row[column])
    return word if MARK in marked and marked.replace(MARK, word) == as_it_is else ""
