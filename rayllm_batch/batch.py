"""RayLLMBatch: one workload, one engine configuration, one run."""

from __future__ import annotations

import copy
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union, cast

from rayllm_batch.cluster import connect, resources
from rayllm_batch.config import EngineConfig, init_engine_from_config
from rayllm_batch.display import show
from rayllm_batch.errors import ConfigError, DatasetError, OutputError, RayLLMBatchError, WorkloadError
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.output import dataset_card
from rayllm_batch.output.fingerprint import describe_job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.folder_view import FolderView
from rayllm_batch.output.hub_folder import HubFolder, files_of, is_hub, replaced_in, write_shards
from rayllm_batch.output.run_columns import failed_of
from rayllm_batch.report.comparison import Compared, Comparison
from rayllm_batch.report.estimate import Estimate, estimate
from rayllm_batch.report.folder_page import folder_page
from rayllm_batch.report.html_file import save
from rayllm_batch.report.page import page
from rayllm_batch.run import pipeline, warm
from rayllm_batch.run.execution import Execution
from rayllm_batch.run.folder_run import FolderRun, in_short, run_in_memory, say
from rayllm_batch.run.options import RunOptions, check_switch, check_whole
from rayllm_batch.secret import Secret
from rayllm_batch.show import preview
from rayllm_batch.termination import heeding
from rayllm_batch.workload import ChatWorkloadBase, check_workload

if TYPE_CHECKING:
    import ray.data

log = logging.getLogger("rayllm_batch")

CHANGED = ("refuse", "keep", "redo")
GIVEN, OF_CONFIG = "the token given", "the HF_TOKEN of the config"
SAMPLE_ROWS = 64  # that an estimate tries


class RayLLMBatch:
    """Run a workload's rows through `num_replicas` engines.

    engine_config: what `init_engine_from_config` returns (also spelled `engine_cfg=`).
    workload:      an instance of ChatWorkloadBase or of anything with its methods.
    batch_size:    rows a block: what one task carries to an engine, and what is computed again when an engine
                   dies. It does not bound what the engine batches. None chooses it, and with it, where the config does
                   not say, max_num_seqs and whether two engines share a GPU; a line says what was chosen.
    num_replicas:  copies of the model side by side, each on its own GPUs (with engines_per_gpu, so many on each GPU);
                   they start together. (least, most) starts with `least` and adds others, up to `most`, while rows
                   wait and the cluster has GPUs free.
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
        self.options = RunOptions(
            batch_size=batch_size,
            num_replicas=num_replicas,
            preserve_order=preserve_order,
            stall_timeout_s=stall_timeout_s,
            deduplicate=deduplicate,
            reorder=reorder,
            verbose=verbose,
        )
        self.engine_config = init_engine_from_config(given)
        self.workload = workload
        self._execution = Execution(self.engine_config, workload, self.options)
        self._estimate: Optional[Estimate] = None  # the latest
        self._answers: Any = None  # of the last run: its Dataset, or _folder's arguments
        self._written: Union[str, os.PathLike, None] = None  # the folder of the last run, also of one that failed

    @property
    def metrics(self) -> Optional[RunMetrics]:
        """Of the last run; None before any."""
        return self._execution.metrics

    @heeding
    def run(
        self,
        output_path: Union[str, os.PathLike, None] = None,
        *,
        output_format: str = "parquet",
        id_column: Optional[str] = None,
        retry_failed: bool = False,
        changed: str = "refuse",
        work_folder: Union[str, os.PathLike, None] = None,
    ) -> ray.data.Dataset:
        """Answer every row, once, and return them: a Dataset that can be read many times without computing again.

        It has the input columns and `generated_text`, `num_input_tokens`, `num_generated_tokens`, `finish_reason`
        ("stop", "length", "repetition", or "error"; null where a rollout asked nothing) and `error` (null, or what
        failed in which stage). A failed row's `generated_text` is null. The tasks embed, classify and score have
        `embedding`, `label` and `probabilities`, or `score` and `scores` in place of these. One input row gives one
        output row. Order is not kept unless
        `preserve_order` is set; rows read from a folder then come answered ones first.

        Input columns of every Arrow type come out with the values that came in. One whose values are of several kinds,
        such as numbers in one file and text in the next, has Python objects. Of such a column, and of one for which
        parquet has no type, a parquet file has JSON text, and the Dataset the values; a jsonl file has JSON. Where
        JSON has no such value, it is text: bytes base64, NaN "NaN", a date "2024-01-02".

        output_path:   a local folder or a URI (s3://, gs://). Rows are written there as they finish, and the result is
                       read from there, so that memory does not grow with the job. The same call on a folder that is
                       not complete continues: finished rows are not computed again. On a complete one no engine starts.
                       Rows that are new, of further files or a larger dataset_fraction, are answered; those that are
                       not in the data any more keep their answers, or are set aside where they failed. The settings
                       that decide answers must be those of before.
                       Or hf://datasets/owner/name[@branch][/folder]: the run works in work_folder, and its files are
                       pushed when it is complete; the dataset is made, private, where there is none. The same call
                       continues, also a push, and on another machine from what was pushed.
        output_format: "parquet" or "jsonl".
        id_column:     a column whose values are unique, to tell one row from another; else all its content does.
        retry_failed:  with an output_path, run those rows again that have an error, as the workload asks now.
        changed:       where the workload's code or fields are not those of before, or the first rows are asked
                       something else, or rows are known by their ids and the data is not that of before, the finished
                       rows are parsed again, without an engine, and compared. What happens where something else would
                       be asked: "refuse" raises OutputError, "keep" keeps these answers, "redo" computes them again.
        work_folder:   of an output_path on the Hub, the folder that has the rows meanwhile, and keeps them; else one in
                       huggingface_hub's home, HF_HOME.

        Raises ClusterError, DatasetError, WorkloadError, ModelAccessError or OutputError before an engine starts, and
        EngineError when the engine does not start or keeps dying; it carries the engine's last words.
        """
        if output_path is None and (id_column is not None or retry_failed or changed != "refuse"):
            raise ConfigError(
                "id_column=, retry_failed= and changed= say how a folder is continued: give output_path= too."
            )
        check_switch("retry_failed=", retry_failed)
        if changed not in CHANGED:
            raise ConfigError(f"changed= must be one of {', '.join(map(repr, CHANGED))}, given {changed!r}.")
        self._answers = self._written = None
        if output_path is None:
            if work_folder is not None:
                raise ConfigError("work_folder= is for an output_path on the Hugging Face Hub: give output_path= too.")
            connect(self.options.verbose)
            result = self._answers = run_in_memory(self._execution)
        else:
            hub = self._on_hub(output_path, id_column, work_folder)
            output_path = self._written = output_path if hub is None else hub.folder
            with self._folder(output_path, output_format, id_column) as folder:
                for name in folder.set_aside:
                    aside = folder.place.inside("set_aside")
                    log.warning("%s was not complete; it is set aside in %s, and its rows are run again.", name, aside)
                connect(self.options.verbose)
                result = FolderRun(self._execution, folder, id_column, retry_failed, changed).run()
                if hub is not None:
                    self._push_folder(hub, folder)
            self._answers = output_path, output_format, id_column
        metrics, said = self.metrics, self._estimate
        if said is not None and metrics is not None and said.rows == metrics.rows:  # all of the job, in one run
            print(said.beside(metrics.elapsed_s, metrics.start_s))
        return result

    @heeding
    def push_to_hub(
        self, repo_id: str, *, private: bool = True, overwrite: bool = False, token: Optional[str] = None
    ) -> str:
        """Push the last run's answers to a dataset on the Hugging Face Hub. Returns the address of its page.

        repo_id:   "owner/name", made if it is not there, or hf://datasets/owner/name[@branch][/folder].
        private:   of a dataset that is made now.
        overwrite: replace what is in it, where that is not this job's. Else it is refused.
        token:     one that may write; else HF_TOKEN, or that of huggingface_hub's store.

        What goes there is the run's parts, and a card: README.md with what `datasets.load_dataset` needs, model,
        settings, counts and versions; a card that is there keeps what people wrote into it. The last commit has the
        card: the same call again goes on where one was interrupted, and sends no file twice. Raises OutputError,
        ModelAccessError, and RayLLMBatchError before any run.
        """
        if self._answers is None:
            raise RayLLMBatchError("There are no answers yet to be pushed: call run() first.")
        token = Secret(token or "")  # no traceback shows it
        hub = HubFolder(repo_id, token or self.engine_config.hf_token, source=GIVEN if token else OF_CONFIG)
        how: dict[str, Any] = {"private": private, "overwrite": overwrite}
        if isinstance(self._answers, tuple):
            with self._folder(*self._answers) as folder:
                return self._push_folder(hub, folder, **how)
        job, failed = describe_job(self.engine_config, self.workload, None), failed_of(self._answers) or 0
        with tempfile.TemporaryDirectory() as root:
            files, as_text, rows = write_shards(self._answers, Path(root), job, failed)
            about = dataset_card.told(self.engine_config, job, rows, failed, as_text)
            return _said(hub.push(files, job, about, where="memory, with this object", **how))

    def _push_folder(self, hub: HubFolder, folder: OutputFolder, **how: Any) -> str:
        job = folder.job
        about = dataset_card.told(self.engine_config, job, folder.rows, folder.failed_rows, folder.as_text)
        schema = None if folder.alike else folder.schema
        files, replaced = files_of(folder), replaced_in(folder)
        return _said(hub.push(files, job, about, schema, replaced=replaced, where=folder.given, **how))

    def get_avg_engine_time_per_replica(self) -> float:
        """Seconds during which an engine had work, averaged over the last run's replicas. Start-up is not in it."""
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
        self,
        output_path: Union[str, os.PathLike, None] = None,
        *,
        output_format: str = "parquet",
        id_column: Optional[str] = None,
        work_folder: Union[str, os.PathLike, None] = None,
    ) -> None:
        """Look for everything that can be known to be wrong before an engine starts, as `run` does first.

        The cluster's GPUs and CPUs, the versions on its nodes, access to the model, its size against the GPU's memory
        and the disk, its chat template, the dataset, and parse_row on its first rows. With the arguments that `run`
        will get, the output folder too: whether it can be written, is this job's, and has room. Raises the error found,
        or PreflightError with all of them.
        """
        place: AbstractContextManager[Optional[OutputFolder]] = nullcontext()
        if output_path is not None:
            hub = self._on_hub(output_path, id_column, work_folder, make=False)
            place = self._folder(output_path if hub is None else hub.folder, output_format, id_column)
        with place as folder:
            connect(self.options.verbose)
            ready, plan = self._execution.preflight(id_column, folder)
            rows = ready.rows
            there = f", {folder.rows:,} of them answered in {folder.given}" if folder and folder.rows else ""
            say(plan.chosen(rows.total))
            if failed := ready.unanswered:
                tried = len(rows.chats) + len(rows.failed)
                print(f"{len(failed)} of the first {tried} rows cannot be answered. The first: {failed[0]}")
            if folder and folder.rows and folder.changed:
                print(
                    f"The workload is not what it was when they were answered ({in_short(folder.changed)}): run() "
                    "finds out, without an engine, whether something else is asked now."
                )
            model, replicas = self.engine_config.model_id, self.options.num_replicas
            print(f"Ready to run: {rows}{there}, {replicas} replica(s) of {model}. {resources.free()}")

    @heeding
    def preview(self, n: int = 8) -> None:
        """Run the first `n` rows and show them: the prompt as the model sees it, the answer, its tokens, or the error.

        The engines stay ready for ten minutes, so that a run that follows does not start them again, unless its config
        or num_replicas is another. They hold their GPUs meanwhile; `release()` ends them. Raises what `run` raises.
        """
        check_whole("preview(n=...)", n)
        connect(self.options.verbose)
        ready, plan = self._execution.preflight()
        rows = ready.rows.carried(n).take_batch(n, batch_format="pyarrow")
        with self._execution.engines(ready, plan, rows.num_rows) as (engines, run_id):
            task = ready.rows.task
            answered = warm.ask(engines.hosts[0], "preview", run_id, rows)
        told, column, notes = list(map(task.for_people, answered)), task.answer_column, task.notes(answered)
        show(preview.as_html(told, column, notes), preview.as_text(told, column, notes))

    @heeding
    def estimate(self, sample_rows: int = SAMPLE_ROWS, gpu_hour_usd: Optional[float] = None) -> Estimate:
        """What the whole job will take: rows, tokens, time, GPU-hours, and what bounds it; an object to print.

        sample_rows:  rows that are tried, from all over the dataset's first SPREAD_OVER rows. On a large job each is
                      tried several times, until the engine is as full as the job will keep it.
        gpu_hour_usd: the price of one GPU for an hour; the estimate then has the cost.

        Not in it are answers that have to be asked for again (`reask`). The engines stay ready, as with `preview`.
        Raises what `run` raises, DatasetError where every tried row failed, and WorkloadError for a rollout.
        """
        check_whole("estimate(sample_rows=...)", sample_rows)
        _check_price("estimate", gpu_hour_usd)
        task = self._execution.task()
        if task.has_own_columns:
            raise WorkloadError(
                "estimate() times one request a row, and how often a rollout asks is not known before. Run a part of "
                "the rows with dataset_fraction=100, and take the time of that."
            )
        self._estimate = self._estimated(sample_rows, gpu_hour_usd)
        return self._estimate

    def _estimated(self, sample_rows: int, gpu_hour_usd: Optional[float]) -> Estimate:
        import ray

        connect(self.options.verbose)
        ready, plan = self._execution.preflight()
        total = ready.rows.exact_total or ready.rows.dataset.count()
        table = pipeline.sample(ready.rows.carried(pipeline.SPREAD_OVER), total, sample_rows)
        total = self._execution.planned_rows or total
        with self._execution.engines(ready, plan, None) as (engines, run_id):
            replicas, gpus = max(len(engines.hosts), plan.engines[0]), plan.config.gpus_per_replica
            taken = replicas * resources.cpus_per_replica(replicas, gpus)
            cpus = max(0.1, ray.cluster_resources().get("CPU", 1) - taken)
            sample, max_num_seqs, start_s = warm.ask(engines.hosts[0], "sample", run_id, table, total / replicas)
        if not sample.input_tokens:
            raise DatasetError(
                f"Each of the {len(sample.failed)} rows that were tried failed. The first: {sample.failed[0]}"
            )
        return estimate(
            sample,
            rows=total,
            num_replicas=replicas,
            gpus_per_replica=gpus,
            accelerator_type=self.engine_config.accelerator_type,
            max_num_seqs=max_num_seqs,
            cpus=cpus,
            start_s=start_s,
            gpu_hour_usd=gpu_hour_usd,
            seats=self._execution.prompt_job(None).seats,
            least_s=partial(self.engine_config.engine_kind.least_s, self.engine_config.engine_kwargs),
            tokens_usd=partial(self.engine_config.engine_kind.cost_usd, self.engine_config.engine_kwargs),
        )

    @classmethod
    def compare(
        cls,
        engine_configs: Sequence[Union[EngineConfig, Mapping[str, Any], str, os.PathLike]],
        workload: ChatWorkloadBase,
        rows: int = 200,
        *,
        num_replicas: int = 1,
        gpu_hour_usd: Optional[float] = None,
    ) -> Comparison:
        """Answer the workload's first `rows` rows with each config, one after the other on the same GPUs.

        Returns an object to print, or to leave as a cell's last line: the answers side by side, how often they are the
        same, tokens, and what a million such rows take and cost. `save()` writes it as a page, `to_pandas()` has all of
        it. Each config gets its own check before the first engine starts. Raises what `run` and `estimate` raise, and
        DatasetError where the rows are not the same each time they are read.
        """
        check_whole("compare(rows=...)", rows)
        _check_price("compare", gpu_hour_usd)
        if rows < 2 or len(engine_configs) < 2 or isinstance(engine_configs, (str, Mapping)):
            raise ConfigError("compare() takes a list of at least two configs, and at least two rows.")
        some = copy.copy(workload)
        some.dataset_fraction = rows
        batches = [cls(one, some, num_replicas=num_replicas, preserve_order=True) for one in engine_configs]
        if len({batch.engine_config.task for batch in batches}) > 1:
            raise ConfigError("compare() takes configs of one task: their answers stand side by side.")
        for batch in batches:
            batch._execution.planned_rows = Comparison.MILLION
        connect()
        found = [batch._execution.preflight()[0].rows for batch in batches]  # of all, before the first engine starts
        own = list(dict.fromkeys(name for row in found[0].sample for name in row))
        inputs: list[dict[str, Any]] = []
        compared = []
        for name, batch in zip(_names([batch.engine_config for batch in batches]), batches, strict=True):
            print(f"-- {name}")
            rolls = batch._execution.task().has_own_columns  # how often it asks, nobody knows before
            try:
                said = None if rolls else batch._estimated(SAMPLE_ROWS, gpu_hour_usd)
                answered = batch.run().take_all()
            finally:  # the next one needs its GPUs, and after an error nobody does
                batch.release()
            taken = [{key: row[key] for key in own if key in row} for row in answered]
            if inputs and repr(taken) != repr(inputs):
                raise DatasetError(
                    "compare() got other rows for each config, or in another order: load_dataset must give the same "
                    "rows each time. Without a shuffle, or with a seed, it does."
                )
            inputs, outputs = taken, [{key: row[key] for key in row if key not in own} for row in answered]
            compared.append(Compared(name, outputs, cast(RunMetrics, batch.metrics), said))
        return Comparison(inputs, compared, found[0].task.answer_column, found[0].task.for_people)

    @staticmethod
    def release() -> None:
        """End the engines that preview() or estimate() left ready, and free their GPUs. Also done by the next run."""
        warm.release()

    def report(self, path: Union[str, os.PathLike] = "report.html") -> str:
        """Show what the last run did, in a notebook, and write it as one HTML file, which needs no network.

        Were the engines full, what failed and why, tokens/s over time, lengths, the slowest rows, settings and
        versions; also of a run that failed or was interrupted. path: the file, replaced if it is there. Returns its
        whole path. Of a run into a folder that had rows already, the figures are the folder's, as of `rayllm-batch
        report`, and it says what of them is this run's.

        Raises RayLLMBatchError before any run, when the file cannot be written, and when the folder cannot be read.
        """
        run = self._execution.report()
        is_done = not run.metrics.rows and not run.history.ended  # so all rows are in the folder
        view = None if self._written is None else _with_rows(self._written, is_done)
        return save(page(**vars(run)) if view is None else folder_page(view, run), path, "report")

    def _on_hub(
        self, path: Any, id_column: Optional[str], work_folder: Union[str, os.PathLike, None], make: bool = True
    ) -> Optional[HubFolder]:
        """Looked at, and ready for a run; None for a path that is elsewhere."""
        if not is_hub(path):
            if work_folder is not None:
                raise ConfigError(f"work_folder= is for an output_path on the Hugging Face Hub, given {path!r}.")
            return None
        hub = HubFolder(path, self.engine_config.hf_token, work_folder, OF_CONFIG)
        hub.begin(describe_job(self.engine_config, self.workload, id_column), make)
        return hub

    def _folder(self, path: Union[str, os.PathLike], output_format: str, id_column: Optional[str]) -> OutputFolder:
        return OutputFolder(path, describe_job(self.engine_config, self.workload, id_column), output_format)


def _with_rows(folder: Union[str, os.PathLike], must: bool) -> Optional[FolderView]:
    """None for one without: of a run that failed before it wrote any. must: it has some, or OutputError is raised."""
    try:
        view = FolderView(folder)
    except OutputError:
        if must:
            raise
        return None
    return view if view.rows else None


def _said(page: str) -> str:
    print(f"The answers are on {page}.", flush=True)
    return page


def _check_price(method: str, gpu_hour_usd: Optional[float]) -> None:
    if gpu_hour_usd is not None and not 0 <= gpu_hour_usd < math.inf:
        raise ConfigError(f"{method}(gpu_hour_usd=...) must be a price of at least 0, or None, given {gpu_hour_usd!r}.")


def _names(configs: Sequence[EngineConfig]) -> list[str]:
    """What each is called in a comparison: its model, and where two have one, the settings that are not the same."""
    models = [os.path.basename(config.model_id.rstrip("/")) for config in configs]
    names = []
    for model, config in zip(models, configs, strict=True):
        alike = [one.engine_kwargs for one, its in zip(configs, models, strict=True) if its == model]
        own = [
            f"{key}={value}" for key, value in config.engine_kwargs.items() if any(o.get(key) != value for o in alike)
        ]
        names.append(f"{model} ({', '.join(own)})" if own else model)
    return [f"{name} [{i}]" if names.count(name) > 1 else name for i, name in enumerate(names, start=1)]
