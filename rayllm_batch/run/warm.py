"""Engines that outlive the call that started them: preview() and estimate() start them, the run that follows uses them.

Ray Data ends its actors with each execution. So these engines live in actors of their own, one a replica, and the run's
Ray Data actors only pass blocks on to them.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.cluster import placement, resources
from rayllm_batch.config import EngineConfig
from rayllm_batch.data import columns
from rayllm_batch.errors import EngineError
from rayllm_batch.output import run_columns
from rayllm_batch.report.estimate import Sample, copies
from rayllm_batch.show.thumbnail import Thumbnail
from rayllm_batch.workers.parse_answer import parse_answers
from rayllm_batch.workers.prompts import build_prompts
from rayllm_batch.workers.replica import BlockNames, Replica, ReplicaJob
from rayllm_batch.workers.tokenizer import decode
from rayllm_batch.workers.trial import Trial

KEEP_S = 600.0  # a GPU that waits for its owner's next step, but not overnight
RETRY_S = 1.0
CONTROL_THREADS = 2  # beside the blocks: adopt, and a preview

_kept: Optional[WarmEngines] = None
_timer: Optional[threading.Timer] = None
_lock = threading.Lock()


class Host:
    """A Ray actor with one replica in it, which takes part in one run after the other.

    It has a Replica rather than being one: Ray makes an asynchronous actor of any class with a coroutine, and runs its
    other methods one after the other.
    """

    def __init__(self, job: ReplicaJob) -> None:
        self._adopting = threading.Lock()
        self._replica = Replica(job)

    def adopt(self, run_id: str) -> None:
        """Take part in that run, which the monitor knows."""
        with self._adopting:
            self._replica.adopt(run_id)

    def answer(self, run_id: str, table: pa.Table, block: str) -> pa.Table:
        self.adopt(run_id)
        return self._replica(table, block)

    def preview(self, run_id: str, table: pa.Table) -> list[dict[str, Any]]:
        """The answers, without the rows' own columns, and `prompt`: all that the model sees; None of a rollout."""
        self.adopt(run_id)
        job = self._replica.job.prompt
        prompts = build_prompts(table, job)
        answered = self._replica(prompts)
        if self._replica.ended:
            raise EngineError(self._replica.ended)
        if (parse := self._replica.job.parse_answer) is not None:
            answered = parse_answers(answered, parse, job.task)
        own = [name for name in answered.column_names if name not in prompts.column_names]
        rows = columns.rows(answered.select(own))
        for row, prompt in zip(rows, run_columns.stage_rows(prompts), strict=True):
            ids = prompt[run_columns.TOKEN_IDS]
            if media := run_columns.media_of(prompt)[0]:
                row["media"] = list(map(Thumbnail.of, media))
            row["prompt"] = None if job.rollouts else ""
            if job.as_text and not job.rollouts:
                row["prompt"] = _as_sent(prompt[run_columns.MESSAGES], ids)
            elif ids is not None:
                lengths = job.task.lengths_of_prompts(prompt[run_columns.REQUEST], len(ids))
                row["prompt"] = "\n".join(decode(its.tolist(), job) for its in np.split(ids, np.cumsum(lengths[:-1])))
        return rows

    def sample(self, run_id: str, table: pa.Table, rows_each: float) -> tuple[Sample, int, float]:
        """The rows tried for an estimate of a job of `rows_each` rows a replica; max_num_seqs; seconds of the start."""
        self.adopt(run_id)
        job = self._replica.job.prompt
        build_prompts(table.slice(0, 1), job)  # loads the tokenizer, which a job does once
        began, cpu_began = time.perf_counter(), time.process_time()
        prompts = build_prompts(table, job)
        # What a core is needed for: the tokenizer may use several at once, and a parse_row may wait for something.
        prepare_s = max(time.perf_counter() - began, time.process_time() - cpu_began) / table.num_rows
        requests, failed = self._replica.requests(prompts)
        settings = self._replica.engine.settings()
        at_once = max(1, settings["max_num_seqs"] // job.seats)  # rows
        if job.as_text:  # each try may cost money, and what reading prompts takes is the server's affair
            whole, prefill = self._replica.try_out(requests, 1), Trial(0.0, [])
            lengths = whole.input_tokens
        else:
            many = copies(len(requests) or 1, rows_each, at_once)
            prefill = self._replica.try_out(requests, many, reading_only=True)
            whole = prefill if job.task.pools else self._replica.try_out(requests, many)
            lengths = [request.num_input_tokens for request in requests]
        sample = Sample(lengths, failed + whole.errors[: len(requests)], prepare_s, prefill, whole)
        return sample, settings["max_num_seqs"], self._replica.start_s


def _as_sent(prompt: Optional[str], ids: Any) -> str:
    """What an engine that tokenizes is sent; what its model sees is not known. prompt: messages or a text, as JSON."""
    if prompt is None:
        return "" if ids is None else f"token ids {', '.join(map(str, ids))}"
    its = json.loads(prompt)
    if isinstance(its, str):
        return its
    more = ({key: value for key, value in message.items() if key not in ("role", "content")} for message in its)
    parts = (message["content"] for message in its)
    texts = (one if isinstance(one, str) else " ".join(p.get("text", f"<{p['type']}>") for p in one) for one in parts)
    said = (f"{message['role']}: {text}" for message, text in zip(its, texts, strict=True))
    return "\n".join(
        f"{text}{' ' + json.dumps(other) if other else ''}" for text, other in zip(said, more, strict=True)
    )


class Relay:
    """Ray Data's actor of a replica whose engine is running already: it passes blocks on to that."""

    def __init__(self, job: ReplicaJob) -> None:
        import ray

        self._run_id, self._blocks = job.run_id, BlockNames()
        self._host = ray.get(job.monitor.host.remote(ray.get_runtime_context().get_actor_id()))

    def __call__(self, table: pa.Table) -> pa.Table:
        return ask(self._host, "answer", self._run_id, table, self._blocks.next())


def ask(host: Any, method: str, *arguments: Any) -> Any:
    """What the method of a Host returns, also where its process dies meanwhile, whose rows are then run again."""
    import ray

    while True:
        try:
            return ray.get(getattr(host, method).remote(*arguments))
        except ray.exceptions.ActorUnavailableError:  # it died, and Ray is starting it again
            time.sleep(RETRY_S)


@dataclass(frozen=True)
class WarmEngines:
    """Running, or on their way. blocks_in_flight: how many blocks each takes at once. ray_job: the connection to Ray.

    first_job: what they were started with; Ray starts one again with it, and lets go of what nobody refers to.
    """

    config: EngineConfig
    blocks_in_flight: int
    monitor: Any
    hosts: list[Any]
    ray_job: str
    first_job: Any = None
    groups: tuple[Any, ...] = ()  # see ReplicaJob

    def fit(self, config: EngineConfig, num_replicas: int, blocks_in_flight: int) -> bool:
        """Whether a run with these settings can use them."""
        import ray

        if self.config != config or len(self.hosts) != num_replicas or self.blocks_in_flight < blocks_in_flight:
            return False
        try:
            return self.ray_job == _ray_job() and bool(ray.get(self.monitor.snapshot.remote(), timeout=10))
        except Exception:  # its node is gone
            return False

    def begin(self, job: ReplicaJob) -> None:
        """Their next run. They answer no block of it before they know it."""
        import ray

        ray.get(self.monitor.begin.remote([ray.put(job)], self.hosts))
        for host in self.hosts:
            host.adopt.remote(job.run_id)

    def end(self) -> None:
        import ray

        for actor in (*self.hosts, self.monitor):
            try:
                ray.kill(actor)
            except Exception:  # of a Ray that is gone
                pass
        placement.release(self.groups)


def start(config: EngineConfig, job: ReplicaJob, num_replicas: int, blocks_in_flight: int) -> WarmEngines:
    """Starts them, and does not wait until they are ready."""
    import ray

    host, share = ray.remote(Host), resources.replica_resources(config, num_replicas)
    share |= {"max_restarts": -1, "max_concurrency": blocks_in_flight + CONTROL_THREADS}
    first_job = ray.put(job)
    place = placement.in_turn(job.groups) if job.groups else dict[str, Any]
    hosts = [host.options(**share, **place()).remote(first_job) for _ in range(num_replicas)]
    return WarmEngines(config, blocks_in_flight, job.monitor, hosts, _ray_job(), first_job, job.groups)


def keep(engines: WarmEngines) -> None:
    """For the next call, or for KEEP_S seconds."""
    global _kept, _timer  # noqa: PLW0603 (a process has one set of GPUs, whatever number of RayLLMBatch objects)
    with _lock:
        _kept, _timer = engines, threading.Timer(KEEP_S, release)
        _timer.daemon = True
        _timer.start()


def take(config: EngineConfig, num_replicas: int, blocks_in_flight: int) -> Optional[WarmEngines]:
    """Those that were kept, now the caller's. If they do not fit they are ended: those that do need the GPUs."""
    engines = _let_go()
    if engines is None or engines.fit(config, num_replicas, blocks_in_flight):
        return engines
    engines.end()
    return None


def release() -> None:
    """End the engines that are kept, if there are any."""
    if engines := _let_go():
        engines.end()


def _let_go() -> Optional[WarmEngines]:
    global _kept, _timer  # noqa: PLW0603
    with _lock:
        engines, _kept = _kept, None
        if _timer is not None:
            _timer.cancel()
            _timer = None
    return engines


def _ray_job() -> str:
    import ray

    return ray.get_runtime_context().get_job_id() if ray.is_initialized() else ""
