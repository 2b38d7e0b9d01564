"""The engine stage: one Ray Data actor a replica, many blocks in flight at once through one engine."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch import back_off, gpu, output, sampling
from rayllm_batch.config import EngineConfig
from rayllm_batch.duplicates import Duplicates, is_greedy
from rayllm_batch.engine.base import BadRequest, Completion, Engine, EngineDidNotStart, EngineDied
from rayllm_batch.engine.echo import EchoEngine
from rayllm_batch.engine.forkserver import DID_NOT_SURVIVE, Forkserver
from rayllm_batch.engine.reaper import Reaper
from rayllm_batch.engine.vllm import VLLMEngine
from rayllm_batch.engine_logs import RAYS_OWN_MARKS
from rayllm_batch.errors import EngineError, RayLLMBatchError, one_line
from rayllm_batch.gpu_lock import gpu_to_itself
from rayllm_batch.model_files import download_model
from rayllm_batch.output import Answer
from rayllm_batch.prompt import PromptJob
from rayllm_batch.row_stats import RowStats, counts_of
from rayllm_batch.snapshot import ReplicaState
from rayllm_batch.structured import cut_short
from rayllm_batch.suspects import Gate, guilty_error, prompt_key
from rayllm_batch.tokenizer import beyond_vocabulary, load_decoder
from rayllm_batch.trial import Request, Trial, run_trial

REPORT_EVERY_S = 1.0
REQUESTS_RATIO = 2  # requests that the engine has, over max_num_seqs: what it computes, and as many that wait for a place
DELIVERED_WITHIN_S = 10.0  # the monitor's answer; a count is no reason to hold a block back for longer
LAST_WORDS_LINES = 25
DEAF = "the engine's process lives, but does not read its requests any more: one of them has ended the thread that does"
MOST_UNCHANGED_STARTS = 3  # while other processes on the GPU end


@dataclass(frozen=True)
class ReplicaJob:
    """What every replica gets.

    config:          without its environment, which may hold secrets: the monitor has it.
    sampling_params: the workload's; a row's own go over them.
    prompt:          the CPU stage's job (the echo engine needs its tokenizer).
    monitor:         the RunMonitor's handle.
    deduplicate:     equal prompts with equal settings are computed once, where the answer is the same each time.
    pinned:          engine settings that the user has set; the config may have others, which were chosen.
    """

    run_id: str
    config: EngineConfig
    sampling_params: dict[str, Any]
    prompt: PromptJob
    monitor: Any
    deduplicate: bool = True
    pinned: frozenset[str] = frozenset()


class BlockNames:
    """Names of the blocks that Ray's tasks bring: the same one when Ray runs the task again, be it in another process."""

    def __init__(self) -> None:
        self._latest = threading.local()  # Ray gives each of the tasks that run at once a thread

    def next(self) -> str:
        """A task may bring several, one after the other."""
        import ray

        task, latest = ray.get_runtime_context().get_task_id(), self._latest
        latest.number = latest.number + 1 if getattr(latest, "task", None) == task else 0
        latest.task = task
        return f"{task}-{latest.number}"


class BadRow(Exception):
    """A row that cannot reach the engine; its text is the row's error."""


class Replica:
    """Ray Data builds one in each actor of the pool and calls it with blocks, from several threads at once."""

    def __init__(self, job: ReplicaJob) -> None:
        import ray

        self._key = uuid.uuid4().hex[:8]
        self._log = _own_log_file(job.run_id, self._key)
        self._reporting, self._blocks = threading.Lock(), BlockNames()
        self._reaper = Reaper()
        self._join(job)
        _set_environment(ray.get(self._monitor.environment.remote()), job.config)
        self._forkserver = Forkserver.start(job.config)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True).start()
        began = time.time()
        self._engine: Optional[Engine] = None
        self._less: dict[str, Any] = {}  # engine settings, changed after there was too little memory
        self._steps: list[str] = []
        threading.Thread(target=self._keep_reporting, name="report", daemon=True).start()
        try:
            self._engine = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException as error:
            kind, message = "EngineError", f"The engine did not start: {error}\n{last_words(self._log)}".rstrip()
            if isinstance(error, RayLLMBatchError):  # it says all there is to say
                kind, message = type(error).__name__, str(error)
            ray.get(self._monitor.failed.remote(kind, message, self._key))
            raise EngineError(message) from None
        self.start_s = time.time() - began
        # Further rows stay what they are in their block, 4 bytes a token: as a request of the engine they take ten times that.
        self._room = asyncio.Semaphore(REQUESTS_RATIO * self.settings["max_num_seqs"])
        self._report_ready(self.start_s)

    def _join(self, job: ReplicaJob, kept: bool = False) -> None:
        """Take part in a run. Everything here belongs to the run; the engine and its log belong to this process.

        kept: the engine is running already.
        """
        import ray

        context = ray.get_runtime_context()
        state = ReplicaState(actor_id=context.get_actor_id(), log=self._log, kept=kept)
        state.node, state.pid, state.reaper_pid = ray.util.get_node_ip_address(), os.getpid(), self._reaper.pid
        told = ray.get(job.monitor.register.remote(self._key, context.current_actor, state.plain()))
        if told["stop"]:
            raise EngineError(told["stop"])
        # A later run may have taken over the actor that this process was started again for.
        self._job, self._monitor = (ray.get(told["job"][0]) if told["job"] else job), job.monitor
        self._guilty: dict[bytes, str] = told["guilty"]
        self._gate = Gate(told["suspects"]) if told["suspects"] else None
        self._in_engine: dict[int, tuple[list[int], Optional[str]]] = {}  # oldest first
        self._numbers = itertools.count()
        self._duplicates = Duplicates()
        self._state = state
        self._busy_since, self._busy_s = 0.0, 0.0

    def adopt(self, run_id: str) -> None:
        """Take part in that run, which the monitor has begun, with the engine as it is."""
        if self._job.run_id != run_id:
            self._join(self._job, kept=True)
            self._report_ready(0.0)

    @property
    def prompt_job(self) -> PromptJob:
        return self._job.prompt

    @property
    def settings(self) -> dict[str, Any]:
        return self._engine.settings()

    def try_out(self, requests: list[Request], copies: int, max_tokens: Optional[int] = None) -> Trial:
        """Time these requests, and nothing beside them."""
        try:
            return asyncio.run_coroutine_threadsafe(run_trial(self._engine, requests, copies, max_tokens), self._loop).result()
        except EngineDied as error:
            if back_off.OUT_OF_MEMORY.search(f"{error}\n{last_words(self._log)}"):
                self._die(str(error))  # to be started again with less
            message = f"The engine died. Its last words:\n{error}\n{last_words(self._log)}".rstrip()
            raise EngineError(message) from None

    def requests(self, prompts: pa.Table) -> tuple[list[Request], list[str]]:
        """Of the CPU stage's rows, those that reach the engine, and the errors of the others."""
        requests, failed = [], []
        for row in output.stage_rows(prompts):
            try:
                requests.append(self._request(row))
            except BadRow as error:
                failed.append(str(error))
        return requests, failed

    async def _start(self) -> Engine:
        config, kwargs, model = self._job.config, self._job.config.engine_kwargs, ""
        if config.llm_engine == "vllm":
            self._state.state = "downloading"
            self._report()
            model = await asyncio.to_thread(
                download_model, config.model_id, os.environ.get("HF_TOKEN"),
                revision=kwargs.get("revision"), load_format=kwargs.get("load_format") or "auto",
            )
            self._state.state = "starting"
            self._report()
        with await asyncio.to_thread(gpu_to_itself) if config.engines_per_replica > 1 else nullcontext():
            unchanged = 0
            while True:
                began_at = _size(self._log)
                try:
                    return self._build(model)
                except EngineDidNotStart as error:
                    words = f"{error}\n{_log_from(self._log, began_at)}"
                    if self._forkserver is not None and self._forkserver.serves and DID_NOT_SURVIVE in words:
                        self._forkserver.serves = False
                    elif back_off.CHANGED_WHILE_MEASURED in words and unchanged < MOST_UNCHANGED_STARTS:
                        unchanged += 1
                        await asyncio.to_thread(self._reaper.end_others)
                    elif not await asyncio.to_thread(self._back_off, words, error.settings):
                        if self._memory_matters() and back_off.is_about_memory(words):
                            raise EngineError(self._does_not_fit(words)) from None
                        raise

    def _build(self, model: str) -> Engine:
        import ray

        config = self._job.config
        for name, value in ray.get(self._monitor.lowered.remote()).items():  # by others, perhaps on this GPU
            self._less[name] = min(value, self._less.get(name, value))
        kwargs = {name: value for name, value in config.engine_kwargs.items() if value is not None}
        if (share := config.memory_share) is not None:
            kwargs["gpu_memory_utilization"] = share
        kwargs.update(self._less)
        if config.llm_engine == "echo":
            return EchoEngine(kwargs, load_decoder(self._job.prompt))
        return VLLMEngine(model, kwargs, config.accelerator_type, config.dynamic_lora_loading_path, self._forkserver)

    def _back_off(self, words: str, settings: dict[str, Any], *, was_running: bool = False) -> bool:
        """Whether there is something to lower; the engine that starts next has it lowered."""
        import ray

        pinned = self._job.pinned
        if self._job.config.engine_kwargs.get("enable_chunked_prefill") is False:
            pinned |= {"max_num_batched_tokens"}  # which must then hold the longest prompt
        step = back_off.next_step(words, settings, pinned, self._less, was_running=was_running)
        if step is None or not self._memory_matters():
            return False
        self._less[step.name] = step.after
        self._steps.append(str(step))
        shared = () if step.only_here else (step.name, step.after)
        ray.get(self._monitor.backs_off.remote(str(step), *shared), timeout=10)
        if not was_running:
            self._reaper.end_others()  # the engine that failed may still hold its memory
        return True

    def _memory_matters(self) -> bool:
        """Not on a CPU: there the cache has a size of its own, and what there is besides is not measured."""
        return self._job.config.llm_engine == "echo" or bool(self._job.config.gpus_per_replica)

    def _does_not_fit(self, words: str) -> str:
        config = self._job.config
        held = {name: config.engine_kwargs[name] for name in self._job.pinned if name in config.engine_kwargs}
        why = back_off.does_not_fit(config.model_id, words, gpu.memory(), self._steps, held)
        return f"{why} The engine's last words:\n{last_words(self._log)}".rstrip()

    def __call__(self, table: pa.Table, block: Optional[str] = None) -> pa.Table:
        """The answers of one block, in the block's order (a retry must give the same rows in the same places).

        block: names it, in place of the Ray task that brings it.
        """
        block = block or self._blocks.next()
        rows = output.stage_rows(table)
        if output.FINISHED_IDS in table.column_names:
            for row, finished in zip(rows, table.column(output.FINISHED_IDS).is_valid(), strict=True):
                row["finished"] = finished.as_py()
        done = asyncio.run_coroutine_threadsafe(self._answer_all(rows), self._loop).result()
        self._deliver(block, done)
        return output.with_answers(table, [answer for answer, _ in done])

    def _deliver(self, block: str, done: list[tuple[Answer, Optional[float]]]) -> None:
        """The block is handed on next. The monitor knows first, so that it has every row when the driver sees the last one."""
        import ray

        row_stats = RowStats()
        for answer, seconds in done:
            if seconds is not None:
                row_stats.add(answer, seconds)
        self._report()
        ray.wait([self._monitor.delivers.remote(self._key, block, row_stats.plain())], timeout=DELIVERED_WITHIN_S)

    async def _answer_all(self, rows: list[dict[str, Any]]) -> list[tuple[Answer, Optional[float]]]:
        return list(await asyncio.gather(*(self._counted(row) for row in rows)))

    async def _counted(self, row: dict[str, Any]) -> tuple[Answer, Optional[float]]:
        """The answer, and the seconds that it took; None for what is no row but the marker of some that need no answer."""
        if row.get("finished"):
            return Answer(), None
        async with self._room:
            began = time.monotonic()
            answer = await self._answer(row)
        self._state.add(counts_of(answer))
        return answer, time.monotonic() - began

    def _request(self, row: dict[str, Any]) -> Request:
        """What the engine gets for a row. Raises BadRow, which has the row's error, where it can get nothing."""
        ids = row[output.TOKEN_IDS]
        if row[output.STAGE_ERROR] is not None:
            raise BadRow(row[output.STAGE_ERROR])
        if len(ids) >= self._engine.max_model_len:
            raise BadRow(
                f"tokenize: the prompt has {len(ids)} tokens, but max_model_len is {self._engine.max_model_len} "
                f"(prompt and answer together); shorten the row or {self._longer()}"
            )
        if problem := beyond_vocabulary(ids, self._engine.vocab_size):  # vLLM takes some of these, and dies
            raise BadRow(problem)
        request = json.loads(row[output.REQUEST]) if row[output.REQUEST] else {}
        own = sampling.settings(request.get("sampling_params"), "")  # JSON has made texts of token ids
        return Request(ids.tolist(), {**self._job.sampling_params, **own}, request.get("model"))

    def _longer(self) -> str:
        """What allows longer prompts."""
        if self._job.config.engine_kwargs.get("max_model_len") is None and self._job.config.gpus_per_replica:
            return "use a model for longer ones, or, if its KV cache is the limit, a higher tensor_parallel_size or a larger GPU"
        return "raise max_model_len"

    async def _answer(self, row: dict[str, Any]) -> Answer:
        answer = Answer(num_input_tokens=0 if row[output.TOKEN_IDS] is None else len(row[output.TOKEN_IDS]))
        try:
            request = self._request(row)
        except BadRow as error:
            answer.error = str(error)
            return answer
        once = self._job.deduplicate and is_greedy(request.sampling_params)
        key = prompt_key(request.token_ids, row[output.REQUEST]) if once or self._guilty or self._gate else b""
        if key in self._guilty:
            answer.error = guilty_error(self._guilty[key])
            return answer
        suspect = self._gate is not None and await self._gate.enter(key)
        try:
            generate = partial(self._generate, request, row[output.REQUEST])
            done = await (self._duplicates.answer(key, generate) if once else generate())
        except BadRequest as error:
            answer.error = f"engine: {one_line(error, named=False)}"
        except Exception as error:
            answer.error = f"engine: {one_line(error)}"
        else:
            if done.finish_reason == "length" and (cut := cut_short(request.sampling_params.get("structured_outputs"), done.text)):
                answer.error = f"engine: {cut} (it has {done.num_generated_tokens} tokens)"
            else:
                answer.generated_text, answer.num_generated_tokens = done.text, done.num_generated_tokens
                answer.finish_reason = done.finish_reason
        if self._gate is not None:
            await self._gate.leave(suspect)
        return answer

    async def _generate(self, request: Request, own_settings: Optional[str]) -> Completion:
        number = self._begin(request.token_ids, own_settings)
        try:
            return await self._engine.generate(request.token_ids, request.sampling_params, request.model)
        except EngineDied as error:
            self._die(str(error))
            raise
        finally:
            self._end(number)

    def _begin(self, ids: list[int], request: Optional[str]) -> int:
        if not self._in_engine:
            self._busy_since = time.time()
        number = next(self._numbers)
        self._in_engine[number] = (ids, request)
        return number

    def _end(self, number: int) -> None:
        del self._in_engine[number]
        if not self._in_engine:
            self._busy_s += time.time() - self._busy_since

    def _die(self, reason: str) -> None:
        # A dead engine in a living actor would get the retries too. Without this process, Ray starts a new one.
        import ray

        try:
            # The engine computes the oldest; those behind wait in its queue, and can have done nothing to it.
            most = self._engine.settings().get("max_num_seqs") or len(self._in_engine)
            computing = [prompt_key(ids, request) for ids, request in itertools.islice(self._in_engine.values(), most)]
            message = f"{reason}\n{last_words(self._log)}".rstrip()
            last = self._state.plain()
            if (
                back_off.OUT_OF_MEMORY.search(message)
                and ray.get(self._monitor.may_back_off.remote(self._key, last, message), timeout=10)
                and self._back_off(message, self._engine.limits(), was_running=True)
            ):
                return
            ray.get(self._monitor.died.remote(self._key, last, computing, message), timeout=10)
        finally:
            os._exit(1)

    def _report_ready(self, start_s: float) -> None:
        self._state.settings, self._state.start_s, self._state.state = self.settings, start_s, "ready"
        self._report()

    def _report(self) -> None:
        with self._reporting:  # several threads report: what was counted later is told later
            self._state.busy_s = self._busy_s + (time.time() - self._busy_since if self._in_engine else 0.0)
            self._monitor.update.remote(self._key, self._state.plain())

    def _keep_reporting(self) -> None:
        while True:
            time.sleep(REPORT_EVERY_S)
            state, load = self._state, self._engine.load() if self._engine is not None else {}
            state.running, state.waiting = load.get("running", 0.0), load.get("waiting", 0.0)
            state.steps, state.kv_cache_usage = load.get("steps", 0), load.get("kv_cache_usage")
            state.gpu_utilization = gpu.utilization() if self._job.config.gpus_per_replica else None
            state.in_flight, state.log_bytes = len(self._in_engine), _size(self._log)
            self._report()
            if self._engine is not None and self._engine.is_deaf():
                self._loop.call_soon_threadsafe(self._die, DEAF)


def _set_environment(env_vars: dict[str, str], config: EngineConfig) -> None:
    """The engine's environment, before vLLM is imported. Ray's own OMP_NUM_THREADS follows the CPUs asked for, which
    here is no measure of the work, so it is taken out unless the config sets it."""
    if "OMP_NUM_THREADS" not in env_vars:
        os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.update(env_vars)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if config.accelerator_type == "CPU":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; unset, vLLM reserves a share of the whole host


def _size(path: Optional[str]) -> int:
    try:
        return os.path.getsize(path) if path else 0
    except OSError:
        return 0


def _log_from(log: Optional[str], begin: int) -> str:
    if not log:
        return ""
    sys.stdout.flush()
    with open(log, "rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace")


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
    lines = [line for line in lines if not line.startswith(RAYS_OWN_MARKS)]
    causes = [line for line in lines if "ERROR" in line or "Error" in line]
    return "\n".join((causes or lines)[-most:])
