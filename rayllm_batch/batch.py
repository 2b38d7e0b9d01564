"""RayLLMBatch: one workload, one engine configuration, one run."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional, Union

from rayllm_batch import cluster, output
from rayllm_batch.config import EngineConfig, EnvVars, init_engine_from_config
from rayllm_batch.errors import (
    ConfigError,
    DatasetError,
    EngineError,
    HubUnavailableError,
    RayLLMBatchError,
    WorkloadError,
)
from rayllm_batch.hub import check_model_access, find_token
from rayllm_batch.monitor import RunMonitor
from rayllm_batch.progress import Progress
from rayllm_batch.prompt import PromptJob, build_prompts, describe_parse_error, parse
from rayllm_batch.replica import Replica, ReplicaJob
from rayllm_batch.workload import ChatWorkloadBase, check_workload

if TYPE_CHECKING:
    import ray.data

log = logging.getLogger("rayllm_batch")

# Rows read on the driver before any engine starts: parse_row is tried on the first PARSED_ROWS of them, and a job
# that ends within them is a small one, whose size is then known.
SAMPLE_ROWS = 256
PARSED_ROWS = 8
MAX_BATCH_SIZE = 64
# Requests in flight a replica, over max_num_seqs: enough that blocks which wait for their last row, and rows on
# their way, never leave the engine short.
IN_FLIGHT_RATIO = 3
LARGE_MEMORY = ("H100", "H200", "B200", "MI300X", "A100")  # where vLLM's own default is up to 1,024 sequences


class RayLLMBatch:
    """Run a workload's rows through `num_replicas` engines.

    engine_config: what `init_engine_from_config` returns (also spelled `engine_cfg=`).
    workload:      an instance of ChatWorkloadBase or of anything with its methods.
    batch_size:    rows a block: what one task carries to an engine, and what is computed again when an engine
                   dies. It does not bound what the engine batches. None chooses it.
    num_replicas:  engines side by side, each on its own GPUs; they start together.
    preserve_order: rows come out in the order in which they were read.
    """

    def __init__(
        self,
        engine_config: Union[EngineConfig, Mapping[str, Any], str, os.PathLike, None] = None,
        workload: Optional[ChatWorkloadBase] = None,
        batch_size: Optional[int] = None,
        num_replicas: int = 1,
        *,
        engine_cfg: Union[EngineConfig, Mapping[str, Any], str, os.PathLike, None] = None,
        preserve_order: bool = False,
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
        for name, value in (("batch_size", batch_size), ("num_replicas", num_replicas)):
            if value is None and name == "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, given {value!r}.")
        self.engine_config = init_engine_from_config(given)
        self.workload = workload
        self.batch_size = batch_size
        self.num_replicas = num_replicas
        self.preserve_order = preserve_order
        self._replicas: dict[str, dict[str, Any]] = {}

    def run(self) -> ray.data.Dataset:
        """Answer every row, once, and return them: a Dataset that can be read many times without computing again.

        It has the input columns and `generated_text`, `num_input_tokens`, `num_generated_tokens`,
        `finish_reason` ("stop", "length", "abort", or "error") and `error` (null, or what failed in which stage).
        One input row gives one output row. Order is not kept unless `preserve_order` is set.

        Raises ClusterError, DatasetError, WorkloadError or ModelAccessError before an engine starts, and
        EngineError when the engine does not start or keeps dying; it carries the engine's last words.
        """

        began = time.time()
        cluster.connect()
        cluster.check(self.engine_config, self.num_replicas)
        token = hub_token(self.engine_config)
        rows, total = self._rows()
        job = self._job(token)
        self._replicas = {}
        try:
            answered = self._answers(rows, total, job)
            with Progress(job.monitor, self.num_replicas, total):
                result = answered.materialize()
        except BaseException as error:
            failure = self._end(job)
            raise self._explained(error, failure) from None
        self._end(job)
        self._summarise(result.count(), time.time() - began)
        return result

    def get_avg_engine_time_per_replica(self) -> float:
        """Seconds during which an engine had work, averaged over the replicas of the last run. Start-up is not in it."""
        times = [r["engine_s"] for r in self._replicas.values() if r.get("rows")]
        if not times:
            raise RayLLMBatchError("There is no engine time yet: call run() first.")
        return sum(times) / len(times)

    @staticmethod
    def project_1m_token_time(total_tokens: float, elapsed_time: float, engine_time: float) -> float:
        """Seconds that one million tokens would take.

        The fixed overhead, `elapsed_time - engine_time`, stays; `engine_time` is scaled from `total_tokens` (input
        and output) to 1,000,000.
        """
        if not total_tokens > 0:
            raise ValueError(f"total_tokens must be above 0, given {total_tokens!r}.")
        return (elapsed_time - engine_time) + engine_time * 1_000_000 / total_tokens

    def _rows(self) -> tuple[ray.data.Dataset, Optional[int]]:
        """The workload's rows, limited, with parse_row tried on the first; and their number where it is known for free."""
        import ray.data

        rows = self.workload.load_dataset()
        name = type(self.workload).__name__
        if not isinstance(rows, ray.data.Dataset):
            raise WorkloadError(
                f"{name}.load_dataset must return a ray.data.Dataset, but returned a {type(rows).__name__}. "
                "ray.data.from_items, from_pandas and from_huggingface make one."
            )
        cluster.quiet(rows.context)
        fraction, limit = getattr(self.workload, "dataset_fraction", 1.0), None
        if fraction > 1:
            limit = int(fraction)
        elif fraction < 1:
            limit = max(1, math.ceil(fraction * rows.count()))
        if limit is not None:
            rows.context.execution_options.preserve_order = True  # else "the first rows" are whichever come first
            rows = rows.limit(limit)
        if self.preserve_order:
            rows.context.execution_options.preserve_order = True
        try:
            sample = rows.take(SAMPLE_ROWS)
        except Exception as error:
            raise self._explained(error, None) from None
        if not sample:
            raise DatasetError(f"The dataset of {name} has no rows.")
        output.check_input_columns(list(sample[0]))
        self._try_parse_row(sample[:PARSED_ROWS])
        if len(sample) < SAMPLE_ROWS:
            return rows, len(sample)
        if limit is None and isinstance(rows, ray.data.dataset.MaterializedDataset):
            return rows, rows.count()
        return rows, limit

    def _try_parse_row(self, sample: list[dict[str, Any]]) -> None:
        problems = []
        for row in sample:
            try:
                parse(self.workload.parse_row, row)
            except Exception as error:
                problems.append(describe_parse_error(error, row))
        if len(problems) == len(sample):  # a few bad rows get their error column; all of them, and the code is wrong
            raise WorkloadError(
                f"{type(self.workload).__name__}.parse_row fails on each of the first {len(sample)} row(s). "
                f"The first: {problems[0]}"
            )

    def _job(self, token: str) -> ReplicaJob:
        import ray

        config = self.engine_config
        run_id = uuid.uuid4().hex[:8]
        _ship_by_value(self.workload)
        env_vars = {**config.env_vars, **({"HF_TOKEN": token} if token else {})}
        monitor = ray.remote(num_cpus=0)(RunMonitor).remote(env_vars)
        kwargs = config.engine_kwargs
        tokenizer_kwargs = {"trust_remote_code": kwargs["trust_remote_code"]} if kwargs.get("trust_remote_code") else {}
        if revision := kwargs.get("tokenizer_revision") or kwargs.get("revision"):
            tokenizer_kwargs["revision"] = revision
        prompt = PromptJob(
            parse_row=self.workload.parse_row,
            tokenizer=kwargs.get("tokenizer") or config.model_id,
            tokenizer_kwargs=tokenizer_kwargs,
            monitor=monitor,
            chat_template=config.chat_template,
            chat_template_kwargs=config.chat_template_kwargs,
        )
        return ReplicaJob(
            run_id=run_id,
            config=dataclasses.replace(config, env_vars=EnvVars()),
            sampling_params=dict(getattr(self.workload, "sampling_params", {})),
            prompt=prompt,
            monitor=monitor,
        )

    def _answers(self, rows: ray.data.Dataset, total: Optional[int], job: ReplicaJob) -> ray.data.Dataset:

        batch_size = self.batch_size or _batch_size(total, self.num_replicas)
        blocks_in_flight = max(2, math.ceil(_requests_in_flight(self.engine_config) / batch_size))
        if total is not None:  # else the replica that is ready first takes all rows of a small job
            blocks_in_flight = min(blocks_in_flight, max(2, math.ceil(total / batch_size / self.num_replicas)))
        # One fused CPU stage: read, prompts, and a repartition that bounds the blocks.
        prompts = rows.map_batches(
            build_prompts, fn_kwargs={"job": job.prompt}, batch_format="pyarrow", batch_size=max(batch_size, 128)
        ).repartition(target_num_rows_per_block=batch_size)
        return prompts.map_batches(
            Replica,
            fn_constructor_kwargs={"job": job},
            batch_format="pyarrow",
            batch_size=batch_size,
            **self._placement(blocks_in_flight),
        )

    def _placement(self, blocks_in_flight: int) -> dict[str, Any]:
        """What map_batches needs to give every replica its GPUs and its concurrent blocks."""
        import ray.data

        pool: dict[str, Any] = {
            "size": self.num_replicas,
            # half as many again wait in the actor's queue, so that a finished block's place is taken at once
            "max_tasks_in_flight_per_actor": blocks_in_flight + (blocks_in_flight + 1) // 2,
            "enable_true_multi_threading": True,
        }
        gpus = self.engine_config.gpus_per_replica
        remote: dict[str, Any] = {"num_cpus": cluster.cpus_per_replica(self.num_replicas, gpus)}
        if gpus:
            remote["num_gpus"] = gpus
            if self.engine_config.accelerator_type != cluster.ANY_GPU:
                remote["accelerator_type"] = self.engine_config.accelerator_type
        if "max_concurrent_calls_per_actor" in inspect.signature(ray.data.ActorPoolStrategy.__init__).parameters:
            pool["max_concurrent_calls_per_actor"] = blocks_in_flight
        else:  # before Ray 2.60
            remote["max_concurrency"] = blocks_in_flight
        return {"compute": ray.data.ActorPoolStrategy(**pool), **remote}

    def _end(self, job: ReplicaJob) -> Optional[str]:
        """End every replica of this run and its engine processes; returns what the monitor knows of a failure."""
        import ray

        try:
            snapshot = ray.get(job.monitor.snapshot.remote(), timeout=10)
            actors = ray.get(job.monitor.actors.remote(), timeout=10)
        except Exception:
            return None
        self._replicas = snapshot["replicas"]
        for actor in actors:
            try:
                ray.kill(actor)
            except Exception:
                pass
        _wait_gone([r["reaper_pid"] for r in self._replicas.values() if r.get("node") == ray.util.get_node_ip_address()])
        ray.kill(job.monitor)
        return snapshot["failure"]

    def _explained(self, error: BaseException, failure: Optional[str]) -> BaseException:
        """The error that the user should see in place of one from Ray's inside."""
        if isinstance(error, (KeyboardInterrupt, SystemExit, RayLLMBatchError)):
            return error
        if failure:
            return EngineError(failure)
        cause: Optional[BaseException] = error
        while cause is not None:
            inner = getattr(cause, "cause", None) or cause.__cause__
            if isinstance(cause, RayLLMBatchError):
                return cause
            cause = inner if inner is not cause else None
        return error

    def _summarise(self, rows: int, elapsed_s: float) -> None:
        replicas = self._replicas.values()
        failed, tokens_in, tokens_out = (sum(r.get(k, 0) for r in replicas) for k in ("failed", "input_tokens", "output_tokens"))
        busy = max((r.get("engine_s", 0.0) for r in replicas), default=0.0)
        started = max((r.get("start_s", 0.0) for r in replicas), default=0.0)
        print(
            f"{rows:,} rows, {failed:,} failed, {tokens_in:,} input and {tokens_out:,} output tokens in {elapsed_s:.1f} s "
            f"(engine start {started:.1f} s, generating {busy:.1f} s: {tokens_out / busy if busy else 0:,.0f} output tokens/s)"
        )


def hub_token(config: EngineConfig) -> str:
    """The token that opens the model, "" when none is needed; ModelAccessError before anything waits for a GPU.

    The config's own token comes first, then HF_TOKEN and huggingface_hub's store.
    """
    try:
        if config.hf_token:
            check_model_access(config.model_id, config.hf_token, source="the HF_TOKEN of the config")
            return config.hf_token
        return find_token(config.model_id)
    except HubUnavailableError as error:
        # The workers may have the model in their cache. Where they do not, they raise the same.
        log.warning("%s", error)
        return config.hf_token or ""


def _batch_size(total: Optional[int], num_replicas: int) -> int:
    """Small jobs get small blocks, so that every replica has several."""
    if total is None:
        return MAX_BATCH_SIZE
    return max(1, min(MAX_BATCH_SIZE, total // (8 * num_replicas)))


def _requests_in_flight(config: EngineConfig) -> int:
    max_num_seqs = config.engine_kwargs.get("max_num_seqs") or (1024 if config.accelerator_type in LARGE_MEMORY else 256)
    return IN_FLIGHT_RATIO * max_num_seqs


def _ship_by_value(workload: Any) -> None:
    """Send this package's code, and the workload's, along with the job: worker nodes need Ray and vLLM, no more.

    Classes of a notebook or script travel by value anyway; those of a module beside it would be imported by name, which
    a worker elsewhere cannot. What is installed (site-packages) is taken to be installed on the workers too.
    """
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules["rayllm_batch"])
    for cls in type(workload).__mro__:
        module = sys.modules.get(cls.__module__)
        file = getattr(module, "__file__", None)
        if file and cls.__module__ != "__main__" and not file.startswith((sys.prefix, sys.base_prefix)):
            cloudpickle.register_pickle_by_value(module)


def _wait_gone(pids: list[int], timeout_s: float = 20.0) -> None:
    """Wait until the reapers on this node are gone: each ends after the last engine process of its replica."""
    import psutil

    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.Error:
            pass
    psutil.wait_procs(processes, timeout=timeout_s)
