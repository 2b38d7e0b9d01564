"""The CPU stage after the engine, of workloads with a `parse_answer`: further columns, made of a row and its answer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.errors import one_line
from rayllm_batch.measures import failures
from rayllm_batch.measures.row_stats import Counts, RowStats
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.base import Task
from rayllm_batch.workers import cancellation

ParseAnswer = Callable[[dict[str, Any], dict[str, Any]], Any]
ANSWERS_WITHIN_S = 10.0


def parse_answers(table: pa.Table, parse: ParseAnswer, task: Task, monitor: Any = None) -> pa.Table:
    """A block of answered rows, with the columns that `parse` makes. A row that it fails on has error and answer."""
    with cancellation.obeyed():
        values, failed = _parsed(table, parse, task)
    if failed:
        for name, wrong in (("error", failed), ("finish_reason", dict.fromkeys(failed, "error"))):
            if name in table.column_names:
                column = table.column(name).to_pylist()
                column = [wrong.get(i, value) for i, value in enumerate(column)]
                at = table.column_names.index(name)
                table = table.set_column(at, table.schema.field(at), pa.array(column, pa.string()))
        if monitor is not None:
            _tell(monitor, table.num_rows, failed)
    return columns.with_values(table, values)


def _parsed(table: pa.Table, parse: ParseAnswer, task: Task) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The columns of each row, and errors by row."""
    names = [name for name in table.column_names if name not in run_columns.OF_THE_RUN]
    rows = columns.rows(table.select([name for name in names if name not in task.schema.names]))
    answers = table.select(task.schema.names).to_pylist()
    of_none = [False] * len(rows)  # markers of finished rows
    if run_columns.FINISHED_IDS in table.column_names:
        of_none = table.column(run_columns.FINISHED_IDS).is_valid().to_pylist()
    values: list[dict[str, Any]] = [{} for _ in rows]
    failed = {}
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if of_none[i] or answer["error"] is not None:
            continue
        taken = {*row, *task.schema.names}
        try:
            values[i] = run_columns.checked_columns(parse(row, answer), taken)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # the user's code may end a process; Ray would start the next for this row
            failed[i] = f"parse_answer: {one_line(problem, named=not isinstance(problem, run_columns.NoColumns))}"
    return values, failed


def _tell(monitor: Any, rows: int, failed: dict[int, str]) -> None:
    """The replica has told of these rows as answered."""
    import ray

    stats = RowStats(Counts(failed=len(failed)), finish_reasons=Counter({"error": len(failed)}))
    for error in failed.values():
        failures.count(stats.errors, error)
    # The same name where Ray runs the task again, so that its rows count once.
    which = hashlib.blake2b(repr((rows, failed)).encode("utf-8", "replace"), digest_size=8).hexdigest()
    block = f"{ray.get_runtime_context().get_task_id()}-{which}"
    ray.wait([monitor.delivers.remote("", block, stats.plain())], timeout=ANSWERS_WITHIN_S)
