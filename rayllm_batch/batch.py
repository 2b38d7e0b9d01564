"""RayLLMBatch: one workload, one engine configuration, one run."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Optional, Union

from rayllm_batch import cluster, columns, last_words, output, pipeline, preview, report, warm
from rayllm_batch.chat import Defaults
from rayllm_batch.config import EngineConfig, EnvVars, init_engine_from_config
from rayllm_batch.display import show
from rayllm_batch.errors import ConfigError, DatasetError, OutputError, RayLLMBatchError
from rayllm_batch.estimate import Estimate, estimate
from rayllm_batch.fingerprint import describe_job
from rayllm_batch.history import History
from rayllm_batch.metrics import RunMetrics
from rayllm_batch.monitor import start_monitor
from rayllm_batch.output_folder import FinishedRows, OutputFolder
from rayllm_batch.part_writer import PartWriter
from rayllm_batch.plan import Plan, lengths_of, make_plan
from rayllm_batch.preflight import Ready, preflight
from rayllm_batch.prometheus import Prometheus
from rayllm_batch.prompt import PromptJob
from rayllm_batch.replica import ReplicaJob
from rayllm_batch.row_id import RowCounts
from rayllm_batch.rows import Rows
from rayllm_batch.sampling import excluded_by
from rayllm_batch.session import Session, explained
from rayllm_batch.survey import Survey, survey
from rayllm_batch.termination import heeding
from rayllm_batch.warm import WarmEngines
from rayllm_batch.workload import ChatWorkloadBase, check_workload, sampling_params

if TYPE_CHECKING:
    import ray.data

CHANGED = ("refuse", "keep", "redo")
WITNESSES = 64  # of the first rows, which are looked at before a folder is continued

log = logging.getLogger("rayllm_batch")


class RayLLMBatch:
    """Run a workload's rows through `num_replicas` engines.

    engine_config: what `init_engine_from_config` returns (also spelled `engine_cfg=`).
    workload:      an instance of ChatWorkloadBase or of anything with its methods.
    batch_size:    rows a block: what one task carries to an engine, and what is computed again when an engine
                   dies. It does not bound what the engine batches. None chooses it, and with it, where the config does
                   not say, max_num_seqs and whether two engines share a GPU; a line says what was chosen.
    num_replicas:  copies of the model side by side, each on its own GPUs (with engines_per_gpu, so many on each GPU); they
                   start together. (least, most) starts with `least` and adds others, up to `most`, while rows wait and the
                   cluster has GPUs free.
    preserve_order: rows come out in the order in which they were read.
    stall_timeout_s: seconds without a sign of life after which a replica is started again, and then the run ended; None
                   waits for ever. An answer of many thousand tokens is not a stall, its engine steps show.
    deduplicate:   rows with equal prompts and settings are computed once a replica where temperature is 0, which makes
                   their answers equal; each row gets its answer. False computes each.
    reorder:       rows whose prompts begin alike reach the engine one after the other, which saves it work on what is
                   in its prefix cache. False, or preserve_order, leaves them in the order in which they are read.
    verbose:       what Ray Data and the engines say comes to the screen too. Else it is in files; a line says where.
    """

    def __init__(
        self,
        engine_config: Union[EngineConfig, Mapping[str, Any], str, os.PathLike, None] = None,
        workload: Optional[ChatWorkloadBase] = None,
        batch_size: Optional[int] = None,
        num_replicas: Union[int, tuple[int, int]] = 1,
        *,
        engine_cfg: Union[EngineConfig, Mapping[str, Any], str, os.PathLike, None] = None,
        preserve_order: bool = False,
        stall_timeout_s: Optional[float] = 1800.0,
        deduplicate: bool = True,
        reorder: bool = True,
        verbose: bool = False,
    ) -> None:
        if engine_config is not None and engine_cfg is not None:
            raise ConfigError("engine_config= and engine_cfg= are two names of one argument: give one of them.")
        given = engine_config if engine_config is not None else engine_cfg
        if given is None or workload is None:
            raise ConfigError(
                "RayLLMBatch needs engine_config= (from init_engine_from_config) and workload=, for example "
                "RayLLMBatch(engine_config=engine, workload=CNNDailySummary())."
            )
        check_workload(workload)
        least, most = num_replicas if isinstance(num_replicas, (tuple, list)) and len(num_replicas) == 2 else (num_replicas,) * 2
        for name, value in (("batch_size", batch_size), ("num_replicas", least), ("num_replicas", most)):
            if value is None and name == "batch_size":
                continue
            _check_whole(name, value)
        if least > most:
            raise ConfigError(f"num_replicas=(least, most) must not have least above most, given {num_replicas!r}.")
        self._replica_range = (least, most)
        if stall_timeout_s is not None and not stall_timeout_s > 0:
            raise ConfigError(f"stall_timeout_s must be above 0 seconds, or None, given {stall_timeout_s!r}.")
        self.stall_timeout_s = stall_timeout_s
        self.deduplicate, self.reorder = deduplicate, reorder
        self.engine_config = init_engine_from_config(given)
        self.workload = workload
        self._defaults()
        self.batch_size = batch_size
        self.num_replicas = num_replicas
        self.preserve_order = preserve_order
        self.verbose = verbose
        self.metrics: Optional[RunMetrics] = None  # of the last run
        self._estimate: Optional[Estimate] = None  # the latest
        self._history = History()
        self._replicas: dict[str, dict[str, Any]] = {}

    @heeding
    def run(
        self,
        output_path: Union[str, os.PathLike, None] = None,
        *,
        output_format: str = "parquet",
        id_column: Optional[str] = None,
        retry_failed: bool = False,
        changed: str = "refuse",
    ) -> ray.data.Dataset:
        """Answer every row, once, and return them: a Dataset that can be read many times without computing again.

        It has the input columns and `generated_text`, `num_input_tokens`, `num_generated_tokens`,
        `finish_reason` ("stop", "length", "repetition", or "error") and `error` (null, or what failed in which stage). A failed
        row's `generated_text` is null. One input row gives one output row. Order is not kept unless `preserve_order` is set;
        rows read from a folder then come answered ones first.

        Input columns of every Arrow type come out with the values that came in. One whose values are of several kinds, such as
        numbers in one file and text in the next, has Python objects. Of such a column, and of one for which parquet has no
        type, a parquet file has JSON text, and the Dataset the values; a jsonl file has JSON. Where JSON has no such value,
        it is text: bytes base64, NaN "NaN", a date "2024-01-02".

        output_path:   a local folder or a URI (s3://, gs://). Rows are written there as they finish, and the result is
                       read from there, so that memory does not grow with the job. The same call on a folder that is
                       not complete continues: finished rows are not computed again. On a complete one no engine starts.
                       Rows that are new, of further files or a larger dataset_fraction, are answered; those that are not in
                       the data any more keep their answers. The settings that decide answers must be those of before.
        output_format: "parquet" or "jsonl".
        id_column:     a column whose values are unique, to tell one row from another; else all its content does.
        retry_failed:  with an output_path, run those rows again that have an error, as the workload asks now.
        changed:       where the workload's code or fields are not those of before, or the first rows are asked something else, or
                       rows are known by their ids and the data is not that of before, the finished rows are parsed again,
                       without an engine, and compared. What happens where something else would be asked: "refuse" raises OutputError,
                       "keep" keeps these answers, "redo" computes them again.

        Raises ClusterError, DatasetError, WorkloadError, ModelAccessError or OutputError before an engine starts, and
        EngineError when the engine does not start or keeps dying; it carries the engine's last words.
        """
        if output_path is None:
            if id_column is not None or retry_failed or changed != "refuse":
                raise ConfigError("id_column=, retry_failed= and changed= say how a folder is continued: give output_path= too.")
            cluster.connect(self.verbose)
            return self._run_in_memory()
        if changed not in CHANGED:
            raise ConfigError(f"changed= must be one of {', '.join(map(repr, CHANGED))}, given {changed!r}.")
        job = describe_job(self.engine_config, self.workload, id_column)
        with OutputFolder(output_path, job, output_format) as folder:
            for name in folder.set_aside:
                log.warning("%s was not complete; it is set aside in %s, and its rows are run again.", name, folder.inside("set_aside"))
            cluster.connect(self.verbose)
            retry_failed = retry_failed and bool(folder.failed_rows)
            if folder.complete and folder.same_rows and not folder.changed and not retry_failed:
                self._begin(time.time(), self._replica_range[0])
                self.metrics = RunMetrics()
                self._say_last(folder, "all were there, and nothing was to run.", id_column)
                if self.preserve_order and not folder.has_order:
                    print("It was completed without preserve_order, so its rows are not in the order in which they were read.")
            else:
                self._run_to_folder(folder, id_column, retry_failed, changed)
            if folder.as_text:
                print(f"Parquet has no type for the values of {', '.join(folder.as_text)}: the files have them as JSON text, the Dataset as they are.")
            return output.tell_failed(folder.dataset(), folder.failed_rows)

    def get_avg_engine_time_per_replica(self) -> float:
        """Seconds during which an engine had work, averaged over the replicas of the last run. Start-up is not in it."""
        if self.metrics is None:
            raise RayLLMBatchError("There is no engine time yet: call run() first.")
        return self.metrics.engine_s

    @staticmethod
    def project_1m_token_time(total_tokens: float, elapsed_time: float, engine_time: float) -> float:
        """Seconds that one million tokens would take.

        The fixed overhead, `elapsed_time - engine_time`, stays; `engine_time` is scaled from `total_tokens` (input
        and output) to 1,000,000.
        """
        if not total_tokens > 0:
            raise ValueError(f"total_tokens must be above 0, given {total_tokens!r}.")
        return (elapsed_time - engine_time) + engine_time * 1_000_000 / total_tokens

    @heeding
    def check(
        self, output_path: Union[str, os.PathLike, None] = None, *, output_format: str = "parquet", id_column: Optional[str] = None
    ) -> None:
        """Look for everything that can be known to be wrong before an engine starts, as `run` does first.

        The cluster's GPUs and CPUs, the versions on its nodes, access to the model, its size against the GPU's memory
        and the disk, its chat template, the dataset, and parse_row on its first rows. With the arguments that `run` will get,
        the output folder too: whether it can be written, is this job's, and has room. Raises the error found, or
        PreflightError with all of them.
        """
        place: AbstractContextManager[Optional[OutputFolder]] = nullcontext()
        if output_path is not None:
            place = OutputFolder(output_path, describe_job(self.engine_config, self.workload, id_column), output_format)
        with place as folder:
            cluster.connect(self.verbose)
            ready, plan = self._preflight(id_column, folder)
            rows = ready.rows
            there = f", {folder.rows:,} of them answered in {folder.given}" if folder and folder.rows else ""
            _say(plan.chosen(rows.total))
            if ready.unanswered:
                tried = len(rows.chats) + len(rows.failed)
                print(f"{len(ready.unanswered)} of the first {tried} rows cannot be answered. The first: {ready.unanswered[0]}")
            if folder and folder.rows and folder.changed:
                print(
                    f"The workload is not what it was when they were answered ({_in_short(folder.changed)}): run() finds out, without "
                    "an engine, whether something else is asked now."
                )
            print(f"Ready to run: {rows}{there}, {self.num_replicas} replica(s) of {self.engine_config.model_id}. {cluster.free()}")

    @heeding
    def preview(self, n: int = 8) -> None:
        """Run the first `n` rows and show them: the prompt as the model sees it, the answer, its tokens, or the error.

        The engines stay ready for ten minutes, so that a run that follows does not start them again, unless its config or
        num_replicas is another. They hold their GPUs meanwhile; `release()` ends them. Raises what `run` raises.
        """
        _check_whole("preview(n=...)", n)
        cluster.connect(self.verbose)
        ready, plan = self._preflight()
        rows = ready.rows.carried(n).take_batch(n, batch_format="pyarrow")
        with self._engines(ready, plan, rows.num_rows) as (engines, run_id):
            answered = warm.ask(engines.hosts[0], "preview", run_id, rows)
        show(preview.as_html(answered), preview.as_text(answered))

    @heeding
    def estimate(self, sample_rows: int = 64, gpu_hour_usd: Optional[float] = None) -> Estimate:
        """What the whole job will take: rows, tokens, time, GPU-hours, and what bounds it; an object to print.

        sample_rows:  rows that are tried, from all over the dataset's first SPREAD_OVER rows. On a large job each is tried
                      several times, until the engine is as full as the job will keep it.
        gpu_hour_usd: the price of one GPU for an hour; the estimate then has the cost.

        The engines stay ready, as with `preview`. Raises what `run` raises, and DatasetError where every tried row failed.
        """
        import ray

        _check_whole("estimate(sample_rows=...)", sample_rows)
        if gpu_hour_usd is not None and not 0 <= gpu_hour_usd < math.inf:
            raise ConfigError(f"estimate(gpu_hour_usd=...) must be a price of at least 0, or None, given {gpu_hour_usd!r}.")
        cluster.connect(self.verbose)
        ready, plan = self._preflight()
        total = ready.rows.exact_total or ready.rows.dataset.count()
        table = pipeline.sample(ready.rows.carried(pipeline.SPREAD_OVER), total, sample_rows)
        with self._engines(ready, plan, None) as (engines, run_id):
            replicas, gpus = max(len(engines.hosts), plan.engines[0]), plan.config.gpus_per_replica
            cpus = max(0.1, ray.cluster_resources().get("CPU", 1) - replicas * cluster.cpus_per_replica(replicas, gpus))
            sample, max_num_seqs, start_s = warm.ask(engines.hosts[0], "sample", run_id, table, total / replicas)
        if not sample.input_tokens:
            raise DatasetError(f"Each of the {len(sample.failed)} rows that were tried failed. The first: {sample.failed[0]}")
        self._estimate = estimate(
            sample, rows=total, num_replicas=replicas, gpus_per_replica=gpus,
            accelerator_type=self.engine_config.accelerator_type, max_num_seqs=max_num_seqs, cpus=cpus, start_s=start_s,
            gpu_hour_usd=gpu_hour_usd,
        )  # fmt: skip
        return self._estimate

    @staticmethod
    def release() -> None:
        """End the engines that preview() or estimate() left ready, and free their GPUs. Also done by the next run."""
        warm.release()

    def report(self, path: Union[str, os.PathLike] = "report.html") -> str:
        """Show what the last run did, in a notebook, and write it as one HTML file, which needs no network.

        Were the engines full, what failed and why, tokens/s over time, lengths, the slowest rows, settings and versions;
        also of a run that failed or was interrupted. path: the file, replaced if it is there. Returns its whole path.

        Raises RayLLMBatchError before any run, and when the file cannot be written.
        """
        run = {
            "num_replicas": self.num_replicas, "batch_size": self.batch_size or "chosen", "preserve_order": self.preserve_order,
            "deduplicate": self.deduplicate, "reorder": self.reorder, "stall_timeout_s": self.stall_timeout_s,
        }  # fmt: skip
        return report.show_and_save(
            path, self.engine_config, self.workload, run=run, metrics=self.metrics, history=self._history, replicas=self._replicas
        )

    def _defaults(self) -> Defaults:
        """What every row's request begins with, as the workload has it now; raises WorkloadError."""
        excluded = excluded_by(self.engine_config.engine_kwargs)
        return Defaults(sampling_params(self.workload, excluded=excluded), excluded)

    def _begin(self, began: float, engines: int) -> None:
        """Nothing of an earlier run is left in what this one is measured by."""
        self._replicas, self._history = {}, History(engines, began)

    def _measure(self, folder: Optional[OutputFolder] = None) -> None:
        """What the run did so far, also one that failed; beside its answers too, if they are in a folder."""
        self.metrics = RunMetrics.of(self._replicas, time.time() - self._history.began, self._history)
        if folder:
            folder.write_metrics(self.metrics.to_dict())
        if self._estimate is not None and self._estimate.rows == self.metrics.rows:  # all of them, in one run
            print(self._estimate.beside(self.metrics.elapsed_s, self.metrics.start_s))

    def _preflight(self, id_column: Optional[str] = None, folder: Optional[OutputFolder] = None) -> tuple[Ready, Plan]:
        pipeline.ship_by_value(self.workload)  # before a task is sent: to look at the rows may take some
        config = self.engine_config
        engines = self._replica_range[0] * config.engines_per_replica
        defaults = self._defaults()
        ready = preflight(config, self.workload, engines, self.preserve_order, id_column, folder=folder, defaults=defaults)
        lengths = lengths_of(ready.rows.chats, defaults.sampling_params, ready.facts.tokenizer_file)
        plan = make_plan(config, ready.facts, self._replica_range, batch_size=self.batch_size, total=ready.rows.total, lengths=lengths)
        if plan.engines[0] != engines:
            cluster.check(plan.config, plan.engines[0])
        return ready, plan

    def _run_in_memory(self) -> ray.data.Dataset:
        began = time.time()
        ready, plan = self._preflight()
        self._begin(began, plan.engines[0])
        _say(plan.chosen(ready.rows.total))
        try:
            result = self._execute(plan, ready.rows.carried(), ready.rows.exact_total, ready.token, lambda answers: answers.materialize())
        finally:
            self._measure()
        result, mixed = columns.settled(result)
        if mixed:
            print(f"The values of {', '.join(mixed)} are of several kinds: the Dataset has them as Python objects.")
        print(last_words.of_memory(result.count(), self.metrics.failed, self.metrics, self.metrics.errors))
        return output.tell_failed(result, self.metrics.failed)

    def _run_to_folder(self, folder: OutputFolder, id_column: Optional[str], retry_failed: bool, changed: str) -> None:
        began = time.time()
        ready, plan = self._preflight(id_column, folder)
        token, rows, total = ready.token, ready.rows.carried(), ready.rows.exact_total
        folder_job = {"with_row_ids": True, "id_column": id_column}
        self._begin(began, plan.engines[0])
        # Whether anything is left to do, before an engine starts for it, where that is not known.
        redo = b""
        maybe_done = not folder.same_rows if folder.complete else total is not None and total <= folder.rows
        if found := self._survey(folder, token, ready.rows, changed, maybe_done and not retry_failed, **folder_job):
            redo = found.changed if changed == "redo" else redo
            if not found.new and not redo and not retry_failed:
                folder.accept(bool(found.changed) if found.compared else None)
                self.metrics = RunMetrics()
                return self._complete(folder, found.order, found.known, folder.rows, id_column)
            total = found.new + folder.rows  # of the whole folder
        folder.run_again(failed=retry_failed, ids=redo)
        folder.accept(None if found is None or not found.compared else bool(found.changed) and not redo)
        before = FinishedRows(folder.finished())
        already = folder.rows
        order: list[bytes] = []
        if already:
            print(f"{already:,} rows are in {folder.given} already: continuing with the rest.")
            total = None if total is None else max(total - already, 0)
        _say(plan.chosen(total))
        writer = PartWriter(folder, id_column)
        try:
            with writer:

                def write(answers: ray.data.Dataset) -> None:
                    for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
                        finished = table.column(output.FINISHED_IDS)
                        before.saw(b"".join(finished.drop_null().to_pylist()))
                        if output.ORDER in table.column_names:
                            order.extend(table.column(output.ORDER).drop_null().to_pylist())
                        writer.add(output.without_markers(table))

                finished = before.counts if folder.rows else None
                self._execute(plan, rows, total, token, write, finished=finished, keep_order=self.preserve_order, **folder_job)
                if owed := before.owed():
                    if id_column is not None:
                        raise DatasetError(f"id_column={id_column!r} is not unique: {len(owed):,} values come more than once.")
                    self._execute(plan, pipeline.pick(rows, owed), sum(owed.values()), token, write, **folder_job)
        except BaseException:
            print(f"{writer.rows:,} rows are in {folder.given}. Run the same again to continue from there.", flush=True)
            raise
        finally:
            self._measure(folder)
        self._complete(folder, order, before, already, id_column)

    def _complete(
        self, folder: OutputFolder, order: list[bytes], before: FinishedRows, already: int, id_column: Optional[str]
    ) -> None:
        """Every row of the data is in the folder. order: their ids, if they are to keep it."""
        try:
            if order:
                folder.write_order(b"".join(order) + before.missing_ids())
            folder.write_manifest("complete", folder.rows, folder.failed_rows)
        except OSError as error:
            raise OutputError(
                f"All {folder.rows:,} rows are in {folder.given!r}, but its manifest cannot be written: {error}. Make room, and run "
                "the same again."
            ) from None
        if already:
            gone = before.missing()
            print(
                f"{folder.rows - already:,} rows are new, {already - gone:,} were known, {gone:,} are gone"
                + (" from the data and keep their answers (or does load_dataset read other rows each time?)." if gone else ".")
            )
        self._say_last(folder, self.metrics if folder.rows > already else "there was nothing to run.", id_column)

    @staticmethod
    def _say_last(folder: OutputFolder, took: object, id_column: Optional[str]) -> None:
        errors = last_words.counted(folder.errors())
        where = {"path": folder.given, "output_format": folder.format, "alike": folder.alike, "id_column": folder.has_as_is(id_column)}
        print(last_words.of_folder(folder.rows, folder.failed_rows, took, errors, **where))

    def _survey(self, folder: OutputFolder, token: str, rows: Rows, changed: str, all_ids: bool, **folder_job: Any) -> Optional[Survey]:
        """Which rows are new; and, where other things may be asked now, what becomes of those that are finished.

        None where nothing speaks for either: the code is the same, a few rows are asked the same, and all_ids is not wanted.
        """
        import ray

        if not folder.rows:
            return None
        # Rows that are known by an id may have other values; nor does code show what parse_row reads from a file.
        by_id = folder_job["id_column"] is not None and not folder.same_rows and not folder.kept
        asked = folder.asked()
        if folder_job["id_column"] is not None and (twice := int((asked.rows.counts > 1).sum())):
            raise OutputError(
                f"The output folder {folder.given!r} holds {twice:,} ids of {folder_job['id_column']!r} more than once, as if "
                "folders had been merged. Move the files of one of them away, or give another output_path."
            )
        monitor = start_monitor(self._env_vars(token))
        job = self._prompt_job(monitor, **folder_job)
        try:
            if not folder.changed and not by_id and not folder.kept and survey(rows.carried(WITNESSES), asked, job, parse=True).changed:
                folder.changed = ["its code is the same, but not what parse_row makes of the first rows"]
            if not folder.changed and not by_id and not all_ids:
                return None
            found = survey(rows.carried(), asked, job, parse=bool(folder.changed or by_id), keep_order=self.preserve_order)
        except BaseException as error:
            raise explained(error, None, self.workload) from None
        finally:
            ray.kill(monitor)
        if not folder.changed and not found.changed:
            return found
        answered, why = folder.rows - folder.failed_rows, _in_short(folder.changed) or "rows with the same ids have other values"
        if asked.unknown > folder.failed_rows:
            print(f"What was asked for {asked.unknown - folder.failed_rows:,} answers is not known, the folder is of an earlier version: they stay.")
        numbers = f"of {answered:,} answered rows {found.compared - found.num_changed:,} are asked the same as before, {found.num_changed:,} something else"
        what = "workload is" if folder.changed else "data is"
        if found.changed and changed == "refuse":
            raise OutputError(
                f"The {what} not what it was when the rows in {folder.given!r} were answered ({why}), and {numbers}. Say what happens "
                'to the latter: run(..., changed="keep") (--changed keep) keeps their answers, changed="redo" computes them again. Or give '
                "another output_path."
            )
        print(f"The {what} not what it was ({why}): {numbers}{dict(keep=' and keep their answers', redo=' and run again').get(changed, '')}.")
        return found

    def _execute(
        self, plan: Plan, rows: ray.data.Dataset, total: Optional[int], token: str,
        consume: Callable[[ray.data.Dataset], Any], **prompt_job: Any,
    ) -> Any:  # fmt: skip
        """Run the pipeline for as long as `consume` reads its answers; every engine has ended when this returns."""
        engines = _kept_engines(plan, total)
        session = self._session(plan, self._job(plan, token, engines, **prompt_job), engines)
        job = session.job
        try:
            answers = pipeline.answers(rows, job, plan, total, warm=engines is not None)
            with (
                Prometheus(job.run_id, self.engine_config.model_id) as prometheus,
                session.watched(total, self._history.observe, prometheus.observe),
            ):
                result = consume(answers)
        except BaseException as error:
            failure = explained(error, self._saw(session.end()), self.workload)
            self._history.end(failure)
            raise failure from None
        self._saw(session.end())
        return result

    @contextmanager
    def _engines(self, ready: Ready, plan: Plan, total: Optional[int]) -> Iterator[tuple[WarmEngines, str]]:
        """Running engines and the id of a run with them, for something small before the run that uses them next."""
        least, most = plan.engines
        engines = _kept_engines(plan, ready.rows.total)
        job = self._job(plan, ready.token, engines)
        if engines is None:
            engines = warm.start(plan.config, job, least if least == most else 1, plan.blocks_in_flight(ready.rows.total))
        session = self._session(plan, job, engines)
        try:
            with session.watched(total):
                yield engines, job.run_id
        except BaseException as error:
            raise explained(error, session.end(), self.workload) from None
        if least == most:
            warm.keep(engines)
        else:  # a range of replicas is Ray Data's to start and to end
            session.end()

    def _session(self, plan: Plan, job: ReplicaJob, engines: Optional[WarmEngines]) -> Session:
        return Session(job, engines, plan.engines[0], self.stall_timeout_s, self.verbose)

    def _job(
        self, plan: Plan, token: str, engines: Optional[WarmEngines], finished: Optional[RowCounts] = None, **folder_job: Any
    ) -> ReplicaJob:
        import ray

        monitor = engines.monitor if engines else start_monitor(self._env_vars(token))
        job = ReplicaJob(
            run_id=uuid.uuid4().hex[:8],
            config=dataclasses.replace(plan.config, env_vars=EnvVars()),
            sampling_params=self._defaults().sampling_params,
            # put after _preflight's ship_by_value: workers lack its class
            prompt=self._prompt_job(monitor, finished=None if finished is None else ray.put(finished), **folder_job),
            monitor=monitor,
            deduplicate=self.deduplicate,
            pinned=frozenset(name for name, value in self.engine_config.engine_kwargs.items() if value is not None),
        )
        if engines:
            engines.begin(job)
        return job

    def _env_vars(self, token: str) -> dict[str, str]:
        return {**self.engine_config.env_vars, **({"HF_TOKEN": token} if token else {})}

    def _prompt_job(self, monitor: Any, **folder_job: Any) -> PromptJob:
        config = self.engine_config
        kwargs = config.engine_kwargs
        tokenizer_kwargs = {"trust_remote_code": kwargs["trust_remote_code"]} if kwargs.get("trust_remote_code") else {}
        if revision := kwargs.get("tokenizer_revision") or kwargs.get("revision"):
            tokenizer_kwargs["revision"] = revision
        return PromptJob(
            parse_row=self.workload.parse_row,
            tokenizer=kwargs.get("tokenizer") or config.model_id,
            tokenizer_kwargs=tokenizer_kwargs,
            monitor=monitor,
            chat_template=config.chat_template,
            chat_template_kwargs=config.chat_template_kwargs,
            defaults=self._defaults(),
            sort=self.reorder and not self.preserve_order,
            **folder_job,
        )

    def _saw(self, snapshot: Optional[dict[str, Any]]) -> Optional[dict[str, Any]]:
        """The run's last second."""
        if snapshot:
            self._replicas.update(snapshot["replicas"])
            self._history.observe(snapshot)
        return snapshot


def _kept_engines(plan: Plan, total: Optional[int]) -> Optional[WarmEngines]:
    """Engines that preview() or estimate() left running, if they suit; others are ended, since they have the GPUs."""
    least, most = plan.engines
    return warm.take(plan.config, least if least == most else 0, plan.blocks_in_flight(total))


def _in_short(differing: list[str]) -> str:
    """Of differences, the first; of code, that it differs."""
    said = [text if not text.startswith("code of") else text.partition(" was ")[0] for text in differing]
    return "; ".join(said[:3]) + ("; ..." if len(said) > 3 else "")


def _say(text: str) -> None:
    if text:
        print(text, flush=True)


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, given {value!r}.")
