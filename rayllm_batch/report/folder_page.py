"""The report of an output folder, from the folder alone: all its rows, and its last run as far as that was kept."""

from __future__ import annotations

from collections import Counter
from typing import Optional

from rayllm_batch.errors import OutputError, one_line
from rayllm_batch.measures import failures
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.measures.row_stats import RowStats, bin_of
from rayllm_batch.output.folder_view import FolderView
from rayllm_batch.report.page import FolderFigures, page, shown
from rayllm_batch.report.run_report import RunReport, metrics_of

NOT_KEPT = "how full the engines were over time, the slowest rows and the engine's resolved settings"


def folder_page(view: FolderView, run: Optional[RunReport] = None) -> str:
    """run: one that has just ended, into this folder; else its last one is told of, as far as it was kept. So it is
    beside one that computed nothing.

    Raises OutputError where there are no rows, or some cannot be read.
    """
    if not view.rows:
        raise OutputError(f"There are no answers in {view.given!r} yet: its report can be made once a part is written.")
    state = f"{view.state}, last written {view.updated}" if view.updated else view.state
    figures = FolderFigures(view.given, view.rows, view.failed_rows, state, None)
    if run is not None:
        figures.this_run, figures.is_this_run = _of_this_run(view, run), run.metrics.rows > 0
    if run is None or not run.metrics.rows:
        kept = _kept(view, is_needed=run is None)
        run, figures.left_out = (kept, "") if kept else _without(view)
    elif run.metrics.rows > view.rows:  # it was cut short: some of its rows were not written
        return page(**vars(run), folder=figures)
    if figures.left_out or (run.metrics.rows, run.metrics.failed) != (view.rows, view.failed_rows):
        figures.stats = stats_of(view)
    try:
        return page(**vars(run), folder=figures)
    except (ValueError, ArithmeticError) as error:  # numbers that no run has
        raise _unreadable(view, error) from None


def _of_this_run(view: FolderView, run: RunReport) -> str:
    """What it did beside what was there already; "" of one that answered all rows of the folder."""
    rows, failed, ended = run.metrics.rows, run.metrics.failed, run.history.ended
    if rows >= view.rows:
        return ""
    did = f"This run computed {rows:,} of the {view.rows:,} rows in the folder, and {failed:,} of these failed."
    if not rows:
        why = f"it did not finish ({ended})" if ended else "all rows were in the folder before it"
        did = f"This run computed nothing: {why}."
    elif ended:
        did = f"This run did not finish ({ended}). {did}"
    if (earlier := view.failed_rows - failed) > 0:
        did += f" {earlier:,} row(s) failed in earlier runs; retry_failed=True (--retry-failed) runs them again."
    return did


def _kept(view: FolderView, is_needed: bool) -> Optional[RunReport]:
    content = view.beside("report.json")
    try:
        return RunReport.from_json(content) if content else None
    except ValueError as error:
        if not is_needed:
            return None
        raise _unreadable(view, error) from None


def _unreadable(view: FolderView, error: Exception) -> OutputError:
    return OutputError(
        f"_rayllm_batch/report.json in {view.given!r} cannot be read ({one_line(error)}): it is of another version, or "
        "was changed. Without that file the report has what the rows themselves tell."
    )


def _without(view: FolderView) -> tuple[RunReport, str]:
    """Of a folder by a version that kept less, or whose driver was killed."""
    job = view.manifest.job.settings if view.manifest else {}
    settings = {"Job": [(name, shown(name, value)) for name, value in job.items()]}
    title, content = job.get("model_id", "Answers"), view.beside("metrics.json")
    try:
        metrics = metrics_of(content) if content else None
    except ValueError:
        metrics = None
    left_out = NOT_KEPT if metrics else f"when and how fast its rows were answered, {NOT_KEPT}"
    return RunReport(title, metrics or RunMetrics(), History(began=0.0), RowStats(), settings, "engines"), left_out


def stats_of(view: FolderView) -> RowStats:
    """Counts, lengths, finish reasons and errors of all rows. A table of a part is in memory at a time."""
    import pyarrow.compute as pc

    stats = RowStats()
    stats.counts.rows, stats.counts.failed = view.rows, view.failed_rows
    for columns in view.columns(("num_input_tokens", "num_generated_tokens", "finish_reason", "error")):
        counted = {
            name: Counter({one["values"]: one["counts"] for one in pc.value_counts(values).to_pylist()})
            for name, values in columns.items()
        }
        _add_lengths(stats.input_lengths, counted.get("num_input_tokens", Counter()))
        _add_lengths(stats.output_lengths, counted.get("num_generated_tokens", Counter()))
        stats.counts.input_tokens += _total(counted.get("num_input_tokens", Counter()))
        stats.counts.output_tokens += _total(counted.get("num_generated_tokens", Counter()))
        for reason, rows in counted.get("finish_reason", Counter()).items():
            stats.finish_reasons[reason or "no request"] += rows
        for error, rows in counted.get("error", Counter()).items():
            if error is not None:
                failures.count(stats.errors, error, rows)
    return stats


def _add_lengths(lengths: Counter[int], counted: Counter[Optional[int]]) -> None:
    for length, rows in counted.items():
        if length:  # of a row that failed before its prompt was there, 0
            lengths[bin_of(length)] += rows


def _total(counted: Counter[Optional[int]]) -> int:
    return sum((length or 0) * rows for length, rows in counted.items())
