"""The three contenders. Each runs in a process of its own, which `bench.compare` starts:

    python -m bench.contenders NAME JOB.json

For each line on its standard input, the path of a result file, it answers all rows once and writes that file; it ends
with its input. Every contender measures, in seconds:

start_s:  from the request for a run (the first time: from the process's start) until an engine is ready. Imports, Ray
          and compilation are in it. 0 where an engine was there already.
engine_s: the engine's own time over the whole run, ramp and tail included.
            LLM.generate   the call, with all token ids at hand.
            RayLLMBatch    `engine_s` of the replica: time during which at least one request was in the engine.
            ray.data.llm   from the first batch that reached the engine's stage to the last that left it.
wall_s:   from the engine's being ready, with the rows at hand, to the last answer's arrival in the driver: engine_s and
          whatever Ray Data adds (rows not there in time, blocks on their way, the end of the pipeline). An engine that waits
          for rows loses wall_s and not engine_s, so both are looked at.
job_s:    from the request for a run (the first time: from the process's start) to all answers in the caller's hands. None
          of the three hands out an answer earlier, so this is also the time to the first answer. RayLLMBatch ends its
          engines within it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names, not the module: what travels to Ray's workers goes by value, and they have not this folder on their path.
from bench.rows import ROWS_A_BLOCK, WORKLOADS, messages, sampling_params


@dataclass(frozen=True)
class Job:
    """What the contenders share.

    requested_at: when the first run was asked for (seconds since the epoch), before this process was started.
    ours:         engine settings for RayLLMBatch alone, over `engine_kwargs`; the comparison then says what differs.
    batch_size, num_replicas, engines_per_gpu: RayLLMBatch's arguments.
    warm:         RayLLMBatch keeps its engines from one run to the next, as preview() does for the run that follows.
    ray_batch_size, ray_concurrent_batches: ray.data.llm's; chosen so that its engine has more requests than it computes
                  at once.
    """

    workload: str
    model: str
    rows: str
    token_ids: str
    engine_kwargs: dict[str, Any]
    requested_at: float
    ours: dict[str, Any]
    batch_size: int | None = None
    num_replicas: int = 1
    engines_per_gpu: int = 1
    warm: bool = False
    ray_batch_size: int = 64
    ray_concurrent_batches: int = 48

    @property
    def of_ours(self) -> dict[str, Any]:
        """What a table says of RayLLMBatch's settings: those that the others do not have."""
        many = {"num_replicas": self.num_replicas, "engines_per_gpu": self.engines_per_gpu}
        return {**self.ours, **(many if self.engines > 1 else {})}

    @property
    def engines(self) -> int:
        """RayLLMBatch's."""
        return self.num_replicas * self.engines_per_gpu

    @property
    def on_cpu(self) -> bool:
        return WORKLOADS[self.workload].shape == "demo"


class LLMGenerate:
    """The bare engine: one `LLM.generate` call with the token ids of all rows."""

    name = "LLM.generate"

    def __init__(self, job: Job) -> None:
        import pyarrow.parquet as pq
        from vllm import LLM, SamplingParams

        ids = pq.read_table(job.token_ids).to_pylist()
        given = pq.read_table(job.rows).to_pylist()
        self._prompts = [{"prompt_token_ids": row["token_ids"]} for row in ids]
        self._params = [SamplingParams(**sampling_params(row)) for row in given]
        self._ids = [row["id"] for row in given]
        self._llm = LLM(model=job.model, disable_log_stats=True, **job.engine_kwargs)
        self._ready_at = time.time()

    def run(self, requested_at: float) -> dict[str, Any]:
        self._llm.reset_prefix_cache()  # a later run in this process must not find the earlier one's
        began = time.time()
        outputs = self._llm.generate(self._prompts, self._params, use_tqdm=False)
        ended = time.time()
        return result(
            requested_at,
            max(self._ready_at, requested_at),
            ended,
            engine_s=ended - began,
            wall_s=ended - began,
            settings=resolved(self._llm.llm_engine.vllm_config),
            tokens={
                i: (len(o.prompt_token_ids), len(o.outputs[0].token_ids))
                for i, o in zip(self._ids, outputs, strict=True)
            },
            failed=sum(not o.finished for o in outputs),
        )


class Ours:
    """RayLLMBatch. It starts an engine for every run, also where Ray is there already, unless the job says `warm`."""

    name = "RayLLMBatch"

    def __init__(self, job: Job) -> None:
        from rayllm_batch.cluster import connection as cluster_connect

        cluster_connect.connect()
        self._job = job

    def run(self, requested_at: float) -> dict[str, Any]:
        import ray

        from rayllm_batch import RayLLMBatch, init_engine_from_config
        from rayllm_batch.measures.snapshot import Snapshot
        from rayllm_batch.run import session, warm

        job = self._job
        config = init_engine_from_config(
            {
                "model_id": job.model,
                "llm_engine": "vllm",
                "accelerator_type": "CPU" if job.on_cpu else kind_of_gpu(),
                "engine_kwargs": {**job.engine_kwargs, **job.ours},
                "engines_per_gpu": job.engines_per_gpu,
            }
        )
        answered_at: list[float] = []

        end = session.end

        def noted(of: Any, engines: Any) -> Any:
            """Notes when the answers are there: run() ends the engines after that and before it returns."""
            answered_at.append(time.time())
            if not job.warm:
                return end(of, engines)
            warm.keep(engines)
            return Snapshot.of(ray.get(of.monitor.snapshot.remote()))

        session.end = noted
        batch = RayLLMBatch(config, _workload(job), batch_size=job.batch_size, num_replicas=job.num_replicas)
        if job.warm:
            if warm._kept is None:
                batch.preview(1)
            while _ready(warm._kept.monitor) < job.engines:
                time.sleep(0.5)
            began = time.time()
        answered = batch.run()
        ended = time.time()
        replicas = [replica for replica in batch._execution.replicas.values() if replica.state == "ready"]
        ready_at = began if job.warm else min(replica.since + replica.start_s for replica in replicas)
        settings = dict(replicas[0].settings)
        # The replica does not report it; vLLM does not speculate unless asked to.
        settings.setdefault("speculative", (config.engine_kwargs.get("speculative_config") or {}).get("method"))
        got = answered.select_columns(["id", "num_input_tokens", "num_generated_tokens", "error"]).take_all()
        errors = [row["error"] for row in got if row["error"]]
        return result(
            requested_at,
            ready_at,
            ended,
            engine_s=max(replica.busy_s for replica in replicas),
            wall_s=answered_at[0] - ready_at,
            settings=settings,
            tokens={row["id"]: (row["num_input_tokens"], row["num_generated_tokens"]) for row in got},
            failed=len(errors),
            first_error=errors[0] if errors else None,
            replicas=len(batch._execution.replicas),
        )


class RayDataLLM:
    """Ray's own ray.data.llm, with its template, tokenise and detokenise stages."""

    name = "ray.data.llm"

    def __init__(self, job: Job) -> None:
        import ray
        import ray.data

        # Its four stages and their actors take a CPU each, and wait for ever where there are fewer.
        ray.init(
            num_cpus=max(8, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False, logging_level="WARNING"
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._job = job

    def run(self, requested_at: float) -> dict[str, Any]:
        from ray import cloudpickle
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        cloudpickle.register_pickle_by_value(sys.modules["bench.rows"])
        job = self._job
        clock = os.path.join(tempfile.mkdtemp(prefix="bench-"), "clock.json")
        engine_kwargs, extra = dict(job.engine_kwargs), {}
        if job.on_cpu:  # the CPU build refuses the in-process executor, and there is no GPU to ask Ray for
            engine_kwargs["distributed_executor_backend"] = "mp"
            extra["placement_group_config"] = {"bundles": [{"CPU": 1}]}
        processor = build_processor(
            vLLMEngineProcessorConfig(
                model_source=job.model,
                engine_kwargs=engine_kwargs,
                batch_size=job.ray_batch_size,
                max_concurrent_batches=job.ray_concurrent_batches,
                concurrency=1,
                log_engine_metrics=False,
                **extra,
            ),
            preprocess=lambda row: {"messages": messages(row), "sampling_params": sampling_params(row)},
            postprocess=lambda row: {
                "id": row["id"],
                "generated_text": row["generated_text"],
                "num_input_tokens": row["num_input_tokens"],
                "num_generated_tokens": row["num_generated_tokens"],
            },
        )
        stage = processor.stages["vLLMEngineStage"]
        stage.fn = _timed_stage(clock)
        if job.on_cpu:  # setting `fn` validates the stage anew, without the placement that the first time took out
            stage.map_batches_kwargs.pop("num_gpus", None)
        answered = processor(_read(job.rows)).materialize()
        ended = time.time()
        seen = json.loads(Path(clock).read_text(encoding="utf-8"))
        got = answered.select_columns(["id", "num_input_tokens", "num_generated_tokens"]).take_all()
        return result(
            requested_at,
            seen["ready_at"],
            ended,
            engine_s=seen["last"] - seen["first"],
            wall_s=ended - seen["ready_at"],
            settings=seen["settings"],
            tokens={row["id"]: (row["num_input_tokens"], row["num_generated_tokens"]) for row in got},
            failed=0,  # its job fails as a whole
        )


CONTENDERS = {contender.name: contender for contender in (LLMGenerate, Ours, RayDataLLM)}


def result(
    requested_at: float,
    ready_at: float,
    ended_at: float,
    *,
    engine_s: float,
    wall_s: float,
    settings: dict[str, Any],
    tokens: dict[int, tuple[int, int]],
    failed: int,
    **more: Any,
) -> dict[str, Any]:
    """What a result file holds. tokens: input and output tokens of each row, by id."""
    return {
        "rows": len(tokens),
        "failed": failed,
        "input_tokens": sum(i for i, _ in tokens.values()),
        "output_tokens": sum(o for _, o in tokens.values()),
        "start_s": ready_at - requested_at,
        "engine_s": engine_s,
        "wall_s": wall_s,
        "job_s": ended_at - requested_at,
        "ready_at": ready_at,
        "ended_at": ended_at,
        "settings": settings,
        **more,
        "tokens": [[i, *tokens[i]] for i in sorted(tokens)],
    }


def resolved(config: Any) -> dict[str, Any]:
    """The settings of a vLLM configuration that decide how much work it does at once, under the replica's names."""
    scheduler, cache = config.scheduler_config, config.cache_config
    return {
        "max_model_len": config.model_config.max_model_len,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "kv_cache_tokens": (cache.num_gpu_blocks or 0) * cache.block_size or None,
        "quantization": config.model_config.quantization,
        "speculative": config.speculative_config.method if config.speculative_config else None,
        "async_scheduling": getattr(scheduler, "async_scheduling", None),
    }


def kind_of_gpu() -> str:
    """Ray's name of this machine's GPU; any GPU will do where Ray has none for it."""
    import ray

    kinds = [
        name.removeprefix("accelerator_type:")
        for name in ray.cluster_resources()
        if name.startswith("accelerator_type:")
    ]
    return min(kinds, key=len) if kinds else "GPU"


def _ready(monitor: Any) -> int:
    import ray

    from rayllm_batch.measures.snapshot import Snapshot

    return len(Snapshot.of(ray.get(monitor.snapshot.remote())).ready)


def _read(path: str) -> Any:
    import pyarrow.parquet as pq
    import ray.data

    blocks = -(-pq.read_metadata(path).num_rows // ROWS_A_BLOCK)
    return ray.data.read_parquet(path, override_num_blocks=blocks)


def _workload(job: Job) -> Any:
    from rayllm_batch import ChatWorkloadBase

    class Rows(ChatWorkloadBase):
        sampling_params: dict = {"temperature": 0.0, "ignore_eos": True}

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"messages": messages(row), "sampling_params": sampling_params(row)}

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules["bench.rows"])
    return Rows(dataset_file=job.rows)


def _timed_stage(clock: str) -> type:
    """ray.data.llm's engine stage, which also notes when its engine was ready, and its first and last batch."""
    from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

    class TimedStage(vLLMEngineStageUDF):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._seen = {"ready_at": time.time(), "settings": resolved(self.llm.engine.vllm_config)}
            self._note()

        async def udf(self, batch: list[dict[str, Any]]) -> Any:
            self._seen.setdefault("first", time.time())
            async for row in super().udf(batch):
                yield row
            self._seen["last"] = time.time()
            self._note()

        def _note(self) -> None:
            with open(clock, "w", encoding="utf-8") as file:
                json.dump(self._seen, file)

    return TimedStage


def versions() -> dict[str, str]:
    """Read from files: importing vLLM takes seconds, which no contender but the bare engine needs."""
    found = {"python": platform.python_version()}
    for name in ("vllm", "ray", "torch", "transformers"):
        spec = importlib.util.find_spec(name)
        folder = (
            Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else Path()
        )
        files = [folder / file for file in ("_version.py", "version.py", "__init__.py")]
        texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
        numbers = [match[1] for text in texts if (match := re.search(r"""version\w* = ['"](\d[^'"]*)""", text))]
        found[name] = numbers[0] if numbers else "unknown"
    return found


def device(on_cpu: bool) -> str:
    """In words: `NVIDIA H200, 16 CPU cores`."""
    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    if on_cpu:
        return cores
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]  # torch would take memory on the GPU to say it
    gpus = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    return f"{', '.join(gpus)}, {cores}"


def serve(name: str, job: Job, requests: Iterable[str]) -> None:
    """Answer one request a line until there are no more."""
    contender = None
    requested_at = job.requested_at
    about = {"contender": name, "workload": job.workload, "versions": versions()}
    for line in requests:
        if contender is None:
            contender = CONTENDERS[name](job)
        else:
            requested_at = time.time()
        path = Path(line.strip())
        found = {**about, "engine_kwargs": job.engine_kwargs, "ours": job.of_ours, **contender.run(requested_at)}
        found["device"] = device(job.on_cpu)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(path)


def main() -> None:
    name, job = sys.argv[1:]
    serve(name, Job(**json.loads(Path(job).read_text(encoding="utf-8"))), sys.stdin)


if __name__ == "__main__":
    main()
