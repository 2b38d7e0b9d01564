"""The engine stage: one Ray Data actor a replica, many blocks in flight at once through one engine."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.config import EngineConfig
from rayllm_batch.data import columns
from rayllm_batch.engine import back_off
from rayllm_batch.engine.base import Engine, EngineDied, EngineUnavailable, Request
from rayllm_batch.engine.reaper import Reaper
from rayllm_batch.errors import EngineError, RayLLMBatchError
from rayllm_batch.measures.row_stats import RowStats, counts_of
from rayllm_batch.measures.snapshot import ReplicaState
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.base import Answer
from rayllm_batch.workers import gpu
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.engine_start import EngineStart
from rayllm_batch.workers.monitor_client import MonitorClient
from rayllm_batch.workers.prompts import PromptJob
from rayllm_batch.workers.replica_log import ReplicaLog
from rayllm_batch.workers.trial import Trial, run_trial

REPORT_EVERY_S = 1.0
HAND_ON_S = 10.0  # for the driver to take what an ended run has answered, before it hears that it has ended
REFUSED_FOR_S = 1.0
# Requests that the engine has, over max_num_seqs: what it computes, and as many that wait for a place.
REQUESTS_RATIO = 2
DEAF = "the engine's process lives, but does not read its requests any more: one of them has ended the thread that does"


@dataclass(frozen=True)
class ReplicaJob:
    """What every replica gets.

    config:      without its environment, which may hold secrets: the monitor has it.
    prompt:      the CPU stage's job, with the task, and the settings that each row's own go over.
    monitor:     the RunMonitor's handle.
    deduplicate: equal prompts with equal settings are computed once, where the answer is the same each time.
    parse_answer: the workload's, if it has one.
    pinned:      engine settings that the user has set; the config may have others, which were chosen.
    groups:      Ray's placement groups, one a replica, where engines span nodes.
    """

    run_id: str
    config: EngineConfig
    prompt: PromptJob
    monitor: Any
    deduplicate: bool = True
    parse_answer: Any = None
    pinned: frozenset[str] = frozenset()
    groups: tuple[Any, ...] = ()


class BlockNames:
    """Of the blocks that Ray's tasks bring: the same when Ray runs the task again, be it in another process."""

    def __init__(self) -> None:
        self._latest = threading.local()  # Ray gives each of the tasks that run at once a thread

    def next(self) -> str:
        """A task may bring several, one after the other."""
        import ray

        task, latest = ray.get_runtime_context().get_task_id(), self._latest
        latest.number = latest.number + 1 if getattr(latest, "task", None) == task else 0
        latest.task = task
        return f"{task}-{latest.number}"


class ReplicaProcess:
    """What a replica has of its process: a name, a log, its place, and what ends the engine's processes after it."""

    def __init__(self, run_id: str) -> None:
        self.key = uuid.uuid4().hex[:8]
        self.log = ReplicaLog.begin(run_id, self.key)
        self.reaper: Any = Reaper()
        self.blocks = BlockNames()

    def monitor(self, handle: Any) -> MonitorClient:
        return MonitorClient(handle, self.key)

    def state(self, kept: bool) -> ReplicaState:
        """As it begins. kept: its engine is running already."""
        import ray

        return ReplicaState(
            actor_id=ray.get_runtime_context().get_actor_id(),
            node=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            reaper_pid=self.reaper.pid,
            log=self.log.path,
            kept=kept,
        )

    def end(self) -> None:
        """A dead engine in a living actor would get the retries too. Without this process, Ray starts a new one."""
        os._exit(1)


class Replica:
    """Ray Data builds one in each actor of the pool and calls it with blocks, from several threads at once."""

    def __init__(self, job: ReplicaJob, process: Optional[ReplicaProcess] = None) -> None:
        self._process = process or ReplicaProcess(job.run_id)
        self._log, self._reporting = self._process.log, threading.Lock()
        self._blocks, self._counting = 0, threading.Lock()  # blocks in here
        self._handed_on_at = 0.0
        # An Engine and an Answering, once it has started.
        self.engine: Any = None
        self._answering: Any = None
        self._join(job)
        _set_environment(self._monitor.environment(), self.job.config)
        self._starting = EngineStart(self.job, self._process, self._monitor)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True).start()
        began = time.time()
        threading.Thread(target=self._keep_reporting, name="report", daemon=True).start()
        try:
            self.engine = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException as error:
            kind, message = "EngineError", self._log.with_last_words(f"The engine did not start: {error}")
            if isinstance(error, RayLLMBatchError):  # it says all there is to say
                kind, message = type(error).__name__, str(error)
            self._monitor.failed(kind, message)
            raise EngineError(message) from None
        # What is loaded by now stays. Looked through again for each some thousand rows, it took more than half of the
        # CPU time of an answer of a fast model.
        gc.collect()
        gc.freeze()
        self.start_s = time.time() - began
        self._be_ready(self.start_s)

    def _join(self, job: ReplicaJob, kept: bool = False) -> None:
        """Take part in a run. Everything here belongs to the run; the engine and its log belong to this process."""
        self._monitor = self._process.monitor(job.monitor)
        self._state = self._process.state(kept)
        self._told = self._monitor.register(self._state)
        if self._told.stop:
            raise EngineError(self._told.stop)
        # A later run may have taken over the actor that this process was started again for.
        self.job: ReplicaJob = self._told.job or job

    def _be_ready(self, start_s: float) -> None:
        """start_s: seconds that the engine took to start, of this run's."""
        # Further rows stay in their block, 4 bytes a token: as a request of the engine they take ten times that.
        room = REQUESTS_RATIO * self.engine.settings()["max_num_seqs"] // self.job.prompt.seats
        self._room = asyncio.Semaphore(max(1, room))
        if self._answering is not None:  # of the run before, with the same engine
            self._loop.call_soon_threadsafe(self._answering.end)
        self._answering = Answering(self.engine, self.job, self._told, self._die)
        self._state.settings, self._state.start_s, self._state.state = self.engine.settings(), start_s, "ready"
        self._report()

    def adopt(self, run_id: str) -> None:
        """Take part in that run, which the monitor has begun, with the engine as it is."""
        if self.job.run_id != run_id:
            self._join(self.job, kept=True)
            self._be_ready(0.0)

    def try_out(self, requests: list[Request], copies: int, *, reading_only: bool = False) -> Trial:
        """Time these requests, and nothing beside them. reading_only: with as little asked for each as can be."""
        if reading_only:
            requests = [self.job.prompt.task.reading_only(request) for request in requests]
        try:
            return asyncio.run_coroutine_threadsafe(run_trial(self.engine, requests, copies), self._loop).result()
        except EngineUnavailable as error:
            raise EngineError(str(error)) from None
        except EngineDied as error:
            message = self._log.with_last_words(f"The engine died. Its last words:\n{error}")
            if back_off.OUT_OF_MEMORY.search(message):
                self._die(str(error))  # to be started again with less
            raise EngineError(message) from None

    def requests(self, prompts: pa.Table) -> tuple[list[Request], list[str]]:
        """Of the CPU stage's rows, those that reach the engine, and the errors of the others."""
        found = [self._answering.request(row) for row in run_columns.stage_rows(prompts)]
        return [one for one in found if isinstance(one, Request)], [one for one in found if isinstance(one, str)]

    async def _start(self) -> Engine:
        model = self.job.config.model_id
        if self.job.config.engine_kind.needs_model:
            self._state.state = "downloading"
            self._report()
            model = await self._starting.download()
            self._state.state = "starting"
            self._report()
        return await self._starting.start(model)

    def __call__(self, table: pa.Table, block: Optional[str] = None) -> pa.Table:
        """The answers of one block, in the block's order (a retry must give the same rows in the same places).

        block: names it, in place of the Ray task that brings it. Of a run that ends since nothing is answered any more,
        the answered rows alone, and of blocks that come after it none; see _refused.
        """
        block = block or self._process.blocks.next()
        if self._answering.ended:
            return self._refused(table)
        with self._counting:
            self._blocks += 1
        try:
            return self._answered(table, block)
        finally:
            with self._counting:
                self._blocks -= 1

    @property
    def ended(self) -> Optional[str]:
        """Why the run ends before all rows were asked, if it does."""
        return self._answering.ended

    def _refused(self, table: pa.Table) -> pa.Table:
        """None of the rows; after a while EngineError, which ends the run.

        At once, it would overtake blocks that have answers: Ray Data drops what it has not yet given to the driver.
        """
        while self._blocks:
            time.sleep(0.1)
        self._handed_on_at = self._handed_on_at or time.monotonic()
        if time.monotonic() - self._handed_on_at > HAND_ON_S:
            raise EngineError(self._answering.ended)
        time.sleep(REFUSED_FOR_S)
        return run_columns.with_answers(table.slice(0, 0), [], self.job.prompt.task)

    def _answered(self, table: pa.Table, block: str) -> pa.Table:
        rows = run_columns.stage_rows(table)
        if run_columns.FINISHED_IDS in table.column_names:
            for row, finished in zip(rows, table.column(run_columns.FINISHED_IDS).is_valid(), strict=True):
                row["finished"] = finished.as_py()
        if self.job.prompt.rollouts:
            own = [name for name in table.column_names if name not in run_columns.OF_THE_RUN]
            for row, values in zip(rows, columns.rows(table.select(own)), strict=True):
                row["values"] = values
        done = asyncio.run_coroutine_threadsafe(self._answer_all(rows), self._loop).result()
        stats = RowStats()
        for answer, seconds in done:
            if seconds is not None and not answer.unasked:
                stats.add(answer, seconds)
        # The monitor knows before the block is handed on: it has every row when the driver sees the last one.
        self._report()
        self._monitor.delivers(block, stats)
        asked = [answer for answer, _ in done if not answer.unasked]
        if len(asked) < len(done):
            self._monitor.ends(self._answering.ended)
            table = table.filter(pa.array([not answer.unasked for answer, _ in done]))
        return run_columns.with_answers(table, asked, self.job.prompt.task)

    async def _answer_all(self, rows: list[dict[str, Any]]) -> list[tuple[Answer, Optional[float]]]:
        return list(await asyncio.gather(*(self._counted(row) for row in rows)))

    async def _counted(self, row: dict[str, Any]) -> tuple[Answer, Optional[float]]:
        """The answer, and the seconds that it took; None for what is no row but a marker of finished ones."""
        if row.get("finished"):
            return Answer(), None
        async with self._room:
            began = time.monotonic()
            answering = self._answering
            answer = await (answering.roll(row, row["values"]) if "values" in row else answering.answer(row))
        if not answer.unasked:
            self._state.add(counts_of(answer))
        return answer, time.monotonic() - began

    def _die(self, reason: str) -> None:
        try:
            message = self._log.with_last_words(reason)
            if (
                back_off.OUT_OF_MEMORY.search(message)
                and self._monitor.may_back_off(self._state, message)
                and self._starting.lower(message, self.engine.limits(), was_running=True)
            ):
                return
            most = self.engine.settings().get("max_num_seqs") or self._answering.in_flight
            self._monitor.died(self._state, self._answering.computing(most), message)
        finally:
            self._process.end()

    def _report(self) -> None:
        with self._reporting:  # several threads report: what was counted later is told later
            self._state.busy_s = self._answering.busy_s if self._answering else 0.0
            self._monitor.update(self._state)

    def _keep_reporting(self) -> None:
        while True:
            time.sleep(REPORT_EVERY_S)
            state, engine = self._state, self.engine
            load = engine.load() if engine is not None else {}
            state.running, state.waiting = load.get("running", 0.0), load.get("waiting", 0.0)
            state.steps, state.kv_cache_usage = load.get("steps", 0), load.get("kv_cache_usage")
            state.gpu_utilization = gpu.utilization() if self.job.config.gpus_per_replica else None
            state.in_flight, state.log_bytes = self._answering.in_flight if self._answering else 0, self._log.size
            self._report()
            if engine is not None and engine.is_deaf():
                self._loop.call_soon_threadsafe(self._die, DEAF)


def _set_environment(env_vars: dict[str, str], config: EngineConfig) -> None:
    """The engine's environment, before vLLM is imported."""
    if "OMP_NUM_THREADS" not in env_vars:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own, by the CPUs asked for: here no measure of the work
    os.environ.update(env_vars)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if config.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    if config.accelerator_type == "CPU":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; unset, vLLM reserves a share of the whole host
