"""The engine stage: one Ray Data actor a replica, many blocks in flight at once through one engine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch import output
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.base import Engine, EngineDied
from rayllm_batch.engine.echo import EchoEngine
from rayllm_batch.engine.reaper import Reaper
from rayllm_batch.engine.vllm import VLLMEngine
from rayllm_batch.errors import EngineError, WorkloadError
from rayllm_batch.model_files import download_model
from rayllm_batch.output import Answer
from rayllm_batch.prompt import PromptJob, load_decoder
from rayllm_batch.workload import check_sampling_params

REPORT_EVERY_S = 1.0
LAST_WORDS_LINES = 25


@dataclass(frozen=True)
class ReplicaJob:
    """What every replica gets.

    config:          without its environment, which may hold secrets: the monitor has it.
    sampling_params: the workload's; a row's own go over them.
    prompt:          the CPU stage's job (the echo engine needs its tokenizer).
    monitor:         the RunMonitor's handle.
    """

    run_id: str
    config: EngineConfig
    sampling_params: dict[str, Any]
    prompt: PromptJob
    monitor: Any


class Replica:
    """Ray Data builds one in each actor of the pool and calls it with blocks, from several threads at once."""

    def __init__(self, job: ReplicaJob) -> None:
        import ray

        self._job, self._monitor = job, job.monitor
        self._key = uuid.uuid4().hex[:8]
        self._log = _own_log_file(job.run_id, self._key)
        self._reaper = Reaper()
        context = ray.get_runtime_context()
        stop = ray.get(self._monitor.register.remote(self._key, context.current_actor, {
            "node": ray.util.get_node_ip_address(), "pid": os.getpid(), "reaper_pid": self._reaper.pid, "log": self._log,
        }))
        if stop:
            raise EngineError(stop)
        _set_environment(ray.get(self._monitor.environment.remote()), job.config)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True).start()
        self._counts = {"rows": 0, "failed": 0, "input_tokens": 0, "output_tokens": 0}
        self._in_flight, self._busy_since, self._busy_s = 0, 0.0, 0.0
        began = time.time()
        try:
            self._engine: Engine = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException as error:
            message = f"The engine did not start: {error}\n{last_words(self._log)}".rstrip()
            ray.get(self._monitor.failed.remote(self._key, message))
            raise EngineError(message) from None
        self._report(state="ready", start_s=time.time() - began, settings=self._engine.settings())
        threading.Thread(target=self._keep_reporting, name="report", daemon=True).start()

    async def _start(self) -> Engine:
        config = self._job.config
        if config.llm_engine == "echo":
            return EchoEngine(config.engine_kwargs, load_decoder(self._job.prompt))
        kwargs = config.engine_kwargs
        model = await asyncio.to_thread(
            download_model, config.model_id, os.environ.get("HF_TOKEN"),
            revision=kwargs.get("revision"), load_format=kwargs.get("load_format") or "auto",
        )
        return VLLMEngine(model, kwargs, config.accelerator_type, config.dynamic_lora_loading_path)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The answers of one block, in the block's order (a retry must give the same rows in the same places)."""
        rows = table.select(output.STAGE_SCHEMA.names).to_pylist()
        answers = asyncio.run_coroutine_threadsafe(self._answer_all(rows), self._loop).result()
        self._report()
        return output.with_answers(table, answers)

    async def _answer_all(self, rows: list[dict[str, Any]]) -> list[Answer]:
        return list(await asyncio.gather(*(self._counted(row) for row in rows)))

    async def _counted(self, row: dict[str, Any]) -> Answer:
        answer = await self._answer(row)
        self._counts["rows"] += 1
        self._counts["failed"] += answer.error is not None
        self._counts["input_tokens"] += answer.num_input_tokens
        self._counts["output_tokens"] += answer.num_generated_tokens
        return answer

    async def _answer(self, row: dict[str, Any]) -> Answer:
        ids = row[output.TOKEN_IDS]
        answer = Answer(num_input_tokens=len(ids or ()), error=row[output.STAGE_ERROR])
        if answer.error is not None:
            return answer
        if len(ids) >= self._engine.max_model_len:
            answer.error = (
                f"tokenize: the prompt has {len(ids)} tokens, but max_model_len is {self._engine.max_model_len} "
                "(prompt and answer together); shorten the row or raise max_model_len"
            )
            return answer
        request = json.loads(row[output.REQUEST]) if row[output.REQUEST] else {}
        if own := request.get("sampling_params"):
            try:
                check_sampling_params(own, "this row's sampling_params")
            except WorkloadError as error:
                answer.error = f"sampling_params: {error}"
                return answer
        self._begin()
        try:
            done = await self._engine.generate(
                ids, {**self._job.sampling_params, **request.get("sampling_params", {})}, request.get("model")
            )
        except EngineDied as error:
            self._die(str(error))
        except Exception as error:
            answer.error = f"engine: {type(error).__name__}: {error}"
        else:
            answer.generated_text, answer.num_generated_tokens = done.text, done.num_generated_tokens
            answer.finish_reason = done.finish_reason
        finally:
            self._end()
        return answer

    def _begin(self) -> None:
        if self._in_flight == 0:
            self._busy_since = time.time()
        self._in_flight += 1

    def _end(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._busy_s += time.time() - self._busy_since

    def _die(self, reason: str) -> None:
        # A dead engine in a living actor would get the retries too. Without this process, Ray starts a new one.
        import ray

        try:
            ray.get(self._monitor.died.remote(self._key, f"{reason}\n{last_words(self._log)}".rstrip()), timeout=10)
        finally:
            os._exit(1)

    def _report(self, **values: Any) -> None:
        busy = self._busy_s + (time.time() - self._busy_since if self._in_flight else 0.0)
        self._monitor.update.remote(self._key, {**self._counts, "engine_s": busy, **values})

    def _keep_reporting(self) -> None:
        while True:
            time.sleep(REPORT_EVERY_S)
            self._report(in_flight=self._in_flight, **self._engine.load())


def _set_environment(env_vars: dict[str, str], config: EngineConfig) -> None:
    """The engine's environment, before vLLM is imported. Ray's own OMP_NUM_THREADS follows the CPUs asked for, which
    here is no measure of the work, so it is taken out unless the config sets it."""
    if "OMP_NUM_THREADS" not in env_vars:
        os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.update(env_vars)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if config.accelerator_type == "CPU":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; unset, vLLM reserves a share of the whole host


def _own_log_file(run_id: str, key: str) -> Optional[str]:
    """Send this process's output, and that of the engine it starts, to a file of its own beside Ray's logs.

    Ray echoes each worker's output to the driver, which for vLLM is hundreds of lines a replica.
    """
    try:
        worker_log = os.readlink("/proc/self/fd/1")  # Ray has sent it to a file in the session's logs
    except OSError:
        return None
    if not os.path.isfile(worker_log):
        return None
    path = os.path.join(os.path.dirname(worker_log), f"rayllm_batch-{run_id}-{key}.log")
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    return path


def last_words(log: Optional[str], most: int = LAST_WORDS_LINES) -> str:
    """The end of a replica's log: what the engine said before it failed."""
    if not log or not os.path.exists(log):
        return ""
    sys.stdout.flush()
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip() for line in file.readlines()[-400:]]
    causes = [line for line in lines if "ERROR" in line or "Error" in line]
    return "\n".join((causes or lines)[-most:])
