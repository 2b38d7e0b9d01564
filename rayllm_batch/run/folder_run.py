"""A run: every row is answered once, in memory or into a folder."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.data import columns
from rayllm_batch.data.column_types import has_nested_integers
from rayllm_batch.data.data_files import format_of
from rayllm_batch.data.row_id import ID_BYTES, RowCounts
from rayllm_batch.errors import DatasetError, OutputError
from rayllm_batch.measures import failures
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.output import run_columns
from rayllm_batch.output.finished_rows import Asked, FinishedRows
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_writer import PartWriter
from rayllm_batch.run import pipeline
from rayllm_batch.run.execution import Execution
from rayllm_batch.run.monitor import start_monitor
from rayllm_batch.run.plan import Plan
from rayllm_batch.run.preflight import Ready
from rayllm_batch.run.session import explained
from rayllm_batch.run.survey import Survey, are_asked_the_same, survey
from rayllm_batch.show import last_words

if TYPE_CHECKING:
    import ray.data

log = logging.getLogger("rayllm_batch")

WITNESSES = 64  # of the first rows, which are looked at before a folder is continued


def run_in_memory(execution: Execution) -> ray.data.Dataset:
    began = time.time()
    ready, plan = execution.preflight()
    rows = ready.rows
    execution.begin(began, plan.engines[0])
    say(plan.chosen(rows.total))
    say(rows.task.legend)
    try:
        result = execution.execute(
            plan, rows.carried(), rows.exact_total, ready.token, lambda answers: answers.materialize()
        )
    finally:
        metrics = execution.measure()
    result, mixed = columns.settled(result)
    if mixed:
        print(f"The values of {', '.join(mixed)} are of several kinds: the Dataset has them as Python objects.")
    print(last_words.of_memory(result.count(), metrics.failed, metrics, metrics.errors, _invalid(metrics)))
    return run_columns.tell_failed(result, metrics.failed)


def _invalid(metrics: object) -> list[str]:
    """Lines of the invalid answers and the truncated texts of a run, if there was one."""
    if not isinstance(metrics, RunMetrics):
        return []
    invalid = last_words.of_invalid(metrics.invalid_answers, metrics.reasks, metrics.mended)
    return [*invalid, *last_words.of_truncated(metrics.truncated)]


class FolderRun:
    """A run into a folder, which may have some of the answers.

    retry_failed, changed: see RayLLMBatch.run.
    """

    def __init__(
        self, execution: Execution, folder: OutputFolder, id_column: Optional[str], retry_failed: bool, changed: str
    ) -> None:
        self._execution, self._folder, self._id_column = execution, folder, id_column
        self._retry_failed, self._changed = retry_failed and bool(folder.failed_rows), changed
        self._keep_order = execution.options.preserve_order
        self._forgotten = 0  # failed rows that are not in the data any more

    def run(self) -> ray.data.Dataset:
        folder = self._folder
        if folder.complete and folder.same_rows and not folder.changed and not self._retry_failed:
            self._execution.begin(time.time(), self._execution.options.replica_range[0])
            self._execution.metrics = RunMetrics()
            self._say_last("all were there, and nothing was to run.")
            if self._keep_order and not folder.has_order:
                print("It was completed without preserve_order, so its rows are not in the order of reading.")
        else:
            self._answer()
        if folder.as_text:
            names = ", ".join(folder.as_text)
            print(f"Parquet has no type for the values of {names}: the files have JSON text, the Dataset the values.")
        return run_columns.tell_failed(folder.dataset(), folder.failed_rows)

    def _answer(self) -> None:
        execution, folder = self._execution, self._folder
        began = time.time()
        ready, plan = execution.preflight(self._id_column, folder)
        token, rows, total = ready.token, ready.rows.carried(), ready.rows.exact_total
        folder_job = {"with_row_ids": True, "id_column": self._id_column}
        execution.begin(began, plan.engines[0])
        # Whether anything is left to do, before an engine starts for it, where that is not known.
        redo, kept, asked = b"", None, folder.asked()
        maybe_done = not folder.same_rows if folder.complete else total is not None and total <= folder.rows
        # Those that failed may be gone, and then there is nothing to retry.
        maybe_done |= self._retry_failed and total is not None and total < folder.rows
        if found := self._survey(ready, asked, maybe_done, **folder_job):
            redo = bytes(found.changed) if self._changed == "redo" else redo
            kept = bool(found.changed) and not redo if found.compared else None
            self._forgotten = folder.forget_failed(found.known.take_out)
            self._retry_failed = self._retry_failed and bool(folder.failed_rows)
            if not found.new and not redo and not self._retry_failed:
                folder.accept(kept)
                execution.metrics = RunMetrics()
                return self._complete(found.order, found.known, folder.rows)
            total = found.new + folder.rows  # of the whole folder
        if self._retry_failed or redo:
            folder.run_again(failed=self._retry_failed, ids=redo)
        if self._retry_failed or redo or self._forgotten:
            asked = folder.asked()
        folder.accept(kept)
        before = FinishedRows(asked.rows)
        already = folder.rows
        del asked, found  # eight bytes a row and more
        if already:
            print(f"{already:,} rows are in {folder.given} already: continuing with the rest.")
            total = None if total is None else max(total - already, 0)
        say(plan.chosen(total))
        say(ready.rows.task.legend)
        finished = before.counts if already else None
        order = self._compute(plan, rows, total, token, before=before, finished=finished, **folder_job)
        self._complete(order, before, already)

    def _compute(
        self,
        plan: Plan,
        rows: ray.data.Dataset,
        total: Optional[int],
        token: str,
        *,
        before: FinishedRows,
        finished: Optional[RowCounts],
        **folder_job: Any,
    ) -> bytearray:
        """Every row that is not finished, into the folder. Returns the ids of all in their order, if that is kept."""
        execution, folder, order = self._execution, self._folder, bytearray()
        try:
            with PartWriter(folder, self._id_column) as writer:

                def write(answers: ray.data.Dataset) -> None:
                    for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
                        seen = table.column(run_columns.FINISHED_IDS)
                        before.saw(b"".join(seen.drop_null().to_pylist()))
                        if run_columns.ORDER in table.column_names:
                            order.extend(b"".join(table.column(run_columns.ORDER).drop_null().to_pylist()))
                        writer.add(run_columns.without_markers(table))

                execution.execute(
                    plan, rows, total, token, write, finished=finished, keep_order=self._keep_order, **folder_job
                )
                if owed := before.owed():
                    if self._id_column is not None:
                        raise DatasetError(
                            f"id_column={self._id_column!r} is not unique: {len(owed):,} values come more than once."
                        )
                    execution.execute(plan, pipeline.pick(rows, owed), sum(owed.values()), token, write, **folder_job)
        except BaseException:
            print(f"{folder.rows:,} rows are in {folder.given}. Run the same again to continue from there.", flush=True)
            raise
        finally:
            if (metrics := execution.measure()).rows:  # else an earlier run's say more
                folder.write_metrics(metrics.to_dict())
                self._keep_report()
        return order

    def _keep_report(self) -> None:
        """So that `rayllm-batch report` can make the page later. The answers are good without: it only warns."""
        try:
            self._folder.write_beside("report.json", self._execution.report().to_json())
        except Exception as error:  # what is shown of a workload's fields is its author's code
            log.warning("What a report needs cannot be kept: %s.", error)

    def _complete(self, order: bytearray, before: FinishedRows, already: int) -> None:
        """Every row of the data is in the folder. order: their ids, if they are to keep it."""
        folder = self._folder
        try:
            forgotten = folder.forget_failed(before.take_out)
            if order:
                folder.write_order(memoryview(order + before.missing_ids()))
            folder.merge_small()
            folder.write_manifest("complete")
        except OSError as error:
            raise OutputError(
                f"All {folder.rows:,} rows are in {folder.given!r}, but its manifest cannot be written: {error}. Make "
                "room, and run the same again."
            ) from None
        already, self._forgotten = already - forgotten, self._forgotten + forgotten
        if already or self._forgotten:
            gone = int(before.missing().sum())
            rows = folder.rows - already, already - gone, gone
            by_us = bool(folder.job.rows)
            print("\n".join(last_words.of_known(*rows, failed_and_gone=self._forgotten, from_file=by_us)))
        self._say_last(self._execution.metrics if folder.rows > already else "there was nothing to run.")

    def _say_last(self, took: object) -> None:
        folder, config = self._folder, self._execution.config
        typed = "parsed" in (folder.schema.names if folder.schema else ())
        files = getattr(self._execution.workload, "dataset_file", None)
        print(
            last_words.of_folder(
                folder.rows,
                folder.failed_rows,
                took,
                failures.counted(folder.errors()),
                path=folder.given,
                output_format=folder.format,
                alike=folder.alike,
                id_column=folder.has_as_is(self._id_column),
                answer_column="parsed" if typed else config.task_kind.answer_column,
                invalid=_invalid(took),
                of_csv=isinstance(files, str) and format_of(files) == "csv",
                nested_integers=any(has_nested_integers(field.type) for field in folder.schema or ()),
            )
        )

    def _are_asked_the_same(self, ready: Ready, asked: Asked, **folder_job: Any) -> bool:
        """Whether the first rows are, if that is known without a task, which takes Ray Data some seconds."""
        config = self._execution.config
        tokenizer = config.engine_kwargs.get("tokenizer") or ready.facts.folder
        if ready.rows.with_media or tokenizer is None and not config.engine_kind.tokenizes:
            return False
        job = replace(self._execution.prompt_job(None, **folder_job), tokenizer=str(tokenizer or ""))
        tables = ready.rows.at_hand(WITNESSES)
        return bool(tables) and are_asked_the_same(tables, asked, job)

    def _survey(self, ready: Ready, asked: Asked, all_ids: bool, **folder_job: Any) -> Optional[Survey]:
        """Which rows are new; and, where other things may be asked now, what becomes of those that are finished.

        None where nothing speaks for either: the code is the same, the first rows are asked the same, and all_ids, to
        know which rows are new, is not wanted.
        """
        import ray

        execution, folder, rows = self._execution, self._folder, ready.rows
        if not folder.rows:
            return None
        # Rows that are known by an id may have other values; nor does code show what parse_row reads from a file.
        by_id = self._id_column is not None and not folder.same_rows and not folder.kept
        if self._id_column is not None and (twice := int((asked.rows.counts > 1).sum())):
            raise OutputError(
                f"The output folder {folder.given!r} holds {twice:,} ids of {self._id_column!r} more than once, as if "
                "folders had been merged. Move the files of one of them away, or give another output_path."
            )
        parse = by_id or bool(folder.changed)
        look = not parse and not folder.kept and not self._are_asked_the_same(ready, asked, **folder_job)
        if not (look or parse or all_ids):
            return None
        monitor = start_monitor(execution.env_vars(ready.token))
        job = execution.prompt_job(monitor, **folder_job)
        try:
            if look and survey(rows.carried(WITNESSES), asked, job, parse=True, with_media=rows.with_media).changed:
                folder.changed = ["its code is the same, but not what parse_row makes of the first rows"]
                parse = True
            if not parse and not all_ids:
                return None
            how = {"keep_order": self._keep_order, "with_media": rows.with_media}
            found = survey(rows.carried(), asked, job, parse=parse, **how)
        except BaseException as error:
            raise explained(error, None) from None
        finally:
            ray.kill(monitor)
        if found.unread:
            print(
                f"{found.unread:,} answered rows have media that cannot be read now: their answers stay. One: "
                f"{found.why}"
            )
        if folder.changed or found.changed:
            self._say_what_changed(found, asked.unknown - folder.failed_rows)
        return found

    def _say_what_changed(self, found: Survey, unknown: int) -> None:
        """And what becomes of the answers; raises OutputError where that is to be decided.

        unknown: the answers of which it is not known what was asked.
        """
        folder, other = self._folder, len(found.changed) // ID_BYTES
        answered, what = folder.rows - folder.failed_rows, "workload is" if folder.changed else "data is"
        why = in_short(folder.changed) or "rows with the same ids have other values"
        if unknown > 0:
            print(
                f"What was asked for {unknown:,} answers is not known, the folder is of an earlier version: they stay."
            )
        numbers = (
            f"of {answered:,} answered rows {found.compared - other:,} are asked the same as before, "
            f"{other:,} something else"
        )
        if found.changed and self._changed == "refuse":
            raise OutputError(
                f"The {what} not what it was when the rows in {folder.given!r} were answered ({why}), and {numbers}. "
                'Say what happens to the latter: run(..., changed="keep") (--changed keep) keeps their answers, '
                'changed="redo" computes them again. Or give another output_path.'
            )
        then = {"keep": " and keep their answers", "redo": " and run again"}.get(self._changed, "")
        print(f"The {what} not what it was ({why}): {numbers}{then}.")


def in_short(differing: list[str]) -> str:
    """Of differences, the first; of code, that it differs."""
    said = [text if not text.startswith("code of") else text.partition(" was ")[0] for text in differing]
    return "; ".join(said[:3]) + ("; ..." if len(said) > 3 else "")


def say(text: str) -> None:
    if text:
        print(text, flush=True)
